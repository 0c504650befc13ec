"""The method's small MLP as probe: one hidden layer with ReLU and dropout, the MLPs of several tasks trained in step.

Each task has its own weights, batches, optimizer and early stopping. The early stopping reads the loss of the task's tuning points:
log-loss of 0/1 labels, squared error of numbers. One dropout mask, drawn from (seed, epoch, batch), serves all tasks; drawing another for
each task would take longer than a matrix product. The gradients are written out in this module. The scored points are never read.
Settings: Clin-JEPA (arXiv 2605.10840), downstream probe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from clinjepa.config.schema import ProbeConfig
from clinjepa.evaluation.downstream.fitted_probe import ROWS_AT_ONCE, MlpWeights, mlp_outputs
from clinjepa.evaluation.downstream.probe_rows import ProbeTask, Standardiser
from clinjepa.evaluation.metrics import log_loss, squared_error

_CELLS = 64_000_000
"""Standardised features in memory at once, of all tasks that are trained together (256 MB)."""


@dataclass(frozen=True)
class Loss:
    """What an MLP minimises: a mean over rows."""

    slope: Callable[[Tensor, Tensor], Tensor]
    """(outputs [B], labels [B]) -> derivative of each row's loss by its output [B]."""
    mean: Callable[[np.ndarray, np.ndarray], float]
    """(labels [N], outputs [N]) -> the mean, which stops the training."""


LOG_LOSS = Loss(lambda output_B, y_B: torch.sigmoid(output_B).sub_(y_B), log_loss)
"""Of labels 0 or 1; the output is the log-odds."""
SQUARED_ERROR = Loss(lambda output_B, y_B: output_B.sub(y_B).mul_(2), squared_error)
"""Of numbers; the output is the number."""


@dataclass(frozen=True)
class _Start:
    """How every task's training begins: first weights of both layers, settings, seed of the batches, loss."""

    first: Sequence[Tensor]
    config: ProbeConfig
    seed: int
    loss: Loss


def fit_mlps(
    x_NF: np.ndarray,
    tasks: Sequence[ProbeTask],
    standards: Sequence[Standardiser],
    config: ProbeConfig,
    seed: int,
    loss: Loss = LOG_LOSS,
) -> list[MlpWeights | None]:
    """The MLP of every task, with log-odds or numbers as its output; None where no epoch had a finite loss.

    Args:
        x_NF: Finite features of all points, float32.
        tasks: Rows of train and tuning, and their labels, of each task.
        standards: Standardisation of each task.
        config: Size and training of the MLPs.
        seed: Of first weights, batches and dropout; every task uses the same.
        loss: What is minimised. Labels of SQUARED_ERROR should be standardised.
    """
    found: list[MlpWeights | None] = []
    start = _Start(_first_weights(x_NF.shape[1], config.hidden_size, seed), config, seed, loss)
    with torch.no_grad():
        for group in _groups(tasks, x_NF.shape[1]):
            members = [_Training(x_NF, tasks[place], standards[place], start) for place in group]
            _train_in_step(members, start)
            found += [member.fitted() for member in members]
    return found


def _groups(tasks: Sequence[ProbeTask], num_features: int) -> Iterator[range]:
    """Consecutive tasks whose features fit the memory together; at least one."""
    begin = cells = 0
    for place, task in enumerate(tasks):
        own = (len(task.train_N) + len(task.tuning_N)) * num_features
        if place > begin and cells + own > _CELLS:
            yield range(begin, place)
            begin, cells = place, 0
        cells += own
    yield range(begin, len(tasks))


