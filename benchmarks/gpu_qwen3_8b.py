"""Qwen3-8B with LoRA on one GPU, without Ray: speed and memory of every kind of step, against Hugging Face Trainer + PEFT.

Runs where torch, transformers, peft and accelerate are, without network. On a CPU (or with `--tiny`) the same code runs on the
same structure shrunk: a proof of the script, its figures mean nothing. Formulas: docs/scaling.md.
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

from benchmarks.gpu_models import (
    FULL,
    GIB,
    TINY,
    Memory,
    Size,
    build,
    hour_texts,
    micro_batch,
    micro_packs,
    phase_job,
    run_sizes,
    wait,
)
from benchmarks.gpu_peer import train
from benchmarks.harness import Report, arguments, publish
from clinjepa.curriculum.budget import ALLOWANCE, PhaseMemory, embed_memory, phase_memory, sft_memory
from clinjepa.curriculum.dist import Dist
from clinjepa.curriculum.objective import PhaseObjective
from clinjepa.curriculum.optimizer import GroupedAdamW
from clinjepa.curriculum.plan import Assignment
from clinjepa.curriculum.sizes import known_gpus
from clinjepa.model.encoder import Encoder
from clinjepa.model.packing import Pack, encode_texts, pack_texts
from clinjepa.model.predictor import Predictor, build_predictor
from clinjepa.model.specs import PredictorSpec

GOALS = {
    "lora_tokens_per_second": ">= 10000 on an H100",
    "sft_tokens_per_second": ">= 10000 on an H100",
    "sft_over_padded_trainer": ">= 1.5",
    "sft_over_packed_trainer": ">= 1.0",
    "worst_memory_error": "<= 0.15",
}
UNITS = {
    "tokens_per_second": "tokens/s",
    "mfu": "of the GPU's bf16 peak",
    "seconds": "s",
    "over": "times",
    "error": "share",
    "windows": "1/s",
}
"""By a part of a figure's name."""


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
        """(median units per second, median seconds) of `num_steps` calls after one that does not count; `action(i)` returns its units."""
        rates, times = [], []
        for i in range(self.num_steps + 1):
            wait(self.device)
            started = time.perf_counter()
            units = action(i)
            wait(self.device)
            if i:
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
            self.note_mfu(name, rate, 4 * self.layers + 6 * self.lora)
        if name not in self.faults and not compiled:
            planned = phase_memory(run_sizes(self.size, recompute), phase_job(self.size, "joint").parsed_phase)
            # Of the joint phase only the chunk, the base and the online adapters with their gradients are there.
            alone = PhaseMemory(name, planned.encoder, 2 * 4 * self.lora, 0, 0, planned.encoding, 0, 0)
            self.note_memory(name, memory, alone)

    def profile(self, recompute: str) -> None:
        """Where the time of a chunk goes: the operations with the largest share, and which attention kernels were taken."""
        with self.section("profile"):
            encoder = build(self.size, self.device, recompute)
            (pack, *_) = micro_packs(hour_texts(self.size, self.size.num_texts, 1), self.size.token_budget)
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
            share = max(1, len(texts) // (self.num_steps + 1))

            def step(i: int) -> float:
                part = texts[i * share : (i + 1) * share]
                encode_texts(encoder, part, self.size.token_budget, device=self.device)
                return sum(len(text) for text in part)

            rate, _ = self.timed(step)
            self.measured["embed_tokens_per_second"] = rate
            self.note_mfu("embed", rate, 2 * (self.layers + self.lora))
        if "embed" not in self.faults:
            self.note_memory("embed", memory, embed_memory(run_sizes(self.size, "none")))

    def joint(self, recompute: str) -> None:
        """A whole step of joint refinement: one micro-batch of the longest windows, clip, AdamW, EMA."""
        with self.section("joint"), Memory(self.device) as memory:
            encoder = build(self.size, self.device, recompute, with_target=True)
            memory.begin()
            step = self.phase_step("joint", encoder, [micro_batch(self.size, seed) for seed in range(2)], recompute)
            rate, seconds = self.timed(step)
            self.measured |= {"joint_step_seconds": seconds, "joint_encoder_tokens_per_second": rate}
        if "joint" not in self.faults:
            run = run_sizes(self.size, recompute)
            self.note_memory("joint", memory, phase_memory(run, phase_job(self.size, "joint").parsed_phase))

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
            self.note_memory("predictor", memory, phase_memory(run_sizes(size, "none"), phase_job(size, "warmup").parsed_phase))

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
        packs = micro_packs(texts, self.size.token_budget)

        def step(i: int) -> float:
            optimizer.zero_grad()
            pack = packs[i % len(packs)]
            ids, positions, labels = (each.to(self.device) for each in (pack.input_ids_L, pack.position_ids_L, pack.labels_L))
            (encoder(ids, positions, labels_L=labels) / pack.num_tokens).backward()
            norms = {"encoder": float(optimizer.squared_norms(self.device).sqrt())}
            optimizer.step({"encoder": 1e-4}, norms, 1.0)
            return pack.num_tokens

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


def main() -> int:
    given = arguments(__doc__ or "", tiny=False, compile=False, steps=0, peak_tflops=0.0)
    device = torch.device("cuda" if torch.cuda.is_available() and not given.tiny else "cpu")
    tiny = device.type == "cpu"
    name = torch.cuda.get_device_name() if not tiny else "CPU"
    known = [values["bf16_tflops"] for kind, values in known_gpus().items() if kind in name]
    num_steps = given.steps or (2 if tiny else 6 if given.quick else 20)
    bench = Bench(TINY if tiny else FULL, device, num_steps, 1 if given.quick or tiny else 3, given.peak_tflops or (known or [None])[0])

    for level in LEVELS:
        bench.chunks(level)
    fitting = [level for level in LEVELS if f"lora_{level}_tokens_per_second" in bench.measured]
    if fitting:
        bench.measured["lora_tokens_per_second"] = bench.measured[f"lora_{fitting[0]}_tokens_per_second"]
        bench.profile(fitting[0])
    if fitting and given.compile:
        bench.chunks(fitting[0], compiled=True)
    bench.embed()
    bench.predictor_only()
    # Joint refinement holds more than a chunk, so what just fitted alone may not fit with it.
    for level in fitting:
        bench.joint(level)
        if "joint" not in bench.faults:
            bench.measured["joint_recompute_level"] = LEVELS.index(level)
            break
        bench.faults[f"joint, {level}"] = bench.faults.pop("joint")
    bench.sft(fitting or [LEVELS[-1]])

    if bench.memory:
        bench.measured["worst_memory_error"] = max(abs(1 - each["planned_over_allocated"]) for each in bench.memory.values())
    report = Report(
        "gpu_qwen3_8b",
        bench.measured,
        {} if tiny else {goal: bound for goal, bound in GOALS.items() if goal in bench.measured},
        {figure: next((unit for part, unit in UNITS.items() if part in figure), "") for figure in bench.measured},
        {
            "device": name,
            "model": "Qwen3-8B, random weights" if not tiny else "Qwen3 shrunk: a proof of the script, no measurement",
            "mfu": "tokens/s * FLOPs a token / peak; with a graph 4 N + 6 N_lora, without 2 (N + N_lora); N = "
            f"{bench.layers:,} weights of the layers' products, with the output layer ({bench.head:,}) in SFT; N_lora = {bench.lora:,}; "
            f"peak {bench.peak_tflops} TFLOP/s bf16; what is computed twice is not counted",
            "memory": bench.memory,
            "profile": bench.profiled,
            "trainer": bench.peers,
            "faults": bench.faults,
            "steps": num_steps,
        },
    )
    publish(report, given.quick or tiny)
    return 1 if bench.faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
