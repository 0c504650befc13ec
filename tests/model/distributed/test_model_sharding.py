"""Encoder and predictor under FSDP2 on several real processes do what they do whole."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch.multiprocessing as mp

from tests.support.models.model_workers import run_worker


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.long)], ids=["2_workers", "3_workers"])
def found(request, tmp_path_factory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("workers")
    mp.spawn(run_worker, args=(request.param, str(folder)), nprocs=request.param)
    return json.loads((folder / "found.json").read_text())


ALL = pytest.mark.parametrize("variant", ["lora", "lora_bf16", "full"])
BOTH = pytest.mark.parametrize("adaptation", ["lora", "full"])


@ALL
@pytest.mark.parametrize("which", ["online", "target"])
def test_sharded_latents_equal_whole_ones(found: dict[str, Any], variant: str, which: str) -> None:
    assert found[f"latents_{which}_{variant}"] <= 1e-6


@BOTH
def test_gradients_are_summed_over_workers(found: dict[str, Any], adaptation: str) -> None:
    assert found[f"gradients_{adaptation}"] < 1e-5


def test_bf16_gradients_agree_to_bf16_rounding(found: dict[str, Any]) -> None:
    assert found["gradients_lora_bf16"] < 0.03


@ALL
def test_gradients_are_fp32_whatever_the_base(found: dict[str, Any], variant: str) -> None:
    assert found[f"gradient_dtype_{variant}"] == "torch.float32"


@ALL
def test_frozen_shards_take_no_gradient(found: dict[str, Any], variant: str) -> None:
    assert found[f"frozen_without_gradient_{variant}"]


def test_rank_coded_shards_gather_to_their_places(found: dict[str, Any]) -> None:
    assert found["gathers_rank_coded"]


def test_whole_tensors_load_into_shards_and_come_back(found: dict[str, Any]) -> None:
    assert found["loads_and_gathers"]


@BOTH
def test_ema_on_shards_equals_ema_on_whole_tensors(found: dict[str, Any], adaptation: str) -> None:
    assert found[f"ema_{adaptation}"] <= 1e-7


@BOTH
def test_the_gap_is_that_of_all_shards(found: dict[str, Any], adaptation: str) -> None:
    assert found[f"gap_{adaptation}"] == 0.0


@BOTH
def test_hard_sync_of_shards_closes_the_gap(found: dict[str, Any], adaptation: str) -> None:
    assert found[f"synced_{adaptation}"] == 0.0


@BOTH
def test_the_online_state_of_shards_is_that_of_the_whole_weights(found: dict[str, Any], adaptation: str) -> None:
    assert found[f"online_{adaptation}"]


def test_sharded_next_token_losses_add_up_to_the_whole(found: dict[str, Any]) -> None:
    assert found["next_token_loss"] < 1e-5


def test_next_token_gradients_of_tied_embeddings_survive_sharding(found: dict[str, Any]) -> None:
    assert found["next_token_gradients"] < 1e-4


def test_freezing_after_a_sharded_forward_cuts_the_graph(found: dict[str, Any]) -> None:
    assert not found["frozen_has_graph"]


def test_unfreezing_after_sharding_brings_gradients_back(found: dict[str, Any]) -> None:
    assert found["unfrozen_has_gradients"]


def test_predictor_gradients_through_a_native_rollout_are_summed(found: dict[str, Any]) -> None:
    assert found["predictor_gradients"] < 1e-4


def test_predictor_tensors_load_into_shards_and_come_back(found: dict[str, Any]) -> None:
    assert found["predictor_loads"]


def test_a_sharded_predictor_rolls_out_alike(found: dict[str, Any]) -> None:
    assert found["rollout"] < 1e-5


def test_each_group_of_shards_is_clipped_by_its_whole_norm_and_updated_as_torch_does(found: dict[str, Any]) -> None:
    assert found["updates_weights"] < 1e-6 and found["updates_moments"] < 1e-5
