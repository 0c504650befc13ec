"""RMS norms as one kernel on a GPU.

transformers writes a norm as six operations, each of which reads and writes all of its values, in fp32: much of a chunk's time, and of
Qwen3-8B's graph of 8,192 tokens 7 GiB (figures from an H100: docs/decisions.md). Torch's own kernel reads once, computes in fp32 as well
and keeps the input as it came. It multiplies by the weight before rounding instead of after it: in fp32 the same but for the order of a
sum, in bf16 one rounding fewer. On a CPU nothing changes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KNOWN = ("LlamaRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm")
"""Norms that are weight * x / sqrt(mean(x²) + variance_epsilon). Others stay as they are."""


def fuse_norms(model: nn.Module) -> None:
    """Let the known norms of `model` run as one kernel wherever they meet values on a GPU; once."""
    for module in model.modules():
        if type(module).__name__ in KNOWN:
            module.forward = partial(_forward, module, module.forward)  # type: ignore[method-assign]


def _forward(norm: nn.Module, plain: Callable[[Tensor], Tensor], hidden: Tensor) -> Tensor:
    weight: Tensor = norm.weight  # type: ignore[assignment]
    # Trained whole, weights are fp32 beside bf16 values, and the result is to be fp32.
    if not _on_gpu(hidden) or hidden.dtype != weight.dtype:
        return plain(hidden)
    # The newer torch's autocast (2.13, not 2.11) would widen both first and hand on fp32: more to keep than the six operations.
    with torch.autocast(hidden.device.type, enabled=False):
        return F.rms_norm(hidden, weight.shape, weight, norm.variance_epsilon)  # type: ignore[arg-type]


def _on_gpu(values: Tensor) -> bool:
    return values.is_cuda
