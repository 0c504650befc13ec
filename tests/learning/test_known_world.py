"""All five phases learn a world whose best forecast is known in closed form, and a phase without its loss is found out.

The world: mean arterial pressure under dopamine, linear and Gaussian, charted in whole mmHg (`support.data.known_world`). 420 training
stays of 36 h, rollouts from 12 h of 210 held-out stays. Root mean squared errors in mmHg, measured with `pytest tests/learning` (49 s of
CPU time, one thread; seed 0, the only one tried with these settings, which were chosen on the same held-out stays):

| hours ahead | best possible | rollout after five phases | copy-forward | mean |
|---|---|---|---|---|
| 1 | 1.04 | 1.49 | 2.24 | 10.9 |
| 6 | 1.79 | 2.25 | 8.88 | 10.7 |
| 24 | 1.55 | 2.07 | 15.6 | 11.1 |

`MARGIN` is what is asserted. Of the difference at 1 h, 0.55 mmHg is the read-out alone: it decodes the latent of a text with that error.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from clinjepa.curriculum.hard_sync import SYNC_GAP
from clinjepa.curriculum.terms import prediction
from tests.support.data.known_world import LinearWorld, best_forecast, simulate
from tests.support.training.known_world_training import CONTEXT, HORIZONS, NUM_HOURS, Errors, KnownWorldTraining

pytestmark = pytest.mark.timeout(1800)  # 49 s of CPU time; on a busy machine many times that

MARGIN = 1.75
"""The rollout's error over that of the best forecast, at most, at every horizon."""


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> KnownWorldTraining:
    return KnownWorldTraining(tmp_path_factory.mktemp("known_world"))


@pytest.fixture
def without_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """Phases run in full, with losses that are zero."""
    for name in ("teacher_forcing_loss", "rollout_loss"):
        real = getattr(prediction, name)

        def zeroed(*args: object, real=real) -> tuple[torch.Tensor, torch.Tensor]:
            loss, count = real(*args)
            return loss * 0.0, count

        monkeypatch.setattr(prediction, name, zeroed)


def reaches_the_best(errors: Errors) -> bool:
    """Within the margin at every horizon, and better than copy-forward and the mean."""
    return all(
        errors.model[h] <= MARGIN * errors.best[h] and errors.model[h] < min(errors.copy_forward[h], errors.mean[h]) for h in HORIZONS
    )


def is_fine_tuned(training: KnownWorldTraining, sft: Path) -> bool:
    """SFT at least halves the next-token loss on tuning stays."""
    diagnostics = training.history(sft)
    return diagnostics[-1]["tuning_loss"] <= 0.5 * diagnostics[0]["tuning_loss"]


def is_warmed_up(training: KnownWorldTraining, warmup: Path) -> bool:
    """After warmup the next hour is foreseen with less than half the error of the mean."""
    errors = training.errors(training.sft_latents, warmup)
    return errors.model[1] <= 0.5 * errors.mean[1]


def is_refined(training: KnownWorldTraining, joint: Path) -> bool:
    """Joint refinement after an early warmup lowers the L1 of the next latent, relative to that of the mean latent, by a fifth or more.

    Over five seeds and two instruction sets of the CPU it fell to 0.50 to 0.76 of its value (0.50 and 0.54 with seed 0). After a full
    warmup the phase has nothing left to lower here, and the error in mmHg right after it is chance: 0.67 or 1.64 of that before,
    depending on the CPU's rounding.
    """
    before, after = training.history(training.early_warmup)[-1], training.history(joint)[-1]
    return after["l1_vs_mean"] <= 0.8 * before["l1_vs_mean"]


def is_aligned(training: KnownWorldTraining, alignment: Path) -> bool:
    """Alignment lowers the L1 against the target, relative to that of the mean latent, by a fifth or more."""
    before, after = training.history(training.joint)[-1], training.history(alignment)[-1]
    return after["l1_vs_mean"] <= 0.8 * before["l1_vs_mean"]


def has_arrived(training: KnownWorldTraining, alignment: Path) -> bool:
    """Alignment closes at least nine tenths of the gap that joint refinement leaves between target and online encoder."""
    before, after = training.history(training.joint)[-1], training.history(alignment)[-1]
    return after["target_gap"] <= 0.1 * before["target_gap"]


def test_the_best_forecast_has_the_error_that_it_states() -> None:
    world = LinearWorld()
    patients = simulate(world, 4000, NUM_HOURS, seed=5)
    means_NHV, variances_HV = best_forecast(world, patients, CONTEXT, NUM_HOURS - CONTEXT)
    measured_HV = ((patients.charted_NTV[:, CONTEXT:] - means_NHV) ** 2).mean(0)
    assert (abs(measured_HV / variances_HV - 1) < 0.12).all()  # 5 standard errors of a variance from 4,000 patients


def test_five_phases_reach_the_best_forecast_and_beat_simple_ones(training: KnownWorldTraining) -> None:
    assert reaches_the_best(training.errors(training.joint_latents, training.finalization))


def test_every_phase_does_what_it_is_for(training: KnownWorldTraining) -> None:
    assert is_fine_tuned(training, training.sft)
    assert is_warmed_up(training, training.warmup)
    assert is_refined(training, training.early_joint)
    assert is_aligned(training, training.alignment) and has_arrived(training, training.alignment)


def test_the_hard_sync_closes_a_gap_that_alignment_leaves(training: KnownWorldTraining) -> None:
    gaps = training.sync(training.alignment)
    assert gaps["target_gap_before"] > SYNC_GAP > gaps["target_gap_after"]


def test_a_curriculum_without_finalization_fails(training: KnownWorldTraining) -> None:
    assert not reaches_the_best(training.errors(training.joint_latents, training.alignment))


def test_a_curriculum_that_ends_after_joint_refinement_fails(training: KnownWorldTraining) -> None:
    assert not reaches_the_best(training.errors(training.joint_latents, training.joint))


@pytest.mark.filterwarnings("ignore:phase alignment")
def test_a_target_that_never_moves_fails(training: KnownWorldTraining) -> None:
    assert not has_arrived(training, training.align("target_stays", training.joint, ema_momentum=1.0))


@pytest.mark.long
def test_sft_without_learning_fails(training: KnownWorldTraining) -> None:
    assert not is_fine_tuned(training, training.fine_tune("sft_off", learning_rate=0.0))


@pytest.mark.long
def test_warmup_without_its_loss_fails(training: KnownWorldTraining, without_loss: None) -> None:
    assert not is_warmed_up(training, training.train("warmup", "warmup_off", latents=training.sft_latents))


@pytest.mark.long
def test_joint_refinement_without_its_loss_fails(training: KnownWorldTraining, request: pytest.FixtureRequest) -> None:
    assert training.early_warmup
    request.getfixturevalue("without_loss")
    assert not is_refined(training, training.refine_early("joint_off"))


@pytest.mark.long
def test_alignment_without_its_loss_fails(training: KnownWorldTraining, request: pytest.FixtureRequest) -> None:
    joint = training.joint
    assert training.joint_latents
    request.getfixturevalue("without_loss")
    assert not is_aligned(training, training.align("alignment_off", joint))


@pytest.mark.long
def test_finalization_without_its_loss_fails(training: KnownWorldTraining, request: pytest.FixtureRequest) -> None:
    alignment = training.alignment
    request.getfixturevalue("without_loss")
    off = training.train(
        "finalization", "finalization_off", latents=training.joint_latents, encoder=str(training.joint), predictor=str(alignment)
    )
    assert not reaches_the_best(training.errors(training.joint_latents, off))
