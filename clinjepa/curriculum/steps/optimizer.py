"""AdamW with a group for the predictor and one for the encoder, on this worker's shards; clipping per group.

In phases that freeze the encoder its group is absent, because weight decay would move weights whose gradient is zero. The optimizer
works on the local shards of FSDP2 parameters, since its updates are element-wise; whole tensors are put together only to be saved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn import Parameter

from clinjepa.errors import CheckpointError
from clinjepa.model.sharding import fill, local, whole

_MOMENTS = ("exp_avg", "exp_avg_sq")


class OptimizerState(TypedDict):
    """JSON state of the optimizer."""

    updates: dict[str, int]
    """Number of updates of each group."""


class GroupedAdamW:
    """One AdamW over named parameter groups with a learning rate each."""

    def __init__(self, groups: Mapping[str, Sequence[tuple[str, Parameter]]], weight_decay: float) -> None:
        """groups: group name → its (parameter name, parameter), sharded or not."""
        self._parameters = {group: dict(members) for group, members in groups.items()}
        self._shards = {
            group: {name: Parameter(local(parameter.detach()), requires_grad=True) for name, parameter in members.items()}
            for group, members in self._parameters.items()
        }
        self._adamw = torch.optim.AdamW(
            [{"params": list(members.values()), "name": group} for group, members in self._shards.items()],
            lr=0.0,
            weight_decay=weight_decay,
            foreach=True,
        )

    @property
    def groups(self) -> list[str]:
        return list(self._parameters)

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for members in self._parameters.values():
            for parameter in members.values():
                parameter.grad = None

    def squared_norms(self, device: torch.device) -> Tensor:
        """float64 [groups]: sum of squares of this worker's gradient shards; summed over workers it is the squared global norm."""
        norms = torch.zeros(len(self._parameters), dtype=torch.float64, device=device)
        for i, members in enumerate(self._parameters.values()):
            shards = [local(parameter.grad) for parameter in members.values() if parameter.grad is not None]
            shards = [shard for shard in shards if shard.numel()]
            if shards:
                norms[i] = torch.stack(torch._foreach_norm(shards)).double().square().sum()
        return norms

    def step(self, learning_rates: Mapping[str, float], norms: Mapping[str, float], clip_norm: float) -> None:
        """Scale each group's gradients to a norm of at most `clip_norm`, then update with the group's learning rate."""
        for group in self._adamw.param_groups:
            name = group["name"]
            group["lr"] = learning_rates[name]
            scale = min(1.0, clip_norm / (norms[name] + 1e-6))
            shards = []
            for key, parameter in self._parameters[name].items():
                shard = self._shards[name][key]
                shard.grad = None if parameter.grad is None else local(parameter.grad)
                if shard.grad is not None:
                    shards.append(shard.grad)
            if scale < 1.0 and shards:
                torch._foreach_mul_(shards, scale)
        self._adamw.step()
        for members in self._shards.values():
            for shard in members.values():
                shard.grad = None

    def state(self) -> tuple[dict[str, Tensor], OptimizerState]:
        """Whole moment tensors named `<group>.<parameter>.<moment>` and each group's number of updates; all workers call it."""
        tensors: dict[str, Tensor] = {}
        updates: dict[str, int] = {}
        for group, members in self._parameters.items():
            updates[group] = 0
            for name, parameter in members.items():
                state = self._adamw.state.get(self._shards[group][name])
                if not state:
                    continue
                updates[group] = int(state["step"])
                for moment in _MOMENTS:
                    tensors[f"{group}.{name}.{moment}"] = _whole(state[moment], parameter)
        return tensors, {"updates": updates}

    def load(self, tensors: Mapping[str, Tensor], updates: Mapping[str, int]) -> None:
        """Load the moments of every group that was updated before; a group that the saved state lacks starts with fresh moments.

        Raises CheckpointError when a shared group's tensors are not those of this optimizer's parameters.
        """
        for group, members in self._parameters.items():
            if not updates.get(group):
                continue
            for name, parameter in members.items():
                shard = self._shards[group][name]
                found = [tensors.get(f"{group}.{name}.{moment}") for moment in _MOMENTS]
                if any(each is None or each.shape != parameter.shape for each in found):
                    raise CheckpointError(f"the saved optimizer state does not fit parameter {group}.{name}: it is of another model")
                state = {moment: _shard_of(each, parameter) for moment, each in zip(_MOMENTS, found, strict=True) if each is not None}
                self._adamw.state[shard] = {"step": torch.tensor(float(updates[group])), **state}


def _whole(shard: Tensor, like: Tensor) -> Tensor:
    if isinstance(like, DTensor):
        mesh, placements = like.device_mesh, like.placements
        shard = DTensor.from_local(shard, mesh, placements, run_check=False, shape=like.shape, stride=like.stride())
    return whole(shard)


def _shard_of(value: Tensor, like: Tensor) -> Tensor:
    shard = torch.empty_like(like)
    fill(shard, value)
    return local(shard)
