"""What the GPU benchmark runs on: Qwen3-8B from its sizes with random weights, texts of a hospital's lengths, memory as it was used.

Random weights cost what trained ones cost. `TINY` is the same structure shrunk, to prove the script on a CPU.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from clinjepa.capacity.memory import RunSizes
from clinjepa.capacity.model_sizes import Architecture, known_model
from clinjepa.curriculum.jobs import PhaseJob, pack_places
from clinjepa.curriculum.recipes import load_recipe
from clinjepa.curriculum.settings import CurriculumSettings, EncoderSettings, PredictorSettings
from clinjepa.model.encoding.encoder import Encoder
from clinjepa.model.encoding.packing import Pack, pack_texts
from clinjepa.model.pretrained.adapters import add_adapters
from clinjepa.model.pretrained.base_model import drop_head
from clinjepa.model.specs import EncoderSpec, PredictorSpec

GIB = 1 << 30
QUANTILES = (0, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1)
STATE_TOKENS = (9, 45, 54, 62, 80, 128, 209, 306, 465, 1145)
ACTION_TOKENS = (7, 11, 13, 20, 38, 71, 111, 136, 188, 309)
"""Lengths of hour texts at these quantiles: 11,190 hours of the MIMIC-IV demo, pieces as Qwen's tokenizer splits them."""
STATIC_TOKENS = 15


@dataclass(frozen=True)
class Size:
    """How large everything is."""

    model: Architecture
    predictor: dict[str, Any]
    token_budget: int
    micro_batch: int
    hours: int
    num_texts: int
    """Texts of the next-token and embedding passes."""
    longest: int
    """Texts are cut at this many tokens."""


FULL = Size(
    model=known_model("Qwen/Qwen3-8B"),  # type: ignore[arg-type]
    predictor=PredictorSpec().to_dict(),
    token_budget=8192,
    micro_batch=4,
    hours=72,
    num_texts=6000,
    longest=4096,
)
TINY = Size(
    model=replace(FULL.model, hidden=64, layers=2, heads=4, kv_heads=1, head_dim=16, ffn=192, vocab=512),
    predictor=PredictorSpec(hidden_size=32, num_layers=2, num_heads=2, ffn_size=64).to_dict(),
    token_budget=512,
    micro_batch=2,
    hours=4,
    num_texts=24,
    longest=96,
)


def run_sizes(size: Size, activation_checkpointing: str) -> RunSizes:
    """The same run as the memory plan sees it, on one GPU."""
    return RunSizes(
        model=size.model,
        adaptation="lora",
        dtype="bfloat16",
        lora_rank=16,
        lora_targets=("q_proj", "k_proj", "v_proj", "o_proj"),
        made_here=False,
        token_budget=size.token_budget,
        activation_checkpointing=activation_checkpointing,
        predictor=_predictor_settings(size),
        global_batch=size.micro_batch,
        micro_batch=size.micro_batch,
        rollout_steps=2,
        max_hours=size.hours,
        tokens_per_step=size.token_budget,
        micro_tokens=size.token_budget,
        num_workers=1,
        gpu_memory_gib=0,
    )


def causal_model(size: Size, device: torch.device) -> Any:
    """The whole language model in bf16 with random weights, made on the device."""
    from transformers import AutoModelForCausalLM, Qwen3Config

    model = size.model
    config = Qwen3Config(
        vocab_size=model.vocab,
        hidden_size=model.hidden,
        intermediate_size=model.ffn,
        num_hidden_layers=model.layers,
        num_attention_heads=model.heads,
        num_key_value_heads=model.kv_heads,
        head_dim=model.head_dim,
        max_position_embeddings=40960,
        tie_word_embeddings=model.tied,
        use_cache=False,
    )
    torch.manual_seed(0)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=torch.bfloat16)


def encoder_spec(size: Size) -> EncoderSpec:
    """LoRA r16 on q, k, v, o of a frozen bf16 base: the settings of configs/mimic_iv_qwen3_8b.yaml."""
    run = run_sizes(size, "none")
    return EncoderSpec(
        init="pretrained",
        model=None,
        revision=None,
        hidden_size=0,
        num_layers=0,
        num_heads=0,
        num_kv_heads=0,
        ffn_size=0,
        adaptation="lora",
        lora_rank=run.lora_rank,
        lora_alpha=32,
        lora_targets=run.lora_targets,
        lora_dropout=0.0,
        latent_from="post_norm",
        append_eos=False,
        dtype="bfloat16",
        vocab_size=size.model.vocab,
        eos_id=size.model.vocab - 1,
    )


def build(size: Size, device: torch.device, recompute: str = "none", with_target: bool = False, with_head: bool = False) -> Encoder:
    """The encoder as `build_encoder` leaves it, its base made in place instead of read."""
    spec, model = encoder_spec(size), causal_model(size, device)
    if not with_head:
        drop_head(model, spec.lora_targets)
    encoder = Encoder(spec, add_adapters(model, spec, seed=0, with_target=with_target), lora=True, with_target=with_target).to(device)
    if with_target:
        encoder.copy_online_to_target()
    encoder.unfreeze_online()
    encoder.recompute(recompute)
    return encoder.train()


