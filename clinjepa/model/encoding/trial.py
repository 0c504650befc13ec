"""A new encoder is tried: what it makes of two tiny texts in a row must be what transformers makes of each alone.

transformers isolates packed texts in classes that build their attention mask from the positions. Classes that build another mask (BioGPT,
Falcon), recurrence (Mamba, RWKV), convolution (LFM2) or learned positions that they count themselves do not, and raise no error. An encoder
of such a class gets one text a row (`Encoder.one_text_per_row`), which is right for every class whose places do not see later ones. Where
a class differs only in rows longer than those tried, its configuration shows it (`layers.longest_shared_row`). The classes tried are in
docs/encoder_classes.md.

For SFT the logits are tried in the same way (`Encoder.logits_by_class`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import torch
import torch.distributed as dist
from torch import Tensor

from clinjepa.errors import ConfigError, first_line
from clinjepa.model.encoding.layers import final_norm, inner_of
from clinjepa.model.encoding.next_token import ClassLogits
from clinjepa.model.pretrained.base_model import MADE_HERE

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Encoder: TypeAlias = Any  # `clinjepa.model.encoding.encoder` imports this module

TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
"""Largest difference from a text alone, as a share of the largest value."""

_LEAKS = {torch.float32: 1e-6, torch.bfloat16: 1e-4}
"""Largest difference that other tokens at the same places may make: all else is equal, so it is 0 for a class that isolates texts."""

_LEAKS_OF_EXPERTS = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
"""The same for a mixture of experts, where other tokens change how many an expert computes at once, and so the order of its sums."""

_LENGTH = 7  # odd, so that blocks of a power of two do not end with a text
_FAULTS = (TypeError, ValueError, IndexError, KeyError, AttributeError, AssertionError, NotImplementedError, RuntimeError)


def try_encoder(encoder: Encoder, with_head: bool) -> None:
    """Set `dim`, `one_text_per_row` and `logits_by_class` of a new encoder as its class needs. All workers of a sharded encoder call it.

    The class of the bases that are made here needs none of it, which a test holds; it is not tried.

    Args:
        encoder: on its device, with its weights.
        with_head: it will compute next-token losses.

    Raises:
        ConfigError: the class gives other latents or losses than transformers in either way.
    """
    if encoder.spec.init == "config" and type(encoder.causal).__name__ == MADE_HERE:
        return
    texts_3S = _texts(encoder)
    was_training = encoder.training
    encoder.eval()
    try:
        with torch.no_grad():
            encoder(texts_3S, torch.zeros_like(texts_3S), trial=partial(_try, encoder, texts_3S, with_head))
    finally:
        encoder.train(was_training)


def _texts(encoder: Encoder) -> Tensor:
    """Ids [3, S]: two texts, and one that begins as the first and ends otherwise."""
    device = next(encoder.parameters()).device
    ids_3S = torch.arange(3 * _LENGTH, device=device).view(3, _LENGTH) * 7 + 3
    ids_3S[2, : _LENGTH // 2] = ids_3S[0, : _LENGTH // 2]
    vocab_size: int = encoder.spec.vocab_size
    return ids_3S % vocab_size


def _try(encoder: Encoder, texts_3S: Tensor, with_head: bool, causal: PreTrainedModel) -> Tensor:
    name = type(causal).__name__
    alone = _result(lambda: _alone(causal, texts_3S))
    if isinstance(alone, Exception):
        raise ConfigError(f"{name} cannot encode token ids ({first_line(alone)}); choose another encoder.model") from None
    scale = alone.abs().max()
    if not bool(scale.isfinite()):
        raise ConfigError(f"{name}: its states are not finite (a weight is NaN or too large); get its files again or choose another model")
    scale = scale.clamp_min(1e-30)
    encoder.dim = alone.shape[-1]
    takes_positions = "position_ids" in inspect.signature(inner_of(causal).forward).parameters
    if not takes_positions or not _holds(encoder, lambda: _packed(encoder, causal, texts_3S, alone, scale)):
        encoder.one_text_per_row = True
        if not _holds(encoder, lambda: _one_per_row(encoder, causal, texts_3S, alone, scale)):
            raise ConfigError(
                f"{name} gives a text another latent when other texts or unused places are in the same pass: it is no causal language "
                "model, or not as it is configured; choose another encoder.model"
            )
    if encoder.spec.latent_from == "pre_norm" and not _holds(encoder, lambda: _before_norm(encoder, causal, texts_3S, alone, scale)):
        raise ConfigError(f"{name}: the state before its final norm cannot be read; set encoder.latent_from=post_norm")
    if with_head:
        _try_losses(encoder, causal, texts_3S)
    return scale


def _result(compute: Callable[[], Tensor]) -> Tensor | Exception:
    """The result or the fault of `compute`. Workers of a sharded encoder compute the same, so a fault is one of all of them."""
    try:
        return compute()
    except torch.OutOfMemoryError:
        raise
    except _FAULTS as error:
        return error


def _holds(encoder: Encoder, gap_of: Callable[[], Tensor]) -> bool:
    """Whether `gap_of`, a share of its tolerance, is at most 1 on every worker."""
    gap = _result(gap_of)
    if isinstance(gap, Exception):
        return False
    gap = gap.float().nan_to_num(nan=torch.inf)
    if encoder.is_sharded:
        dist.all_reduce(gap, op=dist.ReduceOp.MAX)
    return float(gap) <= 1.0


def _alone(causal: PreTrainedModel, texts_3S: Tensor) -> Tensor:
    """States [2, S, D] of two texts, as transformers computes them."""
    inner: Any = inner_of(causal)
    states: Tensor = inner(input_ids=texts_3S[:2], use_cache=False).last_hidden_state
    return states.float()


def _packed(encoder: Encoder, causal: PreTrainedModel, texts_3S: Tensor, alone_2SD: Tensor, scale: Tensor) -> Tensor:
    """Two texts in a row against each alone, and against the same row with another first text."""
    first, second, other = texts_3S
    ids_1S, changed_1S = torch.cat([first, second])[None], torch.cat([other, second])[None]
    positions_1S = torch.arange(_LENGTH, device=ids_1S.device).repeat(1, 2)
    states, changed = (encoder.all_states(causal, ids, positions_1S).last_hidden_state[0].float() for ids in (ids_1S, changed_1S))
    apart = (states - alone_2SD.flatten(0, 1)).abs().max()
    read = _read(encoder, causal, ids_1S, positions_1S, states, [_LENGTH - 1, 2 * _LENGTH - 1])
    leak = (states[_LENGTH:] - changed[_LENGTH:]).abs().max()
    return _share(encoder, causal, torch.maximum(apart, read) / scale, leak / scale)


def _one_per_row(encoder: Encoder, causal: PreTrainedModel, texts_3S: Tensor, alone_2SD: Tensor, scale: Tensor) -> Tensor:
    """A whole text and one that is cut, with unused places behind it, against each alone and against other tokens at these places."""
    used = _LENGTH // 2
    changed_RS, positions_RS = texts_3S[:2], torch.arange(_LENGTH, device=texts_3S.device).repeat(2, 1)
    ids_RS = changed_RS.clone()
    ids_RS[1, used:], positions_RS[1, used:] = ids_RS[0, 0], 0
    states, changed = (encoder.all_states(causal, ids, positions_RS).last_hidden_state.float() for ids in (ids_RS, changed_RS))
    apart = torch.maximum((states[0] - alone_2SD[0]).abs().max(), (states[1, :used] - alone_2SD[1, :used]).abs().max())
    read = _read(encoder, causal, ids_RS, positions_RS, states.flatten(0, 1), [_LENGTH - 1, _LENGTH + used - 1])
    leak = (states[1, :used] - changed[1, :used]).abs().max()
    return _share(encoder, causal, torch.maximum(apart, read) / scale, leak / scale)


def _read(encoder: Encoder, causal: PreTrainedModel, ids_RS: Tensor, positions_RS: Tensor, states_LD: Tensor, places: list[int]) -> Tensor:
    """Largest difference of the states that latents are read from; 0 where they are read before the final norm."""
    index_N = torch.tensor(places, device=ids_RS.device)
    read_ND: Tensor = encoder.states_at(causal, ids_RS, positions_RS, index_N).float()
    gap = (read_ND - states_LD[index_N]).abs().max()
    return torch.zeros_like(gap) if encoder.spec.latent_from == "pre_norm" else gap


def _before_norm(encoder: Encoder, causal: PreTrainedModel, texts_3S: Tensor, alone_2SD: Tensor, scale: Tensor) -> Tensor:
    """The state before the final norm, through that norm, against the state after it."""
    positions_RS = torch.arange(_LENGTH, device=texts_3S.device).repeat(2, 1)
    last_N = torch.tensor([_LENGTH - 1, 2 * _LENGTH - 1], device=texts_3S.device)
    before_ND = encoder.states_at(causal, texts_3S[:2], positions_RS, last_N)
    after_ND: Tensor = final_norm(inner_of(causal))(before_ND).float()
    return (after_ND - alone_2SD[:, -1]).abs().max() / scale / TOLERANCES[encoder.spec.torch_dtype]


def _try_losses(encoder: Encoder, causal: PreTrainedModel, texts_3S: Tensor) -> None:
    """Set `logits_by_class`. Raises ConfigError where places see later tokens, or logits cannot be computed from states."""
    name = type(causal).__name__
    inner, call = cast(Any, inner_of(causal)), cast(Any, causal)

    def seen() -> Tensor:
        states, changed = (inner(input_ids=texts_3S[[i]], use_cache=False).last_hidden_state[0].float() for i in (0, 2))
        leak = (states - changed)[: _LENGTH // 2].abs().max() / states.abs().max()
        return _share(encoder, causal, torch.zeros_like(leak), leak)

    if not _holds(encoder, seen):
        raise ConfigError(
            f"{name}: its places see later tokens, so it cannot be trained to predict the next one; choose recipes without SFT"
        )
    output = inner(input_ids=texts_3S[:1], use_cache=False)
    states_SD = output.last_hidden_state[0]
    logits_SV: Tensor = call(input_ids=texts_3S[:1], use_cache=False).logits[0].float()
    scale: Tensor = logits_SV.abs().max().clamp_min(1e-30)

    def gap_of(head: Callable[[Tensor], Tensor]) -> Tensor:
        # Rounding is equal on both sides: the same states, the same product.
        return (head(states_SD).float() - logits_SV).abs().max() / scale / 1e-5

    if _holds(encoder, lambda: gap_of(cast(Callable[[Tensor], Tensor], causal.get_output_embeddings()))):
        return
    encoder.logits_by_class = True
    if not _holds(encoder, lambda: gap_of(ClassLogits(causal, type(output)))):
        raise ConfigError(f"{name}: its logits cannot be computed from its last states, which SFT needs; choose recipes without SFT")


def _share(encoder: Encoder, causal: PreTrainedModel, gap: Tensor, leak: Tensor) -> Tensor:
    """The larger of both, as a share of what is tolerated."""
    dtype, config = encoder.spec.torch_dtype, causal.config.get_text_config()
    of_experts = any(getattr(config, name, None) for name in ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"))
    return torch.maximum(gap / TOLERANCES[dtype], leak / (_LEAKS_OF_EXPERTS if of_experts else _LEAKS)[dtype])
