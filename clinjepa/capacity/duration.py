"""Duration of a run, by arithmetic: the floating-point operations of every phase divided by the rate of the GPUs.

Tokens per window come from the trajectory store where it exists, otherwise from assumptions that the plan prints. Communication, reading
and start-up are not counted. Formulas: docs/scaling.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from clinjepa.capacity.memory import RunSizes, busy_workers, head_weights, reads_texts
from clinjepa.capacity.model_sizes import predictor_parameters
from clinjepa.curriculum.recipes import Budget, Recipe, run_order
from clinjepa.trajectory.tokens.trajectory_store import TrajectoryReader

_SAMPLED_STAYS = 64


@dataclass(frozen=True)
class TextFigures:
    """Sizes of the texts of a trajectory store."""

    hours_per_window: float
    tokens_per_static: float
    tokens_per_state: float
    tokens_per_action: float
    num_hours: int
    """Hours of all stays."""
    num_stays: int
    training_share: float
    measured: bool

    @property
    def tokens_per_hour(self) -> float:
        return self.tokens_per_state + self.tokens_per_action

    @property
    def tokens_per_window(self) -> float:
        return self.tokens_per_static + self.hours_per_window * self.tokens_per_hour

    @property
    def tokens(self) -> float:
        """Tokens of all texts except static ones."""
        return self.num_hours * self.tokens_per_hour

    @property
    def num_latents(self) -> int:
        """Vectors of a latent store: a state and an action for each hour, a static text for each stay."""
        return 2 * self.num_hours + self.num_stays


ASSUMED = TextFigures(48, 40, 90, 30, 7_500_000, 94_000, 0.7, measured=False)
"""Used without a trajectory store: the order of magnitude of MIMIC-IV (94,000 stays, about 15 M texts), windows of up to 72 h."""


@dataclass(frozen=True)
class PhaseTime:
    """Steps, operations and time of one phase."""

    name: str
    steps: int
    encoder_tokens: float
    """Tokens through the encoder; a token that is encoded twice counts twice."""
    flops: float
    seconds: float


def text_figures(reader: TrajectoryReader) -> TextFigures:
    """Figures of a finished store, token lengths from at most 64 of its training stays."""
    stays, windows = reader.stays, reader.windows
    split = np.asarray(stays["split"].to_pylist())
    training = stays["stay_id"].to_numpy()[split == "train"]
    hours = stays["num_hours"].to_numpy()
    chosen = training[np.linspace(0, len(training) - 1, min(len(training), _SAMPLED_STAYS)).astype(int)]
    tokens = [reader.stay(int(stay_id)) for stay_id in chosen]
    states, actions = ([len(text) for stay in tokens for text in getattr(stay, kind)] for kind in ("states", "actions"))
    window_hours = windows["num_hours"].to_numpy()[np.asarray(windows["split"].to_pylist()) == "train"]
    return TextFigures(
        hours_per_window=float(window_hours.mean()),
        tokens_per_static=float(np.mean([len(stay.static) for stay in tokens])),
        tokens_per_state=float(np.mean(states)),
        tokens_per_action=float(np.mean(actions)),
        num_hours=int(hours.sum()),
        num_stays=len(hours),
        training_share=float(hours[split == "train"].sum() / hours.sum()),
        measured=True,
    )


def run_times(
    run: RunSizes, recipe: Recipe, texts: TextFigures, sections: Mapping[str, Mapping[str, Any]], peak_tflops: float, fp32_tflops: float
) -> list[PhaseTime]:
    """Times of SFT, of every latent store (`run_order`), and of every phase that trains.

    Args:
        run: sizes of the run.
        recipe: its phases.
        texts: sizes of the texts.
        sections: the configuration as plain values.
        peak_tflops: bf16 peak of a GPU.
        fp32_tflops: fp32 peak of a GPU, for the predictor.
    """
    workers = run.num_workers
    encoder_rate = _encoder_rate(run, sections, peak_tflops, fp32_tflops)
    predictor_rate = fp32_tflops * 1e12 * float(sections["execution"]["gpu_utilisation"])
    times = []
    if recipe.encoder_start == "sft":
        sft = sections["sft"]
        tokens = float(sft["num_epochs"]) * texts.training_share * texts.tokens
        steps = max(1, int(tokens // int(sft["tokens_per_step"])))
        if sft["max_steps"] is not None and int(sft["max_steps"]) < steps:
            steps = int(sft["max_steps"])
            tokens = steps * int(sft["tokens_per_step"])
        flops = tokens * sft_flops(run)
        num_micro = -(-int(sft["tokens_per_step"]) // int(sft["micro_tokens"]))
        times.append(PhaseTime("sft", steps, tokens, flops, flops / encoder_rate / busy_workers(num_micro, workers)))
    num_steps = Budget.from_section(sections["curriculum"]).steps(recipe)
    steps_of = dict(zip((phase.name for phase in recipe.phases), num_steps, strict=True))
    for phase in run_order(recipe):
        if isinstance(phase, str):
            times.append(pass_time(run, phase, texts.tokens, sections, peak_tflops, fp32_tflops))
            continue
        steps = steps_of[phase.name]
        windows = steps * run.global_batch
        states = windows * texts.hours_per_window * texts.tokens_per_state if phase.target == "ema" else 0.0
        online = windows * texts.tokens_per_window if phase.trains_encoder else 0.0
        encoder_flops = states * forward_flops(run) + online * (forward_flops(run) + trained_flops(run))
        texts_again = windows * texts.tokens_per_window if reads_texts(phase) else 0.0
        encoder_flops += texts_again * sft_flops(run)
        weights = phase.trains_predictor * predictor_parameters(run.model.hidden, run.predictor) + head_weights(run, phase)
        per_window = (2 * texts.hours_per_window + 1) * 6 * weights
        seconds = (encoder_flops / encoder_rate + windows * per_window / predictor_rate) / run.busy_workers
        times.append(PhaseTime(phase.name, steps, states + 2 * online + texts_again, encoder_flops + windows * per_window, seconds))
    return times


def pass_time(
    run: RunSizes, name: str, tokens: float, sections: Mapping[str, Mapping[str, Any]], peak_tflops: float, fp32_tflops: float
) -> PhaseTime:
    """Time of one pass of a frozen encoder over `tokens` tokens, by the pool of encoder workers; the other arguments are `run_times`'."""
    pool = min(int(sections["execution"]["embed_workers"]), run.num_workers)  # of the same GPUs
    flops = tokens * forward_flops(run)
    return PhaseTime(name, 0, tokens, flops, flops / _encoder_rate(run, sections, peak_tflops, fp32_tflops) / pool)


