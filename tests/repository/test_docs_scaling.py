"""The Python of docs/scaling.md writes a job that the worker of `torchrun` reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clinjepa.curriculum.jobs import PhaseJob
from tests.repository.test_docs import blocks
from tests.support.machines.cli import ROOT


def test_the_job_of_the_page_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = ROOT / "docs" / "scaling.md"
    (code,) = blocks(page, "python")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(code, str(page), "exec"), names)
    job = PhaseJob.from_json(json.loads((tmp_path / "JOB.json").read_text()))
    assert job == names["job"] and job.phase.name == "warmup" and job.num_steps == 24
