"""Fits of baselines in several processes, each kept in a folder: a killed benchmark repeats no finished fit."""

from __future__ import annotations

import hashlib
import json
import math
import multiprocessing
import os
import pickle
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from clinjepa.evaluation.baselines.protocol import Inputs, Predictions, Problem, TaskPoints
from clinjepa.evaluation.baselines.registry import load_baseline
from clinjepa.evaluation.baselines.tuning import Outcome, Trial, tuning_loss

_TUNING = ("tuning",)
_known: dict[str, Inputs] = {}
"""Of this process: file -> inputs."""


class _Fit(NamedTuple):
    """A fit, and the file that keeps it."""

    tasks: tuple[TaskPoints, ...]
    trial: Trial
    splits: tuple[str, ...]
    seed: int
    out: str


class FitPool:
    """A `Runner` of `score_baselines` with some processes of one thread each."""

    def __init__(self, folder: Path, workers: int, label: str) -> None:
        """label: goes into the names of the files, so that cases of other data share none."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ[name] = "1"  # before a worker loads the libraries that read it
        self.folder, self.label, self.workers = folder, label, workers
        self.used: list[tuple[str, Path]] = []
        self._inputs: tuple[Inputs, Path] | None = None
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> FitPool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        if self._inputs is not None:
            self._inputs[1].unlink()

    def trials(self, problem: Problem, trials: Sequence[Trial], max_seconds: float | None, seed: int) -> Iterator[Outcome]:
        """The outcomes of all trials; the benchmark has no limit of time."""
        for trial, path in zip(trials, self._finished(problem, trials, _TUNING, seed), strict=True):
            with np.load(path) as kept:
                yield Outcome(trial.number, float(kept["loss"]), float(kept["seconds"]))

    def fits(self, problem: Problem, trials: Sequence[Trial], splits: Sequence[str], seed: int) -> list[Predictions]:
        """The predictions of every trial."""
        found = []
        for path in self._finished(problem, trials, tuple(splits), seed):
            with np.load(path) as kept:
                found.append({one.task.name: {split: kept[f"{one.task.name}|{split}"] for split in splits} for one in problem.tasks})
        return found

    def record(self, own_seconds: float) -> dict[str, Any]:
        """CPU seconds of the fits that this benchmark used, in whichever session they ran, and of the rest (`own_seconds`)."""
        by_name: dict[str, dict[str, float]] = {}
        for name, path in self.used:
            with np.load(path) as kept:
                one = by_name.setdefault(name, {"num_fits": 0, "cpu_seconds": 0.0})
                one["num_fits"] += 1
                one["cpu_seconds"] += float(kept["cpu_seconds"])
        total = own_seconds + sum(one["cpu_seconds"] for one in by_name.values())
        return {"cpu_seconds": total, "features_cpu_seconds": own_seconds, "by_baseline": by_name}

    def _finished(self, problem: Problem, trials: Sequence[Trial], splits: tuple[str, ...], seed: int) -> list[Path]:
        """The file of every fit, after those that were missing have run."""
        paths = [self._path(problem, trial, splits, seed) for trial in trials]
        self.used += [(trial.baseline, path) for trial, path in zip(trials, paths, strict=True)]
        missing = [
            _Fit(problem.tasks, trial, splits, seed, str(path)) for trial, path in zip(trials, paths, strict=True) if not path.exists()
        ]
        if missing:
            inputs = str(self._inputs_file(problem.inputs))
            if self._pool is None:
                self._pool = ProcessPoolExecutor(self.workers, multiprocessing.get_context("spawn"))
            for future in as_completed([self._pool.submit(_fit, inputs, each) for each in missing]):
                print(future.result(), flush=True)
        return paths

    def _inputs_file(self, inputs: Inputs) -> Path:
        if self._inputs is None or self._inputs[0] is not inputs:
            path = self.folder / f"inputs-{os.getpid()}-{id(inputs)}.pkl"
            path.write_bytes(pickle.dumps(inputs, protocol=5))
            self._inputs = (inputs, path)
        return self._inputs[1]

    def _path(self, problem: Problem, trial: Trial, splits: tuple[str, ...], seed: int) -> Path:
        sha = hashlib.sha256(json.dumps([self.label, trial.baseline, trial.settings, splits, seed]).encode())
        for one in problem.tasks:
            sha.update(one.task.name.encode())
            for values in (
                one.points.stay_N,
                one.points.hour_N,
                np.nan_to_num(one.points.label_N, nan=-1.0),
                one.points.split_N.astype(str),
            ):
                sha.update(np.ascontiguousarray(values).tobytes())
        return self.folder / f"{trial.baseline}-{sha.hexdigest()[:20]}.npz"


def _fit(inputs_file: str, fit: _Fit) -> str:
    """Run one fit in a worker and write its file; returns a line for the log."""
    import torch

    torch.set_num_threads(1)
    if inputs_file not in _known:
        _known.clear()
        _known[inputs_file] = pickle.loads(Path(inputs_file).read_bytes())
    problem = Problem(fit.tasks, _known[inputs_file])
    wall, cpu = time.perf_counter(), time.process_time()
    predictions = load_baseline(fit.trial.baseline).fit(problem, fit.trial.settings, fit.splits, fit.seed)
    cost = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    loss = tuning_loss(problem, predictions) if "tuning" in fit.splits else math.nan
    arrays = {f"{task}|{split}": scores_N for task, by_split in predictions.items() for split, scores_N in by_split.items()}
    partial = Path(fit.out).with_suffix(f".{os.getpid()}.npz")
    np.savez(partial, loss=loss, **cost, **arrays)
    partial.replace(fit.out)
    tasks = fit.tasks[0].task.name if len(fit.tasks) == 1 else f"{len(fit.tasks)} tasks"
    return f"{fit.trial.baseline}, {tasks}, trial {fit.trial.number}: loss {loss:.4f}, {cost['cpu_seconds']:.0f} CPU s"
