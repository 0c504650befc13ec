"""Rollout drift: the distance between an autoregressive rollout and the latents of the recorded hours.

A rollout starts after C given hours and is fed the recorded actions. At horizon h it is compared with the latent of hour C + h − 1
(h = 1 is the first hour not given). Windows begin at several hours of a stay, so that the horizon is not mixed with the hour of the stay.

Every horizon has all the windows that reach it. A *change* from 1 h to h is over the windows that reach h, on both sides: the sets are
nested, and a change never compares different patients. Source: Clin-JEPA (arXiv 2605.10840), evaluation of rollouts; its code averages
each horizon over the windows that still live then, which is given beside as `drift_survivors`.

A change has two exact factors: L1(h) / L1(1) = [M(h) / M(1)] · [r(h) / r(1)], with M the L1 of the training mean latent on the same hours
and r = L1 / M. The first is how the space itself changes (below 1 it shrinks), the second how the prediction does against a constant.

Near-constant predictions drift little. Therefore the centred cosine, the variance around the training mean, two controls without a model,
and rollouts with wrong actions are measured too: a model that uses the actions gets worse with those of another patient, and with other
doses (`drift_doses.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NotRequired, TypedDict

import numpy as np
import pyarrow as pa

from clinjepa.config.schema import DriftConfig
from clinjepa.errors import EvaluationError
from clinjepa.evaluation.drift_doses import OTHER_DOSES, DoseHorizon, LatentsWithDoses, OtherDoses, dose_horizon, fed_before, other_doses
from clinjepa.evaluation.drift_windows import CONTROLS, MODEL, WRONG_ACTIONS, Measured, Windows, drift_windows, measure_windows
from clinjepa.evaluation.figures import Figure
from clinjepa.evaluation.resampling import PatientBootstrap, ratio
from clinjepa.evaluation.space import Latents, stays_of, train_mean_latent, trained_windows
from clinjepa.model.predictor import Predictor

MIN_PATIENTS = 5
"""A horizon that fewer patients reach is not reported."""
MIN_HEADLINE_PATIENTS = 30
"""The drift of a context is that of the longest horizon with this many patients, or of the longest horizon where none has as many."""
BATCH_SIZE = 64
"""Windows of one rollout."""
_NO_REFERENCE = "the reference error is zero: the latents are constant"


class Horizon(TypedDict):
    """Measures at one horizon over all windows that reach it; None where the reference is 0 or too few patients reach the horizon."""

    l1: Figure | None
    """Mean over windows of the L1 summed over D, latent units."""
    l1_per_dimension: Figure | None
    """The same over D."""
    centred_cosine: Figure | None
    """Mean cosine after the training mean latent is subtracted from both sides."""
    norm_ratio: Figure | None
    """Mean of |z_predicted| / |z|."""
    variance_ratio: Figure | None
    """Mean squared distance of the predictions to the training mean latent over that of the real latents."""
    mase: Figure | None
    """L1 over the L1 of repeating the last given hour's latent."""
    vs_mean: Figure | None
    """L1 over the L1 of the training mean latent."""
    change: Figure | None
    """L1(h) / L1(1) − 1 over the windows that reach h."""
    change_of_space: Figure | None
    """M(h) / M(1) − 1 over the same windows; (1 + change) = (1 + change_of_space) · (1 + change_of_prediction)."""
    change_of_prediction: Figure | None
    num_windows: int
    reason: NotRequired[str]
    """Why a measure is None."""


class Curve(TypedDict):
    """Measures of one method by horizon in hours, and its drift: the change at h_max."""

    horizons: dict[str, Horizon]
    drift: Figure | None
    reason: NotRequired[str]
    """Why `drift` is None."""


class Start(TypedDict):
    """Windows that begin at one hour of the stay."""

    vs_mean: Figure | None
    """At horizon 1."""
    drift: Figure | None
    """Change at the context's h_max."""
    num_windows: int
    reason: NotRequired[str]


class ContextDrift(Curve):
    """The model's curve after one context, with the controls' curves."""

    h_max: int | None
    """Longest horizon that MIN_HEADLINE_PATIENTS patients reach, else the longest that MIN_PATIENTS patients reach, hours."""
    num_stays: int
    """Stays with a window that reaches h_max."""
    drift_survivors: Figure | None
    """L1(h_max) of the windows that reach h_max over L1(1) of all windows, − 1: different patients on both sides."""
    starts: dict[str, Start]
    """{hour of the stay at which a window begins: figures}."""
    actions: dict[str, dict[str, Figure | None]]
    """{version of the later actions: {horizon: L1 with it over L1 with the recorded actions, − 1}}, over all windows."""
    other_doses: NotRequired[OtherDoses]
    """The version with other doses over the windows with a dose; where `evaluation.drift.dose_factor` is set."""
    controls: dict[str, Curve]


