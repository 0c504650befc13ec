"""The table of loss terms: for each its options, what it is divided by, its head, and one line of documentation.

A term is a function `(inputs, **options) -> sum`. The sum over all micro-batches of a step is divided by a count of the global batch that
the plan gives (`COUNTS`), so that any number of workers gives the same loss. A recipe's own terms come from a Python file that it names.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from clinjepa.curriculum.terms.inputs import HeadSizes
from clinjepa.errors import ConfigError, first_line

if TYPE_CHECKING:
    from torch import Tensor, nn

Option = float | int | bool | str
OWN_MODULE = "clinjepa_own_terms"
"""Name of the module that a recipe's own file of terms becomes."""

READS = ("predictor", "encoder", "values")
"""What a term's entry may say that it reads."""


def num_masked(num_hours: np.ndarray, share: float) -> np.ndarray:
    """int64: masked hours of windows of `num_hours` hours: the share, rounded, with at least two hours left visible."""
    return np.clip(np.floor(num_hours * share + 0.5).astype(np.int64), 0, np.maximum(num_hours - 2, 0))


COUNTS: Mapping[str, Callable[[np.ndarray, Mapping[str, Any]], int]] = {
    "hours": lambda hours, options: int(hours.sum()),
    "predicted_hours": lambda hours, options: int((hours - 1).sum()),
    "hours_ahead": lambda hours, options: int(np.maximum(hours - options["hours"], 0).sum()),
    "rollouts": lambda hours, options: int((hours >= options["rollout_steps"] + 2).sum()),
    "masked_hours": lambda hours, options: int(num_masked(hours, options["masked"]).sum()),
    "windows": lambda hours, options: len(hours),
}
"""Counts of the global batch by name, from the hours of its windows and the term's options (with `rollout_steps` of the phase).

hours: all hours · predicted_hours: all but a window's first · hours_ahead: hours with a target `hours` later · rollouts: windows long
enough for a rollout · masked_hours: hours that `masked_latents` hides · windows. `next_token` alone is divided by the number of
micro-batches, whose means it averages."""


@dataclass(frozen=True)
class Term:
    """An entry of the table."""

    function: str | Callable[..., Tensor]
    """`module.function` below `clinjepa.curriculum.terms`, or the function. It returns a scalar or, with `of_sums`, a vector of sums."""
    counts: str
    """What the sum is divided by: a name of `COUNTS`. `next_token` alone has `micro_batches`, which is not in it: the
    number of micro-batches of a step."""
    docs: str
    """One line: what the term makes small."""
    options: Mapping[str, Option] = field(default_factory=dict)
    """Options with their defaults; they reach the function as keyword arguments."""
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Allowed values of options that are names."""
    reads: frozenset[str] = frozenset({"predictor"})
    """`predictor`: the predictor's outputs. `encoder`: only where the encoder trains. `values`: the hours' measured numbers."""
    head: str | Callable[..., nn.Module] | None = None
    """Makes the module that the term trains: `(sizes, **options) -> module`."""
    head_weights: Callable[[HeadSizes, Mapping[str, Any]], int] | None = None
    """Number of the head's weights, for the plan's memory; None: not known before it is made."""
    of_sums: str | Callable[..., Tensor] | None = None
    """`(sums, count, **options) -> scalar`, for a term that is no mean: the sums are those of the global batch."""
    of_texts: bool = False
    """Computed by the encoder from the texts themselves, with its output layer."""
    latent_targets: bool = False
    """Compares with latents of the target encoder."""
    rolls_out: bool = False
    """Feeds the predictor its outputs or true latents, as the phase's `rollout` says."""
    anchors: bool = False
    """Keeps the latents of a trained encoder from collapsing."""


def _masked_predictor_weights(sizes: HeadSizes, options: Mapping[str, Any]) -> int:
    h, f = int(options["hidden_size"]), int(options["ffn_size"])
    layer = 6 * h + 4 * (h * h + h) + h * f + f + f * h + h
    return 3 * (sizes.latent_dim * h + h) + (sizes.max_hours + 3) * h + int(options["num_layers"]) * layer + (h + 1) * sizes.latent_dim


_DISTANCE: Mapping[str, Option] = {"distance": "l1", "normalise": "none"}
_DISTANCES = {"distance": ("l1", "mse"), "normalise": ("none", "layernorm")}

