"""Phases and recipes as data, the seeded plan, the training loop of a phase, checkpoints. Runs under Ray, `torchrun` or alone."""
