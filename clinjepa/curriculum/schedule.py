"""The learning rate: one linear warmup and cosine to 0 over all phases together (Clin-JEPA, arXiv 2605.10840).

The encoder's group joins in joint refinement at the rate the schedule has then, optionally with a short additional warmup.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Learning-rate factors in [0, 1] by the number of the optimizer step, counted over all phases."""

    total_steps: int
    warmup_fraction: float
    encoder_first_step: int = 0
    """Step in which the encoder's group joins."""
    encoder_warmup_steps: int = 0
    """Length of the encoder's own linear warmup; 0 is none."""

    @property
    def warmup_steps(self) -> int:
        return round(self.warmup_fraction * self.total_steps)

    def predictor_factor(self, step: int) -> float:
        """Factor for step `step` (0 … total_steps − 1): rises to 1 over the warmup, then half a cosine that would be 0 at total_steps."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))

    def encoder_factor(self, step: int) -> float:
        """The same curve times the encoder's own warmup."""
        own = 1.0
        if self.encoder_warmup_steps:
            own = min(1.0, (step - self.encoder_first_step + 1) / self.encoder_warmup_steps)
        return own * self.predictor_factor(step)
