"""The settings that training reads, as frozen dataclasses: one class for each part of a stage's settings, without pydantic.

`from_json` reads the values that a stage's key holds (`pipelines/graph/trial_stages.py`) or that a job's JSON file holds, checks names
and types, and raises ConfigError. Limits and descriptions of the fields are in `clinjepa/config/schema.py`.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from functools import cache
from typing import Any, ClassVar, Literal, Self, Union, get_args, get_origin, get_type_hints

from clinjepa.errors import ConfigError

Dtype = Literal["float32", "bfloat16"]
Recompute = Literal["none", "selective", "full"]
"""What the encoder's layers compute again in their backward pass; results do not depend on it."""


@dataclass(frozen=True)
class Settings:
    """A group of settings with a JSON form."""

    SECTION: ClassVar[str] = ""
    """Name in messages: the section of the configuration."""

    @classmethod
    def from_json(cls, value: object, where: str | None = None) -> Self:
        """The settings that `to_json` wrote.

        Args:
            value: a JSON object with every field that has no default, and no other.
            where: name of the object in messages; the section of the configuration unless given.

        Raises:
            ConfigError: a name is unknown or missing, or a value has another type than its field.
        """
        return cls(**read_fields(cls, value, where or cls.SECTION))

    def to_json(self) -> dict[str, object]:
        """Plain JSON values by field."""
        return asdict(self, dict_factory=_json_object)

    def without_defaults(self) -> dict[str, object]:
        """As `to_json`, without fields that have their default value: a new field with a default leaves the keys of stages as they are."""
        defaults = {field.name: field.default for field in fields(self)}
        return {name: value for name, value in self.to_json().items() if getattr(self, name) != defaults[name]}


def read_fields(cls: type, value: object, where: str) -> dict[str, object]:
    """Arguments for the dataclass `cls` from a JSON object; raises ConfigError as `Settings.from_json` does."""
    names = [field.name for field in fields(cls)]
    needed = [field.name for field in fields(cls) if field.default is MISSING and field.default_factory is MISSING]
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: expected an object with {', '.join(names)}; given: {type(value).__name__}")
    if unknown := sorted(set(value) - set(names)):
        raise ConfigError(f"{where}: unknown {', '.join(map(str, unknown))}; it has exactly {', '.join(names)}")
    if missing := [name for name in needed if name not in value]:
        raise ConfigError(f"{where} lacks {', '.join(missing)}; it needs exactly {', '.join(names)}")
    hints = _hints(cls)
    return {name: _checked(value[name], hints[name], f"{where}.{name}") for name in names if name in value}


def field_types(cls: type) -> Mapping[str, object]:
    """Type of every field of a dataclass, by name."""
    return _hints(cls)


@cache
def _hints(cls: type) -> Mapping[str, object]:
    return get_type_hints(cls)


def _checked(value: object, hint: object, where: str) -> object:
    """`value` as a value of the type `hint`: scalars, their unions, literals, mappings, nested settings, tuples of strings or settings."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        options = get_args(hint)
        if value is None and type(None) in options:
            return None
        if isinstance(value, str) and str in options:
            return value
        return _checked(value, next(each for each in options if each is not type(None)), where)
    if origin is Literal:
        if value in get_args(hint):
            return value
        raise ConfigError(f"{where} is {value!r}; allowed: {', '.join(map(repr, get_args(hint)))}")
    if origin is tuple and hasattr(item := get_args(hint)[0], "from_json"):
        if isinstance(value, list | tuple):
            return tuple(_checked(each, item, f"{where}[{place}]") for place, each in enumerate(value))
        raise ConfigError(f"{where} is {value!r}; expected a list")
    if origin is Mapping:
        if isinstance(value, Mapping):
            return dict(value)
        raise ConfigError(f"{where} is {value!r}; expected a mapping")
    if origin is tuple:
        if isinstance(value, list | tuple) and all(isinstance(each, str) for each in value):
            return tuple(value)
        raise ConfigError(f"{where} is {value!r}; expected a list of strings")
    if isinstance(hint, type) and hasattr(hint, "from_json"):
        return value if isinstance(value, hint) else hint.from_json(value, where)
    accepted = (int, float) if hint is float else hint  # a whole number stays one, so that what is written from it keeps its bytes
    if isinstance(value, accepted) and (hint is bool or not isinstance(value, bool)):  # type: ignore[arg-type]  # hint is a class here
        return value
    raise ConfigError(f"{where} is {value!r}; expected a value of type {getattr(hint, '__name__', hint)}")


def _json_object(items: Iterable[tuple[str, Any]]) -> dict[str, object]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in items}


@dataclass(frozen=True)
class LoraSettings(Settings):
    """The adapters of the encoder."""

    SECTION: ClassVar[str] = "encoder.lora"

    rank: int
    alpha: float
    targets: tuple[str, ...]
    dropout: float


@dataclass(frozen=True)
class BaseSettings(Settings):
    """The base of the encoder: which model, of which sizes."""

    SECTION: ClassVar[str] = "encoder"

    init: Literal["config", "pretrained"]
    model: str | None
    revision: str | None
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    ffn_size: int
    dtype: Dtype


@dataclass(frozen=True)
class ReadingSettings(Settings):
    """How a latent store's encoder reads texts, and what of it was trained."""

    SECTION: ClassVar[str] = "encoder"

    latent_from: Literal["post_norm", "pre_norm"]
    append_eos: bool
    dtype: Dtype
    token_budget: int
    adaptation: Literal["lora", "full", "frozen"] = "frozen"
    """`frozen`: the base as it is, in `dtype` and without adapters."""
    lora: LoraSettings | None = None
    """None where the encoder has no adapters."""


