"""A run waits for what its cluster lacks and can get, says so, and is refused at once what the cluster can never have."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from clinjepa.errors import ResourceError
from pipelines.graph.context import Needs
from pipelines.graph.stage import Stage
from pipelines.scheduling import preflight, supply
from pipelines.scheduling.supply import Supply, wait_for
from tests.support.training.finished_training import small_config


class Cluster:
    """A cluster that is something else at every look; the last state stays."""

    def __init__(self, *states: Supply) -> None:
        self.states, self.asked = list(states), []  # type: ignore[var-annotated]

    def look(self) -> Supply:
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]

    def ask(self, needs: Needs) -> None:
        self.asked.append(needs)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Time passes only while a look is waited for."""
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(supply, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    return now


def waited(needs: Needs, minutes: float, *states: Supply) -> tuple[list[str], Cluster]:
    lines: list[str] = []
    cluster = Cluster(*states)
    wait_for(needs, minutes, lines.append, cluster)  # type: ignore[arg-type]
    return lines, cluster


def test_what_is_there_is_not_waited_for() -> None:
    lines, cluster = waited({"GPU": 2.0, "CPU": 1.0}, 30, Supply({"GPU": 2.0, "CPU": 4.0}))
    assert lines == [] and cluster.asked == []


def test_gpus_from_zero_are_asked_for_and_waited_for_with_lines() -> None:
    away, coming = Supply({"CPU": 2.0}, is_autoscaled=True), Supply({"CPU": 2.0}, is_autoscaled=True, num_coming=2)
    lines, cluster = waited({"GPU": 2.0}, 30, away, away, coming, coming, coming, Supply({"CPU": 2.0, "GPU": 2.0}))
    assert "waiting for 2 GPU: the cluster has 0 GPU; waited 0 s of at most 30 min (execution.wait_for" in lines[0]
    assert "starts 2 nodes" in lines[1] and lines[-1] == "the cluster has 2 GPU after 8 s" and len(lines) == 3
    assert cluster.asked == [{"GPU": 2.0}, {}], "the request must be taken back, or its nodes stay for ever"


def test_a_cluster_that_never_gets_them_is_told_after_the_stated_time(clock: list[float]) -> None:
    cluster, lines = Cluster(Supply({"CPU": 2.0})), []  # type: ignore[var-annotated]
    with pytest.raises(ResourceError, match=r"1 GPU is needed, the cluster has 0 GPU, also after 3 min \(execution.wait_for_resources"):
        wait_for({"GPU": 1.0}, 3, lines.append, cluster)  # type: ignore[arg-type]
    assert 180 <= clock[0] < 190 and cluster.asked[-1] == {}
    assert len(lines) == 3 and "nothing is known to start nodes by itself" in lines[0] and "waited 1 min" in lines[1]


def test_what_no_group_can_have_is_refused_at_once(clock: list[float]) -> None:
    groups = Supply({"CPU": 2.0}, limits={"CPU": 64.0, "GPU": 4.0, "accelerator_type:A100": 4.0})
    for needs, said in (({"TPU": 1.0}, r"none of its node groups can have 1 TPU \(at most 0 TPU\)"), ({"GPU": 8.0}, "at most 4 GPU")):
        with pytest.raises(ResourceError, match=f"{said}.*add a group with"):
            waited(needs, 30, groups)
    with pytest.raises(ResourceError, match="can have 1 accelerator_type:H100"):
        waited({"GPU": 4.0, "accelerator_type:H100": 1.0}, 30, groups)
    assert clock[0] == 0


def test_an_autoscaler_that_says_never_is_believed_after_seconds(clock: list[float]) -> None:
    with pytest.raises(ResourceError, match="none of its node groups can have 1 GPU"):
        waited({"GPU": 1.0}, 30, Supply({"CPU": 2.0}, is_autoscaled=True, never=frozenset({"GPU"})))
    assert clock[0] <= supply.CERTAIN_SECONDS + 5


def test_an_autoscaler_that_says_never_once_is_asked_again() -> None:
    never, later = (Supply({"CPU": 2.0}, is_autoscaled=True, never=frozenset(names)) for names in ({"GPU"}, set()))
    lines, _ = waited({"GPU": 1.0}, 30, never, never, never, later, later, later, later, later, Supply({"GPU": 1.0}))
    assert "the cluster has 1 GPU" in lines[-1]


def test_a_quota_that_is_reached_is_told_while_it_waits() -> None:
    refused = Supply({"CPU": 2.0}, is_autoscaled=True, refusal="quota 'GPUS' exceeded")
    lines, _ = waited({"GPU": 1.0}, 30, refused, refused, Supply({"GPU": 1.0}))
    assert "its provider refused a node: quota 'GPUS' exceeded" in lines[0]


def test_zero_minutes_wait_for_nothing(clock: list[float]) -> None:
    with pytest.raises(ResourceError, match="set execution.wait_for_resources_minutes to how long"):
        waited({"GPU": 1.0}, 0, Supply({"CPU": 2.0}))
    assert clock[0] == 0


@pytest.mark.parametrize(
    ("kinds", "overrides", "needs"),
    [
        (["ingest", "phase"], [], {"GPU": 2.0, "CPU": 1.0}),
        (["ingest", "phase"], ["execution.num_workers=[1, 4]"], {"GPU": 1.0, "CPU": 1.0}),
        (["embed"], [], {"GPU": 1.0, "CPU": 1.0}),
        (["ingest"], [], {"CPU": 1.0}),
        (["phase"], ["execution.use_gpu=false"], {"CPU": 1.0}),
        ([], [], {}),
    ],
)
def test_a_run_waits_for_what_the_stages_start_with_that_come_first(tmp_path, monkeypatch, kinds, overrides, needs) -> None:
    asked: list[object] = []
    monkeypatch.setattr(preflight, "on_a_cluster", lambda: True)
    monkeypatch.setattr(preflight, "refuse_never", lambda needs: asked.append(needs))
    monkeypatch.setattr(preflight, "wait_for", lambda needs, minutes, tell: asked.append((needs, minutes)))
    given = ["execution.use_gpu=true", "execution.num_workers=2", "execution.wait_for_resources_minutes=7", *overrides]
    config = small_config(tmp_path, *given)
    context = SimpleNamespace(config=config, artifact=lambda stage: SimpleNamespace(is_complete=lambda: stage.label == "done"))
    done = Stage("phase", "done", {})
    stages = [Stage(kind, kind, {}, {"before": done}) for kind in kinds] + [done]
    preflight.check_on_cluster(context, stages)  # type: ignore[arg-type]
    gpus = {name: amount for name, amount in needs.items() if name == "GPU"}
    assert asked == [gpus, (needs, 7.0)]
    asked.clear()
    data = Stage("labels", "unfinished", {}, {"before": done})
    preflight.check_on_cluster(context, [data] + [Stage(kind, kind, {}, {"data": data}) for kind in kinds])  # type: ignore[arg-type]
    assert asked == [gpus, ({"CPU": 1.0}, 7.0)], "GPUs would stand idle while the data are made"


class Coordinator:
    """Keeps faults as the cluster's coordinator does."""

    def __init__(self) -> None:
        self.noted: dict[str, tuple[str, str]] = {}
        self.fault = SimpleNamespace(remote=self.noted.get)
        self.note_fault = SimpleNamespace(remote=lambda name, kind, message: self.noted.setdefault(name, (kind, message)))


def test_a_stage_waits_for_its_gpus_alone_and_the_next_does_not_wait_for_what_never_came(tmp_path, monkeypatch, clock) -> None:
    monkeypatch.setattr("ray.get", lambda value: value)
    cluster, told = Cluster(Supply({"CPU": 2.0})), []  # type: ignore[var-annotated]
    monkeypatch.setattr(supply, "RaySupply", lambda: cluster)
    config = small_config(tmp_path, "execution.wait_for_resources_minutes=3")
    context = SimpleNamespace(config=config, run_id="run", coordinator=Coordinator(), report=lambda *said: told.append(said[-1]))
    stage = Stage("phase", "warmup", {})
    supply.wait_for_stage(context, stage, {"CPU": 64.0})  # type: ignore[arg-type]
    assert not told and clock[0] == 0, "CPUs are the coordinator's"
    for waits in (180.0, 0.0):
        began = clock[0]
        with pytest.raises(ResourceError, match="2 GPU are needed, the cluster has 0 GPU, also after 3 min"):
            supply.wait_for_stage(context, stage, {"CPU": 1.0, "GPU": 2.0})  # type: ignore[arg-type]
        assert waits <= clock[0] - began < waits + 10
    assert "waiting for 2 GPU" in told[0]
    cluster.states = [Supply({"CPU": 2.0, "GPU": 2.0})]
    supply.wait_for_stage(SimpleNamespace(**{**vars(context), "run_id": "next"}), stage, {"GPU": 2.0})  # type: ignore[arg-type]
