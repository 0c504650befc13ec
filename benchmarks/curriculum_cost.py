"""The five phases as built (frozen encoders read latents that were stored once), beside the same phases with the encoder run at every step.

Both sides in one process, packed and with equal texts of a micro-batch encoded once, in alternating rounds; their losses must agree.
They agree to float32 rounding at first (stored texts were encoded in other chunks), and training multiplies what rounding leaves. So the
side that encodes at every step runs once more with sums in another order (another number of threads), and the two sides must not lie
further apart than a few times what that alone does.
Encoder tokens count every pass of a token: without a graph, with one, and those that filled the latent stores.

What can be saved follows from the phases' shares of the steps w, j, a, f (warmup, joint, alignment, finalization; 1 together), from s, the
tokens of a step's targets over those of its inputs, and from the stores: each text of all stays once, for two encoders. In units of the
inputs of all steps, encoding at every step costs w + a + f + s a + (2 + s) j (joint refinement encodes its inputs again with a graph), and
as built (2 + s) j + s a + 2 / (e o t): e epochs, o windows that hold an hour, t the training stays' share of all tokens.
"""

from __future__ import annotations

import statistics
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.support.demo_stores import DemoStores, demo_config
from benchmarks.support.harness import Cost, Report, arguments, publish, timed
from clinjepa.curriculum.feed.plain_feed import plain_feed
from clinjepa.curriculum.feed.window_batches import WindowBatches
from clinjepa.curriculum.hard_sync import hard_sync
from clinjepa.curriculum.jobs import SyncJob
from clinjepa.curriculum.phase import run_phase
from clinjepa.curriculum.workers.dist import Dist
from clinjepa.storage import Folder

SIDES = {"stored": False, "every_step": True}
TOLERANCE = 1e-4
"""Largest difference of a step's loss between the sides, over the loss, in the first FIRST_STEPS steps."""
FIRST_STEPS = 4
TIMES_ROUNDING = 4.0
"""How much larger than between two runs that differ by rounding the median difference of a step's loss may be, over all phases."""
PAPER_EPOCHS = 1.9


@dataclass(frozen=True)
class Shape:
    """What the possible saving depends on. shares: of the steps, by phase; targets: s; epochs: e; overlap: o; training: t."""

    shares: Mapping[str, float]
    targets: float
    epochs: float
    overlap: float
    training: float


def cost_every_step(shape: Shape, gradient: bool = True) -> float:
    """Encoder tokens over input tokens of all steps when frozen phases encode too; without `gradient`, joint's second pass is left out."""
    share = shape.shares
    joint = (2 if gradient else 1) + shape.targets
    return share["warmup"] + share["finalization"] + (1 + shape.targets) * share["alignment"] + joint * share["joint"]


def cost_stored(shape: Shape, gradient: bool = True) -> float:
    """The same as built, two latent stores included."""
    joint = (2 if gradient else 1) + shape.targets
    stores = 2 / (shape.epochs * shape.overlap * shape.training)
    return shape.targets * shape.shares["alignment"] + joint * shape.shares["joint"] + stores


def possible_saving(shape: Shape) -> float:
    """Share of the encoder tokens that need not be computed; negative when there are too few epochs for stores to pay."""
    return 1 - cost_stored(shape) / cost_every_step(shape)


@dataclass
class Outcome:
    """One side of one round: losses of all steps; encoder tokens and time by phase (and `stores`)."""

    losses: list[float] = field(default_factory=list)
    tokens: dict[str, int] = field(default_factory=dict)
    costs: dict[str, Cost] = field(default_factory=dict)

    def seconds(self, of: str, without: str = "") -> float:
        """`cpu_seconds` or `wall_seconds` of all phases but one."""
        return sum(getattr(cost, of) for name, cost in self.costs.items() if name != without)


