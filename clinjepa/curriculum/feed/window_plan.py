"""The plan of a phase: the windows of every step, cut into micro-batches; and the micro-batches that each worker runs.

The plan is a function of (seed, step, micro-batch) and of the store, never of the number of workers, so the loss curve is the same on
1, 2 or 3 workers, after a crash and after a resize. Counts of valid positions come from the plan too, so the divisor of the global
batch is known without communication.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from clinjepa.curriculum.jobs import PhaseJob, TrainingJob
from clinjepa.curriculum.terms.table import COUNTS
from clinjepa.errors import StoreError

if TYPE_CHECKING:
    import pyarrow as pa

ORDER_TAG, _ROLLOUT_TAG, _TORCH_TAG = 1, 2, 3


@dataclass(frozen=True)
class Assignment:
    """One micro-batch for one worker. Weight 0 adds nothing; it gives every worker the same number of collectives."""

    step: int
    micro: int
    weight: int


def mix_seed(*values: int) -> int:
    """A well-mixed 63-bit seed from integers, the same on every machine."""
    digest = hashlib.sha256(struct.pack(f"<{len(values)}q", *values)).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def torch_seed(seed: int, step: int, micro: int) -> int:
    """Seed of the torch generator (dropout) before micro-batch `micro` of step `step`."""
    return mix_seed(_TORCH_TAG, seed, step, micro)


class SamplePlan:
    """Window ids of every optimizer step: epochs are seeded permutations laid end to end and cut into global batches.

    The micro-batches of a step get near-equal hours, because workers wait for the longest: windows are placed from the longest to the
    shortest, each into the micro-batch with the fewest hours that has room.
    """

    def __init__(self, window_ids: np.ndarray, seed: int, global_batch: int, micro_batch: int, num_hours: np.ndarray) -> None:
        """num_hours: hours of every window, by window id."""
        if len(window_ids) == 0:
            raise StoreError("the trajectory store has no training windows; its cohort or split left none")
        self.window_ids = np.sort(np.asarray(window_ids, dtype=np.int64))
        self.seed, self.global_batch, self.micro_batch = seed, global_batch, micro_batch
        self._num_hours = num_hours
        self._epochs: dict[int, np.ndarray] = {}

    def step(self, k: int) -> list[np.ndarray]:
        """The micro-batches of step k (counted over all phases), each an int64 array of at most `micro_batch` window ids."""
        size = len(self.window_ids)
        positions = np.arange(k * self.global_batch, (k + 1) * self.global_batch)
        batch = np.concatenate(
            [self._epoch(int(epoch))[positions[positions // size == epoch] % size] for epoch in np.unique(positions // size)]
        )
        sizes = [min(self.micro_batch, self.global_batch - start) for start in range(0, self.global_batch, self.micro_batch)]
        chosen: list[list[int]] = [[] for _ in sizes]
        hours = [0] * len(sizes)
        for window in batch[np.argsort(-self._num_hours[batch], kind="stable")].tolist():
            place = min((i for i, size in enumerate(sizes) if len(chosen[i]) < size), key=lambda i: hours[i])
            chosen[place].append(window)
            hours[place] += int(self._num_hours[window])
        return [np.array(windows, dtype=np.int64) for windows in chosen]

    def _epoch(self, epoch: int) -> np.ndarray:
        if epoch not in self._epochs:
            for old in [known for known in self._epochs if known < epoch - 1]:
                del self._epochs[old]
            order = np.random.default_rng(mix_seed(ORDER_TAG, self.seed, epoch)).permutation(len(self.window_ids))
            self._epochs[epoch] = self.window_ids[order]
        return self._epochs[epoch]


class PhasePlan:
    """A phase's plan over the training windows of a trajectory store: ids, lengths, rollout starts and valid counts."""

    def __init__(self, windows: pa.Table, job: PhaseJob) -> None:
        """windows: the store's `windows.parquet` (window ids are its row numbers)."""
        settings = job.curriculum_settings
        self.stay_ids = windows["stay_id"].to_numpy()
        self.start_hours = windows["start_hour"].to_numpy()
        self.num_hours = windows["num_hours"].to_numpy().astype(np.int64)
        split = np.asarray(windows["split"].to_pylist())
        self.tuning_ids = np.flatnonzero(split == "tuning")
        self.rollout_steps = settings.rollout_steps
        self.shared_k = settings.shared_k
        self.seed = job.seed
        self._samples = SamplePlan(np.flatnonzero(split == "train"), job.seed, settings.global_batch, settings.micro_batch, self.num_hours)
        self._cached: tuple[int, list[np.ndarray]] = (-1, [])

    @property
    def training_ids(self) -> np.ndarray:
        return self._samples.window_ids

    @property
    def trained_hours(self) -> int:
        """Hours of the longest training window: a later hour is a place that no loss reaches."""
        return int(self.num_hours[self.training_ids].max())

    def step(self, step: int) -> list[np.ndarray]:
        """Window ids of the step's micro-batches."""
        if self._cached[0] != step:
            self._cached = (step, self._samples.step(step))
        return self._cached[1]

    def count(self, step: int, name: str, options: Mapping[str, object] | None = None) -> int:
        """A count of the step's global batch by its name in `COUNTS`, for a loss term with these options."""
        hours = self.num_hours[np.concatenate(self.step(step))]
        return COUNTS[name](hours, {"rollout_steps": self.rollout_steps, **(options or {})})

    def predictor_tokens(self, first_step: int, last_step: int) -> int:
        """Positions of the predictor's teacher-forced pass in steps first_step … last_step − 1: 2 an hour and 1 a window, no padding."""
        hours = (self.num_hours[np.concatenate(self.step(step))] for step in range(first_step, last_step))
        return sum(2 * int(each.sum()) + len(each) for each in hours)

    def rollout_starts(self, step: int, micro: int) -> np.ndarray:
        """int64 [B]: the index k of the last given hour of each window, drawn from 1 … T−1−rollout_steps; -1 where T is too short.

        With rollout_steps = 2 this is the method's range [1, T−3]. `shared_k` draws one k for the global batch, from the
        shortest window long enough for a rollout.
        """
        highest = self.num_hours[self.step(step)[micro]] - 1 - self.rollout_steps
        if self.shared_k:
            generator = np.random.default_rng(mix_seed(_ROLLOUT_TAG, self.seed, step, -1))
            possible = np.concatenate([self.num_hours[ids] for ids in self.step(step)]) - 1 - self.rollout_steps
            choices = np.full(len(highest), possible[possible >= 1].min(initial=np.iinfo(np.int64).max))
            uniform = np.full(len(highest), generator.random())
        else:
            generator = np.random.default_rng(mix_seed(_ROLLOUT_TAG, self.seed, step, micro))
            choices, uniform = highest, generator.random(len(highest))
        return np.where(highest >= 1, 1 + np.floor(uniform * np.maximum(choices, 1)).astype(np.int64), -1)


def assignments(job: TrainingJob, rank: int, world_size: int, first_step: int, last_step: int) -> Iterator[Assignment]:
    """Micro-batches of worker `rank` in steps first_step … last_step − 1, in order: every world_size-th one of each step.

    All workers get the same number per step; where the micro-batches do not divide, a worker repeats the step's last micro-batch with
    weight 0.
    """
    available = job.num_micro_batches
    rounds = -(-available // world_size)
    for step in range(first_step, last_step):
        for turn in range(rounds):
            micro = turn * world_size + rank
            yield Assignment(step, micro, 1) if micro < available else Assignment(step, available - 1, 0)
