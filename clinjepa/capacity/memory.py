"""Memory per GPU of every phase of a run, by arithmetic; `advice` names the settings to change when it does not fit.

The peak of a phase is what it holds all the time plus the largest of three moments: encoding a chunk, the predictor's micro-batch, the
optimizer's step. Formulas and their derivation: docs/scaling.md. No model is built, and torch is not imported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clinjepa.capacity.model_sizes import Architecture, predictor_kept_bytes, predictor_parameters
from clinjepa.curriculum.jobs import pack_places
from clinjepa.curriculum.recipes import Phase, Recipe, run_order
from clinjepa.curriculum.terms.inputs import HeadSizes
from clinjepa.curriculum.terms.table import TERMS

GIB = 1 << 30
LOGITS_AT_ONCE = 1 << 26
"""Logits that exist at a time in next-token training (`clinjepa.model.encoding.encoder`)."""
KEPT_GATHERED_BYTES = 1 << 30
"""Modules of up to this size stay gathered (`clinjepa.curriculum.workers.gathering`)."""
ALLOWANCE = 6 * GIB
"""CUDA context, NCCL buffers, and memory that the allocator holds in pieces."""
_LOGIT_BYTES = 16
_GATHERED_LAYERS = 3


@dataclass(frozen=True)
class RunSizes:
    """The sizes that decide the memory of a run, in GiB, tokens, windows and hours. Made by `from_settings`."""

    model: Architecture
    adaptation: str
    dtype: str
    lora_rank: int
    lora_targets: tuple[str, ...]
    made_here: bool
    """A small base made here: SFT trains it whole."""
    token_budget: int
    activation_checkpointing: str
    predictor: Mapping[str, Any]
    global_batch: int
    micro_batch: int
    rollout_steps: int
    max_hours: int
    tokens_per_step: int
    micro_tokens: int
    num_workers: int
    gpu_memory_gib: float
    max_tokens: int = 1
    """Tokens of the longest text: a chunk holds at least one text."""
    fused_norms: bool = True
    """True as on a GPU, False as on a CPU (`clinjepa.model.norms`)."""

    @classmethod
    def from_settings(cls, model: Architecture, sections: Mapping[str, Mapping[str, Any]], gpu_memory_gib: float) -> RunSizes:
        """sections: the configuration as plain values."""
        encoder, curriculum = sections["encoder"], sections["curriculum"]
        return cls(
            model=model,
            adaptation=encoder["adaptation"],
            dtype=encoder["dtype"],
            lora_rank=encoder["lora"]["rank"],
            lora_targets=tuple(encoder["lora"]["targets"]),
            made_here=encoder["init"] == "config",
            token_budget=encoder["token_budget"],
            activation_checkpointing=encoder["activation_checkpointing"],
            predictor=sections["predictor"],
            global_batch=curriculum["global_batch"],
            micro_batch=curriculum["micro_batch"],
            rollout_steps=curriculum["rollout_steps"],
            max_hours=sections["windows"]["max_hours"],
            tokens_per_step=sections["sft"]["tokens_per_step"],
            micro_tokens=sections["sft"]["micro_tokens"],
            num_workers=_fewest(sections["execution"]["num_workers"]),  # the fewest: the fewer, the more each holds
            gpu_memory_gib=gpu_memory_gib,
            max_tokens=sections["tokenizer"]["max_tokens"],
        )

    @property
    def num_micro_batches(self) -> int:
        return -(-self.global_batch // self.micro_batch)

    @property
    def busy_workers(self) -> float:
        """Average number of workers with a micro-batch to run in a phase."""
        return busy_workers(self.num_micro_batches, self.num_workers)

    @property
    def chunk_tokens(self) -> int:
        """Tokens of the largest chunk for latents."""
        return max(self.token_budget, self.max_tokens)

    @property
    def pack_tokens(self) -> int:
        """Token places of the largest pack of SFT."""
        return max(pack_places(self.micro_tokens), self.max_tokens)

    @property
    def least_micro_tokens(self) -> int:
        """Lowest useful `sft.micro_tokens`: below it memory is that of a pack of the longest text."""
        return self.max_tokens * 8 // 9

    @property
    def compute_bytes(self) -> int:
        return 2 if self.dtype == "bfloat16" else 4

    @property
    def lora(self) -> bool:
        return self.adaptation == "lora"

    @property
    def lora_parameters(self) -> int:
        return self.model.lora_parameters(self.lora_rank, self.lora_targets)


@dataclass(frozen=True)
class PhaseMemory:
    """Bytes per GPU of one phase."""

    name: str
    encoder: int
    """Weights of the base: this worker's shard and the part that is gathered at a time."""
    trained: int
    """Weights that are trained (adapters or all) and their EMA target, with gradients and moments."""
    predictor: int
    """Predictor with gradients and moments."""
    latents: int
    encoding: int
    """Activations of one chunk, logits included."""
    predicting: int
    updating: int
    """Temporary values of the optimizer's step."""

    @property
    def activations(self) -> int:
        """The largest of the three moments, which do not coincide."""
        return max(self.encoding, self.predicting, self.updating)

    @property
    def total(self) -> int:
        return self.encoder + self.trained + self.predictor + self.latents + self.activations + ALLOWANCE