def evaluate_drift(
    predictor: Predictor,
    latents: Latents,
    stays: pa.Table,
    settings: DriftConfig,
    *,
    split: str = "held_out",
    seed: int = 0,
    mean_D: np.ndarray | None = None,
) -> dict[str, ContextDrift]:
    """{context in hours: drift curves}, computed on the predictor's device. No position is read that training could not reach.

    Args:
        predictor: The trained predictor; it is set to evaluation mode.
        latents: Latents of the stays, from the encoder that the predictor was trained with; `LatentsWithDoses` also measures the
            rollouts with other doses.
        stays: Stays with stay_id, subject_id, split, num_hours.
        settings: Contexts, starts, horizons and number of bootstrap draws.
        split: The split that is evaluated.
        seed: Seed of the bootstrap, of the training mean's sample, and of the draw of other patients' actions.
        mean_D: Training mean latent that an earlier evaluation kept (`fitted_files.read_mean`); then no training stay is read. None: it is
            computed from the training stays.

    Raises:
        EvaluationError: A prediction is NaN or infinite, or the mean latent has another width.
    """
    if mean_D is None:
        mean_D = train_mean_latent(latents, stays, seed=seed)
    if mean_D.shape != (latents.dim,):
        raise EvaluationError(
            f"the training mean latent has {len(mean_D)} values, the latents {latents.dim}; give that of the same encoder"
        )
    chosen = stays_of(stays, split)
    predictor = predictor.eval()
    wanted = sorted({1, *settings.horizons})
    result: dict[str, ContextDrift] = {}
    for context in settings.contexts:
        windows = drift_windows(chosen, context, settings.starts, predictor.spec.reach_hours + 1, wanted[-1])
        reached = [h for h in wanted if windows.num_patients(h) >= MIN_PATIENTS]
        unreached = {str(h): _unknown_horizon(_too_few(predictor, context, h)) for h in wanted if h not in reached}
        if not reached:
            result[str(context)] = _unreached(unreached, _too_few(predictor, context, 1))
            continue
        measured = measure_windows(predictor, latents, windows, reached, mean_D, seed, BATCH_SIZE)
        draws = PatientBootstrap(windows.subject_W, settings.num_bootstrap, seed)
        figures = _Context(windows, reached, measured, draws, latents.dim)
        found = figures.result()
        if isinstance(latents, LatentsWithDoses):
            found["actions"][OTHER_DOSES] = figures.wrong(OTHER_DOSES)
            found["other_doses"] = other_doses(latents.changed, figures.doses())
        found["horizons"].update(unreached)
        result[str(context)] = found
    return result


def _too_few(predictor: Predictor, context: int, horizon: int) -> str:
    if context + horizon > predictor.spec.reach_hours + 1:
        return f"{context} + {horizon} h are beyond the predictor's reach: {trained_windows(predictor.spec)}"
    return f"fewer than {MIN_PATIENTS} patients have {context} + {horizon} h"


def _unreached(horizons: dict[str, Horizon], reason: str) -> ContextDrift:
    return {
        "h_max": None,
        "num_stays": 0,
        "horizons": horizons,
        "controls": {},
        "drift": None,
        "drift_survivors": None,
        "starts": {},
        "actions": {},
        "reason": reason,
    }


def _unknown_horizon(reason: str) -> Horizon:
    return {
        "l1": None,
        "l1_per_dimension": None,
        "centred_cosine": None,
        "norm_ratio": None,
        "variance_ratio": None,
        "mase": None,
        "vs_mean": None,
        "change": None,
        "change_of_space": None,
        "change_of_prediction": None,
        "num_windows": 0,
        "reason": reason,
    }


