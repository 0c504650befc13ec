"""Batches side by side: results in order and independent of the number of threads, faults passed on, torch's setting kept."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from clinjepa.evaluation.threads import side_by_side

CPU = torch.device("cpu")


@pytest.fixture
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    assert torch.get_num_threads() == 3
    torch.set_num_threads(before)


def test_results_come_in_the_order_of_the_items_and_each_has_one_thread_of_torch(three_threads: None) -> None:
    met = threading.Barrier(3, timeout=30)

    def slow_first(item: int) -> tuple[int, int]:
        if item < 3:
            met.wait()  # three run at once, or this times out
            time.sleep(0.02 * (3 - item))
        return item, torch.get_num_threads()

    assert list(side_by_side(slow_first, range(10), CPU)) == [(item, 1) for item in range(10)]


def test_on_another_device_items_run_one_after_the_other(three_threads: None) -> None:
    names = set(side_by_side(lambda _: threading.current_thread().name, range(5), torch.device("cuda")))
    assert names == {threading.current_thread().name}


def test_a_fault_of_an_item_reaches_the_caller_and_an_iterator_may_be_left_early(three_threads: None) -> None:
    def broken(item: int) -> int:
        if item == 4:
            raise ValueError("item 4")
        return item

    found = side_by_side(broken, range(8), CPU)
    assert [next(found) for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="item 4"):
        next(found)
    left = side_by_side(broken, range(4), CPU)
    assert next(left) == 0
    left.close()  # type: ignore[attr-defined]  # a generator
