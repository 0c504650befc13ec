"""The leak audit of a finished run's data: what texts, grid, splits and labels must never tell.

Works on artifacts (docs/contracts.md, sections 3 and 4) and on a sample of partitions read again from the source. Every check counts;
nothing of a patient is in a result. What each check means and cannot see: docs/leak_audit.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import polars as pl
import pyarrow as pa

from clinjepa.clinical import Task, excluded_by, load_variables
from clinjepa.config.schema import Config
from clinjepa.storage import Folder
from clinjepa.storage.parts import read_card
from clinjepa.trajectory.audit.texts import read_texts, tell
from clinjepa.trajectory.audit.truncation import (
    Chart,
    Comparison,
    Read,
    Scratch,
    build,
    choose_cuts,
    compare,
    cut_chart,
    on_the_boundary,
    pick,
)
from clinjepa.trajectory.hours import ingest as ingest_artifact
from clinjepa.trajectory.hours.grid import HOUR_US
from clinjepa.trajectory.hours.split import SPLITS
from clinjepa.trajectory.labels.artifact import part_labels, read_labels, why_none
from clinjepa.trajectory.tokens.trajectory_store import TrajectoryReader

SCHEMA_VERSION = 1
Relabel = Callable[[Folder, str], pa.Table]
"""Labels (LABELS_SCHEMA) of one part of an ingest artifact, computed as the labels stage computes them."""


@dataclass(frozen=True)
class Check:
    """One question to the data. `leak`: something was found; `note`: a count that is no leak; `skipped`: why is in `detail`."""

    name: str
    outcome: Literal["ok", "leak", "note", "skipped"]
    num_checked: int
    unit: str
    num_found: int
    detail: str = ""


def audit(
    ingest: Folder,
    config: Config,
    partitions: Mapping[str, dict[str, Any]],
    read: Read,
    *,
    trajectories: Folder | None = None,
    labels: Folder | None = None,
    tasks: list[Task] | None = None,
    relabel: Relabel | None = None,
    num_partitions: int = 4,
    num_stays: int = 200,
) -> dict[str, Any]:
    """All checks; {"schema_version", "sample", "num_leaks", "checks": [fields of Check]}.

    ingest, trajectories, labels: finished artifacts (the latter two None where they are not there). partitions: part name -> the source's
    partition that was read for it; `num_partitions` of them, evenly spread, are read again and give at most `num_stays` stays.
    """
    card = read_card(ingest, ingest_artifact.SCHEMA_VERSION, "run ingest again")
    stays = pl.DataFrame(ingest.read_table("stays.parquet"))
    charts = sample_charts(stays, partitions, read, num_partitions, num_stays)
    checks = [
        *text_checks(ingest, list(card["parts"])),
        table_check(),
        *truncation_checks(ingest, config, charts),
        *store_time_checks(charts, config.source.event_time),
        *patient_checks(stays, trajectories),
        token_check(ingest, trajectories, charts, config),
        *label_checks(ingest, stays, labels, tasks or [], relabel, config, charts),
    ]
    return {
        "schema_version": SCHEMA_VERSION,
        "sample": {"num_partitions": len(charts), "num_stays": sum(chart.cuts.height for chart in charts)},
        "num_leaks": sum(check.outcome == "leak" for check in checks),
        "checks": [asdict(check) for check in checks],
    }


def relabeller(tasks: list[Task], stay_prediction_hour: int) -> Relabel:
    """The labels stage's own way from grid, history and stays to labels."""

    def relabel(ingest: Folder, part: str) -> pa.Table:
        card = read_card(ingest, ingest_artifact.SCHEMA_VERSION, "run ingest again")
        stays = pl.DataFrame(ingest.read_table("stays.parquet")).filter(pl.col("part") == part)
        return part_labels(ingest, part, stays, [task for task in tasks if why_none(task, card) is None], stay_prediction_hour)

    return relabel


def _check(name: str, num_checked: int, unit: str, num_found: int, detail: str = "") -> Check:
    return Check(name, "leak" if num_found else "ok", int(num_checked), unit, int(num_found), detail)


def _skipped(name: str, why: str) -> Check:
    return Check(name, "skipped", 0, "", 0, why)


