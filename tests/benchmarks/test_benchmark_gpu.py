"""The GPU benchmark's script, proven on a CPU with the same structure shrunk, on a machine with nothing but the model's libraries."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from benchmarks.gpu_peer import packed
from benchmarks.support.gpu_models import TINY, causal_model, hour_texts, micro_packs, run_sizes
from tests.support.machines.cli import python_without

ABSENT = ("ray", "pydantic", "polars", "pandas", "pyarrow", "sklearn", "scipy", "datasets")


@pytest.fixture(scope="module")
def result() -> dict:
    """The last line of a run without the packages that such a machine lacks."""
    code = "import sys, runpy\nsys.argv[1:] = ['--tiny']\nrunpy.run_module('benchmarks.gpu_qwen3_8b', run_name='__main__')"
    done = python_without(ABSENT, code, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_every_section_is_measured_and_none_fails(result: dict) -> None:
    assert result["details"]["faults"] == {}
    wanted = {"lora_tokens_per_second", "embed_tokens_per_second", "joint_step_seconds", "predictor_step_seconds", "sft_tokens_per_second"}
    assert wanted | {"sft_over_padded_trainer", "sft_over_packed_trainer"} <= result["measured"].keys()
    assert all(value > 0 for name, value in result["measured"].items() if not name.endswith("_recompute_level"))
    assert any("scaled_dot_product" in name for name in result["details"]["profile"]["attention"])


def test_a_proof_on_a_cpu_claims_no_goal_and_writes_no_result(result: dict) -> None:
    assert result["goal"] == {} and result["quick"]


def test_the_peers_packed_rows_give_each_text_the_loss_it_has_alone() -> None:
    model, texts = causal_model(TINY, torch.device("cpu")), hour_texts(TINY, 8, 0)
    rows, per_batch, collate = packed(texts, 256, 512)
    assert per_batch == 2 and sum(row["num_tokens"] for row in rows) == sum(map(len, texts))
    batch = collate(rows)
    num_labels = int((batch["labels"][:, 1:] != -100).sum())
    with torch.no_grad():
        together = float(model(**batch).loss) * num_labels
        alone = sum(
            float(model(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1) for ids in (torch.from_numpy(text)[None] for text in texts)
        )
    assert num_labels == sum(len(text) - 1 for text in texts)
    np.testing.assert_allclose(together, alone, rtol=2e-3)


def test_packs_take_no_more_places_than_the_memory_is_planned_for() -> None:
    texts = hour_texts(TINY, 400, 0)
    packs = [pack for packs in micro_packs(texts, 512) for pack in packs]
    assert max(pack.input_ids_L.numel() for pack in packs) <= run_sizes(TINY, "none").pack_tokens == 576
    assert sum(pack.num_tokens for pack in packs) == sum(map(len, texts))
