"""Ray manifests -> the same with TLS between all of Ray's processes. A filter:

    kubectl kustomize cluster/kubernetes/overlays/eks/grid | python cluster/kubernetes/tls/add_tls.py | kubectl apply -f -

Every Ray pod gets an init container that makes its certificate (node_certificate.py), and the variables that Ray reads. The authority is
the Secret `clinjepa-authority`, the script the ConfigMap `clinjepa-certificate` (docs/cluster.md makes both).
"""

from __future__ import annotations

import sys
from typing import Any

import yaml

Manifest = dict[str, Any]

VARIABLES = [
    {"name": "RAY_USE_TLS", "value": "1"},
    {"name": "RAY_TLS_SERVER_CERT", "value": "/tls/tls.crt"},
    {"name": "RAY_TLS_SERVER_KEY", "value": "/tls/tls.key"},
    {"name": "RAY_TLS_CA_CERT", "value": "/tls/ca.crt"},
]
_MOUNT = {"name": "tls", "mountPath": "/tls", "readOnly": True}


def cluster_spec(manifest: Manifest) -> Manifest | None:
    """The RayCluster's spec inside a RayCluster, RayJob or RayCronJob; None for anything else."""
    spec: Manifest = manifest.get("spec", {})
    if manifest.get("kind") == "RayCronJob":
        spec = spec["jobTemplate"]
    found: Manifest | None = spec.get("rayClusterSpec", spec if manifest.get("kind") == "RayCluster" else None)
    return found


def with_tls(manifest: Manifest) -> Manifest:
    """The manifest, changed in place where it holds a Ray cluster."""
    cluster = cluster_spec(manifest)
    if cluster is None:
        return manifest
    _add_to_pod(cluster["headGroupSpec"]["template"]["spec"], ["head"])
    for group in cluster.get("workerGroupSpecs", []):
        _add_to_pod(group["template"]["spec"], [])
    if cluster.get("enableInTreeAutoscaling"):
        autoscaler = cluster.setdefault("autoscalerOptions", {})
        autoscaler["env"] = [*autoscaler.get("env", []), *VARIABLES]
        autoscaler["volumeMounts"] = [*autoscaler.get("volumeMounts", []), _MOUNT]
    return manifest


def _add_to_pod(pod: Manifest, arguments: list[str]) -> None:
    ray = pod["containers"][0]
    maker = {
        "name": "certificate",
        "image": ray["image"],
        "command": ["python", "/certificate/node_certificate.py", *arguments],
        "env": [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
        "resources": {name: {"cpu": "200m", "memory": "256Mi", "ephemeral-storage": "100Mi"} for name in ("requests", "limits")},
        "securityContext": ray["securityContext"],
        "volumeMounts": [
            {"name": "authority", "mountPath": "/authority", "readOnly": True},
            {"name": "certificate", "mountPath": "/certificate", "readOnly": True},
            {"name": "tls", "mountPath": "/tls"},
        ],
    }
    pod["initContainers"] = [maker, *pod.get("initContainers", [])]
    # New lists: groups may share one by a YAML anchor.
    pod["containers"] = [
        {**ray, "env": [*ray.get("env", []), *VARIABLES], "volumeMounts": [*ray["volumeMounts"], _MOUNT]},
        *pod["containers"][1:],
    ]
    pod["volumes"] = [
        *pod["volumes"],
        {"name": "tls", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        {"name": "authority", "secret": {"secretName": "clinjepa-authority", "defaultMode": 0o440}},
        {"name": "certificate", "configMap": {"name": "clinjepa-certificate"}},
    ]


if __name__ == "__main__":
    yaml.safe_dump_all([with_tls(each) for each in yaml.safe_load_all(sys.stdin) if each], sys.stdout, sort_keys=False)
