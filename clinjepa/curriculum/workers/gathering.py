"""When sharded weights are gathered and gradients reduced: as rarely as memory allows.

Every collective wakes every worker, which on busy cores takes longer than a small layer's work. So a module whose gathered weights are
small stays gathered from a step's first forward to its last backward; a large one is gathered layer by layer. Gradients are reduced once
a step, with the last backward.
"""

from __future__ import annotations

from torch import nn
from torch.distributed.fsdp import FSDPModule

KEPT_GATHERED_BYTES = 1 << 30
"""A module whose whole weights take up to this much stays gathered; the full-size predictor (370 MB) does, an 8B encoder does not."""


def keep_gathered(module: nn.Module) -> None:
    """Keep a small module gathered after a forward; call it once after sharding."""
    if isinstance(module, FSDPModule) and _is_small(module):
        module.set_reshard_after_forward(False)


def set_gradient_sync(module: nn.Module, sync: bool) -> None:
    """Set whether the next backward reduces gradients over workers; no effect on a module that is not sharded."""
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(sync)
        # The optimizer writes shards: after the reducing backward, gathered weights are out of date and must be resharded.
        module.set_reshard_after_backward(sync or not _is_small(module))


def communicates_in_every_forward(module: nn.Module) -> bool:
    """Whether workers must run the same number of forwards of a module: it is sharded and does not stay gathered."""
    return isinstance(module, FSDPModule) and not _is_small(module)


def _is_small(module: nn.Module) -> bool:
    return sum(parameter.numel() * parameter.element_size() for parameter in module.parameters()) <= KEPT_GATHERED_BYTES
