"""L2-penalised logistic regressions of several tasks and strengths as one problem.

Objective of a task and a strength C, as in scikit-learn: Σ log-loss + |w|² / (2C), intercept free. All tasks of a group share the matrix of
their training points; a mask leaves out the points that a task has no label for. A task's own standardisation is a factor and an offset per
feature, so it is applied to the coefficients and not to the matrix; values that it cuts are corrected by a sparse matrix.

Solver: L-BFGS (Nocedal and Wright, Numerical Optimization, 2006, algorithm 7.4), all problems in step but each with its own line search.
It starts from the Hessian at equal probabilities, factorised once per problem; with it some twenty passes over the points suffice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from clinjepa.evaluation.downstream.probe_rows import CUT, ProbeTask, Standardiser

TOLERANCE = 1e-5
"""A fit ends when a Newton step would change the log-odds of its training rows by less than this (root mean square)."""
MAX_STEPS = 200
_TRIES = 20
"""Most step lengths that a line search tries."""
_MEMORY = 10
"""Past steps that L-BFGS uses."""
_CELLS = 4_000_000
"""Points times problems in memory at once, per array of float64 (32 MB)."""
_HESSIAN_ROWS = 8192
"""Training rows of a task behind its starting Hessian; more of them change the number of steps only."""
_DTYPE = torch.float64


def fit_linear(
    x_NF: np.ndarray, tasks: Sequence[ProbeTask], standards: Sequence[Standardiser], strengths: Sequence[float]
) -> list[np.ndarray]:
    """Coefficients [S, F + 1] of every task in its standardised features, one row per strength, the intercept last.

    Args:
        x_NF: Finite features of all points.
        tasks: Training rows and labels of each task, with both classes.
        standards: Standardisation of each task.
        strengths: Inverse strengths C of the penalty.
    """
    found: dict[int, np.ndarray] = {}
    for group in _groups(tasks, len(strengths)):
        problem = _Problem(x_NF, [tasks[place] for place in group], [standards[place] for place in group], strengths)
        found.update(zip(group, _minimise(problem).reshape(len(group), len(strengths), -1).numpy(), strict=True))
    return [found[place] for place in range(len(tasks))]


def _groups(tasks: Sequence[ProbeTask], num_strengths: int) -> Iterator[list[int]]:
    """Places of tasks that are fitted together: each has at least half of the group's points, so that few are masked."""
    group: list[int] = []
    union_N = np.zeros(0, dtype=np.int64)
    for place in sorted(range(len(tasks)), key=lambda place: -len(tasks[place].train_N)):
        rows_N = tasks[place].train_N
        larger_N = np.union1d(union_N, rows_N)
        if group and (len(larger_N) > 2 * len(rows_N) or len(larger_N) * (len(group) + 1) * num_strengths > _CELLS):
            yield group
            group, larger_N = [], np.unique(rows_N)
        group, union_N = [*group, place], larger_N
    if group:
        yield group


