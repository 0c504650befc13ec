"""What docs/cluster.md promises of the files in cluster/: closed pods and networks, no keys, no work on the head."""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import typer.main
import yaml

from pipelines.cli import app
from tests.support.machines.cli import ROOT
from tests.support.machines.manifests import FOLDERS, KUBERNETES, RAY_KINDS, Manifest, Pod, cluster_spec, documents, pods, render

CLUSTER = ROOT / "cluster"
PAGE = ROOT / "docs" / "cluster.md"
TLS = KUBERNETES / "tls"
HEAD_SERVICE = "clinjepa-head-svc.clinjepa.svc.cluster.local"


def tls_module(name: str) -> ModuleType:
    sys.path.insert(0, str(TLS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(TLS))


@cache
def rendered() -> dict[str, list[Manifest]]:
    """Every folder, as it is and with TLS."""
    plain = {str(folder.relative_to(KUBERNETES)): render(folder) for folder in FOLDERS}
    with_tls = tls_module("add_tls").with_tls
    closed = {f"{name} with TLS": [with_tls(each) for each in render(KUBERNETES / name)] for name in plain}
    return plain | {name: each for name, each in closed.items() if any(m["kind"] in RAY_KINDS for m in each)}


PODS: list[Pod] = [Pod(f"{name}: {pod.name}", pod.role, pod.template) for name, manifests in rendered().items() for pod in pods(manifests)]


def of(*roles: str) -> list[Pod]:
    return [pod for pod in PODS if pod.role in roles]


HOOK: list[str] = of("cpu")[0].spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]


def test_there_are_pods_of_every_kind_to_check() -> None:
    assert {pod.role for pod in PODS} == {"head", "driver", "cpu", "gpu-spot", "gpu-on-demand", "submitter", "job"} and len(PODS) > 80


def restricted_faults(pod: Pod) -> list[str]:
    """What the Pod Security Standard "restricted" would refuse, and a writable root."""
    faults = []
    security = pod.spec.get("securityContext", {})
    if not security.get("runAsNonRoot") or not security.get("runAsUser"):
        faults.append("may be root")
    if security.get("seccompProfile") != {"type": "RuntimeDefault"}:
        faults.append("no seccomp profile")
    if any(pod.spec.get(name) for name in ("hostNetwork", "hostPID", "hostIPC")):
        faults.append("shares the host's namespaces")
    allowed = {"name", "persistentVolumeClaim", "emptyDir", "configMap", "secret"}
    faults += [f"volume {each['name']}" for each in pod.spec.get("volumes", []) if not set(each) <= allowed]
    for container in pod.containers:
        own = container.get("securityContext", {})
        if own.get("allowPrivilegeEscalation") is not False or own.get("capabilities") != {"drop": ["ALL"]}:
            faults.append(f"{container['name']} may gain privileges")
        if own.get("readOnlyRootFilesystem") is not True:
            faults.append(f"{container['name']} may write to its root")
        if own.get("runAsUser") == 0 or own.get("privileged"):
            faults.append(f"{container['name']} is root")
    return faults


def test_every_pod_is_restricted() -> None:
    assert {pod.name: faults for pod in PODS if (faults := restricted_faults(pod))} == {}


def test_every_container_says_what_it_uses_of_its_nodes_disk() -> None:
    for pod in PODS:
        for container in pod.containers:
            resources = container["resources"]
            assert all({"cpu", "memory", "ephemeral-storage"} <= set(resources[kind]) for kind in ("requests", "limits")), pod.name
        assert all("sizeLimit" in each["emptyDir"] for each in pod.spec["volumes"] if "emptyDir" in each), pod.name


def test_every_mounted_volume_exists_and_tmp_can_be_written() -> None:
    for pod in PODS:
        volumes = {each["name"] for each in pod.spec["volumes"]}
        for container in pod.containers:
            mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
            assert set(mounts.values()) <= volumes, pod.name
            assert "/tmp" in mounts or container["name"] == "certificate", pod.name


