"""A micro-batch's safetensors bytes as tensors on the device that trains on them. Apart from batches.py: readers need no torch."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

_DTYPES = {"BOOL": torch.bool, "I32": torch.int32, "I64": torch.int64, "F32": torch.float32, "BF16": torch.bfloat16}


def unpacked(payload: pa.Buffer, device: torch.device) -> dict[str, Tensor]:
    """Tensors by name (see batches.py), each with memory of its own on `device`.

    The payload may lie in Ray's object store, where nothing may be written; it is copied once, for a GPU into pinned memory that goes
    over while the loop goes on, and may then be let go.
    """
    (length,) = struct.unpack_from("<Q", payload)
    data = np.frombuffer(payload, dtype=np.uint8)
    entries = json.loads(data[8 : 8 + length].tobytes())
    return {name: _copied(data[8 + length :], entry, device) for name, entry in entries.items()}


def _copied(data: np.ndarray, entry: dict[str, Any], device: torch.device) -> Tensor:
    begin, end = entry["data_offsets"]
    own = torch.empty(entry["shape"], dtype=_DTYPES[entry["dtype"]], pin_memory=device.type == "cuda")
    if own.numel():
        # numpy copies: torch would start threads for it, which on busy cores takes many times as long.
        own.view(-1).view(torch.uint8).numpy()[:] = data[begin:end]
    return own.to(device, non_blocking=True)
