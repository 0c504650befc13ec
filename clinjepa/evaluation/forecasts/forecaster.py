"""What a forecast evaluation fitted, as one object in two files: it makes forecasts of other patients without training or tuning data.

`forecaster.safetensors` holds (H horizons, V variables, D the width of a latent, S steps):

| tensor | contents |
|---|---|
| `decoder.mean_D`, `decoder.scale_D`, `decoder.weights_DV`, `decoder.bias_V` | values of an hour from its latent, float32 |
| `train_mean_V` | mean of each variable over the training hours, float32 |
| `ranges_V2` | lowest and highest plausible value of each variable, by the dictionary at the time of the fit, float32 |
| `errors.<method>` | sorted errors of all predictive distributions, one after another by horizon, variable and group, float32 |
| `error_counts.<method>` [H, V, 3] | errors of each group, 0 for a group that the kind does not have, int64 |
| `levels.<method>` [H, V, 2] | levels between the groups of `by_level`, NaN for other kinds, float64 |
| `paths.<method>` [J, hours, V] | errors of J tuning windows in hours 1, 2, … after the history, NaN where not measured, float32 |
| `heads.<horizon>.mean_D`, `.scale_D`, `.weights_DV`, `.bias_V` | log-odds that a variable is measured; none where none could be fitted |

`forecaster.json` holds `schema_version`, `sha256` (of the content of both files), `variables`, `units`, `context` (given hours),
`horizons`, `steps` (hours after the history that are rolled out), `latent_dim`, `encoder_digest` (or null), and `kinds` {method:
[horizon][variable] kind of distribution or null}.

Errors are those of tuning patients, without ids or times: keep the files where the data may be kept. Loading needs numpy and safetensors.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from clinjepa.errors import EvaluationError
from clinjepa.evaluation.downstream.probe_rows import Standardiser
from clinjepa.evaluation.fitted_files import misfit, packed, unpacked, write_files
from clinjepa.evaluation.forecasts.points.readouts import Decoder, MeasuredHead
from clinjepa.evaluation.forecasts.result import LAST_VALUE, MODEL, TRAIN_MEAN
from clinjepa.evaluation.forecasts.scoring.distributions import (
    KINDS,
    NUM_GROUPS,
    Distribution,
    Estimates,
    PlausibleRange,
    Shown,
    shown,
)

if TYPE_CHECKING:
    from clinjepa.storage import Folder

SCHEMA_VERSION = 2
NAME = "forecaster"
_MOST_GROUPS = 3
ByHorizon = list[list[Distribution | None]]
"""[horizon][variable]; None where there were too few errors."""


@dataclass(frozen=True)
class Steps:
    """Hours after a history of `context` given hours: steps_S, ascending, all that are rolled out; `horizons`, those that are forecast."""

    context: int
    horizons: list[int]
    steps_S: np.ndarray

    @property
    def at_H(self) -> np.ndarray:
        """Places of the horizons among the steps."""
        return np.searchsorted(self.steps_S, self.horizons)

    @property
    def num_path_hours(self) -> int:
        """Hours 1 … n after the history that are all steps."""
        return int((self.steps_S == np.arange(1, len(self.steps_S) + 1)).sum())

    def why_no_path(self, ahead: int) -> str | None:
        """Why hours 1 … `ahead` of an event task cannot be simulated; None where they can."""
        hours = self.num_path_hours
        return f"the forecaster has errors of {hours} h in a row, and the task looks {ahead} h ahead" if ahead > hours else None


@dataclass(frozen=True)
class Forecaster:
    """Fitted parts of the forecasts of V variables, for rollouts of one predictor in the latent space of its encoder."""

    names: list[str]
    units: list[str]
    steps: Steps
    decoder: Decoder
    mean_V: np.ndarray
    """Mean over the training hours in each variable's unit, float32."""
    ranges_V2: np.ndarray
    """Plausible range of each variable in its unit, float32, by the dictionary that the run was fitted with: no forecast lies outside."""
    distributions: Mapping[str, ByHorizon]
    """Predictive distributions of each method that was compared, around its estimates, from its errors on tuning windows."""
    heads: list[MeasuredHead | None]
    """Which variables are measured at each horizon; None where no training or tuning window reaches it."""
    paths: Mapping[str, np.ndarray]
    """{method: errors [J, hours, V] of tuning windows}: the paths of event probabilities."""
    encoder_digest: str | None = None
    """Content digest of the encoder of the latents; None where they did not tell."""

    @property
    def latent_dim(self) -> int:
        """Width D of the latents."""
        return len(self.decoder.standardise.mean_F)

    def shown(self, estimate_PHV: np.ndarray, hours_since_PV: np.ndarray, level_PHV: np.ndarray | None = None) -> Shown:
        """Point forecasts and intervals [P, H, V], with the levels first for the intervals, of the model's estimates at P points.

        Args:
            estimate_PHV: What the decoder reads from the rolled-out latents at the H horizons, in the variables' units.
            hours_since_PV: Hours since each variable was measured; inf where it never was.
            level_PHV: Estimates whose level chooses the errors; None for estimate_PHV itself.
        """
        levels = [None if level_PHV is None else level_PHV[:, place] for place in range(len(self.steps.horizons))]
        found = [self._shown(place, estimate_PHV[:, place], hours_since_PV, level_PV) for place, level_PV in enumerate(levels)]
        return Shown(*(np.stack(parts, axis=-2) for parts in zip(*found, strict=True)))

    def shown_ahead(self, horizon: int, z_PD: np.ndarray, hours_since_PV: np.ndarray | None = None) -> Shown:
        """Point forecasts and intervals [P, V] one horizon ahead.

        Args:
            horizon: One of the horizons, hours after the history.
            z_PD: Rolled-out latents of that hour.
            hours_since_PV: As for `shown`; None: every variable was measured in the last known hour.

        Raises:
            EvaluationError: The horizon is none of this forecaster.
        """
        if horizon not in self.steps.horizons:
            raise EvaluationError(f"the forecaster has no horizon of {horizon} h; it has {', '.join(map(str, self.steps.horizons))}")
        known_PV = np.zeros((len(z_PD), len(self.names))) if hours_since_PV is None else hours_since_PV
        return self._shown(self.steps.horizons.index(horizon), self.decoder(z_PD), known_PV, None)

    def _shown(self, place: int, estimate_PV: np.ndarray, hours_since_PV: np.ndarray, level_PV: np.ndarray | None) -> Shown:
        """What is shown at one horizon, variable by variable."""
        unknown_P, found = np.full(len(estimate_PV), np.nan), []
        for column, own in enumerate(self.distributions[MODEL][place]):
            level_P = None if level_PV is None else level_PV[:, column]
            estimates = Estimates(estimate_PV[:, column], unknown_P, hours_since_PV[:, column], unknown_P, level_P)
            found.append(shown(own, PlausibleRange(*self.ranges_V2[column].tolist()), estimates))
        return Shown(*(np.stack(parts, axis=-1) for parts in zip(*found, strict=True)))

    def files(self) -> dict[str, bytes]:
        """Content of `forecaster.safetensors` and `forecaster.json` by file name."""
        tensors = {f"decoder.{name}": part for name, part in _readout_tensors(self.decoder).items()}
        tensors |= {"train_mean_V": self.mean_V, "ranges_V2": self.ranges_V2}
        for method, own in self.distributions.items():
            tensors |= {f"{part}.{method}": values for part, values in _distribution_tensors(own).items()}
        for method, error_JHV in self.paths.items():
            tensors[f"paths.{method}"] = error_JHV.astype(np.float32)
        for horizon, head in zip(self.steps.horizons, self.heads, strict=True):
            if head is not None:
                tensors |= {f"heads.{horizon}.{name}": part for name, part in _readout_tensors(head).items()}
        described = {
            "variables": self.names,
            "units": self.units,
            "context": self.steps.context,
            "horizons": self.steps.horizons,
            "steps": self.steps.steps_S.tolist(),
            "latent_dim": self.latent_dim,
            "encoder_digest": self.encoder_digest,
            "kinds": {
                method: [[one.kind if one is not None else None for one in of_V] for of_V in own]
                for method, own in self.distributions.items()
            },
        }
        return packed(NAME, SCHEMA_VERSION, described, tensors)

    def write(self, folder: Folder) -> None:
        """Write `forecaster.safetensors`, then `forecaster.json`."""
        write_files(folder, self.files())

    @classmethod
    def read(cls, folder: Folder | str | os.PathLike[str]) -> Forecaster:
        """The forecaster that `write` wrote, bit for bit. folder: a `Folder`, or a local folder, which needs no library but numpy and
        safetensors.

        Raises:
            StoreError: A file is missing, truncated, altered or of another version.
        """
        found = unpacked(folder, NAME, SCHEMA_VERSION)
        try:
            return _restored(found.described, found.tensors)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError):
            raise misfit(found.where) from None


