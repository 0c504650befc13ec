"""What a run reuses of another version of the code is said, and `plan` tells whole stages from damaged ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from clinjepa.config import Config
from clinjepa.storage import Folder
from pipelines.graph.artifacts import Artifact
from pipelines.graph.planning import plan_experiment
from pipelines.graph.provenance import reuse_warning
from pipelines.results.plan_record import plan_record
from pipelines.results.plan_tables import print_plan
from tests.support.data.finished_data import finish_data, simulated


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    loaded = simulated(tmp_path_factory.mktemp("provenance"))
    finish_data(loaded)
    return loaded


@pytest.fixture
def artifact(config: Config) -> Artifact:
    """The finished trajectories; put right again by who changes them."""
    stage = plan_experiment(config).trajectories
    return Artifact.at(Folder(config.storage), stage.kind, stage.key)


def test_nothing_is_said_when_this_code_made_all(config: Config) -> None:
    assert reuse_warning(config, plan_experiment(config).stages) is None


def test_a_reused_stage_of_other_code_is_one_line_with_the_way_to_redo_it(
    config: Config, artifact: Artifact, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = artifact.manifest()
    artifact.folder.write_json("manifest.json", manifest | {"code_digest": "0" * 16})
    try:
        line = reuse_warning(config, plan_experiment(config).stages)
        assert line is not None and "\n" not in line
        assert line.startswith("1 of ") and "(trajectories)" in line and "remove their folders" in line and config.storage in line
        print_plan(plan_record(config))
        shown = " ".join(capsys.readouterr().out.split())
        assert "done (1 s), other code" in shown and "1 of " in shown
    finally:
        artifact.folder.write_json("manifest.json", manifest)


def test_plan_says_which_stage_is_damaged_and_what_it_looked_at(
    config: Config, artifact: Artifact, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "windows.parquet"
    whole = artifact.folder.read_bytes(name)
    artifact.folder.write_bytes(name, whole[:-1])
    try:
        print_plan(plan_record(config))
        shown = " ".join(capsys.readouterr().out.split())
        assert "damaged: " in shown and f"{name} was altered" in shown and "remove" in shown
        assert "contents (SHA-256) were not read" in shown
    finally:
        artifact.folder.write_bytes(name, whole)
    print_plan(plan_record(config))
    assert "damaged" not in capsys.readouterr().out


def test_a_storage_where_nothing_is_finished_needs_no_warning(tmp_path: Path) -> None:
    fresh = simulated(tmp_path)
    assert reuse_warning(fresh, plan_experiment(fresh).stages) is None