class _Problem:
    """J = T · S logistic regressions on the N points of a group. Coefficients θ_JP (P = F + 1, intercept last) belong to each task's
    standardised features; `margins` and `gradient` read the shared matrix x_NF, which is standardised over the group."""

    def __init__(self, x_NF: np.ndarray, tasks: Sequence[ProbeTask], standards: Sequence[Standardiser], strengths: Sequence[float]) -> None:
        rows_N = np.unique(np.concatenate([task.train_N for task in tasks]))
        shared_NF = x_NF[rows_N].astype(np.float64)
        mean_F, std_F = shared_NF.mean(0), shared_NF.std(0)
        std_F = np.where(std_F > 0, std_F, 1.0)
        shared_NF -= mean_F
        shared_NF /= std_F
        self.num_tasks, self.num_strengths = len(tasks), len(strengths)
        self.x_NF = torch.from_numpy(shared_NF).to(_DTYPE)
        scale_TF = np.stack([each.scale_F for each in standards]).astype(np.float64)
        offset_TF = (np.stack([each.mean_F for each in standards]) - mean_F) * scale_TF
        self.scale_JF = self._each_strength(torch.from_numpy(scale_TF * std_F).to(_DTYPE))
        self.offset_JF = self._each_strength(torch.from_numpy(offset_TF).to(_DTYPE))
        penalty_S = 1.0 / torch.tensor(strengths, dtype=_DTYPE)
        penalty_SP = torch.cat([penalty_S[:, None].expand(-1, x_NF.shape[1]), torch.zeros(len(strengths), 1, dtype=_DTYPE)], dim=1)
        self.penalty_JP = penalty_SP.repeat(len(tasks), 1)
        self.own_NT1, self.label_NT1 = (torch.zeros(len(rows_N), len(tasks), 1, dtype=_DTYPE) for _ in range(2))
        self.cut: list[Tensor | None] = []
        for column, (task, standardise) in enumerate(zip(tasks, standards, strict=True)):
            at_n = np.searchsorted(rows_N, task.train_N)
            self.own_NT1[at_n, column] = 1.0
            self.label_NT1[at_n, column, 0] = torch.from_numpy(task.train_y_N).to(_DTYPE)
            self.cut.append(_cut_off(x_NF, task.train_N, at_n, standardise, len(rows_N)))
        share_T = self.label_NT1.sum((0, 2)) / self.own_NT1.sum((0, 2))
        self.number_J = self._each_strength(self.own_NT1.sum((0, 2)))
        self.start_J = self._each_strength(torch.log(share_T / (1 - share_T)))
        self.weight_J = self._each_strength(share_T * (1 - share_T))
        self.factor_JPP = torch.cat(
            [
                self._factor(standardise(x_NF[task.train_N[:: 1 + len(task.train_N) // _HESSIAN_ROWS]]), column)
                for column, (task, standardise) in enumerate(zip(tasks, standards, strict=True))
            ]
        )

    def margins(self, theta_JP: Tensor) -> Tensor:
        """Log-odds [N, J] of coefficients."""
        shared_JF = theta_JP[:, :-1] * self.scale_JF
        intercept_J = theta_JP[:, -1] - (theta_JP[:, :-1] * self.offset_JF).sum(1)
        margin_NJ = torch.addmm(intercept_J, self.x_NF, shared_JF.T)
        for task, cut_NF in enumerate(self.cut):
            if cut_NF is not None:
                of_S = self._columns(task)
                margin_NJ[:, of_S] += torch.sparse.mm(cut_NF, theta_JP[of_S, :-1].T)
        return margin_NJ

    def residuals(self, margin_NJ: Tensor) -> Tensor:
        """Probability minus label [N, J], 0 where a task has no label."""
        residual_NTS = torch.sigmoid(margin_NJ).view(-1, self.num_tasks, self.num_strengths)
        return residual_NTS.sub_(self.label_NT1).mul_(self.own_NT1).view(-1, self.num_tasks * self.num_strengths)

    def gradient(self, residual_NJ: Tensor, theta_JP: Tensor) -> Tensor:
        """Gradient [J, P] of the objective at coefficients with these residuals."""
        total_J = residual_NJ.sum(0)
        gradient_JF = (residual_NJ.T @ self.x_NF) * self.scale_JF - self.offset_JF * total_J[:, None]
        for task, cut_NF in enumerate(self.cut):
            if cut_NF is not None:
                gradient_JF[self._columns(task)] += torch.sparse.mm(cut_NF.t(), residual_NJ[:, self._columns(task)]).T
        return torch.cat([gradient_JF, total_J[:, None]], dim=1) + self.penalty_JP * theta_JP

    def _factor(self, some_nF: np.ndarray, task: int) -> Tensor:
        """Lower Cholesky factors [S, P, P] of the Hessians at equal probabilities, from some of a task's training rows."""
        some_nP = torch.cat([torch.from_numpy(some_nF).to(_DTYPE), torch.ones(len(some_nF), 1, dtype=_DTYPE)], dim=1)
        first = task * self.num_strengths
        hessian_PP = some_nP.T @ some_nP * (self.number_J[first] * self.weight_J[first] / len(some_nF))
        factor_SPP: Tensor = torch.linalg.cholesky(hessian_PP + torch.diag_embed(self.penalty_JP[self._columns(task)]))
        return factor_SPP

    def _columns(self, task: int) -> slice:
        return slice(task * self.num_strengths, (task + 1) * self.num_strengths)

    def _each_strength(self, values_T: Tensor) -> Tensor:
        return values_T.repeat_interleave(self.num_strengths, dim=0)


def _cut_off(x_NF: np.ndarray, rows_n: np.ndarray, at_n: np.ndarray, standardise: Standardiser, num_points: int) -> Tensor | None:
    """What the cut at ±CUT takes from a task's standardised training rows, as a sparse matrix over the group's points; None: nothing."""
    x_nF = x_NF[rows_n]
    far_F = np.maximum(x_nF.max(0) - standardise.mean_F, standardise.mean_F - x_nF.min(0)) * standardise.scale_F > CUT
    columns_K = np.flatnonzero(far_F)
    z_nK = (x_nF[:, columns_K].astype(np.float64) - standardise.mean_F[columns_K]) * standardise.scale_F[columns_K]
    correction_nK = np.clip(z_nK, -CUT, CUT) - z_nK
    row_C, column_C = np.nonzero(correction_nK)
    if not len(row_C):
        return None
    places, values = torch.from_numpy(np.stack([at_n[row_C], columns_K[column_C]])), torch.from_numpy(correction_nK[row_C, column_C])
    return torch.sparse_coo_tensor(places, values, (num_points, x_NF.shape[1]), dtype=_DTYPE, check_invariants=True).coalesce()


def _minimise(problem: _Problem) -> Tensor:
    """Coefficients [J, P] at the minimum of every problem.

    Steps are taken in u = Lᵀθ, with L Lᵀ the starting Hessian, where that Hessian is the identity.
    """
    lower_JPP = problem.factor_JPP
    theta_JP = torch.zeros(lower_JPP.shape[:2], dtype=_DTYPE)
    theta_JP[:, -1] = problem.start_J
    margin_NJ = problem.margins(theta_JP)
    slope_JP = _solve(lower_JPP, problem.gradient(problem.residuals(margin_NJ), theta_JP))
    least_J = TOLERANCE * torch.sqrt(problem.number_J * problem.weight_J)
    past: list[tuple[Tensor, Tensor]] = []
    for _ in range(MAX_STEPS):
        active_J = slope_JP.norm(dim=1) > least_J
        if not active_J.any():
            break
        step_JP = -_quasi_newton(slope_JP, past) * active_J[:, None]
        theta_step_JP = _solve(lower_JPP, step_JP, transposed=True)
        margin_step_NJ = problem.margins(theta_step_JP)
        length_J, residual_NJ = _line_search(problem, margin_NJ, margin_step_NJ, theta_JP, theta_step_JP, (slope_JP * step_JP).sum(1))
        margin_NJ += length_J * margin_step_NJ
        theta_JP = theta_JP + length_J[:, None] * theta_step_JP
        new_slope_JP = _solve(lower_JPP, problem.gradient(residual_NJ, theta_JP))
        past = [*past, (length_J[:, None] * step_JP, (new_slope_JP - slope_JP) * active_J[:, None])][-_MEMORY:]
        slope_JP = new_slope_JP
    return theta_JP


def _solve(lower_JPP: Tensor, values_JP: Tensor, transposed: bool = False) -> Tensor:
    """L⁻¹ v, or L⁻ᵀ v, of every problem."""
    matrix_JPP = lower_JPP.mT if transposed else lower_JPP
    solved_JP: Tensor = torch.linalg.solve_triangular(matrix_JPP, values_JP[:, :, None], upper=transposed)[:, :, 0]
    return solved_JP


def _quasi_newton(slope_JP: Tensor, past: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """L-BFGS's inverse Hessian times the gradient [J, P]; a past step in which a problem rested counts for it as none."""
    found_JP = slope_JP.clone()
    kept = []
    for step_JP, change_JP in reversed(past):
        curvature_J = (step_JP * change_JP).sum(1)
        rho_J = torch.where(curvature_J > 0, 1 / curvature_J, 0.0)
        alpha_J = rho_J * (step_JP * found_JP).sum(1)
        found_JP -= alpha_J[:, None] * change_JP
        kept.append((step_JP, change_JP, rho_J, alpha_J))
    if past:
        step_JP, change_JP = past[-1]
        curvature_J, squares_J = (step_JP * change_JP).sum(1), (change_JP**2).sum(1)
        found_JP *= torch.where(curvature_J > 0, curvature_J / squares_J, 1.0)[:, None]
    for step_JP, change_JP, rho_J, alpha_J in reversed(kept):
        found_JP += step_JP * (alpha_J - rho_J * (change_JP * found_JP).sum(1))[:, None]
    return found_JP


def _line_search(
    problem: _Problem, margin_NJ: Tensor, margin_step_NJ: Tensor, theta_JP: Tensor, theta_step_JP: Tensor, slope_J: Tensor
) -> tuple[Tensor, Tensor]:
    """Step lengths [J] at which the slope along the step has at most half its size, and the residuals [N, J] there.

    The objective is convex along the step: a negative slope means longer, a positive one shorter. slope_J: slopes at length 0.
    """
    length_J, low_J = torch.ones_like(slope_J), torch.zeros_like(slope_J)
    high_J = torch.full_like(slope_J, torch.inf)
    along_J = (problem.penalty_JP * theta_JP * theta_step_JP).sum(1)
    bent_J = (problem.penalty_JP * theta_step_JP**2).sum(1)
    for last in range(_TRIES):
        residual_NJ = problem.residuals(margin_NJ + length_J * margin_step_NJ)
        now_J = (residual_NJ * margin_step_NJ).sum(0) + along_J + length_J * bent_J
        done_J = now_J.abs() <= 0.5 * slope_J.abs()
        if done_J.all() or last == _TRIES - 1:
            break
        low_J, high_J = torch.where(now_J < 0, length_J, low_J), torch.where(now_J > 0, length_J, high_J)
        next_J = torch.where(high_J.isinf(), 2 * length_J, (low_J + high_J) / 2)
        length_J = torch.where(done_J, length_J, next_J)
    return length_J, residual_NJ
