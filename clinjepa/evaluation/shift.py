"""How far new patients are from those that a run was trained on: what is measured, how often, with which values, and for how long.

Both sides are hour grids of ingest artifacts, by the same variables, units and aggregation. Two-sample Kolmogorov–Smirnov distance:
the largest difference of the two empirical distribution functions, 0 (equal) to 1 (disjoint).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clinjepa.clinical import Variable
from clinjepa.errors import counted
from clinjepa.storage import Folder
from clinjepa.trajectory.hour_grid import grid_variables, parts_of, read_grid

PERCENTILES = (5, 25, 50, 75, 95)
COMMON = (1.0, 99.0)
"""Percentiles of the training values between which a value counts as seen."""
RARE = 0.001
"""Share of hours below which a variable counts as not measured."""
MIN_VALUES = 20
"""Fewest values on both sides for a comparison of their distributions."""
MOST_HOURS = 200_000
"""Hours of each side whose values are compared; a seeded draw of each part where there are more."""


class Measured(TypedDict):
    """One variable on one side."""

    share_of_hours: float
    """Hours with a value, of all hours of the side."""

    percentiles: list[float] | None
    """PERCENTILES of the hourly values in the variable's unit; None for fewer than MIN_VALUES values and for categories."""


class VariableShift(TypedDict):
    """One variable on both sides."""

    here: Measured
    trained_on: Measured
    distance: float | None
    """Kolmogorov–Smirnov distance of the hourly values."""

    outside: float | None
    """Share of the values here outside the COMMON percentiles of training; 0.02 where nothing has changed."""


class Population(TypedDict):
    """The stays of one side. Age and sex: of those that are known; None where none is."""

    num_stays: int
    num_patients: int
    num_hours: int
    median_hours: float
    median_age_years: float | None
    share_female: float | None
    share_died_in_hospital: float | None


class Shift(TypedDict):
    """The comparison of new patients with the training split."""

    here: Population
    trained_on: Population
    num_known_patients: int
    """Patient ids here that the training or tuning split has too: the same people, or other people with the same numbers."""

    reach_hours: int
    """Hours of the longest training window."""

    share_beyond_reach: float
    """Hours here that are later in their stay than any position in a training window."""

    not_here: list[str]
    """Variables that training measured in at least RARE of its hours, and that are measured in fewer here."""

    only_here: list[str]
    """Variables that are measured in at least RARE of the hours here and in fewer of training."""

    dropped: dict[str, int]
    """Rows of the new data that were left out, by rule."""

    variables: dict[str, VariableShift]


class _Side:
    """The values of one side: a sample of hours, and how many hours have a value."""

    def __init__(self, ingest: Folder, stays: pa.Table, seed: int) -> None:
        self.num_hours = int(pc.sum(stays["num_hours"]).as_py() or 0)
        self._counts: dict[str, int] = {}
        self._values: dict[str, list[np.ndarray]] = {}
        kept_share = min(1.0, MOST_HOURS / max(1, self.num_hours))
        for place, (part, stay_ids) in enumerate(parts_of(stays).items()):
            grid = read_grid(ingest, part, [variable.name for variable in _variables()])
            lengths = dict(zip(stays["stay_id"].to_pylist(), stays["num_hours"].to_pylist(), strict=True))
            rows_R = np.concatenate([grid.first_row[int(stay)] + np.arange(lengths[int(stay)]) for stay in stay_ids])
            drawn_R = rows_R[np.random.default_rng([seed, 0x5F1, place]).random(len(rows_R)) < kept_share] if kept_share < 1 else rows_R
            for name, values_R in grid.values.items():
                is_number = values_R.dtype != object
                known_R = np.isfinite(values_R[rows_R]) if is_number else np.array([value is not None for value in values_R[rows_R]])
                self._counts[name] = self._counts.get(name, 0) + int(known_R.sum())
                if is_number:
                    own_R = values_R[drawn_R]
                    self._values.setdefault(name, []).append(own_R[np.isfinite(own_R)])

    def share(self, name: str) -> float:
        return self._counts.get(name, 0) / max(1, self.num_hours)

    def values(self, name: str) -> np.ndarray:
        return np.sort(np.concatenate(self._values.get(name, [np.zeros(0, dtype=np.float32)])))


