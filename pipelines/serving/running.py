"""Starting the service on Ray, on a cluster of this machine or on the one of `RAY_ADDRESS`, and ending it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from clinjepa.errors import ConfigError, ResourceError
from clinjepa.serving.service import Limits
from pipelines.scheduling.locations import on_a_cluster
from pipelines.scheduling.session import ray_connection
from pipelines.serving.starting import check_port, fault_of_port, why_not_started

APPLICATION = "clinjepa"


@dataclass(frozen=True)
class Serving:
    """What is served, and where."""

    folder: str
    """A local export, which every node with a scorer sees at this path."""
    digest: bytes
    """`token_digest` of the token."""
    host: str = "127.0.0.1"
    port: int = 8000
    replicas: int = 1
    base: str | None = None
    """A base that the export names and does not hold."""
    use_gpu: bool = False
    threads: int = 1
    """CPU threads of a scorer."""
    caches_mb: tuple[int, int] = (256, 512)
    limits: Limits = Limits()


@contextlib.contextmanager
def served(serving: Serving, debug: bool = False) -> Iterator[None]:
    """The service answers inside this block.

    Raises:
        ConfigError: The extra `serve` is not installed, or nothing can listen on this host and port.
        ResourceError: The service did not start: what failed is named.
        StorageError: The cluster cannot be reached.
    """
    joined = on_a_cluster()
    if not joined:
        check_port(serving.host, serving.port)
    try:
        from ray import serve
    except ImportError:
        raise ConfigError("Ray Serve is not installed here; pip install 'clinjepa[serve]'") from None
    if not debug:
        logging.getLogger("ray.serve").setLevel(logging.CRITICAL)  # at ERROR it repeats whole tracebacks of replicas
    with ray_connection({"num_cpus": serving.replicas * serving.threads + 1}, debug):
        if joined and not serve.status().proxies:  # a Serve that runs already listens on its own port
            check_port_of_the_head(serving.host, serving.port)
        quiet: dict[str, Any] = {"enable_access_log": False, "log_level": "INFO" if debug else "ERROR"}
        _begin(serving, quiet)
        try:
            yield
        finally:
            with contextlib.suppress(Exception):  # Ray may have ended first
                serve.delete(APPLICATION) if joined else serve.shutdown()


def _begin(serving: Serving, quiet: dict[str, Any]) -> None:
    from ray import serve

    from pipelines.serving.deployments import Front, Scorer

    actor = {"num_cpus": serving.threads, "num_gpus": 1 if serving.use_gpu else 0}
    scorer = serve.deployment(
        name="scorer",
        num_replicas=serving.replicas,
        max_ongoing_requests=32,
        max_queued_requests=serving.limits.waiting,
        health_check_period_s=2,
        ray_actor_options=actor,
        logging_config=quiet,
    )(Scorer)
    # The front itself turns away what is too much, with Retry-After; so it must be given more than that.
    front = serve.deployment(
        name="front",
        num_replicas=1,
        max_ongoing_requests=8 * serving.limits.waiting,
        ray_actor_options={"num_cpus": 0},
        logging_config=quiet,
    )(Front)
    device = "cuda" if serving.use_gpu else "cpu"
    model = scorer.bind(serving.folder, serving.base, device, serving.threads, serving.caches_mb)
    try:
        serve.start(proxy_location="HeadOnly", http_options={"host": serving.host, "port": serving.port}, logging_config=quiet)
        serve.run(front.bind(model, serving.digest, serving.limits), name=APPLICATION, route_prefix="/", logging_config=quiet)
    except Exception as error:  # Ray raises many kinds, with whole tracebacks in their text
        raise ResourceError(f"the service did not start: {why_not_started(error, _told_by_serve())} (--debug tells more)") from None


def _told_by_serve() -> str:
    """What Serve says of the deployments that do not run, with the tracebacks of their replicas; empty where it does not answer."""
    from ray import serve

    with contextlib.suppress(Exception):  # its controller may be what died
        found = serve.status().applications[APPLICATION].deployments
        return "\n".join(f"Deployment '{name}': {each.message}" for name, each in found.items() if each.status != "HEALTHY")
    return ""


def check_port_of_the_head(host: str, port: int) -> None:
    """`check_port` on the head node of the joined cluster, where the service listens."""
    import ray

    asked = ray.remote(num_cpus=0, max_retries=0, resources={"node:__internal_head__": 0.001})(fault_of_port)
    if fault := ray.get(asked.remote(host, port)):
        raise ConfigError(f"{fault} (on the head node of the cluster)")
