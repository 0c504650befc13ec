"""A phase in a plain process of its own, which tests kill or whose storage they take away."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from clinjepa.curriculum.jobs import PhaseJob
from clinjepa.curriculum.settings import PredictorSettings
from clinjepa.storage import Folder
from tests.support.machines.cli import ROOT, environment
from tests.support.training.curriculum_jobs import PREDICTOR, encoder_settings, phase_job
from tests.support.training.curriculum_store import make_base_and_latents, make_trajectories

STEPS = 8


def warmup_job(root: Path) -> PhaseJob:
    """A phase that saves after every step, with stores under `root` and a predictor large enough (60 MB a checkpoint) to be met saving."""
    trajectories = make_trajectories(root)
    latents = make_base_and_latents(root, trajectories, encoder_settings())
    return replace(
        phase_job("warmup", trajectories=trajectories, latents=latents, num_steps=STEPS, total_steps=STEPS, checkpoint_every_steps=1),
        base=str(root / "base"),
        predictor_settings=PredictorSettings.from_json({**PREDICTOR, "hidden_size": 384, "num_layers": 3, "ffn_size": 1536}),
        log_every_steps=1,
    )


def start(job: PhaseJob, env: dict[str, str] | None = None, **options: Any) -> subprocess.Popen[bytes]:
    """Run the job's command; its standard output is a pipe."""
    path = Path(tempfile.mkdtemp(prefix="clinjepa-job-"), "job.json")
    path.write_text(json.dumps(job.to_json()))
    command = [sys.executable, "-m", "clinjepa.curriculum.worker", str(path)]
    variables = environment(PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1", **(env or {}))
    return subprocess.Popen(command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, **options)


def last_start(out: str | Path) -> int:
    """The step from which the last process that trained in a folder went on."""
    return Folder(out).read_json("timing.json")["starts"][-1]["step"]


def assert_same(out: str | Path, undisturbed: str | Path) -> None:
    """The same bytes as what the phase left when nobody disturbed it; clock times apart."""
    found, expected = Folder(out), Folder(undisturbed)
    names = {name for name in expected.names() if "." in name} - {"timing.json"}
    assert "predictor.safetensors" in names
    assert [name for name in sorted(names) if found.read_bytes(name) != expected.read_bytes(name)] == []
