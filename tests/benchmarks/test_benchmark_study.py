"""The study: what its runs are, what is kept of one, and that its page holds the kept figures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from benchmarks.study import parts as study_parts
from benchmarks.study.__main__ import MINIATURE, SMALL, run_words, source_of
from benchmarks.study.figures import kept_figures, over_lightgbm
from benchmarks.study.pages import BEGIN, END, PAGE, number, page_of, written_page
from benchmarks.study.parts import COMPARED, DECODED, Part, parts
from benchmarks.support.harness import RESULTS
from clinjepa.config import Config, load_config
from clinjepa.report.document import build_report
from pipelines.graph.experiment import build_experiment
from tests.report.test_comparison import predictions
from tests.support.data.report_results import results
from tests.support.machines.cli import ROOT, environment

EVERY = parts(DECODED[1])


def configured(part: Part, storage: Path, settings: tuple[str, ...]) -> Config:
    words = run_words(part, storage, settings)
    return load_config(ROOT / words[1], words[2:])


@pytest.mark.parametrize("part", EVERY, ids=[part.name for part in EVERY])
def test_every_part_is_a_run_that_can_be_planned(part: Part, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # recipes are named relative to it
    config = configured(part, tmp_path, source_of(part, tmp_path, 4800))
    experiment = build_experiment(config, "content")
    assert len(experiment.trials) == len(part.recipes) * len(part.seeds)
    assert config.evaluation.split == ("tuning" if part.group == "candidates" else "held_out")
    assert all({"drift", "geometry", "downstream", "forecasts"} <= set(trial.evaluations) for trial in experiment.trials)
    assert ((config.source.kind, config.source.max_stays) == ("cinc2019", 4800)) == (part.data == "cinc2019")


def test_nothing_scores_held_out_patients_before_the_winner_is_written() -> None:
    assert {part.group for part in parts(None)} == {"candidates"}
    assert [part.name for part in EVERY[: len(parts(None))]] == [part.name for part in parts(None)]
    claims = next(part for part in EVERY if part.name == "claims")
    assert claims.recipes == (*COMPARED, DECODED[1]) and len(claims.seeds) >= 3


def test_candidates_differ_from_the_first_by_one_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    first, *changed = (part for part in EVERY if part.group == "candidates")
    before = configured(first, tmp_path, ()).model_dump(exclude={"name", "grid"})
    for part in changed:
        after = configured(part, tmp_path, ()).model_dump(exclude={"name", "grid"})
        sections = [name for name in before if before[name] != after[name]]
        assert len(sections) == 1 and set(part.recipes) <= set(first.recipes), part.name


def test_parts_of_one_data_set_share_what_is_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The held-out part trains nothing again that the tuning part trained with the same seed."""
    monkeypatch.chdir(ROOT)
    candidates, claims = (
        build_experiment(configured(part, tmp_path, source_of(part, tmp_path, 4800)), "content")
        for part in EVERY
        if part.name in ("candidates", "claims")
    )
    trained = {stage.key for stage in candidates.stages}
    again = [trial for trial in claims.trials if trial.seed == 0 and trial.recipe in {one.recipe for one in candidates.trials}]
    assert len(again) == 4
    assert all(stage.key in trained for trial in again for stage in trial.stages if stage.kind in ("sft", "phase", "sync", "embed"))


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    run = tmp_path_factory.mktemp("run")
    (run / "report.json").write_text(json.dumps(build_report(results())))
    pq.write_table(predictions(), run / "predictions.parquet")
    return kept_figures(run)


def test_kept_figures_are_those_of_the_report(kept: dict[str, Any]) -> None:
    whole = results()
    json.dumps(kept, allow_nan=False)
    assert kept["drift"]["sft"]["24"]["drift"] == whole["drift"]["sft"]["24"]["drift"]
    assert kept["geometry"]["sft"]["ratio"] == whole["geometry"]["sft"]["ratio"]
    for task, methods in kept["auroc"].items():
        for method, value in methods.items():
            assert value == whole["downstream"][task][method]["history_only"]["auroc"]


def test_differences_from_gradient_boosting_are_paired_and_judged_by_the_margin(tmp_path: Path) -> None:
    pq.write_table(predictions(better=3.0), tmp_path / "predictions.parquet")
    better = over_lightgbm(tmp_path, 200)
    pq.write_table(predictions(better=-0.4), tmp_path / "predictions.parquet")
    worse = over_lightgbm(tmp_path, 200)
    method = "sft · linear"
    for task in ("hypotension_8h", "in_hospital_death"):
        assert better[task][method]["not_below"] == "not_below" and better[task][method]["difference"]["value"] > 0
        assert worse[task][method]["not_below"] == "below" and worse[task][method]["difference"]["ci95"][1] < -0.005


def test_the_page_says_every_kept_auroc_with_its_interval(kept: dict[str, Any]) -> None:
    page = page_of({"claims": kept})
    assert all(number(figure) in page for methods in kept["auroc"].values() for figure in methods.values())
    assert number(None) == "–" and number({"value": 0.5, "ci95": None}) == "0.500"
    assert written_page(f"before {BEGIN} old {END} after", {"claims": kept}) == f"before {BEGIN}\n{page}\n{END} after"


def test_the_page_of_the_documents_holds_the_committed_figures() -> None:
    page = PAGE.read_text(encoding="utf-8")
    if not (RESULTS / "study.json").exists():
        assert study_parts.WINNER is None and "No part has been run." in page
        return
    found = json.loads((RESULTS / "study.json").read_text())["details"]["parts"]
    assert written_page(page, found) == page


def test_the_small_form_runs_the_configuration_of_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    config = configured(MINIATURE, tmp_path, SMALL)
    assert config.source.kind == "simulator" and config.split.fractions == (0.5, 0.1, 0.4)
    assert len(build_experiment(config, "content").trials) == 3


@pytest.mark.long
def test_the_study_in_miniature_goes_from_nothing_to_its_figures() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.study", "--quick"], cwd=ROOT, env=environment(), text=True, capture_output=True, timeout=1800
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])["details"]["parts"]["miniature"]
    assert set(found["roundtrip"]) == {"clin_jepa", "decode_frozen", "untrained"} and found["drift"]["untrained"]["6"]["horizons"]
    assert set(found["auroc"]["hypotension_8h"]) >= {"lightgbm", "decode_frozen · linear"}
    assert "### miniature" in page_of({"miniature": found})
