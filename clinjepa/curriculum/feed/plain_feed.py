"""The feed without Ray: one thread reads a few micro-batches ahead of the training loop."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from clinjepa.curriculum.feed.micro_batches import open_micro_batches
from clinjepa.curriculum.feed.window_plan import Assignment
from clinjepa.curriculum.jobs import Job

Feed = Callable[[Sequence[Assignment]], Iterator[pa.Buffer]]
"""Yields this worker's micro-batches, as safetensors bytes, in the order of the assignments it is given."""

_READ_AHEAD = 2


def plain_feed(job: Job) -> Feed:
    """A feed of the job's micro-batches read ahead in one thread; faults of a store are raised where it is read."""
    micro_batches = open_micro_batches(job)

    def feed(assigned: Sequence[Assignment]) -> Iterator[pa.Buffer]:
        arrivals = micro_batches.in_order((each.step, each.micro) for each in assigned)
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
