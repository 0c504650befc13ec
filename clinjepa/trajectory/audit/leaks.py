"""The leak audit of finished data stages: whether texts, grid, splits or labels contain what they must not.

Reads the artifacts `ingest`, `trajectories` and `labels` (docs/contracts.md, sections 3 and 4), and a sample of the source's partitions
again. Results are counts over all patients. What each check means, and what the audit cannot see: docs/leak_audit.md.
"""

from __future__ import annotations

import polars as pl

from clinjepa.clinical import excluded_by, load_variables
from clinjepa.config.schema import Config, TextConfig
from clinjepa.storage import Folder
from clinjepa.storage.parts import read_card
from clinjepa.trajectory.audit.checks import AuditedData, AuditReport, Check, Labelling, Sampling
from clinjepa.trajectory.audit.label_checks import label_checks
from clinjepa.trajectory.audit.texts import list_names, read_texts
from clinjepa.trajectory.audit.truncation import (
    Chart,
    Comparison,
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
from clinjepa.trajectory.labels.scores import SCORES
from clinjepa.trajectory.tokens.trajectory_store import TrajectoryReader

SCHEMA_VERSION = 1


def audit(data: AuditedData, config: Config, sampling: Sampling, labelling: Labelling | None = None) -> AuditReport:
    """Make all checks.

    Args:
        data: finished artifacts; checks on artifacts that are None are skipped.
        config: the configuration that they were made with.
        sampling: which partitions of the source to read again.
        labelling: the tasks and how to label again; None skips the checks on labels.
    """
    card = read_card(data.ingest, ingest_artifact.SCHEMA_VERSION, "run ingest again")
    stays = pl.DataFrame(data.ingest.read_table("stays.parquet"))
    charts = sample_charts(stays, sampling)
    checks = [
        *text_checks(data.ingest, list(card["parts"]), config.text),
        table_check(),
        *truncation_checks(data.ingest, config, charts),
        *store_time_checks(charts, config.source.event_time),
        *patient_checks(stays, data.trajectories),
        token_check(data.ingest, data.trajectories, charts, config),
        *label_checks(data, stays, labelling, config, charts),
    ]
    return {
        "schema_version": SCHEMA_VERSION,
        "sample": {"num_partitions": len(charts), "num_stays": sum(chart.cuts.height for chart in charts)},
        "num_leaks": sum(check.outcome == "leak" for check in checks),
        "checks": [check.record() for check in checks],
    }


def sample_charts(stays: pl.DataFrame, sampling: Sampling) -> list[Chart]:
    """Kept stays of evenly spread partitions, read again; the same ones every time. stays: stay_id, part, num_hours."""
    parts = [part for part in sampling.partitions if part in set(stays["part"].unique().to_list())]
    step = max(1, len(parts) // max(1, sampling.num_partitions))
    chosen = parts[::step][: sampling.num_partitions]
    charts = []
    for part in chosen:
        kept = stays.filter(pl.col("part") == part).sort(pl.col("stay_id").hash(seed=0)).head(max(1, sampling.num_stays // len(chosen)))
        charts.append(Chart(part, pick(sampling.read(sampling.partitions[part]), kept["stay_id"].to_list()), choose_cuts(kept)))
    return charts


def text_checks(ingest: Folder, parts: list[str], text: TextConfig) -> list[Check]:
    """Names in every text of the parts against what texts may name; scores that `text.exclusions` leaves in are noted."""
    scores = tuple(SCORES) if text.exclusions == "all_but_scores" else ()
    found = read_texts(ingest, parts, scores)
    rows = (
        ("no excluded field or task names a phrase", found.num_phrases, "phrases", found.excluded),
        ("no identifier of an excluded field or discharge code stands in a text", found.num_texts, "texts", found.identifiers),
        ("no label-only variable stands in a text", found.num_phrases, "phrases", found.label_only),
        ("each kind of text names only its own fields", found.num_phrases, "phrases", found.misplaced),
    )
    checks = [Check.of(name, checked, unit, names.total(), list_names(names)) for name, checked, unit, names in rows]
    if scores:
        left_in = f"{', '.join(scores)} are left in by text.exclusions; labels are made of them"
        checks.append(Check("severity scores stand in state texts", "note", found.num_phrases, "phrases", found.scores, left_in))
    return [*checks, Check.of("the hour written in a text is its place in the stay", found.num_texts, "texts", found.wrong_hour)]


def table_check() -> Check:
    """Source tables of the variables that texts contain, against the exclusion list."""
    written = [variable for variable in load_variables().values() if variable.role in ("state", "action", "static")]
    late = [variable.name for variable in written if any(excluded_by(source.table) for source in variable.sources)]
    return Check.of("no written variable comes from a table coded at discharge", len(written), "variables", len(late), ", ".join(late))


def truncation_checks(ingest: Folder, config: Config, charts: list[Chart]) -> list[Check]:
    """Texts and grid of cut charts against the artifact's; and whether an event exactly at the end of an hour counts in that hour."""
    decimals = config.text.max_decimals
    later, boundary, num_boundary = Comparison(), Comparison(), 0
    with Scratch() as cut, Scratch() as whole_moved, Scratch() as cut_moved:
        for chart in charts:
            build([cut_chart(chart, late_statics=False)], config, cut)
            later += compare(ingest, cut, chart.part, chart.cuts, decimals)
            moved = on_the_boundary(chart, config.source.event_time)
            build([moved], config, whole_moved)
            build([cut_chart(moved, late_statics=False)], config, cut_moved)
            boundary += compare(whole_moved, cut_moved, moved.part, moved.cuts, decimals)
            num_boundary += moved.cuts.height
    columns = ", ".join(later.columns[:8])
    found = boundary.num_texts_differ + boundary.num_cells_differ
    return [
        Check.of("an hour's texts are the same in a chart that ends with it", later.num_texts, "texts", later.num_texts_differ),
        Check.of("an hour's grid is the same in a chart that ends with it", later.num_cells, "cells", later.num_cells_differ, columns),
        Check.of("an event on the end of an hour is not in that hour", num_boundary, "stays", found, ", ".join(boundary.columns[:8])),
    ]


def store_time_checks(charts: list[Chart], event_time: str = "measured") -> list[Check]:
    """Counts of rows stored after the hour they belong to.

    Two notes: point events stored after the hour of their measurement, which `source.event_time: stored` moves to a later hour; and
    infusions and procedures stored after the hour in which they began, which it does not move.
    """
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
        return Check.skipped(name, "the source gives no storage times")
    return Check(name, "note", known, "rows", late, f"{100 * late / known:.1f} % of the sample's rows with a storage time; they {done}")


def patient_checks(stays: pl.DataFrame, trajectories: Folder | None) -> list[Check]:
    """Each patient in one split, one partition and one shard; each window in its stay. stays: `stays.parquet` of the ingest artifact."""
    checks = [_disjoint("no patient is in two splits", stays, "split"), _disjoint("no patient is in two partitions", stays, "part")]
    if trajectories is None:
        return [*checks, Check.skipped("the trajectory store keeps splits and stays", "no finished trajectory store")]
    reader = TrajectoryReader(trajectories)
    stored, windows = pl.DataFrame(reader.stays), pl.DataFrame(reader.windows)
    checks.append(_disjoint("no patient is in two shards of the trajectory store", stored, "shard"))
    columns = ["stay_id", "subject_id", "split", "num_hours"]
    both = stored.select(columns).join(stays.select(columns), on="stay_id", how="full", suffix="_ingest")
    moved = both.filter(pl.any_horizontal(*(pl.col(name).ne_missing(pl.col(f"{name}_ingest")) for name in columns)))
    checks.append(Check.of("the trajectory store keeps splits and stays", both.height, "stays", moved.height))
    inside = windows.join(
        stored.select("stay_id", pl.col("split").alias("own"), pl.col("num_hours").alias("all")), on="stay_id", how="left"
    )
    fits = (pl.col("split") == pl.col("own")) & (pl.col("start_hour") >= 0) & (pl.col("start_hour") + pl.col("num_hours") <= pl.col("all"))
    checks.append(
        Check.of("a window lies in its stay and in its split", inside.height, "windows", inside.filter(~fits.fill_null(False)).height)
    )
    return checks


def _disjoint(name: str, stays: pl.DataFrame, column: str) -> Check:
    """Whether all stays of each patient have the same value in `column`."""
    patients = stays.group_by("subject_id").agg(pl.col(column).n_unique().alias("number"), pl.col(column).null_count().alias("none"))
    found = patients.filter((pl.col("number") > 1) | (pl.col("none") > 0)).height
    if column == "split":
        found += stays.filter(~pl.col("split").is_in(SPLITS)).height
    return Check.of(name, patients.height, "patients", found)


def token_check(ingest: Folder, trajectories: Folder | None, charts: list[Chart], config: Config) -> Check:
    """Token ids of the sample's stays in the store against those of the ingest artifact's texts."""
    name = "the tokens of a stay are those of its texts"
    if trajectories is None:
        return Check.skipped(name, "no finished trajectory store")
    reader, most = TrajectoryReader(trajectories), config.tokenizer.max_tokens
    checked = found = 0
    for chart in charts:
        hours = pl.DataFrame(ingest.read_table(f"hours/{chart.part}.parquet")).join(chart.cuts, on="stay_id", how="semi")
        for row in hours.iter_rows(named=True):
            tokens = reader.stay(row["stay_id"])
            texts = [row["static_text"], *row["state_texts"], *row["action_texts"]]
            stored = [tokens.static, *tokens.states, *tokens.actions]
            expected = reader.tokenizer.encode(texts, most)
            checked += len(texts)
            found += abs(len(texts) - len(stored)) + sum(a != b.tolist() for a, b in zip(expected, stored, strict=False))
    return Check.of(name, checked, "texts", found)
