"""From a kind of job to the function that trains it."""

from __future__ import annotations

from clinjepa.curriculum.jobs import Job, SftJob
from clinjepa.curriculum.phase import run_phase
from clinjepa.curriculum.sft import run_sft
from clinjepa.curriculum.training_loop import Launch


def run_training_job(job: Job, launch: Launch) -> dict[str, object]:
    """Run SFT or a phase on this worker; arguments, summary and errors are those of `run_phase`."""
    if isinstance(job, SftJob):
        return run_sft(job, *launch)
    return run_phase(job, *launch)
