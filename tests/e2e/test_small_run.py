"""The main job in small, through the command a user types, and what a newcomer looks at afterwards."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from clinjepa.model import TextEncoder
from clinjepa.storage import Folder
from clinjepa.trajectory.tokens.latent_store import LatentReader
from clinjepa.trajectory.tokens.trajectory_store import TrajectoryReader
from pipelines.graph.artifacts import Artifact
from tests.support.machines.cli import SMALL, call, numbers, read_report
from tests.support.machines.permissions import open_to_others

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


def test_the_report_holds_every_recipe_phase_and_evaluation(small_run: Path) -> None:
    report = read_report(small_run)
    assert list(report["phases"]) == ["clin_jepa", "no_alignment"]
    assert [phase["name"] for phase in report["phases"]["clin_jepa"]["0"]] == ["warmup", "joint", "alignment", "hard_sync", "finalization"]
    assert sum(phase["num_steps"] for phase in report["phases"]["clin_jepa"]["0"]) == 48
    assert sum(phase["num_steps"] for phase in report["phases"]["no_alignment"]["0"]) == 48
    assert report["drift"]["clin_jepa"]["6"]["horizons"]["1"]["l1"]["value"] > 0
    assert set(report["downstream"]) == {"in_hospital_death", "hypotension_8h", "hyperglycaemia_8h", "hypoxaemia_8h"}
    assert {"history_only", "actions_carried_forward", "recorded_actions"} == set(
        report["downstream"]["hypotension_8h"]["clin_jepa · linear"]
    )
    assert "lightgbm" in report["downstream"]["hypotension_8h"]
    heart_rate = report["forecasts"]["clin_jepa"]["variables"]["heart_rate"]["1"]
    assert 0 < heart_rate["num_values"] < 20 and "20 of 5 are needed" in heart_rate["reason"]  # a run this small has no figure
    assert set(report["geometry"]) == set(report["forecasts"]) == set(report["roundtrip"]) == {"clin_jepa", "no_alignment"}


def test_every_training_stage_wrote_to_the_tracker_that_was_asked_for(small_run: Path) -> None:
    folders = {path.name.rsplit("-", 1)[0] for path in (small_run / "runs/small/tensorboard").iterdir()}
    assert {"SFT", "warmup", "joint", "alignment-clin_jepa", "finalization-clin_jepa", "finalization-no_alignment"} <= folders


def test_the_figures_of_the_risk_tasks_come_from_the_table_of_predictions_beside_the_report(small_run: Path) -> None:
    kept = pl.read_parquet(small_run / "runs" / "small" / "predictions.parquet").drop_nulls("boolean_value")
    cells = {cell: rows for cell, rows in kept.group_by("task", "method", "column")}
    tables, compared = read_report(small_run)["downstream"], 0
    for task, methods in tables.items():
        for method, columns in methods.items():
            for column, cell in columns.items():
                if cell["auroc"] is not None:
                    rows = cells[task, method, column]
                    assert roc_auc_score(rows["boolean_value"], rows["score"]) == pytest.approx(cell["auroc"]["value"])
                    compared += 1
    assert compared == len(cells) > 10


def test_the_page_needs_nothing_but_itself(small_run: Path) -> None:
    page = (small_run / "runs" / "small" / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org/", "") and "<script src" not in page and "@import" not in page


def test_the_report_links_to_the_data_card_beside_it(small_run: Path) -> None:
    folder = small_run / "runs" / "small"
    assert 'href="data_card.html"' in (folder / "report.html").read_text()
    assert "Share of stays with a value" in (folder / "data_card.html").read_text()


def test_recipes_with_a_common_prefix_ran_it_once(small_run: Path) -> None:
    stages = read_report(small_run)["stages"]
    shared = {stage["name"] for stage in stages if len(stage.get("recipes", [])) == 2}
    assert {"SFT", "warmup", "joint", "latents"} <= shared
    assert sum(stage["name"].startswith("joint") for stage in stages) == 1


def test_every_artifact_is_what_its_manifest_says(small_run: Path) -> None:
    storage = Folder(small_run)
    for kind in storage.names("artifacts"):
        for key in storage.names(f"artifacts/{kind}"):
            Artifact.at(storage, kind, key).verify(contents=True)


def test_no_artifact_that_is_shared_holds_a_pickle(small_run: Path) -> None:
    endings = {path.suffix for path in (small_run / "artifacts").rglob("*") if path.is_file()}
    assert endings <= {".json", ".parquet", ".safetensors"}


def test_an_export_of_the_run_gives_the_latents_of_its_store(small_run: Path, tmp_path: Path) -> None:
    done = call("export", SMALL, str(tmp_path), f"storage={small_run}")
    assert done.returncode == 0, done.stdout[-2000:]
    stages = json.loads((tmp_path / "export.json").read_text())["stages"]
    encoder_key = stages["encoder"].rsplit("/", 1)[1]
    stores = [json.loads(path.read_text()) for path in (small_run / "artifacts/embed").glob("*/manifest.json")]
    (key,) = [store["key"] for store in stores if store["inputs"].get("encoder") == encoder_key]
    texts = TrajectoryReader(Folder(small_run / "artifacts" / stages["trajectories"]))
    stay_id = texts.stays["stay_id"][0].as_py()
    stay = texts.stay(stay_id)
    z = TextEncoder.from_pretrained(tmp_path / "encoder")([texts.tokenizer.decode(ids.tolist()) for ids in (stay.static, *stay.states)])
    z_static, z_states, _ = LatentReader(Folder(small_run / "artifacts/embed" / key)).stay(stay_id)
    np.testing.assert_allclose(z.numpy(), np.concatenate([z_static[None], z_states]), rtol=0, atol=1e-5)
    assert "None: " not in (tmp_path / "README.md").read_text(), "the card has no figures although the run has a report"


def test_the_same_command_again_reuses_every_stage_and_finds_the_same(small_run: Path) -> None:
    before = read_report(small_run)
    again = call("run", SMALL, f"storage={small_run}", timeout=300)
    assert again.returncode == 0, again.stdout[-2000:]
    after = read_report(small_run)
    assert all(stage["reused"] for stage in after["stages"])
    assert not any(stage["reused"] for stage in before["stages"])
    assert numbers(after) == numbers(before)


def test_the_plan_of_a_finished_run_has_nothing_to_do(small_run: Path) -> None:
    planned = call("plan", SMALL, f"storage={small_run}")
    assert planned.returncode == 0 and "to do" not in planned.stdout


def test_the_record_of_the_run_names_its_whole_configuration(small_run: Path) -> None:
    from clinjepa.config import load_config

    saved = load_config(small_run / "runs" / "small" / "config.yaml")
    assert saved == load_config(SMALL, [f"storage={small_run}"])
    assert json.loads((small_run / "runs" / "small" / "run.json").read_text())["schema_version"] == 1


def test_no_patient_id_is_in_a_report_or_a_log(small_run: Path) -> None:
    stays = [path for path in (small_run / "artifacts" / "ingest").rglob("stays.parquet")]
    import pyarrow.parquet as pq

    ids = {str(value) for value in pq.read_table(stays[0])["stay_id"].to_pylist() if value > 9999}
    assert ids, "the simulator's ids should be long enough to be told from counts"
    pages = [small_run / "runs" / "small" / name for name in ("report.html", "data_card.html", "data_card.json")]
    text = "".join(path.read_text() for path in (*pages, small_run / "log"))
    assert not [stay_id for stay_id in ids if stay_id in text]


def test_no_other_user_can_read_what_a_run_leaves(small_run: Path) -> None:
    assert (small_run / "runs" / "small" / "tensorboard").is_dir() and (small_run / "ray_train").is_dir()
    assert [left for name in ("artifacts", "runs", "ray_train") for left in open_to_others(small_run / name)] == []
