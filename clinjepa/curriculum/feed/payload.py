"""Named arrays as safetensors bytes, the form in which a micro-batch travels; `unpacking` reads them back as tensors.

Readers need no torch, so this module is apart from `unpacking`.
"""

from __future__ import annotations

import json
import struct

import numpy as np
import pyarrow as pa

_DTYPES = {"bool": "BOOL", "int32": "I32", "int64": "I64", "float32": "F32", "uint16": "BF16"}
"""numpy's to safetensors' names; numpy has no bfloat16, so its bits travel as uint16."""


def payload(arrays: dict[str, np.ndarray]) -> pa.Buffer:
    """safetensors bytes of collated arrays, copied once; uint16 arrays are the bits of bfloat16.

    The memory comes from Arrow's pool, which reuses its pages; fresh pages would cost as much as the copy.
    """
    parts = [np.ascontiguousarray(array) for array in arrays.values()]
    header: dict[str, object] = {}
    offset = 0
    for name, part in zip(arrays, parts, strict=True):
        header[name] = {"dtype": _DTYPES[part.dtype.name], "shape": part.shape, "data_offsets": [offset, offset + part.nbytes]}
        offset += part.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    whole = pa.allocate_buffer(8 + len(text) + offset)
    into = np.frombuffer(whole, dtype=np.uint8)
    place = 0
    for part in (np.frombuffer(struct.pack("<Q", len(text)) + text, dtype=np.uint8), *parts):
        into[place : place + part.nbytes] = part.reshape(-1).view(np.uint8)
        place += part.nbytes
    return whole
