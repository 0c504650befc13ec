"""The files for ACES: each is a task of this project and named on its page; `es-aces` reads them, where an environment with it is named.

es-aces needs a polars that this project cannot use, so it has a Python of its own: `CLINJEPA_ACES_PYTHON=aces/bin/python`.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from benchmarks.aces_agreement import FILES, tasks_of_files
from clinjepa.clinical import list_tasks, load_task
from clinjepa.config.yaml_text import parse_yaml

PAGE = Path(__file__).parents[2] / "docs" / "community.md"
READ = "import sys; from aces.config import TaskExtractorConfig as T; [print(T.load(f).label_window) for f in sys.argv[1:]]"


def test_the_page_names_every_file_and_no_other() -> None:
    section = (
        PAGE.read_text(encoding="utf-8").partition("## This project's tasks for ACES")[2].partition("### Tasks that ACES cannot say")[0]
    )
    table = {line.split("`")[1] for line in section.splitlines() if line.startswith("| `")}
    assert table == set(tasks_of_files()) <= set(list_tasks())


@pytest.mark.parametrize("name", tasks_of_files())
def test_a_file_predicts_when_the_task_does(name: str) -> None:
    content = parse_yaml((FILES / f"{name}.yaml").read_text(encoding="utf-8"))
    at_discharge = load_task(name).at == "icu_discharge"
    assert content["trigger"] == ("icu_discharge" if at_discharge else "icu_admission")
    assert content["windows"]["input"]["end"] == ("trigger" if at_discharge else "trigger + 24h")
    assert content["windows"]["target"]["label"] in content["predicates"]
    assert load_task(name).kind == "stay"


def test_aces_reads_every_file() -> None:
    python = os.environ.get("CLINJEPA_ACES_PYTHON")
    if not python:
        pytest.skip("CLINJEPA_ACES_PYTHON names no Python with es-aces: python -m venv aces && aces/bin/pip install es-aces==0.7.3")
    files = [str(FILES / f"{name}.yaml") for name in tasks_of_files()]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([python, "-c", READ, *files], env=environment, text=True, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["target"] * len(files)
