"""The losses are sums over what is valid, and native rollouts read their own output."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from clinjepa.model.losses import RolloutForm, TeacherForced, rollout_loss, rollout_starts, teacher_forcing_loss
from clinjepa.model.predictor import Predictor, build_predictor
from clinjepa.model.specs import PredictorSpec

DIM = 6


@pytest.fixture(scope="module")
def model() -> Predictor:
    return build_predictor(PredictorSpec(latent_dim=DIM, hidden_size=16, num_layers=2, num_heads=2, ffn_size=32, max_hours=10), 0).eval()


def batch(lengths: list[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(11)
    size, longest = len(lengths), max(lengths)
    valid = torch.arange(longest)[None] < torch.tensor(lengths)[:, None]
    streams = (torch.randn(size, longest, DIM, generator=generator).masked_fill(~valid[..., None], 0) for _ in range(2))
    return torch.randn(size, DIM, generator=generator), *streams, valid


def rolled(model: Predictor, given: tuple[Tensor, ...], starts: list[int], steps: int, kind: str) -> tuple[Tensor, Tensor]:
    z_static, z_state, z_action, valid = given
    pred, _, cache = model(z_static, z_state, z_action, valid, keep_cache=True)
    return rollout_loss(model, TeacherForced(pred, cache), z_action, z_state, torch.tensor(starts), RolloutForm(steps, kind))


def test_teacher_forcing_sums_over_valid_predicted_hours_only(model: Predictor) -> None:
    z_static, z_state, z_action, valid = batch([5, 3])
    pred, _ = model(z_static, z_state, z_action, valid)
    expected = (pred[0, :4] - z_state[0, 1:5]).abs().sum() + (pred[1, :2] - z_state[1, 1:3]).abs().sum()
    total, count = teacher_forcing_loss(pred, z_state, valid)
    torch.testing.assert_close(total, expected)
    assert int(count) == 6


def test_targets_take_no_gradient() -> None:
    target, pred = torch.randn(1, 3, DIM, requires_grad=True), torch.randn(1, 3, DIM, requires_grad=True)
    teacher_forcing_loss(pred, target, torch.ones(1, 3, dtype=torch.bool))[0].backward()
    assert target.grad is None


def test_native_and_teacher_forced_rollouts_agree_on_step_one(model: Predictor) -> None:
    given = batch([6, 6])
    torch.testing.assert_close(*(rolled(model, given, [1, 3], 1, kind)[0] for kind in ("native", "teacher_forced")))


def test_native_step_two_reads_the_models_own_prediction(model: Predictor) -> None:
    given = batch([6])
    z_static, z_state, z_action, _ = given
    first = model(z_static, z_state[:, :3], z_action[:, :3])[0][:, -1:]
    second = model(z_static, torch.cat([z_state[:, :3], first], 1), z_action[:, :4])[0][:, -1:]
    expected = (first - z_state[:, 3:4]).abs().sum() + (second - z_state[:, 4:5]).abs().sum()
    torch.testing.assert_close(rolled(model, given, [2], 2, "native")[0], expected)


def test_native_rollout_has_its_gradient_through_the_whole_chain(model: Predictor) -> None:
    z_static, z_state, z_action, _ = batch([6])

    def chained(leaf: Tensor) -> Tensor:
        first = model(z_static, leaf[:, :3], z_action[:, :3])[0][:, -1:]
        second = model(z_static, torch.cat([leaf[:, :3], first], 1), z_action[:, :4])[0][:, -1:]
        return (first - z_state[:, 3:4]).abs().sum() + (second - z_state[:, 4:5]).abs().sum()

    def built(leaf: Tensor) -> Tensor:
        pred, _, cache = model(z_static, leaf, z_action, keep_cache=True)
        return rollout_loss(model, TeacherForced(pred, cache), z_action, z_state, torch.tensor([2]), RolloutForm(2, "native"))[0]

    gradients = []
    for loss in (chained, built):
        leaf = z_state.clone().requires_grad_(True)
        gradients.append(torch.autograd.grad(loss(leaf), leaf)[0])
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def test_teacher_forced_rollout_is_teacher_forcing_at_its_positions(model: Predictor) -> None:
    given = batch([6, 7])
    z_static, z_state, z_action, valid = given
    pred, _ = model(z_static, z_state, z_action, valid)
    expected = sum((pred[b, k + i] - z_state[b, k + i + 1]).abs().sum() for b, k in ((0, 1), (1, 4)) for i in range(2))
    torch.testing.assert_close(rolled(model, given, [1, 4], 2, "teacher_forced")[0], expected)


@pytest.mark.parametrize("kind", ["native", "teacher_forced"])
def test_windows_too_short_for_a_rollout_count_for_nothing(model: Predictor, kind: str) -> None:
    alone = rolled(model, batch([6]), [2], 2, kind)
    z_static, z_state, z_action, valid = batch([6])
    short_static, short_state, short_action, short_valid = batch([3, 6])
    joined = (torch.cat([z_static, short_static[:1]]), torch.cat([z_state, short_state[:1]]))
    joined += (torch.cat([z_action, short_action[:1]]), torch.cat([valid, short_valid[:1]]))
    total, count = rolled(model, joined, [2, -1], 2, kind)
    torch.testing.assert_close(total, alone[0])
    assert int(count) == 1


@pytest.mark.parametrize("kind", ["native", "teacher_forced"])
def test_a_batch_of_only_short_windows_gives_zero(model: Predictor, kind: str) -> None:
    total, count = rolled(model, batch([1]), [-1], 2, kind)
    assert float(total.detach()) == 0.0 and int(count) == 0


@pytest.mark.parametrize("kind", ["native", "teacher_forced"])
def test_sums_over_parts_of_a_batch_add_up_to_the_whole(model: Predictor, kind: str) -> None:
    given, starts = batch([6, 6, 6]), [1, 3, 2]
    whole = rolled(model, given, starts, 2, kind)[0]
    parts = [rolled(model, tuple(each[i : i + 1] for each in given), starts[i : i + 1], 2, kind)[0] for i in range(3)]
    torch.testing.assert_close(whole, torch.stack(parts).sum())


def test_rollout_starts_lie_between_one_and_length_minus_three() -> None:
    torch.manual_seed(0)
    lengths = torch.tensor([3, 4, 6, 72]).repeat(500)
    starts = rollout_starts(lengths, 2).view(500, 4)
    assert starts.min(dim=0).values.tolist() == [-1, 1, 1, 1]
    assert starts.max(dim=0).values.tolist()[:3] == [-1, 1, 3]
    assert 60 < int(starts[:, 3].max()) <= 69


def test_a_shared_start_fits_the_shortest_window_that_is_long_enough() -> None:
    drawn = set()
    for seed in range(40):
        torch.manual_seed(seed)
        drawn.add(tuple(rollout_starts(torch.tensor([2, 6, 72]), 2, shared=True).tolist()))
    assert drawn == {(-1, k, k) for k in (1, 2, 3)}


def test_rollout_starts_depend_on_the_seed_alone() -> None:
    draws = []
    for _ in range(2):
        torch.manual_seed(4)
        draws.append(rollout_starts(torch.tensor([72] * 8), 2))
    assert torch.equal(*draws)


def test_losses_count_predicted_hours_and_windows_long_enough_for_a_rollout(model: Predictor) -> None:
    lengths = [1, 3, 4, 9]
    given = batch(lengths)
    starts = rollout_starts(torch.tensor(lengths), 2)
    pred, _, cache = model(*given, keep_cache=True)
    hours = teacher_forcing_loss(pred, given[1], given[3])[1]
    windows = rollout_loss(model, TeacherForced(pred, cache), given[2], given[1], starts, RolloutForm(2, "native"))[1]
    assert (int(hours), int(windows)) == (13, 2)


def test_an_unknown_rollout_kind_is_refused(model: Predictor) -> None:
    with pytest.raises(ValueError, match="'free'"):
        rolled(model, batch([6]), [1], 2, "free")
