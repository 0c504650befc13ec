"""A base read straight into place, in one process, is the one that transformers would have loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from clinjepa.model.encoding.encoder import build_encoder
from clinjepa.model.encoding.packing import encode_texts, pack_texts
from clinjepa.model.pretrained.base_model import NoHead
from clinjepa.model.pretrained.weights import weight_files
from clinjepa.storage import Folder
from tests.support.models.direct_load_worker import TEXTS, plainly_built, write_model
from tests.support.models.model_encoders import SETTINGS, encoder_spec


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_several_files_give_what_a_plain_load_gives(tmp_path: Path, tied: bool, dtype: str, monkeypatch) -> None:
    write_model(tmp_path, tied)
    spec = encoder_spec(dtype=dtype)
    plain = plainly_built(Folder(tmp_path), spec=spec)
    monkeypatch.setattr("clinjepa.model.encoding.encoder.load_base", None)
    direct = build_encoder(spec, Folder(tmp_path), 4)
    tensors = [[*encoder.named_parameters(), *encoder.named_buffers()] for encoder in (plain, direct)]
    for a, b in zip(*tensors, strict=True):
        assert a[0] == b[0] and a[1].dtype == b[1].dtype and torch.equal(a[1], b[1]), a[0]
        assert a[1].requires_grad == b[1].requires_grad
    assert torch.equal(encode_texts(plain, TEXTS, 512), encode_texts(direct, TEXTS, 512))


def test_tied_weights_stay_one_tensor(tmp_path: Path) -> None:
    write_model(tmp_path, tied=True)
    causal = build_encoder(encoder_spec(), Folder(tmp_path), 4).model.get_base_model()
    assert causal.lm_head.weight is causal.model.embed_tokens.weight


@pytest.mark.parametrize("files", ["the model's own tensors", "left to transformers"])
def test_an_output_layer_of_its_own_is_left_on_the_disk_unless_it_is_needed(tmp_path: Path, files: str, monkeypatch) -> None:
    write_model(tmp_path, tied=False)
    if files == "left to transformers":
        monkeypatch.setattr("clinjepa.model.encoding.encoder.fits", lambda *_: False)
    latent, whole = (build_encoder(encoder_spec(), Folder(tmp_path), 4, with_head=with_head) for with_head in (False, True))
    left_out = {name for name, _ in whole.named_parameters()} - {name for name, _ in latent.named_parameters()}
    assert {name.rpartition("lm_head")[2] for name in left_out} == {".weight"}
    assert torch.equal(encode_texts(latent, TEXTS, 512), encode_texts(whole, TEXTS, 512))
    (pack,) = pack_texts(TEXTS, 512)
    assert whole(pack.input_ids_L, pack.position_ids_L, labels_L=pack.labels_L).isfinite()
    with pytest.raises(ValueError, match="with_head=True"):
        latent(pack.input_ids_L, pack.position_ids_L, labels_L=pack.labels_L)


@pytest.mark.parametrize("changes", [{"adaptation": "full"}, {"lora": SETTINGS["lora"] | {"targets": ["q_proj", "lm_head"]}}])
def test_an_output_layer_that_is_trained_is_always_there(tmp_path: Path, changes: dict) -> None:
    write_model(tmp_path, tied=False)
    encoder = build_encoder(encoder_spec(**changes), Folder(tmp_path), 4)
    assert not any(isinstance(module, NoHead) for module in encoder.modules())


def test_a_base_folder_that_names_a_model_leads_to_it(tmp_path: Path) -> None:
    write_model(tmp_path / "public", tied=True)
    Folder(tmp_path / "base").write_json("model.json", {"model": str(tmp_path / "public"), "revision": None})
    spec = encoder_spec(init="pretrained", model=str(tmp_path / "public"))
    named, direct = (build_encoder(spec, Folder(tmp_path / name), 4) for name in ("base", "public"))
    assert torch.equal(encode_texts(named, TEXTS, 512), encode_texts(direct, TEXTS, 512))


def test_files_with_other_names_are_left_to_transformers(tmp_path: Path) -> None:
    write_model(tmp_path, tied=True, num_files=1)
    (path,) = weight_files(str(tmp_path), None, True)
    expected = build_encoder(encoder_spec(), Folder(tmp_path), 4)
    save_file({name.removeprefix("model."): tensor for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"})
    assert torch.equal(encode_texts(build_encoder(encoder_spec(), Folder(tmp_path), 4), TEXTS, 512), encode_texts(expected, TEXTS, 512))
