"""From a trajectory store to a latent store with one frozen encoder, shard by shard."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any


@dataclass(frozen=True)
class EmbedJob:
    """Everything an encoder worker needs; JSON-able."""

    out: str
    trajectories: str
    base: str
    encoder: str | None
    """Folder with `online.safetensors`; None when the base itself encodes."""

    encoder_settings: dict[str, Any]

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
        self.writer = LatentWriter(spec.dtype)  # type: ignore[arg-type]
        self.token_budget = int(job.encoder_settings["token_budget"])
        self._job, self._spec = job, spec

    @cached_property
    def encoder(self) -> Encoder:
        """The frozen encoder, built when the first shard needs it."""
        encoder = build_encoder(self._spec, Folder(self._job.base), 0)
        if self._job.encoder is not None:
            encoder.load_online(read_tensors(Folder(self._job.encoder), "online.safetensors"))
        encoder.freeze()
        return encoder.to("cuda" if torch.cuda.is_available() else "cpu").eval()

    def embed_shard(self, shard: str) -> dict[str, int]:
        """Write `latents/<shard>.safetensors`; equal texts of the shard are encoded once. A finished shard is not done again.

        Returns {"num_texts": texts encoded, "num_tokens": their tokens}.
        """
        if part_index(self.out, shard) is not None:
            return {"num_texts": 0, "num_tokens": 0}
        places: dict[bytes, int] = {}
        texts: list[np.ndarray] = []

        def place(tokens: np.ndarray) -> int:
            key = tokens.tobytes()
            if key not in places:
                places[key] = len(texts)
                texts.append(tokens)
            return places[key]

        shards = self.reader.stays["shard"].to_pylist()
        chosen = [stay for stay, where in zip(self.reader.stays["stay_id"].to_pylist(), shards, strict=True) if where == f"shards/{shard}.parquet"]
        rows = []
        for stay_id in chosen:
            tokens = self.reader.stay(stay_id)
            rows.append((stay_id, place(tokens.static), [place(t) for t in tokens.states], [place(t) for t in tokens.actions]))
        device = next(self.encoder.parameters()).device
        z_UD = encode_texts(self.encoder, texts, self.token_budget, "online", device).float().cpu().numpy()
        self.writer.write_part(self.out, shard, ((stay_id, z_UD[static], z_UD[states], z_UD[actions]) for stay_id, static, states, actions in rows))
        return {"num_texts": len(texts), "num_tokens": int(sum(len(text) for text in texts))}

    def finish(self) -> dict[str, Any]:
        """Write the index; returns {num_stays, num_latents, dim, dtype, bytes}."""
        return finish_latents(self.out)