def _encoder_rate(run: RunSizes, sections: Mapping[str, Mapping[str, Any]], peak_tflops: float, fp32_tflops: float) -> float:
    """FLOP/s of the encoder on one GPU."""
    return (peak_tflops if run.compute_bytes == 2 else fp32_tflops) * 1e12 * float(sections["execution"]["gpu_utilisation"])


def forward_flops(run: RunSizes) -> float:
    """FLOPs per token without a graph: two for every weight of a matrix product (attention between tokens of a text is not counted)."""
    adapters = run.lora_parameters if run.lora else 0
    return 2.0 * (run.model.latent_product_parameters + adapters)


def trained_flops(run: RunSizes) -> float:
    """FLOPs per token with a graph: 2 N each for the forward pass and the gradient of the input, 2 N for trained weights, 2 N for `full`
    checkpointing."""
    return _flops_with_a_graph(run, run.model.latent_product_parameters, not run.lora)


def _flops_with_a_graph(run: RunSizes, base: int, whole: bool) -> float:
    adapters = 0 if whole else run.lora_parameters
    again = 2 * (base + adapters) if run.activation_checkpointing == "full" else 0
    return float((6 if whole else 4) * base + 6 * adapters + again)


def sft_flops(run: RunSizes) -> float:
    """FLOPs per token of next-token training: those of `trained_flops` and of the output layer, whose logits are computed twice."""
    whole = run.made_here or not run.lora
    head = run.model.vocab * run.model.hidden
    return _flops_with_a_graph(run, run.model.product_parameters, whole) + (8 if whole else 6) * head
