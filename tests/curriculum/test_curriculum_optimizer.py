"""Clipping per group; on shards: tests/distributed/test_model_sharding.py."""

from __future__ import annotations

import torch
from torch import nn

from tests.support.training.clipped_updates import gaps_to_torch


def test_each_group_is_clipped_by_its_own_norm_and_updated_as_torch_does():
    torch.manual_seed(0)
    predictor, encoder = nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7)), nn.Linear(7, 3, bias=False)
    groups = {"predictor": list(predictor.named_parameters()), "encoder": list(encoder.named_parameters())}
    gaps = gaps_to_torch(groups, lambda squared_norms: squared_norms)
    assert gaps["weights"] < 1e-6 and gaps["moments"] < 1e-5
