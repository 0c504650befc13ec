"""What a loss term reads of a micro-batch, and the sizes from which a term's head is made. Imports torch for type checkers only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor, nn

    from clinjepa.model.losses import TeacherForced
    from clinjepa.model.predictor import Predictor


class HourNumbers(NamedTuple):
    """Measured numbers of the hours in state texts, for V variables (`clinjepa/trajectory/hour_values.py`)."""

    values_BTV: Tensor
    """In standard deviations from the mean, both of the training hours; 0 where not measured."""
    measured_BTV: Tensor
    """bool; False in the padding, and everywhere for a variable that training hours lack."""
    rate_V: Tensor
    """Share of the training hours with a value; 0 for a variable that is in no loss."""


@dataclass(frozen=True)
class TermInputs:
    """A micro-batch of B windows padded to T hours, with latents of width D.

    Torch's global generator is seeded by (seed, step, micro-batch) before the terms of a micro-batch are computed, in the order of the
    loss, so random draws do not depend on the number of workers.
    """

    valid_BT: Tensor
    """bool, False = padding."""
    z_static_BD: Tensor
    z_state_BTD: Tensor
    z_action_BTD: Tensor
    """Online latents; 0 in the padding. Where the encoder trains, gradients flow into them."""
    target_BTD: Tensor
    """Latents of the states by the phase's target encoder; without gradient unless the phase sets target_gradient."""
    start_B: Tensor
    """int64, last recorded hour of each window's rollout; -1 for a window that is too short."""
    rollout: str
    """The phase's `rollout`."""
    rollout_steps: int
    step_seed: int
    """A function of (seed, step): the same for all micro-batches and workers of a step."""
    predictor: Predictor | None = None
    window: TeacherForced | None = None
    """The predictor's outputs and cache for the whole window: pred_BTD (pred[:, t] is the prediction of hour t + 1) and cache."""
    hidden_BTH: Tensor | None = None
    """The predictor's last hidden state at every state."""
    values: HourNumbers | None = None
    """What was measured in the hours; where a term of the phase reads it."""
    head: nn.Module | None = None
    """The term's head."""

    @property
    def predictions(self) -> tuple[Predictor, TeacherForced, Tensor]:
        """(predictor, its outputs for the window, its hidden states). Raises ValueError in a phase without a predictor."""
        if self.predictor is None or self.window is None or self.hidden_BTH is None:
            raise ValueError("this phase runs no predictor; the term's entry must say that it reads one")
        return self.predictor, self.window, self.hidden_BTH

    @property
    def hour_values(self) -> HourNumbers:
        """The measured numbers of the hours. Raises ValueError for a term whose entry does not say that it reads them."""
        if self.values is None:
            raise ValueError("the hours' values are not read; the term's entry must have values in reads")
        return self.values

    def require_head(self) -> Callable[..., Tensor]:
        """The head. Raises ValueError for a term without one."""
        if self.head is None:
            raise ValueError("this term has no head; its entry must name one")
        return self.head


class HeadSizes(NamedTuple):
    """Sizes from which a head is made."""

    latent_dim: int
    hidden_size: int
    """Width of the predictor's hidden states."""
    max_hours: int
    """Longest window."""
    num_values: int = 0
    """Variables V of the hours' values; 0 where no term of the phase reads them."""
