"""The predictor: a block-causal transformer over [static, s_0, a_0, …, s_{T-1}, a_{T-1}] that predicts the next hour's state latent.

Sizes, mask, positions and initialisation follow Clin-JEPA (arXiv 2605.10840, section 4). The static token attends to itself only, and all
tokens attend to it; state and action of an hour attend to each other and to all earlier hours. ẑ_{t+1} is read at s_t, so it depends on
a_t. Hours count from 0 at the window's start. Always fp32.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clinjepa.errors import CheckpointError
from clinjepa.model.sharding import fill, shard_layers, to_shards, whole
from clinjepa.model.specs import PredictorSpec
from clinjepa.model.tensor_files import check_same_tensors, read_local_json, read_local_tensors, read_tensors, write_tensors

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from clinjepa.storage import Folder


class Cache(NamedTuple):
    """Keys and values of earlier hours for later ones, per layer [B, heads, N, head_dim], and which of the N tokens are visible."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    hour_BN: Tensor
    """Hour of each cached token, int64; -1 for the static one."""

    visible_BN: Tensor
    """Tokens that later hours attend to, bool."""

    next_hour_B: Tensor
    """Hour of the next call."""

    room: tuple[tuple[Tensor, Tensor], ...] | None = None
    """Per layer, buffers [B, heads, M, head_dim] that begin with the keys and the values; None: later hours are joined by copying."""

    all_visible: bool = False
    """Whether every token is known to be visible, so that attention needs no mask."""

    def up_to(self, last_hour_B: Tensor) -> Cache:
        """The same tokens with hours 0 to last_hour_B (per row) visible; the next hour is the one after."""
        visible_BN = self.hour_BN <= last_hour_B[:, None]
        return self._replace(visible_BN=visible_BN, next_hour_B=last_hour_B + 1, all_visible=False)

    def with_room(self, num_hours: int, times: int = 1) -> Cache:
        """A copy with room for `num_hours` later hours, for a rollout without gradient: an hour is written in place, nothing is copied.

        The caches of the hours that follow share its buffers, so only one rollout may go on from it.

        Args:
            num_hours: Hours that will be added, at most.
            times: The rows are repeated so many times, one block after another.
        """

        def buffer(known: Tensor) -> Tensor:
            batch, heads, num_tokens, width = known.shape
            made = known.new_empty(times * batch, heads, num_tokens + 2 * num_hours, width)
            made.view(times, batch, heads, -1, width)[:, :, :, :num_tokens] = known
            return made

        room = tuple((buffer(key), buffer(value)) for key, value in zip(self.keys, self.values, strict=True))
        num_tokens = self.hour_BN.shape[1]
        keys, values = (tuple(pair[i][:, :, :num_tokens] for pair in room) for i in (0, 1))
        hours, visible = self.hour_BN.repeat(times, 1), self.visible_BN.repeat(times, 1)
        return Cache(keys, values, hours, visible, self.next_hour_B.repeat(times), room, bool(self.visible_BN.all()))


def joined_caches(caches: Sequence[Cache]) -> Cache:
    """The rows of several caches of one predictor as one; the shorter ones are filled up with tokens that nothing attends to."""
    most = max(cache.hour_BN.shape[1] for cache in caches)

    def filled(part: Tensor, dim: int) -> Tensor:
        missing = most - part.shape[dim]
        return torch.cat([part, part.new_zeros(*part.shape[:dim], missing, *part.shape[dim + 1 :])], dim) if missing else part

    layers = range(len(caches[0].keys))
    keys = tuple(torch.cat([filled(cache.keys[i], 2) for cache in caches]) for i in layers)
    values = tuple(torch.cat([filled(cache.values[i], 2) for cache in caches]) for i in layers)
    hour_BN = torch.cat([filled(cache.hour_BN, 1) for cache in caches])
    visible_BN = torch.cat([filled(cache.visible_BN, 1) for cache in caches])
    return Cache(keys, values, hour_BN, visible_BN, torch.cat([cache.next_hour_B for cache in caches]))