def hour_texts(size: Size, num_texts: int, seed: int) -> list[np.ndarray]:
    """Random token ids in the lengths of states and actions, which alternate."""
    generator = np.random.default_rng(seed)
    shares = generator.random(num_texts)
    lengths = np.where(
        np.arange(num_texts) % 2 == 0, np.interp(shares, QUANTILES, STATE_TOKENS), np.interp(shares, QUANTILES, ACTION_TOKENS)
    )
    return [generator.integers(0, size.model.vocab - 1, min(int(length), size.longest)) for length in lengths]


def micro_packs(texts: list[np.ndarray], tokens: int) -> list[list[Pack]]:
    """Texts in their order cut into micro-batches of about `tokens` tokens, each in one pack if an eighth more places are enough.

    As SFT does (clinjepa/curriculum/sft.py), except for the end-of-text that it appends.
    """
    ends = np.cumsum([len(text) for text in texts])
    owner = (ends - 1) // tokens
    return [pack_texts([texts[i] for i in np.flatnonzero(owner == number)], pack_places(tokens)) for number in np.unique(owner)]


def micro_batch(size: Size, seed: int) -> dict[str, torch.Tensor]:
    """Windows of the longest kind as the plan collates them (`curriculum.feed.micro_batches`), every text different: the worst case."""
    generator = np.random.default_rng(seed)
    windows, hours = size.micro_batch, size.hours
    texts = hour_texts(size, 2 * windows * hours, seed)
    static = [generator.integers(0, size.model.vocab - 1, STATIC_TOKENS) for _ in range(windows)]
    ordered = [*texts[::2], *static, *texts[1::2]]
    states = windows * hours
    return {
        "valid": torch.ones(windows, hours, dtype=torch.bool),
        "window_ids": torch.arange(windows),
        "rollout_starts": torch.from_numpy(generator.integers(1, hours - 2, windows)),
        "tokens": torch.from_numpy(np.concatenate(ordered).astype(np.int32)),
        "text_lengths": torch.tensor([len(text) for text in ordered], dtype=torch.int32),
        "state_texts": torch.arange(states, dtype=torch.int32).view(windows, hours),
        "static_texts": torch.arange(states, states + windows, dtype=torch.int32),
        "action_texts": torch.arange(states + windows, 2 * states + windows, dtype=torch.int32).view(windows, hours),
    }


_CURRICULUM = CurriculumSettings(
    global_batch=32,
    micro_batch=4,
    predictor_lr=5e-4,
    encoder_lr=2e-5,
    weight_decay=0.04,
    warmup_fraction=0.1,
    encoder_warmup_steps=0,
    clip_norm=1.0,
    ema_momentum=0.996,
    rollout_steps=2,
    rollout_weight=1.0,
    shared_k=False,
    collapse_rankme=1.5,
    stop_on_collapse=False,
)
"""The curriculum's settings without the configuration's classes: pydantic may be missing where this benchmark runs."""


def _predictor_settings(size: Size) -> dict[str, Any]:
    """The `predictor` section: the specification without what a training adds to it."""
    return {name: value for name, value in size.predictor.items() if name not in ("latent_dim", "trained_hours")}


def _encoder_settings(size: Size) -> EncoderSettings:
    """`encoder_spec` as settings of a job."""
    spec = encoder_spec(size)
    return EncoderSettings.from_json(
        {
            "init": spec.init,
            "model": spec.model,
            "revision": spec.revision,
            "hidden_size": spec.hidden_size,
            "num_layers": spec.num_layers,
            "num_heads": spec.num_heads,
            "num_kv_heads": spec.num_kv_heads,
            "ffn_size": spec.ffn_size,
            "dtype": spec.dtype,
            "adaptation": spec.adaptation,
            "lora": {"rank": spec.lora_rank, "alpha": spec.lora_alpha, "targets": spec.lora_targets, "dropout": spec.lora_dropout},
            "latent_from": spec.latent_from,
            "append_eos": spec.append_eos,
            "token_budget": size.token_budget,
        }
    )


def phase_job(size: Size, name: str, recompute: str = "none") -> PhaseJob:
    """One phase of the recipe with the settings of configs/mimic_iv_qwen3_8b.yaml; it names no folders, for none are read."""
    phase = next(phase for phase in load_recipe("clin_jepa").phases if phase.name == name)
    return PhaseJob(
        out="",
        trajectories="",
        phase=phase,
        num_steps=1,
        first_step=0,
        total_steps=1,
        seed=0,
        encoder_settings=_encoder_settings(size),
        predictor_settings=PredictorSettings.from_json(_predictor_settings(size)),
        curriculum_settings=_CURRICULUM,
        latents="",
        activation_checkpointing=recompute,
    )


class Memory:
    """GPU memory while a block ran, in bytes: `allocated` by tensors at the most, and `used` of the device afterwards, all included."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.allocated, self.used = device, 0, 0

    def __enter__(self) -> Memory:
        self.begin()
        return self

    def begin(self) -> None:
        """Forget what was before, the making of a model for example."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def __exit__(self, *_: object) -> None:
        if self.device.type == "cuda":
            self.allocated = torch.cuda.max_memory_allocated()
            free, total = torch.cuda.mem_get_info()
            self.used = total - free  # the allocator gives nothing back by itself, so this is its peak


def wait(device: torch.device) -> None:
    """Until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()
