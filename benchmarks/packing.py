"""Encoding and training on hour texts in packed rows, beside batches padded to their longest text.

The texts are those of training micro-batches of a demo's plan (equal texts of a micro-batch once, as the training has them). Opponents, as
with Hugging Face's collator and an attention mask: batches in the texts' order, and batches of texts sorted by length (`group_by_length`
without its randomness); each gets the batch size of several that suits it best. Rates count tokens of texts only, per CPU second. A frozen
base with LoRA; latents and adapter gradients of all sides are compared before anything is timed. `packed_everywhere` is the packed side
with its last layer computed at every place, as the opponents have it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.support.demo_stores import DemoStores, demo_config
from benchmarks.support.harness import Report, all_rounds, arguments, interleaved, median, publish, timed
from clinjepa.curriculum.feed.window_batches import WindowBatches
from clinjepa.curriculum.steps.encoder_specs import encoder_spec
from clinjepa.model.encoding.encoder import Encoder, build_encoder
from clinjepa.model.encoding.packing import pack_texts
from clinjepa.storage import Folder

TOLERANCE = 1e-4
"""Largest difference of latents, of unit scale, and of gradients over their largest value."""
BATCH_SIZES = (8, 32, 128)
LARGER = {"hidden_size": 256, "num_layers": 4, "num_heads": 8, "num_kv_heads": 2, "ffn_size": 768}
"""An encoder in which matrix products, and not calls, take the time."""


@dataclass(frozen=True)
class Batch:
    """Rows that go through the encoder at once. places: token places computed, texts' and others."""

    input_ids_RS: Tensor
    position_ids_RS: Tensor
    mask_RS: Tensor | None
    last_index_N: Tensor
    order: Tensor
    pruned: bool = False
    """The last layer is computed where it is read, as the project does."""

    @property
    def places(self) -> int:
        return self.input_ids_RS.numel()


def packed(texts: Sequence[np.ndarray], token_budget: int, pruned: bool = True) -> list[Batch]:
    """The project's way."""
    packs = pack_texts(texts, token_budget)
    return [Batch(pack.input_ids_L, pack.position_ids_L, None, pack.last_index_N, pack.order, pruned) for pack in packs]


def padded(texts: Sequence[np.ndarray], batch_size: int, sort: bool) -> list[Batch]:
    """A text a row, padded on the right to the longest of its batch, with an attention mask."""
    lengths = np.array([len(text) for text in texts])
    order = np.argsort(-lengths, kind="stable") if sort else np.arange(len(texts))
    batches = []
    for start in range(0, len(texts), batch_size):
        chosen = order[start : start + batch_size]
        width = int(lengths[chosen].max())
        ids = np.zeros((len(chosen), width), dtype=np.int64)
        for row, index in enumerate(chosen):
            ids[row, : lengths[index]] = texts[index]
        mask = np.arange(width)[None, :] < lengths[chosen][:, None]
        last = np.arange(len(chosen)) * width + lengths[chosen] - 1
        positions = np.broadcast_to(np.arange(width), ids.shape).copy()
        batches.append(Batch(*(torch.from_numpy(each) for each in (ids, positions, mask.astype(np.int64), last, chosen))))
    return batches


def encode(encoder: Encoder, batch: Batch) -> Tensor:
    """z_ND of one batch's texts; padded rows, and packed ones for comparison, go straight through the Hugging Face model."""
    if batch.pruned:
        return encoder(batch.input_ids_RS, batch.position_ids_RS, batch.last_index_N)
    inner = encoder.model.get_base_model().base_model  # type: ignore[union-attr, operator]
    positions = {"position_ids": batch.position_ids_RS} if batch.mask_RS is None else {"attention_mask": batch.mask_RS}
    output = inner(input_ids=batch.input_ids_RS, use_cache=False, **positions)
    return output.last_hidden_state.flatten(0, 1)[batch.last_index_N]


@torch.no_grad()
def forward(encoder: Encoder, batches: Sequence[Batch], num_texts: int) -> Tensor:
    """z_ND of all texts, in their order."""
    z_ND = torch.empty(num_texts, encoder.dim)
    for batch in batches:
        z_ND[batch.order] = encode(encoder, batch)
    return z_ND


def forward_backward(encoder: Encoder, batches: Sequence[Batch], gradient_ND: Tensor) -> list[Tensor]:
    """Gradients of the adapters for sum(z * gradient)."""
    parameters = [parameter for _, parameter in encoder.online_parameters()]
    for parameter in parameters:
        parameter.grad = None
    for batch in batches:
        encode(encoder, batch).backward(gradient_ND[batch.order])
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def difference(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """Largest difference over the largest value of all tensors together."""
    scale = max(float(tensor.abs().max()) for tensor in other)
    return max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True)) / scale


