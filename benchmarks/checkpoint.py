"""How long training stands still for a checkpoint that is written beside it, and for one that it waits for.

`full`: what joint refinement of Qwen3-8B saves (predictor of 92.5 M parameters, LoRA of 15.3 M online and as target, Adam moments of both),
captured and written as the training loop does it, with optimizer steps of that predictor in between. `demo`: joint refinement of the
demo's size itself, as its `timing.json` tells. Size is that of the checkpoint's files over the bytes of its tensors.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.support.demo_stores import DemoStores, demo_config
from benchmarks.support.harness import Report, arguments, publish
from clinjepa.curriculum.checkpoints.checkpoint import CheckpointWriter, find_checkpoint
from clinjepa.curriculum.checkpoints.input_digests import agreed_digests, phase_inputs
from clinjepa.curriculum.feed.plain_feed import plain_feed
from clinjepa.curriculum.phase import run_phase
from clinjepa.curriculum.steps.optimizer import GroupedAdamW
from clinjepa.curriculum.workers.dist import Dist
from clinjepa.model.predictor import build_predictor, predictor_state
from clinjepa.model.specs import PredictorSpec
from clinjepa.storage import Folder

QWEN3_8B = {"layers": 36, "hidden": 4096, "projections": {"q_proj": 4096, "k_proj": 1024, "v_proj": 1024, "o_proj": 4096}}
RANK = 16
MODES = {"asynchronous": True, "synchronous": False}


def adapters(layers: int, hidden: int, projections: dict[str, int], rank: int = RANK) -> dict[str, Tensor]:
    """LoRA tensors of that many layers: A [rank, in] and B [out, rank] of every projection (o_proj's in is `hidden` too)."""
    shapes = {f"layers.{i}.{name}": out for i in range(layers) for name, out in projections.items()}
    tensors = {f"{name}.lora_A": torch.randn(rank, hidden) for name in shapes}
    return tensors | {f"{name}.lora_B": torch.randn(out, rank) for name, out in shapes.items()}


class Training:
    """The predictor and adapters with their optimizer; `step` trains, `capture` gives what a checkpoint holds."""

    def __init__(self, spec: PredictorSpec, lora: dict[str, Tensor]) -> None:
        self.predictor = build_predictor(spec, 0)
        self.online = {name: nn.Parameter(value) for name, value in lora.items()}
        self.target = {name: value.clone() for name, value in lora.items()}
        groups = {"predictor": list(self.predictor.named_parameters()), "encoder": list(self.online.items())}
        self.optimizer = GroupedAdamW(groups, 0.04)
        self.inputs = torch.randn(1, spec.latent_dim), torch.randn(1, 24, spec.latent_dim), torch.randn(1, 24, spec.latent_dim)

    def step(self) -> None:
        pred, _ = self.predictor(*self.inputs)
        pred.abs().sum().backward()
        for parameter in self.online.values():
            parameter.grad = torch.full_like(parameter, 1e-3)
        self.optimizer.step({"predictor": 1e-4, "encoder": 1e-5}, {"predictor": 1.0, "encoder": 1.0}, 1.0)
        self.optimizer.zero_grad()

    def capture(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """Whole copies on the CPU, as a phase's modules give them."""
        moments, state = self.optimizer.state()
        online = {name: value.detach().to("cpu", copy=True) for name, value in self.online.items()}
        target = {name: value.to("cpu", copy=True) for name, value in self.target.items()}
        return {"predictor": predictor_state(self.predictor), "optimizer": moments, "online": online, "target": target}, state


@dataclass
class Course:
    """One side of one round. blocked: seconds of each save; stepping: seconds of all steps; ending: until the last one was whole."""

    blocked: list[float]
    stepping: float
    ending: float

    @property
    def seconds(self) -> float:
        return sum(self.blocked) + self.stepping + self.ending


def course(
    training: Training, folder: Path, num_saves: int, steps_between: int, save: Callable[[CheckpointWriter, int], None], mode: bool
) -> Course:
    """Steps and saves in turn, `steps_between` steps before each save and after the last."""
    writer = CheckpointWriter(Folder(folder), {"settings": "benchmark"}, keep=2, asynchronous=mode)
    blocked, stepping = [], 0.0
    for number in range(num_saves + 1):
        began = time.perf_counter()
        for _ in range(steps_between):
            training.step()
        stepping += time.perf_counter() - began
        if number < num_saves:
            began = time.perf_counter()
            save(writer, number)
            blocked.append(time.perf_counter() - began)
    began = time.perf_counter()
    writer.wait()
    ending = time.perf_counter() - began
    writer.close()
    return Course(blocked, stepping, ending)


def full_size(training: Training, root: Path, rounds: int, num_saves: int, steps_between: int) -> dict[str, Any]:
    """Both ways of saving in turn."""
    tensors, _ = training_with_moments(training)
    wanted = {name: sum(value.nbytes for value in group.values()) for name, group in tensors.items()}
    del tensors

    def save(writer: CheckpointWriter, number: int) -> None:
        captured, state = training.capture()
        writer.save(number + 1, captured, {"optimizer": state, "history": {}})

    courses: dict[str, list[Course]] = {name: [] for name in MODES}
    for number in range(rounds):
        for name in MODES if number % 2 == 0 else reversed(MODES):
            folder = root / f"{name}-{number}"
            courses[name].append(course(training, folder, num_saves, steps_between, save, MODES[name]))
            written = folder_bytes(folder, num_saves)
            Folder(folder).remove()
    blocked = {name: statistics.median(seconds for each in rounds_of for seconds in each.blocked) for name, rounds_of in courses.items()}
    seconds = {name: statistics.median(each.seconds for each in rounds_of) for name, rounds_of in courses.items()}
    began = time.perf_counter()
    training.capture()
    return {
        "blocked_seconds": blocked,
        "seconds_of_course": seconds,
        "capture_seconds": time.perf_counter() - began,
        "tensor_bytes": wanted,
        "checkpoint_bytes": written,
        "num_saves": num_saves,
        "steps_between": steps_between,
        "rounds": {name: [vars(each) for each in rounds_of] for name, rounds_of in courses.items()},
    }


def training_with_moments(training: Training) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """What is captured after a first step: before it there are no moments."""
    training.step()
    return training.capture()


def folder_bytes(folder: Path, step: int) -> int:
    """Bytes of one checkpoint's files."""
    return sum(path.stat().st_size for path in (folder / f"step-{step:08d}").iterdir())


def blocked_in_training(stores: DemoStores, root: Path, num_steps: int, every: int, asynchronous: bool) -> dict[str, float]:
    """Seconds per save and per step of joint refinement. The last save, which always waits, is apart: its own state knows those before."""
    job = stores.job("joint", root, num_steps, checkpoint_every_steps=every, asynchronous_checkpoints=asynchronous)
    run_phase(job, Dist.current(), plain_feed(job), lambda *_: None)
    checkpoint = find_checkpoint(Folder(job.out) / "checkpoints", agreed_digests(job, partial(phase_inputs, job), Dist.current()))
    if checkpoint is None:
        raise RuntimeError("the training left no checkpoint")
    timing = checkpoint.state()["history"]["timing"]
    size = sum(each["bytes"] for each in checkpoint.files.values())
    Folder(job.out).remove()
    return {
        "blocked_seconds": timing["blocked_seconds"] / timing["num_saves"],
        "seconds_per_step": timing["seconds"] / timing["steps"],
        "checkpoint_bytes": size,
    }


def main() -> None:
    options = arguments(__doc__ or "", rounds=3, saves=4, steps_between=8, folder=None, threads=1)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    spec, lora = PredictorSpec(), adapters(**QWEN3_8B)
    rounds, saves, between, steps, every = options.rounds, options.saves, options.steps_between, 60, 10
    if options.quick:
        spec, lora = PredictorSpec(latent_dim=256, hidden_size=256, num_layers=2), adapters(**(QWEN3_8B | {"layers": 1}))
        rounds, saves, between, steps, every = 1, 2, 3, 6, 2
    overrides = {"source.simulator.num_patients": 40, "curriculum.ema_momentum": 0.9}
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        root = Path(scratch)
        full = full_size(Training(spec, lora), root, rounds, saves, between)
        stores = DemoStores(root / "stores", demo_config("simulator", None, overrides))
        demo: dict[str, list[dict[str, float]]] = {name: [] for name in MODES}
        for number in range(rounds):
            for name in MODES if number % 2 == 0 else reversed(MODES):
                demo[name].append(blocked_in_training(stores, root / f"demo-{name}-{number}", steps, every, MODES[name]))
    demo_blocked = {name: statistics.median(each["blocked_seconds"] for each in found) for name, found in demo.items()}
    tensor_bytes = sum(full["tensor_bytes"].values())
    measured = {f"full_blocked_seconds_{name}": seconds for name, seconds in full["blocked_seconds"].items()}
    measured |= {
        "full_blocked_share": full["blocked_seconds"]["asynchronous"] / full["blocked_seconds"]["synchronous"],
        "full_course_ratio": full["seconds_of_course"]["asynchronous"] / full["seconds_of_course"]["synchronous"],
        "full_size_ratio": full["checkpoint_bytes"] / tensor_bytes,
        "full_gb": full["checkpoint_bytes"] / 1e9,
    }
    measured |= {f"demo_blocked_seconds_{name}": seconds for name, seconds in demo_blocked.items()}
    goal = {"full_blocked_share": "< 1, reported", "full_size_ratio": "<= 1.01", "full_course_ratio": "<= 1"}
    unit = {name: "s" if "_seconds_" in name else "GB" if name.endswith("_gb") else "ratio" for name in measured}
    details = {"full": full, "demo": demo, "threads": options.threads, "parameters": sum(value.numel() for value in lora.values())}
    publish(Report("checkpoint", measured, goal, unit, details), options.quick)


if __name__ == "__main__":
    main()
