"""SIGINT, SIGTERM and SIGHUP end a command with one line and the status 128 + n, also where a library handles signals itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.scheduling.interruptions import DELETING_LINE, READING_LINE, SERVICE_LINE, first_line, interruptible
from tests.support.machines.cli import ROOT, call_here, environment
from tests.support.machines.processes import marked, none_left

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
LINE = "interrupted; finished stages are kept, the same command goes on\n"

AT_WORK = """
import signal, sys, threading, time
import typer
from pipelines.scheduling.interruptions import LINE, SERVICE_LINE
from pipelines.terminal.faults import entered, one_line_errors

def libraries_handler(number, frame):
    sys.exit(0)

class HalfMade:  # as Ray Data's Dataset, whose __del__ needs what the constructor sets last
    def __init__(self):
        time.sleep(60)
        self.whole = True

    def __del__(self):
        self.whole

def command():
    with one_line_errors(False, {line}):
        signal.signal(signal.SIGINT, libraries_handler)
        signal.signal(signal.SIGTERM, libraries_handler)
        threading.Timer(0.5, lambda: print("at work", flush=True)).start()  # the main thread is in its work by then
        {work}

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(command)
entered(app)
"""
WORK = {
    "waits": "time.sleep(60)",
    "makes an object": "HalfMade()",
    "swallows": "\n".join(
        ["try:", "            time.sleep(60)", "        except KeyboardInterrupt:", "            print('stopped early', flush=True)"]
    ),
    "fails": "\n".join(["try:", "            time.sleep(60)", "        finally:", "            raise ValueError('of the clean-up')"]),
    "exits": "\n".join(["try:", "            time.sleep(60)", "        except KeyboardInterrupt:", "            sys.exit(0)"]),
}


def at_work(work: str, line: str = "LINE", **options: object) -> subprocess.Popen[str]:
    code = AT_WORK.format(work=work, line=line)
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )
    assert process.stdout is not None and process.stdout.readline() == "at work\n"
    return process


CASES = [*((number, "waits") for number in SIGNALS), *((signal.SIGINT, work) for work in WORK if work != "waits")]


@pytest.mark.parametrize(("number", "work"), CASES)
def test_a_signal_is_one_line_and_its_status_whatever_the_library_at_work_does(number: signal.Signals, work: str) -> None:
    process = at_work(WORK[work])
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (128 + number, LINE)


@pytest.mark.parametrize("work", ["waits", "swallows", "exits"])
def test_a_service_that_is_ended_speaks_of_no_stages(work: str) -> None:
    process = at_work(WORK[work], "SERVICE_LINE")
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (143, f"{SERVICE_LINE}\n") and "stages" not in SERVICE_LINE


@pytest.mark.parametrize(
    ("words", "inside", "line"),
    [
        (["plan", "configs/demo_simulator.yaml"], "pipelines.results.plan_record.plan_record", READING_LINE),
        (["runs", "{storage}"], "pipelines.results.stored_runs.stored_runs", READING_LINE),
        (["gc", "{storage}"], "pipelines.results.garbage.find_garbage", READING_LINE),
        (["gc", "{storage}", "--delete"], "pipelines.results.garbage.delete_garbage", DELETING_LINE),
    ],
)
def test_a_command_without_stages_speaks_of_none(
    words: list[str], inside: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(inside, interrupted)
    done = call_here(*[word.format(storage=tmp_path) for word in words])
    said = done.stdout + capfd.readouterr().err
    assert done.returncode == 130 and line in said and "stages" not in line


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["python", "-m", "pipelines.plan", "x.yaml"], READING_LINE),
        (["python", "/venv/bin/clinjepa", "gc", "/s", "--delete"], READING_LINE),
        (["python", "/venv/bin/clinjepa", "run", "plan"], LINE.strip()),
        (["python", "/venv/bin/clinjepa"], LINE.strip()),
        (["python", "-m", "pipelines.run", "x.yaml"], LINE.strip()),
    ],
)
def test_a_command_without_stages_speaks_of_none_during_its_first_imports_either(words: list[str], line: str) -> None:
    assert first_line(words) == line


def test_a_signal_that_comes_twice_at_once_is_one_interruption() -> None:
    slow = "\n".join(["try:", "            time.sleep(60)", "        finally:", "            time.sleep(0.5); print('cleaned')"])
    process = at_work(slow)
    process.send_signal(signal.SIGHUP)
    time.sleep(0.1)
    process.send_signal(signal.SIGHUP)
    output, errors = process.communicate(timeout=30)
    assert (process.returncode, output, errors) == (129, "cleaned\n", LINE)


def test_a_command_whose_terminal_was_closed_has_the_status_of_the_signal() -> None:
    ours, theirs = os.openpty()
    code = AT_WORK.format(work="time.sleep(60)", line="LINE")
    process = subprocess.Popen(
        [sys.executable, "-c", "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n" + code],
        cwd=ROOT,
        env=environment(),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    assert b"at work" in os.read(ours, 100)
    os.close(ours)
    assert process.wait(timeout=30) == 129


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    process = at_work("time.sleep(2)", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    process.send_signal(signal.SIGHUP)
    assert (process.communicate(timeout=30)[1], process.returncode) == ("", 0)


def test_handlers_are_put_back_when_the_command_ends() -> None:
    before, install = [signal.getsignal(number) for number in SIGNALS], signal.signal
    with interruptible() as outer, interruptible() as inner:
        assert outer is inner and signal.signal is not install
    assert [signal.getsignal(number) for number in SIGNALS] == before and signal.signal is install


def test_tables_that_are_being_simulated_leave_no_process_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipelines.data", "simulate", str(tmp_path / "out"), "--patients", "100000", "--workers", "2"]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment(MARK=str(tmp_path)), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    while len(marked(str(tmp_path))) < 3:
        assert process.poll() is None
        time.sleep(0.2)
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (143, LINE)
    assert none_left(str(tmp_path))


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("command", [["-m", "pipelines.evaluate"], ["clinjepa"]])
def test_a_signal_during_the_first_imports_is_one_line(tmp_path: Path, command: list[str], number: signal.Signals) -> None:
    (tmp_path / "typer.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    (tmp_path / "clinjepa").write_text("import sys\nfrom pipelines.cli import main\n")  # as the installed script begins
    arguments = [*command[:-1], command[-1] if command[0] == "-m" else str(tmp_path / command[0])]
    process = subprocess.Popen(
        [sys.executable, *arguments, "configs/demo.yaml"],
        cwd=ROOT,
        env=environment(PYTHONPATH=f"{tmp_path}:{ROOT}"),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stdout.readline() == "importing\n"
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (128 + number, LINE)
