"""A latent store that is cut under a training that Ray feeds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.machines.cli import ROOT, environment
from tests.support.training.trainings import Inputs


@pytest.mark.ray
def test_a_store_cut_under_a_training_ends_it_with_one_line_that_names_the_file(tmp_path: Path) -> None:
    inputs = Inputs(tmp_path / "inputs")
    job = inputs.job("warmup", 20, tmp_path / "unused")
    for file in (Path(inputs.latents) / "latents").glob("*.safetensors"):
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
    execution = {"num_workers": 1, "cpus_per_worker": 0.75, "data_cpus": 0.25, "threads_per_worker": 1, "progress": False}
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps({"job": job.to_json(), "config": {"storage": str(tmp_path / "storage"), "execution": execution}}))
    command = [sys.executable, "-m", "tests.support.training.training_driver", str(spec)]
    done = subprocess.run(command, cwd=ROOT, env=environment(PYTHONPATH=str(ROOT)), text=True, capture_output=True, timeout=280)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1
    assert last.startswith("StoreError: ") and "safetensors is shorter than its header says" in last, last
    assert (done.stdout + done.stderr).count("Starting training worker group") <= 1, "a restart cannot mend it"
