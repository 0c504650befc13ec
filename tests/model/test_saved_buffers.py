"""Buffers that a class saves (Gemma 4: `layer_scalar`, Apertus: its activation) are part of a model wherever it is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from clinjepa.curriculum.settings import EncoderSettings
from clinjepa.export.weights import TokenizerFacts, TrainedParts, write_weights
from clinjepa.model.encoding.encoder import build_encoder
from clinjepa.model.encoding.packing import encode_texts
from clinjepa.model.pretrained.base_model import make_random_base, saved_buffers, write_base
from clinjepa.model.pretrained.weights import hollow_model
from clinjepa.storage import Folder
from tests.support.models.direct_load_worker import plainly_built
from tests.support.models.tiny_classes import latents_alone, some_texts, tiny_spec, write_tiny
from tests.support.training.curriculum_jobs import encoder_settings, phase_job, sft_job
from tests.support.training.curriculum_processes import run_job, run_on_workers
from tests.support.training.curriculum_store import make_trajectories

KINDS = {"apertus": 4, "gemma4": 2}
"""Class and number of its buffers."""

TEXTS = some_texts(9, 31, 5)
VOCAB = 512
OFTEN = {"checkpoint_every_steps": 1, "log_every_steps": 1, "asynchronous_checkpoints": False}


def buffers_of(folder: Path) -> dict[str, Tensor]:
    return saved_buffers(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def settings_of(model: Path) -> EncoderSettings:
    return encoder_settings(init="pretrained", model=str(model), adaptation="full", latent_from="post_norm")


@pytest.fixture(scope="module", params=sorted(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(kind)
    write_tiny(folder, kind, vocab=VOCAB)
    return folder


@pytest.fixture(scope="module")
def trajectories(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_trajectories(tmp_path_factory.mktemp("store"), num_stays=12)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_they_are_read_with_the_weights_into_their_place(kind: str, model: Path, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever way the files are read, with the types that transformers gives them; a class that needs its weights is read by it."""
    spec = tiny_spec(model, dtype=dtype)
    plain = plainly_built(Folder(model), spec=spec)
    try:
        hollow_model(str(model), torch.float32, None, True)
        monkeypatch.setattr("clinjepa.model.encoding.encoder.load_base", None)
    except ValueError:
        pass
    direct = build_encoder(spec, Folder(model), 4)
    read, expected = (saved_buffers(encoder.causal) for encoder in (direct, plain))
    assert len(read) == KINDS[kind] and same(read, expected) and all(read[name].dtype == expected[name].dtype for name in read)


def test_a_random_start_has_them(model: Path, tmp_path: Path) -> None:
    spec = tiny_spec(model, adaptation="full")
    make_random_base(spec, 3, Folder(tmp_path))
    assert len(load_file(tmp_path / "model.safetensors")) == len(load_file(model / "model.safetensors"))
    encoder = build_encoder(spec, Folder(tmp_path), 0).eval()
    read = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert torch.allclose(encode_texts(encoder, TEXTS, 256), latents_alone(read, TEXTS), rtol=1e-4, atol=1e-5)


def test_a_state_holds_them_and_the_target_follows(model: Path, tmp_path: Path) -> None:
    encoder = build_encoder(tiny_spec(model, adaptation="full"), None, 0, with_target=True).eval()
    changed = {name: tensor + (0.25 if name in saved_buffers(encoder.causal) else 0) for name, tensor in encoder.online_state().items()}
    encoder.load_online(changed)
    assert same(encoder.online_state(), changed) and not same(encoder.target_state(), changed)
    before = encode_texts(encoder, TEXTS, 256, "target")
    encoder.copy_online_to_target()
    online, target = (encode_texts(encoder, TEXTS, 256, which) for which in ("online", "target"))
    assert same(encoder.target_state(), changed) and torch.equal(online, target) and not torch.allclose(before, target, atol=1e-3)
    write_base(Folder(tmp_path), encoder.base_config(), encoder.base_state())
    read = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert torch.allclose(latents_alone(read, TEXTS), online, rtol=1e-4, atol=1e-5)


def test_adapters_have_none(model: Path) -> None:
    lora = {"rank": 2, "alpha": 4.0, "targets": ["q_proj"], "dropout": 0.0}
    encoder = build_encoder(tiny_spec(model, adaptation="lora", lora=lora), None, 0, with_target=True)
    assert all(".lora_" in name for name in [*encoder.online_state(), *encoder.target_state()])
    assert same({name: tensor for name, tensor in encoder.base_state().items() if name in buffers_of(model)}, buffers_of(model))


def test_sft_of_the_whole_model_is_the_same_interrupted_and_on_two_workers(trajectories: str, tmp_path: Path) -> None:
    model = tmp_path / "model"
    write_tiny(model, "apertus", vocab=VOCAB)

    def job(name: str, **changes: Any) -> Any:
        return sft_job(tmp_path / name, trajectories, settings_of(model), **changes)

    run_job(job("whole", **OFTEN))
    run_on_workers([job("killed", **OFTEN)], 1, die_after=1)
    run_job(job("killed", **OFTEN))
    run_on_workers([job("two")], 2)
    whole, killed, two = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed", "two"))
    assert same(whole, killed)
    assert whole.keys() == two.keys() and max(float((whole[name] - two[name]).abs().max()) for name in whole) < 1e-3
    trained = [name for name, tensor in load_file(model / "model.safetensors").items() if not torch.equal(tensor, whole[name])]
    assert trained and not set(trained) & buffers_of(model).keys()
    for name in ("whole", "two"):
        assert same(buffers_of(tmp_path / name), buffers_of(model))
    encoder = build_encoder(tiny_spec(model, adaptation="full"), Folder(tmp_path / "whole"), 0).eval()  # the next stage reads it
    read = AutoModelForCausalLM.from_pretrained(tmp_path / "whole", dtype=torch.float32).eval()
    assert torch.allclose(encode_texts(encoder, TEXTS, 256), latents_alone(read, TEXTS), rtol=1e-4, atol=1e-5)


def test_a_phase_that_trains_all_weights_is_exported_as_a_whole_model(model: Path, trajectories: str, tmp_path: Path) -> None:
    settings = settings_of(model)
    Folder(tmp_path / "base").write_json("model.json", {"model": str(model), "revision": None})
    shared: dict[str, Any] = {"trajectories": trajectories, "base": str(tmp_path / "base"), "encoder_settings": settings, "latents": None}
    run_job(phase_job("joint", out=str(tmp_path / "joint"), num_steps=2, first_step=0, total_steps=2, **shared))
    assert same({name: load_file(tmp_path / "joint" / "target.safetensors")[name] for name in buffers_of(model)}, buffers_of(model))
    folders = [Folder(tmp_path / name) for name in ("base", "joint", "joint")]
    parts = TrainedParts(folders[0], folders[1], Folder(trajectories), folders[2])
    write_weights(parts, settings, TokenizerFacts(pretrained=False, max_tokens=64), Folder(tmp_path / "export"))
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "export" / "encoder").eval()
    encoder = build_encoder(tiny_spec(model, adaptation="full"), Folder(tmp_path / "base"), 0).eval()
    start = encode_texts(encoder, TEXTS, 256)
    encoder.load_online(load_file(tmp_path / "joint" / "online.safetensors"))
    latents = encode_texts(encoder, TEXTS, 256)
    assert torch.allclose(latents_alone(exported, TEXTS), latents, rtol=1e-4, atol=1e-5) and not torch.allclose(start, latents, atol=1e-3)