def test_only_the_head_may_ask_the_kubernetes_api() -> None:
    assert {pod.spec["serviceAccountName"] for pod in of("head")} == {"clinjepa-head"}
    others = [pod for pod in PODS if pod.role != "head"]
    assert {(pod.spec["serviceAccountName"], pod.spec["automountServiceAccountToken"]) for pod in others} == {("clinjepa", False)}


def asks_for_gpus(pod: Pod) -> bool:
    return any("nvidia.com/gpu" in container["resources"]["limits"] for container in pod.containers)


def test_head_driver_and_submitter_are_on_lasting_nodes() -> None:
    """A job, such as the one that fetches the model, too, unless it asks for a GPU."""
    assert {
        pod.name: pool
        for pod in of("head", "driver", "submitter", "job")
        if not asks_for_gpus(pod) and (pool := pod.spec["nodeSelector"]) != {"clinjepa-pool": "steady"}
    } == {}


def test_every_gpu_container_finds_the_drivers_libraries_on_gke() -> None:
    """Grid, standing cluster, scoring and the check before them; GKE lays them into a folder that no image looks into."""
    found = {pod.name: pod for pod in PODS if asks_for_gpus(pod)}
    for word in ("RayJob clinjepa-grid", "RayCluster clinjepa", "RayCronJob clinjepa-scoring", "Job clinjepa-check"):
        assert any(word in name for name in found), word
    for pod in found.values():
        for container in pod.spec["containers"]:
            assert {"name": "LD_LIBRARY_PATH", "value": "/usr/local/nvidia/lib64"} in container["env"], pod.name


def test_every_worker_waits_equally_long_for_a_lost_head() -> None:
    for pod in of("driver", "cpu", "gpu-spot", "gpu-on-demand"):
        variables = {each["name"]: each.get("value") for each in pod.spec["containers"][0]["env"]}
        assert variables["RAY_gcs_rpc_server_reconnect_timeout_s"] == "900" and variables["RAY_gcs_server_port_wait_time_s"] == "300"


def test_the_lasting_nodes_are_on_demand_and_gpu_nodes_are_kept_for_gpus() -> None:
    pools = {each["metadata"]["name"]: each["spec"] for each in documents(KUBERNETES / "overlays" / "eks" / "nodes" / "pools.yaml")}
    markets, labels = {}, {}
    for name, spec in pools.items():
        (market,) = [r["values"] for r in spec["template"]["spec"]["requirements"] if r["key"] == "karpenter.sh/capacity-type"]
        markets[name], labels[name] = market, spec["template"]["metadata"]["labels"]["clinjepa-pool"]
        assert spec["limits"], "a mistake must have an end"
        assert bool(spec["template"]["spec"].get("taints")) == ("gpu" in name)
    assert markets == {
        "clinjepa-steady": ["on-demand"],
        "clinjepa-cpu": ["on-demand"],
        "clinjepa-gpu-spot": ["spot"],
        "clinjepa-gpu-on-demand": ["on-demand"],
    }
    assert {pod.spec["nodeSelector"]["clinjepa-pool"] for pod in PODS} == set(labels.values())
    page = PAGE.read_text(encoding="utf-8")
    assert {words.split()[0]: "--spot" in words for words in re.findall(r"^pool (.+)$", page, re.MULTILINE)} == {
        pool: pool == "gpu-spot" for pool in labels.values()
    }


