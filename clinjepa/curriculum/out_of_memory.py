"""Memory that ran out is an error that names the settings to change, those that leave the result as it is first.

The same order as `clinjepa plan` gives beforehand (`budget.py`), with what the run itself was set to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, TypeVar

import torch

from clinjepa.curriculum.jobs import PhaseJob, SftJob
from clinjepa.errors import ResourceError

Result = TypeVar("Result")
_CPU_ALLOCATOR = "DefaultCPUAllocator"


def names_settings(run: Callable[..., Result]) -> Callable[..., Result]:
    """Wrap a function whose first argument is a job: `torch.OutOfMemoryError` on a GPU, and torch's error of the
    kind on a CPU, become a ResourceError with the job's remedies."""

    @wraps(run)
    def wrapped(job: PhaseJob | SftJob, *arguments: Any, **options: Any) -> Result:
        try:
            return run(job, *arguments, **options)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise out_of_memory(error, _name(job), remedies(job)) from None

    return wrapped


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch could not get the memory it asked for; on a CPU it has no class of error for that."""
    return isinstance(error, torch.OutOfMemoryError) or _CPU_ALLOCATOR in str(error)


def out_of_memory(error: RuntimeError, what: str, settings: list[str]) -> ResourceError:
    """The error to raise instead: what ran out where, and the settings to change in their order."""
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


def remedies(job: PhaseJob | SftJob) -> list[str]:
    """Settings that lower the peak of this job, with their values."""
    if isinstance(job, SftJob):
        return [*_recompute(job), _SHARDS, _lower("sft.micro_tokens", job.sft_settings["micro_tokens"])]
    lines = _recompute(job) if job.trains_encoder else []
    if job.needs_encoder:
        lines += [_SHARDS, _lower("encoder.token_budget", job.encoder_settings["token_budget"])]
    return [*lines, _lower("curriculum.micro_batch", job.curriculum_settings["micro_batch"])]


def embedding_remedies(encoder_settings: Mapping[str, Any]) -> list[str]:
    """The same for an encoder worker of the latent store, which keeps no graph and holds the whole base."""
    return [_lower("encoder.token_budget", encoder_settings["token_budget"]), _LARGER]


_SHARDS = "a higher execution.num_workers (more shards; same result)"
_LARGER = "GPUs with more memory, for the base is not sharded here"
_ON_A_CPU = {
    _SHARDS: "fewer workers on each machine (execution.num_workers, cpus_per_worker; same result)",
    _LARGER: "a machine with more memory, for the base is not sharded here",
}


def _recompute(job: PhaseJob | SftJob) -> list[str]:
    stronger = {"none": "selective or full", "selective": "full"}.get(job.activation_checkpointing)
    return [f"encoder.activation_checkpointing={stronger} (is {job.activation_checkpointing}; same result)"] if stronger else []


def _lower(setting: str, value: Any) -> str:
    return f"a lower {setting} (is {value}; another result)"


def _name(job: PhaseJob | SftJob) -> str:
    return "SFT" if isinstance(job, SftJob) else f"phase {job.parsed_phase.name}"
