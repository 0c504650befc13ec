"""A finished run opened from its folder, and the stages that score other patients with it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from clinjepa.config import Config, load_config, save_config
from clinjepa.config.schema import SourceConfig
from clinjepa.errors import ConfigError, StoreError
from clinjepa.storage import Folder
from pipelines.graph import stage as stage_module
from pipelines.graph.artifacts import Artifact, WorkRecord
from pipelines.graph.experiment import Experiment, build_experiment
from pipelines.graph.run_record import RUN_RECORD, RUN_SCHEMA_VERSION
from pipelines.graph.saved_run import FITTED, SavedRun, open_saved_run
from pipelines.graph.scoring import scoring_config, scoring_experiment, shift_stage
from tests.pipelines.graph.test_stage_graph import DEMO

DIGEST = "digest of the run's files"
ELSEWHERE = SourceConfig(kind="clif", path="/elsewhere", name="CLIF", time_zone="US/Central")


def saved(storage: Path, *overrides: str) -> tuple[Config, Experiment, str]:
    """A run's folder and ingest manifest, as if all its stages were finished."""
    config = load_config(DEMO, [f"storage={storage}", "name=first", "grid.seeds=[0, 1]", *overrides])
    experiment = build_experiment(config, DIGEST)
    ingest = experiment.ingest
    work = WorkRecord(ingest.label, {}, ingest.settings, {}, 1.0)
    Artifact.at(Folder(storage), ingest.kind, ingest.key).publish(work)
    folder = Folder(storage) / "runs/first"
    folder.write_bytes("config.yaml", save_config(config).encode())
    trials = [
        {
            "recipe": trial.recipe,
            "seed": trial.seed,
            "values": dict(trial.point.values),
            "artifacts": {stage.label: f"{stage.kind}/{stage.key}" for stage in trial.stages},
        }
        for trial in experiment.trials
    ]
    folder.write_json(RUN_RECORD, {"schema_version": RUN_SCHEMA_VERSION, "trials": trials})
    return config, experiment, folder.address


@pytest.fixture
def run(tmp_path: Path) -> SavedRun:
    return open_saved_run(saved(tmp_path / "storage")[2])


def scored(run: SavedRun, source: SourceConfig = ELSEWHERE, digest: str = "new files", patients: str = "all") -> Experiment:
    config = scoring_config(run.config, source, "second", patients)  # type: ignore[arg-type]
    return scoring_experiment(run, run.trials[:1], config, digest)


def test_a_run_opens_without_its_source_and_where_its_storage_lies_now(tmp_path: Path) -> None:
    _, experiment, address = saved(tmp_path / "storage")
    found = open_saved_run(address, ["execution.evaluation_cpus=2"])
    assert [trial.results for trial in found.trials] == [trial.results for trial in experiment.trials]
    assert found.config.execution.evaluation_cpus == 2
    shutil.move(tmp_path / "storage", tmp_path / "moved")
    moved = open_saved_run(str(tmp_path / "moved/runs/first"))
    assert moved.config.storage == str(tmp_path / "moved")
    assert [trial.results for trial in moved.trials] == [trial.results for trial in experiment.trials]


def test_what_is_no_usable_run_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, experiment, address = saved(tmp_path / "storage")
    with pytest.raises(StoreError, match="holds no finished run"):
        open_saved_run(str(tmp_path / "storage/runs/third"))
    with pytest.raises(ConfigError, match=r"override grid\.seeds: a finished run keeps its settings"):
        open_saved_run(address, ["grid.seeds=[3]"])
    shutil.copytree(address, tmp_path / "copied")
    with pytest.raises(StoreError, match="is not <storage>/runs/<name>"):
        open_saved_run(str(tmp_path / "copied"))
    monkeypatch.setitem(stage_module.FORMAT_VERSIONS, "trajectories", 99)
    with pytest.raises(StoreError, match=r"makes another trajectories than the run has \(\d+ stages differ\), because a format version"):
        open_saved_run(address)
    monkeypatch.undo()
    Artifact.at(Folder(tmp_path / "storage"), "ingest", experiment.ingest.key).folder.remove("manifest.json")
    with pytest.raises(StoreError, match="lacks the ingest artifact"):
        open_saved_run(address)