@pytest.mark.parametrize("name", ["base/ground", "overlays/eks/ground", "overlays/gke/ground"])
def test_a_worker_that_is_removed_has_time_to_save(name: str) -> None:
    """The hook waits for less than the grace period, after which Kubernetes kills."""
    (environment,) = [each["data"] for each in rendered()[name] if each["kind"] == "ConfigMap"]
    for pod in of("cpu", "gpu-spot", "gpu-on-demand"):
        assert 15 <= int(environment["DRAIN_SECONDS"]) < pod.spec["terminationGracePeriodSeconds"], pod.name
        assert HOOK == pod.spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"], pod.name
    assert HOOK[:2] == ["/bin/sh", "-c"] and subprocess.run(["sh", "-n", "-c", HOOK[2]]).returncode == 0
    assert "--reason DRAIN_NODE_REASON_PREEMPTION" in HOOK[2]


def test_the_hook_tells_ray_of_its_own_node_and_waits_for_busy_workers_only(tmp_path: Path) -> None:
    """With stand-ins for `ray` and `ps`; a process of this test has the argument by which Ray's node is known."""
    (tmp_path / "ray").write_text(f'#!/bin/sh\necho "$@" >{tmp_path}/drained\n')
    (tmp_path / "ps").write_text(
        f"#!/bin/sh\necho x >>{tmp_path}/asked\n[ $(wc -l <{tmp_path}/asked) -gt 2 ] || echo ray::train\necho ray::IDLE\n"
    )
    for name in ("ray", "ps"):
        (tmp_path / name).chmod(0o755)
    proc = tmp_path / "proc" / "17"
    proc.mkdir(parents=True)
    (proc / "cmdline").write_bytes(b"raylet\0--node_id=abc123\0--x\0")
    command = HOOK[2].replace("/proc/[0-9]*", f"{tmp_path}/proc/[0-9]*")
    subprocess.run(["sh", "-c", command], env={"PATH": f"{tmp_path}:/usr/bin:/bin", "DRAIN_SECONDS": "30"}, timeout=25)
    assert "--node-id abc123" in (tmp_path / "drained").read_text()
    assert (tmp_path / "asked").read_text().count("x") == 3


def test_every_ray_cluster_asks_for_a_token_and_gives_its_head_no_work() -> None:
    clusters = [each for manifests in rendered().values() for each in manifests if each["kind"] in RAY_KINDS]
    assert len(clusters) == 18
    for each in clusters:
        spec = cluster_spec(each)
        assert spec["authOptions"] == {"mode": "token"}
        assert spec["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0", "num-gpus": "0"}
        assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
        groups = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
        assert all(group["minReplicas"] == group["replicas"] <= group["maxReplicas"] for group in groups.values())
        assert all(groups[name]["minReplicas"] == 0 for name in ("cpu", "gpu-spot", "gpu-on-demand"))
        if each["kind"] != "RayCluster":
            job = each["spec"].get("jobTemplate", each["spec"])
            assert json.loads(job["entrypointResources"]) == {"driver": 1}


def test_every_ray_that_a_file_or_the_page_starts_asks_for_a_token() -> None:
    for path in (CLUSTER / "aws.yaml", CLUSTER / "gcp.yaml"):
        file = yaml.safe_load(path.read_text(encoding="utf-8"))
        starts = [command for part in ("head", "worker") for command in file[f"{part}_start_ray_commands"] if "ray start" in command]
        assert len(starts) == 2 and all("RAY_AUTH_MODE=token" in command for command in starts)
    script = (CLUSTER / "slurm.sbatch").read_text(encoding="utf-8")
    assert script.index("export RAY_AUTH_MODE=token") < script.index("    ray symmetric-run")
    assert "RAY_AUTH_MODE=token" in (CLUSTER / "Containerfile").read_text(encoding="utf-8")
    for block in blocks():
        if re.search(r"^ray (start|up cluster/aws)|&& ray start", block, re.MULTILINE):
            assert "RAY_AUTH_MODE=token" in block


