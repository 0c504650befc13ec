"""The files in cluster/ fit the schemas of what reads them, are locked, pinned to one Ray version, and hold no secret."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from clinjepa.config import load_config

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
FILES = sorted(path for path in CLUSTER.iterdir() if path.is_file())
KUBERAY = ("rayjob.yaml", "raycluster.yaml")


def load(name: str) -> dict[str, Any]:
    return yaml.safe_load((CLUSTER / name).read_text(encoding="utf-8"))


def cluster_spec(name: str) -> dict[str, Any]:
    spec = load(name)["spec"]
    return spec.get("rayClusterSpec", spec)


def pod_specs(name: str) -> Iterator[dict[str, Any]]:
    spec = cluster_spec(name)
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        yield group["template"]["spec"]


def pinned_ray() -> str:
    found = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert found, "constraints.txt pins no ray"
    return found[1]


def test_aws_file_fits_the_schema_of_rays_launcher() -> None:
    ray = importlib.util.find_spec("ray")
    assert ray and ray.origin
    schema = json.loads((Path(ray.origin).parent / "autoscaler" / "ray-schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(load("aws.yaml"), schema)


@pytest.mark.parametrize("name", KUBERAY)
def test_kubernetes_file_fits_the_fields_of_kuberay(name: str) -> None:
    schema = json.loads(Path(__file__).with_name("kuberay_fields.json").read_text(encoding="utf-8"))
    jsonschema.validate(load(name), schema)


@pytest.mark.parametrize("name", KUBERAY)
def test_kubernetes_cluster_has_the_pinned_ray_version(name: str) -> None:
    assert cluster_spec(name)["rayVersion"] == pinned_ray()


def test_image_has_the_pinned_ray_version() -> None:
    assert f"ARG RAY_VERSION={pinned_ray()}\n" in (CLUSTER / "Containerfile").read_text(encoding="utf-8")


def test_image_runs_as_an_ordinary_user() -> None:
    users = re.findall(r"^USER (\S+)", (CLUSTER / "Containerfile").read_text(encoding="utf-8"), re.MULTILINE)
    assert users and users[-1] not in ("root", "0")


@pytest.mark.parametrize("name", KUBERAY)
def test_kubernetes_pods_run_as_an_ordinary_user(name: str) -> None:
    assert all(pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0 for pod in pod_specs(name))


@pytest.mark.parametrize("name", KUBERAY)
def test_kubernetes_cluster_asks_for_a_token(name: str) -> None:
    assert cluster_spec(name)["authOptions"]["mode"] == "token"


def test_every_ray_start_on_aws_asks_for_a_token() -> None:
    file = load("aws.yaml")
    starts = [command for part in ("head", "worker") for command in file[f"{part}_start_ray_commands"] if "ray start" in command]
    assert len(starts) == 2 and all("RAY_AUTH_MODE=token" in command for command in starts)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_dashboard_listens_to_the_world(path: Path) -> None:
    assert not re.search(r"dashboard-host['\"]?[=: ]+['\"]?(0\.0\.0\.0|::)", path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_secret_is_written_down(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"\b(AKIA|ASIA)[A-Z0-9]{12,}|-----BEGIN|\bhf_[A-Za-z0-9]{20,}", text)
    named = re.findall(r"(?im)^\s*-?\s*\{?\s*name:\s*\S*(?:secret|token|password|access_key)\S*,?\s*value:\s*(\S+)", text)
    assigned = re.findall(r"(?i)(?:secret_access_key|auth_token|password)\s*[=:]\s*['\"]?([A-Za-z0-9/+]{8,})", text)
    assert not named and not assigned


@pytest.mark.parametrize("name", KUBERAY)
def test_storage_credentials_come_from_a_kubernetes_secret(name: str) -> None:
    containers = [container for pod in pod_specs(name) for container in pod["containers"]]
    assert all({"secretRef": {"name": "clinjepa-storage"}} in container["envFrom"] for container in containers)


@pytest.mark.parametrize("name", KUBERAY)
def test_worker_groups_can_grow_from_their_least(name: str) -> None:
    spec = cluster_spec(name)
    assert spec["enableInTreeAutoscaling"] and all(g["minReplicas"] <= g["replicas"] <= g["maxReplicas"] for g in spec["workerGroupSpecs"])


def test_retries_are_set_in_one_place() -> None:
    spec = load("rayjob.yaml")["spec"]
    assert spec["backoffLimit"] > 0 and spec["submitterConfig"]["backoffLimit"] == 0
    assert all(pod["restartPolicy"] == "Never" for pod in pod_specs("rayjob.yaml"))


def test_job_runs_a_configuration_that_loads() -> None:
    python, flag, module, path, *overrides = shlex.split(load("rayjob.yaml")["spec"]["entrypoint"])
    assert (python, flag, module) == ("python", "-m", "pipelines.run")
    config = load_config(ROOT / Path(path).relative_to("/app"), overrides)
    assert config.storage.startswith("s3://") and config.execution.use_gpu


def test_aws_workers_are_spot_first_with_on_demand_behind() -> None:
    types = load("aws.yaml")["available_node_types"]
    spot = {name for name, kind in types.items() if "InstanceMarketOptions" in kind["node_config"]}
    assert spot == {"gpu_spot"} and types["gpu_spot"]["priority"] > types["gpu_on_demand"]["priority"]