class Predictor(nn.Module):
    """z_static, z_state, z_action -> ẑ of the next hours. Its weights are used in `forward` only, so that it can be an FSDP2 root."""

    def __init__(self, spec: PredictorSpec) -> None:
        super().__init__()
        self.spec = spec
        self.static_in = nn.Linear(spec.latent_dim, spec.hidden_size)
        self.state_in = nn.Linear(spec.latent_dim, spec.hidden_size)
        self.action_in = nn.Linear(spec.latent_dim, spec.hidden_size)
        self.positions = nn.Parameter(torch.empty(spec.num_positions, spec.hidden_size))
        self.layers = nn.ModuleList([_Layer(spec) for _ in range(spec.num_layers)])
        self.out = nn.Linear(spec.hidden_size, spec.latent_dim)
        self.reset_parameters()

    def _layers(self) -> list[_Layer]:
        return [cast(_Layer, layer) for layer in self.layers]

    def reset_parameters(self) -> None:
        """Positions and output layer N(0, 0.02), other matrices Xavier-uniform (query, key and value separately), biases 0."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for layer in self._layers():
            for block in layer.qkv.weight.chunk(3):
                nn.init.xavier_uniform_(block)
        nn.init.normal_(self.positions, std=0.02)
        nn.init.normal_(self.out.weight, std=0.02)

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> Predictor:
        """The predictor of a local folder with `predictor.json` and `predictor.safetensors`, on the CPU, without dropout (`eval`).

        Raises:
            StoreError: a file is missing.
            CheckpointError: a file is damaged or of another version.
        """
        return read_local_predictor(folder).eval()

    def forward(
        self,
        z_static_BD: Tensor | None,
        z_state_BTD: Tensor,
        z_action_BTD: Tensor | None,
        valid_BT: Tensor | None = None,
        *,
        cache: Cache | None = None,
        keep_cache: bool = False,
    ) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Cache]:
        """Predict hour t + 1 from hours 0 to t, for every t of the window at once; with `cache`, for the one hour after the cached ones.

        Args:
            z_static_BD: static latents; None with a cache.
            z_state_BTD: state latents; T = 1 with a cache.
            z_action_BTD: action latents; with a cache, None for an unknown action: the state then attends to itself and the past.
            valid_BT: bool, False = padding after the window (its latents are not read; its outputs are meaningless); None: all valid.
            cache: the hours before.
            keep_cache: also return a Cache of all hours so far.

        Returns:
            (pred_BTD, hidden_BTH[, cache]): pred[:, t] is ẑ_{t+1} in latent units, hidden[:, t] the last layer's output, both at s_t.

        Raises:
            ValueError: the window is longer than the learned positions, or its static or action latents are missing.
        """
        mask: Tensor | None
        if cache is None:
            x_BNH, hour_BN, visible_BN, mask = self._window(z_static_BD, z_state_BTD, z_action_BTD, valid_BT)
            read = slice(1, None, 2)
        else:
            x_BNH, hour_BN, visible_BN, mask = self._next_hour(z_state_BTD, z_action_BTD, cache)
            read = slice(0, 1)
        keys, values = [], []
        for i, layer in enumerate(self.layers):
            past = (cache.keys[i], cache.values[i]) if cache is not None else None
            room = cache.room[i] if cache is not None and cache.room is not None else None
            # Only state tokens are read, so for the others the last layer computes keys and values only.
            last = i == len(self.layers) - 1
            own_mask = mask[:, :, read] if last and mask is not None else mask
            x_BNH, key, value = layer(x_BNH, own_mask, past, room, read if last else slice(None))
            keys.append(key)
            values.append(value)
        # A linear layer's output is a view; an FSDP2 unit must not return a view.
        pred_BTD = self.out(x_BNH) + z_state_BTD if self.spec.mode == "residual" else self.out(x_BNH).clone()
        if not keep_cache:
            return pred_BTD, x_BNH
        made = Cache(tuple(keys), tuple(values), hour_BN, visible_BN, hour_BN[:, -1] + 1)
        if cache is not None:
            made = made._replace(room=cache.room, all_visible=cache.all_visible)
        return pred_BTD, x_BNH, made

    def _window(
        self, z_static_BD: Tensor | None, z_state_BTD: Tensor, z_action_BTD: Tensor | None, valid_BT: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        if z_static_BD is None or z_action_BTD is None:
            raise ValueError("a window needs its static and action latents")
        batch, num_hours, _ = z_state_BTD.shape
        num_tokens = 2 * num_hours + 1
        self.check_reach(num_hours)
        if valid_BT is not None:
            # A NaN in padding would propagate even through attention weights of zero.
            z_state_BTD = z_state_BTD.masked_fill(~valid_BT[..., None], 0)
            z_action_BTD = z_action_BTD.masked_fill(~valid_BT[..., None], 0)
        pairs = torch.stack([self.state_in(z_state_BTD), self.action_in(z_action_BTD)], dim=2).flatten(1, 2)
        x_BNH = torch.cat([self.static_in(z_static_BD)[:, None], pairs], dim=1) + self.positions[:num_tokens]
        hour_N = (torch.arange(num_tokens, device=x_BNH.device) + 1) // 2 - 1
        mask = hour_N[None, :] <= hour_N[:, None]
        hour_BN = hour_N.expand(batch, -1)
        return x_BNH, hour_BN, torch.ones_like(hour_BN, dtype=torch.bool), mask[None, None]

    def _next_hour(self, z_state_B1D: Tensor, z_action_B1D: Tensor | None, cache: Cache) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        tokens = [self.state_in(z_state_B1D)]
        if z_action_B1D is not None:
            tokens.append(self.action_in(z_action_B1D))
        new = len(tokens)
        place_BN = 1 + 2 * cache.next_hour_B[:, None] + torch.arange(new, device=z_state_B1D.device)
        x_BNH = torch.cat(tokens, dim=1) + F.embedding(place_BN, self.positions)
        hour_BN = torch.cat([cache.hour_BN, cache.next_hour_B[:, None].expand(-1, new)], dim=1)
        visible_BN = torch.cat([cache.visible_BN, cache.visible_BN.new_ones(len(x_BNH), new)], dim=1)
        return x_BNH, hour_BN, visible_BN, None if cache.all_visible else visible_BN[:, None, None]

    def check_reach(self, num_hours: int) -> None:
        """Raise ValueError for a window longer than the learned positions, or than every window of the training."""
        if num_hours > self.spec.max_hours + 2:
            raise ValueError(f"{num_hours} hours exceed the predictor's max_hours={self.spec.max_hours} (+ 2); raise it or cut the window")
        trained = self.spec.trained_hours
        if trained is not None and num_hours > trained:
            raise ValueError(
                f"{num_hours} hours exceed the {trained} hours of the longest window in the predictor's training; cut the window"
            )


class _Layer(nn.Module):
    """Pre-norm attention and feed-forward, with dropout on both branches and inside the feed-forward."""

    def __init__(self, spec: PredictorSpec) -> None:
        super().__init__()
        self.num_heads, self.attention_dropout = spec.num_heads, spec.attention_dropout
        self.attention_norm = nn.LayerNorm(spec.hidden_size)
        self.qkv = nn.Linear(spec.hidden_size, 3 * spec.hidden_size)
        self.attention_out = nn.Linear(spec.hidden_size, spec.hidden_size)
        self.ffn_norm = nn.LayerNorm(spec.hidden_size)
        self.ffn_in = nn.Linear(spec.hidden_size, spec.ffn_size)
        self.ffn_out = nn.Linear(spec.ffn_size, spec.hidden_size)
        self.dropout = nn.Dropout(spec.dropout)

    def forward(
        self, x_BNH: Tensor, mask: Tensor | None, past: tuple[Tensor, Tensor] | None, room: tuple[Tensor, Tensor] | None, read: slice
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One layer.

        Args:
            x_BNH: new tokens.
            mask: bool, True = attended to, broadcastable to [B, heads, tokens read, past + new]; None: all are.
            past: keys and values of earlier tokens, or None.
            room: buffers that begin with those of `past` and take the new ones; None: they are joined by copying.
            read: new tokens whose output is computed.

        Returns:
            (output of the tokens read, keys and values of past and new tokens).
        """
        batch, _, width = x_BNH.shape
        query, key, value = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in self.qkv(self.attention_norm(x_BNH)).chunk(3, dim=-1)
        )
        # Contiguous, not views, for the same reason as the prediction.
        key, value = key.contiguous(), value.contiguous()
        if past is not None:
            key, value = (_joined(*parts) for parts in zip(past, (key, value), room or (None, None), strict=True))
        x_BNH = x_BNH[:, read]
        dropout = self.attention_dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query[:, :, read], key, value, attn_mask=mask, dropout_p=dropout)
        x_BNH = x_BNH + self.dropout(self.attention_out(mixed.transpose(1, 2).reshape(batch, -1, width)))
        inner = self.dropout(F.gelu(self.ffn_in(self.ffn_norm(x_BNH))))
        return x_BNH + self.dropout(self.ffn_out(inner)), key, value


