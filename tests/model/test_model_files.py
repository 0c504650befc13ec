"""A model folder is read as transformers reads it, or refused in one line that says what is there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from clinjepa.errors import ConfigError
from clinjepa.model.encoding.encoder import build_encoder
from clinjepa.model.encoding.packing import encode_texts
from clinjepa.model.encoding.text_encoder import TextEncoder
from clinjepa.model.pretrained.base_model import NoHead
from tests.support.models.tiny_classes import latents_alone, loss_alone, some_texts, tiny_spec, write_tiny

TEXTS = some_texts(6, 11, 3)
DOWNLOAD = ("allow_download", "huggingface.co", "fetch")


def adapter_beside(folder: Path, model: Any) -> None:
    from peft import LoraConfig, get_peft_model

    get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")).save_pretrained(folder)


def adapter_alone(folder: Path, model: Any) -> None:
    adapter_beside(folder, model)
    for path in folder.iterdir():
        if not path.name.startswith("adapter"):
            path.unlink()
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "clinic/base-7b"}))


def sharded(folder: Path, model: Any) -> list[Path]:
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="15KB")
    return sorted(folder.glob("model-*.safetensors"))


def lost_shard(folder: Path, model: Any) -> None:
    sharded(folder, model)[1].unlink()


def cut_shard(folder: Path, model: Any) -> None:
    path = sharded(folder, model)[0]
    path.write_bytes(path.read_bytes()[:-100])


def folder_for_weights(folder: Path, model: Any) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()


def folder_for_a_shard(folder: Path, model: Any) -> None:
    path = sharded(folder, model)[1]
    path.unlink()
    path.mkdir()


def config_with_mark(folder: Path, model: Any) -> None:
    (folder / "config.json").write_text((folder / "config.json").read_text(), encoding="utf-8-sig")


def lost_index(folder: Path, model: Any) -> None:
    sharded(folder, model)
    (folder / "model.safetensors.index.json").unlink()


def only_bin(folder: Path, model: Any) -> None:
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def no_weights(folder: Path, model: Any) -> None:
    (folder / "model.safetensors").unlink()


def lfs_pointer(folder: Path, model: Any) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 16\n")


def no_config(folder: Path, model: Any) -> None:
    (folder / "config.json").unlink()


def cut_config(folder: Path, model: Any) -> None:
    (folder / "config.json").write_text((folder / "config.json").read_text()[:-20])


def in_a_subfolder(folder: Path, model: Any) -> None:
    (folder / "checkpoint-10").mkdir()
    for path in list(folder.iterdir()):
        if path.is_file():
            path.rename(folder / "checkpoint-10" / path.name)


def quantised(folder: Path, model: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq", "bits": 4}}))


def eight_bits(folder: Path, model: Any) -> None:
    state = load_file(folder / "model.safetensors")
    save_file({name: tensor.to(torch.float8_e4m3fn) for name, tensor in state.items()}, folder / "model.safetensors", {"format": "pt"})


def a_tensor_short(folder: Path, model: Any) -> None:
    state = load_file(folder / "model.safetensors")
    state.pop("model.norm.weight")
    save_file(state, folder / "model.safetensors", {"format": "pt"})


def another_shape(folder: Path, model: Any) -> None:
    state = load_file(folder / "model.safetensors")
    state["model.norm.weight"] = torch.ones(5)
    save_file(state, folder / "model.safetensors", {"format": "pt"})


def another_vocabulary(folder: Path, model: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 120}))


def unknown_class(folder: Path, model: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "homemade"}))


def no_language_model(folder: Path, model: Any) -> None:
    transformers.ViTConfig().save_pretrained(folder)


FAULTS: list[tuple[Callable[[Path, Any], None], str]] = [
    (adapter_beside, "holds a model and beside it an adapter.*adapter_config.json.*merge"),
    (adapter_alone, "is an adapter of clinic/base-7b and no model; merge"),
    (lost_shard, r"1 of the \d files in its model.safetensors.index.json are missing \(model-00002-of"),
    (cut_shard, "model-00001-of-.* is no whole safetensors file"),
    (folder_for_weights, "model.safetensors is a folder and no file"),
    (folder_for_a_shard, r"1 of the \d files in its model.safetensors.index.json are missing"),
    (config_with_mark, "without a byte-order mark"),
    (lost_index, "neither model.safetensors nor model.safetensors.index.json"),
    (only_bin, ".bin format, and only safetensors are read; convert it"),
    (no_weights, "config.json but no weights"),
    (lfs_pointer, "pointer of Git LFS"),
    (no_config, "has no config.json"),
    (cut_config, "config.json cannot be read as JSON"),
    (in_a_subfolder, "has no config.json; give .*checkpoint-10"),
    (quantised, r"quantised weights \(gptq\)"),
    (eight_bits, "weights of type F8_E4M3"),
    (a_tensor_short, r"1 tensors are missing.*\(such as model.norm.weight\)"),
    (another_shape, r"1 tensors have another shape than config.json gives them, such as model.norm.weight: 5 in the files, 32 by"),
    (another_vocabulary, r"2 tensors have another shape .*such as lm_head.weight: 96 x 32 in the files, 120 x 32 by config.json"),
    (unknown_class, "homemade.*causal language model that this version of transformers has a class for"),
    (no_language_model, "causal language model that this version of transformers has a class for"),
]


@pytest.mark.parametrize(("fault", "message"), FAULTS, ids=[fault.__name__ for fault, _ in FAULTS])
def test_a_folder_that_is_not_one_whole_model_is_refused_for_what_is_there(tmp_path: Path, fault: Callable, message: str) -> None:
    fault(tmp_path, write_tiny(tmp_path, "llama"))
    with pytest.raises(ConfigError, match=message) as caught:
        build_encoder(tiny_spec(tmp_path), None, 0)
    assert "\n" not in str(caught.value) and not any(word in str(caught.value) for word in DOWNLOAD)


@pytest.mark.parametrize("adaptation", ["frozen", "lora", "full"])
def test_a_model_without_its_output_layer_is_enough_for_latents(tmp_path: Path, adaptation: str) -> None:
    model: Any = write_tiny(tmp_path / "whole", "llama")
    model.model.save_pretrained(tmp_path / "headless")
    lora = {"rank": 2, "alpha": 4.0, "targets": ["q_proj"], "dropout": 0.0}
    encoder = build_encoder(tiny_spec(tmp_path / "headless", adaptation=adaptation, lora=lora), None, 0)
    torch.testing.assert_close(encode_texts(encoder, TEXTS, 256), latents_alone(model, TEXTS), rtol=1e-4, atol=1e-4)
    assert isinstance(encoder.causal.lm_head, NoHead)


def test_sft_of_a_model_without_its_output_layer_is_refused(tmp_path: Path) -> None:
    model: Any = write_tiny(tmp_path / "whole", "llama")
    model.model.save_pretrained(tmp_path / "headless")
    with pytest.raises(ConfigError, match="have no output layer .*recipes without SFT"):
        build_encoder(tiny_spec(tmp_path / "headless", adaptation="full"), None, 0, with_head=True)


def test_an_output_layer_that_differs_from_the_embeddings_it_is_tied_to_is_read_as_transformers_reads_it(tmp_path: Path) -> None:
    write_tiny(tmp_path, "llama")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert not torch.equal(loaded.lm_head.weight, loaded.model.embed_tokens.weight)
    encoder = build_encoder(tiny_spec(tmp_path, adaptation="full"), None, 0, with_head=True).eval()
    (pack,) = encoder.pack(TEXTS, 256, 2)
    loss = encoder(pack.input_ids_L, pack.position_ids_L, labels_L=pack.labels_L)
    assert float(loss.detach()) == pytest.approx(float(loss_alone(loaded, TEXTS).detach()), rel=1e-5)


@pytest.mark.parametrize("model", ["/no/such/model", "./models/none", "~/none"])
def test_a_path_where_nothing_is_says_so(model: str) -> None:
    with pytest.raises(ConfigError, match="there is no such folder"):
        build_encoder(tiny_spec(Path(), model=model), None, 0)


@pytest.mark.parametrize("model", ["", "a/b/c/d", "my model", "https://huggingface.co/a/b", "../none/", "a/b/"])
def test_a_name_that_can_be_no_model_id_is_not_looked_for_on_the_hub(model: str) -> None:
    with pytest.raises(ConfigError, match="no folder on this machine and cannot be a model id|there is no such folder") as caught:
        build_encoder(tiny_spec(Path(), model=model), None, 0)
    assert not any(word in str(caught.value) for word in ("allow_download", "fetch"))


def test_a_file_in_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    write_tiny(tmp_path, "llama")
    with pytest.raises(ConfigError, match="is a file; give the folder"):
        build_encoder(tiny_spec(tmp_path / "model.safetensors"), None, 0)


def test_a_text_encoder_adds_the_special_tokens_of_its_tokenizer(tmp_path: Path) -> None:
    words = {word: number for number, word in enumerate(["<pad>", "<s>", "</s>", "heart", "rate", "80"])}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = Whitespace()
    write_tiny(tmp_path, "llama")
    encoder = build_encoder(tiny_spec(tmp_path), None, 0)
    z_ND = TextEncoder(encoder, tokenizer, max_tokens=3, token_budget=256, before=[1])(["heart rate 80", "heart"])
    expected_ND = encode_texts(encoder, [np.array([1, 3, 4]), np.array([1, 3])], 256)
    torch.testing.assert_close(z_ND, expected_ND)
