"""The files in cluster/ fit the schemas of what reads them, are locked, and pinned to one Ray version.

kubernetes_fields.json says of each kind which upstream file and commit its fields come from; test_cluster_operator.py holds what KubeRay's
operator and Kueue refuse beyond that.
"""

from __future__ import annotations

import ast
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import prepare_config, validate_config

from clinjepa.config import load_config
from tests.support.machines.cli import ROOT
from tests.support.machines.manifests import FOLDERS, KUBERNETES, RAY_KINDS, Manifest, cluster_spec, documents, render

CLUSTER = ROOT / "cluster"
LAUNCHERS = ("aws.yaml", "gcp.yaml")
FILES = sorted(path for path in CLUSTER.rglob("*") if path.is_file() and path.suffix != ".pyc")
NOT_KUBERNETES = {"kustomization.yaml", "eksctl.yaml", "operator_values.yaml"}
MANIFESTS = [path for path in KUBERNETES.rglob("*.yaml") if path.name not in NOT_KUBERNETES]
RAY_FILES = [path for path in MANIFESTS if any(each["kind"] in RAY_KINDS for each in documents(path))]
SCHEMA = json.loads(Path(__file__).with_name("kubernetes_fields.json").read_text(encoding="utf-8"))


def named(path: Path) -> str:
    return str(path.relative_to(CLUSTER))


def launcher(name: str) -> dict[str, Any]:
    return yaml.safe_load((CLUSTER / name).read_text(encoding="utf-8"))


def pinned_ray() -> str:
    found = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert found, "constraints.txt pins no ray"
    return found[1]


def check_fields(manifest: Manifest) -> None:
    """Against the definition of its kind alone, so that the message names the field."""
    kind = manifest["kind"]
    assert {"$ref": f"#/$defs/{kind}"} in SCHEMA["oneOf"], f"no fields of {kind} are known"
    jsonschema.validate(manifest, {"$defs": SCHEMA["$defs"], "$ref": f"#/$defs/{kind}"})


def test_there_are_manifests_and_overlays_to_check() -> None:
    assert len(RAY_FILES) == 3 and len(MANIFESTS) >= 12 and len(FOLDERS) >= 16


@pytest.mark.parametrize("path", MANIFESTS, ids=named)
def test_every_kubernetes_file_has_known_fields_only(path: Path) -> None:
    for manifest in documents(path):
        check_fields(manifest)


def test_the_file_of_the_eks_cluster_and_the_operators_values_have_known_fields_only() -> None:
    (cluster,) = documents(KUBERNETES / "overlays" / "eks" / "eksctl.yaml")
    check_fields(cluster)
    (values,) = documents(KUBERNETES / "operator_values.yaml")
    jsonschema.validate(values, {"$defs": SCHEMA["$defs"], "$ref": "#/$defs/operatorValues"})


def test_every_definition_of_fields_says_where_it_comes_from() -> None:
    kinds = [reference["$ref"].rpartition("/")[2] for reference in SCHEMA["oneOf"]]
    assert [kind for kind in kinds if " " not in SCHEMA["$defs"][kind].get("$comment", "")] == []


@pytest.mark.parametrize("folder", FOLDERS, ids=named)
def test_every_overlay_renders_and_has_known_fields_only(folder: Path) -> None:
    manifests = render(folder)
    assert manifests
    for manifest in manifests:
        check_fields(manifest)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
@pytest.mark.parametrize("folder", FOLDERS, ids=named)
def test_kubectl_renders_the_same(folder: Path) -> None:
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr

    def sorted_by_name(manifests: list[Manifest]) -> list[Manifest]:
        return sorted(manifests, key=lambda each: (each["kind"], each["metadata"]["name"]))

    assert sorted_by_name([each for each in yaml.safe_load_all(done.stdout) if each]) == sorted_by_name(render(folder))


@pytest.mark.parametrize("path", RAY_FILES, ids=named)
def test_rays_autoscaler_reads_the_groups_as_meant(path: Path) -> None:
    """By the code that turns the custom resource into node types inside the head."""
    (manifest,) = documents(path)
    custom_resource = {"metadata": {"name": "clinjepa", "namespace": "clinjepa"}, "spec": cluster_spec(manifest)}
    read = _derive_autoscaling_config_from_ray_cr(custom_resource)["available_node_types"]
    assert read["headgroup"]["resources"]["CPU"] == 0 and read["headgroup"]["resources"]["GPU"] == 0
    assert read["driver"]["resources"]["driver"] == 2 and read["driver"]["resources"]["CPU"] == 0
    assert read["cpu"]["min_workers"] == 0 and read["cpu"]["resources"]["CPU"] == 28 and not read["cpu"]["resources"].get("GPU")
    for market, priority in (("spot", 10), ("on-demand", 1)):
        group = read[f"gpu-{market}"]
        assert (group["min_workers"], group["resources"]["GPU"], group["priority"]) == (0, 8, priority)
        assert group["labels"] == {"ray.io/market-type": market, "ray.io/accelerator-type": "H100"}


