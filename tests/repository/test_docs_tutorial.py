"""docs/tutorial.md works: its first steps run in miniature, its recipe is one, its Python prints the figures of a report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from clinjepa.config import load_config
from clinjepa.curriculum.recipes import load_recipe, parse_recipe
from clinjepa.report.document import build_report
from pipelines.graph.experiment import build_experiment
from tests.repository.test_docs import blocks, commands
from tests.support.data.report_results import RECIPES, results
from tests.support.machines.cli import ROOT, call

PAGE = ROOT / "docs" / "tutorial.md"
MINIATURE = ["source.simulator.num_patients=12", "source.num_partitions=2", "tokenizer.vocab_size=300", "execution.local_num_cpus=2"]


def steps(first: int, last: int) -> Iterator[list[str]]:
    """The `clinjepa` commands of some steps of the page, without that word."""
    for words in commands(PAGE, since=f"## {first}. ", until=f"## {last + 1}. "):
        yield words[1:]


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_the_first_steps_run_in_miniature(tmp_path: Path) -> None:
    """Plan, ingest, show and audit, with the page's own commands on 12 patients."""
    printed = {}
    for words in steps(2, 4):
        place = [str(tmp_path / word) if word.startswith("output/") else word for word in words]
        small = [*MINIATURE, f"storage={tmp_path / 'output'}"] if any(word.endswith(".yaml") for word in words) else []
        names, rest = (place[1:2], place[2:]) if place[0] == "data" else (place[:1], place[1:])
        done = call(names[0], *rest, *small)
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}"
        printed[names[0]] = done.stdout
    assert list(printed) == ["plan", "ingest", "show", "audit"]
    assert "t=0h | " in printed["show"]


def test_a_changed_setting_leaves_the_data_as_they_are() -> None:
    (words,) = steps(7, 7)
    before, after = (build_experiment(load_config(words[1], given), "0" * 16) for given in ([], words[2:]))
    kept = {stage.kind for stage in before.stages if stage.key in {other.key for other in after.stages}}
    changed = {stage.label for stage in before.stages} - {stage.label for stage in before.stages if stage.kind in kept}
    assert {"ingest", "tokenizer", "trajectories", "labels", "base", "sft"} <= kept and changed


def test_the_recipe_is_one_and_differs_by_its_warmup_alone() -> None:
    (text,) = blocks(PAGE, "yaml")
    recipe, known = parse_recipe(text, "without_warmup"), load_recipe("clin_jepa")
    assert [phase.name for phase in recipe.phases] == [phase.name for phase in known.phases if phase.name != "warmup"]
    assert recipe.encoder_start == known.encoder_start and recipe.phases == load_recipe("no_warmup").phases


@pytest.mark.parametrize(("context", "end"), [("24", "no stay lasts 48 h"), ("12", "118 patients")])
def test_the_python_of_the_page_prints_each_recipe_s_figure_or_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], context: str, end: str
) -> None:
    (code,) = blocks(PAGE, "python")
    assert 'contexts["24"]' in code
    report = tmp_path / "output" / "runs" / "demo_simulator" / "report.json"
    report.parent.mkdir(parents=True)
    report.write_text(json.dumps(build_report(results())))
    monkeypatch.chdir(tmp_path)
    exec(compile(code.replace('contexts["24"]', f'contexts["{context}"]'), str(PAGE), "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == list(RECIPES)
    assert all(line.endswith(end) for line in lines)
