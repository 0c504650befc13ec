"""The plan counts the head and the arrays of a term that reads the hours' values."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from clinjepa.capacity.memory import RunSizes, head_weights, num_values, phase_memory
from clinjepa.capacity.model_sizes import known_model
from clinjepa.config import load_config
from clinjepa.curriculum.recipes import load_recipe
from clinjepa.curriculum.terms.inputs import HeadSizes, HourNumbers, TermInputs
from clinjepa.curriculum.terms.values import value_decode, value_head
from clinjepa.trajectory.hour_values import value_names
from tests.support.models.live_bytes import LiveBytes

SECTIONS = load_config(Path(__file__).parents[2] / "configs" / "mimic_iv_qwen3_8b.yaml").model_dump(mode="json")
RUN = RunSizes.from_settings(known_model("Qwen/Qwen3-8B"), SECTIONS, 79)
JOINT = load_recipe("value_aux").phases[1]


def test_the_head_is_counted_as_it_is_built() -> None:
    head = value_head(HeadSizes(4096, 1024, 72, len(value_names())), "huber", "values")
    assert head_weights(RUN, JOINT) == sum(each.numel() for each in head.parameters())
    plain = load_recipe("clin_jepa").phases[1]
    assert num_values(JOINT) == len(value_names()) and num_values(plain) == head_weights(RUN, plain) == 0


def test_the_arrays_and_what_the_term_keeps_are_counted() -> None:
    batch, hours, dim, variables = 2, 40, 8, len(value_names())
    run = replace(RUN, micro_batch=batch, max_hours=hours)
    counted = phase_memory(run, JOINT).latents - phase_memory(run, load_recipe("clin_jepa").phases[1]).latents
    head, z_state_BTD = value_head(HeadSizes(dim, 8, hours, variables), "huber", "values"), torch.randn(batch, hours, dim)
    with LiveBytes(z_state_BTD, *head.parameters()) as live:
        values = HourNumbers(torch.randn(batch, hours, variables), torch.rand(batch, hours, variables) < 0.3, torch.rand(variables))
        valid_BT = torch.ones(batch, hours, dtype=torch.bool)
        inputs = TermInputs(
            *(valid_BT, z_state_BTD[:, 0], z_state_BTD, z_state_BTD, z_state_BTD, valid_BT[:, 0], "native", 2, 0), values=values, head=head
        )
        torch.autograd.backward(value_decode(inputs, "huber", "values"))
    assert 0.8 < counted / live.peak < 1.3
