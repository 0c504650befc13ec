"""The five phases on the patients of the known world, in this process, and the forecasts that they lead to.

The base is made by hand: its embeddings of whole numbers lie on an arc, since a model this small does not learn from some thousand hours
of text that 79 lies beside 80, as large language models know. Its attention begins almost uniform, so that the last token sees the number.
Everything else is the project's own: ingest, tokenizer, SFT, phases, latent stores.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clinjepa.curriculum.hard_sync import SyncSummary, hard_sync
from clinjepa.curriculum.jobs import SyncJob
from clinjepa.curriculum.settings import PredictorSettings
from clinjepa.curriculum.steps.encoder_specs import encoder_spec
from clinjepa.model.predictor import load_predictor
from clinjepa.model.pretrained.base_model import make_base
from clinjepa.model.rollout import rollout
from clinjepa.model.tensor_files import read_tensors, write_tensors
from clinjepa.storage import Folder
from clinjepa.trajectory.hours.ingest import build_partition, finish_ingest
from clinjepa.trajectory.settings import TrajectorySettings, tokenizer_settings
from clinjepa.trajectory.tokens.build import build_trajectories, finish_trajectories
from clinjepa.trajectory.tokens.latent_store import LatentReader
from clinjepa.trajectory.tokens.tokenizer import build_tokenizer, load_tokenizer
from clinjepa.trajectory.tokens.trajectory_store import TrajectoryReader
from tests.support.data.handmade_stays import HandmadeSource, lenient_config
from tests.support.data.known_world import LinearWorld, Patients, best_forecast, simulate, source_tables
from tests.support.training.curriculum_jobs import ENCODER, PREDICTOR, encoder_settings, phase_job, sft_job
from tests.support.training.curriculum_processes import run_job
from tests.support.training.curriculum_store import make_latents

NUM_PATIENTS, NUM_HOURS, CONTEXT = 700, 36, 12
HORIZONS = (1, 6, 24)
STEPS = {"warmup": 300, "joint": 60, "alignment": 140, "finalization": 500}
EARLY_STEPS = 60
"""Steps of a warmup that ends before the predictor has learned what it can from the SFT latents."""
_EARLY_TOTAL = sum(STEPS.values()) - STEPS["warmup"] + EARLY_STEPS
ENCODER_SETTINGS = encoder_settings(
    hidden_size=64,
    num_layers=1,
    num_kv_heads=2,
    ffn_size=128,
    append_eos=True,
    token_budget=8192,
    lora=ENCODER["lora"] | {"rank": 8, "alpha": 16},
)
PREDICTOR_SETTINGS = PredictorSettings.from_json(
    PREDICTOR | {"hidden_size": 64, "ffn_size": 128, "dropout": 0.0, "attention_dropout": 0.0, "max_hours": 40}
)
SFT_SETTINGS = {"num_epochs": 1000.0, "max_steps": 50, "tokens_per_step": 2048, "micro_tokens": 2048, "learning_rate": 2e-3}
CURRICULUM_SETTINGS: dict[str, Any] = {
    "global_batch": 16,
    "micro_batch": 16,
    "predictor_lr": 6e-3,
    "encoder_lr": 1e-3,
    "weight_decay": 0.0,
    "ema_momentum": 1 - 4 / STEPS["alignment"],
}
_ARC_RADIUS, _ARC_CENTRE, _UNITS_PER_RADIAN = 1.5, 60, 25.0


@dataclass(frozen=True)
class Errors:
    """Root mean squared errors in the variable's unit, by horizon."""

    model: dict[int, float]
    best: dict[int, float]
    copy_forward: dict[int, float]
    mean: dict[int, float]


