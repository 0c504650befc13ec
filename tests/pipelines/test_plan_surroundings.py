"""`clinjepa plan` on an output that is not UTF-8, and with an object store that does not answer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.machines.cli import ROOT, SMALL, environment


def plan(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipelines.cli", "plan", SMALL, *words]
    return subprocess.run(
        command, cwd=ROOT, env=environment(PYTHONPATH=str(ROOT), **variables), capture_output=True, text=True, timeout=200
    )


def test_an_output_that_is_not_utf_8_gets_what_it_can_hold(tmp_path: Path) -> None:
    found = plan(f"storage={tmp_path}", PYTHONIOENCODING="ascii")
    assert found.returncode == 0 and "stages" in found.stdout and found.stdout.isascii(), found.stderr


@pytest.mark.parametrize("setting", ["storage=s3://bucket/out", "source.path=s3://bucket/data"])
def test_a_store_that_does_not_answer_is_named(tmp_path: Path, setting: str) -> None:
    kind = ["source.kind=cinc2019"] if setting.startswith("source") else []
    where = [] if setting.startswith("storage") else [f"storage={tmp_path}"]
    keys = {"AWS_ACCESS_KEY_ID": "planted", "AWS_SECRET_ACCESS_KEY": "planted-s3cret", "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    found = plan(setting, *kind, *where, **keys)
    assert found.returncode == 2 and "s3://bucket" in found.stderr and "planted-s3cret" not in found.stderr + found.stdout, found.stderr
    assert "Traceback" not in found.stderr
