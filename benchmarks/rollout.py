"""A rollout that keeps keys and values, beside one that reads the whole window again for every hour.

24 recorded hours, then 48 predicted ones, fp32, without a graph; the full-size predictor (92.5 M parameters) and the demo's. Both sides
give the predictions and the hidden states of all predicted hours, which are compared, in float64 too: there only rounding is gone.
In fp32 each side is also held against float64, which shows what rounding alone does to either.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from benchmarks.support.demo_stores import ROOT
from benchmarks.support.harness import Report, all_rounds, arguments, interleaved, median, publish
from clinjepa.config import load_config, result_fields
from clinjepa.model.predictor import Predictor, build_predictor
from clinjepa.model.rollout import rollout
from clinjepa.model.specs import PredictorSpec

CONTEXT, HORIZON = 24, 48
SANE = 1e-4
"""A difference above this share of the largest value is a fault and not rounding; nothing is timed then."""


def latents(dim: int, batch: int, num_hours: int) -> tuple[Tensor, Tensor, Tensor]:
    """Static, state and action latents of random windows, of unit scale."""
    generator = torch.Generator().manual_seed(0)
    static = torch.randn(batch, dim, generator=generator)
    return static, *(torch.randn(batch, num_hours, dim, generator=generator) for _ in range(2))


def recomputed(
    predictor: Predictor, z_static_BD: Tensor, z_state_BTD: Tensor, z_action_BTD: Tensor, context_hours: int, num_steps: int
) -> tuple[Tensor, Tensor]:
    """What `rollout` gives, from the whole window for every hour."""
    z_state_BTD = z_state_BTD[:, :context_hours]
    for hour in range(context_hours, context_hours + num_steps):
        pred_BTD, _ = predictor(z_static_BD, z_state_BTD, z_action_BTD[:, :hour])
        z_state_BTD = torch.cat([z_state_BTD, pred_BTD[:, -1:]], dim=1)
    _, hidden_BTH = predictor(z_static_BD, z_state_BTD, z_action_BTD[:, : context_hours + num_steps])
    return z_state_BTD[:, context_hours:], hidden_BTH[:, context_hours:]


def largest_difference(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> float:
    """Of predictions and of hidden states, over the largest value."""
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(one, other, strict=True))


@torch.no_grad()
def difference_in_float64(spec: PredictorSpec, context_hours: int = CONTEXT, num_steps: int = HORIZON) -> float:
    """Of one window: what is left of the difference where rounding is none to speak of."""
    predictor = build_predictor(spec, 0).eval().double()
    inputs = tuple(each.double() for each in latents(spec.latent_dim, 1, context_hours + num_steps))
    sides = (way(predictor, *inputs, context_hours, num_steps) for way in (rollout, recomputed))
    return largest_difference(*sides)


def token_ratio(context_hours: int, num_steps: int) -> float:
    """Tokens that recomputation reads over tokens that the cache reads: the most that can be won where a token costs a token."""
    last = context_hours + num_steps
    return sum(2 * hours + 1 for hours in range(context_hours, last + 1)) / (2 * last + 1)


@torch.no_grad()
def compare(spec: PredictorSpec, batch: int, rounds: int, context_hours: int = CONTEXT, num_steps: int = HORIZON) -> dict:
    """Speed-up in CPU time, every round; largest differences of predictions and of hidden states over their largest value: between the
    two sides, and of each from the same rollout in float64.

    Raises SystemExit when the two sides differ.
    """
    predictor = build_predictor(spec, 0).eval()
    inputs = latents(spec.latent_dim, batch, context_hours + num_steps)
    contenders = {
        "cached": lambda: rollout(predictor, *inputs, context_hours, num_steps),
        "recomputed": lambda: recomputed(predictor, *inputs, context_hours, num_steps),
    }
    found = {name: side() for name, side in contenders.items()}
    difference = largest_difference(found["cached"], found["recomputed"])
    exact = rollout(copy.deepcopy(predictor).double(), *(each.double() for each in inputs), context_hours, num_steps)
    if difference > SANE:
        raise SystemExit(f"a cached rollout differs from recomputation by {difference:.3g} of the largest value")
    costs = interleaved(contenders, rounds, warm_up=False)
    seconds = {name: median(of_one) for name, of_one in costs.items()}
    return {
        "speedup": seconds["recomputed"] / seconds["cached"],
        "max_difference": difference,
        "from_float64": {name: largest_difference(side, exact) for name, side in found.items()},
        "cpu_seconds": seconds,
        "rounds": all_rounds(costs),
    }


def main() -> None:
    options = arguments(__doc__ or "", threads=1, rounds=5)
    torch.set_num_threads(options.threads)
    full, demo_sizes = PredictorSpec(), load_config(ROOT / "configs/demo.yaml")
    demo = PredictorSpec.from_settings(result_fields(demo_sizes.predictor), demo_sizes.encoder.hidden_size)
    sizes = {"full_batch_4": (full, 4), "full_batch_1": (full, 1), "demo_batch_64": (demo, 64), "demo_batch_1": (demo, 1)}
    rounds = options.rounds
    if options.quick:
        sizes, rounds = {"full_batch_1": (full, 1), "demo_batch_64": (demo, 64)}, 1
    found = {name: compare(spec, batch, rounds) for name, (spec, batch) in sizes.items()}
    measured = {f"speedup_{name}": each["speedup"] for name, each in found.items()}
    for name in ("cached", "recomputed"):
        measured[f"max_difference_{name}_from_float64"] = max(each["from_float64"][name] for each in found.values())
    measured["max_difference_float64"] = max(map(difference_in_float64, [demo] if options.quick else [full, demo]))
    measured |= {"max_difference": max(each["max_difference"] for each in found.values()), "token_ratio": token_ratio(CONTEXT, HORIZON)}
    judged = [name for name in measured if name.startswith("speedup_") and name != "speedup_demo_batch_1"]  # that one is all calls
    goal = {name: ">= 8" for name in judged} | {
        "max_difference": "<= 1e-5",
        "max_difference_float64": "<= 1e-10",
    }
    unit = {name: "share of the largest value" if name.startswith("max") else "times" for name in measured}
    details = {"context_hours": CONTEXT, "horizon_hours": HORIZON, "threads": options.threads, "sizes": found}
    publish(Report("rollout", measured, goal, unit, details), options.quick)


if __name__ == "__main__":
    main()
