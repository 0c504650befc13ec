"""Severity scores at the head of state texts, as in Clin-JEPA's released code; only with `text.exclusions: all_but_scores`.

SOFA and the KDIGO stage are derived from the hours up to the one that is written (`labels/derived/`). Labels of worsening, of Sepsis-3
and of kidney failure are made of the same quantities, so by default no text has them.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from clinjepa.clinical.derived import grid_inputs
from clinjepa.trajectory.hours.text import NO_OBSERVATIONS
from clinjepa.trajectory.labels.derived.registry import functions
from clinjepa.trajectory.labels.derived.state import DerivedState
from clinjepa.trajectory.labels.hour_rows import hour_rows

SCORES = {"SOFA": "sofa", "KDIGO": "kdigo_stage"}
"""Name in the text -> derived quantity, in the order of the text."""


def with_scores(texts: pl.DataFrame, grid: pl.DataFrame, history: pl.DataFrame, stays: pl.DataFrame) -> pl.DataFrame:
    """Texts whose `state_texts` name the scores before the observations, as in `t=5h | SOFA: 7. KDIGO: 1. Heart Rate: 88 bpm.`

    A score that is unknown in an hour is not mentioned.

    Args:
        texts: stay_id, state_texts list<string> and further columns, sorted by stay_id.
        grid: stay_id, hour 0 … T−1 and the grid's variables, of the same stays.
        history: hours before admission in long form.
        stays: stay_id, intime, weight_kg, weight_time.
    """
    phrases_R = _phrases(grid, history, stays)
    rows = texts.select("stay_id", text="state_texts").explode("text", empty_as_null=False).with_columns(score=pl.Series(phrases_R))
    head = pl.col("text").str.extract(r"^(t=\d+h \|)", 1)
    rest = pl.col("text").str.slice(head.str.len_chars())
    observed = pl.when(rest == f" {NO_OBSERVATIONS}").then(pl.lit("")).otherwise(rest)
    scored = pl.when(pl.col("score") == "").then(pl.col("text")).otherwise(pl.concat_str(head, "score", observed))
    lists = rows.select("stay_id", scored.alias("state_texts")).group_by("stay_id", maintain_order=True).agg("state_texts")
    return texts.drop("state_texts").join(lists, on="stay_id", how="left", maintain_order="left").select(texts.columns)


def _phrases(grid: pl.DataFrame, history: pl.DataFrame, stays: pl.DataFrame) -> list[str]:
    """The scores of every hour, sorted by stay and hour, each phrase after a space; empty where none is known."""
    columns = [name for name in grid_inputs(SCORES.values()) if name in grid.columns]
    hours = grid.select("stay_id", "hour", *columns)
    weight = pl.col("weight_kg").cast(pl.Float64)
    minutes = (pl.col("weight_time").cast(pl.Datetime("us")) - pl.col("intime")).dt.total_minutes()
    states = [  # a weight is written into the texts of the hours from its charting on
        hour_rows(hours, history, stays.select("stay_id", fact.alias("weight_kg")), columns, ["weight_kg"])
        for fact in (pl.lit(None, pl.Float64), weight)
    ]
    rows = states[1]
    in_stay_R = rows.hour_R >= 0
    since = stays.select("stay_id", (minutes // 60).fill_null(0).alias("since"))
    known_R = hours.select("stay_id", "hour").join(since, on="stay_id", how="left", maintain_order="left").sort("stay_id", "hour")
    is_known_R = (known_R["hour"] >= known_R["since"]).to_numpy()
    without, with_weight = (DerivedState(each, functions()) for each in states)
    phrases_R = [""] * int(in_stay_R.sum())
    for name, quantity in SCORES.items():
        values_R = np.where(is_known_R, with_weight.column(quantity)[in_stay_R], without.column(quantity)[in_stay_R])
        for row in np.flatnonzero(~np.isnan(values_R)).tolist():
            phrases_R[row] += f" {name}: {values_R[row]:.0f}."
    return phrases_R
