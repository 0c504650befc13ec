"""Probes on frozen features: logistic regression and the method's small MLP.

Both see standardised features (statistics of the training rows only), are fitted on train and chosen by log-loss on
tuning. Log-loss is defined even where tuning has one class only. Settings: Clin-JEPA (arXiv 2605.10840), downstream probe.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import nn

from clinjepa.config.schema import ProbeConfig
from clinjepa.evaluation.metrics import finite_scores

REGULARISATION = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Inverse strengths C that tuning chooses from for the linear probe."""


@dataclass
class Rows:
    """Features, labels and patients of the rows of one split: x_NF float32, y_N in {0, 1}, subject_N."""

    x_NF: np.ndarray
    y_N: np.ndarray
    subject_N: np.ndarray


@dataclass
class Standardiser:
    """Zero mean and unit variance by the training rows; a constant column becomes zero; values are cut at ±10 sd."""

    mean_F: np.ndarray
    scale_F: np.ndarray

    @classmethod
    def fit(cls, x_NF: np.ndarray) -> Standardiser:
        std_F = x_NF.std(0, dtype=np.float64)
        mean_F = x_NF.mean(0, dtype=np.float64)
        constant_F = std_F <= 1e-6 * np.maximum(np.abs(mean_F), 1e-6)
        scale_F = np.where(constant_F, 0.0, 1.0 / np.where(constant_F, 1.0, std_F))
        return cls(mean_F.astype(np.float32), scale_F.astype(np.float32))

    def __call__(self, x_NF: np.ndarray) -> np.ndarray:
        return np.asarray(np.clip((x_NF - self.mean_F) * self.scale_F, -10, 10).astype(np.float32))


def probe_scores(kind: str, train: Rows, tuning: Rows, scored_NF: np.ndarray, config: ProbeConfig, seed: int) -> np.ndarray:
    """Fit the `linear` or `mlp` probe and return the log-odds of the rows in `scored_NF` [N].

    Raises:
        ValueError: Train holds one class only or tuning is empty: the caller reports a null instead.
        EvaluationError: A feature or a score is NaN or infinite.
    """
    if len(np.unique(train.y_N)) < 2 or len(tuning.y_N) == 0:
        raise ValueError("a probe needs both classes in train and rows in tuning")
    for x_NF in (train.x_NF, tuning.x_NF, scored_NF):
        finite_scores(x_NF, "a feature of the probe")
    standardise = Standardiser.fit(train.x_NF)
    fit = {"linear": _linear, "mlp": _mlp}[kind]
    scores_N = fit(standardise(train.x_NF), train.y_N, standardise(tuning.x_NF), tuning.y_N, standardise(scored_NF), config, seed)
    return finite_scores(scores_N, f"a score of the {kind} probe")


def log_loss(y_N: np.ndarray, log_odds_N: np.ndarray) -> float:
    """Mean negative log-likelihood in nats."""
    with np.errstate(invalid="ignore"):  # NaN of a diverged model is never the best loss
        return float(np.mean(np.logaddexp(0.0, log_odds_N) - y_N * log_odds_N))


def _linear(
    x_NF: np.ndarray, y_N: np.ndarray, tuning_NF: np.ndarray, tuning_y_N: np.ndarray, scored_NF: np.ndarray, config: ProbeConfig, seed: int
) -> np.ndarray:
    best_loss, best_N = np.inf, np.full(len(scored_NF), np.nan)
    for strength in REGULARISATION:
        model = LogisticRegression(C=strength, max_iter=200, tol=1e-3, random_state=seed)
        with warnings.catch_warnings():
            # Weakly regularised fits may stop at max_iter; tuning then compares the unconverged fits.
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(x_NF, y_N)
        loss = log_loss(tuning_y_N, model.decision_function(tuning_NF))
        if loss < best_loss:
            best_loss, best_N = loss, model.decision_function(scored_NF)
    return best_N


def _mlp(
    x_NF: np.ndarray, y_N: np.ndarray, tuning_NF: np.ndarray, tuning_y_N: np.ndarray, scored_NF: np.ndarray, config: ProbeConfig, seed: int
) -> np.ndarray:
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Linear(x_NF.shape[1], config.hidden_size), nn.ReLU(), nn.Dropout(config.dropout), nn.Linear(config.hidden_size, 1)
        )
        optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
        inputs_NF, labels_N = torch.from_numpy(x_NF), torch.from_numpy(y_N.astype(np.float32))
        tuning_inputs_NF, scored_inputs_NF = torch.from_numpy(tuning_NF), torch.from_numpy(scored_NF)
        best_loss, best_N, waited = np.inf, np.full(len(scored_NF), np.nan), 0
        for _ in range(config.max_epochs):
            model.train()
            order_N = torch.randperm(len(inputs_NF), generator=generator)
            for begin in range(0, len(order_N), config.batch_size):
                batch = order_N[begin : begin + config.batch_size]
                optimizer.zero_grad()
                train_loss = nn.functional.binary_cross_entropy_with_logits(model(inputs_NF[batch]).squeeze(1), labels_N[batch])
                torch.autograd.backward(train_loss)
                optimizer.step()
            model.eval()
            with torch.no_grad():
                loss = log_loss(tuning_y_N, model(tuning_inputs_NF).squeeze(1).numpy())
                if loss < best_loss:
                    best_loss, best_N, waited = loss, model(scored_inputs_NF).squeeze(1).numpy().astype(np.float64), 0
                    continue
            waited += 1
            if waited > config.patience:
                break
    return best_N
