"""The project's own figures: what they are called, what their labels hold, that they cost little and end no run."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
import ray

from clinjepa.curriculum.checkpoints.history import TrainingHistory
from pipelines.scheduling import metrics
from pipelines.scheduling.metrics import METRICS, TrainingMetrics, exported_name, record, stage_labels

BOARD = Path(__file__).parents[3] / "cluster" / "monitoring" / "grafana.json"
OF_RAY = {"ray_node_gpus_utilization", "ray_node_mem_used", "ray_node_mem_total", "ray_tasks"}


def history(num_steps: int, tokens: int, seconds: float = 0.5, waited: float = 0.1) -> TrainingHistory:
    found = TrainingHistory()
    for step in range(num_steps):
        found.add({"step": step, "loss": 2.0}, tokens)
        found.add_time(seconds, waited, 2, starts_at=0 if step == 0 else None)
    return found


def test_labels_are_a_stages_name_recipe_and_seed_and_nothing_else() -> None:
    assert stage_labels("SFT") == {"stage": "SFT", "recipe": "", "seed": ""}
    assert stage_labels("SFT · num_epochs=2")["recipe"] == ""
    told = stage_labels("joint refinement · clin_jepa · encoder_lr=2e-05 · seed 3")
    assert told == {"stage": "joint refinement", "recipe": "clin_jepa", "seed": "3"}
    assert {label for about in METRICS.values() for label in about.labels} == {"stage", "recipe", "seed", "kind"}


def test_the_figures_of_a_training_come_from_its_history() -> None:
    tracker = TrainingMetrics("SFT")
    first = tracker.figures(2, history(2, 100).latest() | {"num_steps": 10}, now=50.0)
    assert "clinjepa_tokens_per_second" not in first and "clinjepa_goodput_ratio" not in first
    found = tracker.figures(6, history(6, 100).latest() | {"num_steps": 10}, now=54.0)
    assert found["clinjepa_step"] == 6 and found["clinjepa_steps_planned"] == 10 and found["clinjepa_loss"] == 2.0
    assert found["clinjepa_step_seconds"] == pytest.approx(0.5)
    assert found["clinjepa_data_wait_seconds"] == pytest.approx(0.5)  # the first step of an attempt waits for its readers
    assert found["clinjepa_tokens_per_second"] == pytest.approx(400 / 4)
    assert found["clinjepa_goodput_ratio"] == pytest.approx(2 / 4)
    assert found["clinjepa_collapse_alarm"] == 0.0
    collapsed = history(6, 100)
    collapsed.alarm("collapse", 5, "collapsed")
    assert tracker.figures(7, collapsed.latest(), now=55.0)["clinjepa_collapse_alarm"] == 1.0


def test_a_figure_costs_nothing_measurable_a_step_and_ends_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    tracker, figures = TrainingMetrics("SFT"), history(2, 100).latest()
    tracker.log(1, figures)  # no Ray here
    monkeypatch.setattr(ray, "is_initialized", lambda: True)

    class Broken:
        def set(self, *_: object, **__: object) -> None:
            raise RuntimeError("no agent")

        inc = set

    monkeypatch.setattr(metrics, "_metric", lambda name: Broken())
    began = time.perf_counter()
    for step in range(200):
        tracker.log(step, figures)
    assert time.perf_counter() - began < 1.0, "5 ms a report"
    record("clinjepa_stages_run", 1, {"kind": "sft"})
    record("no_such_metric", 1)
    tracker.log(1, {"loss": None})  # type: ignore[dict-item]


def queries() -> dict[str, str]:
    """Title of a panel and its query, for every query of the board."""
    board = json.loads(BOARD.read_text())
    return {f"{panel['title']} {target['refId']}": target["expr"] for panel in board["panels"] for target in panel.get("targets", [])}


def test_every_query_of_the_board_asks_for_figures_that_exist_and_every_figure_is_on_the_board() -> None:
    asked = {name for query in queries().values() for name in re.findall(r"\bray_\w+", query)}
    ours = {exported_name(name) for name in METRICS}
    assert asked - OF_RAY <= ours and ours - asked == set()


def test_the_queries_group_by_labels_that_the_figures_have() -> None:
    labels = {exported_name(name): set(about.labels) for name, about in METRICS.items()}
    for title, query in queries().items():
        grouped = {label.strip() for found in re.findall(r"by \(([^)]*)\)", query) for label in found.split(",")}
        names = [name for name in re.findall(r"\bray_\w+", query) if name in labels]
        assert all(grouped <= labels[name] for name in names), title


def test_the_page_lists_every_figure_as_it_is() -> None:
    page = (BOARD.parents[2] / "docs" / "runs.md").read_text()
    for name, about in METRICS.items():
        ending = " (counter)" if about.kind == "counter" else ""
        assert f"| `{name}` | {', '.join(about.labels)} | {about.description}{ending} |" in page
