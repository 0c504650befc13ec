"""The encoder: a causal language model that turns one text into one latent, the hidden state of the text's last token.

Its *online* weights (LoRA tensors, or all weights) are trained. Its *target* weights, of the same names, follow them as an exponential
moving average in fp32. The latent is taken without a projection head (Clin-JEPA, arXiv 2605.10840, section 3).
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parameter import Parameter

from clinjepa.errors import ConfigError
from clinjepa.model.encoding.last_layer import Places, can_read_at, read_at
from clinjepa.model.encoding.layers import final_norm, inner_name, inner_of, list_of_layers, longest_shared_row, longest_text, most_keys
from clinjepa.model.encoding.next_token import ClassLogits, next_token_loss
from clinjepa.model.encoding.packing import SHORTEST_ROW, Pack, pack_texts
from clinjepa.model.encoding.recompute import recompute_in_backward
from clinjepa.model.encoding.trial import try_encoder
from clinjepa.model.norms import fuse_norms
from clinjepa.model.pretrained.adapters import adapter_of, add_adapters, switch_adapter
from clinjepa.model.pretrained.base_model import (
    BaseSource,
    NoHead,
    base_config,
    check_content,
    drop_head,
    load_base,
    open_base,
    random_model,
    saved_buffers,
)
from clinjepa.model.pretrained.weights import content_digest, fill_from_files, fits, hollow_model, hollow_on_cpu, ties_differ, weight_files
from clinjepa.model.sharding import fill, local, shard_layers, to_shards, whole
from clinjepa.model.specs import EncoderSpec
from clinjepa.model.tensor_files import check_same_tensors

if TYPE_CHECKING:
    from peft import PeftModel
    from torch.distributed.device_mesh import DeviceMesh
    from transformers import PreTrainedModel

    from clinjepa.storage import Folder


class Encoder(nn.Module):
    """Text -> latent; made by `build_encoder`. Its weights are used in `forward` only, so that it can be an FSDP2 root."""

    def __init__(self, spec: EncoderSpec, model: nn.Module, lora: bool, with_target: bool) -> None:
        super().__init__()
        self.spec, self.lora, self.with_target = spec, lora, with_target
        self.model = model
        self.target_model = copy.deepcopy(model).requires_grad_(False) if with_target and not lora else None
        self._active = "online"
        self.dim = int(causal_of(model).config.get_text_config().hidden_size)
        """Width of a latent. A class that projects its last states to another width sets it (`clinjepa.model.encoding.trial`)."""
        self.one_text_per_row = False
        """Rows hold one text each, because the model's class does not isolate packed texts (`clinjepa.model.encoding.trial`)."""
        self.logits_by_class = False
        """Logits are more than the output layer's product in the model's class (`clinjepa.model.encoding.next_token`)."""
        self._longest_text = longest_text(causal_of(model))
        self._longest_shared_row, self._most_keys = longest_shared_row(causal_of(model)), most_keys(causal_of(model))
        fuse_norms(self)
        last = [layers[-1] for layers in self._lists_of_layers()]
        self._reads_at = all(map(can_read_at, last))  # before sharding, which changes the layers' classes
        for layer in last if self._reads_at else []:
            read_at(layer)

    def forward(
        self,
        input_ids_L: Tensor,
        position_ids_L: Tensor,
        last_index_N: Tensor | None = None,
        which: str = "online",
        labels_L: Tensor | None = None,
        trial: Callable[[PreTrainedModel], Tensor] | None = None,
    ) -> Tensor:
        """Latents of packed texts or, with `labels_L`, their summed next-token cross-entropy.

        Args:
            input_ids_L: int64 [R, S] rows (or [L], one row) as `Encoder.pack` lays them out: none attends to another.
            position_ids_L: int64 of the same shape; restarts at 0 with each text.
            last_index_N: place of each text's last token in the flattened rows; needed for latents.
            which: `online` or `target` weights.
            labels_L: the token to predict *at* each place (already shifted: `Pack.labels_L`); -100 for none.
            trial: called with the causal language model instead, with its weights gathered (`clinjepa.model.encoding.trial`).

        Returns:
            z_ND in `spec.dtype`, for `target` always without a graph. With labels_L: a scalar in nats, fp32, which the caller divides by
            the number of labels of the global step; it is that of transformers whatever `spec.latent_from` is.

        Raises:
            ValueError: the encoder has no such weights or no output layer, or neither last_index_N nor labels_L is given.
        """
        if which == "target" and not self.with_target or which not in ("online", "target"):
            raise ValueError(f"this encoder has no {which!r} weights; build it with with_target=True")
        model = self.model
        if which == "target" and self.target_model is not None:
            model = self.target_model
        elif self.lora:
            self._activate(which)
        with torch.set_grad_enabled(torch.is_grad_enabled() and which == "online"), self._autocast(input_ids_L.device.type):
            causal = causal_of(model)
            if trial is not None:
                return trial(causal)
            input_ids_RS, position_ids_RS = torch.atleast_2d(input_ids_L), torch.atleast_2d(position_ids_L)
            if labels_L is not None:
                return self._next_token_loss(causal, input_ids_RS, position_ids_RS, labels_L)
            if last_index_N is None:
                raise ValueError("give last_index_N for latents or labels_L for a next-token loss")
            return self.states_at(causal, input_ids_RS, position_ids_RS, last_index_N).to(self.spec.torch_dtype)

    @property
    def causal(self) -> PreTrainedModel:
        """The causal language model with the online weights."""
        return causal_of(self.model)

    def pack(self, texts: Sequence[np.ndarray], token_budget: int, end_id: int | None) -> list[Pack]:
        """`pack_texts` with as many texts in a row as the model's class allows. Raises ConfigError for a text that it cannot encode."""
        longest = max(map(len, texts), default=0) + (end_id is not None)
        if self._longest_text is not None and longest > self._longest_text:
            raise ConfigError(
                f"a text has {longest} tokens, and {type(self.causal).__name__} has positions for {self._longest_text}; "
                f"set tokenizer.max_tokens={self._longest_text - (end_id is not None)} or less"
            )
        too_long = self._longest_shared_row is not None and max(longest, SHORTEST_ROW) > self._longest_shared_row
        return pack_texts(texts, token_budget, end_id, self.one_text_per_row or too_long, self._most_keys)

    def _activate(self, which: str) -> None:
        if self.lora and which != self._active:
            switch_adapter(self.model, which)
            self._active = which

    def _autocast(self, device_type: str) -> torch.autocast:
        return torch.autocast(device_type, dtype=torch.bfloat16, enabled=self.spec.dtype == "bfloat16")

    def all_states(self, causal: PreTrainedModel, input_ids_RS: Tensor, position_ids_RS: Tensor) -> Any:
        """Output of the layers of the causal language model; its `last_hidden_state` is [R, S, D], after the final norm."""
        # A class that does not isolate texts gets no positions: a row is then what transformers computes for one text.
        positions = {} if self.one_text_per_row else {"position_ids": position_ids_RS}
        return inner_of(causal)(input_ids=input_ids_RS, attention_mask=None, use_cache=False, **positions)

    def states_at(self, causal: PreTrainedModel, input_ids_RS: Tensor, position_ids_RS: Tensor, index_N: Tensor) -> Tensor:
        """States [N, D] from which latents are taken (`spec.latent_from`), at places of the flattened rows."""
        inner = inner_of(causal)
        captured: list[Tensor] = []
        with contextlib.ExitStack() as hooks:
            if self.spec.latent_from == "pre_norm":
                hook = final_norm(inner).register_forward_pre_hook(lambda _, args: captured.append(args[0]))
                hooks.callback(hook.remove)
            if self._reads_at:
                # Before the layers run: the number of slots needs a synchronisation with the GPU.
                places = {"places": Places.of(index_N, *input_ids_RS.shape)}
                hook = list_of_layers(inner)[-1].register_forward_pre_hook(
                    lambda _, args, kwargs: (args, kwargs | places), with_kwargs=True
                )
                hooks.callback(hook.remove)
            output = self.all_states(causal, input_ids_RS, position_ids_RS)
        hidden: Tensor = captured[0] if captured else output.last_hidden_state
        return hidden if hidden.ndim == 2 else hidden.flatten(0, 1)[index_N]

    def _next_token_loss(self, causal: PreTrainedModel, input_ids_RS: Tensor, position_ids_RS: Tensor, labels_L: Tensor) -> Tensor:
        output = self.all_states(causal, input_ids_RS, position_ids_RS)
        head = causal.get_output_embeddings()
        if head is None or isinstance(head, NoHead):
            raise ValueError("this encoder was read without its output layer; build it with with_head=True")
        logits = ClassLogits(causal, type(output)) if self.logits_by_class else head
        return next_token_loss(logits, cast(Tensor, head.weight).shape[0], output.last_hidden_state.flatten(0, 1), labels_L.flatten())

    def recompute(self, what: str) -> None:
        """Set activation checkpointing (`none`, `selective`, `full`) of the online layers. Call once, before sharding."""
        layers = list_of_layers(inner_of(causal_of(self.model)))
        # Only online forwards have a graph, but the target may be active when a layer is computed again.
        recompute_in_backward(layers, what, self.spec.lora_rank if self.lora else 0, before=lambda: self._activate("online"))

    @property
    def is_sharded(self) -> bool:
        """Whether `shard_encoder` has sharded it."""
        return any(isinstance(parameter, DTensor) for parameter in self.parameters())

    def layers(self) -> list[nn.Module]:
        """The transformer layers, online and target, which are sharded one by one."""
        return [layer for layers in self._lists_of_layers() for layer in layers]

    def _lists_of_layers(self) -> list[nn.ModuleList]:
        models = [self.model] if self.target_model is None else [self.model, self.target_model]
        return [list_of_layers(inner_of(causal_of(model))) for model in models]

    def online_parameters(self) -> list[tuple[str, Parameter]]:
        """(tensor name, parameter) of the online weights, frozen or not; shards if the encoder is sharded."""
        to_shards(self)
        return list(self._named("online"))

    def target_parameters(self) -> list[tuple[str, Parameter]]:
        """(tensor name, parameter) of the target weights, in the order of `online_parameters`. Raises ValueError if there are none."""
        if not self.with_target:
            raise ValueError("this encoder has no target weights; build it with with_target=True")
        to_shards(self)
        return list(self._named("target"))

    def _named(self, which: str | None) -> Iterator[tuple[str, Parameter]]:
        """Weights of `online`, `target` or, with None, the base; all weights if there are no adapters."""
        for name, parameter in self._model_of(which).named_parameters():
            if not self.lora:
                yield name, parameter
            elif adapter_of(name)[1] == which:
                yield adapter_of(name)[0], parameter

    def _model_of(self, which: str | None) -> nn.Module:
        return self.target_model if which == "target" and self.target_model is not None else self.model

    def _buffers_of(self, which: str | None) -> dict[str, Tensor]:
        """Buffers that the model's files hold, under the names there; none for adapters. Every worker has them whole."""
        if self.lora and which is not None:
            return {}
        return {adapter_of(name)[0]: buffer for name, buffer in saved_buffers(self._model_of(which)).items()}

    def online_state(self) -> dict[str, Tensor]:
        """Whole online tensors on the CPU, with the model's saved buffers where there are no adapters; collective when sharded."""
        return {name: whole(tensor) for name, tensor in (dict(self.online_parameters()) | self._buffers_of("online")).items()}

    def target_state(self) -> dict[str, Tensor]:
        """Whole target tensors on the CPU, under the names of the online ones; collective when sharded."""
        return {name: whole(tensor) for name, tensor in (dict(self.target_parameters()) | self._buffers_of("target")).items()}

    def base_state(self) -> dict[str, Tensor]:
        """Whole tensors of the base under Hugging Face's names (all weights if there are no adapters); collective when sharded."""
        to_shards(self)
        return {name: whole(tensor) for name, tensor in (dict(self._named(None)) | self._buffers_of(None)).items()}

    def base_config(self) -> dict[str, Any]:
        """`config.json` of the base, for `write_base`."""
        return base_config(causal_of(self.model))

    def load_online(self, state: Mapping[str, Tensor]) -> None:
        """Load whole tensors, present on every worker. Raises CheckpointError if names or shapes differ."""
        self._load(state, dict(self.online_parameters()) | self._buffers_of("online"), "online weights")

    def load_target(self, state: Mapping[str, Tensor]) -> None:
        """Like `load_online`, for the target weights."""
        self._load(state, dict(self.target_parameters()) | self._buffers_of("target"), "target weights")

    def _load(self, state: Mapping[str, Tensor], tensors: Mapping[str, Tensor], what: str) -> None:
        check_same_tensors(state, tensors, what)
        for name, tensor in tensors.items():
            fill(tensor, state[name])

    def copy_online_to_target(self) -> None:
        """Hard sync: target <- online, on local shards, without communication."""
        self.ema_update(0.0)

    @torch.no_grad()
    def ema_update(self, momentum: float) -> None:
        """target <- momentum * target + (1 - momentum) * online, on local shards, without communication; buffers are copied."""
        online, target = self._local_pairs()
        torch._foreach_lerp_(target, online, 1.0 - momentum)
        buffers = self._buffers_of("target")
        for name, buffer in self._buffers_of("online").items():
            buffers[name].copy_(buffer)

    @torch.no_grad()
    def target_gap(self) -> float:
        """Largest absolute difference between target and online weights; collective when sharded."""
        online, target = self._local_pairs()
        gaps = [(a - b).abs().max() for a, b in zip(online, target, strict=True) if a.numel()]
        gap = torch.stack(gaps).max() if gaps else torch.zeros((), device=online[0].device)
        if self.is_sharded:
            dist.all_reduce(gap, op=dist.ReduceOp.MAX)
        return float(gap)

    def _local_pairs(self) -> tuple[list[Tensor], list[Tensor]]:
        online = [local(parameter.detach()) for _, parameter in self.online_parameters()]
        return online, [local(parameter.detach()) for _, parameter in self.target_parameters()]

    def freeze(self) -> None:
        """Switch off gradients of all weights."""
        to_shards(self)
        self.requires_grad_(False)

    def unfreeze_online(self) -> None:
        """Switch on gradients of the online weights only."""
        self.freeze()
        for _, parameter in self.online_parameters():
            parameter.requires_grad_(True)


