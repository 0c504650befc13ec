"""A grid of 6 recipes × 2 seeds run once on Ray Tune, killed twice on the way, beside its 12 trials run alone: equal results, cost ratio.

The recipes are clin_jepa, ablations of its later phases and a control, on simulated patients. Encoder tokens are counted by the stages
(SFT, phases, latent stores). Seconds are wall time, start of Ray included: of the three commands of the grid (two ended by SIGKILL), and of
the trials one after the other on one cluster, each with a separate storage. Results are equal when every file of every stage has the
same digest, apart from clock times.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.support.harness import Report, arguments, publish
from clinjepa.config import Config, load_config
from clinjepa.curriculum.jobs import COST
from pipelines.graph.planning import plan_experiment
from tests.support.machines.cli import ROOT, SMALL, environment

OWN = ("teacher_forced_end", "mse_end", "layernorm_end")
RECIPES = ["clin_jepa", "no_alignment", *(f"benchmarks/recipes/{name}.yaml" for name in OWN), "sft"]
TOKENS = {"sft": "tokens_encoded", "phase": "tokens_encoded", "embed": "num_tokens"}
_CLOCK = ("timing.json", COST)
_OVERRIDES = [
    "source.simulator.num_patients=30",
    "curriculum.num_steps=48",
    "evaluation.downstream.num_bootstrap=20",
    "evaluation.drift.num_bootstrap=20",
    "evaluation.geometry.num_bootstrap=20",
    "evaluation.geometry.umap=false",
    "execution.progress=false",
]


def configuration(storage: Path, recipes: list[str], seeds: list[int]) -> Config:
    own = [str(ROOT / each) if each.endswith(".yaml") else each for each in recipes]
    return load_config(ROOT / SMALL, [*_OVERRIDES, f"storage={storage}", f"grid.recipes={json.dumps(own)}", f"grid.seeds={seeds}"])


def driver(spec: Path) -> None:
    """Run the grids of a file one after the other on one cluster; prints the seconds of each."""
    from pipelines.scheduling.session import ray_session
    from pipelines.stages.executors import EXECUTORS
    from pipelines.trials.running import raise_faults, run_trials

    configs = [Config.model_validate(each) for each in json.loads(spec.read_text())]
    seconds = []
    with ray_session(configs[0]) as context:
        for config in configs:
            began = time.perf_counter()
            raise_faults(run_trials(replace(context, config=config), plan_experiment(config), EXECUTORS))
            seconds.append(time.perf_counter() - began)
    print(json.dumps(seconds), flush=True)


def started(scratch: Path, configs: list[Config]) -> subprocess.Popen[str]:
    spec = scratch / f"spec-{len(list(scratch.glob('spec-*')))}.json"
    spec.write_text(json.dumps([config.model_dump(mode="json") for config in configs]))
    command = [sys.executable, "-m", "benchmarks.grid_cost", "--drive", str(spec)]
    return subprocess.Popen(command, cwd=ROOT, env=environment(PYTHONPATH=str(ROOT)), text=True, stdout=subprocess.PIPE)


def finished(process: subprocess.Popen[str]) -> list[float]:
    output, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"the driver ended with {process.returncode}")
    seconds: list[float] = json.loads(output.splitlines()[-1])
    return seconds


def killed(process: subprocess.Popen[str], reached: Callable[[], bool]) -> None:
    """SIGKILL the driver once `reached`; raises RuntimeError when it ends before."""
    while not reached():
        if process.poll() is not None:
            raise RuntimeError("the grid ended before it was killed")
        time.sleep(0.2)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def manifests(storage: Path) -> dict[str, dict[str, Any]]:
    """`kind/key` -> manifest."""
    return {
        f"{path.parent.parent.name}/{path.parent.name}": json.loads(path.read_text())
        for path in storage.glob("artifacts/*/*/manifest.json")
    }


def contents(manifest: dict[str, Any]) -> dict[str, str]:
    """Digests of a stage's files, without those that hold clock times or records of parts."""
    return {
        each["path"]: each["sha256"] for each in manifest["files"] if each["path"] not in _CLOCK and not each["path"].startswith("parts/")
    }


def tokens(storage: Path) -> int:
    """Tokens through the encoder in all stages of a storage."""
    found = manifests(storage).values()
    return sum(int(each["metrics"][TOKENS[each["kind"]]]) for each in found if each["kind"] in TOKENS)


def run_grid(scratch: Path, config: Config, num_kills: int) -> tuple[float, list[int]]:
    """(seconds of all commands, finished stages at each kill)."""
    storage, began, at = Path(config.storage), time.perf_counter(), []
    total = len(plan_experiment(config).stages)
    for number in range(num_kills):
        goal = total * (number + 1) // (num_kills + 1)
        killed(started(scratch, [config]), lambda goal=goal: len(manifests(storage)) >= goal)  # type: ignore[misc]
        at.append(len(manifests(storage)))
    finished(started(scratch, [config]))
    return time.perf_counter() - began, at


def main() -> None:
    if len(sys.argv) == 3 and sys.argv[1] == "--drive":
        driver(Path(sys.argv[2]))
        return
    options = arguments(__doc__ or "", kills=2)
    recipes, seeds = (["clin_jepa", "no_alignment"], [0]) if options.quick else (RECIPES, [0, 1])
    with tempfile.TemporaryDirectory(prefix="clj-") as folder:
        scratch = Path(folder)
        grid_seconds, kills = run_grid(scratch, configuration(scratch / "grid", recipes, seeds), 0 if options.quick else options.kills)
        alone = [(recipe, seed) for seed in seeds for recipe in recipes]
        places = [scratch / f"alone-{number}" for number in range(len(alone))]
        began = time.perf_counter()
        each = finished(started(scratch, [configuration(place, [r], [s]) for place, (r, s) in zip(places, alone, strict=True)]))
        alone_seconds = time.perf_counter() - began
        once, apart = manifests(scratch / "grid"), [manifests(place) for place in places]
        same = [contents(once[key]) == contents(manifest) for found in apart for key, manifest in found.items()]
        if not all(same):
            raise RuntimeError(f"{len(same) - sum(same)} of {len(same)} stages differ between the grid and its trials alone")
        counts = {"grid": tokens(scratch / "grid"), "alone": sum(tokens(place) for place in places)}
        num_alone = sum(len(found) for found in apart)
    publish(
        Report(
            "grid_cost",
            measured={
                "encoder_tokens_ratio": counts["grid"] / counts["alone"],
                "seconds_ratio": grid_seconds / alone_seconds,
                "grid_encoder_tokens": counts["grid"],
                "alone_encoder_tokens": counts["alone"],
                "grid_seconds": grid_seconds,
                "alone_seconds": alone_seconds,
            },
            goal={} if options.quick else {"encoder_tokens_ratio": "<= 0.50", "seconds_ratio": "<= 0.50"},
            unit={
                "encoder_tokens_ratio": "ratio",
                "seconds_ratio": "ratio",
                "grid_encoder_tokens": "tokens",
                "alone_encoder_tokens": "tokens",
                "grid_seconds": "s",
                "alone_seconds": "s",
            },
            details={
                "recipes": [Path(recipe).stem for recipe in recipes],
                "seeds": seeds,
                "num_trials": len(alone),
                "num_stages": len(once),
                "num_stages_alone": num_alone,
                "same_results": True,
                "killed_at_finished_stages": kills,
                "seconds_of_each_trial_alone": [round(value, 1) for value in each],
            },
        ),
        options.quick,
    )


if __name__ == "__main__":
    main()
