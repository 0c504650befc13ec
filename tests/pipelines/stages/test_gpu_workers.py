"""Workers that are given a GPU which their torch cannot use: Ray is told of GPUs that this machine does not have."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.support.machines.ray_nodes import RayNodes
from tests.support.training.curriculum_jobs import phase_job
from tests.support.training.trainings import Training


@pytest.mark.ray
@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_training_on_gpus_that_torch_cannot_use_ends_at_once_with_what_to_change(tmp_path: Path) -> None:
    job = phase_job("warmup", out=str(tmp_path / "unused"))
    with RayNodes(head_cpus=1) as nodes:
        nodes.add(num_cpus=1, num_gpus=1)
        training = Training(nodes, job, tmp_path, num_workers=1, use_gpu=True, max_worker_failures=-1)
        try:
            training.process.wait(240)
        finally:
            training.process.kill()
        said = training.log.read_text(errors="replace").strip().splitlines()[-1]
    assert training.process.returncode == 1
    assert said.startswith("ResourceError: execution.use_gpu=true") and "execution.use_gpu=false" in said, said
