"""What a benchmark says it measured is what ran: processes of processes included, contenders in turn, one JSON line."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks.support import harness
from benchmarks.support.harness import Cost, Report, interleaved, median, publish, run_command

REPORT = Report("example", {"ratio": 6.0}, {"ratio": ">= 5"}, {"ratio": "times"}, {"rounds": 3})


def test_a_command_s_cost_counts_processes_that_nobody_waits_for():
    busy = (
        "import time\ndata = bytearray(60_000_000)\nend = time.process_time() + 0.6\nwhile time.process_time() < end: pass\ntime.sleep(0.5)"
    )
    parent = (
        "import os, subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {busy!r}], start_new_session=True, stdout=subprocess.PIPE)\n"
        "child.stdout.read()\n"
        "os._exit(0)"
    )
    cost = run_command([sys.executable, "-c", f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {parent!r}]).wait()"])
    assert cost.cpu_seconds >= 0.55 and cost.wall_seconds >= 0.5
    assert cost.peak_bytes > 60_000_000


def test_a_command_s_cost_is_shared_among_its_steps(tmp_path):
    """30 MB in the first step, 90 MB and 0.6 s of work in the second, which begins when the file is there."""
    code = (
        "import pathlib, sys, time\ndata = bytearray(30_000_000)\ntime.sleep(0.5)\npathlib.Path(sys.argv[1]).touch()\ntime.sleep(0.3)\n"
        "data = bytearray(90_000_000)\nend = time.process_time() + 0.6\nwhile time.process_time() < end: pass\ntime.sleep(0.3)"
    )
    second = tmp_path / "second"
    cost = run_command([sys.executable, "-c", code, str(second)], step=lambda: "second" if second.exists() else "first")
    assert cost.steps.keys() == {"first", "second"}
    assert cost.steps["first"].peak_bytes < 80_000_000 < 90_000_000 < cost.steps["second"].other_bytes == cost.peak_bytes
    assert cost.steps["second"].cpu_seconds >= 0.55


def test_a_command_that_fails_is_no_measurement():
    with pytest.raises(RuntimeError, match="ended with 3: .*why"):
        run_command([sys.executable, "-c", "import sys; print('why', file=sys.stderr); sys.exit(3)"])


def test_contenders_take_turns_and_the_first_round_does_not_count():
    calls: list[str] = []
    costs = interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=2)
    assert calls == ["b", "a", "a", "b", "b", "a"]
    assert {name: len(rounds) for name, rounds in costs.items()} == {"a": 2, "b": 2}


def test_the_median_of_rounds_is_the_figure():
    assert median([Cost(1, 5), Cost(3, 9), Cost(2, 1)]) == 5
    assert median([Cost(1, 5), Cost(3, 9), Cost(2, 1)], "wall_seconds") == 2


@pytest.mark.parametrize("quick", [True, False])
def test_the_last_line_is_one_json_object_and_only_the_full_form_leaves_a_file(quick, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(harness, "RESULTS", tmp_path / "results")
    publish(REPORT, quick)
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"name", "measured", "goal", "unit", "versions", "command"} <= result.keys()
    assert (result["name"], result["measured"], result["versions"]["python"]) == ("example", {"ratio": 6.0}, sys.version.split()[0])
    assert (tmp_path / "results" / "example.json").exists() is not quick
