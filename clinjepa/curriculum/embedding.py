"""The latent store: every text of a trajectory store encoded once by one frozen encoder, shard by shard."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np

from clinjepa.curriculum.jobs import EmbedJob
from clinjepa.curriculum.steps.encoder_specs import reading_spec
from clinjepa.curriculum.workers.dist import chosen_device
from clinjepa.curriculum.workers.out_of_memory import embedding_remedies, names_settings
from clinjepa.model.encoding.encoder import Encoder, Loading, build_encoder
from clinjepa.model.encoding.packing import encode_texts
from clinjepa.model.pretrained.identity import encoder_digest
from clinjepa.model.tensor_files import ONLINE_TENSORS, read_tensors
from clinjepa.storage import Folder
from clinjepa.trajectory.tokens.latent_store import LatentWriter, part_index
from clinjepa.trajectory.tokens.trajectory_store import TrajectoryReader


class Embedder:
    """Encodes the shards of one trajectory store into one latent store; several workers may share the shards, in any order."""

    def __init__(self, job: EmbedJob) -> None:
        self._job, self.out = job, Folder(job.out)
        self.reader = TrajectoryReader(Folder(job.trajectories))
        self._spec = reading_spec(job.base_settings, job.reading, self.reader.folder)
        self._base, self._online = Folder(job.base), Folder(job.encoder) if job.encoder is not None else None
        self.token_budget, self._use_gpu = job.reading.token_budget, job.use_gpu

    @cached_property
    def writer(self) -> LatentWriter:
        """Writes the encoder's digest into every file."""
        return LatentWriter(encoder_digest(self._base, self._online), self._job.reading.dtype)

    @cached_property
    def encoder(self) -> Encoder:
        """The frozen encoder, built when the first shard needs it."""
        encoder = build_encoder(self._spec, self._base, 0, loading=Loading(chosen_device(self._use_gpu)))
        if self._online is not None:
            encoder.load_online(read_tensors(self._online, ONLINE_TENSORS))
        encoder.freeze()
        return encoder.eval()

    def encoded(self, texts: list[np.ndarray], what: str = "latent store") -> np.ndarray:
        """Latents [N, D] float32 of the token ids of N texts, before they are rounded to the store's `dtype`.

        what: the work, for the message of ResourceError when memory runs out.
        """
        with names_settings(what, embedding_remedies(self.token_budget)):
            device = next(self.encoder.parameters()).device
            z_ND: np.ndarray = encode_texts(self.encoder, texts, self.token_budget, device=device, keep_on="cpu").float().numpy()
        return z_ND

    def embed_shard(self, shard: str) -> dict[str, int]:
        """Write `latents/<shard>.safetensors`; equal texts of the shard are encoded once.

        A shard that this encoder has finished is skipped; a shard of another encoder is replaced.
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
        z_ND = self.encoded(texts)

        def stays() -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
            row = 0
            for stay_id in chosen:
                num_hours = len(self.reader.stay(stay_id).states)
                static, states, actions = row, row + 1, row + 1 + num_hours
                row = actions + num_hours
                yield stay_id, z_ND[static], z_ND[states:actions], z_ND[actions:row]

        self.writer.write_part(self.out, shard, stays())
        return {"num_texts": len(texts), "num_tokens": int(sum(len(text) for text in texts))}
