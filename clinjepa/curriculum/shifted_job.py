"""What an encoder worker needs for the action texts of some stays with other doses (`shifted_embedding.py`), with a JSON form."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from clinjepa.curriculum.jobs import EmbedJob
from clinjepa.curriculum.settings import Settings


@dataclass(frozen=True)
class DoseShift(Settings):
    """Which stays, and how their action texts are changed."""

    SECTION: ClassVar[str] = "evaluation.drift"

    split: Literal["train", "tuning", "held_out"]
    """The stays that are evaluated."""
    factor: float
    """What every dose is multiplied by."""
    max_decimals: int
    """`text.max_decimals` of the ingest."""
    max_tokens: int
    """`tokenizer.max_tokens` of the trajectory store: longer texts are cut as there."""


@dataclass(frozen=True)
class ShiftedActionsJob(EmbedJob):
    """As a latent store's job, with the ingest that has the texts."""

    ingest: str = field(kw_only=True)
    """Ingest artifact of the trajectories."""
    shift: DoseShift = field(kw_only=True)