def test_roles_stand_in_place_of_keys() -> None:
    everything = [each for manifests in rendered().values() for each in manifests]
    assert [each["metadata"]["name"] for each in everything if each["kind"] == "Secret"] == []
    for overlay, key in (("eks", "eks.amazonaws.com/role-arn"), ("gke", "iam.gke.io/gcp-service-account")):
        accounts = {each["metadata"]["name"]: each for each in rendered()[f"overlays/{overlay}/ground"] if each["kind"] == "ServiceAccount"}
        assert key in accounts["clinjepa"]["metadata"]["annotations"] and accounts["clinjepa"]["automountServiceAccountToken"] is False
    sources = [source for pod in PODS for container in pod.containers for source in container.get("envFrom", []) if "secretRef" in source]
    assert sources and all(source["secretRef"] == {"name": "clinjepa-storage", "optional": True} for source in sources)
    (cluster,) = documents(KUBERNETES / "overlays" / "eks" / "eksctl.yaml")
    for account in cluster["iam"]["serviceAccounts"]:
        for statement in account["attachPolicy"]["Statement"]:
            assert statement["Resource"].startswith("arn:aws:s3:::BUCKET") and "s3:*" not in statement["Action"]
        assert (
            f"role/{account['roleName']}" in json.dumps(rendered()["overlays/eks/ground"])
            and account["metadata"]["namespace"] == "clinjepa"
        )


def test_no_annotation_of_the_cloud_is_missing_for_the_head_on_eks() -> None:
    accounts = {each["metadata"]["name"]: each for each in rendered()["overlays/eks/ground"] if each["kind"] == "ServiceAccount"}
    assert "eks.amazonaws.com/role-arn" in accounts["clinjepa-head"]["metadata"]["annotations"]


@pytest.mark.parametrize("name", ["base/ground", "overlays/eks/ground", "overlays/gke/ground"])
def test_the_namespace_is_restricted_and_its_network_denies_all_but_what_is_listed(name: str) -> None:
    manifests = rendered()[name]
    (namespace,) = [each for each in manifests if each["kind"] == "Namespace"]
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    policies = {each["metadata"]["name"]: each["spec"] for each in manifests if each["kind"] == "NetworkPolicy"}
    assert policies["deny-all"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    to_the_world = []
    for policy, spec in policies.items():
        for rule in [*spec.get("ingress", []), *spec.get("egress", [])]:
            peers = rule.get("from", []) + rule.get("to", [])
            assert peers, f"{policy} lets everybody through"
            assert rule.get("ports") or peers == [{"podSelector": {}}], f"{policy} opens all ports"
            to_the_world += [
                (policy, peer["ipBlock"], rule["ports"]) for peer in peers if peer.get("ipBlock", {}).get("cidr") == "0.0.0.0/0"
            ]
        for rule in spec.get("ingress", []):
            assert all("ipBlock" not in peer for peer in rule["from"]), f"{policy} lets addresses in"
    ((policy, block, ports),) = to_the_world
    assert policy == "https" and ports == [{"protocol": "TCP", "port": 443}] and "169.254.0.0/16" in block["except"]
    metadata = policies.get("metadata-server", {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "clinjepa-data"}}})
    assert metadata["podSelector"] == {"matchLabels": {"app.kubernetes.io/name": "clinjepa-data"}}


def test_only_the_job_that_fetches_the_model_may_ask_the_hub() -> None:
    online = [pod.name for pod in PODS for c in pod.containers if {"name": "HF_HUB_OFFLINE", "value": "0"} in c.get("env", [])]
    assert online and all("Job clinjepa-model" in name for name in online)


# --- TLS