class KnownWorldTraining:
    """Trajectories of the world's patients in `root`, and the phases trained one after the other in folders there."""

    def __init__(self, root: Path) -> None:
        self.root, self.world = root, LinearWorld()
        self.patients = simulate(self.world, NUM_PATIENTS, NUM_HOURS, seed=0)
        self.trajectories = _write_trajectories(root, self.world, self.patients)
        torch.set_num_threads(1)
        _make_numerate_base(self.trajectories, Folder(root / "base"))
        stays = TrajectoryReader(self.trajectories).stays
        splits = zip(stays["stay_id"].to_pylist(), stays["split"].to_pylist(), strict=True)
        self.stay_ids: dict[str, list[int]] = {"train": [], "tuning": [], "held_out": []}
        for stay_id, split in splits:
            self.stay_ids[split].append(stay_id)

    @cached_property
    def sft(self) -> Path:
        return self.fine_tune("sft")

    @cached_property
    def sft_latents(self) -> str:
        return make_latents(self.root / "sft_latents", self.trajectories.address, self.sft, None, ENCODER_SETTINGS)

    @cached_property
    def warmup(self) -> Path:
        return self.train("warmup", "warmup", latents=self.sft_latents)

    @cached_property
    def joint(self) -> Path:
        return self.train("joint", "joint", latents=None, predictor=str(self.warmup))

    @cached_property
    def early_warmup(self) -> Path:
        return self.train("warmup", "early_warmup", latents=self.sft_latents, num_steps=EARLY_STEPS, total_steps=_EARLY_TOTAL)

    @cached_property
    def early_joint(self) -> Path:
        return self.refine_early("early_joint")

    @cached_property
    def joint_latents(self) -> str:
        return self.embed("joint_latents", self.joint)

    @cached_property
    def alignment(self) -> Path:
        return self.align("alignment", self.joint)

    @cached_property
    def finalization(self) -> Path:
        return self.train(
            "finalization", "finalization", latents=self.joint_latents, encoder=str(self.joint), predictor=str(self.alignment)
        )

    def fine_tune(self, name: str, **settings: Any) -> Path:
        """SFT of the base into the folder `name`; `settings` change those of SFT."""
        out = self.root / name
        places = {"base": str(self.root / "base"), "checkpoint_every_steps": 10_000}
        run_job(sft_job(out, self.trajectories.address, ENCODER_SETTINGS, **(SFT_SETTINGS | places | settings)))
        return out

    def align(self, name: str, target: Path, **changes: Any) -> Path:
        """The alignment after joint refinement, towards the EMA target in the folder `target`."""
        given = {"latents": self.joint_latents, "encoder": str(self.joint), "target": str(target), "predictor": str(self.joint)}
        return self.train("alignment", name, **(given | changes))

    def refine_early(self, name: str, **changes: Any) -> Path:
        """Joint refinement after the early warmup."""
        places = {"latents": None, "predictor": str(self.early_warmup), "first_step": EARLY_STEPS, "total_steps": _EARLY_TOTAL}
        return self.train("joint", name, **(places | changes))

    def train(self, phase: str, name: str, **changes: Any) -> Path:
        """A phase into the folder `name`; `changes` are fields of its job or of the curriculum's settings."""
        out = self.root / name
        run_job(self._job(phase, out, **changes))
        return out

    def sync(self, target: Path) -> SyncSummary:
        """The hard sync after joint refinement; its gaps between online and target."""
        return hard_sync(SyncJob(str(self.root / "hard_sync"), online=str(self.joint), target=str(target)))

    def embed(self, name: str, joint: Path) -> str:
        """The latent store of the encoder in the folder `joint`; its address."""
        return make_latents(self.root / name, self.trajectories.address, self.sft, joint, ENCODER_SETTINGS)

    def history(self, folder: Path) -> list[dict[str, float]]:
        """The diagnostics of a phase or of SFT, in the order of its steps."""
        return Folder(folder).read_json("metrics.json")["diagnostics"]

    def errors(self, latents: str, predictor: Path) -> Errors:
        """Errors of rollouts from the first `CONTEXT` hours of held-out stays, decoded by a ridge fitted on latents of training stays."""
        reader, held_out = LatentReader(Folder(latents)), self.stay_ids["held_out"]
        train = self.stay_ids["train"]
        decode = _ridge(np.concatenate([reader.stay(stay)[1] for stay in train]), self.patients.charted_NTV[train].reshape(-1, 1))
        z_static_SD, z_state_STD, z_action_STD = (
            torch.from_numpy(np.stack(parts)) for parts in zip(*(reader.stay(stay) for stay in held_out), strict=True)
        )
        num_steps = NUM_HOURS - CONTEXT
        with torch.no_grad():
            model = load_predictor(Folder(predictor)).eval()
            rolled_SHD, _ = rollout(model, z_static_SD, z_state_STD[:, :CONTEXT], z_action_STD, CONTEXT, num_steps)
        charted_ST = self.patients.charted_NTV[held_out, :, 0]
        forecasts = {
            "model": decode(rolled_SHD.numpy().reshape(-1, rolled_SHD.shape[-1])).reshape(len(held_out), num_steps),
            "best": best_forecast(self.world, self.patients, CONTEXT, num_steps)[0][held_out, :, 0],
            "copy_forward": np.repeat(charted_ST[:, CONTEXT - 1 : CONTEXT], num_steps, axis=1),
            "mean": np.full((len(held_out), num_steps), self.patients.charted_NTV[train].mean()),
        }
        true_SH = charted_ST[:, CONTEXT:]
        return Errors(**{name: _rmse(forecast_SH, true_SH) for name, forecast_SH in forecasts.items()})

    def _job(self, phase: str, out: Path, **changes: Any) -> Any:
        names = list(STEPS)
        first_step = sum(STEPS[name] for name in names[: names.index(phase)])
        fields = {
            "out": str(out),
            "trajectories": self.trajectories.address,
            "base": str(self.sft),
            "num_steps": STEPS[phase],
            "first_step": first_step,
            "total_steps": sum(STEPS.values()),
            "encoder_settings": ENCODER_SETTINGS,
            "predictor_settings": PREDICTOR_SETTINGS,
            "checkpoint_every_steps": 10_000,
        }
        return phase_job(phase, **(fields | CURRICULUM_SETTINGS | changes))


