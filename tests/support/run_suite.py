"""Runs the test suite in two parts: `python -m tests.support.run_suite [pytest arguments]`, which `make test` calls.

Tests without a cluster share two processes, file by file. Tests that start Ray or an S3 server, or kill processes, run in one process
beside them, in sequence. They mostly wait, for processes to start and leases to expire, so the first part uses the cores meanwhile. It has
a lower priority, so that it does not slow them down. Its output comes first, then that of the second part. The last line sums up both
parts; the exit status is that of the first part that failed.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

CLUSTER = "(ray or s3 or chaos)"
PARTS = (
    ["-n", "2", "--dist", "loadfile", "-m", f"not long and not {CLUSTER}"],
    ["-m", f"not long and {CLUSTER}"],
)
LOWER_PRIORITY = 10
"""Niceness of the part without a cluster."""
NO_TESTS = 5
"""Exit status of pytest when nothing was collected, which is no fault of a part when the other one ran tests."""
OUTCOMES = ("failed", "passed", "skipped", "deselected", "xfailed", "xpassed", "warnings", "errors")


def parts_of(arguments: list[str]) -> list[list[str]]:
    """pytest's arguments for every part; a selection of marks or of processes in `arguments` makes it one part, as it says."""
    chosen = any(each in ("-m", "-n") or each.startswith(("-m=", "-n=", "--markers", "--numprocesses")) for each in arguments)
    return [arguments] if chosen else [part + arguments for part in PARTS]


def outcomes(line: str) -> Counter[str]:
    """Counts of a summary line of pytest; empty for any other line."""
    if not re.search(r"\bin \d+\.\d+s\b", line):
        return Counter()
    found = re.findall(r"(\d+) (failed|passed|skipped|deselected|xfailed|xpassed|warning|warnings|error|errors)\b", line)
    return Counter({{"warning": "warnings", "error": "errors"}.get(name, name): int(number) for number, name in found})


def summed_up(counts: Iterable[Counter[str]]) -> str:
    """One line of all parts. What one part deselects the other runs, so that is left out."""
    total = sum(counts, Counter())
    return ", ".join(f"{total[name]} {name}" for name in OUTCOMES if total[name] and name != "deselected") or "no tests ran"


def exit_status(statuses: list[int]) -> int:
    """That of the first part that failed; `NO_TESTS` only when no part had any."""
    failed = [status for status in statuses if status not in (0, NO_TESTS)]
    return failed[0] if failed else min(statuses)


def started(part: list[str], output: Path) -> subprocess.Popen[bytes]:
    """pytest with the arguments of a part, writing into a file."""
    lower = ["nice", "-n", str(LOWER_PRIORITY)] if f"not {CLUSTER}" in " ".join(part) else []
    with output.open("wb") as file:
        return subprocess.Popen([*lower, sys.executable, "-m", "pytest", *part], stdout=file)


def written(process: subprocess.Popen[bytes], output: Path) -> Iterator[str]:
    """What is written to the file, piece by piece, until the process has ended."""
    with output.open(encoding="utf-8", errors="replace") as file:
        while True:
            ended = process.poll() is not None
            if text := file.read():
                yield text
            elif ended:
                return
            time.sleep(0.2)


def main(arguments: list[str]) -> int:
    counts, statuses = [], []
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, str(number)) for number, _ in enumerate(parts_of(arguments))]
        processes = [started(part, file) for part, file in zip(parts_of(arguments), files, strict=True)]
        try:
            for process, file in zip(processes, files, strict=True):
                for text in written(process, file):
                    print(text, end="", flush=True)
                statuses.append(process.wait())
                found = [outcomes(line) for line in file.read_text(encoding="utf-8", errors="replace").splitlines()]
                counts.append(next((each for each in reversed(found) if each), Counter()))
        finally:
            for process in processes:
                process.terminate()
    print(f"both parts: {summed_up(counts)}", flush=True)
    return exit_status(statuses)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
