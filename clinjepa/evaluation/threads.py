"""Batches of a computation side by side: each on one thread of torch, so that results do not depend on the number of threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def side_by_side(function: Callable[[Item], Result], items: Sequence[Item], device: torch.device) -> Iterator[Result]:
    """`function` of every item, in their order.

    On a CPU as many items run at once as torch has threads, and torch computes each with one thread: small operations gain more from
    that than from threads within them. On another device they run one after the other.

    Args:
        function: Called with one item; it may be called from several threads at once.
        items: What it is called with.
        device: Where the function computes.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        yield from map(function, items)
        return
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            running: deque[Future[Result]] = deque()
            for item in items:
                running.append(pool.submit(function, item))
                if len(running) == 2 * threads:  # few results wait, so they take little memory
                    yield running.popleft().result()
            yield from (future.result() for future in running)
    finally:
        torch.set_num_threads(threads)
