"""Runs side by side: figures unchanged, differences paired where the points are equal, a page without network or foreign markup."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from clinjepa.errors import StoreError
from clinjepa.evaluation.predictions import PREDICTIONS
from clinjepa.report.comparison.content import FinishedRun, build_comparison, labels
from clinjepa.report.comparison.page import render_comparison
from clinjepa.report.document import build_report
from clinjepa.storage import Folder
from pipelines.cli import app
from tests.support.data.report_results import results

METHODS = {"clin_jepa · linear": 1.0, "sft · linear": 0.4, "lightgbm": 0.8}


NUMBERS = {"clin_jepa · linear": 4.0, "clin_jepa · mlp": 3.5, "ridge": 6.0}


def predictions(better: float = 0.0, first_stay: int = 0, seeds: int = 2) -> pa.Table:
    """120 patients in two tasks; labels and points are the same in every call, scores follow a method's strength."""
    rng = np.random.default_rng(5)
    found = []
    for task in ("hypotension_8h", "in_hospital_death"):
        label = rng.random(120) < 0.4
        noise = rng.normal(size=120)
        for method, strength in METHODS.items():
            for seed in [None] if method == "lightgbm" else range(seeds):
                own = np.random.default_rng([seed or 0, len(method)]).normal(size=120)
                score = label * (strength + (better if seed is not None else 0.0)) + noise + 0.3 * own
                found.append(rows(task, method, seed, label, score, first_stay))
    return pl.concat(found).to_arrow()


def rows(task: str, method: str, seed: int | None, label: np.ndarray, score: np.ndarray, first_stay: int = 0) -> pl.DataFrame:
    """One cell of kept predictions, a point per patient; the labels' type decides the kind of task."""
    about = {"task": task, "method": method, "seed": seed, "column": "history_only"}
    points = {"stay_id": np.arange(120) + first_stay, "subject_id": np.arange(120) + first_stay, "hour": [24] * 120}
    truth = pl.Series("boolean_value", label if label.dtype == bool else [None] * 120, dtype=pl.Boolean)
    number = pl.Series("float_value", [None] * 120 if label.dtype == bool else label, dtype=pl.Float32)
    return pl.DataFrame({**points, "boolean_value": truth, "float_value": number, "score": score}).with_columns(
        *(pl.lit(value, dtype=pl.Int64 if name == "seed" else pl.String).alias(name) for name, value in about.items())
    )


def numbers(shift: float = 0.0, first_stay: int = 0, tasks: tuple[str, ...] = ("map_8h",)) -> pa.Table:
    """As `predictions`, with tasks with numbers beside them; the numbers of a method lie above the labels by its error."""
    label = np.round(80 + np.random.default_rng(3).normal(size=120))
    found = [
        rows(task, method, seed, label, label + error + shift, first_stay)
        for task in tasks
        for method, error in NUMBERS.items()
        for seed in ([None] if method == "ridge" else range(2))
    ]
    return pl.concat([pl.DataFrame(predictions(first_stay=first_stay)), *found]).to_arrow()


def run(label: str, kept: pa.Table | None, **changed: Any) -> FinishedRun:
    return FinishedRun(label, build_report(results() | changed), kept)


def test_figures_of_all_runs_stand_beside_each_other_unchanged() -> None:
    content = build_comparison([run("a", None), run("b", None)])
    first = results()
    assert [one["label"] for one in content["runs"]] == ["a", "b"]
    rows = [row for row in content["downstream"]["hypotension_8h"] if row["method"] == "sft" and row["column"] == "history_only"]
    assert [row["run"] for row in rows] == ["a", "b"]
    assert rows[0]["auroc"] == first["downstream"]["hypotension_8h"]["sft"]["history_only"]["auroc"]
    drift = next(row for row in content["drift"] if (row["run"], row["recipe"], row["context"]) == ("b", "sft", 24))
    assert (
        drift["drift"] == first["drift"]["sft"]["24"]["drift"]
        and drift["vs_mean"] == first["drift"]["sft"]["24"]["horizons"]["12"]["vs_mean"]
    )
    ratio = next(row for row in content["geometry"] if row["run"] == "b" and row["recipe"] == "sft" and row["is_headline"])
    assert ratio["ratio"]["value"] == 1.12 and ratio["rankme"] == 11.5
    json.dumps(content, allow_nan=False)