TERMS: Mapping[str, Term] = {
    "teacher_forcing": Term(
        "prediction.teacher_forcing",
        counts="predicted_hours",
        docs="Distance of every predicted hour from its target, given all true hours before.",
        options=_DISTANCE,
        choices=_DISTANCES,
        latent_targets=True,
    ),
    "rollout": Term(
        "prediction.rollout",
        counts="rollouts",
        docs="Distances over `rollout_steps` hours from one random hour of each window, with inputs as the phase's `rollout` says.",
        options=_DISTANCE,
        choices=_DISTANCES,
        latent_targets=True,
        rolls_out=True,
    ),
    "latent_ahead": Term(
        "prediction.latent_ahead",
        counts="hours_ahead",
        docs="Distance of the latent `hours` later from a linear head's reading of the predictor's hidden state.",
        options={"hours": 4, **_DISTANCE},
        choices=_DISTANCES,
        head="prediction.latent_head",
        head_weights=lambda sizes, options: (sizes.hidden_size + 1) * sizes.latent_dim,
        latent_targets=True,
    ),
    "next_token": Term(
        "",
        counts="micro_batches",
        docs="Next-token loss of the encoder on the distinct texts of a micro-batch, in nats a token, as in SFT.",
        reads=frozenset({"encoder"}),
        of_texts=True,
        anchors=True,
    ),
    "masked_latents": Term(
        "masked.masked_latents",
        counts="masked_hours",
        docs="L1 of the latents of masked hours, read from the visible ones by a predictor that is thrown away (V-JEPA 2-AC style).",
        options={"masked": 0.4, "num_layers": 3, "hidden_size": 512, "num_heads": 8, "ffn_size": 2048},
        reads=frozenset({"encoder"}),
        head="masked.masked_predictor",
        head_weights=lambda sizes, options: _masked_predictor_weights(sizes, options),
        latent_targets=True,
    ),
    "value_decode": Term(
        "values.value_decode",
        counts="hours",
        docs="Distance of the hour's measured values, in training standard deviations, from a linear head's reading of its state latent.",
        options={"distance": "huber", "balance": "values"},
        choices={"distance": ("huber", "mse"), "balance": ("values", "variables")},
        reads=frozenset({"encoder", "values"}),
        head="values.value_head",
        head_weights=lambda sizes, options: (sizes.latent_dim + 1) * sizes.num_values,
    ),
    "sigreg": Term(
        "sigreg.characteristic_sums",
        counts="hours",
        docs="SIGReg (LeJEPA, arXiv 2511.08544): distance of the state latents of the global batch from a standard normal.",
        options={"directions": 256, "knots": 17},
        reads=frozenset({"encoder"}),
        of_sums="sigreg.epps_pulley",
        anchors=True,
    ),
}
"""By name. docs/adding_a_recipe.md lists them from here."""


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True)
class TermTable:
    """The terms that a recipe may name: the project's and its own."""

    own: Mapping[str, Term] = field(default_factory=dict)

    @classmethod
    def of(cls, source: str | None) -> TermTable:
        """The table with the terms of a Python source. Raises ConfigError when the source fails or defines no term."""
        return cls(_own_terms(source)) if source is not None else cls()

    def term(self, name: str, where: str) -> Term:
        """The entry of a name; raises ConfigError when there is none. where: recipe and phase, for the message."""
        if name in self.own:
            return self.own[name]
        if name not in TERMS:
            raise ConfigError(f"{where}: there is no loss term {name!r}; there are {', '.join([*TERMS, *self.own])}")
        return TERMS[name]


def loss_term(
    counts: str,
    docs: str,
    head: Callable[..., nn.Module] | None = None,
    of_sums: Callable[..., Tensor] | None = None,
    reads: tuple[str, ...] = ("predictor",),
    latent_targets: bool = True,
    anchors: bool = False,
) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Mark a function of a recipe's own file as a loss term of the function's name.

    The function's keyword parameters with defaults are the term's options. The arguments are fields of `Term`.
    """

    def marked(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        every = list(inspect.signature(function).parameters.values())
        inputs, parameters = every[0] if every else None, every[1:]
        if inputs is None or inputs.default is not inspect.Parameter.empty or inputs.kind not in _POSITIONAL:
            raise TypeError(f"{function.__name__}: the first parameter is the TermInputs, without a default; options follow it")
        options = {each.name: each.default for each in parameters}
        if without := [name for name, default in options.items() if not isinstance(default, float | int | bool | str)]:
            raise TypeError(f"{function.__name__}: parameters {', '.join(without)} need a default that is a number, true, false or a name")
        if unknown := sorted(set(reads) - set(READS)):
            raise ValueError(f"{function.__name__}: reads has {', '.join(unknown)}; allowed: {', '.join(READS)}")
        if counts not in COUNTS:
            raise ValueError(f"{function.__name__}: counts is {counts!r}; allowed: {', '.join(COUNTS)}")
        term = Term(
            function,
            counts,
            docs,
            options,
            reads=frozenset(reads),
            head=head,
            of_sums=of_sums,
            latent_targets=latent_targets,
            anchors=anchors,
        )
        function.clinjepa_term = term  # type: ignore[attr-defined]  # read by `_own_terms`
        return function

    return marked


def source_digest(source: str) -> str:
    """Digest of a file of terms, which enters the keys of the phases that use one of them."""
    return hashlib.sha256(source.encode()).hexdigest()[:16]


@cache
def _own_terms(source: str) -> Mapping[str, Term]:
    """The terms that a source defines, by the names of their functions."""
    module = types.ModuleType(OWN_MODULE)
    sys.modules[OWN_MODULE] = module  # dataclasses and torch look their module up
    try:
        exec(compile(source, OWN_MODULE, "exec"), module.__dict__)
    except SyntaxError as error:
        raise ConfigError(f"the recipe's file of terms is not Python: line {error.lineno}: {error.msg}") from None
    except Exception as error:
        raise ConfigError(f"the recipe's file of terms fails when it is imported: {type(error).__name__}: {first_line(error)}") from None
    found = {name: value.clinjepa_term for name, value in vars(module).items() if isinstance(getattr(value, "clinjepa_term", None), Term)}
    if not found:
        raise ConfigError("the recipe's file of terms defines no term; mark a function with @loss_term(counts=…, docs=…)")
    if shadowed := sorted(set(found) & set(TERMS)):
        raise ConfigError(f"the recipe's file of terms defines {', '.join(shadowed)}, which the project has; give it another name")
    return found
