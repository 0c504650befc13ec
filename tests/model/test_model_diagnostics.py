"""Diagnostics see a collapse where the loss does not."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from clinjepa.evaluation.space import describe_space
from clinjepa.model.diagnostics import centred_cosine, latent_diagnostics, prediction_diagnostics, rankme, spectrum


def test_rankme_of_one_direction_is_one() -> None:
    assert rankme(torch.randn(50, 1) @ torch.randn(1, 8)) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("size", [0.1, 1.0, 100.0])
def test_a_mean_plus_one_direction_has_rank_one(size: float) -> None:
    found = spectrum(size * torch.randn(64) + torch.randn(200, 1) @ torch.randn(1, 64))
    assert (found.rankme, found.leading_share) == pytest.approx((1.0, 1.0), abs=1e-4)


def test_noise_around_one_direction_does_not_hide_it() -> None:
    found = spectrum(5 + torch.randn(400, 1) @ torch.randn(1, 64) + 0.01 * torch.randn(400, 64))
    assert found.rankme > 1.5
    assert found.leading_share > 0.99


def test_rounding_of_latents_without_spread_is_no_rank() -> None:
    mean = torch.randn(300, generator=torch.Generator().manual_seed(0))
    assert spectrum(mean.expand(100, -1) * (1 + 1e-7 * torch.randn(100, 300))) == (1.0, 1.0)


@pytest.mark.parametrize("shape", [(50, 8), (8, 50)])
def test_rankme_is_the_entropy_of_centred_singular_values(shape: tuple[int, int]) -> None:
    z_ND = torch.randn(shape) + 7.0
    shares = torch.linalg.svdvals((z_ND - z_ND.mean(0)).double())
    shares = shares[shares > 1e-3] / shares.sum()
    assert rankme(z_ND) == pytest.approx(float(torch.exp(-(shares * shares.log()).sum())), rel=1e-4)


def test_rankme_of_equal_centred_directions_is_their_number() -> None:
    axes = torch.cat([torch.eye(8), -torch.eye(8)]) + 3.0
    assert rankme(axes) == pytest.approx(8.0, abs=1e-4)


def test_training_and_report_have_the_same_rankme() -> None:
    class Hours:
        dim = 5

        def stay(self, stay_id: int, start_hour: int = 0, num_hours: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            z_TD = np.random.default_rng(stay_id).normal(2.0, 1.0, (20, 5)).astype(np.float32)
            return z_TD[0], z_TD, z_TD

    stays = pa.table({"stay_id": [1, 2], "subject_id": [1, 2], "split": ["held_out"] * 2, "num_hours": [20, 20]})
    all_ND = np.concatenate([Hours().stay(stay_id)[1] for stay_id in (1, 2)])
    reported, logged = describe_space(Hours(), stays), latent_diagnostics(torch.from_numpy(all_ND))
    assert {name: reported[name] for name in ("rankme", "leading_share")} == pytest.approx(
        {name: logged[name] for name in ("rankme", "leading_share")}, rel=1e-5
    )


def test_identical_latents_show_no_spread_and_rank_one() -> None:
    figures = latent_diagnostics(torch.full((10, 4), 2.0))
    assert figures == pytest.approx({"latent_std": 0.0, "rankme": 1.0, "leading_share": 1.0, "norm": 4.0}, abs=1e-5)


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


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_latents_that_are_no_numbers_have_no_rank(value: float) -> None:
    z_ND = torch.randn(6, 3)
    z_ND[2, 1] = value
    assert all(np.isnan(part) for part in spectrum(z_ND))
