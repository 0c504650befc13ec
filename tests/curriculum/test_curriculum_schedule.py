"""One learning-rate curve spans all phases."""

from __future__ import annotations

import math

import pytest

from clinjepa.curriculum.schedule import Schedule


def test_warmup_is_linear_and_reaches_the_peak():
    schedule = Schedule(total_steps=100, warmup_fraction=0.1)
    assert [schedule.predictor_factor(step) for step in range(10)] == pytest.approx([0.1 * (i + 1) for i in range(10)])


def test_cosine_falls_from_the_peak_towards_zero_at_the_end_of_all_phases():
    schedule = Schedule(total_steps=100, warmup_fraction=0.1)
    assert schedule.predictor_factor(10) == 1.0
    assert schedule.predictor_factor(55) == pytest.approx(0.5)
    assert schedule.predictor_factor(99) == pytest.approx(0.5 * (1 + math.cos(math.pi * 89 / 90)))


def test_the_encoder_has_its_own_warmup_when_it_joins():
    schedule = Schedule(total_steps=100, warmup_fraction=0.1, encoder_first_step=24, encoder_warmup_steps=4)
    ratios = [schedule.encoder_factor(step) / schedule.predictor_factor(step) for step in range(24, 30)]
    assert ratios == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 1.0])


def test_without_warmup_the_first_step_has_the_peak_rate():
    assert Schedule(total_steps=10, warmup_fraction=0.0).predictor_factor(0) == 1.0
