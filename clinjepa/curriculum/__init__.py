"""Phases and recipes as data, the seeded plan, the training loop of a phase, checkpoints. Runs under Ray, `torchrun` or alone."""

FORMAT_VERSIONS = {"base": 1, "sft": 3, "phase": 3, "sync": 1, "embed": 2}
"""By kind of stage that this room and `clinjepa.model` make; raised when the content of an artifact changes for the same settings. The
number of `base` is here because `clinjepa.model` imports torch, which reading a number must not load."""
