"""The code digest of a kind of stage changes with the code that this kind uses, and with nothing else."""

from __future__ import annotations

import shutil
from importlib import import_module
from pathlib import Path

import pytest

from pipelines.graph import code_digest
from pipelines.graph.code_digest import ROOT, used_modules
from pipelines.graph.context import StageFunction
from pipelines.graph.stage import FORMAT_VERSIONS
from pipelines.stages.executors import EXECUTORS

EVALUATIONS = {"drift", "geometry", "roundtrip", "downstream", "baselines", "forecasts", "direct_forecasts", "added_value", "shift"}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the code."""
    for package in ("clinjepa", "pipelines"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def digests(root: Path) -> dict[str, str]:
    for cached in (code_digest.code_digest, code_digest._files, code_digest._module, code_digest._data):
        cached.cache_clear()
    return {kind: code_digest.code_digest(kind, root) for kind in FORMAT_VERSIONS}


@pytest.fixture(scope="module")
def before() -> dict[str, str]:
    return digests(ROOT)


def marked(before: dict[str, str], root: Path, name: str, old: str, new: str) -> set[str]:
    """Kinds of stages whose digest changes when `old` becomes `new` in a file of the copy."""
    path = root / name
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    after = digests(root)
    return {kind for kind in before if before[kind] != after[kind]}


def test_every_kind_has_an_executor_of_its_name_and_one_format_version() -> None:
    assert set(EXECUTORS) == set(FORMAT_VERSIONS)
    for kind, executor in EXECUTORS.items():
        assert isinstance(executor.run, StageFunction) and executor.run.name == f"run_{kind}_stage"
        assert callable(getattr(import_module(executor.run.module), executor.run.name))


def test_a_digest_covers_what_the_executor_uses() -> None:
    assert {"pipelines.stages.evaluation", "clinjepa.evaluation.drift", "clinjepa.model.predictor"} <= set(used_modules("drift"))
    assert {"pipelines.stages.data", "clinjepa.sources.mimic_iv.events", "clinjepa.trajectory.hours.grid"} <= set(used_modules("ingest"))
    assert {"clinjepa.curriculum.steps.objective", "clinjepa.model.losses", "clinjepa.model.predictor"} <= set(used_modules("phase"))


@pytest.mark.parametrize(
    ("name", "old", "new", "kinds"),
    [
        ("clinjepa/evaluation/drift.py", "MIN_PATIENTS = 5", "MIN_PATIENTS = 6", {"drift"}),
        ("clinjepa/evaluation/forecasts/scoring/distributions.py", "MIN_ERRORS = 20", "MIN_ERRORS = 30", {"forecasts", "scores"}),
        ("clinjepa/evaluation/added_value/evaluate.py", "MIN_CLASS_PATIENTS = 2", "MIN_CLASS_PATIENTS = 3", {"added_value"}),
        ("clinjepa/evaluation/geometry/movement.py", "MIN_PAIRS = 5", "MIN_PAIRS = 6", {"geometry"}),
        (
            "pipelines/stages/evaluation.py",
            "from __future__ import annotations",
            "from __future__ import annotations\n\nX = 1",
            EVALUATIONS,
        ),
        (
            "pipelines/stages/base_model.py",
            "def run_base_stage",
            "X = 1\n\n\ndef run_base_stage",
            {"base", "sft", "embed", "shifted_actions"},
        ),
        (
            "pipelines/stages/shifted_actions.py",
            "def run_shifted_actions_stage",
            "X = 1\n\n\ndef run_shifted_actions_stage",
            {"shifted_actions"},
        ),
        ("clinjepa/trajectory/hours/doses.py", "_MOST_PHRASES = 1 << 18", "_MOST_PHRASES = 1 << 17", {"shifted_actions"}),
        ("clinjepa/curriculum/recipes/clin_jepa.yaml", "\n", "\n\n", set()),
        ("clinjepa/evaluation/drift.py", "from __future__ import annotations", "from __future__ import annotations\n\n# a comment", set()),
        ("clinjepa/evaluation/drift.py", '"""', '"""Another first word. ', set()),
        ("clinjepa/report/document.py", "def build_report", "X = 1\n\n\ndef build_report", set()),
        ("clinjepa/errors.py", "from __future__ import annotations", "from __future__ import annotations\n\nX = 1", set()),
    ],
)
def test_a_change_marks_the_kinds_that_use_it(before: dict[str, str], tree: Path, name: str, old: str, new: str, kinds: set[str]) -> None:
    assert marked(before, tree, name, old, new) == kinds


def test_a_changed_loss_marks_the_phases(before: dict[str, str], tree: Path) -> None:
    losses = "from __future__ import annotations"
    found = marked(before, tree, "clinjepa/model/losses.py", losses, losses + "\n\nX = 1")
    others = {"ingest", "tokenizer", "trajectories", "labels", "base", "embed", "shifted_actions", *EVALUATIONS}
    assert "phase" in found and not found & others


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(KeyError, match="run_nothing_stage"):
        used_modules("nothing")
