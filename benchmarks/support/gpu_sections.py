"""The sections of the GPU benchmark: each builds its own model, times its own steps and notes its memory beside the plan's.

What fails is noted and the others go on: the machine may be lent for minutes.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks.gpu_peer import train
from benchmarks.support.gpu_models import GIB, Memory, Size, build, hour_texts, micro_batch, micro_packs, phase_job, run_sizes, wait
from clinjepa.capacity.memory import ALLOWANCE, PhaseMemory, embed_memory, phase_memory, sft_memory
from clinjepa.curriculum.feed.window_plan import Assignment
from clinjepa.curriculum.steps.objective import PhaseObjective
from clinjepa.curriculum.steps.optimizer import GroupedAdamW
from clinjepa.curriculum.workers.dist import Dist
from clinjepa.model.encoding.encoder import Encoder
from clinjepa.model.encoding.packing import Pack, encode_texts, pack_texts
from clinjepa.model.predictor import Predictor, build_predictor
from clinjepa.model.specs import PredictorSpec

_WARM_UP = 2
LEVELS = ("none", "selective", "full")
"""Of activation checkpointing; figures called `…_recompute_level` count from 0."""


class Bench:
    """The sections, each on a model of its own; what fails is noted and the others go on."""

    def __init__(self, size: Size, device: torch.device, num_steps: int, rounds: int, peak_tflops: float | None) -> None:
        self.size, self.device, self.num_steps, self.rounds, self.peak_tflops = size, device, num_steps, rounds, peak_tflops
        self.measured: dict[str, float] = {}
        self.memory: dict[str, dict[str, float]] = {}
        self.profiled: dict[str, Any] = {}
        self.faults: dict[str, str] = {}
        self.peers: dict[str, list[dict[str, Any]]] = {}
        self.layers = run_sizes(size, "none").model.product_parameters
        self.latent_layers = run_sizes(size, "none").model.latent_product_parameters
        self.lora = run_sizes(size, "none").lora_parameters
        self.head = size.model.vocab * size.model.hidden

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        except Exception as error:  # the machine is lent for minutes: what else can be measured is
            self.faults[name] = f"{type(error).__name__}: {str(error)[:300]}"
            traceback.print_exc()
        print(f"{name}: {time.perf_counter() - started:.0f} s {self.faults.get(name, '')}", file=sys.stderr, flush=True)

    def timed(self, action: Callable[[int], float]) -> tuple[float, float]:
        """(median units per second, median seconds) of `num_steps` calls after two that do not count; `action(i)` returns its units."""
        rates, times = [], []
        for i in range(self.num_steps + _WARM_UP):
            wait(self.device)
            started = time.perf_counter()
            units = action(i)
            wait(self.device)
            if i >= _WARM_UP:
                times.append(time.perf_counter() - started)
                rates.append(units / times[-1])
        return statistics.median(rates), statistics.median(times)

    def note_memory(self, name: str, memory: Memory, planned: PhaseMemory) -> None:
        """Tensors at their peak against the plan without its allowance; all of the device's use against the plan with it."""
        if memory.allocated:
            expected = planned.total - ALLOWANCE
            self.memory[name] = {
                "planned_gib": expected / GIB,
                "allocated_gib": memory.allocated / GIB,
                "planned_over_allocated": expected / memory.allocated,
                "used_gib": memory.used / GIB,
                "planned_with_allowance_gib": planned.total / GIB,
            }

    def note_mfu(self, name: str, tokens_per_second: float, flops_per_token: float) -> None:
        if self.peak_tflops:
            self.measured[f"{name}_mfu"] = tokens_per_second * flops_per_token / (self.peak_tflops * 1e12)

    def chunks(self, recompute: str, compiled: bool = False) -> None:
        """Forward and backward of a latent's loss over chunks: what joint refinement does with a gradient."""
        name = f"lora_{recompute}" + ("_compiled" if compiled else "")
        with self.section(name), Memory(self.device) as memory:
            encoder = build(self.size, self.device, recompute)
            memory.begin()
            if compiled:
                for layer in encoder.layers():
                    layer.compile(dynamic=True)
            packs = pack_texts(hour_texts(self.size, self.size.num_texts, 1), self.size.token_budget)
            random.Random(0).shuffle(packs)  # they come with the longest texts first

            def step(i: int) -> float:
                pack = packs[i % len(packs)]
                latents(encoder, pack, self.device).float().sum().backward()
                return pack.num_tokens

            rate, _ = self.timed(step)
            self.measured[f"{name}_tokens_per_second"] = rate
            self.note_mfu(name, rate, 4 * self.latent_layers + 6 * self.lora)
        if name not in self.faults and not compiled:
            planned = phase_memory(run_sizes(self.size, recompute), phase_job(self.size, "joint").phase)
            # Of the joint phase only the chunk, the base and the online adapters with their gradients are there.
            alone = PhaseMemory(name, planned.encoder, 2 * 4 * self.lora, 0, 0, planned.encoding, 0, 0)
            self.note_memory(name, memory, alone)

    def profile(self, recompute: str) -> None:
        """Where the time of a chunk goes: the operations with the largest share, and which attention kernels were taken."""
        with self.section("profile"):
            encoder = build(self.size, self.device, recompute)
            ((pack, *_), *_) = micro_packs(hour_texts(self.size, self.size.num_texts, 1), self.size.token_budget)
            latents(encoder, pack, self.device).float().sum().backward()
            with torch.profiler.profile() as profiler:
                latents(encoder, pack, self.device).float().sum().backward()
                wait(self.device)
            attribute = "self_device_time_total" if self.device.type == "cuda" else "self_cpu_time_total"
            taken = {event.key: float(getattr(event, attribute)) for event in profiler.key_averages()}
            # Operations and the kernels they start are both listed; shares are of the operations.
            operations = {key: value for key, value in taken.items() if key.startswith("aten::")}
            total = sum(operations.values()) or 1.0
            largest = sorted(operations, key=lambda key: -operations[key])[:12]
            self.profiled = {
                "share_of_time": {key: round(operations[key] / total, 4) for key in largest},
                "attention": sorted(key for key in taken if "attention" in key.lower() or "fmha" in key.lower())[:20],
            }

    def embed(self) -> None:
        with self.section("embed"), Memory(self.device) as memory:
            encoder = build(self.size, self.device).eval()
            memory.begin()
            texts = hour_texts(self.size, self.size.num_texts, 2)
            share = max(1, len(texts) // (self.num_steps + _WARM_UP))

            def step(i: int) -> float:
                part = texts[i * share : (i + 1) * share]
                encode_texts(encoder, part, self.size.token_budget, device=self.device)
                return sum(len(text) for text in part)

            rate, _ = self.timed(step)
            self.measured["embed_tokens_per_second"] = rate
            self.note_mfu("embed", rate, 2 * (self.latent_layers + self.lora))
        if "embed" not in self.faults:
            self.note_memory("embed", memory, embed_memory(run_sizes(self.size, "none")))

    def joint(self, recompute: str) -> None:
        """A whole step of joint refinement: one micro-batch of the longest windows, clip, AdamW, EMA."""
        with self.section("joint"), Memory(self.device) as memory:
            encoder = build(self.size, self.device, recompute, with_target=True)
            memory.begin()
            batches = [micro_batch(self.size, seed) for seed in range(2)]
            step = self.phase_step("joint", encoder, batches, recompute)
            rate, seconds = self.timed(step)
            self.measured |= {"joint_step_seconds": seconds, "joint_encoder_tokens_per_second": rate}
            self.note_mfu("joint", 1 / seconds, statistics.mean(map(self.joint_flops, batches)))
        if "joint" not in self.faults:
            run = run_sizes(self.size, recompute)
            self.note_memory("joint", memory, phase_memory(run, phase_job(self.size, "joint").phase))

    def joint_flops(self, batch: dict[str, torch.Tensor]) -> float:
        """Of a step, as the plan counts them: every text without a graph and with one, the target reads states (docs/scaling.md, Time)."""
        lengths, states = batch["text_lengths"], self.size.micro_batch * self.size.hours
        forward = 2 * (self.latent_layers + self.lora)
        return int(lengths.sum()) * (forward + 4 * self.latent_layers + 6 * self.lora) + int(lengths[:states].sum()) * forward

    def predictor_only(self) -> None:
        """A whole step of a phase on stored latents."""
        size = self.size
        with self.section("predictor"), Memory(self.device) as memory:
            shape = (size.micro_batch, size.hours, size.model.hidden)
            batch = {name: value for name, value in micro_batch(size, 0).items() if name in ("valid", "window_ids", "rollout_starts")}
            batch |= {"z_static": torch.randn(shape[0], shape[2]), "z_state": torch.randn(shape), "z_action": torch.randn(shape)}
            step = self.phase_step("warmup", None, [batch], "none")
            _, seconds = self.timed(step)
            self.measured |= {"predictor_step_seconds": seconds, "predictor_windows_per_second": size.micro_batch / seconds}
        if "predictor" not in self.faults:
            self.note_memory("predictor", memory, phase_memory(run_sizes(size, "none"), phase_job(size, "warmup").phase))

    def phase_step(
        self, phase: str, encoder: Encoder | None, batches: list[dict[str, torch.Tensor]], recompute: str
    ) -> Callable[[int], float]:
        """The phase's own step (clinjepa/curriculum/phase.py) on given micro-batches; it returns the tokens that were encoded."""
        job, dist = phase_job(self.size, phase, recompute), Dist(0, 1, self.device)
        spec = PredictorSpec(**self.size.predictor | {"latent_dim": self.size.model.hidden})
        predictor: Predictor = build_predictor(spec, 0).to(self.device).train()
        groups = {"predictor": list(predictor.named_parameters())}
        if encoder is not None:
            groups["encoder"] = encoder.online_parameters()
        optimizer = GroupedAdamW(groups, 0.04)
        objective = PhaseObjective(job, predictor, encoder, dist)
        counts = (self.size.micro_batch * (self.size.hours - 1), self.size.micro_batch)

        def step(i: int) -> float:
            optimizer.zero_grad()
            arrays = {name: value.to(self.device) for name, value in batches[i % len(batches)].items()}
            _, tokens = objective.forward_backward(arrays, Assignment(i, 0, 1), counts, sync=True)
            norms = dict(zip(optimizer.groups, optimizer.squared_norms(self.device).sqrt().tolist(), strict=True))
            optimizer.step(dict.fromkeys(optimizer.groups, 1e-5), norms, 1.0)
            if encoder is not None:
                encoder.ema_update(0.996)
            return tokens

        return step

    def sft(self, levels: list[str]) -> None:
        """Next-token training of the adapters, a whole step per micro-batch, in turn with the peer's two forms.

        levels: of activation checkpointing, the first that fits is taken.
        """
        texts = hour_texts(self.size, self.size.num_texts, 3)
        budget = self.size.token_budget
        candidates = {"packed": (budget, budget // 2, budget // 4), "padded": (2 * budget, budget, budget // 2)}
        rates: list[float] = []
        for number in range(self.rounds):
            with self.section(f"sft round {number}"):
                rates.append(self.own_sft(texts, levels))
            for kind, places in candidates.items():
                with self.section(f"trainer {kind} round {number}"):
                    done = self.first_that_fits(texts, kind, places)
                    candidates[kind] = (done["places"],)
                    self.peers.setdefault(kind, []).append(done)
        if rates:
            self.measured["sft_tokens_per_second"] = statistics.median(rates)
            self.note_mfu("sft", self.measured["sft_tokens_per_second"], 4 * (self.layers + self.head) + 6 * self.lora)
        for kind, done in self.peers.items():
            peer = statistics.median(each["tokens_per_second"] for each in done)
            self.measured[f"{kind}_trainer_tokens_per_second"] = peer
            if rates:
                self.measured[f"sft_over_{kind}_trainer"] = self.measured["sft_tokens_per_second"] / peer

    def own_sft(self, texts: list[Any], levels: list[str]) -> float:
        while True:
            try:
                with Memory(self.device) as memory:
                    rate = self.sft_rate(texts, levels[0], memory)
                break
            except torch.OutOfMemoryError:
                if len(levels) == 1:
                    raise
                del levels[0]
        self.note_memory("sft", memory, sft_memory(run_sizes(self.size, levels[0])))
        self.measured["sft_recompute_level"] = LEVELS.index(levels[0])
        return rate

    def sft_rate(self, texts: list[Any], recompute: str, memory: Memory) -> float:
        encoder = build(self.size, self.device, recompute, with_head=True)
        memory.begin()
        optimizer = GroupedAdamW({"encoder": encoder.online_parameters()}, 0.0)
        micro_batches = micro_packs(texts, run_sizes(self.size, recompute).micro_tokens)

        def step(i: int) -> float:
            optimizer.zero_grad()
            packs = micro_batches[i % len(micro_batches)]
            num_tokens = sum(pack.num_tokens for pack in packs)
            for pack in packs:
                ids, positions, labels = (each.to(self.device) for each in (pack.input_ids_L, pack.position_ids_L, pack.labels_L))
                (encoder(ids, positions, labels_L=labels) / num_tokens).backward()
            norms = {"encoder": float(optimizer.squared_norms(self.device).sqrt())}
            optimizer.step({"encoder": 1e-4}, norms, 1.0)
            return num_tokens

        return self.timed(step)[0]

    def first_that_fits(self, texts: list[Any], kind: str, places: tuple[int, ...]) -> dict[str, Any]:
        for i, each in enumerate(places):
            try:
                return train(self.size, texts, self.device, kind, each, self.num_steps)
            except torch.OutOfMemoryError:
                if i == len(places) - 1:
                    raise
                print(f"trainer {kind}: {each} places do not fit", file=sys.stderr, flush=True)
        raise ValueError("no number of places was given")


def latents(encoder: Encoder, pack: Pack, device: torch.device) -> torch.Tensor:
    return encoder(*(each.to(device) for each in (pack.input_ids_L, pack.position_ids_L, pack.last_index_N)))
