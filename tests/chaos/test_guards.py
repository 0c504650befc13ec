"""What Ray Train guards a training with: grace for a checkpoint of a node that leaves, hung collectives, figures beside the training."""

from __future__ import annotations

import gzip
import json
import os
import re
import stat
import sys
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest

from clinjepa.storage import Folder
from pipelines.stages.worker_checks import guard_collectives
from tests.support.machines.ray_nodes import Node, RayNodes
from tests.support.training.trainings import EVERY

pytestmark = [
    pytest.mark.ray,
    pytest.mark.chaos,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore:.*the target does not arrive"),
]


def made(storage: Folder, what: str) -> dict[str, list[str]]:
    """Files of the run's folder `what` by stage."""
    found: dict[str, list[str]] = {}
    for name in (storage / "runs").files():
        _, kind, stage, file = name.split("/")
        if kind == what:
            found.setdefault(stage, []).append(file)
    return found


def test_checkpoints_are_validated_and_steps_profiled_beside_the_training_which_stays_as_it_was(inputs, started, tmp_path):
    job = inputs.job("warmup", 4 * EVERY, tmp_path / "unused")
    with RayNodes(head_cpus=3) as nodes:
        training = started(nodes, job, tmp_path, validate_checkpoints=True, profile_steps=2, trackers=["tensorboard"])
        training.finish()
    training.assert_same_losses(inputs)

    (validations,) = made(training.storage, "validation").values()
    last = training.storage / "runs/run/validation" / next(iter(made(training.storage, "validation")))
    assert f"step-{4 * EVERY:08d}.json" in validations
    figures = last.read_json(f"step-{4 * EVERY:08d}.json")
    assert figures["step"] == 4 * EVERY and figures["num_windows"] >= 5 and figures["rollout_vs_copy_1h"] > 0

    ((stage, traces),) = made(training.storage, "profiles").items()
    assert traces == ["worker-0.json.gz", "worker-1.json.gz"]
    events = json.loads(gzip.decompress((training.storage / "runs/run/profiles" / stage).read_bytes(traces[1])))["traceEvents"]
    assert len({event["name"] for event in events if event.get("name", "").startswith("ProfilerStep#")}) == 2


@pytest.mark.long
@pytest.mark.s3
@pytest.mark.parametrize(("grace", "is_kept"), [(120.0, True), (0.0, False)])
def test_a_checkpoint_for_a_leaving_node_is_written_to_its_end_within_the_grace(
    grace, is_kept, inputs, started, s3_server, s3_address, proxy, tmp_path
):
    """The store answers no write of a checkpoint from the notice until the node has been gone for some seconds."""
    job = replace(inputs.job("warmup", 4000, tmp_path / "unused"), checkpoint_every_steps=200)
    with RayNodes(head_cpus=0, env=s3_server.environment | {"AWS_ENDPOINT_URL": proxy.address}) as nodes:
        both = [nodes.add(), nodes.add()]
        training = started(nodes, job, tmp_path, f"{s3_address}/store", num_workers=[1, 2], preemption_grace_seconds=grace)
        training.wait_for(lambda: training.saved() >= 200)
        leaving = without_rank_0(nodes, both)
        proxy.applies = lambda method, path: method in ("PUT", "POST") and "/checkpoints/" in path
        proxy.fail_for("hang", 25)
        nodes.drain(8, leaving)
        training.wait_for(lambda: "preempt" in controllers_said(nodes).lower(), 60)
        training.wait_for(lambda: proxy.counts["hang"] > 0, 30)  # the workers have given worker 0 their parts, and it writes
        leaving.lose()
        training.wait_for(lambda: controllers_said(nodes).count("Started training worker group of size") >= 2, 240)
        saved = training.saved()
        training.process.kill()
    assert (saved % 200 > 0) == is_kept


def controllers_said(nodes: RayNodes) -> str:
    """The logs of Ray Train's controllers, on whichever node they are."""
    folder = Path(nodes.head.folder).parent
    return "".join(log.read_text(errors="replace") for log in sorted(folder.glob("*/session_2*/logs/train/*app-controller*.log")))


def without_rank_0(nodes: RayNodes, workers: list[Node]) -> Node:
    """The node on which worker 0, which writes, is not."""
    pid = re.findall(r"pid=(\d+)\) world_rank=0", controllers_said(nodes))[-1]
    (other,) = [node for node in workers if int(pid) not in node.processes("")]
    return other


STAND_IN = """#!{python}
import json, os, sys
moving = not os.path.exists({stuck!r})
counts = {{"AllReduce": os.getpid() if moving else 7}}
ranks = [
    {{"rank": rank, "status": {{"abort_flag": False, "finalize_called": False, "destroy_flag": False, "init_state": 0}},
      "collective_counts": {{"AllReduce": counts["AllReduce"] - (0 if moving else rank)}}}}
    for rank in (0, 1)
]
print(json.dumps({{"timestamp": "now", "communicators": [{{"hash": "0x1", "ranks": ranks}}]}}))
"""
"""Answers as `ncclras` of NCCL 2.28 does, without NCCL; while the file is there: worker 1 is a collective behind and none gets on."""


@pytest.mark.long
def test_a_hung_collective_counts_as_a_worker_failure_and_is_restarted(inputs, started, tmp_path):
    job = inputs.job("warmup", 400, tmp_path / "unused")
    stuck, programs = tmp_path / "stuck", tmp_path / "bin"
    programs.mkdir()
    program = programs / "ncclras"
    program.write_text(STAND_IN.format(python=sys.executable, stuck=str(stuck)))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    detector = {
        "RAY_TRAIN_ENABLE_NCCL_HANG_DETECTOR": "1",
        "RAY_TRAIN_NCCL_RAS_ACTION": "fail",
        "RAY_TRAIN_NCCL_RAS_MIN_POLL_INTERVAL_S": "0.5",
        "RAY_TRAIN_NCCL_RAS_CONFIRM_DURATION_S": "2",
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
    }
    with RayNodes(head_cpus=2, env=detector) as nodes:
        training = started(nodes, job, tmp_path)
        training.wait_for(lambda: training.saved() >= 2 * EVERY)
        stuck.touch()
        training.wait_for(lambda: "NCCLHangError" in controllers_said(nodes), 120)
        saved = training.saved()
        stuck.unlink()
        training.finish()
    training.assert_same_course(inputs, saved)
    assert len(training.starts()) >= 2


def test_workers_with_gpus_get_the_detector_unless_the_environment_says_otherwise() -> None:
    names = ("RAY_TRAIN_ENABLE_NCCL_HANG_DETECTOR", "RAY_TRAIN_NCCL_RAS_ACTION")
    with mock.patch.dict(os.environ):
        for name in names:
            os.environ.pop(name, None)
        guard_collectives(use_gpu=False)
        assert not any(name in os.environ for name in names)
        os.environ["RAY_TRAIN_NCCL_RAS_ACTION"] = "observe"
        guard_collectives(use_gpu=True)
        assert [os.environ[name] for name in names] == ["1", "observe"]
