"""docs/figures.md works: its scripts draw what a report and a table of predictions hold."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clinjepa.evaluation.downstream.prediction_points import Points
from clinjepa.evaluation.predictions import KeptPredictions, of_a_run, with_times
from clinjepa.report.document import build_report
from tests.repository.test_docs import blocks
from tests.support.data.report_results import RECIPES, results
from tests.support.machines.cli import ROOT

PAGE = ROOT / "docs" / "figures.md"
NUM = 80


@pytest.fixture
def run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run that the page names."""
    folder = tmp_path / "output" / "runs" / "demo_simulator"
    folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return folder


def executed(number: int) -> dict[str, Any]:
    """The names of a script of the page after it ran."""
    names: dict[str, Any] = {}
    exec(compile(blocks(PAGE, "python")[number], str(PAGE), "exec"), names)
    return names


def test_the_first_figure_shows_every_recipe_with_its_interval(run_folder: Path, tmp_path: Path) -> None:
    report = build_report(results())
    (run_folder / "report.json").write_text(json.dumps(report))
    axes = executed(0)["axes"]
    lines = {line.get_label(): line for line in axes.lines}
    assert set(RECIPES) <= set(lines) and len(axes.collections) == len(RECIPES)
    horizons = report["drift"]["sft"][str(report["headline_context"])]["horizons"]
    assert list(lines["sft"].get_ydata()) == [cell["vs_mean"]["value"] for cell in horizons.values() if cell["vs_mean"]]
    assert (tmp_path / "drift.pdf").read_bytes()[:4] == b"%PDF"


def test_the_second_figure_shows_every_method_s_paired_difference(run_folder: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    label_N = (np.arange(NUM) % 3 == 0).astype(float)
    points = Points(np.arange(NUM), np.full(NUM, 23), label_N, np.arange(NUM) // 2, np.full(NUM, "held_out", dtype=object))
    stays = pa.table({"stay_id": np.arange(NUM), "intime": pa.array([datetime(2150, 3, 1)] * NUM, pa.timestamp("us"))})

    def scored(method: str, noise: float) -> pa.Table:
        kept = KeptPredictions()
        kept.add("hypotension_8h", method, "history_only", points, label_N + rng.normal(0, noise, NUM))
        kept.add("hypotension_8h", method, "recorded_actions", points, np.zeros(NUM))
        return with_times(kept.table(), stays)

    parts = [(None, None, scored("lightgbm", 1.0)), *(("clin_jepa", seed, scored("linear", 0.3)) for seed in (0, 1))]
    pq.write_table(of_a_run(parts), run_folder / "predictions.parquet")
    names = executed(1)
    (found,) = names["known"].items()
    assert found[0] == "clin_jepa · linear" and found[1]["ci95"][0] > 0 and found[1]["num_seeds"] == 2
    assert [text.get_text() for text in names["axes"].get_yticklabels()] == ["clin_jepa · linear"]
    assert (tmp_path / "differences.pdf").read_bytes()[:4] == b"%PDF"
