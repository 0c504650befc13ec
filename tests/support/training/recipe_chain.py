"""The phases of a recipe run one after another in this process, on tiny stores of random stays."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from clinjepa.curriculum.hard_sync import hard_sync
from clinjepa.curriculum.jobs import PhaseJob, SyncJob
from clinjepa.curriculum.recipes import Recipe, load_recipe, phase_steps
from clinjepa.curriculum.recipes.phases import reads_values
from clinjepa.curriculum.settings import CurriculumSettings
from clinjepa.storage import Folder
from tests.support.training.curriculum_jobs import CURRICULUM, encoder_settings, phase_job
from tests.support.training.curriculum_processes import run_job
from tests.support.training.curriculum_store import make_base_and_latents, make_latents, make_trajectories

SHARES = {"warmup": 0.2, "joint": 0.4, "alignment": 0.2, "finalization": 0.2}
SETTINGS = {"num_steps": 10, "global_batch": 10, "micro_batch": 2}


class RecipeStores:
    """A trajectory store and a base with its latents."""

    def __init__(self, root: Path) -> None:
        self.root, self.base = root, root / "base"
        self.ingest = Folder(root / "ingest").address
        self.trajectories = make_trajectories(root)
        self.latents = make_base_and_latents(root, self.trajectories, encoder_settings())
        self._chains: dict[str, Chain] = {}

    def chain(self, name: str) -> Chain:
        """A recipe of the project that ran on one worker."""
        if name not in self._chains:
            self._chains[name] = Chain(self, load_recipe(name), self.root / name)
        return self._chains[name]


class Chain:
    """The phases of a recipe in order, run on one worker; `jobs` by name of phase."""

    def __init__(self, stores: RecipeStores, recipe: Recipe, out: Path) -> None:
        self.stores, self.recipe, self.out = stores, recipe, out
        self.jobs: dict[str, PhaseJob] = {}
        steps, first = phase_steps(recipe, SETTINGS["num_steps"], SHARES), 0
        newest: dict[str, str | None] = dict.fromkeys(("encoder", "target", "predictor", "heads"))
        for phase, num_steps in zip(recipe.phases, steps, strict=True):
            folder = str(out / phase.name)
            if phase.trains == "nothing":
                hard_sync(SyncJob(folder, str(newest["encoder"]), newest["target"]))
                newest["target"] = folder
                continue
            job = self.job(phase.name, num_steps, first, folder, newest)
            self.jobs[phase.name] = job
            run_job(job)
            if phase.trains_predictor:
                newest["predictor"] = folder
            if phase.trains_encoder:
                newest["encoder"], newest["target"] = folder, folder if phase.ema_moves else None
            elif phase.ema_moves:
                newest["target"] = folder
            if phase.heads:
                newest["heads"] = folder
            first += num_steps

    def job(self, name: str, num_steps: int, first: int, folder: str, newest: dict[str, str | None]) -> PhaseJob:
        phase = next(each for each in self.recipe.phases if each.name == name)
        settings = self.recipe.curriculum(CurriculumSettings.from_json(CURRICULUM | {"global_batch": 10, "micro_batch": 2}), phase)
        inputs = newest | ({} if phase.target == "ema" else {"target": None}) | ({} if phase.trains_predictor else {"predictor": None})
        latents = None
        if not phase.trains_encoder:
            latents = self.stores.latents if newest["encoder"] is None else self._latents(str(newest["encoder"]))
        return replace(
            phase_job(
                out=folder,
                trajectories=self.stores.trajectories,
                base=str(self.stores.base),
                latents=latents,
                num_steps=num_steps,
                first_step=first,
                total_steps=SETTINGS["num_steps"],
            ),
            phase=phase,
            curriculum_settings=settings,
            terms_source=self.recipe.terms_source,
            ingest=self.stores.ingest if reads_values(phase, self.recipe.terms) else None,
            **inputs,
        )

    def _latents(self, encoder: str) -> str:
        out = Path(f"{encoder}_latents")
        if not out.exists():
            make_latents(out, self.stores.trajectories, self.stores.base, Path(encoder), encoder_settings())
        return str(out)

    def tensors(self, phase: str, name: str) -> dict[str, torch.Tensor]:
        return load_file(self.out / phase / f"{name}.safetensors")

    def losses(self, phase: str) -> list[float]:
        return losses(self.out / phase)


def losses(folder: Path) -> list[float]:
    """The loss of every step."""
    return [row["loss"] for row in json.loads((folder / "metrics.json").read_text())["steps"]]
