"""One micro-batch of the plan, read from the stores and collated into named arrays that travel as safetensors bytes.

Arrays of a phase's micro-batch of B windows, padded to its longest T:
- always: `valid` bool [B, T], `window_ids` int64 [B], `rollout_starts` int64 [B] (-1: too short to roll out);
- with latents: `z_static` [B, D], `z_state` [B, T, D], `z_action` [B, T, D], 0 in the padding, float32 or bfloat16 as they are stored;
- with texts: `tokens` int32, the unique texts end to end (those of states first), `text_lengths` int32 [U], and which text
  stands where: `state_texts` int32 [B, T] (-1 in the padding); `static_texts` [B] and `action_texts` [B, T] unless only
  targets, which are states, are encoded.
Arrays of an SFT micro-batch: `tokens` int32 (texts end to end, without EOS), `text_lengths` int32 [N].
"""

from __future__ import annotations

import json
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa

from clinjepa.curriculum.feed.text_plan import TextPlan, open_text_plan
from clinjepa.curriculum.feed.window_plan import Assignment, PhasePlan
from clinjepa.curriculum.jobs import Job, SftJob
from clinjepa.storage import Folder
from clinjepa.trajectory.tokens.latent_store import LatentReader
from clinjepa.trajectory.tokens.trajectory_store import TrajectoryReader

_READ_AHEAD = 2
_CACHED_ROW_GROUPS = 64
_REQUESTS_AT_A_TIME = 16
_Window = tuple[int, int, int]
"""Stay id, first hour, hours."""
_Stored = tuple[np.ndarray, np.ndarray, np.ndarray]
_DTYPES = {"bool": "BOOL", "int32": "I32", "int64": "I64", "float32": "F32", "uint16": "BF16"}
"""numpy's to safetensors' names; numpy has no bfloat16, so its bits travel as uint16."""


class MicroBatchFetcher:
    """Reads micro-batches of a job's plan. Picklable; opens stores at first use and keeps its readers."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._trajectories: TrajectoryReader | None = None
        self._latents: LatentReader | None = None
        self._plan: PhasePlan | TextPlan | None = None
        self._pool: ThreadPoolExecutor | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"job": self.job}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["job"])  # type: ignore[misc]

    def __call__(self, step: int, micro: int) -> pa.Buffer:
        """The collated micro-batch `micro` of step `step`; raises StoreError for a torn or missing store."""
        return next(self.micro_batches([(step, micro)]))

    def micro_batches(self, places: Iterable[tuple[int, int]]) -> Iterator[pa.Buffer]:
        """As `__call__` for each (step, micro), in order. Latents behind a network are asked for some micro-batches ahead."""
        if isinstance(self.job, SftJob):
            yield from (payload(self._sft_arrays(step, micro)) for step, micro in places)
            return
        plan: PhasePlan = self.plan
        ahead: deque[tuple[np.ndarray, np.ndarray, Iterator[_Stored]]] = deque()
        for step, micro in places:
            window_ids = plan.step(step)[micro]
            ahead.append((window_ids, plan.rollout_starts(step, micro), self._stored(window_ids)))
            if sum(len(window_ids) for window_ids, *_ in ahead) >= _REQUESTS_AT_A_TIME:
                yield payload(self._collated(*ahead.popleft()))
        while ahead:
            yield payload(self._collated(*ahead.popleft()))

    @property
    def trajectories(self) -> TrajectoryReader:
        if self._trajectories is None:
            self._trajectories = TrajectoryReader(Folder(self.job.trajectories), cached_row_groups=_CACHED_ROW_GROUPS)
        return self._trajectories

    @property
    def plan(self) -> Any:
        """The job's plan, made from the store's tables at first use."""
        if self._plan is None:
            if isinstance(self.job, SftJob):
                self._plan = open_text_plan(self.job)
            else:
                self._plan = PhasePlan(self.trajectories.windows, self.job)
        return self._plan

    def window_arrays(self, window_ids: np.ndarray, rollout_starts: np.ndarray) -> dict[str, np.ndarray]:
        """Collate any windows of the store, as the job's phase needs them (see the module's first lines)."""
        if isinstance(self.job, SftJob):
            raise TypeError("an SFT job has texts, not windows")
        return self._collated(window_ids, rollout_starts, self._stored(window_ids))

    def _collated(self, window_ids: np.ndarray, rollout_starts: np.ndarray, stored: Iterator[_Stored]) -> dict[str, np.ndarray]:
        job, windows = self.job, self._windows(window_ids)
        hours = np.array([hours for _, _, hours in windows])
        arrays: dict[str, np.ndarray] = {
            "valid": np.arange(hours.max())[None, :] < hours[:, None],
            "window_ids": np.asarray(window_ids, dtype=np.int64),
            "rollout_starts": np.asarray(rollout_starts, dtype=np.int64),
        }
        if job.reads_latents:
            arrays |= self._latent_arrays(windows, stored)
        if job.needs_encoder:
            arrays |= self._text_arrays(windows, states_only=job.reads_latents)
        return arrays

    def _windows(self, window_ids: np.ndarray) -> list[_Window]:
        columns = (self.plan.stay_ids, self.plan.start_hours, self.plan.num_hours)
        return list(zip(*(column[window_ids].tolist() for column in columns), strict=True))

    @property
    def latents(self) -> LatentReader:
        """Of the job's latent store; only where the phase reads latents."""
        if self._latents is None:
            self._latents = LatentReader(Folder(str(self.job.latents)))  # type: ignore[union-attr]
        return self._latents

    def _latent_arrays(self, windows: list[_Window], stored: Iterator[_Stored]) -> dict[str, np.ndarray]:
        longest, dim, dtype = max(hours for _, _, hours in windows), self.latents.dim, self.latents.stored_dtype
        z_static = np.zeros((len(windows), dim), dtype=dtype)
        z_state = np.zeros((len(windows), longest, dim), dtype=dtype)
        z_action = np.zeros((len(windows), longest, dim), dtype=dtype)
        for i, parts in enumerate(stored):
            hours = windows[i][2]
            z_static[i], z_state[i, :hours], z_action[i, :hours] = parts
        return {"z_static": z_static, "z_state": z_state, "z_action": z_action}

    def _stored(self, window_ids: np.ndarray) -> Iterator[_Stored]:
        """The windows' latents in order, none where the phase reads none.

        Those of a store behind a network are asked for now and all at a time, for each costs a request that is mostly waiting.
        """
        if not self.job.reads_latents:  # type: ignore[union-attr]
            return iter(())
        latents, windows = self.latents, self._windows(window_ids)
        if latents.folder.is_local:
            return (latents.stored(*window) for window in windows)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_REQUESTS_AT_A_TIME, thread_name_prefix="clinjepa-latents")
        return self._pool.map(lambda window: latents.stored(*window), windows)

    def _text_arrays(self, windows: list[_Window], states_only: bool) -> dict[str, np.ndarray]:
        unique = _UniqueTexts()
        longest = max(hours for _, _, hours in windows)
        static = np.zeros(len(windows), dtype=np.int32)
        state = np.full((len(windows), longest), -1, dtype=np.int32)
        action = np.full((len(windows), longest), -1, dtype=np.int32)
        texts = [self.trajectories.stay(stay_id) for stay_id, _, _ in windows]
        for i, (_, start, hours) in enumerate(windows):
            state[i, :hours] = [unique.number(tokens) for tokens in texts[i].states[start : start + hours]]
        if not states_only:
            for i, (_, start, hours) in enumerate(windows):
                static[i] = unique.number(texts[i].static)
                action[i, :hours] = [unique.number(tokens) for tokens in texts[i].actions[start : start + hours]]
        arrays = unique.arrays() | {"state_texts": state}
        return arrays if states_only else arrays | {"static_texts": static, "action_texts": action}

    def _sft_arrays(self, step: int, micro: int) -> dict[str, np.ndarray]:
        chosen = []
        for stay_id, text in self.plan.micro(step, micro):
            stay = self.trajectories.stay(stay_id)
            hours = len(stay.states)
            chosen.append(stay.static if text == 0 else stay.states[text - 1] if text <= hours else stay.actions[text - 1 - hours])
        return _end_to_end(chosen)


