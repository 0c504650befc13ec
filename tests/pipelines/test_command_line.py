"""What a user of command lines expects: a version, completion, output for programs, no colours in a file, exit statuses that differ."""

from __future__ import annotations

import json
import os
import pty
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import clinjepa
from clinjepa.config import load_config
from clinjepa.errors import ConfigError, LeakError, StorageError
from clinjepa.sources.open_data import list_open_data
from pipelines.cli import app
from pipelines.graph.planning import plan_experiment
from pipelines.results.plan_record import PlanRecord
from pipelines.scheduling.locations import absolute
from pipelines.terminal.faults import one_line_errors
from tests.support.machines.cli import ROOT, SMALL, environment

ESCAPE = "\x1b["


def invoke(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def on_a_terminal(*arguments: str, **env: str) -> str:
    """What a command writes to a pseudo-terminal."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "pipelines.cli", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, env=environment(TERM="xterm-256color", **env), stdout=theirs, stderr=theirs, stdin=theirs)
    os.close(theirs)
    written = b""
    while True:
        try:
            read = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not read:
            break
        written += read
    process.wait(timeout=60)
    os.close(ours)
    return written.decode()


def test_the_version_is_printed() -> None:
    done = invoke("--version")
    assert (done.exit_code, done.stdout) == (0, f"clinjepa {clinjepa.__version__}\n")


def test_commands_complete_in_a_shell() -> None:
    env = environment(_CLINJEPA_COMPLETE="complete_bash", COMP_WORDS="clinjepa pre", COMP_CWORD="1")
    done = subprocess.run([sys.executable, "-m", "pipelines.cli"], cwd=ROOT, env=env, text=True, capture_output=True, timeout=120)
    assert done.stdout.split() == ["pretrain"], done.stderr
    assert "--install-completion" in invoke("--help").stdout


def test_a_plan_as_json_is_one_object_of_the_documented_fields(tmp_path: Path) -> None:
    overrides = [f"storage={tmp_path}", "execution.use_gpu=true", "execution.num_workers=64"]
    done = invoke("plan", SMALL, *overrides, "--json")
    assert done.exit_code == 0, done.stderr
    plan = PlanRecord.model_validate_json(done.stdout)
    experiment = plan_experiment(absolute(load_config(SMALL, overrides)), remember=False)
    assert [(stage.label, stage.key) for stage in plan.stages] == [(stage.label, stage.key) for stage in experiment.stages]
    assert {stage.state for stage in plan.stages} == {"to do"}
    known = {stage.key for stage in plan.stages}
    assert all(set(stage.needs) <= known for stage in plan.stages)
    assert plan.gpu is not None and plan.gpu.peak_bytes == max(phase.total_bytes for phase in plan.gpu.phases)
    assert plan.latents.total_bytes == sum(store.num_bytes for store in plan.latents.stores) > 0
    assert any("64 workers would share" in line for line in plan.refusals)
    assert list(json.loads(done.stdout)) == list(PlanRecord.model_fields)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_plan_of_a_source_that_is_not_there_announces_no_sizes(tmp_path: Path, more: list[str]) -> None:
    source = ["source.kind=meds", f"source.path={tmp_path / 'nowhere'}"]
    done = invoke("plan", SMALL, f"storage={tmp_path}", *source, *more)
    assert (done.exit_code, done.stdout) == (2, "") and "nowhere" in done.stderr
    planned = invoke("plan", SMALL, f"storage={tmp_path}", *source, *more, "--without-data")
    assert planned.exit_code == 0 and "latent" in planned.stdout and planned.stderr == ""


@pytest.mark.parametrize(("error", "status"), [(ConfigError("x"), 2), (StorageError("x"), 2), (LeakError("x"), 3), (ValueError("x"), 1)])
def test_each_kind_of_failure_has_its_exit_status(error: Exception, status: int) -> None:
    with pytest.raises(BaseException) as ended, one_line_errors(debug=False):
        raise error
    assert ended.value.exit_code == status


def test_an_interruption_has_the_exit_status_of_its_signal() -> None:
    with pytest.raises(BaseException) as ended, one_line_errors(debug=False):
        raise KeyboardInterrupt
    assert ended.value.exit_code == 130


def test_every_name_is_listed_whole_where_there_is_no_terminal() -> None:
    done = invoke("data", "list")
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == [entry.name for entry in list_open_data()]


def test_every_name_is_listed_whole_on_a_narrow_terminal() -> None:
    shown = on_a_terminal("data", "list", COLUMNS="60")
    assert all(entry.name in shown for entry in list_open_data())


def test_colours_are_for_terminals_only_and_can_be_turned_off(tmp_path: Path) -> None:
    refused = ("plan", SMALL, f"storage={tmp_path}", "no_such_key=1")
    env = environment()
    piped = subprocess.run(
        [sys.executable, "-m", "pipelines.cli", *refused], cwd=ROOT, env=env, text=True, capture_output=True, timeout=120
    )
    assert ESCAPE not in piped.stdout + piped.stderr and "no_such_key" in piped.stderr
    coloured = on_a_terminal(*refused)
    assert ESCAPE + "1;31m" in coloured
    plain = on_a_terminal(*refused, NO_COLOR="1")
    assert "no_such_key" in plain and "31m" not in plain


def test_a_simulation_draws_no_bar_into_a_file(tmp_path: Path) -> None:
    done = invoke("data", "simulate", str(tmp_path / "out"), "--patients", "4", "--workers", "1")
    assert done.exit_code == 0, done.output
    assert len(done.stdout.splitlines()) == 1 and done.stdout.split()[1] == "stays,"


def test_the_page_of_commands_is_current() -> None:
    page = runpy.run_path(str(ROOT / "docs" / "site" / "commands_page.py"))["commands_page"]()
    current = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert current == page, "docs/commands.md is behind the commands: python docs/site/commands_page.py > docs/commands.md"
