"""The benchmark of serving compares both sides before it times them, and counts what its clients got."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import serving
from clinjepa.serving.scoring import ScoringModel
from tests.support.training.served_export import ServedExport


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> ServedExport:
    return ServedExport(tmp_path_factory.mktemp("served"), *serving.SIZES["demo"])


def test_both_sides_are_timed_on_the_same_answer(made: ServedExport) -> None:
    found = serving.compare(made, 1)
    assert found["difference"] < 1e-4 and set(found["seconds"]) == {"new_hour", "recomputed"}
    assert found["speedup"] == found["seconds"]["recomputed"] / found["seconds"]["new_hour"]


def test_a_known_stay_that_is_scored_otherwise_is_no_benchmark(made: ServedExport, monkeypatch: pytest.MonkeyPatch) -> None:
    score, models = ScoringModel.score, []

    def wrong(model: ScoringModel, requests: list) -> list:
        found = score(model, requests)
        models.append(model)
        if model is not models[0]:
            return found
        risks = [risk.model_copy(update={"history_only": {"linear": risk.history_only["linear"] + 0.1}}) for risk in found[0].risks]
        return [found[0].model_copy(update={"risks": risks})]

    monkeypatch.setattr(ScoringModel, "score", wrong)
    with pytest.raises(SystemExit, match="scored otherwise"):
        serving.compare(made, 1)


def test_a_service_that_ends_at_once_is_told(made: ServedExport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving.sys, "executable", "false")
    load = serving.Load(made, tmp_path, 1, 1)
    with pytest.raises(SystemExit, match="did not start"):
        load.wait()
    assert load.ask(b"{}") == 0 and load.statuses == {0: 1} and not load.seconds
