"""`GroupedAdamW` against torch's own clipping and AdamW, on gradients whose norms are chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import Parameter

from clinjepa.curriculum.steps.optimizer import GroupedAdamW
from clinjepa.model.sharding import fill, whole

LIMIT, WEIGHT_DECAY = 1.0, 0.04
RATES = {"predictor": 1e-2, "encoder": 3e-3}
NORMS = [{"predictor": 8.0, "encoder": 0.3}, {"predictor": 0.5, "encoder": 40.0}, {"predictor": 2.0, "encoder": 0.9}]
"""Of each group's gradient in each update. Several, because AdamW's first update is the same for any length of the gradient."""


def gaps_to_torch(groups: dict[str, Sequence[tuple[str, Parameter]]], sum_: Callable[[Tensor], Tensor]) -> dict[str, float]:
    """Update parameters, sharded or not, and whole copies of them as torch does; returns how far apart weights and moments are then.

    groups: `predictor` and `encoder`; sum_: over workers, all of which call this. Moments: relative to the largest of each tensor.
    """
    copies = {group: {name: Parameter(whole(parameter)) for name, parameter in members} for group, members in groups.items()}
    reference = torch.optim.AdamW(
        [{"params": list(copies[group].values()), "lr": RATES[group]} for group in groups], weight_decay=WEIGHT_DECAY, foreach=False
    )
    optimizer = GroupedAdamW(groups, WEIGHT_DECAY)
    generator = torch.Generator().manual_seed(0)
    for norms in NORMS:
        for group, members in groups.items():
            gradients = [torch.randn(parameter.shape, generator=generator) for _, parameter in members]
            length = torch.cat([gradient.flatten() for gradient in gradients]).norm()
            for (name, parameter), gradient in zip(members, gradients, strict=True):
                copies[group][name].grad = gradient * (norms[group] / length)
                parameter.grad = torch.empty_like(parameter.detach())
                fill(parameter.grad, copies[group][name].grad)
        found = sum_(optimizer.squared_norms(torch.device("cpu"))).sqrt().tolist()
        optimizer.step(RATES, dict(zip(optimizer.groups, found, strict=True)), LIMIT)
        for members in copies.values():
            torch.nn.utils.clip_grad_norm_(members.values(), LIMIT)
        reference.step()
    moments, _ = optimizer.state()
    gaps = {"weights": 0.0, "moments": 0.0}
    for group, members in groups.items():
        for name, parameter in members:
            copy = copies[group][name]
            gaps["weights"] = max(gaps["weights"], float((whole(parameter) - copy.detach()).abs().max()))
            for moment in ("exp_avg", "exp_avg_sq"):
                expected = reference.state[copy][moment]
                gap = (moments[f"{group}.{name}.{moment}"] - expected).abs().max() / expected.abs().max()
                gaps["moments"] = max(gaps["moments"], float(gap))
    return gaps