@pytest.mark.parametrize("path", RAY_FILES, ids=named)
def test_kubernetes_clusters_have_the_pinned_ray_version(path: Path) -> None:
    assert [cluster_spec(each)["rayVersion"] for each in documents(path)] == [pinned_ray()]


def test_grid_scoring_and_standing_cluster_have_the_same_pods() -> None:
    """Apart from the number of drivers at rest."""
    specs = [cluster_spec(documents(path)[0]) for path in RAY_FILES]
    for spec in specs:
        spec["workerGroupSpecs"][0] |= {"replicas": 0, "minReplicas": 0}
    assert specs[0] == specs[1] == specs[2]


def test_every_head_keeps_its_database_on_a_volume_of_the_overlays_class() -> None:
    for path in RAY_FILES:
        (manifest,) = documents(path)
        assert cluster_spec(manifest)["gcsFaultToleranceOptions"] == {"backend": "rocksdb", "storage": {"size": "10Gi"}}
    for overlay, storage_class in (("eks", "clinjepa-disk"), ("gke", "standard-rwo")):
        for name in ("grid", "scoring", "standing"):
            (manifest,) = render(KUBERNETES / "overlays" / overlay / name)
            assert cluster_spec(manifest)["gcsFaultToleranceOptions"]["storage"]["storageClassName"] == storage_class


def test_retries_of_the_work_are_set_in_one_place() -> None:
    for path in RAY_FILES:
        (manifest,) = documents(path)
        if manifest["kind"] != "RayCluster":
            spec = manifest["spec"].get("jobTemplate", manifest["spec"])
            assert spec["backoffLimit"] > 0 and "shutdownAfterJobFinishes" not in spec
        for group in cluster_spec(manifest)["workerGroupSpecs"]:
            assert group["template"]["spec"]["restartPolicy"] == "Never"


def test_every_end_of_a_job_deletes_its_cluster() -> None:
    """A deadline or a failed submission is a status of the deployment, not of the job."""
    for path in (KUBERNETES / "base" / "grid" / "rayjob.yaml", KUBERNETES / "base" / "scoring" / "raycronjob.yaml"):
        (job,) = documents(path)
        spec = job["spec"].get("jobTemplate", job["spec"])
        ends = {
            tuple(each["condition"].items())[0]: each["condition"]["ttlSeconds"]
            for each in spec["deletionStrategy"]["deletionRules"]
            if each["policy"] == "DeleteCluster"
        }
        assert ends == {("jobStatus", "SUCCEEDED"): 60, ("jobDeploymentStatus", "Failed"): 3600}
        idle = spec["rayClusterSpec"]["autoscalerOptions"]["idleTimeoutSeconds"]
        assert idle < 3600, "GPU nodes go before the head"


def entrypoints() -> list[tuple[str, list[str]]]:
    """Of all bases and overlays."""
    found = []
    for folder in FOLDERS:
        for manifest in render(folder):
            if manifest["kind"] in ("RayJob", "RayCronJob"):
                spec = manifest["spec"].get("jobTemplate", manifest["spec"])
                found.append((named(folder), shlex.split(spec["entrypoint"])))
    return found


@pytest.mark.parametrize(("where", "words"), entrypoints())
def test_entrypoints_count_on_what_the_groups_may_have(where: str, words: list[str]) -> None:
    """Without that a run refuses a cluster whose groups are still empty."""
    overrides = [word for word in words if re.match(r"execution\.\w+=", word)]
    config = load_config(ROOT / "configs" / "mimic_iv_qwen3_8b.yaml", overrides)
    (manifest,) = documents(RAY_FILES[0])
    groups = cluster_spec(manifest)["workerGroupSpecs"]
    read = _derive_autoscaling_config_from_ray_cr({"metadata": {"name": "c", "namespace": "c"}, "spec": cluster_spec(manifest)})
    types = read["available_node_types"]
    most = {name: sum(types[g["groupName"]]["resources"].get(name, 0) * g["maxReplicas"] for g in groups) for name in ("CPU", "GPU")}
    assert config.execution.use_gpu and config.execution.concurrent_gpus and config.execution.concurrent_cpus
    assert config.execution.concurrent_gpus <= most["GPU"] and config.execution.concurrent_cpus <= most["CPU"]
    assert config.execution.start_timeout_seconds >= 600, "nodes need minutes to come"
    node = types["gpu-spot"]["resources"]
    assert config.execution.max_workers * (config.execution.cpus_per_worker + config.execution.data_cpus) <= node["CPU"]
    assert config.execution.max_workers <= node["GPU"], "a training fits into one node"


