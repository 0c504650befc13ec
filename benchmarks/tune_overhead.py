"""A grid of simulated stages on Ray Tune beside its ideal schedule, and a grid of 500 trials planned and driven: time and memory.

A stage is one CPU and a sleep of `--seconds`; data stages take no time. The ideal schedule runs the same trials, one stage of a trial at a
time, on the same CPUs without any cost between stages; the stage with the most stages after it comes first, as in the coordinator. Seconds
are those of the trials, without the start of Ray. The 500 trials vary the predictor's learning rate of a frozen encoder; their stages take
no time, and the figure is the peak of the driver's resident memory.
"""

from __future__ import annotations

import heapq
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.support.harness import Report, arguments, publish
from clinjepa.config import Config, load_config
from pipelines.graph.experiment import Experiment, build_experiment
from pipelines.graph.stage import FORMAT_VERSIONS, Stage
from pipelines.results.plan_record import plan_record
from pipelines.trials.running import start_order
from tests.support.machines.cli import ROOT, SMALL, environment

DATA = ("extract", "ingest", "tokenizer", "trajectories", "labels")


def configuration(storage: Path, num_cpus: int, grid: dict[str, Any]) -> Config:
    raw = load_config(ROOT / SMALL).model_dump(mode="json")
    execution = raw["execution"] | {"local_num_cpus": num_cpus, "progress": False}
    return Config.model_validate(raw | {"storage": str(storage), "grid": grid, "execution": execution})


def ideal_seconds(experiment: Experiment, seconds: dict[str, float], num_cpus: int, at_once: int) -> float:
    """Duration of the trials when nothing but the stages takes time.

    Args:
        experiment: the grid; its data stages are finished.
        seconds: by kind of stage.
        num_cpus: stages that run at once.
        at_once: trials that run at once.
    """
    waiting = [[data.baselines] for data in experiment.data] + [_chain(trial.chain) for trial in start_order(experiment.trials)]
    active: list[list[Stage]] = []
    done = {stage.key for stage in experiment.data_stages}
    running: list[tuple[float, str]] = []
    now, longest = 0.0, max(stage.depth for stage in experiment.stages)
    while True:
        active = [left for chain in active if (left := [stage for stage in chain if stage.key not in done])]
        while waiting and len(active) < at_once:
            if left := [stage for stage in waiting.pop(0) if stage.key not in done]:
                active.append(left)
        if not active:
            return now
        busy = {key for _, key in running}
        ready = {chain[0].key: chain[0] for chain in active if chain[0].key not in busy}
        for stage in sorted(ready.values(), key=lambda each: longest - each.depth, reverse=True)[: num_cpus - len(running)]:
            heapq.heappush(running, (now + seconds[stage.kind], stage.key))
        now, key = heapq.heappop(running)
        done.add(key)


def _chain(asked: tuple[Stage, ...]) -> list[Stage]:
    """All stages of a trial in the order in which it runs them."""
    return list({stage.key: stage for last in asked for stage in last.closure()}.values())


def driven(scratch: Path, config: Config, seconds: dict[str, float]) -> dict[str, Any]:
    """Run the grid in a new process: seconds, peak_bytes."""
    spec = scratch / f"{config.name}-spec.json"
    spec.write_text(json.dumps({"config": config.model_dump(mode="json"), "seconds": seconds, "log": str(scratch / f"{config.name}-log")}))
    command = [sys.executable, "-m", "tests.support.training.simulated_stages", str(spec)]
    done = subprocess.run(command, cwd=ROOT, env=environment(PYTHONPATH=str(ROOT)), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the driver ended with {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if found["faults"]:
        raise RuntimeError(str(found["faults"][:2]))
    return found


def overhead(scratch: Path, seconds_a_stage: float, num_cpus: int, grid: dict[str, Any]) -> dict[str, float]:
    config = configuration(scratch / "store", num_cpus, grid | {"max_concurrent_trials": 2 * num_cpus})
    seconds = {kind: 0.0 if kind in DATA else seconds_a_stage for kind in FORMAT_VERSIONS}
    experiment = build_experiment(config, "content")
    ideal = ideal_seconds(experiment, seconds, num_cpus, 2 * num_cpus)
    measured = driven(scratch, config, seconds)["seconds"]
    return {"num_trials": len(experiment.trials), "num_stages": len(experiment.stages), "ideal": ideal, "measured": measured}


def many_trials(scratch: Path, num_points: int, num_cpus: int) -> dict[str, float]:
    axis = {"low": 1e-5, "high": 1e-1, "num": num_points, "scale": "log"}
    grid = {"recipes": ["untrained"], "seeds": [0, 1], "axes": {"curriculum.predictor_lr": axis}, "max_trials": 2 * num_points}
    config = configuration(scratch / "many", num_cpus, grid).model_copy(update={"name": "many"})
    began = time.perf_counter()
    plan = plan_record(config)
    planned = time.perf_counter() - began
    found = driven(scratch, config, {})
    assert plan.grid is not None
    return {"num_trials": plan.grid.num_trials, "num_stages": plan.grid.num_stages, "plan_seconds": planned, **found}


def main() -> None:
    options = arguments(__doc__ or "", seconds=60.0, cpus=8, trials=500)
    grid: dict[str, Any] = {"recipes": ["clin_jepa", "no_alignment", "no_warmup", "vjepa2_ac", "sft", "untrained"], "seeds": [0, 1]}
    seconds, cpus, trials = (3.0, 4, 12) if options.quick else (options.seconds, options.cpus, options.trials)
    if options.quick:
        grid = {"recipes": ["clin_jepa", "no_alignment"], "seeds": [0]}
    with tempfile.TemporaryDirectory(prefix="clj-") as folder:
        found = overhead(Path(folder), seconds, cpus, grid)
        print(json.dumps(found), file=sys.stderr, flush=True)
        many = many_trials(Path(folder), trials // 2, cpus)
    publish(
        Report(
            "tune_overhead",
            measured={
                "overhead": found["measured"] / found["ideal"] - 1,
                "driver_gigabytes": many["peak_bytes"] / 1e9,
                "plan_seconds": many["plan_seconds"],
                "drive_seconds": many["seconds"],
            },
            goal={} if options.quick else {"overhead": "<= 0.05", "driver_gigabytes": "<= 2"},
            unit={"overhead": "share of the ideal schedule", "driver_gigabytes": "GB", "plan_seconds": "s", "drive_seconds": "s"},
            details={"seconds_a_stage": seconds, "num_cpus": cpus, "grid": found, "many": {k: v for k, v in many.items() if k != "faults"}},
        ),
        options.quick,
    )


if __name__ == "__main__":
    main()
