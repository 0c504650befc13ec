"""Runs the test suite in two parts: `python -m tests.support.run_suite [pytest arguments]`, which `make test` calls.

Tests without a cluster share two processes, file by file. Tests that start Ray or an S3 server, or kill processes, run after them in one
process, since they use all cores themselves. The last line sums up both parts; the exit status is that of the first part that failed.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable

CLUSTER = "(ray or s3 or chaos)"
PARTS = (
    ["-n", "2", "--dist", "loadfile", "-m", f"not long and not {CLUSTER}"],
    ["-m", f"not long and {CLUSTER}"],
)
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


def main(arguments: list[str]) -> int:
    counts, statuses = [], []
    for part in parts_of(arguments):
        process = subprocess.Popen([sys.executable, "-m", "pytest", *part], stdout=subprocess.PIPE, text=True, errors="replace")
        last: Counter[str] = Counter()
        for line in process.stdout or ():
            print(line, end="", flush=True)
            last = outcomes(line) or last
        statuses.append(process.wait())
        counts.append(last)
    print(f"both parts: {summed_up(counts)}", flush=True)
    return exit_status(statuses)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
