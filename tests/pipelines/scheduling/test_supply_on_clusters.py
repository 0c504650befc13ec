"""Waiting for resources on real clusters: a node that joins, one that never does, and Ray's autoscaler from zero. GPUs are logical."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.machines.ray_nodes import RayNodes

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

WAIT = """
from clinjepa.errors import ResourceError
from pipelines.scheduling import supply
supply.CERTAIN_SECONDS = 4.0
def waited(needs, minutes):
    try:
        supply.wait_for(needs, minutes, lambda line: print(line, flush=True))
        print("there", flush=True)
    except ResourceError as error:
        print("refused:", error, flush=True)
"""
GPU_TASK = "print('ran on', ray.get(ray.remote(num_gpus=1)(lambda: ray.get_runtime_context().get_assigned_resources()).remote()))\n"
GROUPS = """
from ray.core.generated.autoscaler_pb2 import ClusterConfig, NodeGroupConfig
group = NodeGroupConfig(resources={"CPU": 4, "GPU": 2}, min_count=0, max_count=3, name="gpu")
client = GcsClient(address=ray.get_runtime_context().gcs_address)
client.report_cluster_config(ClusterConfig(node_group_configs=[group]).SerializeToString())
"""


@pytest.fixture(scope="module")
def nodes() -> Iterator[RayNodes]:
    """A head without an autoscaler, as `ray start` makes it."""
    with RayNodes(head_cpus=1) as nodes:
        yield nodes


def test_a_cluster_to_which_no_gpu_comes_is_refused_after_the_stated_time(nodes: RayNodes) -> None:
    said = nodes.ask(f"{WAIT}\nwaited({{'GPU': 1.0}}, 0.1)\n")
    first, *_, last = said.splitlines()
    assert first.startswith("waiting for 1 GPU: the cluster has 0 GPU, and nothing is known to start nodes by itself")
    assert last.startswith("refused: 1 GPU is needed, the cluster has 0 GPU, also after 0.1 min (execution.wait_for_resources_minutes)")


def test_a_node_that_joins_while_it_waits_ends_the_waiting_and_runs_a_task(nodes: RayNodes) -> None:
    driver = nodes.asking(f"{WAIT}\nwaited({{'GPU': 1.0, 'CPU': 2.0}}, 4)\n{GPU_TASK}")
    assert driver.stdout is not None and driver.stdout.readline().startswith("waiting for 1 GPU and 2 CPU: the cluster has 0 GPU and 1 CPU")
    nodes.add(num_cpus=1, num_gpus=1)
    said, fault = driver.communicate(timeout=120)
    assert driver.returncode == 0, fault[-2000:]
    assert "the cluster has 1 GPU and 2 CPU after" in said and "there" in said and "ran on" in said


def test_what_the_reported_groups_can_have_is_waited_for_and_the_rest_refused_at_once(nodes: RayNodes) -> None:
    asked = "began = time.time()\nwaited({'GPU': 8.0}, 5)\nprint(time.time() - began < 5)\nwaited({'GPU': 6.0}, 0.05)\n"
    said = nodes.ask(WAIT + GROUPS + asked)
    lines = said.splitlines()
    assert "none of its node groups can have 8 GPU (at most 6 GPU)" in lines[0] and lines[1] == "True"
    assert lines[2].startswith("waiting for 6 GPU") and "also after 0.05 min" in lines[-1]


def test_an_autoscaler_starts_gpus_from_zero_and_what_no_group_has_is_refused() -> None:
    groups = {"gpu": {"resources": {"CPU": 1, "GPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2}}
    with RayNodes(head_cpus=1, groups=groups) as nodes:
        said = nodes.ask(f"{WAIT}\nwaited({{'accelerator_type:H100': 1.0}}, 4)\nwaited({{'GPU': 1.0}}, 4)\n{GPU_TASK}", timeout=240)
        refused = [line for line in said.splitlines() if line.startswith("refused")]
        assert len(refused) == 1 and "none of its node groups can have 1 accelerator_type:H100" in refused[0]
        assert "the cluster has 1 GPU after" in said and "ran on" in said


PLACE = """
from pipelines.scheduling.coordinator import NAME, NAMESPACE, coordinator
def market_type(node_id):
    return next(node["Labels"].get("ray.io/market-type", "none") for node in ray.nodes() if node["NodeID"] == node_id)
ray.get(coordinator().progress.remote())
found = ray._private.state.actors()
print(*(market_type(each["Address"]["NodeID"]) for each in found.values() if each["Name"] == NAME and each["State"] == "ALIVE"))
ray.kill(ray.get_actor(NAME, namespace=NAMESPACE))
"""


def test_the_coordinator_is_on_a_spot_node_only_where_there_is_no_other() -> None:
    with RayNodes(head_cpus=0, env={"RAY_NODE_MARKET_TYPE": "spot"}) as nodes:
        assert nodes.ask(PLACE) == "spot"
        nodes.add(env={"RAY_NODE_MARKET_TYPE": "on-demand"})
        assert [nodes.ask(PLACE) for _ in range(3)] == ["on-demand"] * 3
