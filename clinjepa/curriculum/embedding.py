"""From a trajectory store to a latent store with one frozen encoder, shard by shard."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from clinjepa.curriculum.assembly import encoder_spec
from clinjepa.curriculum.dist import chosen_device
from clinjepa.curriculum.out_of_memory import embedding_remedies, is_out_of_memory, out_of_memory
from clinjepa.model.encoder import Encoder, build_encoder
from clinjepa.model.identity import encoder_digest
from clinjepa.model.packing import encode_texts
from clinjepa.model.tensor_files import ONLINE_TENSORS, read_tensors
from clinjepa.storage import Folder
from clinjepa.trajectory.tokens.latent_store import LatentWriter, part_index
from clinjepa.trajectory.tokens.trajectory_store import TrajectoryReader


@dataclass(frozen=True)
class EmbedJob:
    """Everything an encoder worker needs; JSON-able."""

    out: str
    trajectories: str
    base: str
    encoder: str | None
    """Folder with `online.safetensors`; None when the base itself encodes."""

    encoder_settings: dict[str, Any]
    use_gpu: bool | None = None
    """Whether to compute on a GPU; None: where torch sees one."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> EmbedJob:
        return cls(**json.loads(text))


class Embedder:
    """Encodes the shards of one trajectory store into one latent store; shards may be done by different workers in any order."""

    def __init__(self, job: EmbedJob) -> None:
        self.out = Folder(job.out)
        self.reader = TrajectoryReader(Folder(job.trajectories))
        spec = encoder_spec(job.encoder_settings, self.reader.folder)
        self._base, self._online = Folder(job.base), Folder(job.encoder) if job.encoder is not None else None
        self.token_budget = int(job.encoder_settings["token_budget"])
        self._settings, self._spec, self._use_gpu = job.encoder_settings, spec, job.use_gpu

    @cached_property
    def writer(self) -> LatentWriter:
        """Marks what it writes as this encoder's."""
        return LatentWriter(encoder_digest(self._base, self._online), self._spec.dtype)  # type: ignore[arg-type]

    @cached_property
    def encoder(self) -> Encoder:
        """The frozen encoder, built when the first shard needs it."""
        encoder = build_encoder(self._spec, self._base, 0, device=chosen_device(self._use_gpu))
        if self._online is not None:
            encoder.load_online(read_tensors(self._online, ONLINE_TENSORS))
        encoder.freeze()
        return encoder.eval()

    def embed_shard(self, shard: str) -> dict[str, int]:
        """Write `latents/<shard>.safetensors`; equal texts of the shard are encoded once.

        A shard that this encoder has finished is not done again; what another one left there is replaced.
        Returns {"num_texts": texts encoded, "num_tokens": their tokens}.
        """
        if part_index(self.out, shard, self.writer.encoder_digest) is not None:
            return {"num_texts": 0, "num_tokens": 0}
        places = zip(self.reader.stays["stay_id"].to_pylist(), self.reader.stays["shard"].to_pylist(), strict=True)
        chosen = [stay_id for stay_id, where in places if where == f"shards/{shard}.parquet"]
        texts: list[np.ndarray] = []
        for stay_id in chosen:
            tokens = self.reader.stay(stay_id)
            texts += [tokens.static, *tokens.states, *tokens.actions]
        try:
            device = next(self.encoder.parameters()).device
            z_ND = encode_texts(self.encoder, texts, self.token_budget, device=device, keep_on="cpu").float().numpy()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise out_of_memory(error, "latent store", embedding_remedies(self._settings)) from None

        def stays() -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
            row = 0
            for stay_id in chosen:
                num_hours = len(self.reader.stay(stay_id).states)
                static, states, actions = row, row + 1, row + 1 + num_hours
                row = actions + num_hours
                yield stay_id, z_ND[static], z_ND[states:actions], z_ND[actions:row]

        self.writer.write_part(self.out, shard, stays())
        return {"num_texts": len(texts), "num_tokens": int(sum(len(text) for text in texts))}
