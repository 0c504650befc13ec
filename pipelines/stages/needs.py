"""CPUs and GPUs that the stages of training and of the latent store ask for. Apart from their executors, which load Ray Train and torch."""

from __future__ import annotations

from clinjepa.config import Config
from pipelines.graph.context import Needs

EMBED_WORKER_CPUS = 0.5
"""Of one encoder worker of the latent store."""


def training_needs(config: Config) -> Needs:
    """CPUs and GPUs of the largest number of workers of a training stage, readers included."""
    return _with_validation(config, config.execution.max_workers)


def least_training_needs(config: Config) -> Needs:
    """CPUs and GPUs of the smallest number of workers of a training stage."""
    return _with_validation(config, config.execution.min_workers)


def _with_validation(config: Config, num_workers: int) -> Needs:
    """What so many workers ask for, and the task that validates their checkpoints."""
    needs = {name: amount * num_workers for name, amount in worker_needs(config).items()}
    return needs | {"CPU": needs["CPU"] + (config.execution.evaluation_cpus if config.execution.validate_checkpoints else 0.0)}


def worker_needs(config: Config) -> Needs:
    """CPUs and GPUs of one training worker with its reader."""
    # A worker's reader is part of the worker's share: the elastic scheduler gives all CPUs to workers, and a reader that requested one
    # would wait for ever.
    execution = config.execution
    return {"CPU": execution.cpus_per_worker + execution.data_cpus} | ({"GPU": 1.0} if execution.use_gpu else {})


def embed_needs(config: Config) -> Needs:
    """CPUs and GPUs of the pool of encoder workers at its largest."""
    return {name: amount * config.execution.embed_workers for name, amount in least_embed_needs(config).items()}


def least_embed_needs(config: Config) -> Needs:
    """CPUs and GPUs of one encoder worker; the pool starts with one and grows as the cluster has room."""
    return {"CPU": EMBED_WORKER_CPUS} | ({"GPU": 1.0} if config.execution.use_gpu else {})
