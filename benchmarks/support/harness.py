"""How every benchmark measures and reports.

Contenders run in interleaved rounds, so that a slow minute of the machine meets all of them, and the figure is the median.
The last line of stdout is one JSON object; the full form (without `--quick`) also writes `benchmarks/results/<name>.json`.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results"
_PACKAGES = ("clinjepa", "ray", "polars", "pyarrow", "numpy", "torch", "tokenizers", "transformers", "peft", "accelerate")
_MARK = "CLINJEPA_BENCHMARK_PROCESS"
_PAUSE = 15
"""Of the watcher after a sample, in durations of that sample: it takes a sixteenth of one core at most."""
_TASK = re.compile(rb"ray::(?!\w*(Actor|Coordinator)\b)")
"""Titles of Ray's processes of tasks (an idle one may have grown in a task), but not of its actors and ours."""


@dataclass
class StepCost:
    """What one step of a run took: CPU seconds; the peak of all processes together, of the largest Ray task, and of all but tasks."""

    cpu_seconds: float = 0.0
    peak_bytes: int = 0
    largest_task_bytes: int = 0
    other_bytes: int = 0


@dataclass(frozen=True)
class Cost:
    """What one run took. wall_seconds; cpu_seconds (user + system, of all its processes and threads); peak_bytes (0: not measured).

    steps: the same by step, where `run_command` was told how to know the step.
    """

    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int = 0
    steps: dict[str, StepCost] = field(default_factory=dict)


@dataclass
class Report:
    """One benchmark's result. measured: figure name -> value; goal: figure name -> bound in words (`>= 5`); unit: figure name -> unit.

    details: anything else worth keeping (sizes of the input, every round).
    """

    name: str
    measured: dict[str, float]
    goal: dict[str, str]
    unit: dict[str, str]
    details: dict[str, Any] = field(default_factory=dict)


def arguments(description: str, **more: Any) -> argparse.Namespace:
    """The command line of a benchmark: `--quick` (under a minute) and one `--name VALUE` for each entry of `more` (its default).

    A default of False makes a switch of it.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="small input, under a minute, writes no result file")
    for name, default in more.items():
        option = f"--{name.replace('_', '-')}"
        if default is False:
            parser.add_argument(option, action="store_true")
        else:
            parser.add_argument(option, default=default, type=str if default is None else type(default))
    return parser.parse_args()


def interleaved(contenders: Mapping[str, Callable[[], Any]], rounds: int, warm_up: bool = True) -> dict[str, list[Cost]]:
    """Run the contenders in turn, `rounds` times each (order reversed every other round); this process's time only.

    One run of each that does not count comes first with `warm_up`.
    """
    costs: dict[str, list[Cost]] = {name: [] for name in contenders}
    order = list(contenders)
    for number in range(-1 if warm_up else 0, rounds):
        for name in order if number % 2 == 0 else reversed(order):
            cost = timed(contenders[name])
            if number >= 0:
                costs[name].append(cost)
    return costs


def timed(action: Callable[[], Any]) -> Cost:
    """The cost of one call in this process, its threads included."""
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    return Cost(time.perf_counter() - wall, time.process_time() - cpu)


def run_command(
    argv: Sequence[str],
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    interval: float = 0.1,
    step: Callable[[], str] | None = None,
) -> Cost:
    """The cost of a command with everything that it starts, daemons included (Linux: they are known by an inherited variable).

    Memory is the highest sum of proportional set sizes over its processes (shared pages count once). step: names the step that the
    command is at, asked at every sample. Raises RuntimeError with the end of its output when it fails.
    """
    mark = f"{_MARK}={uuid.uuid4().hex}"
    watched = _Watch(mark.encode(), interval, step)
    start, waited_for = time.perf_counter(), _children_seconds()
    with watched:
        done = subprocess.run(
            list(argv), env=dict(os.environ if env is None else env) | dict([mark.split("=")]), cwd=cwd, capture_output=True, text=True
        )
    wall = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"{argv[0]} ended with {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
    # Samples miss what is short-lived, the parent's account misses daemons that nobody waits for.
    cpu = max(sum(watched.cpu_seconds.values()), _children_seconds() - waited_for)
    return Cost(wall, cpu, watched.peak_bytes, watched.steps if step else {})


def median(costs: Sequence[Cost], of: str = "cpu_seconds") -> float:
    return statistics.median(getattr(cost, of) for cost in costs)


def all_rounds(costs: Mapping[str, Sequence[Cost]]) -> dict[str, list[dict[str, float]]]:
    """Every round of `interleaved`, for a report's details."""
    return {name: [asdict(cost) for cost in rounds] for name, rounds in costs.items()}


def publish(report: Report, quick: bool) -> None:
    """Write the result file (full form only) and print the report as the last line of stdout."""
    result = {
        "name": report.name,
        "measured": report.measured,
        "goal": report.goal,
        "unit": report.unit,
        "versions": _versions(),
        "command": f"python -m benchmarks.{report.name} {' '.join(sys.argv[1:])}".strip(),
        "machine": {
            "cpu": _cpu_model(),
            "num_cpus": os.cpu_count(),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        },
        "quick": quick,
        "details": report.details,
    }
    if not quick:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{report.name}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result), flush=True)


class _Watch:
    """Samples the processes whose environment holds a mark: CPU seconds per process as last seen, peak of their summed memory."""

    def __init__(self, mark: bytes, interval: float, step: Callable[[], str] | None = None) -> None:
        self.mark, self.interval, self._step = mark, interval, step
        self.cpu_seconds: dict[tuple[int, int], float] = {}
        self.peak_bytes = 0
        self.steps: dict[str, StepCost] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._strangers = _processes()

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        pause = self.interval
        while not self._stop.wait(pause):
            began = time.perf_counter()
            self.sample()
            # Asking for the memory of large processes takes long; the watcher is to take a small share of what it watches.
            pause = max(self.interval, _PAUSE * (time.perf_counter() - began))

    def sample(self) -> None:
        total = tasks = 0
        before = sum(self.cpu_seconds.values())
        step = self.steps.setdefault(self._step() if self._step else "", StepCost())
        for process in _processes() - self._strangers:
            with contextlib.suppress(OSError, IndexError):
                if self.mark not in Path(f"/proc/{process}/environ").read_bytes().split(b"\0"):
                    continue
                fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
                self.cpu_seconds[process, int(fields[19])] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
                size = _proportional_bytes(process)
                total += size
                if _TASK.match(Path(f"/proc/{process}/cmdline").read_bytes()):
                    tasks += size
                    step.largest_task_bytes = max(step.largest_task_bytes, size)
        step.cpu_seconds += sum(self.cpu_seconds.values()) - before
        step.peak_bytes, step.other_bytes = max(step.peak_bytes, total), max(step.other_bytes, total - tasks)
        self.peak_bytes = max(self.peak_bytes, total)


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _processes() -> set[int]:
    return {int(name) for name in os.listdir("/proc") if name.isdigit()}


def _proportional_bytes(process: int) -> int:
    for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return 1024 * int(line.split()[1])
    return 0


def _versions() -> dict[str, str]:
    return {"python": platform.python_version()} | dict(_installed())


def _installed() -> Iterator[tuple[str, str]]:
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            yield package, importlib.metadata.version(package)


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()
