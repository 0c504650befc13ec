"""The service refuses what it must: no token, too much, and requests that cannot be scored, each in one line without a patient's value."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator

import pytest

from clinjepa.serving.scoring import ScoringModel
from clinjepa.serving.service import Answer, Busy, Limits, Scored, Service, score_bodies, token_digest
from tests.support.data.bad_requests import SECRET, bad_bodies
from tests.support.data.stay_requests import StayRequests
from tests.support.training.served_export import ServedExport

TOKEN = "a-token-of-a-test-0123"
HEADERS = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"}


async def parts(body: bytes, size: int = 1 << 16) -> AsyncIterator[bytes]:
    for begin in range(0, len(body), size):
        yield body[begin : begin + size]


def asked(service: Service, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
    given = {**HEADERS, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return asyncio.run(service.answer(method, path, given, parts(body)))


def said(answer: Answer) -> str:
    return str(json.loads(answer.body)["error"])


@pytest.fixture(scope="module")
def model(made: ServedExport) -> ScoringModel:
    return ScoringModel.load(made.folder)


@pytest.fixture
def service(model: ScoringModel) -> Service:
    async def score(body: bytes) -> Scored:
        return score_bodies(model, [body])[0]

    async def describe() -> dict:
        return model.description()

    return Service(token_digest(TOKEN), score, describe, Limits(body_bytes=200_000, waiting=2))


@pytest.fixture
def good(requests: StayRequests) -> dict:
    return requests.plain(next(stay for stay, rows in requests.events.items() if len(rows) > 50), 7)


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "Bearer ä"]
)
@pytest.mark.parametrize("path", ["/v1/score", "/v1/model", "/metrics", "/openapi.json", "/nowhere"])
def test_without_the_token_nothing_is_answered_and_no_body_is_read(service: Service, header: str, path: str) -> None:
    async def unread() -> AsyncIterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    found = asyncio.run(service.answer("POST", path, {**HEADERS, "authorization": header}, unread()))
    assert found.status == 401 and found.headers["WWW-Authenticate"] == "Bearer"
    assert TOKEN not in found.body.decode()


def test_every_bad_request_gets_a_line_that_names_the_field_and_no_value(service: Service, good: dict, caplog) -> None:
    caplog.set_level(logging.DEBUG)
    cases = bad_bodies(good)
    assert len(cases) >= 40 and len({name for name, *_ in cases}) == len(cases)
    for name, body, status, line in cases:
        found = asked(service, "POST", "/v1/score", body)
        words = said(found)
        assert (found.status, line in words) == (status, True), f"{name}: {found.status} {words}"
        assert "\n" not in words and len(words) < 300, name
        assert SECRET not in words and good["stay"]["intime"] not in words, name
    assert SECRET not in caplog.text
    assert asked(service, "POST", "/v1/score", json.dumps(good).encode()).status == 200


def test_rows_that_cannot_be_used_are_counted_and_the_others_are_scored(service: Service, good: dict) -> None:
    time = good["stay"]["intime"]
    more = [
        {"time": time, "variable": SECRET, "value": 1.0},
        {"time": time, "variable": "map", "value": 70.0, "unit": SECRET},
        {"time": time, "variable": "map", "value": 9000.0},
        {"time": good["now"], "variable": "map", "value": 70.0},
    ]
    before = json.loads(asked(service, "POST", "/v1/score", json.dumps(good).encode()).body)
    found = asked(service, "POST", "/v1/score", json.dumps({**good, "events": good["events"] + more}).encode())
    answer = json.loads(found.body)
    new = {rule: number - before["dropped"].get(rule, 0) for rule, number in answer["dropped"].items()}
    assert {rule: number for rule, number in new.items() if number} == {
        "unknown_variable": 1,
        "unknown_unit:map": 1,
        "out_of_range:map": 1,
        "in_unfinished_hour": 1,
    }
    assert SECRET not in found.body.decode()
    assert answer["risks"][0]["history_only"] == pytest.approx(before["risks"][0]["history_only"])


def test_another_unit_is_converted(service: Service, good: dict) -> None:
    row = {"time": good["stay"]["intime"], "variable": "glucose", "value": 180.0, "unit": "mg/dL"}
    other = row | {"value": 180.0 / 18.016, "unit": "mmol/L"}
    answers = [
        json.loads(asked(service, "POST", "/v1/score", json.dumps({**good, "events": [*good["events"], each]}).encode()).body)
        for each in (row, other)
    ]
    assert answers[0]["dropped"] == answers[1]["dropped"]
    assert answers[0]["risks"][0]["history_only"] == pytest.approx(answers[1]["risks"][0]["history_only"], rel=1e-4)


def test_a_body_that_is_too_large_is_413_whether_its_length_is_told_or_not(service: Service) -> None:
    assert asked(service, "POST", "/v1/score", b"", content_length="200001").status == 413
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 1
            yield b" " * 50_000

    found = asyncio.run(service.answer("POST", "/v1/score", HEADERS, endless()))
    assert found.status == 413 and read == 17  # four limits are thrown away, so that a client that still sends sees the answer


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/score", 405), ("POST", "/v1/model", 405), ("DELETE", "/health", 405), ("GET", "/v1/other", 404), ("GET", "/", 404)],
)
def test_other_paths_and_methods(service: Service, method: str, path: str, status: int) -> None:
    assert asked(service, method, path).status == status


@pytest.mark.parametrize("headers", [{"content_type": "text/plain"}, {"content_type": ""}, {"content_encoding": "gzip"}])
def test_a_body_that_is_not_said_to_be_json_is_415(service: Service, headers: dict[str, str]) -> None:
    assert asked(service, "POST", "/v1/score", b"{}", **headers).status == 415


def test_what_is_more_than_may_wait_gets_503_and_a_time_to_come_back() -> None:
    async def scenario() -> list[Answer]:
        free = asyncio.Event()

        async def score(body: bytes) -> Scored:
            await free.wait()
            return Scored(200, b"{}")

        async def describe() -> dict:
            raise Busy

        service = Service(token_digest(TOKEN), score, describe, Limits(waiting=2))
        waiting = [asyncio.create_task(service.answer("POST", "/v1/score", HEADERS, parts(b"{}"))) for _ in range(2)]
        await asyncio.sleep(0)
        refused = await service.answer("POST", "/v1/score", HEADERS, parts(b"{}"))
        free.set()
        done = [await each for each in waiting]
        return [
            refused,
            *done,
            await service.answer("POST", "/v1/score", HEADERS, parts(b"{}")),
            await service.answer("GET", "/v1/model", HEADERS, parts(b"")),
        ]

    refused, *done, after, undescribed = asyncio.run(scenario())
    assert refused.status == 503 and refused.headers["Retry-After"] == "1"
    assert [each.status for each in done] == [200, 200] and after.status == 200 and undescribed.status == 503


def test_an_unexpected_fault_is_told_and_logged_by_its_kind_alone(model: ScoringModel, good: dict, caplog, monkeypatch) -> None:
    def fails(_: object) -> list:
        raise ValueError(f"the row of {SECRET}")

    monkeypatch.setattr(model, "score", fails)
    bodies = [json.dumps(good).encode(), b"{}"]
    found = score_bodies(model, bodies)
    assert [each.status for each in found] == [500, 422]
    assert SECRET not in found[0].body.decode() + caplog.text and "ValueError" in caplog.text


def test_metrics_count_answers_and_work_and_name_no_patient(service: Service, good: dict) -> None:
    body = json.dumps(good).encode()
    for _ in range(2):
        asked(service, "POST", "/v1/score", body)
    asked(service, "GET", f"/{SECRET}")
    text = asked(service, "GET", "/metrics").body.decode()
    numbers = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert numbers['clinjepa_requests_total{path="/v1/score",status="200"}'] == "2"
    assert numbers['clinjepa_requests_total{path="other",status="404"}'] == "1"
    assert numbers["clinjepa_score_seconds_count"] == numbers['clinjepa_score_seconds_bucket{le="+Inf"}'] == "2"
    assert int(numbers["clinjepa_latent_cache_hits_total"]) >= 15
    assert SECRET not in text and good["now"] not in text


def test_the_description_has_every_path_and_the_types_of_both_bodies(service: Service) -> None:
    found = json.loads(asked(service, "GET", "/openapi.json").body)
    assert set(found["paths"]) == {"/v1/score", "/v1/model", "/health", "/metrics", "/openapi.json"}
    assert {"ScoreRequest", "ScoreResponse", "Event", "Stay", "Risk", "Forecast"} <= set(found["components"]["schemas"])
    text = json.dumps(found)
    assert all(f'"{name}"' in text for name in ("401", "413", "422", "503"))


def test_the_model_and_health_are_told(service: Service) -> None:
    told = json.loads(asked(service, "GET", "/v1/model").body)
    assert told["run"] == "small" and [task["name"] for task in told["tasks"]] == ["hypotension_8h", "in_hospital_death", "map_8h"]
    assert json.loads(asyncio.run(service.answer("GET", "/health", {}, parts(b""))).body) == {"status": "ok"}
