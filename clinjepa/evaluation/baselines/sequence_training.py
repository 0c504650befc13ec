"""Training of models that read a stay hour by hour and predict all tasks of it at once.

A network turns the hours of a stay into one vector per hour, from this hour and earlier ones only; a linear layer gives one output a task.
Every task weighs the same: the mean over its labelled points. Each task keeps the epoch with its lowest tuning loss.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clinjepa.evaluation.baselines.hour_sequences import HourSequences
from clinjepa.evaluation.baselines.protocol import Choice, LogUniform, Predictions, Problem, Settings, Space, Uniform

DEFAULTS: Settings = {
    "hidden_size": 64,
    "num_layers": 1,
    "dropout": 0.2,
    "learning_rate": 1e-3,
    "weight_decay": 1e-2,
    "batch_hours": 3072,
    "max_epochs": 30,
    "patience": 3,
}
"""Settings that all sequence models have. `batch_hours`: hours of a batch, padding included."""

SPACE: Space = {
    "hidden_size": Choice((32, 64, 128)),
    "num_layers": Choice((1, 2)),
    "dropout": Uniform(0.0, 0.5),
    "learning_rate": LogUniform(5e-4, 5e-3),
    "weight_decay": LogUniform(1e-4, 1.0),
}
"""Where trials of all sequence models are drawn from."""


class Hours(NamedTuple):
    """A padded batch of B stays of T hours: value_BTV, seen_BTV (0 or 1), since_BTV, other_BTO; see `HourSequences`."""

    value_BTV: Tensor
    seen_BTV: Tensor
    since_BTV: Tensor
    other_BTO: Tensor

    def joined(self) -> Tensor:
        """All of them as one input per hour [B, T, 3 V + O]."""
        return torch.cat(self, dim=-1)


class Sizes(NamedTuple):
    """Number of variables V and of other inputs O of an hour."""

    num_variables: int
    num_others: int

    @property
    def num_inputs(self) -> int:
        """Width of `Hours.joined`."""
        return 3 * self.num_variables + self.num_others


class MakeNetwork(Protocol):
    """Makes a causal network `Hours -> [B, T, hidden_size]`."""

    def __call__(self, sizes: Sizes, settings: Settings) -> nn.Module: ...


@dataclass(frozen=True)
class _Stays:
    """Stays of one split with the labels of their hours. label_RK: NaN where a task has none; end_S: row after the last labelled hour."""

    first_S: np.ndarray
    end_S: np.ndarray
    label_RK: np.ndarray
    """Over all rows of the sequences."""

    @classmethod
    def of(cls, problem: Problem, split: str) -> _Stays:
        hours = problem.sequences()
        label_RK = np.full((len(hours.value_RV), len(problem.tasks)), np.nan, dtype=np.float32)
        used = []
        for place, one in enumerate(problem.tasks):
            own = one.points.of(split)
            rows_N = hours.rows(own.stay_N, own.hour_N)
            label_RK[rows_N, place] = own.label_N
            used.append(np.stack([own.stay_N, rows_N], axis=1))
        pairs = np.concatenate(used)
        stays, index = np.unique(pairs[:, 0], return_inverse=True)
        end_S = np.zeros(len(stays), dtype=np.int64)
        np.maximum.at(end_S, index, pairs[:, 1] + 1)
        return cls(np.array([hours.first_row[int(stay)] for stay in stays], dtype=np.int64), end_S, label_RK)

    def batches(self, batch_hours: int, rng: np.random.Generator | None) -> Iterator[np.ndarray]:
        """Stays by batch: of similar length, in random order with `rng`."""
        length_S = self.end_S - self.first_S
        order = np.argsort(length_S, kind="stable") if rng is None else np.lexsort((rng.random(len(length_S)), length_S // 8))
        found, begin = [], 0
        while begin < len(order):
            end = begin + 1
            longest = length_S[order[begin]]
            while end < len(order) and max(longest, length_S[order[end]]) * (end + 1 - begin) <= batch_hours:
                longest = max(longest, length_S[order[end]])
                end += 1
            found.append(order[begin:end])
            begin = end
        yield from (found[place] for place in (rng.permutation(len(found)) if rng is not None else range(len(found))))


class _Model(nn.Module):
    def __init__(self, network: nn.Module, hidden_size: int, num_tasks: int, dropout: float) -> None:
        super().__init__()
        self.network, self.dropout, self.heads = network, nn.Dropout(dropout), nn.Linear(hidden_size, num_tasks)

    def forward(self, hours: Hours) -> Tensor:
        out: Tensor = self.heads(self.dropout(self.network(hours)))
        return out


def train_sequences(make: MakeNetwork, problem: Problem, settings: Settings, splits: Sequence[str], seed: int) -> Predictions:
    """Predictions of a network trained on all tasks of a problem. Deterministic for a seed and one thread.

    Args:
        make: Makes the network.
        problem: The tasks; its inputs have sequences.
        settings: DEFAULTS and what the network reads.
        splits: Splits to predict.
        seed: Seed of weights, order and dropout.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        training = _Training(make, problem, settings)
        training.run(np.random.default_rng([seed, 0x5E0]))
        return training.predictions(splits)


