"""The loss that is logged is the loss that is optimised, term by term."""

from __future__ import annotations

import pytest
import torch

from clinjepa.curriculum.steps.loss import WeightedLoss

COUNTS = (7, 3, 0)


def three_terms() -> WeightedLoss:
    return WeightedLoss({"teacher_forcing": 1.0, "rollout": 0.3, "third": 2.5})


def two_terms() -> WeightedLoss:
    return WeightedLoss({"teacher_forcing": 1.0, "rollout": 0.7})


def test_a_further_term_is_optimised_and_logged() -> None:
    sums = [torch.tensor(value, requires_grad=True) for value in (2.0, 5.0, 4.0)]
    loss = three_terms().optimised(sums, COUNTS)
    loss.backward()
    row = three_terms().logged([sum_.item() for sum_ in sums], COUNTS)
    assert row["loss"] == pytest.approx(loss.item())
    assert row == pytest.approx({"loss": 2 / 7 + 0.3 * 5 / 3 + 2.5 * 4, "teacher_forcing": 2 / 7, "rollout": 5 / 3, "third": 4.0})
    assert [float(sum_.grad) for sum_ in sums] == pytest.approx([1 / 7, 0.3 / 3, 2.5])


def test_a_term_that_is_left_out_is_an_error() -> None:
    two = [torch.tensor(2.0), torch.tensor(5.0)]
    with pytest.raises(ValueError):
        three_terms().optimised(two, COUNTS)
    with pytest.raises(ValueError):
        three_terms().logged([2.0, 5.0], COUNTS)
    with pytest.raises(ValueError):
        two_terms().optimised([*two, torch.tensor(1.0)], COUNTS)


def test_the_micro_batches_of_a_step_add_up_to_the_logged_loss() -> None:
    parts = [(2.0, 1.0), (3.5, 0.25)]
    optimised = sum(float(two_terms().optimised([torch.tensor(value) for value in part], COUNTS[:2])) for part in parts)
    assert two_terms().logged([5.5, 1.25], COUNTS[:2])["loss"] == pytest.approx(optimised)
