"""A checkpoint's drift on tuning windows, beside a plain computation window by window."""

from __future__ import annotations

import shutil

import pytest
import torch

from clinjepa.curriculum.checkpoints.checkpoint import checkpoint_folder, save_checkpoint
from clinjepa.curriculum.feed.window_batches import WindowBatches
from clinjepa.curriculum.validation import can_validate, validation_drift
from clinjepa.errors import CheckpointError
from clinjepa.model.predictor import build_predictor, load_predictor, predictor_state
from clinjepa.model.specs import PredictorSpec
from clinjepa.storage import Folder
from clinjepa.trajectory.tokens.latent_store import LatentReader
from tests.support.training.curriculum_jobs import encoder_settings, phase_job
from tests.support.training.curriculum_processes import run_job
from tests.support.training.curriculum_store import make_base_and_latents, make_trajectories

CONTEXT, HORIZONS = 6, (1, 6)
"""Windows of the store have at most 12 hours: half of them are the context, and 12 and 24 hours ahead are out of reach."""


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    root = tmp_path_factory.mktemp("validation")
    trajectories = make_trajectories(root, num_stays=60)
    latents = make_base_and_latents(root, trajectories, encoder_settings())
    made = phase_job("warmup", out=str(root / "warmup"), trajectories=trajectories, base=str(root / "base"), latents=latents, num_steps=4)
    run_job(made)
    return made


def saved(job, predictor, folder):
    """A checkpoint of that predictor."""
    save_checkpoint(Folder(folder), 4, {"predictor": predictor_state(predictor)}, "{}", {"settings": "x"}, keep=1)
    return checkpoint_folder(Folder(folder), 4)


def plain_errors(job, predict):
    """(rollout, copied) L1 sums by horizon, one tuning window after another; predict: (static, states, actions) -> [H, D]."""
    plan, reader = WindowBatches(job).plan, LatentReader(Folder(job.latents))
    sums = {horizon: ([], []) for horizon in HORIZONS}
    for window in plan.tuning_ids.tolist():
        hours = int(plan.num_hours[window])
        if hours <= CONTEXT:
            continue
        static, states, actions = (torch.as_tensor(part).float() for part in reader.stay(*window_of(plan, window)))
        pred = predict(static, states, actions, hours)
        for horizon in HORIZONS:
            if hours >= CONTEXT + horizon:
                truth = states[CONTEXT + horizon - 1]
                sums[horizon][0].append(float((pred[horizon - 1] - truth).abs().sum()))
                sums[horizon][1].append(float((states[CONTEXT - 1] - truth).abs().sum()))
    return {horizon: tuple(sum(each) / len(each) for each in both) for horizon, both in sums.items()}


def window_of(plan, window):
    return int(plan.stay_ids[window]), int(plan.start_hours[window]), int(plan.num_hours[window])


def test_it_equals_hour_by_hour_predictions_of_single_windows(job, tmp_path):
    predictor = load_predictor(Folder(job.out)).eval()

    @torch.no_grad()
    def predict(static, states, actions, hours):
        known, found = states[:CONTEXT], []
        for hour in range(CONTEXT, hours):
            pred, _ = predictor(static[None], known[None], actions[None, :hour])
            known = torch.cat([known, pred[0, -1:]])
            found.append(pred[0, -1])
        return found

    expected = plain_errors(job, predict)
    found = validation_drift(job, saved(job, predictor, tmp_path))
    assert set(found) == {"num_windows"} | {f"rollout_{name}_{horizon}h" for name in ("l1", "vs_copy") for horizon in HORIZONS}
    assert found["num_windows"] >= 5
    for horizon, (rolled, copied) in expected.items():
        assert found[f"rollout_l1_{horizon}h"] == pytest.approx(rolled, rel=1e-4)
        assert found[f"rollout_vs_copy_{horizon}h"] == pytest.approx(rolled / copied, rel=1e-4)


def test_a_predictor_that_copies_the_last_state_is_as_good_as_copying(job, tmp_path):
    settings = job.predictor_settings.to_json() | {"mode": "residual"}
    dim = LatentReader(Folder(job.latents)).dim
    predictor = build_predictor(PredictorSpec.from_settings(settings, dim), 0)
    with torch.no_grad():
        predictor.out.weight.zero_()
        predictor.out.bias.zero_()
    residual = type(job).from_json({**job.to_json(), "predictor_settings": settings})
    found = validation_drift(residual, saved(job, predictor, tmp_path))
    assert [found[f"rollout_vs_copy_{horizon}h"] for horizon in HORIZONS] == pytest.approx([1.0, 1.0], abs=1e-6)


def test_a_checkpoint_that_was_removed_meanwhile_is_a_checkpoint_error(job, tmp_path):
    place = saved(job, load_predictor(Folder(job.out)), tmp_path)
    shutil.rmtree(place.path())
    with pytest.raises(CheckpointError):
        validation_drift(job, place)


def test_only_phases_with_a_frozen_encoder_can_be_validated(job):
    assert can_validate(job)
    assert not can_validate(phase_job("joint", out="x", trajectories="x", base="x", latents=None))
