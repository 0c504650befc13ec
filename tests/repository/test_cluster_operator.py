"""What KubeRay's operator and Kueue refuse beyond the fields: the API server accepts it, and the job then ends as `ValidationFailed`.

Rules of KubeRay 1.7 (ray-operator/controllers/ray/utils/validation.go) and of Kueue's page on RayJobs, as far as they concern these files.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.repository.test_cluster_files import check_fields
from tests.support.machines.manifests import FOLDERS, KUBERNETES, RAY_KINDS, Manifest, cluster_spec, documents, render

BASES = ("base/grid", "base/scoring", "base/standing")
GATES = {
    "gcsFaultToleranceOptions": "GCSFaultToleranceEmbeddedStorage",
    "deletionStrategy": "RayJobDeletionPolicy",
    "tlsOptions": "RayClusterMTLS",
}


def with_components(folder: Path, tmp_path: Path, *components: str) -> list[Manifest]:
    """A kustomization of a user's own, made of a folder and components."""
    names = [str(KUBERNETES / "components" / name) for name in components]
    rules = {"kind": "Kustomization", "resources": [str(folder)], "components": names}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(rules))
    return render(tmp_path)


def cluster_faults(cluster: Manifest) -> list[str]:
    """What the operator refuses of a RayCluster's spec."""
    faults = []
    head, groups = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    scales = cluster.get("enableInTreeAutoscaling", False)
    second = scales and cluster.get("autoscalerOptions", {}).get("version") == "v2"
    container = head["template"]["spec"]["containers"][0]
    variables = {each["name"] for each in container.get("env", [])}
    for group in (head, *groups):
        name, parameters = group.get("groupName", "head"), group["rayStartParams"]
        if second and group["template"]["spec"].get("restartPolicy", "Never") != "Never":
            faults.append(f"{name}: autoscaler v2 wants restartPolicy Never")
        if group.get("resources") and {"num-cpus", "num-gpus", "memory", "resources"} & set(parameters):
            faults.append(f"{name}: resources are given twice")
        if "labels" in parameters:
            faults.append(f"{name}: labels belong into the group")
        if (group.get("priority") or "idleTimeoutSeconds" in group) and not second:
            faults.append(f"{name}: needs autoscaler v2")
    if scales and "RAY_enable_autoscaler_v2" in variables:
        faults.append("the version of the autoscaler is given twice")
    if cluster.get("gcsFaultToleranceOptions", {}).get("backend") == "rocksdb":
        places = {each["mountPath"] for each in container["volumeMounts"]}
        if variables & {"RAY_gcs_storage", "RAY_gcs_storage_path"} or "/data/gcs" in places:
            faults.append("KubeRay itself sets the database of the head")
    if cluster.get("tlsOptions", {}).get("enabled"):
        for group in (head, *groups):
            if any(
                each["name"].startswith(("RAY_USE_TLS", "RAY_TLS_")) for each in group["template"]["spec"]["containers"][0].get("env", [])
            ):
                faults.append("TLS is given twice")
    return faults


def job_faults(job: Manifest) -> list[str]:
    """What the operator refuses of a RayJob's spec apart from its cluster."""
    faults = []
    rules = job.get("deletionStrategy", {}).get("deletionRules", [])
    if rules and (job.get("shutdownAfterJobFinishes") or job.get("ttlSecondsAfterFinished")):
        faults.append("deletionRules exclude shutdownAfterJobFinishes and its time")
    if job.get("ttlSecondsAfterFinished") and not job.get("shutdownAfterJobFinishes"):
        faults.append("a time without shutdownAfterJobFinishes")
    if job.get("suspend") and not job.get("shutdownAfterJobFinishes"):
        faults.append("suspended without shutdownAfterJobFinishes")
    if job["rayClusterSpec"].get("enableInTreeAutoscaling") and any(rule["policy"] == "DeleteWorkers" for rule in rules):
        faults.append("DeleteWorkers with the autoscaler")
    order = ("DeleteWorkers", "DeleteCluster", "DeleteSelf")
    ends: dict[str, list[tuple[int, int]]] = {}
    for rule in rules:
        condition = rule["condition"]
        key = condition.get("jobStatus", "") + condition.get("jobDeploymentStatus", "")
        ends.setdefault(key, []).append((order.index(rule["policy"]), condition.get("ttlSeconds", 0)))
    for key, found in ends.items():
        times = [seconds for _, seconds in sorted(found)]
        if times != sorted(times) or len({policy for policy, _ in found}) != len(found):
            faults.append(f"{key}: a rule twice, or what is larger is deleted first")
    return faults


