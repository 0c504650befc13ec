"""The worker's rank among the workers of a job, and the collectives of the training loop.

Without `torch.distributed` (a plain process) there is one worker and every collective is the identity.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import torch
import torch.distributed as torch_dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from clinjepa import errors
from clinjepa.errors import ResourceError

Value = TypeVar("Value")


def chosen_device(use_gpu: bool | None) -> torch.device:
    """The device of this process: as `use_gpu` says; if None, a GPU where torch sees one.

    A process may see a GPU that it must not use: Ray hides none from a worker that requested none.
    Raises ResourceError when a GPU is requested and torch can use none.
    """
    if use_gpu:
        require_gpu()
    if use_gpu is False or not torch.cuda.is_available():
        return torch.device("cpu")
    set_up_gpu()
    return torch.device("cuda", torch.cuda.current_device())


def set_up_gpu() -> None:
    """Configure torch for this process's GPU, without starting CUDA. Call it before CUDA starts and reads the allocator's settings.

    Chunks of texts keep changing shape. cuDNN's attention builds a kernel for each shape, which took longer than the chunk (an H100,
    Qwen3-8B), so it is turned off in favour of torch's own kernels. The allocator uses expandable segments against fragmentation, unless
    `PYTORCH_ALLOC_CONF` or `PYTORCH_CUDA_ALLOC_CONF` is set.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)
    if not os.environ.get("PYTORCH_CUDA_ALLOC_CONF"):
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")


def require_gpu() -> None:
    """Raise ResourceError when torch can use no GPU in this process. It starts no CUDA, so a driver may call it too."""
    if torch.cuda.is_available():
        return
    where = f"execution.use_gpu=true, but on {platform.node()} torch {torch.__version__}"
    if torch.version.cuda is None and torch.version.hip is None:
        raise ResourceError(f"{where} has no CUDA build; install torch with CUDA on every node with GPUs, or set execution.use_gpu=false")
    raise ResourceError(
        f"{where} sees no GPU (CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES', 'not set')}); see whether nvidia-smi works "
        "there and its driver is new enough for this torch, or set execution.use_gpu=false"
    )


@dataclass
class Dist:
    """Rank, number of workers and device. Every method that communicates must be called by all workers alike."""

    rank: int
    world_size: int
    device: torch.device
    _mesh: DeviceMesh | None = field(default=None, repr=False)

    @classmethod
    def current(cls) -> Dist:
        """From `torch.distributed` when it is initialised (by Ray Train, `torchrun`), else a single worker.

        The backend of the process group decides the device: gloo is the CPU, whatever GPUs are visible.
        """
        if torch_dist.is_available() and torch_dist.is_initialized():
            device = chosen_device(False if torch_dist.get_backend() == "gloo" else None)
            return cls(torch_dist.get_rank(), torch_dist.get_world_size(), device)
        return cls(0, 1, chosen_device(None))

    @property
    def is_main(self) -> bool:
        """The worker that writes."""
        return self.rank == 0

    def mesh(self) -> DeviceMesh | None:
        """The mesh to shard parameters over; None when there is one worker."""
        if self.world_size == 1:
            return None
        if self._mesh is None:
            self._mesh = init_device_mesh(self.device.type, (self.world_size,))
        return self._mesh

    def sum_(self, tensor: Tensor) -> Tensor:
        """Sum over workers, in place."""
        if self.world_size > 1:
            torch_dist.all_reduce(tensor)
        return tensor

    def max_int(self, value: int) -> int:
        """The largest of the workers' values."""
        if self.world_size == 1:
            return value
        tensor = torch.tensor([value], dtype=torch.int64, device=self.device)
        torch_dist.all_reduce(tensor, op=torch_dist.ReduceOp.MAX)
        return int(tensor.item())

    def from_main(self, find: Callable[[], Value]) -> Value:
        """The JSON value that `find` returns on worker 0, on all workers. When `find` raises there, all raise, so none is left waiting.

        Workers other than 0 raise a project error with the same class and message, and RuntimeError for any other exception.
        """
        if self.world_size == 1:
            return find()
        said, unforeseen = b"", None
        if self.is_main:
            try:
                said = json.dumps({"found": find()}).encode()
            except errors.ClinJepaError as fault:
                said = json.dumps({"fault": type(fault).__name__, "message": str(fault)}).encode()
            except Exception as fault:
                unforeseen = fault
                said = json.dumps({"fault": "", "message": f"worker 0 met {type(fault).__name__}"}).encode()
        length = torch.tensor([len(said)], dtype=torch.int64, device=self.device)
        torch_dist.broadcast(length, src=0)
        letters = torch.zeros(int(length.item()), dtype=torch.uint8, device=self.device)
        if self.is_main:
            letters.copy_(torch.frombuffer(bytearray(said), dtype=torch.uint8))
        torch_dist.broadcast(letters, src=0)
        if unforeseen is not None:
            raise unforeseen
        answer = json.loads(bytes(letters.tolist()))
        if "fault" in answer:
            raise errors.retold(answer["fault"], answer["message"], RuntimeError)
        found: Value = answer["found"]
        return found

    def barrier(self) -> None:
        """Wait for all workers."""
        self.max_int(0)