@dataclass(frozen=True)
class Loading:
    """Where and how the weights of a new encoder are loaded."""

    device: torch.device | str = "cpu"
    mesh: DeviceMesh | None = None
    """Shard over these workers; each worker reads its shards only."""

    allow_download: bool = False
    """Let the Hugging Face hub be reached for a public base."""


def build_encoder(
    spec: EncoderSpec,
    base: Folder | None,
    seed: int,
    whole_model_trainable: bool = False,
    with_target: bool = False,
    with_head: bool = False,
    loading: Loading = Loading(),
) -> Encoder:
    """A new encoder whose online weights are trainable.

    Args:
        spec: sizes and choices.
        base: folder of the base; None takes `spec.model`, or a fresh random base if `spec.init` is `config`.
        seed: of fresh adapters (B = 0, so it starts as the base) and of a fresh base.
        whole_model_trainable: no adapters, all weights in fp32 (SFT of a small base), whatever `spec.adaptation` is.
        with_target: a second set of online weights, equal at the start.
        with_head: keep the output layer, which next-token losses need. Without it, an output layer of a base that is read stays on disk
            unless it is tied to the embeddings or trained.
        loading: device, sharding and download.

    Raises:
        StoreError: the base folder cannot be read.
        ConfigError: the public model cannot be loaded, or the base does not fit the tokenizer.
    """
    trains_whole = whole_model_trainable or spec.adaptation == "full"
    lora = spec.adaptation == "lora" and not trains_whole
    dtype = torch.float32 if trains_whole else spec.torch_dtype

    adapted = spec.lora_targets if lora else ()

    def built(model: PreTrainedModel) -> Encoder:
        known = cast(nn.Embedding, model.get_input_embeddings()).num_embeddings
        if known < spec.vocab_size:
            raise ConfigError(f"the tokenizer has {spec.vocab_size} tokens, the base model only {known}; they do not belong together")
        if not trains_whole and not with_head:
            drop_head(model, adapted)
        return Encoder(spec, add_adapters(model, spec, seed, with_target) if lora else model, lora, with_target)

    if base is None and spec.init == "config":
        model = random_model(spec, seed)
        cast(nn.Module, model).to(dtype)
        encoder = built(model)
    else:
        with open_base(spec, base, loading.allow_download) as source:
            encoder = _read_encoder(source, dtype, built, loading, with_head, adapted)
    # After sharding and filling, this makes FSDP2 pad its shards now, not at the first forward, when an optimizer already holds them.
    encoder.to(loading.device)
    if loading.mesh is not None and not encoder.is_sharded:
        shard_encoder(encoder, loading.mesh)
    if with_target:
        encoder.copy_online_to_target()
    encoder.unfreeze_online()
    # Last: FSDP2 takes the dtype of gradients from what is trainable at the first forward.
    try_encoder(encoder, with_head)
    return encoder


