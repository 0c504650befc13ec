"""Small trajectory and latent stores of random stays for the curriculum's tests, written by the stores' own writers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from clinjepa.config.schema import Config
from clinjepa.curriculum.assembly import encoder_spec
from clinjepa.model.base import make_base
from clinjepa.model.encoder import Encoder, build_encoder
from clinjepa.model.packing import encode_texts
from clinjepa.storage import Folder
from clinjepa.trajectory import ingest
from clinjepa.trajectory.latents import LatentWriter, finish_latents
from clinjepa.trajectory.store import TrajectoryReader, build_trajectories, finish_trajectories
from clinjepa.trajectory.tokenizer import train_tokenizer

LATENT_DIM = 32


def make_trajectories(folder: Path, num_stays: int = 24, max_hours: int = 20, seed: int = 0, num_parts: int = 1) -> str:
    """A store of stays of 3 … max_hours hours, two thirds training, the rest tuning; returns its address."""
    generator = np.random.default_rng(seed)
    hours = generator.integers(3, max_hours + 1, size=num_stays)
    rows = {"stay_id": [], "static_text": [], "state_texts": [], "action_texts": []}
    for stay, num_hours in enumerate(hours.tolist()):
        rate = 60 + generator.normal(size=num_hours).cumsum() * 4
        rows["stay_id"].append(stay)
        rows["static_text"].append(f"Age: {generator.integers(20, 90)} years. Gender: female. Race: unknown.")
        observed = generator.random(num_hours) > 0.2
        observations = [f"Heart Rate: {rate[t]:.0f} bpm." if observed[t] else "No observations." for t in range(num_hours)]
        rows["state_texts"].append([f"t={t}h | {observations[t]}" for t in range(num_hours)])
        rows["action_texts"].append([f"t={t}h | No active interventions." for t in range(num_hours)])
    splits = ["tuning" if stay % 3 == 2 else "train" for stay in range(num_stays)]
    source, tokenizer, out = Folder(folder / "ingest"), Folder(folder / "tokenizer"), Folder(folder / "trajectories")
    parts = [f"p{stay % num_parts}" for stay in range(num_stays)]
    names = sorted(set(parts))
    for part in names:
        source.write_table(f"hours/{part}.parquet", pa.table(rows).filter(pa.array([each == part for each in parts])))
    stays = pa.table(
        {
            "stay_id": pa.array(range(num_stays), pa.int64()),
            "subject_id": pa.array(range(num_stays), pa.int64()),
            "split": splits,
            "num_hours": pa.array(hours, pa.int32()),
            "part": parts,
        }
    )
    source.write_table("stays.parquet", stays)
    counts = {split: {"num_stays": splits.count(split)} for split in ("train", "tuning")}
    source.write_json("data_card.json", {"schema_version": ingest.SCHEMA_VERSION, "parts": dict.fromkeys(names, []), "splits": counts})
    texts = [text for name in ("state_texts", "action_texts") for stay in rows[name] for text in stay]
    train_tokenizer(texts + rows["static_text"], 300).save(tokenizer)
    config = Config(windows={"min_hours": 4, "max_hours": 12, "stride_hours": 4})
    for part in names:
        build_trajectories(source, part, tokenizer, config, out)
    finish_trajectories(source, out, config)
    return out.address


def make_encoder(trajectories: str, settings: dict) -> Encoder:
    """The encoder that a job with these settings and no folders would build from seed 0."""
    return build_encoder(encoder_spec(settings, Folder(trajectories)), None, seed=0)


def make_latents(folder: Path, trajectories: str, encoder: Encoder, token_budget: int = 512) -> str:
    """The latents of every stay under `encoder`; returns the store's address."""
    reader, out = TrajectoryReader(Folder(trajectories)), Folder(folder)
    stays = []
    for stay_id in reader.stays["stay_id"].to_pylist():
        stay = reader.stay(stay_id)
        z = encode_texts(encoder, [stay.static, *stay.states, *stay.actions], token_budget).float().numpy()
        stays.append((stay_id, z[0], z[1 : 1 + len(stay.states)], z[1 + len(stay.states) :]))
    LatentWriter().write_part(out, "p0", stays)
    finish_latents(out)
    return out.address


def make_base_and_latents(root: Path, trajectories: str, encoder_settings: dict[str, Any]) -> tuple[Encoder, str]:
    """A random base in `root/base`, the encoder on it (one thread), and its latent store `root/base_latents`."""
    torch.set_num_threads(1)
    spec = encoder_spec(encoder_settings, Folder(trajectories))
    make_base(spec, 0, Folder(root / "base"))
    encoder = build_encoder(spec, Folder(root / "base"), 0)
    return encoder, make_latents(root / "base_latents", trajectories, encoder)
