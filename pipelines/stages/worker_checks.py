"""What the workers of a training check before its process group is formed: their GPUs, and that they reach each other.

A fault is noted with the coordinator and ends the training loop before it begins: Ray would retry for ever after one raised there.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

import ray
import ray.train
from ray.train.torch.config import TorchConfig, _TorchBackend

from clinjepa import errors
from clinjepa.curriculum.workers.network import Place, check_reach, choose_interface, listen
from pipelines.scheduling.coordinator import coordinator

_HANG_DETECTOR = {"RAY_TRAIN_ENABLE_NCCL_HANG_DETECTOR": "1", "RAY_TRAIN_NCCL_RAS_ACTION": "fail"}
"""Where the image has `ncclras` (NCCL >= 2.24), a collective that no worker gets on with for 10 minutes counts as a worker failure. Values
of the environment take precedence."""


def guard_collectives(use_gpu: bool) -> None:
    """Switch Ray Train's detector of hung collectives on for trainings with GPUs, unless the environment says otherwise."""
    if use_gpu:
        os.environ.update({name: os.environ.get(name, value) for name, value in _HANG_DETECTOR.items()})


@dataclass
class CheckedTorchConfig(TorchConfig):
    """Ray's configuration, with checks in every worker that torch can use its GPU and that it reaches the others; the messages of NCCL and
    gloo name no remedy."""

    name: str = ""
    """Name of the training, under which a fault is noted."""
    use_gpu: bool = False

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        return _CheckedTorchBackend


class _CheckedTorchBackend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        # Ray would retry for ever after a fault raised here; a noted fault ends the training loop before it begins.
        if backend_config.use_gpu and not all(worker_group.execute(_can_use_gpu, backend_config.name)):
            backend_config = replace(backend_config, backend="gloo")
        self._joined = _reach_each_other(worker_group, backend_config.name)
        if self._joined:
            super().on_start(worker_group, backend_config)

    def on_shutdown(self, worker_group: Any, backend_config: Any) -> None:
        if getattr(self, "_joined", False):
            super().on_shutdown(worker_group, backend_config)


def _reach_each_other(worker_group: Any, name: str) -> bool:
    """Whether all workers reach each other; lets gloo use the interface of their addresses where they are on several hosts."""
    places = worker_group.execute(_listen, name)
    if None in places:
        return False
    return len({place.node for place in places}) == 1 or all(worker_group.execute(_reach, name, places))


def _listen(name: str) -> Place | None:
    """Runs in every Ray Train worker; None, and the fault is noted, where it cannot listen as it was told to."""
    try:
        return listen(ray.util.get_node_ip_address())
    except errors.ResourceError as error:
        note_fault(name, error)
        return None


def _reach(name: str, places: list[Place]) -> bool:
    """Runs in every Ray Train worker of several hosts; notes the fault when another worker is out of reach.

    places: where the workers listen, by rank.
    """
    own = places[ray.train.get_context().get_world_rank()]
    choose_interface(own)
    try:
        check_reach(own, [place for place in places if place.node != own.node])
    except errors.ResourceError as error:
        note_fault(name, error)
        return False
    return True


def _can_use_gpu(name: str) -> bool:
    """Runs in every Ray Train worker with a GPU, before Ray starts CUDA there; notes the fault when torch cannot use the GPU."""
    from clinjepa.curriculum.workers.dist import require_gpu, set_up_gpu

    set_up_gpu()
    try:
        require_gpu()
    except errors.ResourceError as error:
        note_fault(name, error)
        return False
    return True


def note_fault(name: str, error: errors.ClinJepaError) -> None:
    """Pass the driver a fault that a restart cannot mend, through the coordinator: the storage may be full or unreachable."""
    ray.get(coordinator().note_fault.remote(name, type(error).__name__, str(error)))
