"""The runs of the study. Each is one `clinjepa run` with a configuration of this folder; what runs share is trained once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

HERE = Path(__file__).parent
OWN = "benchmarks/study"
DECODED = (f"{OWN}/decode_long.yaml", f"{OWN}/decode_frozen.yaml")
COMPARED = ("clin_jepa", "vjepa2_ac", "sft", "no_warmup", "no_alignment", "untrained")
"""The method, what its paper compares it with, and the control."""
WINNER: str | None = None
"""The recipe that the tuning patients chose, written here before the held-out patients are scored; None: not chosen yet."""

Group = Literal["candidates", "claims", "rules", "death"]
GROUPS: tuple[Group, ...] = ("candidates", "claims", "rules", "death")


@dataclass(frozen=True)
class Part:
    """One run.

    Attributes:
        name: Name of the run.
        group: Which of the study's questions it belongs to.
        data: The data set, and the configuration of this folder.
        recipes: Names or files of recipes.
        seeds: Training seeds of each.
        settings: Further settings.
        external: The subset of the same data that its frozen trials score afterwards.
    """

    name: str
    group: Group
    data: Literal["cinc2019", "cinc2012"]
    recipes: tuple[str, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    settings: tuple[str, ...] = field(default_factory=tuple)
    external: str | None = None


def parts(winner: str | None = WINNER) -> list[Part]:
    """Every run of the study, in order. Without a winner there are the candidates alone: nothing scores held-out patients before."""
    if winner is None:
        return _candidates()
    compared = COMPARED if winner in COMPARED else (*COMPARED, winner)
    few = tuple(dict.fromkeys(("clin_jepa", "sft", "untrained", winner)))
    return [
        *_candidates(),
        Part("claims", "claims", "cinc2019", compared),
        Part("authors_rules", "rules", "cinc2019", ("clin_jepa",), settings=("windows.tail=false", "text.exclusions=all_but_scores")),
        Part("death_24h", "death", "cinc2012", few, external="b"),
        Part("death_48h", "death", "cinc2012", few, settings=("evaluation.downstream.stay_prediction_hour=48",), external="b"),
    ]


def _candidates() -> list[Part]:
    """One change at a time, on tuning patients, one seed; the first part holds what the others are compared with."""
    tuning = ("evaluation.split=tuning",)
    first = Part(
        "candidates",
        "candidates",
        "cinc2019",
        ("clin_jepa", "sft", "untrained", "value_decode", *DECODED, "hybrid", "value_aux", "token_aux"),
        (0,),
        tuning,
    )
    changes = {
        "decimals_0": ("text.max_decimals=0",),
        "sft_4_epochs": ("sft.num_epochs=4",),
        "wide_encoder": ("encoder.hidden_size=192", "encoder.num_layers=4", "encoder.ffn_size=576"),
        "last_mean": ("evaluation.downstream.pooling=last+mean",),
    }
    of_change = [replace(first, name=name, recipes=(DECODED[1],), settings=(*tuning, *more)) for name, more in changes.items()]
    return [first, *of_change]
