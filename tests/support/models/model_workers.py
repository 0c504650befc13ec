"""What each worker process does in the tests of sharding: the same work sharded and whole, and how far apart they are."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

import clinjepa.model.encoding.next_token as next_token_module
from clinjepa.model.encoding.encoder import Encoder, build_encoder, shard_encoder
from clinjepa.model.encoding.packing import encode_texts, pack_texts
from clinjepa.model.losses import RolloutForm, TeacherForced, rollout_loss, teacher_forcing_loss
from clinjepa.model.predictor import Predictor, build_predictor, load_predictor_state, predictor_state, shard_predictor
from clinjepa.model.rollout import rollout
from clinjepa.model.sharding import local, whole
from clinjepa.model.specs import PredictorSpec
from tests.support.models.model_encoders import encoder_spec, move_online, random_texts
from tests.support.training.clipped_updates import gaps_to_torch

TEXTS = random_texts(13)
WEIGHTS = torch.randn(13, 32, generator=torch.Generator().manual_seed(5))


def run_worker(rank: int, world_size: int, folder: str) -> None:
    """One gloo worker: runs every check below and lets rank 0 write what they found."""
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1")
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size)
    mesh = init_device_mesh("cpu", (world_size,))
    checks: list[Callable[[DeviceMesh], dict[str, Any]]] = [encoders, gathering, ema, next_token, freezing, predictors, rollouts, updates]
    found: dict[str, Any] = {}
    for check in checks:
        found |= check(mesh)
    if rank == 0:
        Path(folder, "found.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def encoders(mesh: DeviceMesh) -> dict[str, Any]:
    """Latents and two accumulated backward passes of every adaptation, with target forwards in between."""
    found = {}
    for name, changes in VARIANTS.items():
        plain, sharded = pair(mesh, changes)
        for which in ("online", "target"):
            gap = encode_texts(plain, TEXTS, 4096, which) - encode_texts(sharded, TEXTS, 4096, which)
            found[f"latents_{which}_{name}"] = float(gap.abs().max())
        for encoder, chosen in ((plain, range(13)), (sharded, range(mesh.get_local_rank(), 13, mesh.size()))):
            for _ in range(2):
                latents_loss(encoder, list(chosen)).backward()
                encode_texts(encoder, TEXTS, 4096, "target")
        found[f"gradients_{name}"] = gradient_gap(plain.online_parameters(), sharded.online_parameters())
        found[f"gradient_dtype_{name}"] = str(sharded.online_parameters()[0][1].grad.dtype)
        frozen = [p for p in sharded.parameters() if not p.requires_grad]
        found[f"frozen_without_gradient_{name}"] = all(p.grad is None for p in frozen) and bool(frozen)
    return found


def gathering(mesh: DeviceMesh) -> dict[str, Any]:
    """Shards that carry their rank, gathered to whole tensors; and whole tensors cut back to shards."""
    _, sharded = pair(mesh, VARIANTS["lora"])
    for _, parameter in sharded.online_parameters():
        local(parameter.detach()).fill_(mesh.get_local_rank() + 1)
    right = all(torch.equal(tensor, rank_coded(tensor.shape, mesh.size())) for tensor in sharded.online_state().values())
    state = {name: torch.arange(t.numel(), dtype=t.dtype).view_as(t) for name, t in sharded.online_state().items()}
    sharded.load_online(state)
    again = sharded.online_state()
    return {"gathers_rank_coded": right, "loads_and_gathers": all(torch.equal(again[name], state[name]) for name in state)}


def ema(mesh: DeviceMesh) -> dict[str, Any]:
    """EMA and gap right after a forward without a graph, which leaves the root's weights gathered."""
    found = {}
    for name in ("lora", "full"):
        plain, sharded = pair(mesh, VARIANTS[name])
        encode_texts(sharded, TEXTS, 4096)
        found[f"gap_{name}"] = abs(plain.target_gap() - sharded.target_gap())
        for encoder in (plain, sharded):
            for _ in range(3):
                encoder.ema_update(0.9)
        states = plain.target_state(), sharded.target_state()
        found[f"ema_{name}"] = max(float((states[0][key] - states[1][key]).abs().max()) for key in states[0])
        encode_texts(sharded, TEXTS, 4096, "target")
        sharded.copy_online_to_target()
        found[f"synced_{name}"] = sharded.target_gap()
        states = plain.online_state(), sharded.online_state()
        found[f"online_{name}"] = all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    return found


def next_token(mesh: DeviceMesh) -> dict[str, Any]:
    """Chunked next-token loss of a wholly trained model with tied embeddings."""
    next_token_module._LOGITS_AT_ONCE = 10 * 200
    plain, sharded = (build_encoder(encoder_spec(), None, seed=0, whole_model_trainable=True) for _ in range(2))
    shard_encoder(sharded, mesh)
    total = torch.zeros(())
    for encoder, texts in ((plain, TEXTS), (sharded, TEXTS[mesh.get_local_rank() :: mesh.size()])):
        (pack,) = pack_texts(texts, 4096)
        loss = encoder(pack.input_ids_L, pack.position_ids_L, labels_L=pack.labels_L)
        loss.backward()
        total = loss.detach()
        if encoder is plain:
            expected = total
    dist.all_reduce(total)
    gap = gradient_gap(plain.online_parameters(), sharded.online_parameters())
    return {"next_token_loss": float((total / expected - 1).abs()), "next_token_gradients": gap}