def _write_trajectories(root: Path, world: LinearWorld, patients: Patients) -> Folder:
    config = lenient_config(
        windows={"min_hours": NUM_HOURS, "max_hours": NUM_HOURS}, tokenizer={"vocab_size": 440}, split={"fractions": (0.6, 0.1, 0.3)}
    )
    ingest, tokenizer, out = (Folder(root / name) for name in ("ingest", "tokenizer", "trajectories"))
    build_partition(HandmadeSource(source_tables(world, patients)), {"part": 0}, config, ingest, "p0")
    finish_ingest(ingest, config)
    build_tokenizer(ingest, tokenizer_settings(config), tokenizer)
    build_trajectories(ingest, "p0", tokenizer, TrajectorySettings.of(config), out)
    finish_trajectories(ingest, out, TrajectorySettings.of(config))
    return out


def _make_numerate_base(trajectories: Folder, out: Folder) -> None:
    """A small random base that knows the order of whole numbers, and whose last token attends to all tokens nearly alike."""
    make_base(encoder_spec(ENCODER_SETTINGS, trajectories), 0, out)
    state = read_tensors(out, "model.safetensors")
    tokenizer = load_tokenizer(trajectories).tokenizer
    axes_2D = torch.nn.functional.normalize(torch.randn(2, ENCODER_SETTINGS.hidden_size, generator=torch.Generator().manual_seed(1)))
    for number in range(200):
        token = tokenizer.token_to_id(f"Ġ{number}")  # Ġ: a byte-level tokenizer's name of a blank
        if token is not None:
            angle = (number - _ARC_CENTRE) / _UNITS_PER_RADIAN
            state["model.embed_tokens.weight"][token] += _ARC_RADIUS * (axes_2D[0] * math.cos(angle) + axes_2D[1] * math.sin(angle))
    for name, tensor in state.items():
        if "q_norm" in name:
            tensor *= 0.05
        if "o_proj" in name or "v_proj" in name:
            tensor *= 5.0
    write_tensors(out, "model.safetensors", state)


def _ridge(z_ND: np.ndarray, y_N1: np.ndarray, penalty: float = 1e-4) -> Any:
    """A linear read-out of values from latents, fitted on standardised latents."""
    centre_D, scale_D, mean_1 = z_ND.mean(0), z_ND.std(0) + 1e-8, y_N1.mean(0)
    x_ND = (z_ND - centre_D) / scale_D
    weights_D1 = np.linalg.solve(x_ND.T @ x_ND + penalty * len(x_ND) * np.eye(x_ND.shape[1]), x_ND.T @ (y_N1 - mean_1))
    return lambda z_ND: ((z_ND - centre_D) / scale_D) @ weights_D1 + mean_1


def _rmse(forecast_SH: np.ndarray, true_SH: np.ndarray) -> dict[int, float]:
    return {h: float(np.sqrt(np.mean((forecast_SH[:, h - 1] - true_SH[:, h - 1]) ** 2))) for h in HORIZONS}
