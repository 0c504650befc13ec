"""From csv.gz to tokenised trajectories and labels: the project, the physical limit, and a peer, on the same files.

    python -m benchmarks.ingest --demo FOLDER [--more FOLDER] [--peer PYTHON --peer-maps FOLDER] [--factors 1,20,100] [--work FOLDER]
    python -m benchmarks.ingest --quick

The limit is what polars takes to parse the four big tables. The peer (`mimic-iv-meds`, in the environment of that interpreter) stops at
MEDS events. `--more`: a folder with emar, emar_detail and poe, which the demo v2.2 lacks. `--quick`: simulated
tables of one size, so no peer, no scaling, no Ray alone, and mostly the cost of starting.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.support.harness import Cost, Report, arguments, publish, run_command
from benchmarks.support.mimic_copies import copy_demo
from clinjepa.config.execution import ExecutionConfig
from clinjepa.config.schema import SimulatorConfig
from clinjepa.sources.simulated.mimic_writer import MIMIC_DENSITY, write_simulated_mimic
from clinjepa.storage import Folder

BIG_TABLES = ("icu/chartevents", "hosp/labevents", "icu/inputevents", "icu/outputevents")
FULL_SIZE = {"chartevents": 432_000_000, "stays": 94_458}
"""MIMIC-IV 3.1."""
FULL_CORES = 16
_PEER_FACTOR = 20
_STEPS = ("extract", "ingest", "tokenizer", "trajectories", "labels")
_ROOT = Path(__file__).parents[1]

_LIMIT = """
import polars, sys
for path in sys.argv[1:]:
    polars.read_csv(path, infer_schema_length=10000, ignore_errors=True)
"""
_IDLE = """
import time
from clinjepa.config import load_config
from pipelines.scheduling.session import ray_session
with ray_session(load_config(sys.argv[1], sys.argv[2:])):
    time.sleep(3)