def freezing(mesh: DeviceMesh) -> dict[str, Any]:
    """Freezing and unfreezing after the first sharded forward."""
    _, sharded = pair(mesh, VARIANTS["lora"])
    latents_loss(sharded, list(range(13)))
    sharded.freeze()
    frozen = latents_loss(sharded, list(range(13))).requires_grad
    sharded.unfreeze_online()
    latents_loss(sharded, list(range(13))).backward()
    return {"frozen_has_graph": frozen, "unfrozen_has_gradients": all(p.grad is not None for _, p in sharded.online_parameters())}


def predictors(mesh: DeviceMesh) -> dict[str, Any]:
    """Teacher forcing and a native rollout in one backward; gathering and loading."""
    plain, sharded = predictor_pair(mesh)
    mine = slice(mesh.get_local_rank(), None, mesh.size())
    for _ in range(2):
        predictor_loss(plain, slice(None)).backward()
        predictor_loss(sharded, mine).backward()
    gap = gradient_gap(list(plain.named_parameters()), list(sharded.named_parameters()))
    other = predictor_state(build_predictor(plain.spec, 9))
    load_predictor_state(sharded, other)
    loaded = predictor_state(sharded)
    return {"predictor_gradients": gap, "predictor_loads": all(torch.equal(loaded[name], other[name]) for name in other)}


def rollouts(mesh: DeviceMesh) -> dict[str, Any]:
    """A rollout without a graph on a sharded predictor."""
    plain, sharded = predictor_pair(mesh)
    z_static, z_state, z_action, _ = window()
    with torch.no_grad():
        gaps = [rollout(each, z_static, z_state, z_action, 4, 6)[0] for each in (plain, sharded)]
    return {"rollout": float((gaps[0] - gaps[1]).abs().max())}


def updates(mesh: DeviceMesh) -> dict[str, Any]:
    """Clipped updates of two groups of shards."""

    def summed(tensor: Tensor) -> Tensor:
        dist.all_reduce(tensor)
        return tensor

    encoder, predictor = pair(mesh, VARIANTS["lora"])[1], predictor_pair(mesh)[1]
    gaps = gaps_to_torch({"predictor": list(predictor.named_parameters()), "encoder": encoder.online_parameters()}, summed)
    return {f"updates_{name}": gap for name, gap in gaps.items()}


VARIANTS: dict[str, dict[str, Any]] = {
    "lora": {},
    "lora_bf16": {"dtype": "bfloat16"},
    "full": {"adaptation": "full"},
}


def pair(mesh: DeviceMesh, changes: dict[str, Any]) -> tuple[Encoder, Encoder]:
    """The same encoder whole and sharded, its online weights moved away from the target."""
    encoders = [build_encoder(encoder_spec(**changes), None, seed=0, with_target=True) for _ in range(2)]
    shard_encoder(encoders[1], mesh)
    for encoder in encoders:
        move_online(encoder)
    return encoders[0], encoders[1]


def latents_loss(encoder: Encoder, chosen: list[int]) -> Tensor:
    """A sum over texts, so that sums over workers are sums over texts."""
    (pack,) = pack_texts([TEXTS[i] for i in chosen], 4096)
    weights = WEIGHTS[torch.tensor(chosen)][pack.order]
    return (encoder(pack.input_ids_L, pack.position_ids_L, pack.last_index_N).float() * weights).sum()


def gradient_gap(plain: list[tuple[str, Tensor]], sharded: list[tuple[str, Tensor]]) -> float:
    """Largest difference of any tensor's gradient, relative to that gradient's largest entry."""
    gaps = []
    for (_, a), (_, b) in zip(plain, sharded, strict=True):
        if a.grad is None or b.grad is None:
            gaps.append(0.0 if a.grad is b.grad else float("inf"))
        else:
            gaps.append(float((a.grad - whole(b.grad)).abs().max() / a.grad.abs().max().clamp(min=1e-8)))
    return max(gaps)


def rank_coded(shape: torch.Size, world_size: int) -> Tensor:
    """Rows of rank r's shard hold r + 1: rows are dealt out in ceil(rows / workers) blocks."""
    rows = torch.arange(shape[0]) // -(-shape[0] // world_size) + 1
    return rows.view(-1, *[1] * (len(shape) - 1)).expand(shape).float()


def predictor_pair(mesh: DeviceMesh) -> tuple[Predictor, Predictor]:
    spec = PredictorSpec(latent_dim=12, hidden_size=32, num_layers=3, num_heads=4, ffn_size=48, max_hours=10)
    plain, sharded = (build_predictor(spec, 0).eval() for _ in range(2))
    shard_predictor(sharded, mesh)
    return plain, sharded


def window() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    lengths = torch.tensor([9, 3, 6, 4, 9, 7])
    streams = [torch.randn(*shape, 12, generator=generator) for shape in ((6,), (6, 9), (6, 9))]
    return streams[0], streams[1], streams[2], torch.arange(9)[None] < lengths[:, None]


def predictor_loss(predictor: Predictor, rows: slice) -> Tensor:
    z_static, z_state, z_action, valid = (each[rows] for each in window())
    starts = torch.tensor([5, -1, 2, 1, 1, 3])[rows]
    pred, _, cache = predictor(z_static, z_state, z_action, valid, keep_cache=True)
    rolled, _ = rollout_loss(predictor, TeacherForced(pred, cache), z_action, z_state, starts, RolloutForm(2, "native"))
    return teacher_forcing_loss(pred, z_state, valid)[0] + rolled
