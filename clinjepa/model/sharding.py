"""FSDP2 placement of encoder and predictor, and the way between shards and whole tensors.

Every layer is a unit, the module itself is the root. Gradients are *summed* over workers, because losses are already divided
by the counts of the global batch. Works on gloo and NCCL, with any number of workers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

if TYPE_CHECKING:
    pass


def shard_layers(root: nn.Module, layers: Iterable[nn.Module], mesh: DeviceMesh, param_dtype: torch.dtype | None = None) -> None:
    # Gathered weights are cast to param_dtype; gradients are reduced in fp32 whatever it is.
    policy = MixedPrecisionPolicy(param_dtype=param_dtype, reduce_dtype=torch.float32 if param_dtype is not None else None)
    for module in [*layers, root]:
        fully_shard(module, mesh=mesh, mp_policy=policy)
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)


def to_shards(root: nn.Module) -> None:
    """Put parameters that a forward left gathered back to shards: only then is what is read or written the parameter itself."""
    for module in root.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def local(tensor: Tensor) -> Tensor:
    """This worker's part of a tensor, sharing its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """A copy of the whole tensor on the CPU; collective when it is sharded."""
    tensor = tensor.detach()
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).to("cpu", copy=True)


@torch.no_grad()
def fill(parameter: Tensor, value: Tensor) -> None:
    """Write a whole tensor, which every worker holds, into `parameter` or this worker's shard of it; no communication."""
    value = value.to(device=parameter.device, dtype=parameter.dtype)
    if isinstance(parameter, DTensor):
        value = distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None).to_local()
    local(parameter).copy_(value)
