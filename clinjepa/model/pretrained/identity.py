"""Content digests of encoders, without loading them.

Latents, predictors and checkpoints record the digest of the encoder they were made with, and refuse another one.
"""

from __future__ import annotations

import hashlib
import json
import struct
from functools import partial
from typing import TYPE_CHECKING

from clinjepa.errors import StoreError
from clinjepa.model.predictor import PREDICTOR_ENCODER
from clinjepa.model.pretrained.base_model import BASE_CONFIG, BASE_TENSORS, NAMED_BASE
from clinjepa.model.pretrained.weights import sampled_digest
from clinjepa.model.tensor_files import ONLINE_TENSORS

if TYPE_CHECKING:
    from clinjepa.storage import Folder

_READ_WHOLE_BYTES = 512 << 20
"""Files up to this size (adapters among them) are read whole, so that no difference is missed; larger ones are sampled."""


def encoder_digest(base: Folder, online: Folder | None = None) -> str:
    """SHA-256 in hex of an encoder's content, independent of the folders' addresses; much cheaper than loading it.

    Args:
        base: folder of the base. For a public model the digest covers the content digest recorded when the run began or, if the files
            were not on the machine then, its id and revision.
        online: folder with `online.safetensors`; None if the base itself encodes.

    Raises:
        StoreError: a file is missing or truncated.
    """
    digests = {"base": _base_digest(base)} | ({"online": tensors_digest(online, ONLINE_TENSORS)} if online is not None else {})
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


def _base_digest(base: Folder) -> str:
    if base.exists(NAMED_BASE):
        named = base.read_json(NAMED_BASE)
        return str(named["content"]) if named.get("content") else json.dumps({name: named.get(name) for name in ("model", "revision")})
    return hashlib.sha256(base.read_bytes(BASE_CONFIG) + tensors_digest(base, BASE_TENSORS).encode()).hexdigest()


def check_predictor(predictor: Folder, encoder_digest: str, encoder: str) -> None:
    """Raise StoreError if a predictor was trained in another encoder's latent space. encoder: its folders, for the message."""
    if predictor.exists(PREDICTOR_ENCODER) and predictor.read_json(PREDICTOR_ENCODER)["encoder_digest"] != encoder_digest:
        raise StoreError(
            f"{predictor.address} holds a predictor that was trained in the space of another encoder than {encoder}: that was made again "
            f"since, or they never belonged together; remove {predictor.address} and run again, or name its own encoder"
        )


def tensors_digest(folder: Folder, name: str) -> str:
    """SHA-256 in hex of a safetensors file, or of its header and samples if it is large. Raises StoreError if missing or truncated."""
    size = folder.size(name)
    if size <= _READ_WHOLE_BYTES:
        return folder.digest(name)
    try:
        return sampled_digest(b"", [(size, partial(folder.read_bytes, name))])
    except struct.error:
        raise StoreError(f"{folder.address}/{name} was cut; remove its folder and run again") from None