def run_curriculum(stores: DemoStores, root: Path, num_steps: int, reencode: bool) -> Outcome:
    """All five phases, one after the other, with or without latent stores."""
    steps, outcome = stores.steps(num_steps), Outcome()
    first, before = 0, None

    def embed(name: str, encoder: str | None) -> str | None:
        if reencode:
            return None
        addresses: list[str] = []
        cost = timed(lambda: addresses.append(stores.embed(root / name, encoder)))
        before = outcome.costs.get("stores", Cost(0.0, 0.0))
        outcome.costs["stores"] = Cost(before.wall_seconds + cost.wall_seconds, before.cpu_seconds + cost.cpu_seconds)
        outcome.tokens["stores"] = outcome.tokens.get("stores", 0) + stores.embedded[addresses[0]].num_tokens
        return addresses[0]

    def train(phase: str, **inputs: Any) -> str:
        nonlocal first
        more = {"reencode": reencode} if phase != "joint" else {}
        every = {"checkpoint_every_steps": num_steps, "total_steps": num_steps, "first_step": first}
        job = stores.job(phase, root / phase, steps[phase], predictor=before, **every, **inputs, **more)
        outcome.costs[phase] = timed(lambda: run_phase(job, Dist.current(), plain_feed(job), lambda *_: None))
        metrics = Folder(job.out).read_json("metrics.json")
        outcome.tokens[phase] = metrics["summary"]["tokens_encoded"]
        outcome.losses += [row["loss"] for row in metrics["steps"]]
        first += steps[phase]
        return job.out

    before = train("warmup", latents=embed("latents-before", None))
    joint = before = train("joint")
    latents = embed("latents-after", joint)
    before = train("alignment", latents=latents, encoder=joint, target=joint)
    hard_sync(SyncJob(Folder(root / "hard_sync").address, joint, before))
    train("finalization", latents=latents, encoder=joint)
    return outcome


def shape_of(stores: DemoStores, num_steps: int, tokens: Mapping[str, int]) -> Shape:
    """tokens: by phase, with the encoder run at every step; they give the tokens of a step's inputs and targets."""
    steps = stores.steps(num_steps)
    inputs = (tokens["warmup"] + tokens["finalization"]) / (steps["warmup"] + steps["finalization"])
    targets = tokens["alignment"] / steps["alignment"] - inputs
    job = stores.job("joint", stores.root / "unused", 1)
    plan = WindowBatches(job).plan
    windows = stores.reader.windows
    split = np.asarray(windows["split"].to_pylist())
    stays, first, hours = (windows[name].to_numpy()[split == "train"] for name in ("stay_id", "start_hour", "num_hours"))
    held = {(stay, hour) for stay, start, count in zip(stays, first, hours, strict=True) for hour in range(start, start + count)}
    return Shape(
        shares={name: count / num_steps for name, count in steps.items()},
        targets=targets / inputs,
        epochs=num_steps * job.curriculum_settings.global_batch / len(plan.training_ids),
        overlap=float(hours.sum()) / len(held),
        training=training_share(stores),
    )


def training_share(stores: DemoStores) -> float:
    """Tokens of the training stays over those of all stays."""
    totals = {"train": 0, "other": 0}
    for stay_id, split in zip(stores.reader.stays["stay_id"].to_pylist(), stores.reader.stays["split"].to_pylist(), strict=True):
        stay = stores.reader.stay(stay_id)
        totals["train" if split == "train" else "other"] += sum(len(text) for text in (stay.static, *stay.states, *stay.actions))
    return totals["train"] / sum(totals.values())


def differences(one: Outcome, other: Outcome) -> list[float]:
    """Of two loss curves, step by step, over the loss."""
    return [abs(a - b) / abs(b) for a, b in zip(one.losses, other.losses, strict=True)]


def compared(outcomes: Mapping[str, list[Outcome]], rounding: Outcome) -> dict[str, float]:
    """How far apart the losses of the sides are, beside what rounding does. SystemExit where that does not explain it."""
    every_step = outcomes["every_step"][0]
    sides, by_rounding = differences(outcomes["stored"][0], every_step), differences(rounding, every_step)
    found = {
        "largest_loss_difference_of_first_steps": max(sides[:FIRST_STEPS]),
        "median_loss_difference": statistics.median(sides),
        "median_loss_difference_by_rounding": statistics.median(by_rounding),
    }
    if max(sides[:FIRST_STEPS]) > TOLERANCE or statistics.median(sides) > max(TIMES_ROUNDING * statistics.median(by_rounding), TOLERANCE):
        raise SystemExit(f"the losses of the two sides differ by more than rounding explains: {found}")
    return found


