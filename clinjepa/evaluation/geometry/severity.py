"""Severity by hour, for cohorts and correlations of the latent geometry: the SOFA score and organ support, from the hour grid.

SOFA and support are those of the labels (`clinjepa/clinical/derived/*.yaml`). Sources that record no drug rates, devices or consciousness
have no SOFA: the rule is that of the task `sofa_worsening_24h`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa

from clinjepa.clinical import load_tasks
from clinjepa.evaluation.space import stays_of
from clinjepa.storage import Folder
from clinjepa.storage.parts import read_card
from clinjepa.trajectory.hours import ingest as ingest_artifact
from clinjepa.trajectory.labels.artifact import part_state, why_none

SOFA = "sofa"
SUPPORT = ("vasopressor_any", "ventilated", "rrt")
"""Organ support, 1 in the hours in which it is given: any vasopressor, invasive or non-invasive ventilation, renal replacement."""
SCORED_TASK = "sofa_worsening_24h"
"""The task whose sources have a SOFA score."""


@dataclass(frozen=True)
class StaySeverity:
    """One stay: sofa_T, NaN where it is unknown, and support_TS, True in hours with the support (columns: SUPPORT)."""

    sofa_T: np.ndarray
    support_TS: np.ndarray


Severity = Mapping[int, StaySeverity]
"""stay_id -> its severity by hour."""


def severity_fault(ingest: Folder) -> str | None:
    """Why the stays of an ingest artifact have no SOFA score; None where they have one."""
    return why_none(load_tasks([SCORED_TASK])[0], read_card(ingest, ingest_artifact.SCHEMA_VERSION, "run ingest again"))  # type: ignore[arg-type]  # the card is JSON


def read_severity(ingest: Folder, stays: pa.Table, split: str = "held_out") -> Severity:
    """Severity of the stays of a split, read part by part from the hour grid.

    Args:
        ingest: A finished ingest artifact.
        stays: Its `stays.parquet`.
        split: The split whose stays are read.
    """
    chosen = pl.DataFrame(stays_of(stays, split))
    found: dict[int, StaySeverity] = {}
    for part in chosen["part"].unique().sort():
        state = part_state(ingest, part, chosen.filter(pl.col("part") == part), [SOFA, *SUPPORT])
        in_stay_R = state.rows.hour_R >= 0
        stay_R = state.rows.stay_id_R[in_stay_R]
        sofa_R = state.column(SOFA)[in_stay_R]
        support_RS = np.stack([np.nan_to_num(state.column(name)[in_stay_R]) > 0 for name in SUPPORT], axis=1)
        starts = np.flatnonzero(np.diff(stay_R, prepend=-1))
        for start, end in zip(starts, [*starts[1:], len(stay_R)], strict=True):
            found[int(stay_R[start])] = StaySeverity(sofa_R[start:end], support_RS[start:end])
    return found