def sample_charts(
    stays: pl.DataFrame, partitions: Mapping[str, dict[str, Any]], read: Read, num_partitions: int, num_stays: int
) -> list[Chart]:
    """Some of the kept stays (stay_id, part, num_hours) of evenly spread partitions, read again; the same ones every time."""
    parts = [part for part in partitions if part in set(stays["part"].unique().to_list())]
    step = max(1, len(parts) // max(1, num_partitions))
    chosen = parts[::step][:num_partitions]
    charts = []
    for part in chosen:
        kept = stays.filter(pl.col("part") == part).sort(pl.col("stay_id").hash(seed=0)).head(max(1, num_stays // len(chosen)))
        charts.append(Chart(part, pick(read(partitions[part]), kept["stay_id"].to_list()), choose_cuts(kept)))
    return charts


def text_checks(ingest: Folder, parts: list[str]) -> list[Check]:
    """What every text of the parts names."""
    found = read_texts(ingest, parts)
    rows = (
        ("no excluded field or task names a phrase", found.num_phrases, "phrases", found.excluded),
        ("no identifier of an excluded field or discharge code stands in a text", found.num_texts, "texts", found.identifiers),
        ("no label-only variable stands in a text", found.num_phrases, "phrases", found.label_only),
        ("each kind of text names only its own fields", found.num_phrases, "phrases", found.misplaced),
    )
    checks = [_check(name, checked, unit, names.total(), tell(names)) for name, checked, unit, names in rows]
    return [*checks, _check("the hour written in a text is its place in the stay", found.num_texts, "texts", found.wrong_hour)]


def table_check() -> Check:
    """The tables that the dictionary's written variables are read from."""
    written = [variable for variable in load_variables().values() if variable.role in ("state", "action", "static")]
    late = [variable.name for variable in written if any(excluded_by(source.table) for source in variable.sources)]
    return _check("no written variable comes from a table coded at discharge", len(written), "variables", len(late), ", ".join(late))


def truncation_checks(ingest: Folder, config: Config, charts: list[Chart]) -> list[Check]:
    """Texts and grid of charts that end early against the artifact's, and what becomes of an event on the end of an hour."""
    decimals = config.text.max_decimals
    later, boundary, num_boundary = Comparison(), Comparison(), 0
    with Scratch() as cut, Scratch() as whole_moved, Scratch() as cut_moved:
        for chart in charts:
            build([cut_chart(chart)], config, cut)
            later += compare(ingest, cut, chart.part, chart.cuts, decimals)
            moved = on_the_boundary(chart, config.source.event_time)
            build([moved], config, whole_moved)
            build([cut_chart(moved)], config, cut_moved)
            boundary += compare(whole_moved, cut_moved, moved.part, moved.cuts, decimals)
            num_boundary += moved.cuts.height
    columns = ", ".join(later.columns[:8])
    found = boundary.num_texts_differ + boundary.num_cells_differ
    return [
        _check("an hour's texts are the same in a chart that ends with it", later.num_texts, "texts", later.num_texts_differ),
        _check("an hour's grid is the same in a chart that ends with it", later.num_cells, "cells", later.num_cells_differ, columns),
        _check("an event on the end of an hour is not in that hour", num_boundary, "stays", found, ", ".join(boundary.columns[:8])),
    ]


def store_time_checks(charts: list[Chart], event_time: str = "measured") -> list[Check]:
    """How many rows were stored only after the hour in which they were measured, which `source.event_time: stored` moves to a later
    hour, and how many infusions and procedures only after the hour in which they began, which it does not move."""
    moved = "count from when they were stored" if event_time == "stored" else "count from when they were measured (source.event_time)"
    return [
        _store_time_check("rows stored after the hour in which they were measured", charts, False, moved),
        _store_time_check("infusions and procedures stored after the hour in which they began", charts, True, "count from their beginning"),
    ]


def _store_time_check(name: str, charts: list[Chart], intervals: bool, done: str) -> Check:
    known = late = 0
    for chart in charts:
        events = pl.DataFrame(chart.tables.events).join(pl.DataFrame(chart.tables.stays).select("stay_id", "intime"), on="stay_id")
        is_kind = pl.col("end_time").is_not_null() if intervals else pl.col("end_time").is_null()
        events = events.filter(pl.col("store_time").is_not_null() & is_kind & (pl.col("time") >= pl.col("intime")))
        hour = (pl.col("time") - pl.col("intime")).dt.total_microseconds() // HOUR_US
        ends = pl.col("intime") + pl.duration(microseconds=(hour + 1) * HOUR_US)
        known += events.height
        late += events.filter(pl.col("store_time") >= ends).height
    if not known:
        return _skipped(name, "the source gives no storage times")
    return Check(name, "note", known, "rows", late, f"{100 * late / known:.1f} % of the sample's rows with a storage time; they {done}")


def patient_checks(stays: pl.DataFrame, trajectories: Folder | None) -> list[Check]:
    """Patients in one split, one partition and one shard each; windows inside their stays. stays: those of the ingest artifact."""
    checks = [_disjoint("no patient is in two splits", stays, "split"), _disjoint("no patient is in two partitions", stays, "part")]
    if trajectories is None:
        return [*checks, _skipped("the trajectory store keeps splits and stays", "no finished trajectory store")]
    reader = TrajectoryReader(trajectories)
    stored, windows = pl.DataFrame(reader.stays), pl.DataFrame(reader.windows)
    checks.append(_disjoint("no patient is in two shards of the trajectory store", stored, "shard"))
    columns = ["stay_id", "subject_id", "split", "num_hours"]
    both = stored.select(columns).join(stays.select(columns), on="stay_id", how="full", suffix="_ingest")
    moved = both.filter(pl.any_horizontal(*(pl.col(name).ne_missing(pl.col(f"{name}_ingest")) for name in columns)))
    checks.append(_check("the trajectory store keeps splits and stays", both.height, "stays", moved.height))
    inside = windows.join(
        stored.select("stay_id", pl.col("split").alias("own"), pl.col("num_hours").alias("all")), on="stay_id", how="left"
    )
    fits = (pl.col("split") == pl.col("own")) & (pl.col("start_hour") >= 0) & (pl.col("start_hour") + pl.col("num_hours") <= pl.col("all"))
    checks.append(
        _check("a window lies in its stay and in its split", inside.height, "windows", inside.filter(~fits.fill_null(False)).height)
    )
    return checks


def _disjoint(name: str, stays: pl.DataFrame, column: str) -> Check:
    patients = stays.group_by("subject_id").agg(pl.col(column).n_unique().alias("number"), pl.col(column).null_count().alias("none"))
    found = patients.filter((pl.col("number") > 1) | (pl.col("none") > 0)).height
    if column == "split":
        found += stays.filter(~pl.col("split").is_in(SPLITS)).height
    return _check(name, patients.height, "patients", found)


def token_check(ingest: Folder, trajectories: Folder | None, charts: list[Chart], config: Config) -> Check:
    """The store's token ids of the sample's stays against those of the ingest artifact's texts."""
    name = "the tokens of a stay are those of its texts"
    if trajectories is None:
        return _skipped(name, "no finished trajectory store")
    reader, most = TrajectoryReader(trajectories), config.tokenizer.max_tokens
    checked = found = 0
    for chart in charts:
        hours = pl.DataFrame(ingest.read_table(f"hours/{chart.part}.parquet")).join(chart.cuts, on="stay_id", how="semi")
        for row in hours.iter_rows(named=True):
            tokens = reader.stay(row["stay_id"])
            texts = [row["static_text"], *row["state_texts"], *row["action_texts"]]
            stored = [tokens.static, *tokens.states, *tokens.actions]
            expected = [ids[:most] for ids in reader.tokenizer.encode(texts)]
            checked += len(texts)
            found += abs(len(texts) - len(stored)) + sum(a != b.tolist() for a, b in zip(expected, stored, strict=False))
    return _check(name, checked, "texts", found)


def label_checks(
    ingest: Folder,
    stays: pl.DataFrame,
    labels: Folder | None,
    tasks: list[Task],
    relabel: Relabel | None,
    config: Config,
    charts: list[Chart],
) -> list[Check]:
    """Labels inside their stays, the same when computed again, and the same from charts that end after their horizon."""
    inside = "a label lies in its stay; a stay's outcome is asked of who is still there"
    same, ahead = "labels computed again are the same", "labels whose horizon lies before the cut do not change with it"
    if labels is None or relabel is None:
        return [_skipped(name, "no finished labels") for name in (inside, same, ahead)]
    parts = [chart.part for chart in charts]
    again = pl.concat(pl.DataFrame(relabel(ingest, part)) for part in parts)
    ahead_hours = {task.name: hours for task in tasks if (hours := task.looks_ahead_hours) is not None}
    short = _labels_of_cut_charts(ingest, relabel, config, charts)
    cuts, sampled = pl.concat([chart.cuts for chart in charts]), stays.filter(pl.col("part").is_in(parts)).select("stay_id")
    checked = {inside: 0, same: 0, ahead: 0}
    found: dict[str, Counter[str]] = {name: Counter() for name in checked}
    for task in tasks:  # one at a time: the labels of all tasks together may not fit into memory
        table = pl.DataFrame(read_labels(labels, [task.name]))
        checked[inside] += table.height
        found[inside][task.name] += _misplaced_labels(table, stays, task)
        ours, other = table.join(sampled, on="stay_id", how="semi"), again.filter(pl.col("task") == task.name)
        checked[same] += ours.height
        found[same][task.name] += _differing(ours, other)
        if short is not None and task.name in ahead_hours:
            settled = [_settled(one, cuts, ahead_hours[task.name]) for one in (ours, short.filter(pl.col("task") == task.name))]
            checked[ahead] += settled[0].height
            found[ahead][task.name] += _differing(*settled)
    checks = [_check(name, checked[name], "labels", found[name].total(), tell(+found[name])) for name in (inside, same)]
    if short is None:
        return [*checks, _skipped(ahead, f"the sample has fewer than {len(SPLITS)} patients")]
    return [*checks, _check(ahead, checked[ahead], "labels", found[ahead].total(), tell(+found[ahead]))]


def _labels_of_cut_charts(ingest: Folder, relabel: Relabel, config: Config, charts: list[Chart]) -> pl.DataFrame | None:
    """Labels of the sample's charts cut short; None where it has too few patients for an artifact."""
    if sum(pl.DataFrame(chart.tables.stays)["subject_id"].n_unique() for chart in charts) < len(SPLITS):
        return None
    with Scratch() as cut:
        build([cut_chart(chart) for chart in charts], config, cut, finish=True)
        card = cut.read_json("data_card.json")  # which tasks a source can give is a fact of the whole source, not of this sample
        cut.write_json("data_card.json", card | {"coverage": ingest.read_json("data_card.json")["coverage"]})
        return pl.concat(pl.DataFrame(relabel(cut, chart.part)) for chart in charts)


def _settled(labels: pl.DataFrame, cuts: pl.DataFrame, ahead_hours: int) -> pl.DataFrame:
    """A task's labels at hours from which all that it looks at is in the chart that was cut."""
    return labels.join(cuts, on="stay_id").filter(pl.col("hour") + ahead_hours <= pl.col("cut_hour")).drop("cut_hour")


def _misplaced_labels(labels: pl.DataFrame, stays: pl.DataFrame, task: Task) -> int:
    table = labels.join(stays.select("stay_id", "num_hours", "intime", "death_time"), on="stay_id", how="left")
    outside = pl.col("num_hours").is_null() | (pl.col("hour") < 0) | (pl.col("hour") >= pl.col("num_hours")) | ~pl.col("label").is_finite()
    if task.kind == "stay" and task.at == "prediction_hour":
        predicted = pl.col("intime") + pl.duration(hours=pl.col("hour").cast(pl.Int64) + 1)
        outside = outside | (pl.col("death_time") <= predicted).fill_null(False)
    return table.filter(outside).height


def _differing(one: pl.DataFrame, other: pl.DataFrame) -> int:
    """Labels that are in one table only or have another value; numbers may differ by rounding."""
    both = one.join(other, on=["stay_id", "task", "hour"], how="full", suffix="_other", coalesce=True)
    close = (pl.col("label") - pl.col("label_other")).abs() <= 1e-4 * pl.max_horizontal(pl.col("label").abs(), pl.lit(1.0))
    return both.filter(~close.fill_null(False)).height
