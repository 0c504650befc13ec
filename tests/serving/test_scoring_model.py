"""An export scores a stay that is sent hour by hour as the evaluation scores it: the same texts, latents, probabilities and forecasts."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from clinjepa.clinical import load_tasks
from clinjepa.errors import StoreError
from clinjepa.evaluation.downstream.prediction import predict_points
from clinjepa.evaluation.forecasts.patients import KnownHours, forecast_values
from clinjepa.evaluation.forecasts.points.measurements import read_named
from clinjepa.export.serving_facts import read_serving_facts
from clinjepa.model.encoding.text_encoder import TextEncoder
from clinjepa.serving.hours import TextRules, stay_hours
from clinjepa.serving.requests import RequestError, read_request
from clinjepa.serving.responses import ScoreResponse
from clinjepa.serving.scoring import Caches, ScoringModel
from clinjepa.sources import open_source
from clinjepa.storage import Folder
from tests.support.data.real_data import real
from tests.support.data.stay_requests import StayRequests
from tests.support.training.finished_training import small_config
from tests.support.training.served_export import ServedExport, build_ingest

TOLERANCE = 2e-5


class Batch:
    """The batch path: ingest, all texts of a stay encoded at once, predictions without a cache."""

    def __init__(self, made: ServedExport, root: Path) -> None:
        self.ingest, self.made = Folder(root), made
        build_ingest(made.config, self.ingest)
        self.stays = self.ingest.read_table("stays.parquet")
        self.texts = {row["stay_id"]: row for row in self.ingest.read_table("hours/part-00000.parquet").to_pylist()}
        encoder = TextEncoder.from_pretrained(made.folder / "encoder")
        self.dim, self._latents = encoder.dim, {}
        for stay_id, row in self.texts.items():
            z_ND = encoder([row["static_text"], *row["state_texts"], *row["action_texts"]]).numpy()
            number = len(row["state_texts"])
            self._latents[stay_id] = z_ND[0], z_ND[1 : number + 1], z_ND[number + 1 :]

    def stay(self, stay_id: int, start_hour: int = 0, num_hours: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        hours = slice(start_hour, None if num_hours is None else start_hour + num_hours)
        return self._latents[stay_id][0], self._latents[stay_id][1][hours], self._latents[stay_id][2][hours]

    def risks(self, stay_id: int, hour: int, column: str) -> dict[str, float]:
        at = pa.table({"stay_id": pa.array([stay_id]), "hour": pa.array([hour], pa.int32())})
        found = predict_points(self.made.predictor, self, self.stays, self.made.probes, points=at, column=column)
        rows = found.to_pylist()
        return {row["task"]: row["score"] if row["predicted_boolean_probability"] is None else _sigmoid(row["score"]) for row in rows}

    def forecasts(self, stay_id: int, hour: int) -> tuple[list[dict], list[dict]]:
        known = KnownHours.of(stay_id, hour, read_named(self.ingest, self.stays, np.array([stay_id]), self.made.forecaster.names))
        tasks = load_tasks(list(read_serving_facts(self.made.folder).event_tasks))
        found = forecast_values(self.made.predictor, self, self.made.forecaster, known, tasks=tasks)
        return found.values.to_pylist(), found.events.to_pylist()


def _sigmoid(log_odds: float) -> float:
    return 1 / (1 + math.exp(-log_odds))


@pytest.fixture(scope="module")
def batch(made: ServedExport, tmp_path_factory: pytest.TempPathFactory) -> Batch:
    return Batch(made, tmp_path_factory.mktemp("ingest"))


@pytest.fixture
def model(made: ServedExport) -> ScoringModel:
    return ScoringModel.load(made.folder)


def scored(model: ScoringModel, *bodies: bytes) -> list[ScoreResponse]:
    found = model.score([read_request(body) for body in bodies])
    assert all(isinstance(one, ScoreResponse) for one in found), found
    return found


def long_stays(batch: Batch, least: int) -> list[int]:
    return [stay_id for stay_id, row in batch.texts.items() if len(row["state_texts"]) > least]


def test_texts_of_a_stay_sent_hour_by_hour_are_those_of_the_ingest(made: ServedExport, batch: Batch, requests: StayRequests) -> None:
    facts = read_serving_facts(made.folder)
    rules = TextRules(made.config.text, made.config.cohort, facts.source["event_time"])
    stays = long_stays(batch, 12)[:6]
    assert len(stays) == 6
    words = 0
    for stay_id in stays:
        row = batch.texts[stay_id]
        for number in (1, 2, 7, len(row["state_texts"]) - 1):
            for minutes in (0, 25):
                found = stay_hours(read_request(requests.body(stay_id, number, minutes)), rules, ["heart_rate"])
                assert found.static_text == row["static_text"]
                assert found.state_texts == row["state_texts"][:number]
                assert found.action_texts == row["action_texts"][:number]
                words += sum("No active" not in text for text in found.action_texts)
    assert words > 20, "the stays have no treatments"


def test_texts_of_real_stays_are_those_of_the_ingest(tmp_path: Path) -> None:
    config = small_config(
        tmp_path / "storage", "source.kind=cinc2012", f"source.path={real('cinc2012', 'physionet.org/content/challenge-2012')}"
    )
    config = config.model_copy(update={"source": config.source.model_copy(update={"subsets": ["a"], "max_stays": 40})})
    build_ingest(config, Folder(tmp_path / "ingest"))
    source = open_source(config.source)
    requests = StayRequests(source.read(source.partitions()[0]))
    rules = TextRules(config.text, config.cohort, "measured")
    rows = Folder(tmp_path / "ingest").read_table("hours/part-00000.parquet").to_pylist()
    assert rows
    for row in rows:
        found = stay_hours(read_request(requests.body(row["stay_id"], 30)), rules, [])
        assert (found.static_text, found.state_texts) == (row["static_text"], row["state_texts"][:30])


def test_texts_of_real_stays_with_treatments_sent_as_events_are_those_of_the_ingest(tmp_path: Path) -> None:
    """Stays of the MIMIC-IV demo: weighed again, two devices with one value, two orders with one amount."""
    folder = real("mimic-iv-demo-meds", "physionet.org/content/mimic-iv-demo-meds")
    config = small_config(tmp_path / "storage", "source.kind=meds", f"source.path={folder}", "source.num_partitions=12")
    build_ingest(config, Folder(tmp_path / "ingest"))
    source = open_source(config.source)
    requests = StayRequests(source.read(source.partitions()[0]))
    rules = TextRules(config.text, config.cohort, "measured")
    rows = Folder(tmp_path / "ingest").read_table("hours/part-00000.parquet").to_pylist()
    weighed = 0
    for row in rows[:6]:
        number = min(60, len(row["state_texts"]) - 1)
        found = stay_hours(read_request(requests.body(row["stay_id"], number, 25)), rules, [])
        assert (found.static_text, found.state_texts) == (row["static_text"], row["state_texts"][:number])
        assert found.action_texts == row["action_texts"][:number]
        assert not any(rule.startswith("duplicate_row") for rule in found.dropped)
        weighed += sum("Weight:" in text for text in found.state_texts)
    assert weighed, "no patient is weighed again"


@pytest.mark.parametrize("name", ["maps/codes/openicu.yaml", "own"])
def test_a_run_that_reads_meds_by_a_map_takes_events_and_no_rows(
    model: ScoringModel, batch: Batch, requests: StayRequests, name: str
) -> None:
    body = requests.body(long_stays(batch, 8)[0], 8)
    rows = b'{"now": "2150-01-01T09:00:00", "rows": [{"time": "2150-01-01T00:00:00", "code": "ICU_ADMISSION"}]}'
    facts = dataclasses.replace(model.facts, source={**model.facts.source, "kind": "meds", "map": name})
    mapped = ScoringModel(facts, model.identity, model.encoding.encoder, model._parts, Caches())
    refused, scored = mapped.score([read_request(rows), read_request(body)])
    assert isinstance(refused, RequestError) and refused.status == 422 and "by another map of codes" in str(refused)
    assert isinstance(scored, ScoreResponse)


def test_predictions_are_those_of_the_batch_path_at_every_hour(model: ScoringModel, batch: Batch, requests: StayRequests) -> None:
    stay_id = long_stays(batch, 30)[0]
    for hour in range(30):
        (found,) = scored(model, requests.body(stay_id, hour + 1))
        for column in ("history_only", "actions_carried_forward"):
            wanted = batch.risks(stay_id, hour, column)
            given = {risk.task: getattr(risk, column)["linear"] for risk in found.risks}
            assert given == pytest.approx(wanted, rel=TOLERANCE, abs=TOLERANCE), hour
        if hour + 1 < 6:
            assert found.forecasts == [] and any("forecasts need 6 complete hours" in note for note in found.notes)
            continue
        values, events = batch.forecasts(stay_id, hour)
        assert len(found.forecasts) == len(values) == 4
        for one, row in zip(found.forecasts, values, strict=True):
            assert (one.variable, one.unit, one.horizon_hours) == (row["variable"], row["unit"], row["horizon"])
            for name in ("point", "median", "low_50", "high_50", "low_90", "high_90", "last_value", "hours_since", "measured_probability"):
                assert getattr(one, name) == pytest.approx(row[name], rel=TOLERANCE, abs=1e-3), name
        assert [one.probability for one in found.events] == pytest.approx([row["probability"] for row in events], abs=0.02)
    assert model.counts()["hours_read"] == 30, "each hour is one step, whatever the length of the rollouts"


def test_a_batch_of_stays_of_different_lengths_is_each_stay_alone(model: ScoringModel, batch: Batch, requests: StayRequests) -> None:
    bodies = [requests.body(stay_id, number) for stay_id, number in zip(long_stays(batch, 20)[:3], (3, 20, 9), strict=True)]
    together = scored(model, *bodies)
    model.clear_caches()
    for one, body in zip(together, bodies, strict=True):
        (alone,) = scored(model, body)
        assert [(risk.task, risk.history_only) for risk in one.risks] == [
            (risk.task, pytest.approx(risk.history_only, rel=TOLERANCE)) for risk in alone.risks
        ]
        assert [risk.actions_carried_forward for risk in one.risks] == [
            pytest.approx(risk.actions_carried_forward, rel=TOLERANCE) for risk in alone.risks
        ]
        assert one.num_hours == alone.num_hours and one.dropped == alone.dropped


def test_a_long_stay_is_cut_as_in_the_batch_path_and_says_so(made: ServedExport, tmp_path: Path) -> None:
    windows = ["predictor.max_hours=16", "windows.max_hours=16", "evaluation.drift.contexts=[6]", "evaluation.forecasts.starts=[0]"]
    short = ServedExport(tmp_path / "short", *windows, kind="last+mean")
    batch = Batch(short, tmp_path / "ingest")
    source = open_source(short.config.source)
    requests, model = StayRequests(source.read(source.partitions()[0])), ScoringModel.load(short.folder)
    stay_id = long_stays(batch, 26)[0]
    for number in range(1, 27):
        (found,) = scored(model, requests.body(stay_id, number))
        for column in ("history_only", "actions_carried_forward"):
            given = {risk.task: getattr(risk, column)["linear"] for risk in found.risks}
            assert given == pytest.approx(batch.risks(stay_id, number - 1, column), rel=TOLERANCE, abs=TOLERANCE)
    assert any("begins after the admission" in note for note in found.notes)


def test_a_new_hour_of_a_known_stay_is_two_texts_and_one_step(model: ScoringModel, batch: Batch, requests: StayRequests) -> None:
    stay_id = next(stay for stay in long_stays(batch, 14) if len(set(batch.texts[stay]["state_texts"])) > 13)
    scored(model, requests.body(stay_id, 13))
    before = model.counts()
    scored(model, requests.body(stay_id, 14))
    after = model.counts()
    assert after["latent_misses"] - before["latent_misses"] <= 2
    assert after["hours_read"] - before["hours_read"] == 1, "one step serves rollouts of both lengths"
    again = model.counts()
    scored(model, requests.body(stay_id, 14))
    assert model.counts()["tokens"] == again["tokens"] and model.counts()["hours_read"] == again["hours_read"]


def test_a_changed_early_hour_is_read_again(model: ScoringModel, batch: Batch, requests: StayRequests) -> None:
    stay_id = long_stays(batch, 14)[0]
    scored(model, requests.body(stay_id, 14))
    asked = requests.plain(stay_id, 14)
    asked["events"] = [row for row in asked["events"] if row["variable"] != "heart_rate"]
    (found,) = scored(model, json.dumps(asked).encode())
    model.clear_caches()
    (fresh,) = scored(model, json.dumps(asked).encode())
    assert found.risks[0].history_only == pytest.approx(fresh.risks[0].history_only, rel=TOLERANCE)
    (other,) = scored(model, requests.body(stay_id, 14))
    assert other.risks[0].history_only != pytest.approx(fresh.risks[0].history_only, rel=1e-3)


def test_caches_stay_within_their_bounds_and_change_no_answer(made: ServedExport, batch: Batch, requests: StayRequests) -> None:
    small, large = ScoringModel.load(made.folder, caches=Caches(0, 0)), ScoringModel.load(made.folder)
    stay_id = long_stays(batch, 10)[0]
    for number in (9, 10):
        one, other = scored(small, requests.body(stay_id, number))[0], scored(large, requests.body(stay_id, number))[0]
        assert one.risks[0].actions_carried_forward == pytest.approx(other.risks[0].actions_carried_forward, rel=TOLERANCE)
    assert len(small.encoding.cache) == len(small.reading.cache) == 0 < len(large.reading.cache)


def test_an_export_whose_texts_follow_other_definitions_is_refused(made: ServedExport, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(made.folder, tmp_path / "model")
    content = json.loads((tmp_path / "model/serving.json").read_text())
    (tmp_path / "model/serving.json").write_text(json.dumps(content | {"definitions": "0" * 16}))
    with pytest.raises(StoreError, match=r"serving\.json is missing or was altered"):
        ScoringModel.load(tmp_path / "model")
    with pytest.raises(StoreError, match="other variables or units"):
        ScoringModel.load(tmp_path / "model", verify=False)