def test_equal_predictions_differ_by_exactly_zero_and_better_ones_are_higher() -> None:
    found = build_comparison([run("a", predictions()), run("b", predictions()), run("c", predictions(better=1.5))], num_bootstrap=200)
    differences = found["differences"]
    assert differences["reference"] == {"run": "a", "method": "clin_jepa · linear"} and differences["unpaired"] == []
    by_method = {(row["run"], row["method"]): row for row in differences["tasks"]["hypotension_8h"]}
    assert len(by_method) == 8
    same = by_method["b", "clin_jepa · linear"]
    assert same["difference"]["value"] == 0.0 and same["difference"]["ci95"] == [0.0, 0.0] and same["p_holm"] == 1.0
    assert by_method["c", "clin_jepa · linear"]["difference"]["ci95"][0] > 0
    assert by_method["a", "lightgbm"]["difference"] == by_method["c", "lightgbm"]["difference"]
    mean = {(row["run"], row["method"]): row for row in differences["mean"]}
    single = [rows for task in differences["tasks"].values() for rows in task if (rows["run"], rows["method"]) == ("c", "sft · linear")]
    assert mean["c", "sft · linear"]["difference"]["value"] == pytest.approx(np.mean([one["difference"]["value"] for one in single]))
    assert mean["c", "sft · linear"]["num_tasks"] == 2


def test_a_run_on_other_patients_is_not_subtracted() -> None:
    found = build_comparison([run("a", predictions()), run("b", predictions(first_stay=1000)), run("c", None)], num_bootstrap=50)
    differences = found["differences"]
    assert {row["run"] for row in differences["tasks"]["hypotension_8h"]} == {"a"}
    reasons = {(one["run"], one["task"]): one["reason"] for one in differences["unpaired"]}
    assert reasons["b", "hypotension_8h"] == "other prediction points than a"
    assert "no predictions.parquet" in reasons["c", "all"]


def test_equal_numbers_differ_by_exactly_zero_and_a_shift_by_itself() -> None:
    found = build_comparison([run("a", numbers()), run("b", numbers()), run("c", numbers(shift=1.5))], num_bootstrap=50)["differences"]
    assert list(found["errors"]) == ["map_8h"] and list(found["tasks"]) == ["hypotension_8h", "in_hospital_death"]
    assert found["unpaired"] == []
    by_method = {(row["run"], row["method"]): row["difference"] for row in found["errors"]["map_8h"]}
    assert len(by_method) == 8 and ("a", "clin_jepa · linear") not in by_method
    assert by_method["b", "clin_jepa · linear"] == {"value": 0.0, "ci95": [0.0, 0.0], "num_patients": 120, "num_seeds": 2}
    assert by_method["a", "ridge"] == by_method["b", "ridge"] == {"value": 2.0, "ci95": [2.0, 2.0], "num_patients": 120, "num_seeds": 1}
    assert {row["value"] for row in (by_method["c", "clin_jepa · linear"], by_method["c", "clin_jepa · mlp"])} == {1.5, 1.0}
    assert by_method["c", "ridge"]["ci95"] == [3.5, 3.5]


def test_numbers_of_other_points_or_of_one_run_alone_are_named() -> None:
    others = [
        run("b", numbers(first_stay=1000)),
        run("c", predictions()),
        run("d", None),
        run("e", numbers(tasks=("map_8h", "lactate_max_8h"))),
    ]
    found = build_comparison([run("a", numbers()), *others], num_bootstrap=50)["differences"]
    assert {row["run"] for row in found["errors"]["map_8h"]} == {"a", "e"}
    reasons = {(one["run"], one["task"]): one["reason"] for one in found["unpaired"]}
    assert reasons["b", "map_8h"] == "other prediction points than a"
    assert reasons["c", "map_8h"] == "the run has no predictions of this task"
    assert reasons["e", "lactate_max_8h"] == "the reference has no predictions of this task"
    assert "no predictions.parquet" in reasons["d", "all"]


def test_numbers_of_all_runs_stand_beside_each_other_unchanged() -> None:
    content = build_comparison([run("a", None), run("b", None)])
    first = results()["regression"]
    assert list(content["regression"]) == list(first)
    row = next(row for row in content["regression"]["map_8h"] if (row["run"], row["method"]) == ("b", "ridge"))
    cell = first["map_8h"]["ridge"]["history_only"]
    assert row == {"run": "b", "method": "ridge", "column": "history_only"} | {
        name: cell[name] for name in ("mae", "r2", "unit", "num_total")
    }
    missing = content["regression"]["creatinine_day_2"]
    assert {one["mae"] for one in missing} == {None} and {one["reason"] for one in missing} == {
        "7 patients with a label in train; at least 10 are needed"
    }


