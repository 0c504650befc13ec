"""The base of the recipe `random`: the architecture of a public model with weights that its seed alone decides."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from clinjepa.curriculum.settings import BaseSettings
from clinjepa.errors import ConfigError
from clinjepa.model.encoding.encoder import build_encoder
from clinjepa.model.encoding.packing import encode_texts
from clinjepa.model.pretrained.base_model import make_random_base
from clinjepa.storage import Folder
from tests.support.models.model_encoders import encoder_spec, random_texts
from tests.support.models.public_models import write_shrunk_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shrunk_model(tmp_path_factory.mktemp("public"))


def test_it_has_the_public_model_s_tensors_with_other_values_that_follow_the_seed(model: Path, tmp_path: Path) -> None:
    spec = encoder_spec(init="pretrained", model=str(model))
    before = torch.get_rng_state()
    for name, seed in (("a", 5), ("again", 5), ("b", 6)):
        make_random_base(spec, seed, Folder(tmp_path / name))
    assert torch.equal(torch.get_rng_state(), before)
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "again" / "model.safetensors").read_bytes()
    a, b = load_file(tmp_path / "a" / "model.safetensors"), load_file(tmp_path / "b" / "model.safetensors")
    public = {key: value for path in sorted(model.glob("*.safetensors")) for key, value in load_file(path).items()}
    assert {key: value.shape for key, value in a.items()} == {key: value.shape for key, value in public.items()}
    weights = [key for key in a if not key.endswith("norm.weight")]
    assert weights and not any(torch.allclose(a[key], other[key].float(), atol=0.01) for key in weights for other in (b, public))


def test_an_encoder_on_it_is_not_the_public_one(model: Path, tmp_path: Path) -> None:
    spec, texts = encoder_spec(init="pretrained", model=str(model)), random_texts(5)
    make_random_base(spec, 5, Folder(tmp_path))
    random, public = (encode_texts(build_encoder(spec, base, 0), texts, 512) for base in (Folder(tmp_path), None))
    assert random.shape == public.shape and bool(torch.isfinite(random).all()) and not torch.allclose(random, public, atol=0.1)


def test_a_model_that_is_not_here_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="encoder.model=nobody/nothing"):
        make_random_base(encoder_spec(init="pretrained", model="nobody/nothing"), 0, Folder(tmp_path))


def test_the_stage_s_executor_writes_it(model: Path, tmp_path: Path) -> None:
    from clinjepa.trajectory.tokens.tokenizer import train_tokenizer
    from pipelines.stages.base_model import _write_base

    train_tokenizer(["t=0h | Heart Rate: 88 bpm."], 300).save(Folder(tmp_path / "tokenizer"))
    settings = BaseSettings.from_json(
        {"init": "pretrained", "model": str(model), "revision": None, "dtype": "float32"}
        | dict.fromkeys(("hidden_size", "num_layers", "num_heads", "num_kv_heads", "ffn_size"), 8)
    )
    assert _write_base(Folder(tmp_path / "tokenizer"), Folder(tmp_path / "base"), settings, 0, True) == {"made_here": True}
    assert {path.name for path in (tmp_path / "base").iterdir()} == {"config.json", "model.safetensors"}