def judged(shape: Shape, outcomes: Mapping[str, list[Outcome]]) -> dict[str, float]:
    """Achieved over possible savings, in encoder tokens and in CPU time, and what they come to in wall time.

    The time that could be saved is that of the tokens that could be saved, at the rate at which the stores were filled. Joint
    refinement, which is the same job on both sides, is left out of the times that are subtracted.
    """

    def middle(name: str, of: str, without: str = "") -> float:
        return statistics.median(each.seconds(of, without) for each in outcomes[name])

    tokens = {name: sum(found[0].tokens.values()) for name, found in outcomes.items()}
    achieved, possible = 1 - tokens["stored"] / tokens["every_step"], possible_saving(shape)
    rate = statistics.median(each.tokens["stores"] / each.costs["stores"].cpu_seconds for each in outcomes["stored"])
    saved = {of: middle("every_step", of, "joint") - middle("stored", of, "joint") for of in ("cpu_seconds", "wall_seconds")}
    return {
        "tokens_achieved_over_possible": achieved / possible,
        "time_achieved_over_possible": saved["cpu_seconds"] / (possible * tokens["every_step"] / rate),
        "tokens_saved_share": achieved,
        "tokens_possible_share": possible,
        "wall_saved_share": saved["wall_seconds"] / middle("every_step", "wall_seconds"),
        "wall_seconds_stored": middle("stored", "wall_seconds"),
        "wall_seconds_every_step": middle("every_step", "wall_seconds"),
    }


def remaining(shape: Shape) -> dict[str, float]:
    """Share of the encoder's forward tokens (joint's second pass apart) that remain, by epochs, for this corpus."""
    found = {}
    for epochs in (PAPER_EPOCHS, 5.0, 20.0, float("inf")):
        at = Shape(shape.shares, shape.targets, epochs, shape.overlap, shape.training)
        found[f"{epochs:g} epochs"] = cost_stored(at, gradient=False) / cost_every_step(at, gradient=False)
    return found


def main() -> None:
    options = arguments(__doc__ or "", data=None, dataset="mimic_iv_demo", steps=200, rounds=3, threads=1)
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore", UserWarning)
    num_steps, rounds = (24, 1) if options.quick else (options.steps, options.rounds)
    overrides = {"source.simulator.num_patients": 12, "windows.max_hours": 24, "curriculum.global_batch": 8} if options.quick else {}
    outcomes: dict[str, list[Outcome]] = {name: [] for name in SIDES}
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        stores = DemoStores(root / "stores", demo_config("simulator" if options.quick else options.dataset, options.data, overrides))
        for number in range(rounds):
            for name in SIDES if number % 2 == 0 else reversed(SIDES):
                folder = root / f"{name}-{number}"
                outcomes[name].append(run_curriculum(stores, folder, num_steps, SIDES[name]))
                Folder(folder).remove()
        torch.set_num_threads(2 if options.threads == 1 else 1)
        rounding = run_curriculum(stores, root / "rounding", num_steps, reencode=True)
        shape = shape_of(stores, num_steps, outcomes["every_step"][0].tokens)
        details = stores.describe() | {"num_steps": num_steps, "threads": options.threads}
    losses = compared(outcomes, rounding)
    print(f"every step: w + a + f + s a + (2 + s) j = {cost_every_step(shape):.3f} of the inputs of all steps")
    print(f"as built: (2 + s) j + s a + 2 / (e o t) = {cost_stored(shape):.3f}; {possible_saving(shape):.1%} can be saved")
    print(f"with s = {shape.targets:.2f}, e = {shape.epochs:.2f}, o = {shape.overlap:.2f}, t = {shape.training:.2f}, {dict(shape.shares)}")
    measured = judged(shape, outcomes) | losses
    goal = {
        "tokens_achieved_over_possible": ">= 0.95",
        "time_achieved_over_possible": ">= 0.95",
        "largest_loss_difference_of_first_steps": "<= 1e-4",
    }
    unit = {name: "s" if name.startswith("wall_seconds") else "ratio" for name in measured}
    details |= {
        "formula": "1 - ((2 + s) j + s a + 2 / (e o t)) / (w + a + f + s a + (2 + s) j)",
        "shape": asdict(shape),
        "remaining_forward_tokens": remaining(shape),
        "tokens": {name: found[0].tokens for name, found in outcomes.items()},
        "costs": {
            name: [{phase: asdict(cost) for phase, cost in each.costs.items()} for each in found] for name, found in outcomes.items()
        },
    }
    publish(Report("curriculum_cost", measured, goal, unit, details), options.quick)


if __name__ == "__main__":
    main()