def _read_encoder(
    source: BaseSource,
    dtype: torch.dtype,
    built: Callable[[PreTrainedModel], Encoder],
    loading: Loading,
    with_head: bool,
    adapted: Collection[str],
) -> Encoder:
    """Read straight into the shards if the files contain the model's tensors; else load it whole with transformers, not sharded yet."""

    def loaded() -> Encoder:
        return built(load_base(source, dtype, with_head or "lm_head" in adapted))

    files = weight_files(source.source, source.revision, source.local_files_only)
    if source.content is not None:
        check_content(source.source, source.content, content_digest(files))
    try:
        model = hollow_model(source.source, dtype, source.revision, source.local_files_only)
    except ValueError:
        return loaded()
    if with_head and ties_differ(model, files):
        return loaded()
    with hollow_on_cpu(model):
        encoder = built(model)
    tensors = chain(encoder.named_parameters(), encoder.named_buffers())
    names = {name: adapter_of(name.partition(".")[2])[0] for name, tensor in tensors if tensor.is_meta}
    if not fits(encoder, files, names):
        # A model saved without its output layer lacks the name under which the whole model keeps the rest.
        prefix = inner_name(encoder.causal)
        names = {name: stored.removeprefix(prefix) for name, stored in names.items()}
        if not fits(encoder, files, names):
            return loaded()
    if loading.mesh is not None:
        shard_encoder(encoder, loading.mesh)
    fill_from_files(encoder, files, names, loading.device)
    return encoder


def causal_of(model: nn.Module) -> PreTrainedModel:
    """The causal language model inside peft's wrapper, or the model itself."""
    return cast("PreTrainedModel", cast("PeftModel", model).get_base_model() if hasattr(model, "get_base_model") else model)


def shard_encoder(encoder: Encoder, mesh: DeviceMesh) -> None:
    """Shard in place: every layer, then the encoder. A frozen bf16 base computes in bf16, with its fp32 adapters cast to bf16.

    Weights to be trained must be unfrozen before the first sharded forward, when FSDP2 decides the dtype in which gradients are reduced.
    Freezing later is possible.
    """
    bf16_base = encoder.lora and encoder.spec.dtype == "bfloat16"
    shard_layers(encoder, encoder.layers(), mesh, torch.bfloat16 if bf16_base else None)
