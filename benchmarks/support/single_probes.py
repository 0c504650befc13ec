"""Probes of one task at a time, as a plain program fits them: scikit-learn once per strength, and an MLP differentiated by torch."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import nn

from clinjepa.config.schema import ProbeConfig
from clinjepa.evaluation.downstream.probe_rows import ProbeTask, Standardiser
from clinjepa.evaluation.downstream.probes import REGULARISATION
from clinjepa.evaluation.metrics import log_loss


def single_linear(x_NF: np.ndarray, task: ProbeTask, max_iter: int = 200, tol: float = 1e-3) -> np.ndarray:
    """Log-odds of the scored rows of one task, with the strength that tuning chooses."""
    standardise = Standardiser.fit(x_NF[task.train_N])
    train_NF, tuning_NF, scored_NF = (standardise(x_NF[rows_N]) for rows_N in (task.train_N, task.tuning_N, task.scored_N))
    best_loss, best_N = np.inf, np.full(len(scored_NF), np.nan)
    for strength in REGULARISATION:
        model = LogisticRegression(C=strength, max_iter=max_iter, tol=tol)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # tuning compares unconverged fits too
            model.fit(train_NF, task.train_y_N)
        loss = log_loss(task.tuning_y_N, model.decision_function(tuning_NF))
        if loss < best_loss:
            best_loss, best_N = loss, model.decision_function(scored_NF)
    return best_N


def single_mlp(x_NF: np.ndarray, task: ProbeTask, config: ProbeConfig, seed: int) -> np.ndarray:
    """Log-odds of the scored rows of one task from the epoch that tuning chooses."""
    standardise = Standardiser.fit(x_NF[task.train_N])
    train_NF, tuning_NF, scored_NF = (
        torch.from_numpy(standardise(x_NF[rows_N])) for rows_N in (task.train_N, task.tuning_N, task.scored_N)
    )
    label_N, generator = torch.from_numpy(task.train_y_N.astype(np.float32)), torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Linear(x_NF.shape[1], config.hidden_size), nn.ReLU(), nn.Dropout(config.dropout), nn.Linear(config.hidden_size, 1)
        )
        optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
        best_loss, best_N, waited = np.inf, np.full(len(scored_NF), np.nan), 0
        for _ in range(config.max_epochs):
            model.train()
            for batch in torch.randperm(len(train_NF), generator=generator).split(config.batch_size):
                optimizer.zero_grad()
                loss = nn.functional.binary_cross_entropy_with_logits(model(train_NF[batch]).squeeze(1), label_N[batch])
                torch.autograd.backward(loss)
                optimizer.step()
            model.eval()
            with torch.no_grad():
                tuning_loss = log_loss(task.tuning_y_N, model(tuning_NF).squeeze(1).numpy())
                if tuning_loss < best_loss:
                    best_loss, best_N, waited = tuning_loss, model(scored_NF).squeeze(1).numpy().astype(np.float64), 0
                    continue
            waited += 1
            if waited > config.patience:
                break
    return best_N
