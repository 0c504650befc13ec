"""Diagnostics during a phase, on a fixed, seeded batch of tuning windows: collapse of the latent space, and error of the predictor.

L1 also falls when the latent space shrinks, so every L1 is reported beside that of copy-forward and of the constant mean latent, and
beside the centred cosine (Clin-JEPA, arXiv 2605.10840, monitors std only; the rest is this project's). Padding is masked out everywhere.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from clinjepa.curriculum.checkpoints.history import TrainingHistory
from clinjepa.curriculum.feed.payload import payload
from clinjepa.curriculum.feed.unpacking import unpacked
from clinjepa.curriculum.feed.window_batches import WindowBatches
from clinjepa.curriculum.feed.window_plan import mix_seed
from clinjepa.curriculum.jobs import PhaseJob
from clinjepa.curriculum.steps.assembly import PhaseModules
from clinjepa.curriculum.steps.objective import MicroBatchLatents, PhaseObjective
from clinjepa.curriculum.workers.dist import Dist
from clinjepa.errors import TrainingError
from clinjepa.model.diagnostics import latent_diagnostics, prediction_diagnostics

NUM_WINDOWS = 8
"""Windows measured; every worker computes all of them, so the figures do not depend on the number of workers. As many training windows give
the mean latent, the forecast behind `l1_vs_mean`."""

MAX_LEADING_SHARE = 0.99
"""A larger share of the variance in one direction is a collapse, also where noise in many directions keeps RankMe up."""

_WINDOWS_TAG, _MEAN_TAG = 6, 7


class PhaseDiagnostics:
    """Measures the phase's modules on its fixed batch and raises the collapse alarm."""

    def __init__(self, job: PhaseJob, objective: PhaseObjective, modules: PhaseModules, fetcher: WindowBatches, dist: Dist) -> None:
        self._job, self._objective, self._modules, self._fetcher, self._dist = job, objective, modules, fetcher, dist

    def measure(self, done: int, history: TrainingHistory) -> None:
        """Append the figures after `done` steps; all workers call it.

        Raises TrainingError when the space has collapsed (`collapse`) and `stop_on_collapse` is set.
        """
        settings = self._job.curriculum_settings
        began = time.perf_counter()
        figures = self._figures()
        history.add_diagnosis(time.perf_counter() - began)
        history.diagnostics.append({"step": done, **figures})
        if not len(self._fetcher.plan.tuning_ids):
            history.alarm("no_tuning_windows", done, "there are no tuning windows: diagnostics are taken on training windows")
        message = collapse(figures, settings.collapse_rankme)
        if message is not None:
            history.alarm("collapse", done, message, rankme=figures["rankme"], threshold=settings.collapse_rankme)
            if settings.stop_on_collapse:
                raise TrainingError(f"step {done}: {message}; lower encoder_lr, raise ema_momentum, or unset stop_on_collapse")

    @torch.no_grad()
    def _figures(self) -> dict[str, float]:
        """Figures over all valid hours of the fixed batch; L1 is summed over D, per hour."""
        plan = self._fetcher.plan
        modules = [module for module in (self._modules.predictor, self._modules.encoder) if module is not None]
        was_training = [module.training for module in modules]
        for module in modules:
            module.eval()
        arrays, latents = self._latents(_WINDOWS_TAG, plan.tuning_ids if len(plan.tuning_ids) else plan.training_ids)
        figures: dict[str, float] = {}
        if self._modules.predictor is not None:
            trained, of_training = self._latents(_MEAN_TAG, plan.training_ids)
            pred_BTD, _ = self._modules.predictor(latents.z_static_BD, latents.z_state_BTD, latents.z_action_BTD, arrays["valid"])
            following = arrays["valid"][:, 1:].clone()
            following[:, plan.trained_hours - 1 :] = False
            targets_ND, copied_ND = latents.target_BTD[:, 1:][following], latents.target_BTD[:, :-1][following]
            mean_D = of_training.target_BTD[trained["valid"]].mean(dim=0)
            figures = prediction_diagnostics(pred_BTD[:, :-1][following], targets_ND, copied_ND, mean_D)
        for module, training in zip(modules, was_training, strict=True):
            module.train(training)
        if self._job.phase.needs_target and self._modules.encoder is not None:
            figures["target_gap"] = self._modules.encoder.target_gap()
        return latent_diagnostics(latents.z_state_BTD[arrays["valid"]]) | figures

    def _latents(self, tag: int, window_ids: np.ndarray) -> tuple[dict[str, Tensor], MicroBatchLatents]:
        """Arrays and latents of NUM_WINDOWS windows, a seeded draw that stays the same during the phase."""
        seed = mix_seed(tag, self._job.seed)
        chosen = np.sort(np.random.default_rng(seed).permutation(window_ids)[:NUM_WINDOWS])
        arrays = unpacked(payload(self._fetcher.window_arrays(chosen, np.full(len(chosen), -1))), self._dist.device)
        return arrays, self._objective.latents(arrays, seed, with_gradient=False)


def collapse(figures: Mapping[str, float], threshold: float) -> str | None:
    """What shows that the state latents have collapsed, or None.

    Args:
        figures: `rankme` and `leading_share`, both of centred latents.
        threshold: `curriculum.collapse_rankme`.
    """
    if figures["rankme"] < threshold:
        return f"RankMe of the state latents is {figures['rankme']:.2f}, below {threshold:g}: the space has collapsed"
    if figures["leading_share"] > MAX_LEADING_SHARE:
        share = 100 * figures["leading_share"]
        return f"one direction holds {share:.1f} % of the variance of the state latents: the space has collapsed to a line"
    return None
