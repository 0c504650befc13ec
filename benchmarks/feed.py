"""Whether training waits for its data: from a local disk and from S3, in steps that read texts and in steps that read latents.

`*_waiting`: the share of step time that worker 0 of a training on Ray (two workers, the demo's sizes and step times) spends waiting for
Ray Data. `*_per_second`: what one reader hands over when nobody computes, for latents as wide as Qwen3-8B's (D = 4096, bfloat16), beside
what one of eight H100 would eat in a predictor-only step. S3 is a SeaweedFS server on this machine, so it shares the machine's cores.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from benchmarks.launcher_overhead import PROBE_STEPS, steps_for
from benchmarks.support.demo_stores import DemoStores, demo_config
from benchmarks.support.harness import Report, arguments, publish
from benchmarks.support.launchers import NUM_WORKERS, Trained, on_ray
from clinjepa.capacity.model_sizes import known_gpus
from clinjepa.curriculum.feed.plain_feed import plain_feed
from clinjepa.curriculum.feed.unpacking import unpacked
from clinjepa.curriculum.feed.window_plan import assignments
from clinjepa.curriculum.jobs import PhaseJob
from clinjepa.storage import Folder
from clinjepa.trajectory.tokens.latent_store import LatentWriter, finish_latents
from pipelines.scheduling.session import ray_session
from pipelines.stages.feed import ray_data_feed
from tests.conftest import S3Server

WIDE = 4096
GPUS, UTILISATION = 8, 0.4
GLOBAL_BATCH, MAX_HOURS = 32, 72
PREDICTOR_PARAMETERS = 92_514_304


def eaten_per_second(fp32_tflops: float) -> tuple[float, float, str]:
    """(bytes/s of one GPU of eight, seconds of a predictor-only step, the arithmetic) at full windows and 40 % of the peak."""
    texts = GLOBAL_BATCH * (2 * MAX_HOURS + 1)
    step_bytes = texts * WIDE * 2
    seconds = texts * 6 * PREDICTOR_PARAMETERS / (fp32_tflops * 1e12 * UTILISATION * GPUS)
    flops = texts * 6 * PREDICTOR_PARAMETERS
    words = (
        f"{GLOBAL_BATCH} windows x {2 * MAX_HOURS + 1} texts x {WIDE} x 2 B = {step_bytes / 1e6:.1f} MB a step (76 MB as float32); "
        f"{texts} tokens x 6 x {PREDICTOR_PARAMETERS:,} = {flops / 1e12:.2f} TFLOP / ({GPUS} x {fp32_tflops:g} TFLOP/s fp32 x "
        f"{UTILISATION:g}) = {seconds * 1e3:.1f} ms; {step_bytes / seconds / 1e9:.2f} GB/s, "
        f"{step_bytes / seconds / GPUS / 1e9:.2f} GB/s a GPU"
    )
    return step_bytes / seconds / GPUS, seconds, words


def wide_latents(stores: DemoStores, out: Folder) -> str:
    """A latent store of the trajectory store's stays with random vectors as wide as Qwen3-8B's; returns its address."""
    generator = np.random.default_rng(0)
    writer, stays = LatentWriter("random", "bfloat16"), stores.reader.stays
    shards = np.asarray(stays["shard"].to_pylist())

    def of_shard(shard: str) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
        for i in np.flatnonzero(shards == shard):
            rows = generator.standard_normal((2 * stays["num_hours"][int(i)].as_py() + 1, WIDE), dtype=np.float32)
            half = len(rows) // 2
            yield stays["stay_id"][int(i)].as_py(), rows[0], rows[1 : 1 + half], rows[1 + half :]

    for number, shard in enumerate(sorted(set(shards.tolist()))):
        writer.write_part(out, f"part-{number}", of_shard(shard))
    finish_latents(out)
    return out.address


def copied(folder: str, target: Folder) -> str:
    """The files of a local folder, in `target`; returns its address."""
    target.upload(folder)
    return target.address


def delivery(feed: Callable[[Sequence[Any]], Iterator[pa.Buffer]], job: PhaseJob, num_steps: int) -> tuple[float, float]:
    """(bytes/s, micro-batches/s) of the first of eight workers, from its fourth micro-batch on, unpacked as the loop does."""
    arrivals = feed(list(assignments(job, 0, GPUS, 0, num_steps)))
    for _ in range(3):
        unpacked(next(arrivals), torch.device("cpu"))
    began, size, count = time.perf_counter(), 0, 0
    for payload in arrivals:
        unpacked(payload, torch.device("cpu"))
        size, count = size + len(payload), count + 1
    seconds = time.perf_counter() - began
    return size / seconds, count / seconds


def start_s3(folder: Path) -> S3Server:
    """A server of our own; this process's environment then says how to reach it."""
    folder.mkdir()
    server = S3Server(folder)
    server.start()
    os.environ.update(server.environment)
    return server


def make_bucket(name: str) -> Folder:
    import s3fs

    for _ in range(40):
        try:
            s3fs.S3FileSystem(skip_instance_cache=True).mkdir(name)
            return Folder(f"s3://{name}")
        except OSError:
            time.sleep(0.5)
    raise RuntimeError("the S3 server made no bucket")


