"""An error for memory that ran out, which names the settings to change; settings that leave the result as it is come first.

The order is that of `clinjepa plan` (`clinjepa/capacity/advice.py`); the values are those of the run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from clinjepa.curriculum.jobs import PhaseJob, SftJob, TrainingJob
from clinjepa.errors import ResourceError

_CPU_ALLOCATOR = "DefaultCPUAllocator"


@contextmanager
def names_settings(what: str, settings: list[str]) -> Iterator[None]:
    """Turn torch's out-of-memory errors, on a GPU or a CPU, into a ResourceError.

    Args:
        what: the job in the message.
        settings: what to change, in this order (`phase_remedies`, `sft_remedies`, `embedding_remedies`).
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise out_of_memory(error, what, settings) from None


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch could not allocate memory; torch has no class of error for that on a CPU."""
    return isinstance(error, torch.OutOfMemoryError) or _CPU_ALLOCATOR in str(error)


def out_of_memory(error: RuntimeError, what: str, settings: list[str]) -> ResourceError:
    """The error to raise instead: where memory ran out, and the settings to change in their order."""
    if _CPU_ALLOCATOR in str(error):
        said = str(error).rpartition(f"{_CPU_ALLOCATOR}: ")[2].partition(".")[0]
        changes = "; ".join(_ON_A_CPU.get(each, each) for each in settings)
        return ResourceError(f"{what}: this machine's memory ran out ({said}); change, in this order: {changes}; finished steps are kept")
    sentences = [part for part in str(error).split(". ") if not part.startswith("CUDA out of memory")]
    said = ". ".join(sentences[:2]).strip().rstrip(".")
    return ResourceError(
        f"{what}: the GPU's memory ran out ({said or 'no details'}); change, in this order: {'; '.join(settings)}. "
        "`clinjepa plan CONFIG execution.use_gpu=true` says what each needs; finished steps are kept"
    )


def sft_remedies(job: SftJob) -> list[str]:
    """Settings that lower the peak of next-token training, with their values."""
    return [*_recompute(job), _SHARDS, _lower("sft.micro_tokens", job.sft_settings.micro_tokens)]


def phase_remedies(job: PhaseJob) -> list[str]:
    """Settings that lower the peak of a phase, with their values."""
    lines = _recompute(job) if job.trains_encoder else []
    if job.needs_encoder:
        lines += [_SHARDS, _lower("encoder.token_budget", job.encoder_settings.token_budget)]
    return [*lines, _lower("curriculum.micro_batch", job.curriculum_settings.micro_batch)]


def embedding_remedies(token_budget: int) -> list[str]:
    """Settings for an encoder worker of the latent store, which keeps no graph and holds the whole base."""
    return [_lower("encoder.token_budget", token_budget), _LARGER]


_SHARDS = "a higher execution.num_workers (more shards; same result)"
_LARGER = "GPUs with more memory, since the base is not sharded here"
_ON_A_CPU = {
    _SHARDS: "fewer workers on each machine (execution.num_workers, cpus_per_worker; same result)",
    _LARGER: "a machine with more memory, since the base is not sharded here",
}


def _recompute(job: TrainingJob) -> list[str]:
    stronger = {"none": "selective or full", "selective": "full"}.get(job.activation_checkpointing)
    return [f"encoder.activation_checkpointing={stronger} (is {job.activation_checkpointing}; same result)"] if stronger else []


def _lower(setting: str, value: int) -> str:
    return f"a lower {setting} (is {value}; another result)"