def measure_shift(ingest: Folder, trained_on: Folder, reach_hours: int, *, split: str = "held_out", seed: int = 0) -> Shift:
    """Compare new patients with the patients of a run's training split.

    Args:
        ingest: Ingest artifact of the new data; its patients in `split` are compared.
        trained_on: Ingest artifact of the run.
        reach_hours: Hours of the run's longest training window.
        split: The split that is scored.
        seed: Seed of the drawn hours, where a side has more than MOST_HOURS.
    """
    here, known = (folder.read_table("stays.parquet") for folder in (ingest, trained_on))
    here, trained = here.filter(pc.equal(here["split"], split)), known.filter(pc.equal(known["split"], "train"))
    seen = known.filter(pc.is_in(known["split"], pa.array(["train", "tuning"])))
    same = len(set(here["subject_id"].to_pylist()) & set(seen["subject_id"].to_pylist()))
    sides = _Side(ingest, here, seed), _Side(trained_on, trained, seed)
    names = [variable.name for variable in _variables() if any(side.share(variable.name) > 0 for side in sides)]
    lengths_S = here["num_hours"].to_numpy()
    return {
        "here": _population(here),
        "trained_on": _population(trained),
        "num_known_patients": same,
        "reach_hours": reach_hours,
        "share_beyond_reach": float(np.maximum(lengths_S - reach_hours, 0).sum() / max(1, lengths_S.sum())),
        "not_here": [name for name in names if sides[0].share(name) < RARE <= sides[1].share(name)],
        "only_here": [name for name in names if sides[1].share(name) < RARE <= sides[0].share(name)],
        "dropped": ingest.read_json("data_card.json")["dropped"],
        "variables": {name: _variable(name, *sides) for name in names},
    }


def _variables() -> list[Variable]:
    return grid_variables("state", "action", kinds=("numeric", "rate", "category"))


def _variable(name: str, here: _Side, trained_on: _Side) -> VariableShift:
    new_N, old_N = here.values(name), trained_on.values(name)
    enough = min(len(new_N), len(old_N)) >= MIN_VALUES
    low, high = np.percentile(old_N, COMMON) if enough else (0.0, 0.0)
    return {
        "here": _measured(here.share(name), new_N),
        "trained_on": _measured(trained_on.share(name), old_N),
        "distance": ks_distance(new_N, old_N) if enough else None,
        "outside": float(np.mean((new_N < low) | (new_N > high))) if enough else None,
    }


def _measured(share: float, sorted_N: np.ndarray) -> Measured:
    found = np.percentile(sorted_N, PERCENTILES).tolist() if len(sorted_N) >= MIN_VALUES else None
    return {"share_of_hours": share, "percentiles": found}


def ks_distance(one_N: np.ndarray, other_M: np.ndarray) -> float:
    """Two-sample Kolmogorov–Smirnov distance of two sorted samples."""
    both = np.concatenate([one_N, other_M])
    one, other = (np.searchsorted(side, both, side="right") / len(side) for side in (one_N, other_M))
    return float(np.abs(one - other).max())


def _population(stays: pa.Table) -> Population:
    hours_S = stays["num_hours"].to_numpy()
    return {
        "num_stays": stays.num_rows,
        "num_patients": len(pc.unique(stays["subject_id"])),
        "num_hours": int(hours_S.sum()),
        "median_hours": float(np.median(hours_S)) if len(hours_S) else 0.0,
        "median_age_years": _median(stays["age_years"]),
        "share_female": _share(pc.equal(stays["sex"], "female")),
        "share_died_in_hospital": _share(stays["died_in_hospital"]),
    }


