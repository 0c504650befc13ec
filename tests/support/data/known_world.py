"""A world of ICU patients whose best forecast is known in closed form.

A patient is a linear-Gaussian system with an action: with the deviation x = s - `mean` and the dose a of hour t,
x_{t+1} = A x_t + B a_t + w, w ~ N(0, Q). The chart holds s rounded to whole numbers, so the best forecast is that of a Kalman filter
(R. E. Kalman, 1960) with the variance of rounding, 1/12, as its noise of observation. Patients are written as a source's tables, so that
the project's own ingest makes the hour texts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from tests.support.data.handmade_stays import INTIME, events_table, stays_table

ROUNDING_VARIANCE = 1.0 / 12.0
DRUG = "dopamine"


@dataclass(frozen=True)
class LinearWorld:
    """The system; V charted variables and one drug."""

    variables: tuple[str, ...] = ("map",)
    mean_V: np.ndarray = field(default_factory=lambda: np.array([58.0]))
    """Values without the drug, in the variables' units."""
    transition_VV: np.ndarray = field(default_factory=lambda: np.array([[0.8]]))
    effect_V: np.ndarray = field(default_factory=lambda: np.array([0.4]))
    """Change of the next hour's values per mcg/kg/min."""
    noise_V: np.ndarray = field(default_factory=lambda: np.array([1.0]))
    """Standard deviation of an hour's noise, independent between variables."""
    doses: tuple[float, ...] = (0.0, 5.0, 10.0, 15.0, 20.0)
    """Rates that are chosen from, in mcg/kg/min."""
    change_probability: float = 0.15
    """Chance that a new rate is chosen at the beginning of an hour."""


@dataclass(frozen=True)
class Patients:
    """N simulated stays of T hours."""

    charted_NTV: np.ndarray
    """Whole numbers, as written in the texts."""
    doses_NT: np.ndarray


def simulate(world: LinearWorld, num_patients: int, num_hours: int, seed: int) -> Patients:
    """Stays that begin in a state drawn from what a random rate held for long leads to."""
    generator = np.random.default_rng(seed)
    changes_NT = generator.random((num_patients, num_hours)) < world.change_probability
    drawn_NT = generator.choice(world.doses, (num_patients, num_hours))
    noise_NTV = generator.normal(size=(num_patients, num_hours, len(world.variables))) * world.noise_V
    dose_N = generator.choice(world.doses, num_patients)
    settled_V = np.linalg.solve(np.eye(len(world.variables)) - world.transition_VV, world.effect_V)
    x_NV = dose_N[:, None] * settled_V + generator.normal(size=(num_patients, len(world.variables))) * 2 * world.noise_V
    states, doses = [], []
    for t in range(num_hours):
        dose_N = np.where(changes_NT[:, t], drawn_NT[:, t], dose_N)
        states.append(world.mean_V + x_NV)
        doses.append(dose_N)
        x_NV = x_NV @ world.transition_VV.T + dose_N[:, None] * world.effect_V + noise_NTV[:, t]
    return Patients(np.rint(np.stack(states, axis=1)), np.stack(doses, axis=1))


def best_forecast(world: LinearWorld, patients: Patients, context_hours: int, num_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """The conditional mean of hours C..C+H-1 given the charted hours 0..C-1 and all actions, by a Kalman filter.

    Returns (mean_NHV, variance_HV): means and error variances of what will be charted, rounding included.
    """
    size = len(world.variables)
    a_VV, q_VV, r_VV = world.transition_VV, np.diag(world.noise_V**2), ROUNDING_VARIANCE * np.eye(size)
    x_NV, p_VV = patients.charted_NTV[:, 0] - world.mean_V, r_VV
    means, variances = [], []
    for t in range(1, context_hours + num_steps):
        x_NV = x_NV @ a_VV.T + patients.doses_NT[:, t - 1, None] * world.effect_V
        p_VV = a_VV @ p_VV @ a_VV.T + q_VV
        if t < context_hours:
            gain_VV = p_VV @ np.linalg.inv(p_VV + r_VV)
            x_NV = x_NV + (patients.charted_NTV[:, t] - world.mean_V - x_NV) @ gain_VV.T
            p_VV = (np.eye(size) - gain_VV) @ p_VV
        else:
            means.append(world.mean_V + x_NV)
            variances.append(np.diag(p_VV + r_VV))
    return np.stack(means, axis=1), np.stack(variances)


def source_tables(world: LinearWorld, patients: Patients) -> tuple[pa.Table, pa.Table]:
    """`stays` and `events` of the patients in the sources' schema; stay_id is the patient's row, one reading in the middle of each hour."""
    num_patients, num_hours, _ = patients.charted_NTV.shape
    hour = [INTIME + timedelta(hours=t) for t in range(num_hours + 1)]
    half = timedelta(minutes=30)
    stays = stays_table(*({"stay_id": n, "outtime": hour[-1]} for n in range(num_patients)))
    rows: list[dict[str, Any]] = []
    for n in range(num_patients):
        for t in range(num_hours):
            for v, name in enumerate(world.variables):
                rows.append({"stay_id": n, "time": hour[t] + half, "variable": name, "value": float(patients.charted_NTV[n, t, v])})
            if patients.doses_NT[n, t]:
                rate = float(patients.doses_NT[n, t])
                rows.append({"stay_id": n, "time": hour[t], "end_time": hour[t + 1], "variable": DRUG, "value": rate})
    return stays, events_table(*rows)
