"""The steps of docs/clinical.md, in their order, add a variable and a task to a copy of the project; its remarks on stage keys hold."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from clinjepa.clinical import list_tasks
from clinjepa.config import load_config
from pipelines.graph import experiment
from tests.support.machines.cli import environment

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "clinical.md").read_text(encoding="utf-8")


def steps(section: str) -> list[tuple[str, str]]:
    """(language, content) of the fenced blocks of a section, in order."""
    text = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return [(language, textwrap.dedent(block)) for language, block in re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL)]


def typed(lines: str, folder: Path) -> list[subprocess.CompletedProcess[str]]:
    """Run commands as they stand on the page, with this Python."""
    found = []
    for line in lines.splitlines():
        command = re.sub(r"(^|= )python ", rf"\1{sys.executable} ", line.removeprefix("PYTHONPATH=. "))
        command = re.sub(r"^clinjepa ", f"{sys.executable} -m pipelines.cli ", command).replace(
            "-m pytest", "-m pytest -q -p no:cacheprovider"
        )
        found.append(
            subprocess.run(
                command, shell=True, cwd=folder, env=environment(PYTHONPATH="."), text=True, capture_output=True, timeout=300, check=False
            )
        )
    return found


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    ignored = shutil.ignore_patterns("__pycache__", "*.png", "site")
    for name in ("clinjepa", "pipelines", "tests", "docs"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def test_the_steps_of_adding_a_task_work_in_their_order(project: Path) -> None:
    (_, skeleton), (_, filled), (_, check) = steps("Adding a task")
    (done,) = typed(skeleton, project)
    assert done.returncode == 0, done.stderr
    path = project / "clinjepa" / "clinical" / "tasks" / "low_map_4h.yaml"
    assert "FILL_IN" in path.read_text(encoding="utf-8")
    path.write_text(filled, encoding="utf-8")
    page, tests = typed(check, project)
    assert page.returncode == 0 and "`low_map_4h`" in (project / "docs" / "tasks.md").read_text(encoding="utf-8")
    assert tests.returncode == 0, tests.stdout[-2000:]


def test_the_steps_of_adding_a_variable_work_in_their_order(project: Path) -> None:
    (_, skeleton), (_, filled), (_, check) = steps("Adding a variable")
    (done,) = typed(skeleton, project)
    assert done.returncode == 0, done.stderr
    path = project / "clinjepa" / "clinical" / "variables.yaml"
    (refused,) = typed("clinjepa data new-variable another", project)
    assert "variable 'cystatin_c'" in refused.stderr and refused.returncode != 0
    text, number = re.subn(r"^- name: cystatin_c.*?(?=^derived:)", filled, path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    assert number == 1
    path.write_text(text, encoding="utf-8")
    digests, tests = typed(check, project)
    assert digests.returncode == 0, digests.stderr
    assert tests.returncode == 0, tests.stdout[-2000:]


@pytest.mark.parametrize(("labels", "changes"), [("null", True), ("[]", False)])
def test_a_task_file_changes_the_labels_key_unless_labels_are_limited(monkeypatch, labels: str, changes: bool) -> None:
    def key() -> str:
        config = load_config(ROOT / "configs" / "demo.yaml", ["source.kind=simulator", f"labels.tasks={labels}"])
        (stage,) = [stage for stage in experiment.build_experiment(config, "0" * 64).stages if stage.kind == "labels"]
        return stage.key

    before = key()
    monkeypatch.setattr(experiment, "list_tasks", lambda: [name for name in list_tasks() if name != "map_8h"])
    assert (key() != before) is changes
