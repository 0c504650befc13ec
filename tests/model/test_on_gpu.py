"""What runs otherwise on a GPU than on a CPU: the encoder's norms and attention kernels. Needs no Ray, and skips without a GPU."""

from __future__ import annotations

import pytest
import torch

from clinjepa.curriculum.workers.dist import chosen_device
from clinjepa.model.encoding.encoder import Encoder, Loading, build_encoder
from clinjepa.model.encoding.packing import encode_texts, pack_texts
from tests.support.models.model_encoders import encoder_spec, move_online, random_texts

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")
TEXTS = random_texts(24)
(PACK,) = pack_texts(TEXTS, 4096)


@pytest.fixture(scope="module")
def gpu() -> torch.device:
    return chosen_device(True)


def built(device: torch.device | str, what: str = "none", dtype: str = "float32") -> Encoder:
    encoder = build_encoder(encoder_spec(dtype=dtype), None, seed=0, loading=Loading(device))
    move_online(encoder)
    encoder.recompute(what)
    return encoder


def gradients(encoder: Encoder, device: torch.device | str) -> list[torch.Tensor]:
    places = (each.to(device) for each in (PACK.input_ids_L, PACK.position_ids_L, PACK.last_index_N))
    loss = encoder(*places).float().square().sum()
    loss.backward()
    return [loss.detach().cpu(), *(parameter.grad.cpu() for _, parameter in encoder.online_parameters())]


def test_latents_are_those_of_the_cpu(gpu: torch.device) -> None:
    on_cpu, on_gpu = encode_texts(built("cpu"), TEXTS, 512), encode_texts(built(gpu), TEXTS, 512, device=gpu)
    torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=1e-4, atol=1e-4)


def test_gradients_are_those_of_the_cpu(gpu: torch.device) -> None:
    for on_cpu, on_gpu in zip(gradients(built("cpu"), "cpu"), gradients(built(gpu), gpu), strict=True):
        torch.testing.assert_close(on_gpu, on_cpu, rtol=1e-3, atol=1e-3 * float(on_cpu.abs().max()))


def test_bf16_latents_are_near_those_of_fp32(gpu: torch.device) -> None:
    exact, rounded = (encode_texts(built(gpu, dtype=dtype), TEXTS, 512, device=gpu).float() for dtype in ("float32", "bfloat16"))
    assert float((rounded - exact).norm() / exact.norm()) < 0.02


def test_packed_texts_have_the_latents_they_have_alone(gpu: torch.device) -> None:
    encoder = built(gpu)
    alone = torch.cat([encode_texts(encoder, [text], 512, device=gpu) for text in TEXTS])
    torch.testing.assert_close(encode_texts(encoder, TEXTS, 4096, device=gpu), alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("what", ["selective", "full"])
def test_activation_checkpointing_changes_no_bit(gpu: torch.device, what: str, dtype: str) -> None:
    plain, spared = gradients(built(gpu, dtype=dtype), gpu), gradients(built(gpu, what, dtype), gpu)
    assert all(torch.equal(a, b) for a, b in zip(plain, spared, strict=True))


def test_norms_are_one_kernel_and_attention_takes_none_that_is_built_for_each_shape(gpu: torch.device) -> None:
    encoder = built(gpu, dtype="bfloat16")
    with torch.profiler.profile() as profiler:
        gradients(encoder, gpu)
    taken = [event.key.lower() for event in profiler.key_averages()]
    assert any("efficient_attention" in each for each in taken) and not any("cudnn" in each for each in taken)
    assert any("fused_rms_norm" in each for each in taken)