def plain_feed(job: Job) -> Callable[[Sequence[Assignment]], Iterator[pa.Buffer]]:
    """The feed without Ray: one thread reads a few micro-batches ahead of the training loop."""
    fetcher = MicroBatchFetcher(job)

    def feed(assigned: Sequence[Assignment]) -> Iterator[pa.Buffer]:
        arrivals = fetcher.micro_batches((each.step, each.micro) for each in assigned)
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="clinjepa-feed") as pool:
            ahead = deque(pool.submit(next, arrivals) for _ in assigned[:_READ_AHEAD])
            try:
                for following in range(_READ_AHEAD, len(assigned) + _READ_AHEAD):
                    if not ahead:
                        return
                    ready = ahead.popleft()
                    if following < len(assigned):
                        ahead.append(pool.submit(next, arrivals))
                    yield ready.result()
            finally:
                for future in ahead:
                    future.cancel()

    return feed


def payload(arrays: dict[str, np.ndarray]) -> pa.Buffer:
    """safetensors bytes of collated arrays, copied once; uint16 arrays are the bits of bfloat16.

    In memory of Arrow's pool, which uses its pages again, while fresh pages would cost as much as the copy.
    """
    parts = [np.ascontiguousarray(array) for array in arrays.values()]
    header, offset = {}, 0
    for name, part in zip(arrays, parts, strict=True):
        header[name] = {"dtype": _DTYPES[part.dtype.name], "shape": part.shape, "data_offsets": [offset, offset + part.nbytes]}
        offset += part.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    whole = pa.allocate_buffer(8 + len(text) + offset)
    into = np.frombuffer(whole, dtype=np.uint8)
    place = 0
    for part in (np.frombuffer(struct.pack("<Q", len(text)) + text, dtype=np.uint8), *parts):
        into[place : place + part.nbytes] = part.reshape(-1).view(np.uint8)
        place += part.nbytes
    return whole


class _UniqueTexts:
    """Numbers texts by content, in order of first appearance."""

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}
        self._texts: list[np.ndarray] = []

    def number(self, tokens: np.ndarray) -> int:
        key = tokens.tobytes()
        if key not in self._numbers:
            self._numbers[key] = len(self._texts)
            self._texts.append(tokens)
        return self._numbers[key]

    def arrays(self) -> dict[str, np.ndarray]:
        return _end_to_end(self._texts)


def _end_to_end(texts: list[np.ndarray]) -> dict[str, np.ndarray]:
    tokens = np.concatenate(texts).astype(np.int32) if texts else np.zeros(0, dtype=np.int32)
    return {"tokens": tokens, "text_lengths": np.array([len(text) for text in texts], dtype=np.int32)}
