"""Workers that read only their own rows of a model's files hold what a plain load and a cut would have given them."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch.multiprocessing as mp

from tests.support.models.direct_load_worker import LARGE_VOCAB, run_direct_load, write_model

BOTH = pytest.mark.parametrize("adaptation", ["lora", "full"])
BASES = pytest.mark.parametrize("base", ["tied", "untied"])


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("direct")
    for name, tied in (("tied", True), ("untied", False)):
        write_model(folder / name, tied)
        assert len(list((folder / name).glob("model-*.safetensors"))) >= 3
    size = write_model(folder / "large", tied=False, hidden=1024, vocab=LARGE_VOCAB, num_files=6)
    mp.spawn(run_direct_load, args=(2, str(folder)), nprocs=2)
    ranks = [json.loads((folder / f"found-{rank}.json").read_text()) for rank in range(2)]
    return {key: [rank[key] for rank in ranks] for key in ranks[0]} | {"size": size}


@BASES
@BOTH
@pytest.mark.parametrize("what", ["tensors", "buffers", "latents", "config"])
def test_what_is_loaded_equals_the_plain_load(found: dict[str, Any], base: str, adaptation: str, what: str) -> None:
    assert all(found[f"{base}_{what}_{adaptation}"])


@BASES
@BOTH
def test_shards_stay_where_an_optimizer_found_them(found: dict[str, Any], base: str, adaptation: str) -> None:
    assert all(found[f"{base}_shards_{adaptation}"])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("what", ["selective", "full"])
def test_recomputed_layers_give_the_same_sharded_gradients(found: dict[str, Any], what: str, dtype: str) -> None:
    assert all(found[f"recompute_{what}_{dtype}"])


def test_a_worker_reads_its_half_of_the_files(found: dict[str, Any]) -> None:
    assert sum(found["bytes_read"]) == found["size"]
    assert max(found["bytes_read"]) < 0.51 * found["size"]


def test_a_workers_memory_stays_well_below_the_whole_model(found: dict[str, Any]) -> None:
    assert max(found["grown"]) < 0.8 * found["size"]