def _median(column: pa.ChunkedArray) -> float | None:
    known = column.drop_null()
    return float(np.median(known.to_numpy())) if len(known) else None


def _share(flags: pa.ChunkedArray) -> float | None:
    known = flags.drop_null()
    return float(pc.mean(known.cast(pa.float64())).as_py()) if len(known) else None


def in_words(shift: Shift, most: int = 5, is_cut: bool = False) -> list[str]:
    """The comparison as short lines: counts and names of variables only. The first two are how many there are and `distance_in_words`.

    Args:
        shift: The comparison.
        most: Variables and rules that a line names at most.
        is_cut: `source.max_stays` leaves stays of the new data out; their rows count as `no_icu_stay`.
    """
    here, trained = shift["here"], shift["trained_on"]
    lines = [
        f"{counted(here['num_stays'], 'stay')} of {counted(here['num_patients'], 'patient')}, {here['num_hours']:,} h; trained on "
        f"{counted(trained['num_stays'], 'stay')}, {trained['num_hours']:,} h",
        distance_in_words(shift),
    ]
    if known := shift["num_known_patients"]:
        lines.append(
            f"warning: {counted(known, 'patient id')} {'is' if known == 1 else 'are'} in the run's training or tuning split too; if they "
            "are the same people, the figures are not those of unseen patients (--patients held_out scores the run's held-out ones only)"
        )
    if shift["not_here"]:
        lines.append(f"measured in training and not here: {_some(shift['not_here'])}")
    if shift["only_here"]:
        lines.append(f"measured here and not in training: {_some(shift['only_here'])}")
    lines += _different_values(shift["variables"], most)
    if dropped := sum(shift["dropped"].values()):
        rules = sorted(shift["dropped"].items(), key=lambda rule: -rule[1])
        words = {"no_icu_stay": "no_icu_stay (without an ICU stay, or cut off by source.max_stays)"} if is_cut else {}
        told = ", ".join(f"{words.get(rule, rule)} {number:,}" for rule, number in rules[:most])
        lines.append(f"{counted(dropped, 'row')} left out: {told}")
    if shift["share_beyond_reach"] > 0:
        lines.append(
            f"{100 * shift['share_beyond_reach']:.1f} % of the hours are later in the stay than the {shift['reach_hours']} h of the "
            "training windows; what is predicted there sees the last hours of the history only"
        )
    return lines


def distance_in_words(shift: Shift) -> str:
    """How far the values are from training's, in one figure: the median over the variables of the distance of their hourly values."""
    known = [found["distance"] for found in shift["variables"].values() if found["distance"] is not None]
    if not known:
        return f"distance from training's values: unknown, no variable has {MIN_VALUES} values on both sides"
    return (
        f"distance from training's values: {float(np.median(known)):.2f} (Kolmogorov–Smirnov, 0 equal to 1 disjoint; median over "
        f"{counted(len(known), 'variable')})"
    )


def _some(names: Sequence[str], most: int = 12) -> str:
    """The names, or the first of them and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _different_values(variables: Mapping[str, VariableShift], most: int) -> list[str]:
    """One line of the variables whose values differ most, by distance."""
    far = sorted(
        (name for name in variables if (variables[name]["distance"] or 0) >= 0.1), key=lambda name: -(variables[name]["distance"] or 0)
    )
    words = []
    for name in far[:most]:
        here, trained = variables[name]["here"]["percentiles"], variables[name]["trained_on"]["percentiles"]
        if here is not None and trained is not None:
            middle = PERCENTILES.index(50)
            words.append(f"{name} {variables[name]['distance']:.2f} (median {here[middle]:g}, in training {trained[middle]:g})")
    return [f"values that differ most (Kolmogorov–Smirnov distance): {', '.join(words)}"] if words else []
