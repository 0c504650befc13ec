"""Steps per second of the same phase under Ray Train with Ray Data, beside `torchrun` with the plain reader; start-up apart.

Workers of one thread each on the demo's stores, joint refinement (the encoder runs) and warmup (latents are read), in alternating
rounds: with as many workers as `--workers` says, in turn. On two cores, two workers share them with Ray's own processes; one worker
leaves them a core, as GPU nodes have cores to spare. The clock of a side covers everything after its first step: steps, diagnostics,
checkpoints and reports. Losses must be equal.
"""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import asdict
from pathlib import Path

from benchmarks.support.demo_stores import DemoStores, demo_config
from benchmarks.support.harness import Report, arguments, publish
from benchmarks.support.launchers import Trained, on_ray, on_torchrun
from clinjepa.curriculum.jobs import PhaseJob

SIDES = ("ray", "torchrun")
PROBE_STEPS = 12


def steps_for(seconds: float, seconds_per_step: float, least: int = PROBE_STEPS) -> int:
    """Steps that take at least so long, with a fifth to spare."""
    return max(least, round(1.2 * seconds / seconds_per_step))


def rounds_of(job: PhaseJob, root: Path, rounds: int, num_workers: int) -> dict[str, list[Trained]]:
    """Both launchers in turn. Raises SystemExit when their losses differ."""
    found: dict[str, list[Trained]] = {name: [] for name in SIDES}
    for number in range(rounds):
        for name in SIDES if number % 2 == 0 else reversed(SIDES):
            found[name].append(_run_side(name, job, root / f"{name}-{number}", num_workers))
    if len({tuple(each.losses) for side in found.values() for each in side}) > 1:
        raise SystemExit(f"{job.phase.name}: the launchers found different losses")
    return found


def _run_side(name: str, job: PhaseJob, storage: Path, num_workers: int) -> Trained:
    return on_ray(job, storage, {"num_workers": num_workers}) if name == "ray" else on_torchrun(job, storage, num_workers)


def ratio(found: dict[str, list[Trained]]) -> float:
    """Median steps per second under Ray over those under `torchrun`."""
    rates = {name: statistics.median(each.steps_per_second for each in side) for name, side in found.items()}
    return rates["ray"] / rates["torchrun"]


def main() -> None:
    options = arguments(__doc__ or "", data=None, dataset="cinc2012", seconds=60.0, rounds=3, phases="joint,warmup", workers="2,1")
    phases = ["warmup"] if options.quick else options.phases.split(",")
    workers = [2] if options.quick else [int(number) for number in options.workers.split(",")]
    rounds, seconds = (1, 0.0) if options.quick else (options.rounds, options.seconds)
    overrides = {"source.max_stays": 60 if options.quick else 640}
    if options.quick:
        overrides["source.simulator.num_patients"] = 20
    measured: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="clj-") as scratch:
        root = Path(scratch)
        stores = DemoStores(root / "stores", demo_config("simulator" if options.quick else options.dataset, options.data, overrides))
        details = stores.describe() | {"threads_per_worker": 1}
        for phase, num_workers in ((phase, number) for number in workers for phase in phases):
            name_of_run = f"{phase}_{num_workers}_workers"
            more = {"latents": stores.latents} if phase == "warmup" else {}
            probe = on_torchrun(stores.job(phase, root, PROBE_STEPS, **more), root / f"{name_of_run}-probe", num_workers)
            num_steps = steps_for(seconds, 1 / probe.steps_per_second)
            found = rounds_of(stores.job(phase, root, num_steps, **more), root / name_of_run, rounds, num_workers)
            measured[f"{name_of_run}_ray_over_torchrun"] = ratio(found)
            for name, side in found.items():
                measured[f"{name_of_run}_steps_per_second_{name}"] = statistics.median(each.steps_per_second for each in side)
            details[name_of_run] = {"num_steps": num_steps, "same_losses": True} | {
                name: [{key: value for key, value in asdict(each).items() if key != "losses"} for each in side]
                for name, side in found.items()
            }
    goal = {name: ">= 0.97" for name in measured if name.endswith("_ray_over_torchrun")}
    unit = {name: "ratio" if name in goal else "steps/s" for name in measured}
    publish(Report("launcher_overhead", measured, goal, unit, details), options.quick)


if __name__ == "__main__":
    main()