def main() -> None:
    options = arguments(__doc__ or "", data=None, dataset="cinc2012", seconds=30.0, rounds=3, steps=28)
    warnings.simplefilter("ignore", UserWarning)
    overrides = {"source.max_stays": 640}
    seconds, rounds, wide_steps, patients = options.seconds, options.rounds, options.steps, 600
    if options.quick:
        seconds, rounds, wide_steps, patients, overrides = 0.0, 1, 6, 120, {"source.simulator.num_patients": 20}
    with tempfile.TemporaryDirectory(prefix="clj-") as scratch:
        root = Path(scratch)
        server = start_s3(root / "s3")
        try:
            bucket = make_bucket("feed")
            stores = DemoStores(root / "stores", demo_config("simulator" if options.quick else options.dataset, options.data, overrides))
            waiting = _waiting(stores, bucket, root, seconds, rounds, ["warmup"] if options.quick else ["joint", "warmup"])
            settings = {"source.simulator.num_patients": patients, "source.simulator.measurement_density": 0.2}
            wide = DemoStores(root / "wide", demo_config("simulator", None, settings))
            delivered = _delivered(wide, bucket, root, wide_steps, rounds)
            details = stores.describe() | {
                "workers": NUM_WORKERS,
                "trainings": waiting,
                "wide": wide.describe() | {"most_steps": wide_steps},
            }
        finally:
            server.stop()
    per_gpu, step_seconds, words = eaten_per_second(float(known_gpus()["H100"]["fp32_tflops"]))
    print(words)
    measured = {f"{name}_waiting": statistics.median(each["waiting_share"] for each in found) for name, found in waiting.items()}
    measured |= {f"wide_{name}_bytes_per_second": rate for name, (rate, _) in delivered.items()}
    measured |= {f"wide_{place}_over_h100": delivered[f"{place}_ray"][0] / per_gpu for place in ("local", "s3")}
    goal = {name: "<= 0.02" for name in measured if name.endswith("_waiting")} | {
        "wide_local_over_h100": ">= 1",
        "wide_s3_over_h100": ">= 1",
    }
    unit = {name: "share of step time" if name.endswith("_waiting") else "B/s" for name in measured}
    unit |= {name: "one reader's supply over one GPU's need" for name in measured if name.endswith("_over_h100")}
    details |= {"eaten": words, "eaten_bytes_per_second_per_gpu": per_gpu, "assumed_step_seconds": step_seconds}
    details |= {"micro_batches_per_second": {name: rate for name, (_, rate) in delivered.items()}}
    publish(Report("feed", measured, goal, unit, details), options.quick)


def _waiting(
    stores: DemoStores, bucket: Folder, root: Path, seconds: float, rounds: int, phases: list[str]
) -> dict[str, list[dict[str, Any]]]:
    """By phase and place, every round of a training: what it says of its steps."""
    places = {
        "local": (stores.trajectories, stores.latents),
        "s3": (copied(stores.trajectories, bucket / "trajectories"), copied(stores.latents, bucket / "latents")),
    }
    found: dict[str, list[dict[str, Any]]] = {}
    for phase in phases:
        jobs = {}
        for place, (trajectories, latents) in places.items():
            job = stores.job(phase, root, PROBE_STEPS, latents=latents if phase == "warmup" else None)
            jobs[place] = replace(job, trajectories=trajectories)
        probe = on_ray(jobs["local"], root / f"{phase}-probe")
        num_steps = steps_for(seconds, 1 / probe.steps_per_second)
        for number in range(rounds):
            for place in jobs if number % 2 == 0 else reversed(jobs):
                job = replace(jobs[place], num_steps=num_steps, total_steps=num_steps)
                trained: Trained = on_ray(job, root / f"{phase}-{place}-{number}")
                row = {name: value for name, value in asdict(trained).items() if name != "losses"}
                found.setdefault(f"{phase}_{place}", []).append(row)
    return found


def _delivered(wide: DemoStores, bucket: Folder, root: Path, num_steps: int, rounds: int) -> dict[str, tuple[float, float]]:
    """By place and feed: (bytes/s, micro-batches/s), medians, of a new reader that feeds one of eight workers; no window comes twice."""
    local = wide_latents(wide, Folder(root / "wide-latents"))
    places = {
        "local": (wide.trajectories, local),
        "s3": (copied(wide.trajectories, bucket / "wide-trajectories"), copied(local, bucket / "wide-latents")),
    }
    training = sum(split == "train" for split in wide.reader.windows["split"].to_pylist())
    num_steps = min(num_steps, training // GLOBAL_BATCH)
    batches = {"global_batch": GLOBAL_BATCH, "micro_batch": GLOBAL_BATCH // GPUS}
    found: dict[str, list[tuple[float, float]]] = {}
    with ray_session(demo_config("simulator", None, {"storage": str(root / "session"), "execution.object_store_mb": 1000})):
        for number in range(rounds):
            for place in places if number % 2 == 0 else reversed(places):
                trajectories, latents = places[place]
                job = replace(wide.job("warmup", root, num_steps, latents=latents, **batches), trajectories=trajectories)
                for name, feed in (("ray", ray_data_feed(job)), ("plain", plain_feed(job))):
                    found.setdefault(f"{place}_{name}", []).append(delivery(feed, job, num_steps))
    return {name: tuple(statistics.median(column) for column in zip(*rates, strict=True)) for name, rates in found.items()}


if __name__ == "__main__":
    main()
