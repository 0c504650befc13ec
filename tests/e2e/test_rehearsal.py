"""The 8B path walked on a CPU: configs/mimic_iv_qwen3_8b.yaml through the command, on Qwen3-8B's structure shrunk.

bf16 base from several files into two FSDP workers, SFT through LoRA, EMA adapters, five phases, selective recomputation, export.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.support.machines.cli import ROOT, call, environment, python_without, read_report
from tests.support.models.public_models import write_public_folder

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.timeout(900)]
CONFIG = "configs/rehearsal_qwen3_8b.yaml"
ABSENT = ("ray", "pydantic", "polars", "pandas", "pyarrow")


class Rehearsal:
    """The commands of docs/scaling.md, one after the other."""

    def __init__(self, root: Path) -> None:
        self.root, self.storage, self.model = root, root / "storage", root / "model"
        public = write_public_folder(root / "public")
        command = [
            sys.executable,
            "-m",
            "clinjepa.model.pretrained.shrink",
            str(public),
            str(self.model),
            "--layers",
            "3",
            "--head-dim",
            "8",
        ]
        shrunk = subprocess.run(command, cwd=ROOT, env=environment(), text=True, capture_output=True, timeout=200)
        assert "num_hidden_layers 3" in shrunk.stdout, shrunk.stderr[-2000:]
        self.overrides = (f"storage={self.storage}", f"encoder.model={self.model}")
        self.done = call("run", CONFIG, *self.overrides, timeout=800)
        assert self.done.returncode == 0, self.done.stdout[-4000:]

    def manifests(self, kind: str) -> list[dict]:
        return [json.loads(path.read_text()) for path in (self.storage / "artifacts" / kind).glob("*/manifest.json")]

    def files(self, kind: str, name: str) -> list[Path]:
        return sorted((self.storage / "artifacts" / kind).glob(f"*/{name}"))


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> Rehearsal:
    return Rehearsal(tmp_path_factory.mktemp("rehearsal"))


def test_five_phases_ran_on_the_shrunk_model_and_were_judged(rehearsal: Rehearsal) -> None:
    report = read_report(rehearsal.storage, "rehearsal_qwen3_8b")
    phases = report["phases"]["clin_jepa"]["0"]
    assert [phase["name"] for phase in phases] == ["warmup", "joint", "alignment", "hard_sync", "finalization"]
    assert set(report["drift"]) == set(report["geometry"]) == {"clin_jepa"}
    assert "warning" not in rehearsal.done.stdout


def test_the_base_is_named_and_never_copied(rehearsal: Rehearsal) -> None:
    assert {file["path"] for manifest in rehearsal.manifests("base") for file in manifest["files"]} == {"model.json"}
    weights = sum(path.stat().st_size for path in rehearsal.model.glob("*.safetensors"))
    assert all(path.stat().st_size < weights for path in rehearsal.storage.rglob("online.safetensors"))


def test_adapters_are_fp32_and_latents_bf16(rehearsal: Rehearsal) -> None:
    trained = [*rehearsal.files("sft", "online.safetensors"), *rehearsal.files("phase", "*.safetensors")]
    assert len(trained) > 5
    assert {tensor.dtype for path in trained for tensor in load_file(path).values()} == {torch.float32}
    stored = rehearsal.files("embed", "latents/*.safetensors")
    assert {tensor.dtype for path in stored for tensor in load_file(path).values()} == {torch.bfloat16}


def test_next_token_training_and_joint_refinement_moved_the_adapters(rehearsal: Rehearsal) -> None:
    (sft,) = rehearsal.files("sft", "online.safetensors")
    (joint,) = rehearsal.files("phase", "online.safetensors")
    before, after = load_file(sft), load_file(joint)
    assert before.keys() == after.keys() and len(before) == 3 * 4 * 2
    assert all(tensor.abs().max() > 0 for tensor in before.values())
    assert all(not torch.equal(before[name], after[name]) for name in before)


def test_an_export_loads_without_ray_and_gives_the_latents_of_the_store(rehearsal: Rehearsal) -> None:
    folder = rehearsal.root / "export"
    done = call("export", CONFIG, str(folder), *rehearsal.overrides)
    assert done.returncode == 0, done.stdout[-2000:]
    assert not list(folder.rglob("model*.safetensors")), "the base was copied"
    code = (
        "from clinjepa.model import Predictor, TextEncoder\n"
        f"encoder = TextEncoder.from_pretrained({str(folder / 'encoder')!r}, base={str(rehearsal.model)!r})\n"
        f"predictor = Predictor.from_pretrained({str(folder / 'predictor')!r})\n"
        "z = encoder(['t=3h | Heart Rate: 88 bpm.', 't=3h | No active interventions.'])\n"
        "print(z.shape, z.isfinite().all().item(), predictor.spec.latent_dim)"
    )
    loaded = python_without(ABSENT, code)
    assert loaded.stdout.split() == ["torch.Size([2,", "64])", "True", "64"], loaded.stderr[-2000:]


def test_the_same_command_again_has_nothing_to_do(rehearsal: Rehearsal) -> None:
    planned = call("plan", CONFIG, *rehearsal.overrides)
    assert planned.returncode == 0 and "to do" not in planned.stdout