def busy_workers(num_micro_batches: int, num_workers: int) -> float:
    """Micro-batches of a step divided by the rounds that `num_workers` workers take."""
    return num_micro_batches / -(-num_micro_batches // num_workers)


def run_memory(run: RunSizes, recipe: Recipe) -> list[PhaseMemory]:
    """Memory of SFT where the recipe has it, of every latent store's encoder, and of every phase that trains; in the order of the run."""
    sft = [sft_memory(run)] if recipe.encoder_start == "sft" else []
    return [*sft, *(embed_memory(run, each) if isinstance(each, str) else phase_memory(run, each) for each in run_order(recipe))]


def embed_memory(run: RunSizes, name: str = "embed") -> PhaseMemory:
    """An encoder worker of the latent store: the base without an output layer, not sharded, and a chunk without a graph."""
    encoder = (run.model.parameters - run.model.head_parameters) * run.compute_bytes if run.lora else run.model.parameters * 4
    adapters = run.lora_parameters * 4 if run.lora else 0
    return PhaseMemory(name, encoder, adapters, 0, 0, _chunk(run, run.chunk_tokens, "nothing"), 0, 0)


def sft_memory(run: RunSizes) -> PhaseMemory:
    """Next-token training of the adapters, or of all weights in fp32 where the base was made here or `adaptation` is full."""
    whole = run.made_here or not run.lora
    encoder, trained, updating = _encoder(run, whole, with_target=False, trains=True, with_head=True)
    logits = _LOGIT_BYTES * min(run.pack_tokens * run.model.vocab, LOGITS_AT_ONCE)
    encoding = _chunk(run, run.pack_tokens, run.activation_checkpointing, whole, everywhere=True) + logits
    return PhaseMemory("sft", encoder, trained, 0, 0, encoding, 0, updating)


def phase_memory(run: RunSizes, phase: Phase) -> PhaseMemory:
    """A phase of the curriculum. A phase without a target or a trained encoder does not load the encoder.

    Heads of a user's own terms are not counted: their sizes are not known before they are made.
    """
    joint = phase.trains_encoder
    encoder = trained = encoding = updating = 0
    if joint or phase.needs_target:
        texts = reads_texts(phase)
        encoder, trained, updating = _encoder(run, not run.lora, phase.needs_target, joint, with_head=texts)
        encoding = _chunk(run, run.chunk_tokens, run.activation_checkpointing if joint else "nothing", joint and not run.lora, texts)
        if texts:
            encoding += _LOGIT_BYTES * min(run.chunk_tokens * run.model.vocab, LOGITS_AT_ONCE)
    size = 4 * (phase.trains_predictor * predictor_parameters(run.model.hidden, run.predictor) + head_weights(run, phase))
    shard = size // run.num_workers
    gathered = size if run.num_workers > 1 and size <= KEPT_GATHERED_BYTES else 0
    gradients = size + (shard if run.num_workers > 1 else 0)
    predicting = predictor_kept_bytes(run.model.hidden, run.predictor, run.micro_batch, run.max_hours, run.rollout_steps)
    at_a_time = -(-run.num_micro_batches // run.num_workers) if _has_statistics(phase) else 1
    return PhaseMemory(
        name=phase.name,
        encoder=encoder,
        trained=trained,
        predictor=shard + gathered + gradients + 2 * shard,
        latents=at_a_time * (_latents(run, joint) + _values(run, phase)),
        encoding=encoding,
        predicting=predicting,
        updating=updating + shard,
    )


def head_weights(run: RunSizes, phase: Phase) -> int:
    """Weights of the heads of the project's terms in a phase's loss."""
    sizes = HeadSizes(run.model.hidden, int(run.predictor["hidden_size"]), int(run.predictor["max_hours"]), num_values(phase))
    entries = [(TERMS[each.term], each.options) for each in phase.loss if each.term in TERMS]
    return sum(entry.head_weights(sizes, options) for entry, options in entries if entry.head_weights is not None)


def num_values(phase: Phase) -> int:
    """Variables whose values a term of the phase reads; 0 where none does."""
    read = any(each.term in TERMS and "values" in TERMS[each.term].reads for each in phase.loss)
    if not read:
        return 0
    from clinjepa.trajectory.hour_values import value_names  # needs pyarrow, which a machine with torch alone lacks

    return len(value_names())


def reads_texts(phase: Phase) -> bool:
    """Whether a term of the loss is computed by the encoder from the texts themselves, with its output layer."""
    return any(each.term in TERMS and TERMS[each.term].of_texts for each in phase.loss)


def _has_statistics(phase: Phase) -> bool:
    """Whether latents of all micro-batches of a step are kept until the sums of the global batch are known."""
    return any(each.term in TERMS and TERMS[each.term].of_sums is not None for each in phase.loss)


def _encoder(run: RunSizes, whole: bool, with_target: bool, trains: bool, with_head: bool = False) -> tuple[int, int, int]:
    """Bytes of (the base, the weights that are trained or follow, temporary values of the update).

    whole: all weights in fp32 instead of adapters; with_target: also an EMA target; trains: with gradients and moments; with_head: with the
    output layer.
    """
    workers, model = run.num_workers, run.model
    weight_bytes = 4 if whole else run.compute_bytes
    sets = 2 if whole and with_target else 1
    left_out = 0 if whole or with_head else model.head_parameters
    size = sets * (model.parameters - left_out) * weight_bytes
    encoder = size // workers
    if workers > 1:
        layered = sets * (model.root_parameters - left_out) * weight_bytes + _GATHERED_LAYERS * model.layer_parameters * weight_bytes
        encoder += size if size <= KEPT_GATHERED_BYTES else layered
    if whole and run.compute_bytes == 2:
        encoder += model.parameters * 2  # autocast keeps a bf16 copy of fp32 weights for the backward pass
    trained = 4 * (model.parameters if whole else run.lora_parameters)
    shard = trained // workers
    held = 0 if whole else (2 if with_target else 1) * shard
    if trains:
        held += trained + (shard if workers > 1 else 0) + 2 * shard
    return encoder, held, shard if trains else 0


def _chunk(run: RunSizes, tokens: int, what: str, trained_whole: bool = False, everywhere: bool = False) -> int:
    """Bytes of one chunk of `tokens` tokens: kept by all layers, by one layer that is computed again, and temporary.

    what: activation checkpointing, or `nothing` for a forward pass without a graph. trained_whole: all weights take gradients. everywhere:
    next-token training; otherwise the last layer is computed only where latents are read, and the values it keeps are freed before the
    backward pass reaches its peak, in the layer before.
    """
    model, c = run.model, run.compute_bytes
    if what == "nothing":
        return tokens * model.working_bytes(c, graph=False)
    kept = model.kept_bytes(c, what, trained_whole, run.fused_norms)
    whole = model.kept_bytes(c, "none", trained_whole, run.fused_norms)
    again = 0 if what == "none" else whole - (kept if what == "selective" else 0)
    layers = model.layers if everywhere else max(1, model.layers - 1)
    return tokens * (layers * kept + again + model.working_bytes(c, graph=True) + 8 * model.hidden)


def _latents(run: RunSizes, joint: bool) -> int:
    """fp32 inputs and targets of a micro-batch of the longest windows; in joint refinement unique latents and their gradient too."""
    texts = run.micro_batch * (2 * run.max_hours + 1)
    targets = run.micro_batch * run.max_hours
    return 4 * run.model.hidden * (texts + targets + (3 * texts if joint else 0))


def _values(run: RunSizes, phase: Phase) -> int:
    """The hours' values and their mask for a micro-batch, with a head's output and what its loss keeps: three fp32 of one size."""
    return run.micro_batch * run.max_hours * num_values(phase) * (4 + 1 + 3 * 4)


def _fewest(num_workers: int | Sequence[int]) -> int:
    return num_workers if isinstance(num_workers, int) else min(num_workers)