class _Training:
    """One training: the model, its data, and the best weights of each task."""

    def __init__(self, make: MakeNetwork, problem: Problem, settings: Settings) -> None:
        self.problem, self.settings = problem, settings
        self.hours = problem.sequences()
        sizes = Sizes(self.hours.value_RV.shape[1], self.hours.other_RO.shape[1])
        num_tasks = len(problem.tasks)
        self.model = _Model(make(sizes, settings), int(settings["hidden_size"]), num_tasks, float(settings["dropout"]))
        self.binary_K = np.array([one.task.is_classification for one in problem.tasks])
        self.train, self.tuning = _Stays.of(problem, "train"), _Stays.of(problem, "tuning")
        self.shift_K, self.scale_K = self._scales()
        self.best_K = np.full(num_tasks, np.inf)
        self.best_weights: list[dict[str, Tensor]] = [{} for _ in problem.tasks]

    def _scales(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and sd of the training labels of regression tasks; 0 and 1 of the others."""
        shift_K, scale_K = np.zeros(len(self.binary_K)), np.ones(len(self.binary_K))
        for place in np.flatnonzero(~self.binary_K):
            own = self.train.label_RK[:, place]
            shift_K[place], scale_K[place] = np.nanmean(own), max(float(np.nanstd(own)), 1e-6)
        return shift_K.astype(np.float32), scale_K.astype(np.float32)

    def run(self, rng: np.random.Generator) -> None:
        """Epochs until no task has improved for `patience` of them."""
        optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=float(self.settings["learning_rate"]), weight_decay=float(self.settings["weight_decay"])
        )
        count_K = torch.from_numpy((~np.isnan(self.train.label_RK)).sum(0).astype(np.float32)).clamp(min=1)
        waited = 0
        for _ in range(int(self.settings["max_epochs"])):
            self.model.train()
            batches = list(self.train.batches(int(self.settings["batch_hours"]), rng))
            for batch in batches:
                optimizer.zero_grad()
                loss = (self._losses(self.train, batch) / count_K).mean() * len(batches)
                loss.backward()
                nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
                optimizer.step()
            waited = 0 if self._keep_best() else waited + 1
            if waited > int(self.settings["patience"]):
                break

    def _keep_best(self) -> bool:
        """Keep the weights for the tasks whose tuning loss is the lowest so far."""
        self.model.eval()
        with torch.no_grad():
            batches = self.tuning.batches(int(self.settings["batch_hours"]), None)
            total_K = torch.stack([self._losses(self.tuning, batch) for batch in batches]).sum(0)
        loss_K = total_K.numpy() / np.maximum((~np.isnan(self.tuning.label_RK)).sum(0), 1)
        better = np.flatnonzero(loss_K < self.best_K)
        if len(better):
            weights = copy.deepcopy(self.model.state_dict())
            for place in better:
                self.best_K[place], self.best_weights[place] = loss_K[place], weights
        return bool(len(better))

    def _losses(self, stays: _Stays, batch: np.ndarray) -> Tensor:
        """Sum over the labelled points of a batch of each task's loss [K]: log-loss, or half the squared error in sd of the label."""
        hours, rows_BT = self._padded(stays, batch)
        label_BTK = torch.from_numpy((stays.label_RK[np.maximum(rows_BT, 0)] - self.shift_K) / self.scale_K)
        known_BTK = ~torch.isnan(label_BTK) & torch.from_numpy(rows_BT >= 0).unsqueeze(-1)
        label_BTK = torch.where(known_BTK, label_BTK, 0.0)
        out_BTK = self.model(hours)
        events_BTK = F.binary_cross_entropy_with_logits(out_BTK, label_BTK.clamp(0, 1), reduction="none")
        each_BTK = torch.where(torch.from_numpy(self.binary_K), events_BTK, 0.5 * (out_BTK - label_BTK) ** 2)
        return torch.where(known_BTK, each_BTK, 0.0).sum((0, 1))

    def _padded(self, stays: _Stays, batch: np.ndarray) -> tuple[Hours, np.ndarray]:
        """The hours of some stays, and the row of each; -1 in the padding, whose inputs repeat the stay's first hour."""
        first_B, end_B = stays.first_S[batch], stays.end_S[batch]
        rows_BT = first_B[:, None] + np.arange((end_B - first_B).max())
        inside_BT = rows_BT < end_B[:, None]
        return _hours_at(self.hours, np.where(inside_BT, rows_BT, first_B[:, None])), np.where(inside_BT, rows_BT, -1)

    def predictions(self, splits: Sequence[str]) -> Predictions:
        """Outputs of each task at its points, from the weights of its best epoch."""
        found: Predictions = {one.task.name: {} for one in self.problem.tasks}
        self.model.eval()
        for split in splits:
            stays = _Stays.of(self.problem, split)
            for weights in {id(each): each for each in self.best_weights if each}.values():
                self.model.load_state_dict(weights)
                out_RK = self._outputs(stays)
                for place, one in enumerate(self.problem.tasks):
                    if self.best_weights[place] is weights:
                        own = one.points.of(split)
                        out_N = out_RK[self.hours.rows(own.stay_N, own.hour_N), place].astype(np.float64)
                        found[one.task.name][split] = out_N * self.scale_K[place] + self.shift_K[place]
            for place, one in enumerate(self.problem.tasks):
                if not self.best_weights[place]:
                    found[one.task.name][split] = np.full(len(one.points.of(split)), np.nan)
        return found

    def _outputs(self, stays: _Stays) -> np.ndarray:
        out_RK = np.full(stays.label_RK.shape, np.nan, dtype=np.float32)
        with torch.no_grad():
            for batch in stays.batches(4 * int(self.settings["batch_hours"]), None):
                hours, rows_BT = self._padded(stays, batch)
                out_RK[rows_BT[rows_BT >= 0]] = self.model(hours).numpy()[rows_BT >= 0]
        return out_RK


def _hours_at(hours: HourSequences, rows_BT: np.ndarray) -> Hours:
    parts = (hours.value_RV, hours.seen_RV, hours.since_RV, hours.other_RO)
    return Hours(*(torch.from_numpy(part[rows_BT].astype(np.float32, copy=False)) for part in parts))