def test_the_grids_command_runs_a_configuration_that_loads() -> None:
    for where, words in entrypoints():
        python, flag, module, path, *overrides = words
        assert (python, flag) == ("python", "-m") and (ROOT / f"{module.replace('.', '/')}.py").is_file(), where
        if module == "pipelines.run":
            config = load_config(ROOT / Path(path).relative_to("/app"), overrides)
            assert config.storage.startswith(("s3://", "/shared/")), where


@pytest.mark.parametrize("name", LAUNCHERS)
def test_launcher_file_is_accepted_by_rays_launcher(name: str) -> None:
    """`ray up` merges its defaults, then compares with its schema."""
    prepared = prepare_config(launcher(name))
    validate_config(prepared)
    assert prepared["setup_commands"] == prepared["head_setup_commands"] == prepared["worker_setup_commands"] == []


@pytest.mark.parametrize("name", LAUNCHERS)
def test_launched_groups_start_from_none_spot_first(name: str) -> None:
    file = launcher(name)
    types = file["available_node_types"]
    assert file["head_node_type"] == "head" and types["head"]["resources"] == {"CPU": 0, "GPU": 0}
    workers = {kind: each for kind, each in types.items() if kind != "head"}
    assert all(each["min_workers"] == 0 < each["max_workers"] for each in workers.values())
    assert sum(each["max_workers"] for each in workers.values()) == file["max_workers"]

    def is_spot(node: Manifest) -> bool:
        return (
            node.get("InstanceMarketOptions", {}).get("MarketType") == "spot"
            or node.get("scheduling", {}).get("provisioningModel") == "SPOT"
        )

    assert {kind for kind, each in types.items() if is_spot(each["node_config"])} == {"gpu_spot"}
    assert all((each["labels"]["ray.io/market-type"] == "spot") == (kind == "gpu_spot") for kind, each in types.items())
    assert types["gpu_spot"]["priority"] > types["gpu_on_demand"]["priority"]


def rays_security_group_functions() -> dict[str, Any]:
    """What Ray's launcher for AWS does with security groups, by its own source: its module cannot be imported without AWS's library."""
    source = Path(ray.autoscaler.__path__[0]) / "_private" / "aws" / "config.py"
    wanted = re.compile(r"_(upsert_security_group_rules|update_inbound_rules|create_default_\w*inbound_rules)")
    tree = ast.parse(source.read_text(encoding="utf-8"))
    tree.body = [each for each in tree.body if isinstance(each, ast.FunctionDef) and wanted.fullmatch(each.name)]
    found: dict[str, Any] = {"itertools": itertools}
    exec(compile(tree, str(source), "exec"), found)
    return found


class Group:
    """A security group of AWS, as Ray's launcher handles one."""

    def __init__(self, rules: list[dict[str, Any]]) -> None:
        self.id, self.ip_permissions = "sg-1", rules

    def authorize_ingress(self, IpPermissions: list[dict[str, Any]]) -> None:  # noqa: N803  # boto3's name
        self.ip_permissions = [*self.ip_permissions, *IpPermissions]


