"""The micro-batches of any training job, by its kind."""

from __future__ import annotations

from clinjepa.curriculum.feed.text_batches import TextBatches
from clinjepa.curriculum.feed.window_batches import WindowBatches
from clinjepa.curriculum.jobs import Job, SftJob


def open_micro_batches(job: Job) -> WindowBatches | TextBatches:
    """The reader of the job's micro-batches: both kinds are called with (step, micro), and have `in_order`, `plan` and `trajectories`."""
    return TextBatches(job) if isinstance(job, SftJob) else WindowBatches(job)