def _joined(past: Tensor, new: Tensor, buffer: Tensor | None) -> Tensor:
    """Past and new tokens along the third dimension; with a buffer that begins with the past ones, a view of it."""
    if buffer is None:
        return torch.cat([past, new], dim=2)
    known, total = past.shape[2], past.shape[2] + new.shape[2]
    buffer[:, :, known:total] = new
    return buffer[:, :, :total]


def build_predictor(spec: PredictorSpec, seed: int) -> Predictor:
    """A predictor with fresh weights that depend on `seed` only; the global generator is not advanced."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Predictor(spec)


PREDICTOR_TENSORS, PREDICTOR_SPEC = "predictor.safetensors", "predictor.json"
PREDICTOR_ENCODER = "encoder.json"
"""File beside a predictor: {"encoder_digest": of the encoder in whose latent space it predicts (`pretrained/identity.py`)}."""


def predictor_state(predictor: Predictor) -> dict[str, Tensor]:
    """All weights as whole tensors on the CPU; collective when sharded."""
    to_shards(predictor)
    return {name: whole(parameter) for name, parameter in predictor.named_parameters()}


def load_predictor_state(predictor: Predictor, state: Mapping[str, Tensor]) -> None:
    """Load whole tensors, present on every worker, sharded or not. Raises CheckpointError if names or shapes differ."""
    to_shards(predictor)
    parameters = dict(predictor.named_parameters())
    check_same_tensors(state, parameters, PREDICTOR_TENSORS)
    for name, parameter in parameters.items():
        fill(parameter, state[name])


def save_predictor(state: Mapping[str, Tensor], spec: PredictorSpec, out: Folder) -> None:
    """Write `predictor.safetensors`, then `predictor.json`. state: whole tensors, from `predictor_state`."""
    write_tensors(out, PREDICTOR_TENSORS, state)
    out.write_json(PREDICTOR_SPEC, spec.to_dict())


def load_predictor(folder: Folder) -> Predictor:
    """The predictor that `save_predictor` wrote, on the CPU, in training mode. Raises StoreError or CheckpointError."""
    return _filled_predictor(folder.read_json(PREDICTOR_SPEC), read_tensors(folder, PREDICTOR_TENSORS), folder.address)


def read_local_predictor(folder: str | os.PathLike[str]) -> Predictor:
    """Like `load_predictor`, from a local folder, without the storage layer: torch and safetensors are enough."""
    where = os.fspath(folder)
    return _filled_predictor(read_local_json(folder, PREDICTOR_SPEC), read_local_tensors(folder, PREDICTOR_TENSORS), where)


def _filled_predictor(written: Mapping[str, Any], state: Mapping[str, Tensor], where: str) -> Predictor:
    try:
        spec = PredictorSpec(**written)
    except TypeError:
        raise CheckpointError(f"{where}/{PREDICTOR_SPEC} describes a predictor of another version; train it again with this one") from None
    predictor = build_predictor(spec, seed=0)
    check_same_tensors(state, predictor.state_dict(), f"{where}/{PREDICTOR_TENSORS}")
    predictor.load_state_dict(state)
    return predictor


def shard_predictor(predictor: Predictor, mesh: DeviceMesh) -> None:
    """Shard in place: every layer, then the predictor."""
    shard_layers(predictor, predictor.layers, mesh)
