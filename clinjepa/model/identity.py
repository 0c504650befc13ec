"""Which encoder it is, by content and without loading it: what latents and checkpoints remember of the weights they were made with."""

from __future__ import annotations

import hashlib
import json
import struct
from functools import partial
from typing import TYPE_CHECKING

from clinjepa.errors import StoreError
from clinjepa.model.base import BASE_CONFIG, BASE_TENSORS, NAMED_BASE
from clinjepa.model.io import ONLINE_TENSORS
from clinjepa.model.weights import sampled_digest

if TYPE_CHECKING:
    from clinjepa.storage import Folder

_READ_WHOLE_BYTES = 64 << 20
"""Weights up to this size are read whole: few requests, and no difference is missed. Of larger ones samples are."""


def encoder_digest(base: Folder, online: Folder | None = None) -> str:
    """SHA-256 in hex of an encoder's content, the same wherever its folders lie; cheap beside loading it.

    base: of a public model counts the content digest that was recorded when the run began, or, where its files were not at hand then,
    its id and revision. online: folder with `online.safetensors` on top, which is read whole; None when the base itself encodes.
    Raises StoreError when a file is missing or cut.
    """
    digests = {"base": _base_digest(base)} | ({"online": online.digest(ONLINE_TENSORS)} if online is not None else {})
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


def _base_digest(base: Folder) -> str:
    if base.exists(NAMED_BASE):
        named = base.read_json(NAMED_BASE)
        return named.get("content") or json.dumps({name: named.get(name) for name in ("model", "revision")})
    config, size = base.read_bytes(BASE_CONFIG), base.size(BASE_TENSORS)
    if size <= _READ_WHOLE_BYTES:
        return hashlib.sha256(config + base.digest(BASE_TENSORS).encode()).hexdigest()
    try:
        return sampled_digest(config, [(size, partial(base.read_bytes, BASE_TENSORS))])
    except struct.error:
        raise StoreError(f"{base.address}/{BASE_TENSORS} was cut; remove its folder and run again") from None
