"""From a kind of job to the function that trains it."""

from __future__ import annotations

from clinjepa.curriculum.jobs import Job, SftJob
from clinjepa.curriculum.phase import run_phase
from clinjepa.curriculum.sft import run_sft
from clinjepa.curriculum.training_loop import Launch
from clinjepa.errors import values_hidden


def run_training_job(job: Job, launch: Launch) -> dict[str, object]:
    """Run SFT or a phase on this worker; arguments, summary and errors are those of `run_phase`.

    Raises:
        HiddenError: In the place of an unexpected exception whose message may quote a patient's value.
    """
    with values_hidden():
        if isinstance(job, SftJob):
            return run_sft(job, *launch)
        return run_phase(job, *launch)
