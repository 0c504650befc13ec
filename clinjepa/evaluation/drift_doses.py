"""Rollouts with other doses: latents whose later actions have their doses multiplied, and the figures of these rollouts.

The actions come from the store of changed actions (`clinjepa/trajectory/tokens/changed_actions.py`), which has the hours whose action text
changed. A window without such an hour cannot get worse, so the figures over the windows with one stand beside those over all windows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NotRequired, Protocol, TypedDict

import numpy as np

from clinjepa.evaluation.figures import Figure
from clinjepa.trajectory.tokens.changed_actions import Origin, ShiftCounts

if TYPE_CHECKING:
    from clinjepa.evaluation.space import Latents  # it imports torch, which a report is written without

OTHER_DOSES = "other_doses"
"""The rollout with the recorded actions, their doses multiplied."""
NO_CHANGE = -1
"""Instead of the first hour with another dose, in a window without one."""


class ChangedActions(Protocol):
    """What evaluation needs of a store of changed actions (`ChangedActionReader`)."""

    @property
    def origin(self) -> Origin: ...

    @property
    def counts(self) -> ShiftCounts: ...

    def stay(self, stay_id: int) -> tuple[np.ndarray, np.ndarray]:
        """(hours_N whose action changed, ascending; their latents z_ND, float32)."""
        ...


@dataclass(frozen=True)
class LatentsWithDoses:
    """Latents, and a second version of their actions with other doses."""

    latents: Latents
    changed: ChangedActions

    @property
    def dim(self) -> int:
        return self.latents.dim

    def stay(self, stay_id: int, start_hour: int = 0, num_hours: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As of `Latents`: the recorded version."""
        return self.latents.stay(stay_id, start_hour, num_hours)

    def other_actions(self, stay_id: int, start_hour: int, context: int, z_action_TD: np.ndarray) -> tuple[np.ndarray, int]:
        """The actions of a window with other doses after its context.

        Args:
            stay_id: the stay.
            start_hour: hour of the stay at which the window begins.
            context: given hours, whose actions stay as they were recorded.
            z_action_TD: recorded actions of the window's hours.

        Returns:
            (z_TD; hours from the end of the context to the first action that changed, or NO_CHANGE).
        """
        hours_N, z_ND = self.changed.stay(stay_id)
        later_N = (hours_N >= start_hour + context) & (hours_N < start_hour + len(z_action_TD))
        if not later_N.any():
            return z_action_TD, NO_CHANGE
        other_TD = z_action_TD.copy()
        other_TD[hours_N[later_N] - start_hour] = z_ND[later_N]
        return other_TD, int(hours_N[later_N][0]) - start_hour - context


class DoseHorizon(TypedDict):
    """One horizon, over the windows with another dose among the actions that the rollout is fed until then."""

    change: Figure | None
    """L1 with the other doses over L1 with the recorded actions, − 1."""
    num_windows: int
    reason: NotRequired[str]
    """Why `change` is None."""


class OtherDoses(TypedDict):
    """Rollouts with other doses beyond the figures over all windows, which stand among the wrong actions."""

    factor: float
    """What every dose was multiplied by."""
    num_hours: int
    """Hours of the evaluated stays."""
    num_changed: int
    """Hours of them whose action text changed."""
    num_unread: int
    """Phrases with a number that could not be read and stayed as they were."""
    horizons: dict[str, DoseHorizon]
    """By horizon in hours, without the first, which follows the last given action."""


def other_doses(changed: ChangedActions, horizons: dict[str, DoseHorizon]) -> OtherDoses:
    """The record of the rollouts with other doses."""
    counts = changed.counts
    return {
        "factor": changed.origin.factor,
        "num_hours": counts["num_hours"],
        "num_changed": counts["num_changed"],
        "num_unread": counts["num_unread"],
        "horizons": horizons,
    }


def dose_horizon(of_W: np.ndarray, subject_W: np.ndarray, min_patients: int, change: Callable[[np.ndarray], Figure | None]) -> DoseHorizon:
    """The figure over the windows with another dose.

    Args:
        of_W: bool, windows that reach the horizon and have another dose before it.
        subject_W: patient of each window.
        min_patients: fewer patients have no figure.
        change: the figure over some windows; None where the error with the recorded actions is 0.
    """
    num_windows = int(of_W.sum())
    if len(np.unique(subject_W[of_W])) < min_patients:
        reason = f"fewer than {min_patients} patients have a dose between the history and this horizon"
        return {"change": None, "num_windows": num_windows, "reason": reason}
    found = change(of_W)
    if found is None:
        return {"change": None, "num_windows": num_windows, "reason": "the error with the recorded actions is exactly 0"}
    return {"change": found, "num_windows": num_windows}


def fed_before(first_change_W: np.ndarray, horizon: int) -> np.ndarray:
    """Windows, as bool, whose rollout to `horizon` is fed an action with another dose: those of hours C to C + horizon − 2."""
    fed_W: np.ndarray = (first_change_W != NO_CHANGE) & (first_change_W <= horizon - 2)
    return fed_W