@dataclass(frozen=True)
class _Context:
    """The figures of one context, all from the same draws of patients."""

    windows: Windows
    horizons: Sequence[int]
    measured: Measured
    draws: PatientBootstrap
    dim: int

    def result(self) -> ContextDrift:
        h_max = max((h for h in self.horizons if self.windows.num_patients(h) >= MIN_HEADLINE_PATIENTS), default=self.horizons[-1])
        reaching_W = self._reaching(h_max)
        survivors_R = ratio(self._l1(MODEL, h_max, reaching_W), self._count(reaching_W))
        survivors_R = ratio(survivors_R, ratio(self._l1(MODEL, 1, self._reaching(1)), self._count(self._reaching(1)))) - 1
        return {
            "h_max": h_max,
            "num_stays": len(np.unique(self.windows.stay_W[reaching_W])),
            **self._curve(MODEL, h_max),  # type: ignore[typeddict-item]  # a Curve has no `other_doses`
            "drift_survivors": self.draws.figure(survivors_R, reaching_W) if h_max > 1 else None,
            "starts": {str(start): self._start(int(start), h_max) for start in np.unique(self.windows.start_W)},
            "actions": {name: self.wrong(name) for name in WRONG_ACTIONS},
            "controls": {name: self._curve(name, h_max) for name in CONTROLS},
        }

    def wrong(self, actions: str) -> dict[str, Figure | None]:
        """Of one version of the later actions, by horizon, over all windows."""
        return {str(h): self._wrong(actions, h, self._reaching(h)) for h in self.horizons if h > 1}

    def doses(self) -> dict[str, DoseHorizon]:
        """With other doses, by horizon, over the windows with a dose."""
        found = {}
        for h in (each for each in self.horizons if each > 1):
            of_W = self._reaching(h) & fed_before(self.measured.first_change_W, h)
            found[str(h)] = dose_horizon(of_W, self.windows.subject_W, MIN_PATIENTS, partial(self._wrong, OTHER_DOSES, h))
        return found

    def _reaching(self, horizon: int) -> np.ndarray:
        return self.windows.reach_W >= horizon

    def _sum(self, values_WH: np.ndarray, horizon: int, of_W: np.ndarray) -> np.ndarray:
        return self.draws.total(values_WH[:, self.horizons.index(horizon)], of_W)

    def _l1(self, method: str, horizon: int, of_W: np.ndarray) -> np.ndarray:
        return self._sum(self.measured.errors[method].l1_WH, horizon, of_W)

    def _count(self, of_W: np.ndarray) -> np.ndarray:
        return self.draws.total(np.ones(len(of_W)), of_W)

    def _curve(self, method: str, h_max: int) -> Curve:
        horizons = {str(h): self._horizon(method, h) for h in self.horizons}
        if h_max == 1:
            return {
                "horizons": horizons,
                "drift": None,
                "reason": f"fewer than {MIN_HEADLINE_PATIENTS} patients have windows that reach beyond 1 h",
            }
        drift = horizons[str(h_max)]["change"]
        if drift is None:
            return {"horizons": horizons, "drift": None, "reason": "the error at 1 h is exactly 0"}
        return {"horizons": horizons, "drift": drift}

    def _horizon(self, method: str, h: int) -> Horizon:
        of_W = self._reaching(h)
        errors, measured = self.measured.errors[method], self.measured
        l1_R, count_R, mean_R = self._l1(method, h, of_W), self._count(of_W), self._sum(measured.mean_l1_WH, h, of_W)
        change_R = ratio(l1_R, self._l1(method, 1, of_W))
        space_R = ratio(mean_R, self._sum(measured.mean_l1_WH, 1, of_W))
        values = {
            "l1": ratio(l1_R, count_R),
            "l1_per_dimension": ratio(l1_R / self.dim, count_R),
            "centred_cosine": ratio(self._sum(errors.cosine_WH, h, of_W), count_R),
            "norm_ratio": ratio(self._sum(errors.norm_ratio_WH, h, of_W), count_R),
            "variance_ratio": ratio(self._sum(errors.spread_WH, h, of_W), self._sum(measured.spread_WH, h, of_W)),
            "mase": ratio(l1_R, self._l1("copy_forward", h, of_W)),
            "vs_mean": ratio(l1_R, mean_R),
            "change": change_R - 1,
            "change_of_space": space_R - 1,
            "change_of_prediction": ratio(change_R, space_R) - 1,
        }
        figures = {name: self.draws.figure(values_R, of_W) for name, values_R in values.items()}
        found: Horizon = {**_unknown_horizon(_NO_REFERENCE), **figures, "num_windows": int(of_W.sum())}  # type: ignore[typeddict-item]  # the names are Horizon's
        if None not in figures.values():
            del found["reason"]
        return found

    def _start(self, start: int, h_max: int) -> Start:
        of_W = self.windows.start_W == start
        reaching_W = of_W & self._reaching(h_max)
        vs_mean_R = ratio(self._l1(MODEL, 1, of_W), self._sum(self.measured.mean_l1_WH, 1, of_W))
        found: Start = {"vs_mean": self.draws.figure(vs_mean_R, of_W), "drift": None, "num_windows": int(of_W.sum())}
        if len(np.unique(self.windows.subject_W[reaching_W])) < MIN_PATIENTS:
            return {**found, "reason": f"fewer than {MIN_PATIENTS} patients have {start} + {self.windows.context} + {h_max} h"}
        change_R = ratio(self._l1(MODEL, h_max, reaching_W), self._l1(MODEL, 1, reaching_W)) - 1
        found["drift"] = self.draws.figure(change_R, reaching_W)
        return found if found["drift"] is not None else {**found, "reason": _NO_REFERENCE}

    def _wrong(self, actions: str, h: int, of_W: np.ndarray) -> Figure | None:
        return self.draws.figure(ratio(self._l1(actions, h, of_W), self._l1(MODEL, h, of_W)) - 1, of_W)
