"""`clinjepa forecast` on a tiny finished run: each version of the actions is what it says, and only one of them knows what came later."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from clinjepa.clinical import Variable, load_variables
from clinjepa.errors import AccessError, ClinJepaError, ConfigError, EvaluationError, StoreError
from clinjepa.evaluation.forecasts import fitting
from clinjepa.evaluation.forecasts.patients import KnownHours, forecast_values
from clinjepa.evaluation.forecasts.what_if import OneStay, VersionForecast, WhatIf, coming_hours
from clinjepa.evaluation.forecasts.what_if import what_if as all_versions
from clinjepa.trajectory.hours.action_plan import read_plan
from clinjepa.trajectory.tokens.latent_rows import as_stored
from pipelines.cli import app
from pipelines.graph import finished_trial
from pipelines.graph.finished_trial import forecast_trial
from pipelines.graph.stage import FORMAT_VERSIONS
from pipelines.results import what_if
from pipelines.results.what_if import Question, answer, write_what_if
from pipelines.stages import data
from tests.pipelines.graph.test_golden_results import Stays
from tests.pipelines.results.test_scoring import Finished, OtherStays
from tests.support.training.stages_in_process import without_ray

STAY, HOUR = 7, 8
"""Norepinephrine runs from hour 3.5 to 9.25 of every stay of 30 h; a forecast reads 6 h and looks 6 h ahead."""


def wide_ranges() -> dict[str, Variable]:
    """A dictionary in which everything is plausible: the tiny predictor's estimates are far outside, and all would be at one end."""
    return {name: replace(own, minimum=-1e6, maximum=1e6) for name, own in load_variables().items()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        without_ray(patch)
        patch.setattr(fitting, "load_variables", wide_ranges)
        patch.setattr(data, "open_source", lambda config: OtherStays() if config.name == "elsewhere" else Stays())
        yield Finished(tmp_path_factory.mktemp("storage"))


@pytest.fixture(scope="module")
def run(finished: Finished) -> str:
    return f"{finished.config.storage}/runs/{finished.config.name}"


def asked(run: str, **more: Any) -> WhatIf:
    return answer(Question(run, **({"stay": STAY, "hour": HOUR, "credentialed": True} | more)))


def versions(content: WhatIf) -> dict[str, VersionForecast]:
    return {own["version"]: own for own in content["versions"]}


def plan_file(tmp_path: Path, text: str) -> str:
    file = tmp_path / "plan.yaml"
    file.write_text(text)
    return str(file)


def parts(run: str) -> tuple[Any, OneStay, Any]:
    """(model, stay, encoder) of the stay."""
    trial = forecast_trial(run)
    model, latents = what_if._model(trial)
    return model, what_if._stay(trial, Question(run, STAY, HOUR), model.forecaster, latents), what_if._Encoder(trial, latents)


def direct(run: str, z_HD: np.ndarray | None) -> list[dict[str, Any]]:
    """The point forecasts of `forecast_values` itself."""
    model, stay, _ = parts(run)
    known = KnownHours.of(STAY, HOUR, stay.measurements)
    rows: list[dict[str, Any]] = forecast_values(
        model.predictor, stay.latents, model.forecaster, known, z_HD, model.tasks
    ).values.to_pylist()
    return rows


def test_carried_forward_and_recorded_are_the_forecasts_with_these_latents(run: str) -> None:
    found = versions(asked(run))
    _, stay, _ = parts(run)
    recorded_HD = stay.latents.stay(STAY, HOUR + 1, 5)[2]
    for name, z_HD in (("carried_forward", None), ("recorded", recorded_HD)):
        expected = direct(run, z_HD)
        assert [row["point"] for row in found[name]["values"]] == [row["point"] for row in expected]
        assert [row["high_90"] for row in found[name]["values"]] == [row["high_90"] for row in expected]
    points = {name: [row["point"] for row in own["values"]] for name, own in found.items()}
    assert points["carried_forward"] != points["recorded"] != points["none"] != points["carried_forward"]
    assert [own["uses_future"] for own in found.values()] == [False, False, True]


def test_a_plan_that_repeats_the_last_action_gives_the_numbers_of_carrying_it_forward(run: str, tmp_path: Path) -> None:
    same = versions(asked(run, actions=plan_file(tmp_path, "[{drug: norepinephrine, rate: 0.125}]")))
    assert same["plan"]["values"] == same["carried_forward"]["values"] and same["plan"]["events"] == same["carried_forward"]["events"]
    more = versions(asked(run, actions=plan_file(tmp_path, "[{drug: norepinephrine, rate: 0.5, from_hour: 10}]")))
    assert more["plan"]["values"] != more["carried_forward"]["values"]
    stopped = versions(asked(run, actions=plan_file(tmp_path, "[{drug: norepinephrine, stop: 9}]")))
    assert stopped["plan"]["values"] == stopped["none"]["values"]


def test_a_plan_of_what_was_really_given_is_encoded_as_the_store_holds_it(run: str, tmp_path: Path) -> None:
    """Norepinephrine stops after hour 9: from hour 10 on the texts are those of the stay."""
    found = versions(asked(run, actions=plan_file(tmp_path, "[{drug: norepinephrine, stop: 10}]")))
    assert found["plan"]["coming_actions"] == found["recorded"]["coming_actions"]
    _, stay, encode = parts(run)
    texts = [f"t={each['hour']}h | {each['given']}" for each in found["plan"]["coming_actions"]]
    np.testing.assert_allclose(encode(texts), stay.latents.stay(STAY, HOUR + 1, len(texts))[2], atol=1e-5)


class Changed:
    """The latents of a stay with other hours after the last known one."""

    def __init__(self, own: Any) -> None:
        self.own, self.dim, self.encoder_digest = own, own.dim, own.encoder_digest

    def stay(self, stay_id: int, start_hour: int = 0, num_hours: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        z_D, *rest = (part.copy() for part in self.own.stay(stay_id, start_hour, num_hours))
        hours = np.arange(start_hour, start_hour + len(rest[0]))
        for z_TD in rest:
            z_TD[hours > HOUR] += 3.0
        return z_D, rest[0], rest[1]


def test_nothing_after_the_last_known_hour_enters_the_versions_that_do_not_say_so(run: str, tmp_path: Path) -> None:
    model, stay, encode = parts(run)
    plan = read_plan(
        Path(plan_file(tmp_path, "[{drug: norepinephrine, rate: 0.3, from_hour: 11}]")), HOUR, coming_hours(model.forecaster, HOUR)[-1]
    )
    before = {own["version"]: own for own in all_versions(model, stay, encode, plan)}
    values = stay.measurements.values_RV.copy()
    values[HOUR + 1 :] += 50
    other = OneStay(
        STAY,
        HOUR,
        Changed(stay.latents),
        type(stay.measurements)(stay.measurements.names, values, stay.measurements.stay_R, stay.measurements.first_row),
        [*stay.action_texts[: HOUR + 1], *(f"t={hour}h | Other." for hour in range(HOUR + 1, 30))],
    )
    after = {own["version"]: own for own in all_versions(model, other, encode, plan)}
    for name in ("carried_forward", "none", "plan"):
        assert before[name] == after[name], name
    assert before["recorded"] != after["recorded"]
    short = OneStay(STAY, HOUR, stay.latents, stay.measurements, stay.action_texts[: HOUR + 1])
    unknown = {own["version"]: own for own in all_versions(model, short, encode, plan)}
    assert unknown["recorded"]["reason"] == "no hour after the last known one is recorded" and unknown["recorded"]["values"] == []
    assert [unknown[name] for name in ("carried_forward", "none", "plan")] == [before[name] for name in ("carried_forward", "none", "plan")]


def test_recorded_actions_reach_only_as_far_as_the_record(run: str) -> None:
    """Hours 28 and 29 are recorded after hour 27: forecasts up to 3 h ahead."""
    found = versions(asked(run, hour=27))["recorded"]
    assert {row["horizon"] for row in found["values"]} == {1} and [each["hour"] for each in found["coming_actions"]] == [28, 29]
    assert asked(run, hour=None)["hour"] == 29


def test_the_files_hold_the_question_and_no_patient_and_are_private(run: str, tmp_path: Path) -> None:
    *names, warnings = write_what_if(Question(run, STAY, HOUR, credentialed=True), str(tmp_path / "out"))
    assert [Path(name).name for name in names] == ["forecast.json", "forecast.html"]
    assert all(stat.S_IMODE(Path(name).stat().st_mode) == 0o600 for name in names)
    content = json.loads(Path(names[0]).read_text())
    assert content.keys() == WhatIf.__annotations__.keys() and content["hour"] == HOUR and content["horizons"] == [1, 5]
    assert content["history"]["first_hour"] == HOUR - 5 and content["history"]["last_hour"] == HOUR
    assert content["history"]["last_action"] == {"hour": HOUR, "given": "Norepinephrine: 0.125 mcg/kg/min."}
    assert content["forecast"] == {"first_hour": HOUR + 1, "last_hour": HOUR + 6}
    assert content["warnings"] == warnings == content["plan_drugs"] == []
    for own in content["versions"]:
        assert [each["hour"] for each in own["coming_actions"]] == list(range(HOUR + 1, HOUR + 6))
        assert all(row["hour"] == HOUR + row["horizon"] for row in own["values"])
        assert not any("t=" in each["given"] for each in own["coming_actions"])
    assert "stay_id" not in Path(names[0]).read_text() and "subject" not in Path(names[0]).read_text()
    heart_rate = next(row for row in content["variables"] if row["variable"] == "heart_rate")
    assert heart_rate["hours"] == list(range(HOUR + 1)) and heart_rate["later_hours"] == list(range(HOUR + 1, HOUR + 7))
    assert heart_rate["values"][0] == 60 + (7 * STAY) % 50


def test_a_scoring_of_other_patients_is_forecast_with_the_run_that_it_froze(finished: Finished, run: str) -> None:
    finished.scored("all", "other content", "elsewhere")
    address = f"{finished.config.storage}/runs/elsewhere"
    own, there = forecast_trial(run), forecast_trial(address)
    assert there.forecaster.folder.address == own.forecaster.folder.address
    assert there.ingest.folder.address != own.ingest.folder.address
    found, before = (versions(asked(place))["carried_forward"]["values"] for place in (address, run))
    assert [row["point"] for row in found] == pytest.approx([row["point"] for row in before], rel=1e-4)


def refused(call: Any, kind: type[ClinJepaError], words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        call()
    assert "\n" not in str(caught.value) and "4711" not in str(caught.value)


def test_what_cannot_be_forecast_is_one_clear_line(run: str, tmp_path: Path) -> None:
    refused(lambda: asked(run, stay=4711), StoreError, "has no stay of that id among its 40")
    refused(lambda: asked(run, stay=4711 * 10**20), StoreError, "has no stay of that id among its 40")
    refused(lambda: asked(run, hour=30), EvaluationError, "hour 30 is not one of this stay, which has the hours 0 to 29")
    refused(lambda: asked(run, hour=-1), EvaluationError, "hour -1 is not one of this stay")
    refused(lambda: asked(run, hour=4), EvaluationError, "needs 6 known hours, and up to hour 4 there are 5.*give an hour from 5 on")
    refused(lambda: asked(run, recipe="sigreg"), ConfigError, "no finished trial of recipe sigreg; it has clin_jepa, seed 0")
    refused(lambda: asked(run, seed=3), ConfigError, "with seed 3")
    plan = plan_file(tmp_path, "[{drug: norepinephrine, rate: 0.1, from_hour: 14}]")
    refused(lambda: asked(run, actions=plan), ConfigError, "entry 1: from_hour is after hour 13")


def test_credentialed_data_need_the_flag_of_data_show(run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked(run, credentialed=False)["hour"] == HOUR, "these stays may be seen by everybody"
    monkeypatch.setattr("clinjepa.trajectory.audit.show.may_show_patients", lambda store: False)
    refused(lambda: write_what_if(Question(run, STAY), str(tmp_path / "out")), AccessError, "--i-am-credentialed")
    assert not (tmp_path / "out").exists() and asked(run)["hour"] == HOUR


def test_a_run_that_cannot_forecast_is_one_clear_line(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(run)
    without = folder.parent / "without"
    shutil.copytree(folder, without)
    record = json.loads((without / "run.json").read_text())
    record["trials"][0]["artifacts"] = {k: v for k, v in record["trials"][0]["artifacts"].items() if not v.startswith("forecasts/")}
    (without / "run.json").write_text(json.dumps(record))
    refused(lambda: asked(str(without)), StoreError, "has no forecaster.*evaluation.forecasts.enabled=true")
    refused(lambda: asked(str(folder.parent / "none")), StoreError, "holds no finished run")
    monkeypatch.setitem(FORMAT_VERSIONS, "embed", 99)
    refused(lambda: asked(run), StoreError, "/embed/.* has another format version")
    monkeypatch.undo()
    monkeypatch.setattr(finished_trial, "ingest_definitions", lambda text: "other")
    refused(lambda: asked(run), StoreError, "/ingest/.* was made with other clinical definitions")
    monkeypatch.undo()
    manifest = Path(forecast_trial(run).predictor.folder.address, "manifest.json")
    kept = manifest.read_bytes()
    manifest.unlink()
    refused(lambda: asked(run), StoreError, "/phase/.* is missing, which the run needs")
    manifest.write_bytes(kept)


def test_latents_of_another_encoder_are_refused(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clinjepa.curriculum.embedding.encoder_digest", lambda base, online: "other")
    refused(lambda: asked(run), StoreError, "holds latents of another encoder")


def test_the_command_writes_both_files_and_names_them(run: str, tmp_path: Path) -> None:
    words = ["forecast", run, "--stay", str(STAY), "--hour", str(HOUR), "--out", str(tmp_path / "out")]
    fault = CliRunner().invoke(app, [*words, "--actions", str(tmp_path / "none.yaml")])
    assert fault.exit_code == 2 and not (tmp_path / "out").exists()
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "forecast.html" in done.output and (tmp_path / "out/forecast.html").read_text().startswith("<!DOCTYPE html>")


def test_a_plan_with_a_drug_that_training_never_had_is_warned_of(run: str, tmp_path: Path) -> None:
    """By the hour grid of the run's ingest: all stays of its training split have norepinephrine."""
    plan = plan_file(tmp_path, "[{drug: dobutamine, rate: 5}, {drug: norepinephrine, stop: 10}]")
    words = ["forecast", run, "--stay", str(STAY), "--hour", str(HOUR), "--out", str(tmp_path / "out"), "--actions", plan]
    done = CliRunner().invoke(app, words)
    lines = [line for line in done.output.splitlines() if line.startswith("warning:")]
    assert done.exit_code == 0 and len(lines) == 1 and "dobutamine" in lines[0] and "norepinephrine" not in lines[0]
    content = json.loads((tmp_path / "out/forecast.json").read_text())
    trial = forecast_trial(run)
    assert trial.trained_on is not None
    train = sum(split == "train" for split in trial.trained_on.read_table("stays.parquet")["split"].to_pylist())
    assert {each["drug"]: each["num_training_stays"] for each in content["plan_drugs"]} == {"norepinephrine": train, "dobutamine": 0}
    assert lines == [f"warning: {content['warnings'][0]}"] and content["warnings"][0] in (
        tmp_path / "out/forecast.html"
    ).read_text().replace("&#39;", "'")


def test_the_ranges_are_those_that_the_run_kept(run: str) -> None:
    """Its dictionary had wide ranges, that of this code has not: points far outside the latter stay."""
    model, _, _ = parts(run)
    assert model.forecaster.ranges_V2.tolist() == [[-1e6, 1e6]] * len(model.forecaster.names)
    low = load_variables()["heart_rate"].minimum
    points = [row["point"] for row in versions(asked(run))["carried_forward"]["values"] if row["variable"] == "heart_rate"]
    assert low is not None and any(point is not None and point < low for point in points)


def test_the_rounding_of_the_store_is_that_of_the_plan() -> None:
    values = np.array([[1.0039, -3.14159]], dtype=np.float32)
    assert np.array_equal(as_stored(values, "float32"), values)
    expected = torch.from_numpy(values).to(torch.bfloat16).float().numpy()
    assert np.array_equal(as_stored(values, "bfloat16"), expected)
