"""Diagnostics see a collapse where the loss does not."""

from __future__ import annotations

import pytest
import torch

from clinjepa.model.diagnostics import centred_cosine, latent_diagnostics, prediction_diagnostics, rankme


def test_rankme_of_one_direction_is_one() -> None:
    assert rankme(torch.randn(50, 1) @ torch.randn(1, 8)) == pytest.approx(1.0, abs=1e-5)


def test_rankme_of_an_orthonormal_space_is_its_dimension() -> None:
    assert rankme(torch.linalg.qr(torch.randn(50, 8))[0]) == pytest.approx(8.0, abs=1e-4)


def test_identical_latents_show_no_spread_and_rank_one() -> None:
    figures = latent_diagnostics(torch.full((10, 4), 2.0))
    assert figures == pytest.approx({"latent_std": 0.0, "rankme": 1.0, "norm": 4.0}, abs=1e-5)


def test_centred_cosine_is_blind_to_a_shared_offset() -> None:
    pred, target, offset = torch.randn(30, 5), torch.randn(30, 5), torch.full((5,), 100.0)
    near_zero = centred_cosine(pred, target, torch.zeros(5))
    assert centred_cosine(pred + offset, target + offset, offset) == pytest.approx(near_zero, abs=1e-4)


def test_copying_forward_scores_one_against_copy_forward() -> None:
    current, target = torch.randn(20, 5), torch.randn(20, 5)
    assert prediction_diagnostics(current, target, current, target.mean(0))["l1_vs_copy"] == pytest.approx(1.0)


def test_predicting_the_mean_scores_one_against_the_mean() -> None:
    current, target = torch.randn(20, 5), torch.randn(20, 5)
    mean = target.mean(0)
    assert prediction_diagnostics(mean.expand(20, 5), target, current, mean)["l1_vs_mean"] == pytest.approx(1.0)


def test_a_prediction_that_hedges_has_a_norm_ratio_below_one() -> None:
    target = torch.randn(20, 5)
    assert prediction_diagnostics(target / 2, target, target, target.mean(0))["norm_ratio"] == pytest.approx(0.5)