@pytest.mark.parametrize(
    ("content", "words"), [(b"[1, 2]", "is no configuration"), (b"\xff\xfe", "is no configuration"), (b"a: [", "is no con")]
)
def test_a_broken_configuration_of_a_run_names_the_file(tmp_path: Path, content: bytes, words: str) -> None:
    _, _, address = saved(tmp_path / "storage")
    Folder(address).write_bytes("config.yaml", content)
    with pytest.raises(StoreError, match=words):
        open_saved_run(address)


def test_a_record_of_another_version_or_without_trials_is_refused(tmp_path: Path) -> None:
    _, _, address = saved(tmp_path / "storage")
    record = json.loads(Path(address, RUN_RECORD).read_text())
    Folder(address).write_json(RUN_RECORD, record | {"trials": []})
    with pytest.raises(StoreError, match="names no finished trial"):
        open_saved_run(address)
    Folder(address).write_json(RUN_RECORD, record | {"schema_version": 99})
    with pytest.raises(StoreError, match="schema version 99"):
        open_saved_run(address)


def test_new_patients_are_read_by_the_rules_of_the_run_and_nothing_is_trained(run: SavedRun) -> None:
    own, new = run.trials[0], scored(run).trials[0]
    assert new.phases == own.phases and new.data.tokenizer is own.data.tokenizer
    ingest, before = new.data.ingest, own.data.ingest
    assert ingest.settings["source"]["kind"] == "clif" and ingest.settings["source"]["time_zone"] == "US/Central"
    assert ingest.settings["split"]["everyone"] == "held_out"
    assert {name: ingest.settings[name] for name in ("text", "cohort", "definitions")} == {
        name: before.settings[name] for name in ("text", "cohort", "definitions")
    }
    assert "extract" in ingest.inputs and "extract" not in before.inputs
    assert new.embed.inputs["base"] is own.embed.inputs["base"] and new.embed.settings == own.embed.settings
    made = {stage.key for stage in new.stages} - {stage.key for stage in own.stages}
    kinds = {stage.kind for stage in new.stages if stage.key in made}
    assert kinds.isdisjoint({"base", "sft", "phase", "sync", "tokenizer", "direct_forecasts", "baselines"})


def test_every_evaluation_that_fits_gets_what_the_run_fitted(run: SavedRun) -> None:
    own, new = run.trials[0].evaluations, scored(run).trials[0].evaluations
    assert set(new) == set(own) - {"added_value"}
    for name, stage in new.items():
        assert stage.inputs.get(FITTED) is (None if name == "geometry" else own[name])
        assert stage.settings["split"] == "held_out"
        train = {"latents": run.trials[0].embed, "ingest": run.trials[0].data.ingest, "labels": run.trials[0].data.labels}
        assert all(stage.inputs.get(role) is not each for role, each in train.items())


def test_held_out_patients_of_the_same_files_are_the_very_stages_of_the_run(run: SavedRun) -> None:
    found = scored(run, run.config.source, DIGEST, "held_out")
    assert found.ingest.key == run.trials[0].data.ingest.key and found.trials[0].embed.key == run.trials[0].embed.key
    assert found.trials[0].evaluations["drift"].key != run.trials[0].evaluations["drift"].key
    everyone = scored(run, run.config.source, DIGEST)
    assert everyone.ingest.key != run.trials[0].data.ingest.key


def test_new_patients_are_compared_with_the_training_of_the_run(run: SavedRun) -> None:
    found = scored(run)
    stage = shift_stage(run, found)
    assert stage.inputs == {"ingest": found.ingest, "trained_on": run.trials[0].data.ingest}
    assert stage.settings["reach_hours"] == run.config.windows.max_hours
