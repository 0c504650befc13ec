"""Qwen3-8B's structure shrunk, in bf16, read from several files into two workers' shards layer by layer: what one worker computes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from clinjepa.curriculum.jobs import Job
from clinjepa.curriculum.settings import EncoderSettings
from clinjepa.storage import Folder
from tests.support.models.model_encoders import SETTINGS
from tests.support.models.public_models import write_shrunk_model
from tests.support.training.curriculum_jobs import phase_job, sft_job
from tests.support.training.curriculum_processes import run_job, run_on_workers
from tests.support.training.curriculum_store import make_trajectories

STEPS = 2


class Results:
    """SFT through LoRA, then joint refinement from its adapters, on one worker and on two."""

    def __init__(self, root: Path) -> None:
        self.root, self.trajectories = root, make_trajectories(root, num_stays=9, max_hours=8)
        model = str(write_shrunk_model(root))
        Folder(root / "base").write_json("model.json", {"model": model, "revision": None})
        self.settings = EncoderSettings.from_json(SETTINGS | {"init": "pretrained", "model": model, "dtype": "bfloat16"})
        for job in self.jobs(1):
            run_job(job)
        run_on_workers(self.jobs(2), 2, layer_by_layer=True)

    def jobs(self, num_workers: int) -> list[Job]:
        out, base = self.root / f"{num_workers}", str(self.root / "base")
        sft = sft_job(out / "sft", self.trajectories, self.settings, base=base, activation_checkpointing="full")
        fields = {"trajectories": self.trajectories, "base": base, "encoder": str(out / "sft"), "encoder_settings": self.settings}
        joint = phase_job(
            "joint", out=str(out / "joint"), latents=None, num_steps=STEPS, activation_checkpointing="selective", global_batch=4, **fields
        )
        return [sft, joint]

    def metrics(self, num_workers: int, stage: str) -> dict[str, Any]:
        return json.loads((self.root / f"{num_workers}" / stage / "metrics.json").read_text())


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return Results(tmp_path_factory.mktemp("shrunk"))


@pytest.mark.parametrize("stage", ["sft", "joint"])
def test_losses_of_two_workers_are_those_of_one_within_bf16(results: Results, stage: str) -> None:
    one, two = ([row["loss"] for row in results.metrics(workers, stage)["steps"]] for workers in (1, 2))
    assert two == pytest.approx(one, rel=4e-3)


def test_next_token_training_of_a_public_model_moves_adapters_and_writes_nothing_else(results: Results) -> None:
    folder = results.root / "2" / "sft"
    assert {path.name for path in folder.glob("*.safetensors")} == {"online.safetensors"}
    assert all(tensor.abs().max() > 0 for tensor in load_file(folder / "online.safetensors").values())


def test_joint_refinement_goes_on_from_the_adapters_of_next_token_training(results: Results) -> None:
    before, after = (load_file(results.root / "2" / stage / "online.safetensors") for stage in ("sft", "joint"))
    assert before.keys() == after.keys()
    largest = {name: float((after[name] - before[name]).abs().max()) for name in before}
    assert all(0 < change < 0.02 for change in largest.values())