def _readout_tensors(readout: Decoder | MeasuredHead) -> dict[str, np.ndarray]:
    return {
        "mean_D": readout.standardise.mean_F,
        "scale_D": readout.standardise.scale_F,
        "weights_DV": readout.weights_DV,
        "bias_V": readout.bias_V,
    }


def _distribution_tensors(own: ByHorizon) -> dict[str, np.ndarray]:
    """Errors are differences of float32 values, so float32 holds them exactly."""
    counts_HVG = np.zeros((len(own), len(own[0]), _MOST_GROUPS), dtype=np.int64)
    levels_HV2 = np.full((*counts_HVG.shape[:2], 2), np.nan)
    errors = [np.zeros(0, dtype=np.float32)]
    for place in np.ndindex(counts_HVG.shape[:2]):
        one = own[place[0]][place[1]]
        if one is not None:
            counts_HVG[place][: len(one.errors)] = [len(group) for group in one.errors]
            levels_HV2[place][: len(one.levels)] = one.levels
            errors += [group.astype(np.float32) for group in one.errors]
    return {"errors": np.concatenate(errors), "error_counts": counts_HVG, "levels": levels_HV2}


def _restored(described: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> Forecaster:
    """The forecaster of two files. Raises ValueError, KeyError, TypeError, IndexError or AttributeError where they do not fit."""
    names, horizons, dim = list(described["variables"]), list(described["horizons"]), int(described["latent_dim"])
    steps = Steps(int(described["context"]), horizons, np.array(described["steps"], dtype=np.int64))
    shape = (dim, len(names))

    def readout(prefix: str) -> tuple[Standardiser, np.ndarray, np.ndarray]:
        mean_D, scale_D, weights_DV, bias_V = (tensors[f"{prefix}.{name}"] for name in ("mean_D", "scale_D", "weights_DV", "bias_V"))
        _check(mean_D.shape == scale_D.shape == (dim,) and weights_DV.shape == shape and bias_V.shape == shape[1:])
        return Standardiser(mean_D, scale_D), weights_DV, bias_V

    _check(tensors["ranges_V2"].shape == (len(names), 2) and bool((tensors["ranges_V2"][:, 0] <= tensors["ranges_V2"][:, 1]).all()))
    distributions = {method: _distributions(kinds, method, tensors) for method, kinds in described["kinds"].items()}
    paths = {key.removeprefix("paths."): part for key, part in tensors.items() if key.startswith("paths.")}
    heads = [MeasuredHead(*readout(f"heads.{h}")) if f"heads.{h}.mean_D" in tensors else None for h in horizons]
    _check(set(horizons) <= set(steps.steps_S.tolist()) and len(described["units"]) == len(names) == len(tensors["train_mean_V"]))
    _check(distributions.keys() >= {MODEL, LAST_VALUE, TRAIN_MEAN} and paths.keys() >= {MODEL, LAST_VALUE})
    _check(all(len(own) == len(horizons) for own in distributions.values()))
    _check(all(part.shape[1:] == (steps.num_path_hours, len(names)) for part in paths.values()))
    decoder, units, encoder = Decoder(*readout("decoder")), list(described["units"]), described["encoder_digest"]
    return Forecaster(names, units, steps, decoder, tensors["train_mean_V"], tensors["ranges_V2"], distributions, heads, paths, encoder)


def _distributions(kinds: list[list[Any]], method: str, tensors: Mapping[str, np.ndarray]) -> ByHorizon:
    errors, counts_HVG, levels_HV2 = (tensors[f"{part}.{method}"] for part in ("errors", "error_counts", "levels"))
    ranges = [PlausibleRange(*each) for each in tensors["ranges_V2"].tolist()]
    num_variables = len(ranges)
    _check(counts_HVG.shape == (len(kinds), num_variables, _MOST_GROUPS) and levels_HV2.shape == (*counts_HVG.shape[:2], 2))
    _check(int(counts_HVG.sum()) == len(errors))
    groups = np.split(errors.astype(np.float64), np.cumsum(counts_HVG.ravel())[:-1])
    found: ByHorizon = []
    for row, of_V in enumerate(kinds):
        found.append([])
        for column, kind in enumerate(of_V):
            begin = (row * num_variables + column) * _MOST_GROUPS
            own = [group for group in groups[begin : begin + _MOST_GROUPS] if len(group)]
            _check(len(own) == (0 if kind is None else NUM_GROUPS.get(kind, 1)) and kind in (None, *KINDS))
            levels = levels_HV2[row, column] if kind == "by_level" else np.zeros(0)
            found[-1].append(None if kind is None else Distribution(kind, levels, own, ranges[column]))
    return found


def _check(fits: bool) -> None:
    if not fits:
        raise ValueError("the files of a forecaster contradict each other")