def _first_weights(num_features: int, hidden_size: int, seed: int) -> list[Tensor]:
    """torch's initial weights of both layers: hidden [H, F] and its bias [H], output [H] and its bias [1]."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        hidden, output = nn.Linear(num_features, hidden_size), nn.Linear(hidden_size, 1)
    return [hidden.weight.detach(), hidden.bias.detach(), output.weight[0].detach(), output.bias.detach()]


def _train_in_step(members: Sequence[_Training], start: _Start) -> None:
    """Train every member until its tuning loss stops to improve; an epoch of one is an epoch of all that still train."""
    config = start.config
    buffer_BH = torch.empty(max(config.batch_size, ROWS_AT_ONCE), config.hidden_size)
    for epoch in range(config.max_epochs):
        active = [member for member in members if member.waited <= config.patience]
        batches = [member.batches() for member in active]
        for number in range(max(map(len, batches), default=0)):
            now = [(member, own[number]) for member, own in zip(active, batches, strict=True) if number < len(own)]
            kept_BH = _dropout(max(len(batch) for _, batch in now), config, (start.seed, epoch, number))
            for member, batch in now:
                member.step(batch, kept_BH[: len(batch)], buffer_BH[: len(batch)])
        for member in active:
            member.end_epoch(buffer_BH)


def _dropout(num_rows: int, config: ProbeConfig, seeds: tuple[int, int, int]) -> Tensor:
    """Factors [B, H], 0 or 1 / (1 − p). The first rows are the same for every number of rows."""
    drawn_BH = np.random.default_rng([0xD20, *seeds]).random((num_rows, config.hidden_size), dtype=np.float32)
    return torch.from_numpy(drawn_BH >= config.dropout).float().div_(1 - config.dropout)


class _Training:
    """One task's MLP while it is trained."""

    def __init__(self, x_NF: np.ndarray, task: ProbeTask, standardise: Standardiser, start: _Start) -> None:
        config = start.config
        self.x_NF, self.y_N = torch.from_numpy(standardise(x_NF[task.train_N])), torch.from_numpy(task.train_y_N.astype(np.float32))
        self.tuning_NF, self.tuning_y_N = torch.from_numpy(standardise(x_NF[task.tuning_N])), task.tuning_y_N
        self.loss = start.loss
        self.weights = [weight.clone() for weight in start.first]
        self.best: list[Tensor] | None = None
        self.best_loss, self.waited = np.inf, 0
        self.batch_size, self.keep = config.batch_size, 1 - config.dropout
        self.generator = torch.Generator().manual_seed(start.seed)
        self.optimizer = torch.optim.AdamW(self.weights, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)

    def batches(self) -> tuple[Tensor, ...]:
        """The rows of the next epoch's batches."""
        order_N = torch.randperm(len(self.x_NF), generator=self.generator)
        return tuple(order_N[begin : begin + self.batch_size] for begin in range(0, len(order_N), self.batch_size))

    def step(self, batch_B: Tensor, kept_BH: Tensor, hidden_BH: Tensor) -> None:
        """One optimizer step on the mean loss of a batch. hidden_BH: memory for the hidden layer."""
        x_BF = self.x_NF[batch_B]
        hidden_HF, bias_H, output_H, bias_1 = self.weights
        torch.addmm(bias_H, x_BF, hidden_HF.T, out=hidden_BH).relu_().mul_(kept_BH)
        error_B = self.loss.slope(hidden_BH @ output_H + bias_1, self.y_N[batch_B]).div_(len(batch_B))
        output_H.grad, bias_1.grad = error_B @ hidden_BH, error_B.sum()[None]
        # The gradient of the hidden layer is error · output / keep where a unit is on, and 0 where it is off or dropped.
        on_BH, factor_H = hidden_BH.sign_(), output_H / self.keep
        bias_H.grad = (error_B @ on_BH).mul_(factor_H)
        hidden_HF.grad = (on_BH.mul_(error_B[:, None]).T @ x_BF).mul_(factor_H[:, None])
        self.optimizer.step()

    def end_epoch(self, buffer_BH: Tensor) -> None:
        """Keep the weights if they are the best on the tuning rows, else count the epoch as waited."""
        loss = self.loss.mean(self.tuning_y_N, mlp_outputs(self.tuning_NF, self.weights, buffer_BH))
        if loss < self.best_loss:
            self.best_loss, self.waited, self.best = loss, 0, [weight.clone() for weight in self.weights]
        else:
            self.waited += 1

    def fitted(self) -> MlpWeights | None:
        """The best weights; None where no epoch had a finite loss."""
        return None if self.best is None else MlpWeights(*self.best)
