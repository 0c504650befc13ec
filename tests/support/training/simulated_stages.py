"""Executors that sleep instead of working and leave what trials read: for tests and benchmarks of grids without any training.

Run as a program it drives a grid whose stages are simulated: `python -m tests.support.training.simulated_stages SPEC`, a JSON file with
`config`, `seconds` by kind of stage (0 where none is given), `log` and, if a stage is to fail, `fails`: a part of its label.
"""

from __future__ import annotations

import json
import math
import os
import resource
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from clinjepa.config import Config
from clinjepa.errors import TrainingError
from pipelines.graph.artifacts import RESULT, Artifact
from pipelines.graph.context import Executor, RunContext
from pipelines.graph.experiment import build_experiment
from pipelines.graph.stage import FORMAT_VERSIONS, Stage

EVALUATIONS = ("roundtrip", "drift", "geometry", "downstream", "baselines", "forecasts", "direct_forecasts", "added_value")


def simulated_executors(seconds: Mapping[str, float], log: Path, fails: str = "") -> dict[str, Executor]:
    """By kind of stage: one CPU for so many seconds; a line `kind key begun|done split` in the log when it begins and when it is done."""
    return {kind: Executor(partial(_work, seconds.get(kind, 0.0), str(log), fails), _one_cpu) for kind in FORMAT_VERSIONS}


def _one_cpu(config: Config) -> dict[str, float]:
    return {"CPU": 1.0}


def _work(seconds: float, log: str, fails: str, context: RunContext, stage: Stage, artifact: Artifact) -> dict[str, object]:
    _note(log, stage, "begun")
    time.sleep(seconds)
    if fails and fails in stage.label:
        raise TrainingError(f"{stage.label} was meant to fail")
    if stage.kind in EVALUATIONS:
        artifact.folder.write_json(RESULT, {"r2": figure(0.5)} if stage.kind == "roundtrip" else {})
    else:
        artifact.folder.write_json("metrics.json", {"steps": [_STEP], "diagnostics": [{"step": 1, "l1": tuning_error(stage)}]})
    _note(log, stage, "done")
    return {"num_steps": stage.settings.get("num_steps", 0), "tokens_encoded": 10, "num_tokens": 5, "predictor_tokens": 3}


_STEP = {"step": 1, "loss": 3.0, "teacher_forcing": 1.0, "rollout": 2.0, "grad_norm_predictor": 9.0, "lr_predictor": 0.1}
"""The last step of every simulated phase."""


def figure(value: float) -> dict[str, Any]:
    return {"value": value, "ci95": None, "num_patients": 10, "num_seeds": 1}


def tuning_error(stage: Stage) -> float:
    """Smallest at a predictor's learning rate of 1e-3."""
    rate = stage.settings.get("curriculum", {}).get("predictor_lr")
    return abs(math.log10(rate) + 3) if rate else 9.0


def _note(log: str, stage: Stage, word: str) -> None:
    split = stage.settings["split"] if stage.kind in EVALUATIONS else "-"
    line = f"{stage.kind} {stage.key} {word} {split} {time.time():.3f}\n"
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, line.encode())
    os.close(descriptor)


def lines(log: Path, word: str) -> list[str]:
    """`kind key` of every line with that word."""
    found = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
    return [f"{kind} {key}" for kind, key, what, *_ in found if what == word]


def main() -> None:
    from pipelines.scheduling.session import ray_session
    from pipelines.trials.running import run_trials

    spec = json.loads(Path(sys.argv[1]).read_text())
    config = Config.model_validate(spec["config"])
    experiment = build_experiment(config, "content")
    executors = simulated_executors(spec["seconds"], Path(spec["log"]), spec.get("fails", ""))
    with ray_session(config) as context:
        began = time.monotonic()
        faults = run_trials(context, experiment, executors)
        seconds = time.monotonic() - began
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(
        json.dumps({"seconds": seconds, "peak_bytes": peak_bytes, "faults": [[fault.name, fault.message] for fault in faults]}), flush=True
    )


if __name__ == "__main__":
    main()
