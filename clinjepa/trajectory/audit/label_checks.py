"""Checks on labels: inside their stays, equal when computed again, and unchanged by what happens after their horizon.

Part of the leak audit (`leaks.py`). Labels are compared with those of the same stays cut at an hour (`truncation.py`).
"""

from __future__ import annotations

from collections import Counter
from typing import cast

import polars as pl
import pyarrow as pa

from clinjepa.clinical import Task
from clinjepa.config.schema import Config
from clinjepa.storage import Folder
from clinjepa.storage.parts import read_card
from clinjepa.trajectory.audit.checks import AuditedData, Check, Labelling, Relabel
from clinjepa.trajectory.audit.texts import list_names
from clinjepa.trajectory.audit.truncation import Chart, Scratch, build, cut_chart
from clinjepa.trajectory.hours import ingest as ingest_artifact
from clinjepa.trajectory.hours.data_card import DataCard
from clinjepa.trajectory.hours.split import SPLITS
from clinjepa.trajectory.labels.artifact import part_labels, read_labels, why_none

_INSIDE = "a label lies in its stay; a stay's outcome is asked of who is still there"
_SAME = "labels computed again are the same"
_AHEAD = "labels whose horizon lies before the cut do not change with it"


def relabeller(tasks: list[Task], stay_prediction_hour: int) -> Relabel:
    """A function that computes the labels of a part from grid, history and stays, as the labels stage does."""

    def relabel(ingest: Folder, part: str) -> pa.Table:
        card = cast(DataCard, read_card(ingest, ingest_artifact.SCHEMA_VERSION, "run ingest again"))
        stays = pl.DataFrame(ingest.read_table("stays.parquet")).filter(pl.col("part") == part)
        return part_labels(ingest, part, stays, [task for task in tasks if why_none(task, card) is None], stay_prediction_hour)

    return relabel


def label_checks(data: AuditedData, stays: pl.DataFrame, labelling: Labelling | None, config: Config, charts: list[Chart]) -> list[Check]:
    """Labels inside their stays, equal when computed again, and equal from charts that end after their horizon.

    Args:
        data: finished artifacts; all three checks are skipped without labels.
        stays: `stays.parquet` of the ingest artifact.
        labelling: the tasks and how to label again; None skips all three checks.
        config: how the charts are built again.
        charts: the sample that was read again.
    """
    if data.labels is None or labelling is None:
        return [Check.skipped(name, "no finished labels") for name in (_INSIDE, _SAME, _AHEAD)]
    parts = [chart.part for chart in charts]
    again = pl.concat(pl.DataFrame(labelling.relabel(data.ingest, part)) for part in parts)
    ahead_hours = {task.name: hours for task in labelling.tasks if (hours := task.looks_ahead_hours) is not None}
    short = _labels_of_cut_charts(data.ingest, labelling.relabel, config, charts)
    cuts, sampled = pl.concat([chart.cuts for chart in charts]), stays.filter(pl.col("part").is_in(parts)).select("stay_id")
    checked = {_INSIDE: 0, _SAME: 0, _AHEAD: 0}
    found: dict[str, Counter[str]] = {name: Counter() for name in checked}
    for task in labelling.tasks:  # one at a time: the labels of all tasks together may not fit into memory
        table = pl.DataFrame(read_labels(data.labels, [task.name]))
        checked[_INSIDE] += table.height
        found[_INSIDE][task.name] += _misplaced_labels(table, stays, task)
        ours, other = table.join(sampled, on="stay_id", how="semi"), again.filter(pl.col("task") == task.name)
        checked[_SAME] += ours.height
        found[_SAME][task.name] += _differing(ours, other)
        if short is not None and task.name in ahead_hours:
            settled = [_settled(one, cuts, ahead_hours[task.name]) for one in (ours, short.filter(pl.col("task") == task.name))]
            checked[_AHEAD] += settled[0].height
            found[_AHEAD][task.name] += _differing(*settled)
    checks = [Check.of(name, checked[name], "labels", found[name].total(), list_names(+found[name])) for name in (_INSIDE, _SAME)]
    if short is None:
        return [*checks, Check.skipped(_AHEAD, f"the sample has fewer than {len(SPLITS)} patients")]
    return [*checks, Check.of(_AHEAD, checked[_AHEAD], "labels", found[_AHEAD].total(), list_names(+found[_AHEAD]))]


def _labels_of_cut_charts(ingest: Folder, relabel: Relabel, config: Config, charts: list[Chart]) -> pl.DataFrame | None:
    """Labels of the sample's charts after the cut; None if the sample has too few patients for an ingest artifact."""
    if sum(pl.DataFrame(chart.tables.stays)["subject_id"].n_unique() for chart in charts) < len(SPLITS):
        return None
    with Scratch() as cut:
        build([cut_chart(chart) for chart in charts], config, cut, finish=True)
        # Which tasks the source can give follows from the coverage of the whole source, not from that of the sample.
        card = cut.read_json("data_card.json")
        cut.write_json("data_card.json", card | {"coverage": ingest.read_json("data_card.json")["coverage"]})
        return pl.concat(pl.DataFrame(relabel(cut, chart.part)) for chart in charts)


def _settled(labels: pl.DataFrame, cuts: pl.DataFrame, ahead_hours: int) -> pl.DataFrame:
    """The labels of a task whose whole horizon lies before the cut of their stay."""
    return labels.join(cuts, on="stay_id").filter(pl.col("hour") + ahead_hours <= pl.col("cut_hour")).drop("cut_hour")


def _misplaced_labels(labels: pl.DataFrame, stays: pl.DataFrame, task: Task) -> int:
    """Number of labels outside their stay, not finite, or asked of a patient who had died before the prediction."""
    table = labels.join(stays.select("stay_id", "num_hours", "intime", "death_time"), on="stay_id", how="left")
    outside = pl.col("num_hours").is_null() | (pl.col("hour") < 0) | (pl.col("hour") >= pl.col("num_hours")) | ~pl.col("label").is_finite()
    if task.kind == "stay" and task.at == "prediction_hour":
        predicted = pl.col("intime") + pl.duration(hours=pl.col("hour").cast(pl.Int64) + 1)
        outside = outside | (pl.col("death_time") <= predicted).fill_null(False)
    return table.filter(outside).height


def _differing(one: pl.DataFrame, other: pl.DataFrame) -> int:
    """Number of labels in one table only or with different values; numbers may differ by rounding."""
    both = one.join(other, on=["stay_id", "task", "hour"], how="full", suffix="_other", coalesce=True)
    close = (pl.col("label") - pl.col("label_other")).abs() <= 1e-4 * pl.max_horizontal(pl.col("label").abs(), pl.lit(1.0))
    return both.filter(~close.fill_null(False)).height
