"""Encodes the unique texts of a micro-batch chunk by chunk and passes each chunk its gradient (the gradient cache).

Memory depends on the token budget of a chunk, not on a window of 145 texts. Joint refinement encodes without a graph, the predictor's
backward pass gives dL/dz, then each chunk is encoded again with a graph and receives its part of dL/dz. The gradient is exact and costs
one more forward pass (Gao et al. 2021, arXiv 2101.06983). Workers run the same number of chunks where layers are gathered one by one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clinjepa.curriculum.feed.window_plan import mix_seed
from clinjepa.curriculum.workers.dist import Dist
from clinjepa.curriculum.workers.gathering import communicates_in_every_forward, set_gradient_sync
from clinjepa.model.encoding.encoder import Encoder
from clinjepa.model.encoding.packing import Pack

_CHUNK_TAG, _TOKEN_TAG = 4, 9


@dataclass(frozen=True)
class TextChunks:
    """The packs of one micro-batch's unique texts, and the number of rounds; rounds beyond the packs repeat pack 0 with no effect."""

    packs: list[Pack]
    rounds: int
    num_texts: int
    num_tokens: int
    seed: int


def cut_chunks(
    encoder: Encoder, arrays: dict[str, Tensor], token_budget: int, seed: int, dist: Dist, num_texts: int | None = None
) -> TextChunks:
    """Pack `tokens`/`text_lengths` of a collated micro-batch into chunks of at most `token_budget` tokens; all workers call it.

    Args:
        encoder: its settings decide whether texts get an end-of-text token, its sharding whether workers agree on the rounds.
        arrays: the collated micro-batch.
        token_budget: tokens of a chunk; a longer text is a chunk alone.
        seed: of the micro-batch; adapter dropout of chunk i is drawn from (seed, i) whenever that chunk is encoded.
        dist: the workers.
        num_texts: pack only the first this many texts (the states).
    """
    lengths = arrays["text_lengths"][:num_texts].tolist()
    texts = [text.numpy() for text in torch.split(arrays["tokens"][: sum(lengths)].cpu(), lengths)]
    packs = encoder.pack(texts, token_budget, encoder.spec.end_id)
    rounds = dist.max_int(len(packs)) if communicates_in_every_forward(encoder) else len(packs)
    return TextChunks(packs, rounds, len(texts), sum(pack.num_tokens for pack in packs), seed)


def encode_chunks(encoder: Encoder, chunks: TextChunks, which: str, device: torch.device) -> Tensor:
    """z_UD (fp32) of the unique texts, without a graph; `which`: `online` or `target`. Raises ValueError when there is no text."""
    z_UD: Tensor | None = None
    with torch.no_grad():
        for i in range(chunks.rounds):
            pack = chunks.packs[i if i < len(chunks.packs) else 0]
            z_ND = _forward(encoder, pack, chunks.seed, i, which, device)
            if z_UD is None:
                z_UD = z_ND.new_zeros((chunks.num_texts, z_ND.shape[-1]), dtype=torch.float32)
            if i < len(chunks.packs):
                z_UD[pack.order.to(device)] = z_ND.float()
    if z_UD is None:
        raise ValueError("a micro-batch without texts cannot be encoded")
    return z_UD


def backward_chunks(encoder: Encoder, chunks: TextChunks, gradient_UD: Tensor, sync: bool, device: torch.device) -> None:
    """Encode each chunk again with a graph and add the parameter gradients of sum(z * gradient).

    sync: reduce the accumulated gradients over workers with the last chunk (the last micro-batch of a step).
    """
    for i in range(chunks.rounds):
        spare = i >= len(chunks.packs)
        pack = chunks.packs[0 if spare else i]
        set_gradient_sync(encoder, sync and i == chunks.rounds - 1)
        z_ND = _forward(encoder, pack, chunks.seed, i, "online", device)
        part = gradient_UD[pack.order.to(device)].to(z_ND.dtype)
        torch.autograd.backward(z_ND, torch.zeros_like(part) if spare else part)


def next_token_backward(
    encoder: Encoder, arrays: dict[str, Tensor], token_budget: int, seed: int, scale: float, dist: Dist
) -> tuple[Tensor, int]:
    """Add the gradients of `scale` times the mean next-token loss of the unique texts; all workers call it.

    Gradients are not reduced over workers here: the last chunk of latents does it (`backward_chunks`).

    Args:
        encoder: with its output layer.
        arrays: the collated micro-batch.
        token_budget: places of a chunk; a longer text is a chunk alone.
        seed: of the micro-batch; adapter dropout of chunk i is drawn from (seed, i).
        scale: weight of the mean in the loss of the global batch.
        dist: the workers.

    Returns:
        (mean in nats a token without a graph, tokens encoded). Every text is followed by its end-of-text token, as in SFT.
    """
    lengths = arrays["text_lengths"].tolist()
    texts = [text.numpy() for text in torch.split(arrays["tokens"].cpu(), lengths)]
    packs = encoder.pack(texts, token_budget, encoder.spec.eos_id)
    rounds = dist.max_int(len(packs)) if communicates_in_every_forward(encoder) else len(packs)
    total = torch.zeros((), device=dist.device)
    set_gradient_sync(encoder, False)
    for i in range(rounds):
        spare = i >= len(packs)
        pack = packs[0 if spare else i]
        torch.manual_seed(mix_seed(_TOKEN_TAG, seed, i))
        ids, positions, labels = (each.to(dist.device) for each in (pack.input_ids_L, pack.position_ids_L, pack.labels_L))
        loss: Tensor = encoder(ids, positions, labels_L=labels)
        torch.autograd.backward(loss * (0.0 if spare else scale / sum(lengths)))
        if not spare:
            total = total + loss.detach()
    return total / sum(lengths), sum(pack.num_tokens for pack in packs)


def _forward(encoder: Encoder, pack: Pack, seed: int, chunk: int, which: str, device: torch.device) -> Tensor:
    torch.manual_seed(mix_seed(_CHUNK_TAG, seed, chunk))
    ids, positions, last = (each.to(device) for each in (pack.input_ids_L, pack.position_ids_L, pack.last_index_N))
    z_ND: Tensor = encoder(ids, positions, last, which=which)
    return z_ND
