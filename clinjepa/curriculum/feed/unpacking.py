"""The safetensors bytes of a micro-batch (`payload`) as tensors on the training device."""

from __future__ import annotations

import json
import struct
from typing import TypedDict

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

_DTYPES = {"BOOL": torch.bool, "I32": torch.int32, "I64": torch.int64, "F32": torch.float32, "BF16": torch.bfloat16}


class _Entry(TypedDict):
    """A tensor in the header of a safetensors file."""

    dtype: str
    shape: list[int]
    data_offsets: list[int]


def unpacked(payload: pa.Buffer, device: torch.device) -> dict[str, Tensor]:
    """Tensors by name (`collating`), each in separate memory on `device`.

    The payload may lie in Ray's object store, which is read-only. It is copied once and may then be released; for a GPU it is copied into
    pinned memory, from which it is transferred while the loop continues.
    """
    (length,) = struct.unpack_from("<Q", payload)
    data = np.frombuffer(payload, dtype=np.uint8)
    entries = json.loads(data[8 : 8 + length].tobytes())
    return {name: _copied(data[8 + length :], entry, device) for name, entry in entries.items()}


def _copied(data: np.ndarray, entry: _Entry, device: torch.device) -> Tensor:
    begin, end = entry["data_offsets"]
    own = torch.empty(entry["shape"], dtype=_DTYPES[entry["dtype"]], pin_memory=device.type == "cuda")
    if own.numel():
        # numpy copies: torch would start threads for it, which on busy cores takes many times as long.
        own.view(-1).view(torch.uint8).numpy()[:] = data[begin:end]
    return own.to(device, non_blocking=True)
