"""Fits of baselines in several processes, each kept in a folder: a killed benchmark repeats no finished fit."""

from __future__ import annotations

import hashlib
import json
import math
import multiprocessing
import os
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
_inputs: Inputs | None = None
"""Of this process: what all its fits read; set when the process starts."""


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
        self._inputs: Inputs | None = None
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> FitPool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

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
            pool = self._pool_with(problem.inputs)
            for future in as_completed([pool.submit(_fit, each) for each in missing]):
                print(future.result(), flush=True)
        return paths

    def _pool_with(self, inputs: Inputs) -> ProcessPoolExecutor:
        """Processes that have got these inputs: one pickle a process, not one a fit."""
        if self._pool is None or self._inputs is not inputs:
            if self._pool is not None:
                self._pool.shutdown()
            self._pool = ProcessPoolExecutor(self.workers, multiprocessing.get_context("spawn"), _start, (inputs,))
            self._inputs = inputs
        return self._pool

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


def _start(inputs: Inputs) -> None:
    """Runs once in a worker."""
    global _inputs
    import torch

    torch.set_num_threads(1)
    _inputs = inputs


def _fit(fit: _Fit) -> str:
    """Run one fit in a worker and write its file; returns a line for the log."""
    assert _inputs is not None
    problem = Problem(fit.tasks, _inputs)
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