def test_tls_reaches_every_ray_process_and_the_authoritys_key_only_the_init_container() -> None:
    for name, manifests in rendered().items():
        if "with TLS" not in name:
            continue
        for pod in pods(manifests):
            if pod.role == "submitter":
                continue
            ray, maker = pod.spec["containers"][0], pod.spec["initContainers"][0]
            variables = {each["name"]: each.get("value") for each in ray["env"]}
            assert variables["RAY_USE_TLS"] == "1" and {"name": "tls", "mountPath": "/tls", "readOnly": True} in ray["volumeMounts"]
            assert [c["name"] for c in pod.containers if any(m["name"] == "authority" for m in c["volumeMounts"])] == [maker["name"]]
        for each in manifests:
            assert {"name": "RAY_USE_TLS", "value": "1"} in cluster_spec(each)["autoscalerOptions"]["env"]


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, address: str) -> None:
    """One connection over loopback; raises what the client's side raises."""
    here, there = socket.socketpair()

    def answer() -> None:
        try:
            with server.wrap_socket(here, server_side=True) as secured:
                secured.send(secured.recv(1))
        except (ssl.SSLError, OSError):
            here.close()

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        with client.wrap_socket(there, server_hostname=address) as secured:
            secured.send(b"x")
            if secured.recv(1) != b"x":
                raise ssl.SSLError("the server refused")
    finally:
        there.close()
        thread.join(timeout=10)


