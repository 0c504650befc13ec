"""The stage graph of an experiment, computed from its configuration without running anything.

A stage is a pure function of its key: kind and format version, the settings that change results, the keys of its inputs.
Equal prefixes of recipes have equal keys, so they are one stage. Keys are per part: a phase that does not train the encoder
passes the earlier encoder stage on, so recipes that end with the same encoder share its latent store.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pipelines.graph.artifacts import content_key

FORMAT_VERSIONS = {
    "extract": 2,
    "ingest": 5,
    "tokenizer": 1,
    "trajectories": 2,
    "labels": 3,
    "base": 1,
    "sft": 3,
    "embed": 2,
    "phase": 3,
    "sync": 1,
    "roundtrip": 1,
    "drift": 1,
    "geometry": 2,
    "downstream": 1,
    "baselines": 2,
}
"""Raised when the content of a kind of artifact changes for the same settings."""


@dataclass(eq=False)
class Stage:
    """One unit of cluster work."""

    kind: str
    label: str
    """What the user reads; the one field that is no part of the key."""

    settings: dict[str, Any]
    inputs: dict[str, Stage] = field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        return content_key(
            {
                "kind": self.kind,
                "format": FORMAT_VERSIONS[self.kind],
                "settings": self.settings,
                "inputs": {name: stage.key for name, stage in sorted(self.inputs.items())},
            }
        )

    @cached_property
    def depth(self) -> int:
        """Stages on the longest way from the data to here."""
        return 1 + max((stage.depth for stage in self.inputs.values()), default=0)

    def closure(self) -> list[Stage]:
        """This stage and all it needs, inputs first, each key once."""
        seen: dict[str, Stage] = {}

        def visit(stage: Stage) -> None:
            if stage.key in seen:
                return
            for upstream in stage.inputs.values():
                visit(upstream)
            seen[stage.key] = stage

        visit(self)
        return list(seen.values())
