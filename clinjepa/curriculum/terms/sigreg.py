"""SIGReg: latents are drawn towards an isotropic standard normal by the Epps–Pulley statistic of random one-dimensional projections.

Source: LeJEPA (arXiv 2511.08544); directions, knots and weights follow its published code. The statistic is of the *global* batch: over a
local batch its strength would depend on the number of workers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clinjepa.curriculum.terms.inputs import TermInputs

_LARGEST_ARGUMENT = 3.0


def characteristic_sums(inputs: TermInputs, directions: int, knots: int) -> Tensor:
    """[2 · directions · knots]: sums over valid state latents of cos and sin of t · ⟨a, z⟩, for random unit vectors a and knots t >= 0."""
    z_ND = inputs.z_state_BTD[inputs.valid_BT]
    generator = torch.Generator().manual_seed(inputs.step_seed)
    a_DM = torch.randn(z_ND.shape[-1], directions, generator=generator).to(z_ND.device)
    arguments_NMK = (z_ND @ (a_DM / a_DM.norm(dim=0)))[..., None] * _knots(knots, z_ND)
    return torch.cat([arguments_NMK.cos().sum(dim=0).flatten(), arguments_NMK.sin().sum(dim=0).flatten()])


def epps_pulley(sums: Tensor, count: int, directions: int, knots: int) -> Tensor:
    """count · ∫ |φ̂(t) − exp(−t²/2)|² exp(−t²/2) dt by the trapezoid rule over [−3, 3], averaged over directions."""
    cosines_MK, sines_MK = (sums / max(1, count)).view(2, directions, knots)
    t_K = _knots(knots, sums)
    normal_K = torch.exp(-t_K.square() / 2)
    width = _LARGEST_ARGUMENT / (knots - 1)
    weights_K = torch.full_like(t_K, 2 * width)  # the integrand is even
    weights_K[[0, -1]] = width
    errors_MK = (cosines_MK - normal_K).square() + sines_MK.square()
    statistic: Tensor = (errors_MK @ (weights_K * normal_K)).mean() * count
    return statistic


def _knots(knots: int, like: Tensor) -> Tensor:
    return torch.linspace(0, _LARGEST_ARGUMENT, knots, dtype=like.dtype, device=like.device)