def test_ray_opens_no_port_of_a_security_group_that_was_made_first() -> None:
    """By Ray's own functions: rules of its own, among them port 22 for everybody, go into a group without rules, whatever the file says."""
    file, ray_does = launcher("aws.yaml"), rays_security_group_functions()
    assert file["provider"]["security_group"] == {"GroupName": "clinjepa"}, "rules in the file would stand beside Ray's"
    own = [{"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "192.0.2.1/32"}]}]
    for rules, is_open in ((own, False), ([], True)):
        group = Group(rules)
        ray_does["_upsert_security_group_rules"](file, {"head": group})
        assert ("0.0.0.0/0" in json.dumps(group.ip_permissions)) == is_open
    beside = ray_does["_create_default_inbound_rules"](["sg-1"], own)
    assert [each for rule in beside for each in rule.get("IpRanges", [])] == [{"CidrIp": "0.0.0.0/0"}, {"CidrIp": "192.0.2.1/32"}]


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_container_of_the_launcher_asks_for_the_gpus_and_the_driver(name: str) -> None:
    """NVIDIA's runtime, which Ray chooses on a GPU node, gives none of them otherwise; the image is no CUDA base image."""
    options = shlex.split(" ".join(launcher(name)["docker"]["run_options"]))
    variables = dict(value.split("=", 1) for flag, value in zip(options, options[1:], strict=False) if flag == "--env")
    assert variables["NVIDIA_VISIBLE_DEVICES"] == "all"
    assert {"compute", "utility"} <= set(variables["NVIDIA_DRIVER_CAPABILITIES"].split(","))


@pytest.mark.parametrize(("name", "login"), [("aws.yaml", "docker login --username AWS"), ("gcp.yaml", "gcloud auth configure-docker")])
def test_a_launched_machine_may_pull_the_image_before_it_does(name: str, login: str) -> None:
    file = launcher(name)
    first = file["initialization_commands"][0]
    assert login in first
    for image in (file["docker"]["head_image"], file["docker"]["worker_image"]):
        assert image.partition("/")[0] in first, "the registry of the images"


def test_a_worker_on_aws_may_not_start_machines() -> None:
    types = launcher("aws.yaml")["available_node_types"]
    profiles = {kind: each["node_config"]["IamInstanceProfile"]["Arn"] for kind, each in types.items()}
    assert profiles.pop("head") == "HEAD_PROFILE_ARN" and set(profiles.values()) == {"WORKER_PROFILE_ARN"}
    storage, machines = (json.loads((CLUSTER / "aws_policies" / f"{name}.json").read_text()) for name in ("storage", "machines"))
    (cluster,) = documents(KUBERNETES / "overlays" / "eks" / "eksctl.yaml")
    assert storage == cluster["iam"]["serviceAccounts"][0]["attachPolicy"]
    assert machines["Statement"][1] == {
        "Effect": "Allow",
        "Action": "iam:PassRole",
        "Resource": "arn:aws:iam::ACCOUNT:role/clinjepa-worker",
    }


def test_disks_of_google_cloud_name_a_type_that_h100_machines_take() -> None:
    file = launcher("gcp.yaml")
    for each in file["available_node_types"].values():
        (disk,) = each["node_config"]["disks"]
        assert disk["initializeParams"]["diskType"] == f"zones/{file['provider']['availability_zone']}/diskTypes/pd-balanced"


def test_image_has_the_pinned_ray_version() -> None:
    assert f"ARG RAY_VERSION={pinned_ray()}\n" in (CLUSTER / "Containerfile").read_text(encoding="utf-8")


def test_image_starts_from_a_digest_that_is_given() -> None:
    """No default: a digest that nobody checked is worse than none."""
    text = (CLUSTER / "Containerfile").read_text(encoding="utf-8")
    assert re.findall(r"^ARG BASE(.*)$", text, re.MULTILINE) == ["", ""] and re.findall(r"^FROM (.+)$", text, re.MULTILINE) == ["${BASE}"]
    (check,) = re.findall(r"^RUN (case \"\$\{BASE\}\".*)$", text, re.MULTILINE)
    for base, status in (("python:3.11-slim", 1), ("python@sha256:" + 64 * "0", 0)):
        assert subprocess.run(["sh", "-c", check], env={"BASE": base}, capture_output=True).returncode == status


def test_image_runs_as_an_ordinary_user() -> None:
    users = re.findall(r"^USER (\S+)", (CLUSTER / "Containerfile").read_text(encoding="utf-8"), re.MULTILINE)
    assert users == ["1000:1000"]


@pytest.mark.parametrize("path", FILES, ids=named)
def test_no_dashboard_listens_to_the_world(path: Path) -> None:
    assert not re.search(r"dashboard-host['\"]?[=: ]+['\"]?(0\.0\.0\.0|::)", path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", FILES, ids=named)
def test_no_secret_is_written_down(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"\b(AKIA|ASIA)[A-Z0-9]{12,}|-----BEGIN|\bhf_[A-Za-z0-9]{20,}", text)
    variables = re.findall(r"(?im)^\s*-?\s*\{?\s*name:\s*\S*(?:secret|token|password|access_key)\S*,?\s*value:\s*(\S+)", text)
    assigned = re.findall(r"(?i)(?:secret_access_key|auth_token|password)\s*[=:]\s*['\"]?([A-Za-z0-9/+]{8,})", text)
    assert not variables and not assigned and not re.search(r"(?m)^kind: Secret$", text)


# --- Slurm: with stand-ins for `scontrol`, `srun` and `ray`.

STANDINS = {
    "scontrol": '#!/bin/bash\necho "$*" >>"$CALLS"\n[[ $1 != show ]] || echo 127.0.0.1\n',
    "getent": '#!/bin/bash\necho "127.0.0.1 STREAM"\n',
    "srun": '#!/bin/bash\nwhile [[ $1 == -* ]]; do echo "$1" >>"$CALLS.srun"; shift; done\nexec "$@"\n',
    "ray": '#!/bin/bash\nstat -c %a "$RAY_AUTH_TOKEN_PATH" >>"$CALLS"; echo "$RAY_AUTH_MODE $*" >>"$CALLS"\n'
    'while [[ $1 != -- ]]; do shift; done; shift\n[[ -z ${FAILS:-} ]] || exit 0\n"$@"\n',
}


def slurm(folder: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    """`cluster/slurm.sbatch` as the batch system would start it."""
    binaries = folder / "bin"
    binaries.mkdir(exist_ok=True)
    for name, text in STANDINS.items():
        (binaries / name).write_text(text)
        (binaries / name).chmod(0o755)
    (folder / "probe.py").write_text(
        "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\nprint('STARTED', *sys.argv[1:], flush=True)\n"
        "time.sleep(60 if 'wait' in sys.argv else 0)\nsys.exit(7 if 'fail' in sys.argv else 0)\n"
    )
    env = {
        **os.environ,
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "PYTHONPATH": str(folder),
        "HOME": str(folder),
        "CALLS": str(folder / "calls"),
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NODELIST": "n1",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_CPUS_PER_TASK": "2",
        **variables,
    }
    script = (CLUSTER / "slurm.sbatch").read_text(encoding="utf-8").replace("scratch=/tmp/cj-", f"scratch={folder}/cj-")
    (folder / "script").write_text(script)
    return subprocess.Popen(
        ["bash", str(folder / "script"), *arguments], env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


@pytest.mark.parametrize(("words", "status"), [((), 0), (("fail",), 7)])
def test_slurm_job_runs_the_command_with_a_token_of_its_own_and_returns_its_status(
    tmp_path: Path, words: tuple[str, ...], status: int
) -> None:
    process = slurm(tmp_path, "-m", "probe", "x.yaml", *words)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == status, output
    assert "STARTED x.yaml" in output
    mode, call = (tmp_path / "calls").read_text().splitlines()[1:3]
    assert mode == "600" and call.startswith("token symmetric-run --address 127.0.0.1:") and "--min-nodes 1" in call
    assert list((tmp_path / ".clinjepa").iterdir()) == [], "the token ends with the job"
    assert not list(tmp_path.glob("cj-*")), "nothing stays on the node"


def test_slurm_job_says_to_every_step_how_many_cpus_it_has(tmp_path: Path) -> None:
    """Since Slurm 22.05 a step does not take it from its job."""
    output, _ = slurm(tmp_path, "-m", "probe", "x.yaml").communicate(timeout=60)
    assert (tmp_path / "calls.srun").read_text().splitlines().count("--cpus-per-task=2") == 2, output


def test_slurm_job_whose_ray_does_not_start_fails(tmp_path: Path) -> None:
    """`ray symmetric-run` itself ends with 0 then."""
    process = slurm(tmp_path, "-m", "probe", "x.yaml", FAILS="1")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and "Ray did not start" in output


def test_slurm_job_that_was_queued_again_and_whose_ray_does_not_start_fails(tmp_path: Path) -> None:
    """Its id, and so its folder, are those of the first attempt; a node that was lost kept that attempt's files."""
    scratch = tmp_path / f"cj-{os.getpid()}"
    scratch.mkdir()
    (scratch / "driver").write_text("4711\n")
    process = slurm(tmp_path, "-m", "probe", "x.yaml", FAILS="1")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and "Ray did not start" in output


def test_slurm_job_near_its_time_limit_is_interrupted_and_queued_again(tmp_path: Path) -> None:
    process = slurm(tmp_path, "-m", "probe", "wait")
    assert process.stdout
    while "STARTED" not in (line := process.stdout.readline()):
        assert line, "the command did not start"
    process.send_signal(10)  # SIGUSR1
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 143, output
    assert f"requeue {os.getpid()}" in (tmp_path / "calls").read_text()


def test_slurm_job_without_a_configuration_says_what_to_type(tmp_path: Path) -> None:
    process = slurm(tmp_path)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 2 and "give a configuration" in output
