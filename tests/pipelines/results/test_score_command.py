"""`clinjepa score` and `clinjepa export RUN` as commands, on a tiny finished run and without a Ray cluster."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from html import unescape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from clinjepa.config import Config
from clinjepa.config.schema import SourceConfig
from clinjepa.storage import Folder
from pipelines.graph import planning
from pipelines.graph.artifacts import Artifact
from pipelines.graph.stage import FORMAT_VERSIONS, Stage
from pipelines.results import model_export
from pipelines.scheduling import opening, runner
from pipelines.scheduling.interruptions import LINE
from pipelines.score import Scoring, settings_that_differ
from pipelines.score import _source as new_source
from pipelines.stages import data, scoring
from tests.pipelines.graph.test_golden_results import Stays
from tests.pipelines.results.test_scoring import Finished, OtherStays
from tests.support.machines.cli import call_here
from tests.support.training.stages_in_process import run_stage, without_ray


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        without_ray(patch)
        patch.setattr(data, "open_source", lambda config: OtherStays() if config.name == "elsewhere" else Stays())
        patch.setattr(planning, "source_digest", lambda config: "other content")
        patch.setattr(opening, "opened", opened_here)
        patch.setattr(runner, "ensure", ensure_here)
        yield Finished(tmp_path_factory.mktemp("storage"))


@contextlib.contextmanager
def opened_here(config: Config, stages_of: object, debug: bool, **more: object) -> Iterator[Any]:
    """Stands for `opened`: this process instead of a cluster."""
    storage = Folder(config.storage)
    artifact = lambda stage: Artifact.at(storage, stage.kind, stage.key)  # noqa: E731
    yield SimpleNamespace(context=SimpleNamespace(config=config, run_id="here", artifact=artifact))


def ensure_here(context: Any, stage: Stage, executors: Mapping[str, object]) -> None:
    """Stands for `ensure`: what is finished is reused."""
    for each in stage.closure():
        if not context.artifact(each).is_complete():
            run_stage(each, context.config, Folder(context.config.storage))


def score(finished: Finished, name: str, *more: str) -> tuple[int, str]:
    """Exit status and output of the command on the patients of elsewhere."""
    run = f"{finished.config.storage}/runs/{finished.config.name}"
    done = call_here("score", run, "--source", "simulator", "--name", name, "source.name=elsewhere", *more)
    return done.returncode, done.stdout


def lines(output: str) -> list[str]:
    return [" ".join(line.split()) for line in output.splitlines()]


def test_an_interrupted_scoring_says_so_and_the_same_command_goes_on_behind_the_parts_that_are_scored(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[str] = []
    own = scoring._score

    def until_the_second(inputs: dict[str, Folder], settings: Any, part: str, out: Folder) -> None:
        if scored:
            raise KeyboardInterrupt
        own(inputs, settings, part, out)
        scored.append(part)

    with monkeypatch.context() as patch:
        patch.setattr(scoring, "_score", until_the_second)
        status, output = score(finished, "resumed")
        assert status == 130 and lines(output)[-1] == LINE and "report" not in output
        assert not (Folder(finished.config.storage) / "runs/resumed").exists("report.json")
    (folder,) = [path.parent for path in Path(finished.config.storage).glob("artifacts/scores/*/parts")]
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("risk/*.parquet")}
    assert [path.stem for path in kept] == scored and not (folder / "manifest.json").exists()
    status, output = score(finished, "resumed")
    assert status == 0, output
    assert f"scores of clin_jepa, seed 0: {folder}" in lines(output) and lines(output)[-1].endswith("/runs/resumed/report.html")
    assert {path: path.stat().st_mtime_ns for path in kept} == kept and len(list(folder.glob("risk/*.parquet"))) == 2


def test_the_first_lines_of_the_report_say_what_was_frozen_and_how_far_the_patients_are(finished: Finished) -> None:
    status, output = score(finished, "headed", "source.event_time=stored")
    assert status == 0, output
    page = (Folder(finished.config.storage) / "runs/headed").read_bytes("report.html").decode()
    head = [unescape(line) for line in re.findall(r"<p>(.*?)</p>", page[: page.index("<nav>")])]
    assert (
        head[0]
        == f"The run {finished.config.name}, finished and frozen, on the patients of elsewhere: nothing was trained or fitted on them."
    )
    assert re.match(r"16 stays of 16 patients, 480 h; trained on \d+ stays, ", head[1])
    assert re.match(r"distance from training's values: 0\.\d\d \(Kolmogorov–Smirnov, .*; median over \d variables?\)", head[2])
    assert head[1] in lines(output) and head[2] in lines(output)
    own = (Folder(finished.config.storage) / f"runs/{finished.config.name}").read_bytes("report.html").decode()
    assert "frozen" not in own[: own.index("<nav>")]


def test_a_run_of_another_format_version_or_without_probes_is_not_scored(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(FORMAT_VERSIONS, "trajectories", 99)
        status, output = score(finished, "refused")
        assert status == 2 and "makes another trajectories than the run has" in " ".join(output.split())
    folder = Artifact.at(Folder(finished.config.storage), "downstream", finished.run.trials[0].evaluations["downstream"].key).folder
    probes = Path(folder.path("probes.json"))
    probes.rename(probes.with_suffix(".away"))
    try:
        monkeypatch.setattr(planning, "source_digest", lambda config: "a third content")
        status, output = score(finished, "refused")
    finally:
        probes.with_suffix(".away").rename(probes)
    assert status == 2 and "evaluate the run again with `clinjepa evaluate`" in " ".join(output.split())
    assert not (Folder(finished.config.storage) / "runs/refused").exists("report.json")


def test_settings_of_the_runs_source_are_named_and_not_taken_over() -> None:
    run = SourceConfig(kind="clif", path="/one", name="one", time_zone="US/Eastern", event_time="stored", num_partitions=4)
    new = SourceConfig(kind="clif", path="/two", name="two", event_time="stored")
    assert settings_that_differ(new, run) == (
        "settings of the run's source are not taken over: source.time_zone is UTC here and US/Eastern in the run; "
        "give KEY=VALUE where these data need another"
    )
    assert settings_that_differ(new, run, ["source.time_zone=UTC"]) == ""
    assert settings_that_differ(run, run) == ""
    assert settings_that_differ(SourceConfig(kind="meds", name="meds", map="openicu", event_time="stored"), run) == ""
    other_texts = SourceConfig(kind="meds", name="meds", event_time="measured")
    told = settings_that_differ(other_texts, run, ["source.event_time=measured"])
    assert "source.event_time is measured here and stored in the run" in told
    openicu = SourceConfig(kind="meds", map="openicu", subsets=["a"], max_stays=5)
    told = settings_that_differ(SourceConfig(kind="meds"), openicu)
    assert all(
        each in told for each in ("map is mimic_iv here and openicu", "subsets is null here and [a]", "max_stays is null here and 5")
    )


def test_texts_of_new_patients_hold_what_was_known_by_the_rule_of_the_run(finished: Finished) -> None:
    trained_on = finished.config.source.model_copy(update={"event_time": "stored"})
    run: Any = SimpleNamespace(config=finished.config.model_copy(update={"source": trained_on}))
    asked = Scoring("run", ("source.time_zone=US/Central",), "clif", "/two")
    found = new_source(asked, run)
    assert (found.kind, found.event_time, found.time_zone) == ("clif", "stored", "US/Central")
    assert new_source(asked._replace(overrides=("source.event_time=measured",)), run).event_time == "measured"


def test_the_command_and_its_report_say_which_settings_of_the_source_differ(finished: Finished) -> None:
    file = Path(finished.config.storage, "runs", finished.config.name, "config.yaml")
    kept = file.read_text()
    file.write_text(kept.replace("map: mimic_iv", "map: openicu"))  # changes no key of simulated patients
    try:
        status, output = score(finished, "told")
        named = score(finished, "named", "--no-evaluation", "source.map=mimic_iv")
    finally:
        file.write_text(kept)
    line = "settings of the run's source are not taken over: source.map is mimic_iv here and openicu in the run"
    assert status == 0 and line in " ".join(output.split())
    page = (Folder(finished.config.storage) / "runs/told").read_bytes("report.html").decode()
    assert line in unescape(page[: page.index("<nav>")])
    assert named[0] == 0 and "not taken over" not in named[1]
    assert "not taken over" not in score(finished, "same", "--no-evaluation")[1]


def test_a_run_is_exported_by_its_folder_without_the_files_of_its_source(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = f"{finished.config.storage}/runs/{finished.config.name}"
    with monkeypatch.context() as patch:
        patch.setattr(planning, "open_source", lambda config: pytest.fail("the source was opened"))
        patch.setattr(data, "open_source", lambda config: pytest.fail("the source was opened"))
        patch.setattr(model_export, "plan_experiment", lambda *more, **options: pytest.fail("the files were digested"))
        done = call_here("export", run, str(tmp_path / "by_run"))
    assert done.returncode == 0, done.stdout
    monkeypatch.setattr(planning, "source_digest", lambda *more: "content")
    done = call_here("export", f"{run}/config.yaml", str(tmp_path / "by_config"), f"storage={finished.config.storage}")
    assert done.returncode == 0, done.stdout
    one, other = (json.loads((tmp_path / name / "export.json").read_text()) for name in ("by_run", "by_config"))
    assert one["stages"] == other["stages"] and one["files"] == other["files"] and {"probes", "forecaster"} <= one["stages"].keys()


def test_a_scoring_is_neither_exported_nor_scored_with(finished: Finished, tmp_path: Path) -> None:
    assert score(finished, "scored")[0] == 0
    scoring = f"{finished.config.storage}/runs/scored"
    for words in (["export", scoring, str(tmp_path / "out")], ["score", scoring, "--source", "simulator"]):
        done = call_here(*words)
        assert done.returncode == 2 and "is the report of a scoring of other patients: name the run" in " ".join(done.stdout.split())


def test_what_is_no_run_is_not_exported(finished: Finished, tmp_path: Path) -> None:
    run = f"{finished.config.storage}/runs/{finished.config.name}"
    done = call_here("export", f"{run}-none", str(tmp_path / "out"))
    assert done.returncode == 2 and "holds no finished run" in " ".join(done.stdout.split())
    done = call_here("export", run, str(tmp_path / "out"), "curriculum.num_steps=3")
    assert done.returncode == 2 and "a finished run keeps its settings" in " ".join(done.stdout.split())
    done = call_here("export", "configs/none.yaml", str(tmp_path / "out"))
    assert done.returncode == 2 and "none.yaml" in done.stdout and not (tmp_path / "out").exists()