def plan_texts(stores: DemoStores, num_texts: int) -> list[np.ndarray]:
    """Unique texts of whole training micro-batches, at least `num_texts` unless the epoch ends before."""
    job = stores.job("joint", stores.root / "unused", 1)
    fetcher = WindowBatches(job)
    texts: list[np.ndarray] = []
    for step in range(-(-len(fetcher.plan.training_ids) // job.curriculum_settings.global_batch)):
        for micro, windows in enumerate(fetcher.plan.step(step)):
            arrays = fetcher.window_arrays(windows, fetcher.plan.rollout_starts(step, micro))
            texts += np.split(arrays["tokens"].astype(np.int64), np.cumsum(arrays["text_lengths"])[:-1])
            if len(texts) >= num_texts:
                return texts
    return texts


def moved_encoder(stores: DemoStores, **sizes: Any) -> Encoder:
    """The demo's encoder, or one of other sizes, with random weights and adapters that are not zero."""
    spec = encoder_spec(replace(stores.encoder_settings, **sizes), Folder(stores.trajectories))
    encoder = build_encoder(spec, None, 0)
    generator = torch.Generator().manual_seed(1)
    encoder.load_online({name: torch.randn(value.shape, generator=generator) * 0.05 for name, value in encoder.online_state().items()})
    return encoder.eval()


def fastest(batches_of: dict[int, list[Batch]], run: Callable[[list[Batch]], Any]) -> tuple[int, list[Batch]]:
    """The batch size whose batches take least time, and its batches."""
    seconds = {size: timed(lambda batches=batches: run(batches)).cpu_seconds for size, batches in batches_of.items()}
    best = min(seconds, key=seconds.__getitem__)
    return best, batches_of[best]


def compare(encoder: Encoder, texts: list[np.ndarray], token_budget: int, rounds: int) -> dict[str, Any]:
    """Rates, shares of places that hold a token, and differences of one encoder. Raises SystemExit when results differ."""
    gradient = torch.randn(len(texts), encoder.dim, generator=torch.Generator().manual_seed(2))
    warm = packed(texts, token_budget)
    forward(encoder, warm, len(texts))
    sizes, sides = {}, {"packed": warm, "packed_everywhere": packed(texts, token_budget, pruned=False)}
    for name, sort in (("padded", False), ("sorted", True)):
        batches_of = {size: padded(texts, size, sort) for size in BATCH_SIZES}
        sizes[name], sides[name] = fastest(batches_of, lambda batches: forward(encoder, batches, len(texts)))
    differences = {}
    latents = {name: forward(encoder, batches, len(texts)) for name, batches in sides.items()}
    gradients = {name: forward_backward(encoder, batches, gradient) for name, batches in sides.items()}
    for name in ("packed_everywhere", "padded", "sorted"):
        differences[f"{name}_latents"] = difference([latents["packed"]], [latents[name]])
        differences[f"{name}_gradients"] = difference(gradients["packed"], gradients[name])
    if max(differences.values()) > TOLERANCE:
        raise SystemExit(f"packed and padded results differ: {differences}")
    num_tokens = sum(len(text) for text in texts)
    works = {
        "forward": lambda batches: forward(encoder, batches, len(texts)),
        "forward_backward": lambda batches: forward_backward(encoder, batches, gradient),
    }
    costs = {
        work: interleaved({name: lambda run=run, batches=batches: run(batches) for name, batches in sides.items()}, rounds, warm_up=False)
        for work, run in works.items()
    }
    return {
        "tokens_per_cpu_second": {
            work: {name: num_tokens / median(of_one) for name, of_one in of_work.items()} for work, of_work in costs.items()
        },
        "share_of_places": {name: num_tokens / sum(batch.places for batch in batches) for name, batches in sides.items()},
        "batch_size": sizes,
        "differences": differences,
        "rounds": {work: all_rounds(of_work) for work, of_work in costs.items()},
    }


def main() -> None:
    options = arguments(__doc__ or "", data=None, dataset="cinc2012", texts=2000, rounds=5, threads=1)
    torch.set_num_threads(options.threads)
    num_texts, rounds = (400, 1) if options.quick else (options.texts, options.rounds)
    overrides = {"source.max_stays": 40 if options.quick else 320}
    if options.quick:
        overrides["source.simulator.num_patients"] = 20
    measured: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        stores = DemoStores(Path(scratch), demo_config("simulator" if options.quick else options.dataset, options.data, overrides))
        texts = plan_texts(stores, num_texts)
        encoders = {"demo": {}} if options.quick else {"demo": {}, "larger": LARGER}
        found = {name: compare(moved_encoder(stores, **sizes), texts, 16384, rounds) for name, sizes in encoders.items()}
        lengths = np.array([len(text) for text in texts])
        details = stores.describe() | {
            "num_texts": len(texts),
            "text_tokens": {name: float(np.quantile(lengths, q)) for name, q in (("p5", 0.05), ("p50", 0.5), ("p95", 0.95), ("max", 1.0))},
            "threads": options.threads,
            "encoders": found,
            "larger": LARGER,
        }
    for name, each in found.items():
        for work, rates in each["tokens_per_cpu_second"].items():
            measured |= {f"{name}_{work}_over_{side}": rates["packed"] / rate for side, rate in rates.items() if side != "packed"}
            measured[f"{name}_{work}_packed"] = rates["packed"]
    goal = {name: ">= 1" for name in measured if "_over_" in name}
    unit = {name: "times" if "_over_" in name else "tokens per CPU second" for name in measured}
    publish(Report("packing", measured, goal, unit, details), options.quick)


if __name__ == "__main__":
    main()
