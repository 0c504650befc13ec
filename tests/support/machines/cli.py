"""How tests run the project's commands: as a user does, in a new process, or in the test's process where no cluster starts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

ROOT = Path(__file__).resolve().parents[3]
SMALL = "tests/e2e/small.yaml"


def environment(**extra: str) -> dict[str, str]:
    """The tests' environment without a Ray cluster to join."""
    kept = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "PYTHONPATH")}
    return kept | {"RAY_USAGE_STATS_ENABLED": "0", "HF_HUB_OFFLINE": "1"} | extra


def start(command: str, *arguments: str, **env: str) -> subprocess.Popen[str]:
    """Start `python -m pipelines.<command> …` in the repository's root."""
    return subprocess.Popen(
        [sys.executable, "-m", f"pipelines.{command}", *arguments],
        cwd=ROOT,
        env=environment(**env),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def call(command: str, *arguments: str, timeout: float = 600, **env: str) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    process = start(command, *arguments, **env)
    output, _ = process.communicate(timeout=timeout)
    return subprocess.CompletedProcess(process.args, process.returncode, output, None)


def call_here(command: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run it in this process, which saves the imports of a new one: for commands that end before a cluster starts."""
    from pipelines.cli import app

    done = CliRunner().invoke(app, [command, *arguments], env={"RAY_ADDRESS": None, **env})
    return subprocess.CompletedProcess([command, *arguments], done.exit_code, done.output, None)


def python_without(absent: Sequence[str], code: str, cwd: Path = ROOT, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process in which the `absent` packages cannot be imported, as if they were not installed."""
    blocked = f"import sys\nsys.modules.update(dict.fromkeys({list(absent)!r}))\n"
    command, env = [sys.executable, "-c", blocked + code], environment(PYTHONPATH=str(ROOT))
    return subprocess.run(command, cwd=cwd, env=env, text=True, capture_output=True, timeout=timeout)


def numbers(report: dict[str, Any]) -> dict[str, Any]:
    """What a report found, without what may differ between two equal runs (times, names, what was reused)."""
    return {
        name: report[name] for name in ("config_digest", "dataset", "phases", "roundtrip", "drift", "geometry", "forecasts", "downstream")
    }


def read_report(storage: Path, name: str = "small") -> dict[str, Any]:
    return json.loads((storage / "runs" / name / "report.json").read_text())