def test_the_page_has_the_numbers_and_their_differences() -> None:
    content = build_comparison([run("a", numbers()), run("b", numbers(shift=1.5)), run("c", numbers(first_stay=1000))], num_bootstrap=50)
    page = render_comparison(content)
    told = re.sub(r"(<[^>]+>|\s)+", " ", page[page.index('<section id="numbers">') :].partition("</section>")[0])
    assert "Mean MAP of the next 8 hours, mmHg" in told and "minus that of Clin-JEPA, linear probe of a" in told
    assert "a Clin-JEPA, linear probe history only 4.00 3.70 to 4.30 0.400 0.360 to 0.440 410 reference" in told
    assert "b Clin-JEPA, linear probe history only 4.00 3.70 to 4.30 0.400 0.360 to 0.440 410 1.50 1.50 to 1.50" in told
    assert "other prediction points than a" in told
    assert "Median creatinine of the second day: cannot be estimated here 7 patients with a label in train; at least 10 are needed" in told
    assert "c, Mean MAP of the next 8 hours: other prediction points than a" in page


def test_runs_without_numbers_have_no_such_section() -> None:
    content = build_comparison([run("a", predictions(), regression={}), run("b", predictions(), regression={})], num_bootstrap=50)
    assert content["regression"] == {} and content["differences"]["errors"] == {}
    page = render_comparison(content)
    assert 'id="numbers"' not in page and 'href="#numbers"' not in page and 'id="differences"' in page


def test_runs_of_one_name_are_told_apart() -> None:
    assert labels(["demo", "other", "demo", "demo"]) == ["demo", "other", "demo (2)", "demo (3)"]


def test_a_report_of_another_version_is_refused() -> None:
    old = run("b", None)
    with pytest.raises(StoreError, match=r"b: report.json has schema version 2, this clinjepa reads \d+; write the report again"):
        build_comparison([run("a", None), FinishedRun("b", {**old.report, "schema_version": 2}, None)])


def test_the_page_has_every_run_and_no_markup_from_names_or_network() -> None:
    content = build_comparison([run("a", predictions()), run("<b>bold</b>", predictions(better=1.0))], num_bootstrap=50)
    page = render_comparison(content)
    assert "<b>bold" not in page and "&lt;b&gt;bold" in page and "<script" not in page
    targets = re.findall(r"""(?:src|href)\s*=\s*["']([^"']+)""", page)
    assert [target for target in targets if not target.startswith(("#", "data:"))] == []
    text = re.sub(r"<[^>]+>|\s+", " ", page)
    assert "minus Clin-JEPA, linear probe of a" in text and "onset of hypotension within 24 h" in text
    assert "nothing to draw" not in render_comparison(build_comparison([run("a", None), run("b", None)]))


def finished(root: Path, name: str, **changed: Any) -> str:
    folder = Folder(root / "runs" / name)
    folder.write_json("report.json", build_report(results() | {"run": name} | changed))
    folder.write_table(PREDICTIONS, predictions())
    return folder.address


def test_the_command_compares_runs_of_two_storages(tmp_path: Path) -> None:
    runs = [finished(tmp_path / "one", "demo"), finished(tmp_path / "two", "demo")]
    out = tmp_path / "side"
    done = CliRunner().invoke(app, ["report", "--compare", *runs, "--out", str(out)])
    assert done.exit_code == 0, done.output
    content = json.loads((out / "comparison.json").read_text())
    assert [one["label"] for one in content["runs"]] == ["demo", "demo (2)"]
    assert content["differences"]["mean"] and (out / "comparison.html").read_text().startswith("<!DOCTYPE html>")
    assert str(tmp_path) not in (out / "comparison.json").read_text() + (out / "comparison.html").read_text()


@pytest.mark.parametrize("second", [None, "same", "empty"])
def test_the_command_names_what_is_missing(tmp_path: Path, second: str | None) -> None:
    first = finished(tmp_path / "one", "demo")
    more = {None: [], "same": [first], "empty": [str(tmp_path)]}[second]
    done = CliRunner().invoke(app, ["report", "--compare", first, *more, "--out", str(tmp_path / "side")])
    words = {None: "at least two runs", "same": "stands twice", "empty": "has no report.json"}[second]
    assert done.exit_code == 2 and words in " ".join(done.output.split())
    assert not (tmp_path / "side").exists()
