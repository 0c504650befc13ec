"""`make test` runs the suite in two parts, counts both and fails when either does."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.support.machines.cli import ROOT
from tests.support.run_suite import CLUSTER, NO_TESTS, PARTS, exit_status, outcomes, parts_of, summed_up


def test_the_parts_have_every_test_that_is_not_long_once() -> None:
    alone, cluster = (part[part.index("-m") + 1] for part in PARTS)
    assert alone == f"not long and not {CLUSTER}" and cluster == f"not long and {CLUSTER}"


@pytest.mark.parametrize(("statuses", "expected"), [([0, 0], 0), ([1, 0], 1), ([0, 2], 2), ([0, 5], 0), ([5, 5], NO_TESTS), ([5, 1], 1)])
def test_a_part_that_fails_fails_the_suite(statuses: list[int], expected: int) -> None:
    assert exit_status(statuses) == expected


def test_the_last_line_counts_both_parts() -> None:
    first = outcomes("=== 3 passed, 1 skipped, 9 deselected, 1 warning in 10.21s (0:00:10) ===")
    second = outcomes("1 failed, 4 passed, 2 errors in 1.00s")
    assert summed_up([first, second]) == "1 failed, 7 passed, 1 skipped, 1 warnings, 2 errors"
    assert outcomes("a test printed 3 passed") == Counter()


def test_a_selection_of_marks_runs_as_it_says() -> None:
    assert parts_of(["-m", "long"]) == [["-m", "long"]] and len(parts_of(["tests/model", "-x"])) == 2


def test_a_failing_test_is_counted_and_fails(tmp_path: Path) -> None:
    (tmp_path / "test_two.py").write_text("def test_good(): pass\ndef test_bad(): assert False\n")
    command = [sys.executable, "-m", "tests.support.run_suite", str(tmp_path), "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout.splitlines()[-1] == "both parts: 1 failed, 1 passed"
