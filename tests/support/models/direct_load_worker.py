"""What each worker process does in the test of loading shards: a model from several files into two workers, and what that took."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from transformers import AutoModelForCausalLM, Qwen3Config

import clinjepa.model.encoding.encoder as encoder_module
from clinjepa.model.encoding.encoder import Encoder, Loading, build_encoder
from clinjepa.model.encoding.packing import encode_texts, pack_texts
from clinjepa.model.sharding import local, whole
from clinjepa.storage import Folder
from tests.support.models.model_encoders import SETTINGS, encoder_spec, random_texts

TEXTS = random_texts(9)
LARGE_VOCAB = 16384


def write_model(folder: Path, tied: bool, hidden: int = 32, vocab: int = 200, num_files: int = 3) -> int:
    """A random Qwen3 in about `num_files` safetensors files with an index; returns its bytes in fp32."""
    config = Qwen3Config(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=2 * hidden + 7,  # does not divide by two workers
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=hidden // 4,
        tie_word_embeddings=tied,
    )
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(config)
    size = sum(parameter.numel() for parameter in model.parameters()) * 4
    model.save_pretrained(folder, max_shard_size=size // num_files + size // 50)
    return size


def plainly_built(base: Folder, **options: Any) -> Encoder:
    """The same encoder loaded whole by transformers."""
    direct, encoder_module.fits = encoder_module.fits, lambda *_: False
    try:
        return build_encoder(options.pop("spec"), base, 4, **options)
    finally:
        encoder_module.fits = direct


def run_direct_load(rank: int, world_size: int, folder: str) -> None:
    """One gloo worker; every rank writes what it found."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size)
    mesh = init_device_mesh("cpu", (world_size,))
    found = {f"{name}_{kind}": value for name in ("tied", "untied") for kind, value in equalities(Path(folder, name), mesh).items()}
    found |= recomputed(Path(folder, "tied"), mesh) | cost(Path(folder, "large"), mesh)
    Path(folder, f"found-{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def equalities(folder: Path, mesh: DeviceMesh) -> dict[str, bool]:
    """Whether every tensor and buffer, latents and gradients are those of the plain load, for both adaptations."""
    found = {}
    for adaptation in ("lora", "full"):
        spec = encoder_spec(adaptation=adaptation)
        plain = plainly_built(Folder(folder), spec=spec, with_target=True)
        direct = build_encoder(spec, Folder(folder), 4, with_target=True, loading=Loading(mesh=mesh))
        shards = {name: local(parameter.detach()).data_ptr() for name, parameter in direct.named_parameters()}
        pairs = list(zip(plain.named_parameters(), direct.named_parameters(), strict=True))
        buffers = list(zip(plain.named_buffers(), direct.named_buffers(), strict=True))
        found[f"tensors_{adaptation}"] = all(a[0] == b[0] and torch.equal(a[1].data, whole(b[1])) for a, b in pairs)
        found[f"buffers_{adaptation}"] = bool(buffers) and all(a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in buffers)
        latents = [encode_texts(each, TEXTS, 4096, which) for each in (plain, direct) for which in ("online", "target")]
        found[f"latents_{adaptation}"] = torch.equal(latents[0], latents[2]) and torch.equal(latents[1], latents[3])
        direct.online_parameters()
        found[f"shards_{adaptation}"] = all(local(p.detach()).data_ptr() == shards[name] for name, p in direct.named_parameters())
        found[f"config_{adaptation}"] = plain.base_config() == direct.base_config()
    return found


def recomputed(folder: Path, mesh: DeviceMesh) -> dict[str, bool]:
    """Whether sharded gradients with activation checkpointing are those without, for an fp32 and a bf16 base."""
    found = {}
    (pack,) = pack_texts(TEXTS, 4096)
    for dtype in ("float32", "bfloat16"):
        gradients = {}
        for what in ("none", "selective", "full"):
            encoder = build_encoder(
                encoder_spec(dtype=dtype, lora=SETTINGS["lora"] | {"dropout": 0.2}), Folder(folder), 4, loading=Loading(mesh=mesh)
            )
            encoder.train()
            encoder.recompute(what)
            torch.manual_seed(5)
            encoder(pack.input_ids_L, pack.position_ids_L, pack.last_index_N).float().square().sum().backward()
            gradients[what] = [whole(parameter.grad) for _, parameter in encoder.online_parameters()]
        for what in ("selective", "full"):
            same = [torch.equal(a, b) for a, b in zip(gradients["none"], gradients[what], strict=True)]
            found[f"recompute_{what}_{dtype}"] = all(same) and any(g.abs().max() > 0 for g in gradients["none"])
    return found


def cost(folder: Path, mesh: DeviceMesh) -> dict[str, int]:
    """Bytes read, and by how much the process's resident memory grew at most, while a large model was loaded."""
    read: list[int] = []
    fill = encoder_module.fill_from_files

    def counted(*args: Any) -> int:
        read.append(fill(*args))
        return read[-1]

    encoder_module.fill_from_files = counted
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = _status("VmRSS")
    encoder = build_encoder(encoder_spec(), Folder(folder), 4, with_head=True, loading=Loading(mesh=mesh))
    grown = _status("VmHWM") - before
    encoder_module.fill_from_files = fill
    assert encoder.is_sharded
    return {"bytes_read": sum(read), "grown": grown}


def _status(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024