def faults(manifest: Manifest) -> list[str]:
    found = cluster_faults(cluster_spec(manifest))
    if len(manifest["metadata"]["name"]) > 40 or not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", manifest["metadata"]["name"]):
        found.append("the name is no label of DNS, or leaves no room for what KubeRay adds")
    if manifest["kind"] == "RayCronJob" and "TZ" in manifest["spec"]["schedule"]:
        found.append("the time zone belongs into timeZone")
    return found if manifest["kind"] == "RayCluster" else found + job_faults(manifest["spec"].get("jobTemplate", manifest["spec"]))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(KUBERNETES)))
def test_the_operator_accepts_every_ray_manifest(folder: Path) -> None:
    assert {each["metadata"]["name"]: found for each in render(folder) if each["kind"] in RAY_KINDS and (found := faults(each))} == {}


@pytest.mark.parametrize(
    ("place", "value", "fault"),
    [
        ("headGroupSpec.template.spec.restartPolicy", "Always", "restartPolicy"),
        ("headGroupSpec.resources", {"CPU": "1"}, "twice"),
        ("workerGroupSpecs.3.rayStartParams.labels", "a=b", "labels"),
        ("autoscalerOptions.version", "v1", "needs autoscaler v2"),
        ("headGroupSpec.template.spec.containers.0.env", [{"name": "RAY_gcs_storage", "value": "rocksdb"}], "itself"),
    ],
)
def test_a_cluster_that_the_operator_refuses_is_found(place: str, value: object, fault: str) -> None:
    (manifest,) = render(KUBERNETES / "base" / "standing")
    *parents, last = place.split(".")
    here = cluster_spec(manifest)
    for part in parents:
        here = here[int(part)] if isinstance(here, list) else here[part]
    here[last] = value
    assert any(fault in each for each in faults(manifest))


@pytest.mark.parametrize(
    "change",
    [
        {"suspend": True},
        {"shutdownAfterJobFinishes": True},
        {"ttlSecondsAfterFinished": 60},
        {"deletionStrategy": {"deletionRules": [{"policy": "DeleteWorkers", "condition": {"jobStatus": "FAILED"}}]}},
        {
            "deletionStrategy": {
                "deletionRules": [
                    {"policy": "DeleteCluster", "condition": {"jobStatus": "FAILED", "ttlSeconds": 60}},
                    {"policy": "DeleteSelf", "condition": {"jobStatus": "FAILED", "ttlSeconds": 10}},
                ]
            }
        },
    ],
)
def test_a_job_that_the_operator_refuses_is_found(change: Manifest) -> None:
    (manifest,) = render(KUBERNETES / "base" / "grid")
    manifest["spec"] |= change
    assert faults(manifest)


@pytest.mark.parametrize("overlay", ["eks", "gke"])
def test_kueue_turns_the_grid_into_a_job_that_it_and_kuberay_admit(overlay: str, tmp_path: Path) -> None:
    """Kueue counts fixed nodes: no autoscaler, one node of GPUs at once, and a cluster that is deleted after the job."""
    (job,) = with_components(KUBERNETES / "overlays" / overlay / "grid", tmp_path, "kueue")
    check_fields(job)
    assert faults(job) == []
    groups = {group["groupName"]: group["replicas"] for group in cluster_spec(job)["workerGroupSpecs"]}
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "clinjepa"
    assert job["spec"]["suspend"] and job["spec"]["shutdownAfterJobFinishes"]
    assert not cluster_spec(job)["enableInTreeAutoscaling"] and groups == {"driver": 1, "cpu": 1, "gpu-spot": 0, "gpu-on-demand": 1}


@pytest.mark.parametrize("name", BASES)
def test_kuberays_tls_is_switched_on_by_a_component(name: str, tmp_path: Path) -> None:
    (manifest,) = with_components(KUBERNETES / name, tmp_path, "mtls")
    check_fields(manifest)
    assert cluster_spec(manifest)["tlsOptions"] == {"enabled": True} and faults(manifest) == []


def test_the_operator_has_the_gates_that_the_manifests_need_and_waits_as_long_as_workers_do() -> None:
    (values,) = documents(KUBERNETES / "operator_values.yaml")
    gates = {each["name"]: each["enabled"] for each in values["featureGates"]}
    for name in BASES:
        (manifest,) = render(KUBERNETES / name)
        fields = {*cluster_spec(manifest), *manifest["spec"].get("jobTemplate", manifest["spec"])}
        assert all(gates[gate] for field, gate in GATES.items() if field in fields), name
        waits = {
            each["value"]
            for group in cluster_spec(manifest)["workerGroupSpecs"]
            for each in group["template"]["spec"]["containers"][0]["env"]
            if each["name"] == "RAY_gcs_rpc_server_reconnect_timeout_s"
        }
        assert waits == {each["value"] for each in values["env"] if each["name"] == "RAYJOB_STATUS_CHECK_TIMEOUT_SECONDS"}
    assert gates["RayCronJob"] and values["watchNamespace"] == ["clinjepa"]
