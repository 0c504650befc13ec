"""The stage graph of an experiment, computed from its configuration without running anything.

A stage is a pure function of its key: kind and format version, the settings that change results, the keys of its inputs.
Equal prefixes of recipes have equal keys, so they are one stage. Keys are per part: a phase that does not train the encoder
passes the earlier encoder stage on, so recipes that end with the same encoder share its latent store.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from clinjepa import curriculum, evaluation, sources, trajectory
from pipelines.graph.artifacts import content_key

FORMAT_VERSIONS: dict[str, int] = (
    sources.FORMAT_VERSIONS | trajectory.FORMAT_VERSIONS | curriculum.FORMAT_VERSIONS | evaluation.FORMAT_VERSIONS
)
"""By kind of stage. Each room's `__init__.py` holds the numbers of the artifacts that its code makes."""


GPU_KINDS = ("sft", "phase", "embed", "shifted_actions")
"""Kinds of stages whose workers get GPUs with `execution.use_gpu`."""


@dataclass(eq=False)
class Stage:
    """One unit of cluster work."""

    kind: str
    label: str
    """The name shown to the user; not part of the key."""

    settings: dict[str, Any]
    inputs: dict[str, Stage] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    """What the work receives whole and the settings hold as a digest; not part of the key."""

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
        """Number of stages on the longest path from the data to this stage, itself included."""
        return 1 + max((stage.depth for stage in self.inputs.values()), default=0)

    def closure(self) -> list[Stage]:
        """This stage and all that it depends on, inputs first, each key once."""
        seen: dict[str, Stage] = {}

        def visit(stage: Stage) -> None:
            if stage.key in seen:
                return
            for upstream in stage.inputs.values():
                visit(upstream)
            seen[stage.key] = stage

        visit(self)
        return list(seen.values())
