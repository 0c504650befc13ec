"""Fused RMS norms on a GPU: one kernel per norm.

transformers computes a norm in six fp32 operations, each of which reads and writes all values. They take much of a chunk's time and, of
Qwen3-8B's graph of 8,192 tokens, 7 GiB (measured on an H100: docs/decisions.md). Torch's kernel reads once, also computes in fp32, and
saves the input in its own dtype. It multiplies by the weight before rounding: in fp32 equal up to the order of a sum, in bf16 one rounding
fewer. On a CPU nothing changes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KNOWN = ("LlamaRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm")
"""Classes that compute weight * x / sqrt(mean(x²) + variance_epsilon). Others stay unchanged."""


def fuse_norms(model: nn.Module) -> None:
    """Make the known norms of `model` use one kernel for values on a GPU. Call once."""
    for module in model.modules():
        if type(module).__name__ in KNOWN:
            module.forward = partial(_forward, module, module.forward)


def _forward(norm: nn.Module, plain: Callable[[Tensor], Tensor], hidden: Tensor) -> Tensor:
    weight: Tensor = norm.weight  # type: ignore[assignment]
    # When all weights are trained, they are fp32 beside bf16 values, and the result must be fp32.
    if not _on_gpu(hidden) or hidden.dtype != weight.dtype:
        return plain(hidden)
    # Autocast of torch 2.13 (not of 2.11) would cast both to fp32 first and return fp32, which saves more than the six operations.
    with torch.autocast(hidden.device.type, enabled=False):
        return F.rms_norm(hidden, weight.shape, weight, norm.variance_epsilon)  # type: ignore[arg-type]


def _on_gpu(values: Tensor) -> bool:
    return values.is_cuda
