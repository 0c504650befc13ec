"""FSDP2 sharding of encoder and predictor, and conversion between shards and whole tensors.

Every layer is a unit, and the module itself is the root. Gradients are *summed* over workers, because losses are already divided by the
counts of the global batch. Works on gloo and NCCL, with any number of workers.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def shard_layers(root: nn.Module, layers: Iterable[nn.Module], mesh: DeviceMesh, param_dtype: torch.dtype | None = None) -> None:
    """Shard each layer, then the root, in place. param_dtype: gathered weights are cast to it; gradients are reduced in fp32 regardless."""
    policy = MixedPrecisionPolicy(param_dtype=param_dtype, reduce_dtype=torch.float32 if param_dtype is not None else None)
    for module in [*layers, root]:
        unit = fully_shard(module, mesh=mesh, mp_policy=policy)
        unit.set_gradient_divide_factor(1.0)
        unit.set_force_sum_reduction_for_comms(True)


def to_shards(root: nn.Module) -> None:
    """Reshard parameters that a forward left gathered; until then, reading or writing a parameter would not reach its shards."""
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
    """Write a whole tensor, present on every worker, into `parameter` or this worker's shard of it; no communication."""
    value = value.to(device=parameter.device, dtype=parameter.dtype)
    if isinstance(parameter, DTensor):
        value = distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None).to_local()
    local(parameter).copy_(value)