def contexts(node: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Server and client that ask for the other's certificate, as Ray's gRPC does."""
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for context in (server, client):
        context.load_cert_chain(node / "tls.crt", node / "tls.key")
        context.load_verify_locations(node / "ca.crt")
        context.verify_mode = ssl.CERT_REQUIRED
    return server, client


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two nodes: one of the cluster's authority, one of a stranger's."""
    maker = tls_module("node_certificate")
    found = []
    for name in ("ours", "strange"):
        folder = tmp_path_factory.mktemp(name)
        for part in ("authority", "node"):
            (folder / part).mkdir()
        maker.write_authority(folder / "authority")
        maker.write_certificate(folder / "authority", folder / "node", "10.1.2.3", HEAD_SERVICE if name == "ours" else "")
        found.append(folder / "node")
    return found[0], found[1]


def test_workers_trust_the_head_by_the_name_of_its_service_and_no_other_pod_by_it(nodes: tuple[Path, Path], tmp_path: Path) -> None:
    server, client = contexts(nodes[0])
    handshake(server, client, HEAD_SERVICE)
    tls_module("node_certificate").write_certificate(nodes[0].parent / "authority", tmp_path, "10.1.2.4")
    server, _ = contexts(tmp_path)
    handshake(server, client, "10.1.2.4")
    with pytest.raises(ssl.SSLError):
        handshake(server, client, HEAD_SERVICE)
    for name, manifests in rendered().items():
        for pod in pods(manifests) if "with TLS" in name else ():
            if pod.role != "submitter":
                assert ("head" in pod.spec["initContainers"][0]["command"]) == (pod.role == "head")


def test_two_nodes_of_one_authority_trust_each_other_at_their_own_address(nodes: tuple[Path, Path]) -> None:
    server, client = contexts(nodes[0])
    handshake(server, client, "10.1.2.3")
    with pytest.raises(ssl.SSLError):
        handshake(server, client, "10.1.2.4")


def test_a_node_of_another_authority_and_one_without_certificate_are_refused(nodes: tuple[Path, Path]) -> None:
    server, client = contexts(nodes[0])
    strange_server, strange_client = contexts(nodes[1])
    with pytest.raises(ssl.SSLError):
        handshake(strange_server, client, "10.1.2.3")
    strange_client.load_verify_locations(nodes[0] / "ca.crt")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        handshake(server, strange_client, "10.1.2.3")
    bare = ssl.create_default_context(cafile=str(nodes[0] / "ca.crt"))
    with pytest.raises((ssl.SSLError, ConnectionError)):
        handshake(server, bare, "10.1.2.3")


def test_the_key_of_a_node_can_be_read_by_its_owner_only(nodes: tuple[Path, Path]) -> None:
    assert (nodes[0] / "tls.key").stat().st_mode & 0o777 == 0o600


def test_a_manifest_passes_the_filter_as_yaml() -> None:
    text = yaml.safe_dump_all(render(KUBERNETES / "overlays" / "eks" / "ground") + render(KUBERNETES / "overlays" / "eks" / "grid"))
    done = subprocess.run([sys.executable, str(TLS / "add_tls.py")], input=text, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert list(yaml.safe_load_all(done.stdout)) == rendered()["overlays/eks/ground"] + rendered()["overlays/eks/grid with TLS"]


# --- The page


def blocks() -> list[str]:
    return [
        each.replace("\\\n", " ") for each in re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    ]


def commands(program: str) -> list[list[str]]:
    """Words of every command of a program in the page's shell blocks and inline; what follows `--` is another's."""
    inline = re.findall(r"`([^`\n]+)`", PAGE.read_text(encoding="utf-8"))
    lines = [line for block in [*blocks(), *inline] for line in re.split(r"&&|\n", block)]
    found = []
    for line in lines:
        words = line.split()
        if words and words[0] == program and len(words) > 1:
            parsed = shlex.split(line, comments=True)
            found.append(parsed[: parsed.index("--")] if "--" in parsed else parsed)
    return found


def options(words: list[str]) -> set[str]:
    return {word.partition("=")[0] for word in words if word.startswith("--")}


def test_every_option_of_clinjepa_on_the_page_exists() -> None:
    found = commands("clinjepa")
    assert found
    top = typer.main.get_command(app)
    for words in found:
        command = top.commands[words[1]]  # type: ignore[attr-defined]
        known = {name for parameter in command.params for name in [*parameter.opts, *parameter.secondary_opts]}
        assert options(words) <= known, words


def test_every_option_of_ray_on_the_page_and_in_the_files_exists() -> None:
    from ray.scripts.scripts import cli

    found = commands("ray")
    for text in [(CLUSTER / name).read_text(encoding="utf-8") for name in ("aws.yaml", "gcp.yaml", "slurm.sbatch")]:
        for line in text.replace("\\\n", " ").splitlines():
            if (start := re.search(r"\bray (start|stop|symmetric-run) .*", line)) and not line.startswith("#"):
                found.append(start[0].partition(" -- ")[0].split())
    assert len(found) >= 12
    for words in found:
        command = cli.commands[words[1]]
        if words[1] == "job":
            command = command.commands[words[2]]
        known = {name for parameter in command.params for name in [*parameter.opts, *parameter.secondary_opts]}
        if words[1] == "symmetric-run":
            known |= {name for parameter in cli.commands["start"].params for name in parameter.opts}
        assert options(words) <= known, words


def test_scoring_entrypoint_has_options_that_exist() -> None:
    command = typer.main.get_command(app).commands["score"]  # type: ignore[attr-defined]
    known = {name for parameter in command.params for name in parameter.opts}
    for name in ("base/scoring", "overlays/eks/scoring"):
        (job,) = rendered()[name]
        assert options(job["spec"]["jobTemplate"]["entrypoint"].split()) <= known


def test_every_folder_that_the_page_applies_exists() -> None:
    text = PAGE.read_text(encoding="utf-8")
    folders = re.findall(r"-k ([^\s`]+)", text)
    assert len(folders) >= 6
    for folder in folders:
        for overlay in ("overlays/eks", "overlays/gke", "base"):
            path = ROOT / folder.replace("$OVERLAY", f"cluster/kubernetes/{overlay}")
            assert (path / "kustomization.yaml").is_file(), folder


def in_order(*words: str) -> None:
    """The words stand on the page, each after the one before."""
    page, place = PAGE.read_text(encoding="utf-8"), 0
    for word in words:
        place = page.find(word, place)
        assert place >= 0, f"{word} does not come after the words before it"


def test_names_go_into_the_files_of_eks_before_anything_is_made_from_them(tmp_path: Path) -> None:
    """Else the roles of the cluster are for a bucket with the name BUCKET."""
    (line,) = [each for block in blocks() for each in block.splitlines() if each.startswith("grep -rlE")]
    in_order(
        line, "eksctl create cluster", "FILE_SYSTEM=$(aws efs create-file-system", "kubectl apply -k cluster/kubernetes/overlays/eks/nodes"
    )
    copy = tmp_path / "cluster" / "kubernetes" / "overlays" / "eks"
    shutil.copytree(KUBERNETES / "overlays" / "eks", copy)
    env = {"ACCOUNT": "123456789012", "BUCKET": "my-bucket", "FILE_SYSTEM": "fs-1", "PATH": os.environ["PATH"]}
    (later,) = [each for block in blocks() for each in block.splitlines() if each.startswith("perl") and "FILE_SYSTEM" in each]
    for command in (line, later):
        subprocess.run(["bash", "-c", command], cwd=tmp_path, env=env, check=True, timeout=30)
    for path in copy.rglob("*.yaml"):
        text = "\n".join(each for each in path.read_text().splitlines() if not each.startswith("#"))
        assert not re.search(r"ACCOUNT|BUCKET|FILE_SYSTEM", text), path.name
    (cluster,) = documents(copy / "eksctl.yaml")
    assert cluster["iam"]["serviceAccounts"][0]["attachPolicy"]["Statement"][0]["Resource"] == "arn:aws:s3:::my-bucket"


def test_the_security_group_of_aws_has_rules_before_ray_sees_it() -> None:
    name = yaml.safe_load((CLUSTER / "aws.yaml").read_text(encoding="utf-8"))["provider"]["security_group"]["GroupName"]
    in_order(
        f"aws ec2 create-security-group --group-name {name} ", "--protocol tcp --port 22 --cidr YOUR_ADDRESS/32", "ray up cluster/aws.yaml"
    )


def test_what_holds_a_cluster_back_is_deleted_before_it_and_nothing_that_costs_is_left_out() -> None:
    zero = "### Back to zero"
    in_order(zero, "results/runs ./runs", "kubectl delete namespace", "kubectl get pv")
    in_order(
        zero, "aws efs delete-mount-target", "aws efs delete-file-system", "eksctl delete cluster", "aws s3 rb", "aws ecr delete-repository"
    )
    in_order(zero, "gcloud filestore instances list", "gcloud container clusters delete", "gcloud compute routers delete")
    page = PAGE.read_text(encoding="utf-8")
    made = set(re.findall(r"(gcloud [a-z -]+?) create clinjepa", page)) - {"gcloud iam service-accounts", "gcloud compute routers nats"}
    assert len(made) >= 4 and all(f"{each} delete clinjepa" in page for each in made), "service accounts and a router's NAT cost nothing"


def test_a_cluster_of_private_nodes_has_a_way_out_before_it_is_made() -> None:
    in_order("gcloud compute routers nats create", "gcloud container clusters create")


def test_the_costs_on_the_page_are_the_plans() -> None:
    """The table's hours are those of `clinjepa plan --json` for the command above it."""
    command = next(words for words in commands("clinjepa") if words[1] == "plan" and "--without-data" in words)
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.plan", *command[2:], "--json"], cwd=ROOT, capture_output=True, text=True, timeout=90
    )
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    untrained = next(each["seconds"] for each in plan["gpu"]["other_recipes"] if each["recipe"] == "untrained")
    doses = plan["changed_actions"]["num_stores"] * plan["changed_actions"]["most_seconds"]
    rows = re.findall(r"^\| .+? \| ([\d.]+) \| ([\d.]+) \| (\d+) USD \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    seconds = [plan["gpu"]["seconds"], untrained, doses]
    for (hours, gpu_hours, money), expected in zip(rows, [*seconds, sum(seconds)], strict=True):
        assert float(hours) == pytest.approx(expected / 3600, abs=0.06)
        assert float(gpu_hours) == pytest.approx(expected * 8 / 3600, rel=0.01, abs=0.06)
        assert float(money) == pytest.approx(expected * 8 / 3600 * 7, rel=0.01, abs=0.6)
