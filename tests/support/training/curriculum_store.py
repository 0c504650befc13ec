"""Small trajectory and latent stores of random stays for the curriculum's tests, written by the stores' own writers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from clinjepa.config.schema import Config
from clinjepa.curriculum.embedding import Embedder
from clinjepa.curriculum.jobs import EmbedJob
from clinjepa.curriculum.settings import EncoderSettings
from clinjepa.curriculum.steps.encoder_specs import encoder_spec
from clinjepa.model.pretrained.base_model import make_base
from clinjepa.storage import Folder
from clinjepa.trajectory.hours import ingest
from clinjepa.trajectory.settings import TrajectorySettings
from clinjepa.trajectory.tokens.build import build_trajectories, finish_trajectories
from clinjepa.trajectory.tokens.latent_store import finish_latents
from clinjepa.trajectory.tokens.tokenizer import train_tokenizer
from tests.support.data.hour_grids import grid_rows, write_grid

LATENT_DIM = 32


def make_trajectories(folder: Path, num_stays: int = 24, max_hours: int = 20, seed: int = 0, num_parts: int = 1) -> str:
    """A store of stays of 3 … max_hours hours, two thirds training, the rest tuning; returns its address."""
    generator = np.random.default_rng(seed)
    hours = generator.integers(3, max_hours + 1, size=num_stays)
    rows = {"stay_id": [], "static_text": [], "state_texts": [], "action_texts": []}
    grids = []
    for stay, num_hours in enumerate(hours.tolist()):
        rate = 60 + generator.normal(size=num_hours).cumsum() * 4
        rows["stay_id"].append(stay)
        rows["static_text"].append(f"Age: {generator.integers(20, 90)} years. Gender: female. Race: unknown.")
        observed = generator.random(num_hours) > 0.2
        observations = [f"Heart Rate: {rate[t]:.0f} bpm." if observed[t] else "No observations." for t in range(num_hours)]
        rows["state_texts"].append([f"t={t}h | {observations[t]}" for t in range(num_hours)])
        grids.append(grid_rows(stay, stay % 3 != 2, [float(round(rate[t])) if observed[t] else None for t in range(num_hours)]))
        rows["action_texts"].append([f"t={t}h | No active interventions." for t in range(num_hours)])
    splits = ["tuning" if stay % 3 == 2 else "train" for stay in range(num_stays)]
    source, tokenizer, out = Folder(folder / "ingest"), Folder(folder / "tokenizer"), Folder(folder / "trajectories")
    parts = [f"p{stay % num_parts}" for stay in range(num_stays)]
    names = sorted(set(parts))
    for part in names:
        write_grid(source, part, [grids[stay] for stay in range(num_stays) if parts[stay] == part])
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
        build_trajectories(source, part, tokenizer, TrajectorySettings.of(config), out)
    finish_trajectories(source, out, TrajectorySettings.of(config))
    return out.address


def make_latents(out: Path, trajectories: str, base: Path, encoder: Path | None, settings: EncoderSettings) -> str:
    """The latents of every stay under a base, or the online adapters in the folder `encoder` on it; returns the store's address."""
    reading = settings.reading(adapted=encoder is not None)
    job = EmbedJob(Folder(out).address, trajectories, str(base), str(encoder) if encoder else None, settings.base, reading)
    embedder = Embedder(job)
    for shard in Folder(trajectories).names("shards"):
        embedder.embed_shard(shard.removesuffix(".parquet"))
    finish_latents(embedder.out)
    return job.out


def make_base_and_latents(root: Path, trajectories: str, settings: EncoderSettings) -> str:
    """A random base in `root/base`, and its latent store `root/base_latents` (encoded with one thread), whose address is returned."""
    torch.set_num_threads(1)
    make_base(encoder_spec(settings, Folder(trajectories)), 0, Folder(root / "base"))
    return make_latents(root / "base_latents", trajectories, root / "base", None, settings)