"""


@dataclass
class Size:
    """What was measured at one size. rows: of every table; steps: wall seconds by step, from the stages' manifests.

    project.steps has the CPU time and memory of the same steps, of `start` (until the first stage) and of `end`.
    """

    factor: int
    rows: dict[str, int]
    project: Cost
    limit: Cost
    steps: dict[str, float]
    results: dict[str, Any]
    unzip: Cost
    peer: Cost | None = None
    details: dict[str, Any] = field(default_factory=dict)


def main() -> None:
    """Measure, print and (full form) write the result file."""
    options = arguments(
        "ingest: project, physical limit and peer on the same files",
        demo=None,
        more=None,
        peer=None,
        peer_maps=None,
        factors="1,20,100",
        work=None,
    )
    with tempfile.TemporaryDirectory(prefix="clinjepa-ingest-") as scratch:
        work = Path(options.work or scratch)
        idle = None
        if options.quick:
            folder = work / "simulated"
            settings = SimulatorConfig(num_patients=16, seed=0, mean_stay_hours=40, measurement_density=MIMIC_DENSITY)
            record = write_simulated_mimic(Folder(folder), settings)
            sizes = [_measure(folder, 1, record["rows"], work, None, None, "source.num_partitions=2")]
        else:
            idle = _idle(work)
            if options.demo is None:
                raise SystemExit("--demo FOLDER is missing: the folder of the MIMIC-IV demo (`clinjepa data get mimic-iv-demo`)")
            more = sorted(Path(options.more).glob("*.csv.gz")) if options.more else []
            sizes = []
            for factor in sorted(int(text) for text in options.factors.split(",")):
                folder = work / f"demo-x{factor}"
                rows = copy_demo(Path(options.demo), folder, factor, more)
                # The peer is judged at ×20; ×100 would want some 25 GB of it.
                sizes.append(_measure(folder, factor, rows, work, options.peer if factor <= _PEER_FACTOR else None, options.peer_maps))
        publish(_report(sizes, idle, options.peer), options.quick)


def _measure(folder: Path, factor: int, rows: dict[str, int], work: Path, peer: str | None, maps: str | None, *more: str) -> Size:
    big = [str(folder / f"{table}.csv.gz") for table in BIG_TABLES]
    importing = run_command([sys.executable, "-c", "import polars"])
    parsed = run_command([sys.executable, "-c", _LIMIT, *big])
    limit = Cost(parsed.wall_seconds - importing.wall_seconds, parsed.cpu_seconds - importing.cpu_seconds, parsed.peak_bytes)
    unzip = run_command([sys.executable, "-c", "import gzip, sys\nf = gzip.open(sys.argv[1])\nwhile f.read(1 << 22): pass", big[0]])
    storage = work / f"storage-x{factor}"
    shutil.rmtree(storage, ignore_errors=True)
    command = [sys.executable, "-m", "pipelines.ingest", *_settings(storage), "source.kind=mimic_iv", f"source.path={folder}", *more]
    project = run_command(command, _env(), str(_ROOT), step=lambda: _step(storage))
    steps, results = _stages(storage)
    return Size(factor, rows, project, limit, steps, results, unzip, _peer(folder, factor, work, peer, maps))


def _peer(folder: Path, factor: int, work: Path, python: str | None, maps: str | None) -> Cost | None:
    """The peer on the same files, its ten concept maps beside them; None when it is not there to run."""
    if python is None:
        return None
    inside = work / f"peer-in-x{factor}"
    shutil.rmtree(inside, ignore_errors=True)
    inside.mkdir(parents=True)
    for path in [folder / "hosp", folder / "icu", *(sorted(Path(maps).glob("*.csv")) if maps else [])]:
        (inside / path.name).symlink_to(path.resolve())
    out = work / f"peer-out-x{factor}"
    shutil.rmtree(out, ignore_errors=True)
    commands = Path(python).absolute().parent
    places = [f"input_dir={inside.absolute()}", f"output_dir={out.absolute()}"]
    settings = ["spec=MIMIC-IV", "do_download=false", "dataset_key=demo", *places]
    env = dict(os.environ) | {"PATH": f"{commands}{os.pathsep}{os.environ['PATH']}"}
    return run_command([str(commands / "meds-extract-run"), *settings], env)


def _step(storage: Path) -> str:
    """The step a run is at: the one after the last that has its manifest."""
    artifacts = storage / "artifacts"
    if not (artifacts / _STEPS[0]).exists():
        return "start"
    return next((kind for kind in _STEPS if not any((artifacts / kind).glob("*/manifest.json"))), "end")


def _idle(work: Path) -> Cost:
    """Ray alone: start, 3 s of nothing, stop."""
    code = f"import sys\n{_IDLE}"
    cost = run_command([sys.executable, "-c", code, *_settings(work / "storage-idle")], _env(), str(_ROOT))
    return Cost(cost.wall_seconds - 3, cost.cpu_seconds, cost.peak_bytes)


def _settings(storage: Path) -> list[str]:
    return [str(_ROOT / "configs" / "demo.yaml"), f"storage={storage}", "source.name=benchmark", "execution.progress=false"]


def _env() -> dict[str, str]:
    return dict(os.environ) | {"PYTHONPATH": str(_ROOT), "RAY_USAGE_STATS_ENABLED": "0"}


def _stages(storage: Path) -> tuple[dict[str, float], dict[str, Any]]:
    """Seconds and metrics of every stage that ran."""
    seconds: dict[str, float] = {}
    metrics: dict[str, Any] = {}
    for kind in _STEPS:
        for path in sorted((storage / "artifacts" / kind).glob("*/manifest.json")):
            manifest = json.loads(path.read_text())
            seconds[kind] = seconds.get(kind, 0.0) + manifest["seconds"]
            kept = {name: value for name, value in manifest["metrics"].items() if isinstance(value, int | float)}
            metrics[kind] = kept
    return seconds, metrics


def scaling_exponent(small: tuple[float, float], large: tuple[float, float], startup: float) -> float:
    """p of time = startup + c * size^p through two points (size, seconds)."""
    return math.log((large[1] - startup) / (small[1] - startup)) / math.log(large[0] / small[0])


def extrapolated(small: Size, large: Size, cpus: int, extract_bytes: int) -> dict[str, Any]:
    """Minutes, memory and arithmetic of MIMIC-IV 3.1 on FULL_CORES cores, from what the larger of two sizes costs more.

    What starting costs is the same for both, so it does not count. CPU seconds of reading tables grow with rows, of the rest with stays;
    one csv.gz is decompressed by one core, so the largest file is a floor. Memory: the largest task that any step had, on every core at
    once, and all that is no task; in the extraction what its budget allows (extract_bytes) instead. The partition of a task does not
    grow with the data. cpus: of the machine measured on.
    """
    more_cpu = large.project.cpu_seconds - small.project.cpu_seconds
    reading = max(0.0, large.project.steps["extract"].cpu_seconds - small.project.steps["extract"].cpu_seconds)
    rows, stays = (large.rows[name] - small.rows[name] for name in ("icu/chartevents", "icu/icustays"))
    by_rows, by_stays = FULL_SIZE["chartevents"] / rows, FULL_SIZE["stays"] / stays
    total = reading * by_rows + (more_cpu - reading) * by_stays
    floor = (large.unzip.cpu_seconds - small.unzip.cpu_seconds) * by_rows
    fixed = max(
        0.0, small.project.wall_seconds - small.rows["icu/chartevents"] / rows * (large.project.wall_seconds - small.project.wall_seconds)
    )
    seconds = fixed + max(floor, total / FULL_CORES)
    tasks = {name: FULL_CORES * step.largest_task_bytes for name, step in large.project.steps.items()} | {"extract": extract_bytes}
    memory = {name: (step.other_bytes + tasks[name]) / 1e9 for name, step in large.project.steps.items()}
    worst = max(memory, key=lambda name: memory[name])
    return {
        "minutes": seconds / 60,
        "peak_gb": memory[worst],
        "peak_gb_by_step": memory,
        "cpu_seconds": total,
        "decompression_floor_seconds": floor,
        "arithmetic": (
            f"x{small.factor} to x{large.factor} on {cpus} cores: reading {reading:.1f} CPU s x {by_rows:.1f} (rows) + rest "
            f"{more_cpu - reading:.1f} CPU s x {by_stays:.1f} (stays) = {total:.0f} CPU s; / {FULL_CORES} cores = "
            f"{total / FULL_CORES:.0f} s (at least {floor:.0f} s, one stream's decompression) + start {fixed:.1f} s. Memory, highest in "
            f"{worst}: {large.project.steps[worst].other_bytes / 1e9:.2f} GB beside the tasks + {tasks[worst] / 1e9:.2f} GB "
            f"({'execution.memory_mb' if worst == 'extract' else f'the largest task x {FULL_CORES}'})"
        ),
    }


def _report(sizes: list[Size], idle: Cost | None, peer: str | None) -> Report:
    last = sizes[-1]
    judged = next((size for size in sizes if size.factor == 20), last)
    measured: dict[str, float] = {
        "cpu_over_limit": judged.project.cpu_seconds / judged.limit.cpu_seconds,
        "wall_seconds": judged.project.wall_seconds,
        "cpu_seconds": judged.project.cpu_seconds,
        "peak_gb": judged.project.peak_bytes / 1e9,
        "chart_rows_per_second": judged.rows["icu/chartevents"] / judged.project.wall_seconds,
        "limit_cpu_seconds": judged.limit.cpu_seconds,
    }
    goal = {"cpu_over_limit": "<= 10"}
    unit = {
        "cpu_over_limit": "ratio",
        "wall_seconds": "s",
        "cpu_seconds": "s",
        "peak_gb": "GB",
        "chart_rows_per_second": "rows/s",
        "limit_cpu_seconds": "s",
    }
    if idle is not None:
        measured |= {"ray_startup_seconds": idle.wall_seconds, "ray_idle_gb": idle.peak_bytes / 1e9}
        measured |= {"wall_seconds_beside_ray": judged.project.wall_seconds - idle.wall_seconds}
        measured |= {"peak_gb_beside_ray": (judged.project.peak_bytes - idle.peak_bytes) / 1e9}
        unit |= {"ray_startup_seconds": "s", "ray_idle_gb": "GB", "wall_seconds_beside_ray": "s", "peak_gb_beside_ray": "GB"}
    if judged.peer is not None:
        measured |= _against_peer(judged.project, judged.peer)
        goal |= {"wall_over_peer": "<= 0.5", "memory_over_peer": "<= 0.5"}
        unit |= {"peer_wall_seconds": "s", "peer_cpu_seconds": "s", "peer_peak_gb": "GB"}
        unit |= {"wall_over_peer": "ratio", "memory_over_peer": "ratio"}
    exponents: dict[str, float] = {}
    full: dict[str, Any] | None = None
    for one, other in [*zip(sizes, sizes[1:], strict=False), (sizes[0], last)]:
        if other.factor > one.factor and idle is not None:
            points = [(float(size.factor), size.project.wall_seconds) for size in (one, other)]
            exponents[f"x{one.factor} to x{other.factor}"] = scaling_exponent(points[0], points[1], idle.wall_seconds)
    if exponents:
        measured |= {"scaling_exponent": exponents[f"x{sizes[0].factor} to x{last.factor}"]}
        measured |= {"memory_growth": last.project.peak_bytes / judged.project.peak_bytes}
        goal |= {"scaling_exponent": "<= 1.05", "memory_growth": "<= 1.2"}
        unit |= {"scaling_exponent": "exponent", "memory_growth": "ratio"}
    if len(sizes) > 1 and last.project.cpu_seconds > sizes[-2].project.cpu_seconds:  # else both sizes are too small to tell
        budget = int(ExecutionConfig().memory_mb * 2**20)
        full = extrapolated(sizes[-2], last, len(os.sched_getaffinity(0)), budget)
        measured |= {"full_mimic_iv_minutes": full["minutes"], "full_mimic_iv_peak_gb": full["peak_gb"]}
        goal |= {"full_mimic_iv_minutes": "<= 10", "full_mimic_iv_peak_gb": "<= 16"}
        unit |= {"full_mimic_iv_minutes": "min", "full_mimic_iv_peak_gb": "GB"}
    details = {
        "sizes": [asdict(size) for size in sizes],
        "rows_per_second": {f"x{size.factor}": _rows_per_second(size) for size in sizes},
        "ray_alone": None if idle is None else asdict(idle),
        "scaling_exponents": exponents,
        "extrapolation": full,
        "peer": "mimic-iv-meds" if peer else "not run: no --peer",
    }
    return Report("ingest", measured, goal, unit, details)


def _against_peer(project: Cost, peer: Cost) -> dict[str, float]:
    return {
        "peer_wall_seconds": peer.wall_seconds,
        "peer_cpu_seconds": peer.cpu_seconds,
        "peer_peak_gb": peer.peak_bytes / 1e9,
        "wall_over_peer": project.wall_seconds / peer.wall_seconds,
        "memory_over_peer": project.peak_bytes / peer.peak_bytes,
    }


def _rows_per_second(size: Size) -> dict[str, float]:
    """Rows of the source's tables that each step gets through in a second of its wall time."""
    rows = sum(size.rows.values())
    return {step: rows / seconds for step, seconds in size.steps.items() if seconds}


if __name__ == "__main__":
    main()