@dataclass(frozen=True)
class EncoderSettings(BaseSettings):
    """The encoder of the phases."""

    adaptation: Literal["lora", "full"]
    lora: LoraSettings
    latent_from: Literal["post_norm", "pre_norm"]
    append_eos: bool
    token_budget: int

    @property
    def base(self) -> BaseSettings:
        """Which model the encoder starts from."""
        return BaseSettings(**{field.name: getattr(self, field.name) for field in fields(BaseSettings)})

    def reading(self, adapted: bool) -> ReadingSettings:
        """How latent stores of this encoder are filled; adapted: with weights of SFT's adapters or of joint refinement on the base."""
        read = ReadingSettings(self.latent_from, self.append_eos, self.dtype, self.token_budget)
        if adapted:
            return replace(read, adaptation=self.adaptation, lora=self.lora)
        # A base that is to be trained whole is held in fp32, any other in its dtype.
        return replace(read, adaptation="full") if self.adaptation == "full" else read


@dataclass(frozen=True)
class PredictorSettings(Settings):
    """The predictor's sizes and dropout."""

    SECTION: ClassVar[str] = "predictor"

    hidden_size: int
    num_layers: int
    num_heads: int
    ffn_size: int
    dropout: float
    attention_dropout: float
    max_hours: int
    mode: Literal["absolute", "residual"]


_OF_THE_BUDGET = ("num_steps", "shares", "term_weights", "budget", "state_token_share")
"""Settings of the section that are spent before a job is made: on the steps of a phase and the weights of its terms."""


@dataclass(frozen=True)
class CurriculumSettings(Settings):
    """The `curriculum` section without the budget (`num_steps`, `shares`), which is divided among the phases before a job is made."""

    SECTION: ClassVar[str] = "curriculum"

    global_batch: int
    micro_batch: int
    predictor_lr: float
    encoder_lr: float
    weight_decay: float
    warmup_fraction: float
    encoder_warmup_steps: int
    clip_norm: float
    ema_momentum: float
    rollout_steps: int
    rollout_weight: float
    shared_k: bool
    collapse_rankme: float
    stop_on_collapse: bool
    ema_momentum_end: float | None = None
    """Momentum that a linear schedule over the phase, from `ema_momentum`, reaches after its last step; None: constant."""

    @classmethod
    def from_section(cls, section: Mapping[str, object]) -> Self:
        """From all result fields of the configuration's section; raises ConfigError."""
        return cls.from_json({name: value for name, value in section.items() if name not in _OF_THE_BUDGET})

    def to_json(self) -> dict[str, object]:
        """Plain JSON values by field; `ema_momentum_end` only where a phase has one, so that it leaves other keys as they are."""
        values = super().to_json()
        return {name: value for name, value in values.items() if name != "ema_momentum_end" or value is not None}

    def momentum(self, done: int, num_steps: int) -> float:
        """EMA momentum after update `done` (from 0) of a phase of `num_steps`; a schedule is linear, as in I-JEPA (arXiv 2301.08243)."""
        if self.ema_momentum_end is None:
            return self.ema_momentum
        return self.ema_momentum + (self.ema_momentum_end - self.ema_momentum) * done / num_steps


@dataclass(frozen=True)
class SftSettings(Settings):
    """Next-token fine-tuning."""

    SECTION: ClassVar[str] = "sft"

    num_epochs: float
    max_steps: int | None
    tokens_per_step: int
    micro_tokens: int
    learning_rate: float
    warmup_fraction: float
    weight_decay: float
    clip_norm: float
