"""Norms as a GPU computes them, their kernel's formula tried on a CPU; on a GPU itself: test_on_gpu.py."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from clinjepa.model import norms
from clinjepa.model.encoding.encoder import Encoder, build_encoder
from clinjepa.model.encoding.packing import pack_texts
from clinjepa.model.norms import KNOWN, fuse_norms
from tests.support.models.model_encoders import encoder_spec, move_online, random_texts

(PACK,) = pack_texts(random_texts(12), 4096)


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norms, "_on_gpu", lambda values: True)


def norm_and_values(dtype: torch.dtype) -> tuple[nn.Module, Tensor]:
    generator = torch.Generator().manual_seed(0)
    norm = Qwen3RMSNorm(96)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(96, generator=generator))
    return norm.to(dtype), (3 * torch.randn(40, 96, generator=generator)).to(dtype)


def exact(norm: nn.Module, values: Tensor) -> Tensor:
    wide = values.double()
    return norm.weight.double() * wide / torch.sqrt(wide.square().mean(-1, keepdim=True) + norm.variance_epsilon)


def gradients(encoder: Encoder) -> list[Tensor]:
    loss = encoder(PACK.input_ids_L, PACK.position_ids_L, PACK.last_index_N).float().square().sum()
    loss.backward()
    return [loss.detach(), *(parameter.grad for _, parameter in encoder.online_parameters())]


def built(dtype: str = "float32") -> Encoder:
    encoder = build_encoder(encoder_spec(dtype=dtype), None, seed=0)
    move_online(encoder)
    return encoder


def test_in_fp32_a_fused_norm_is_the_plain_one_to_the_bit(as_on_a_gpu) -> None:
    norm, values = norm_and_values(torch.float32)
    plain = norm(values)
    fuse_norms(norm)
    assert norm.forward.func is norms._forward
    assert torch.equal(norm(values), plain)


def test_in_bf16_a_fused_norm_is_no_further_from_the_truth(as_on_a_gpu) -> None:
    norm, values = norm_and_values(torch.bfloat16)
    truth, plain = exact(norm, values), norm(values)
    fuse_norms(norm)
    fused = norm(values)
    assert fused.dtype == torch.bfloat16 and not torch.equal(fused, plain)
    assert (fused - truth).norm() < 0.8 * (plain - truth).norm()


def test_every_norm_of_an_encoder_and_of_its_target_is_its_own() -> None:
    encoder = build_encoder(encoder_spec(adaptation="full"), None, seed=0, with_target=True)
    found = [module for module in encoder.modules() if type(module).__name__ in KNOWN]
    assert len(found) == 2 * (4 * 2 + 1)
    assert all(norm.forward.args[0] is norm and norm.forward.args[1].__self__ is norm for norm in found)


def test_a_norm_hands_on_bf16_under_a_gpus_autocast() -> None:
    norm = Qwen3RMSNorm(96).bfloat16()
    fuse_norms(norm)
    before = torch.is_autocast_enabled("cuda")
    with FakeTensorMode():
        values = torch.empty(4, 96, dtype=torch.bfloat16, device="cuda")
        norm.weight = nn.Parameter(torch.empty(96, dtype=torch.bfloat16, device="cuda"), requires_grad=False)
        try:
            # As `torch.autocast("cuda")` does where there is a GPU.
            torch.set_autocast_enabled("cuda", True)
            result = norm(values)
        finally:
            torch.set_autocast_enabled("cuda", before)
    assert result.dtype == torch.bfloat16 and result.device.type == "cuda"


def test_an_encoders_gradients_stay(as_on_a_gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    fused = gradients(built())
    monkeypatch.setattr(norms, "_on_gpu", lambda values: False)
    for ours, plain in zip(fused, gradients(built()), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5 * float(plain.abs().max()))


def test_weights_of_another_precision_are_left_to_the_plain_norm(as_on_a_gpu) -> None:
    norm, values = norm_and_values(torch.float32)
    plain = copy.deepcopy(norm)
    fuse_norms(norm)
    result = norm(values.bfloat16())
    assert result.dtype == torch.float32 and torch.equal(result, plain(values.bfloat16()))


def test_on_a_cpu_nothing_changes() -> None:
    norm, values = norm_and_values(torch.bfloat16)
    plain = norm(values)
    fuse_norms(norm)
    assert torch.equal(norm(values), plain)
