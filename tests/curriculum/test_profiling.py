"""The profiler records the steps that it was asked for, and nothing unless asked."""

from __future__ import annotations

import gzip
import json

import torch

from clinjepa.curriculum.workers.profiling import SKIPPED_STEPS, WARMUP_STEPS, profiled_steps
from clinjepa.storage import Folder


def run(folder, num_steps, num_profiled):
    with profiled_steps(Folder(folder), rank=3, num_steps=num_profiled) as after_step:
        for _ in range(num_steps):
            torch.ones(4) @ torch.ones(4)
            if after_step is not None:
                after_step()


def trace(folder):
    return json.loads(gzip.decompress((folder / "worker-3.json.gz").read_bytes()))["traceEvents"]


def test_it_records_as_many_steps_as_it_was_asked_for(tmp_path):
    run(tmp_path, num_steps=10, num_profiled=4)
    events = trace(tmp_path)
    steps = {event["name"] for event in events if event.get("name", "").startswith("ProfilerStep#")}
    assert steps == {f"ProfilerStep#{step}" for step in range(SKIPPED_STEPS + WARMUP_STEPS, SKIPPED_STEPS + WARMUP_STEPS + 4)}
    assert sum(event.get("name") == "aten::dot" for event in events) == 4


def test_a_training_that_ends_before_leaves_what_was_recorded(tmp_path):
    run(tmp_path, num_steps=4, num_profiled=50)
    assert sum(event.get("name") == "aten::dot" for event in trace(tmp_path)) == 2


def test_nothing_is_written_unless_asked_for(tmp_path):
    run(tmp_path, num_steps=5, num_profiled=0)
    assert not list(tmp_path.iterdir())
