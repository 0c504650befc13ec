"""Micro-batches of a phase: windows of the plan, with the latents or texts that the phase needs, as safetensors bytes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from functools import cached_property

import numpy as np
import pyarrow as pa

from clinjepa.curriculum.feed.collating import Arrays, latent_arrays, place_arrays, text_arrays, value_arrays
from clinjepa.curriculum.feed.payload import payload
from clinjepa.curriculum.feed.stored_latents import REQUESTS_AT_A_TIME, LatentFetcher, StoredLatents, Window
from clinjepa.curriculum.feed.window_plan import PhasePlan
from clinjepa.curriculum.jobs import PhaseJob
from clinjepa.storage import Folder
from clinjepa.trajectory.hour_values import HourValues
from clinjepa.trajectory.tokens.trajectory_store import TrajectoryReader

CACHED_ROW_GROUPS = 64
"""Row groups of the trajectory store that a reader keeps in memory."""


class WindowBatches:
    """Micro-batches of a phase's plan. Opens the stores at first use and keeps their readers; raises StoreError for an incomplete store."""

    def __init__(self, job: PhaseJob) -> None:
        self.job = job
        self._latents = LatentFetcher(job.latents) if job.reads_latents and job.latents else None

    def __call__(self, step: int, micro: int) -> pa.Buffer:
        """Micro-batch `micro` of step `step`."""
        return next(self.in_order([(step, micro)]))

    def in_order(self, places: Iterable[tuple[int, int]]) -> Iterator[pa.Buffer]:
        """As `__call__` for each (step, micro), in order.

        Windows are collected ahead until they number REQUESTS_AT_A_TIME; a latent store behind a network gets their requests at once, a
        local one when they are read.
        """
        ahead: deque[tuple[np.ndarray, np.ndarray, Iterator[StoredLatents]]] = deque()
        for step, micro in places:
            window_ids = self.plan.step(step)[micro]
            ahead.append((window_ids, self.plan.rollout_starts(step, micro), self._requested(window_ids)))
            # Counted in windows, since one window is one request.
            if sum(len(window_ids) for window_ids, *_ in ahead) >= REQUESTS_AT_A_TIME:
                yield payload(self._with_values(*ahead.popleft()))
        while ahead:
            yield payload(self._with_values(*ahead.popleft()))

    @cached_property
    def trajectories(self) -> TrajectoryReader:
        return TrajectoryReader(Folder(self.job.trajectories), cached_row_groups=CACHED_ROW_GROUPS)

    @cached_property
    def plan(self) -> PhasePlan:
        """The phase's plan over the windows of the store."""
        return PhasePlan(self.trajectories.windows, self.job)

    @cached_property
    def values(self) -> HourValues | None:
        """The reader of the hours' measured numbers, where a term of the loss reads them."""
        return HourValues(Folder(self.job.ingest)) if self.job.ingest and self.job.reads_values else None

    def window_arrays(self, window_ids: np.ndarray, rollout_starts: np.ndarray) -> Arrays:
        """Arrays (`collating`) of the given windows, without values, whether or not they are in the plan; diagnostics call it."""
        return self._collated(window_ids, rollout_starts, self._requested(window_ids))

    def _requested(self, window_ids: np.ndarray) -> Iterator[StoredLatents]:
        """The windows' latents in order; none where the phase reads none."""
        return iter(()) if self._latents is None else self._latents.request(self._windows(window_ids))

    def _with_values(self, window_ids: np.ndarray, rollout_starts: np.ndarray, stored: Iterator[StoredLatents]) -> Arrays:
        """Arrays of a micro-batch, with the values of the hours if the phase reads them."""
        arrays = self._collated(window_ids, rollout_starts, stored)
        return arrays if self.values is None else arrays | value_arrays(self._windows(window_ids), self.values)

    def _collated(self, window_ids: np.ndarray, rollout_starts: np.ndarray, stored: Iterator[StoredLatents]) -> Arrays:
        """Arrays of a micro-batch: places, latents if the phase reads them, token ids if it needs the encoder."""
        windows = self._windows(window_ids)
        arrays = place_arrays(windows, window_ids, rollout_starts)
        if self._latents is not None:
            reader = self._latents.reader
            arrays |= latent_arrays(windows, stored, reader.dim, np.dtype(reader.stored_dtype))
        if self.job.needs_encoder:
            stays = [self.trajectories.stay(window.stay_id) for window in windows]
            arrays |= text_arrays(windows, stays, states_only=self.job.reads_latents)
        return arrays

    def _windows(self, window_ids: np.ndarray) -> list[Window]:
        columns = (self.plan.stay_ids, self.plan.start_hours, self.plan.num_hours)
        return [Window(*values) for values in zip(*(column[window_ids].tolist() for column in columns), strict=True)]
