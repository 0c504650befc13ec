"""Micro-batches of SFT: hour texts of the plan, end to end, as safetensors bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property

import numpy as np
import pyarrow as pa

from clinjepa.curriculum.feed.collating import end_to_end
from clinjepa.curriculum.feed.payload import payload
from clinjepa.curriculum.feed.text_plan import TextPlan, open_text_plan
from clinjepa.curriculum.feed.window_batches import CACHED_ROW_GROUPS
from clinjepa.curriculum.jobs import SftJob
from clinjepa.storage import Folder
from clinjepa.trajectory.tokens.trajectory_store import TrajectoryReader


class TextBatches:
    """Micro-batches of SFT's plan. Opens the store at first use and keeps its reader; raises StoreError for a torn store."""

    def __init__(self, job: SftJob) -> None:
        self.job = job

    def __call__(self, step: int, micro: int) -> pa.Buffer:
        """Micro-batch `micro` of step `step`."""
        return next(self.in_order([(step, micro)]))

    def in_order(self, places: Iterable[tuple[int, int]]) -> Iterator[pa.Buffer]:
        """As `__call__` for each (step, micro), in order."""
        for step, micro in places:
            yield payload(end_to_end([self._text(stay_id, text) for stay_id, text in self.plan.micro(step, micro)]))

    @cached_property
    def trajectories(self) -> TrajectoryReader:
        return TrajectoryReader(Folder(self.job.trajectories), cached_row_groups=CACHED_ROW_GROUPS)

    @cached_property
    def plan(self) -> TextPlan:
        """SFT's plan over the texts of the training stays."""
        return open_text_plan(self.job)

    def _text(self, stay_id: int, text: int) -> np.ndarray:
        """Tokens of text number `text` of a stay: its static text, then states, then actions."""
        stay = self.trajectories.stay(stay_id)
        hours = len(stay.states)
        if text == 0:
            return stay.static
        return stay.states[text - 1] if text <= hours else stay.actions[text - 1 - hours]
