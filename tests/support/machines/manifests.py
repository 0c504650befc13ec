"""The Kubernetes manifests in `cluster/kubernetes`, as kustomize renders them: resources, components, JSON patches, image names, namespace.

Only what these overlays use; `tests/repository/test_cluster_files.py` compares with kubectl where it is installed.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests.support.machines.cli import ROOT

KUBERNETES = ROOT / "cluster" / "kubernetes"
FOLDERS = sorted(
    path.parent for path in KUBERNETES.rglob("kustomization.yaml") if "kind: Component" not in path.read_text(encoding="utf-8")
)
RAY_KINDS = ("RayCluster", "RayJob", "RayCronJob")
_WITHOUT_NAMESPACE = ("Namespace", "StorageClass", "NodePool", "ResourceFlavor", "ClusterQueue")

Manifest = dict[str, Any]


class Pod(NamedTuple):
    """A pod template and where it stands."""

    name: str
    """Kind and name of the manifest, and the group of pods."""

    role: str
    """`head`, `submitter`, `job` or the name of a worker group."""

    template: Manifest

    @property
    def spec(self) -> Manifest:
        found: Manifest = self.template["spec"]
        return found

    @property
    def containers(self) -> list[Manifest]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]


def documents(path: Path) -> list[Manifest]:
    """The YAML documents of a file, which the caller may change."""
    return copy.deepcopy(_parsed(path.read_text(encoding="utf-8")))


@cache
def _parsed(text: str) -> list[Manifest]:
    # By way of JSON: an alias becomes a copy, so that a patch of one place does not change another.
    return [json.loads(json.dumps(each)) for each in yaml.load_all(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)) if each]


def render(folder: Path) -> list[Manifest]:
    """The manifests of a folder with a kustomization.yaml."""
    rules = documents(folder / "kustomization.yaml")[0]
    known = {"apiVersion", "kind", "namespace", "resources", "components", "patches", "images"}
    assert set(rules) <= known, f"{folder}: {sorted(set(rules) - known)} is not rendered here"
    found: list[Manifest] = []
    for name in rules.get("resources", []):
        path = folder / name
        found += render(path) if path.is_dir() else documents(path)
    for name in rules.get("components", []):
        _patch(found, documents(folder / name / "kustomization.yaml")[0])
    _patch(found, rules)
    for image in rules.get("images", []):
        found = [_renamed(each, image["name"], image["newName"]) for each in found]
    for each in found:
        if "namespace" in rules and each["kind"] not in _WITHOUT_NAMESPACE:
            each["metadata"]["namespace"] = rules["namespace"]
    return found


def _patch(manifests: list[Manifest], rules: Manifest) -> None:
    for patch in rules.get("patches", []):
        target = patch["target"]
        hit = [each for each in manifests if each["kind"] == target["kind"] and target.get("name") in (None, each["metadata"]["name"])]
        assert hit or "name" not in target, f"a patch has no target {target['kind']} {target.get('name')}"
        for each in hit:
            for step in yaml.safe_load(patch["patch"]):
                _apply(each, step)


def _apply(manifest: Manifest, step: Manifest) -> None:
    """One step of a JSON patch (RFC 6902)."""
    *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in step["path"].split("/")[1:]]
    place: Any = manifest
    for part in parents:
        place = place[int(part)] if isinstance(place, list) else place[part]
    key: Any = int(last) if isinstance(place, list) else last
    if step["op"] == "test":
        assert place[key] == step["value"], f"{step['path']} is {place[key]!r}"
    elif step["op"] == "remove":
        del place[key]
    else:
        assert step["op"] == "add" or key in place, f"{step['path']} does not exist"
        place[key] = step["value"]


def _renamed(value: Any, name: str, new: str) -> Any:
    if isinstance(value, dict):
        return {
            key: new + part.removeprefix(name) if key == "image" and str(part).startswith(f"{name}:") else _renamed(part, name, new)
            for key, part in value.items()
        }
    return [_renamed(part, name, new) for part in value] if isinstance(value, list) else value


def cluster_spec(manifest: Manifest) -> Manifest:
    """The spec of the Ray cluster inside a manifest of one of `RAY_KINDS`."""
    spec: Manifest = manifest["spec"]
    spec = spec.get("jobTemplate", spec)
    found: Manifest = spec.get("rayClusterSpec", spec)
    return found


def pods(manifests: list[Manifest]) -> Iterator[Pod]:
    """Every pod template of the manifests, those of submitters included."""
    for each in manifests:
        name = f"{each['kind']} {each['metadata']['name']}"
        if each["kind"] == "Job":
            yield Pod(name, "job", each["spec"]["template"])
        if each["kind"] not in RAY_KINDS:
            continue
        cluster = cluster_spec(each)
        yield Pod(f"{name} head", "head", cluster["headGroupSpec"]["template"])
        for group in cluster["workerGroupSpecs"]:
            yield Pod(f"{name} {group['groupName']}", group["groupName"], group["template"])
        if each["kind"] != "RayCluster":
            yield Pod(f"{name} submitter", "submitter", each["spec"].get("jobTemplate", each["spec"])["submitterPodTemplate"])
