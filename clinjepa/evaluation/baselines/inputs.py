"""What baselines read of prediction points, built once for all of a run: features, severity score, hours as sequences."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import polars as pl
import pyarrow as pa

from clinjepa.clinical import grid_inputs, load_derived
from clinjepa.evaluation.baselines.hour_sequences import hour_sequences
from clinjepa.evaluation.baselines.protocol import Inputs
from clinjepa.evaluation.downstream.tabular_features import tabular_features
from clinjepa.storage import Folder
from clinjepa.trajectory.hour_grid import parts_of
from clinjepa.trajectory.labels.artifact import label_rows
from clinjepa.trajectory.labels.derived.registry import functions
from clinjepa.trajectory.labels.derived.state import DerivedState

_SCORE = "sofa"


def build_inputs(ingest: Folder, stays: pa.Table, stay_P: np.ndarray, hour_P: np.ndarray, reads: Collection[str]) -> Inputs:
    """The parts of `Inputs` that are read.

    Args:
        ingest: Ingest artifact; its hour grid is read.
        stays: The ingest's `stays.parquet`.
        stay_P: Stay of each point, sorted by (stay, hour).
        hour_P: Hour of each point.
        reads: `tabular`, `sofa`, `sequences`.
    """
    own = stays.filter(pa.array(np.isin(stays["stay_id"].to_numpy(), stay_P)))
    return Inputs(
        stay_P,
        hour_P,
        tabular_features(ingest, stays, stay_P, hour_P) if "tabular" in reads else None,
        sofa_scores(ingest, own, stay_P, hour_P) if "sofa" in reads else None,
        hour_sequences(ingest, own) if "sequences" in reads else None,
    )


def has_sofa(ingest: Folder, stays: pa.Table) -> bool:
    """Whether the grid has readings of all columns that the SOFA score requires."""
    required = set(load_derived()[_SCORE].requires)
    seen: set[str] = set()
    for part in parts_of(stays):
        there = required & set(ingest.parquet(f"grid/{part}.parquet").schema_arrow.names)
        table = ingest.read_table(f"grid/{part}.parquet", columns=sorted(there))
        seen |= {name for name in there if table[name].null_count < len(table)}
        if seen == required:
            return True
    return False


def sofa_scores(ingest: Folder, stays: pa.Table, stay_P: np.ndarray, hour_P: np.ndarray) -> np.ndarray:
    """SOFA of the 24 h up to each point [P], from the grid that the texts follow and the hours before admission; NaN = unknown."""
    found_P = np.full(len(stay_P), np.nan)
    columns = grid_inputs([_SCORE])
    for part, stay_ids in parts_of(stays).items():
        schema = ingest.parquet(f"grid/{part}.parquet").schema_arrow.names
        wanted = pl.col("stay_id").is_in(stay_ids.tolist())
        grid = pl.DataFrame(ingest.read_table(f"grid/{part}.parquet", columns=["stay_id", "hour", *(set(columns) & set(schema))]))
        history = pl.DataFrame(ingest.read_table(f"history/{part}.parquet"))
        facts = pl.DataFrame(stays).filter(pl.col("part") == part)
        rows = label_rows(grid.filter(wanted), history.filter(wanted), facts, columns)
        score_R = DerivedState(rows, functions()).column(_SCORE)
        here_P = np.flatnonzero(np.isin(stay_P, stay_ids))
        place = {pair: row for row, pair in enumerate(zip(rows.stay_id_R.tolist(), rows.hour_R.tolist(), strict=True))}
        found_P[here_P] = [score_R[place[int(stay), int(hour)]] for stay, hour in zip(stay_P[here_P], hour_P[here_P], strict=True)]
    return found_P
