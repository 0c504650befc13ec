"""The arithmetic of the training's benchmarks, on tiny inputs: what they count, what they divide, and that both sides do the same work."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks import checkpoint, curriculum_cost, feed, launcher_overhead, packing, rollout
from benchmarks.curriculum_cost import Outcome, Shape
from benchmarks.support.harness import Cost
from benchmarks.support.launchers import Trained, read_trained
from clinjepa.curriculum.checkpoints.history import TrainingHistory
from clinjepa.curriculum.feed.plain_feed import plain_feed
from clinjepa.curriculum.feed.window_plan import assignments
from clinjepa.model.encoding.encoder import build_encoder
from clinjepa.model.specs import PredictorSpec
from clinjepa.storage import Folder
from tests.support.machines.cli import ROOT, environment
from tests.support.models.model_encoders import encoder_spec, move_online, random_texts
from tests.support.training.curriculum_jobs import encoder_settings, phase_job
from tests.support.training.curriculum_store import make_base_and_latents, make_trajectories

SMALL = PredictorSpec(latent_dim=8, hidden_size=16, num_layers=2, num_heads=2, ffn_size=32)
METHOD = {"warmup": 0.24, "joint": 0.35, "alignment": 0.17, "hard_sync": 0.0, "finalization": 0.24}


def test_recomputation_reads_every_hour_s_whole_window_and_the_cache_each_token_once():
    """After 2 of 4 hours: windows of 5, 7 and 9 tokens (the last for its hidden state), against 9."""
    assert rollout.token_ratio(2, 2) == pytest.approx((5 + 7 + 9) / 9)


def test_both_rollouts_give_the_same_and_without_rounding_exactly_so():
    found = rollout.compare(SMALL, batch=2, rounds=1, context_hours=3, num_steps=4)
    assert found["max_difference"] < 1e-5
    assert all(0 < difference < 1e-5 for difference in found["from_float64"].values())
    assert rollout.difference_in_float64(SMALL, 3, 4) < 1e-13


def test_a_rollout_that_differs_is_not_timed(monkeypatch):
    monkeypatch.setattr(rollout, "recomputed", lambda *given: tuple(1.01 * part for part in rollout.rollout(*given)))
    with pytest.raises(SystemExit, match="differs from recomputation by 0.0"):
        rollout.compare(SMALL, batch=1, rounds=1, context_hours=3, num_steps=2)


def test_padded_rows_are_as_long_as_the_longest_of_their_batch():
    texts = [np.arange(length) for length in (3, 9, 4, 8)]
    in_order, by_length = packing.padded(texts, 2, sort=False), packing.padded(texts, 2, sort=True)
    assert [batch.places for batch in in_order] == [18, 16]
    assert [batch.places for batch in by_length] == [18, 8]
    assert [batch.order.tolist() for batch in by_length] == [[1, 3], [2, 0]]


def test_packed_and_padded_batches_give_the_same_latents_and_gradients(monkeypatch):
    monkeypatch.setattr(packing, "BATCH_SIZES", (4, 8))
    encoder = build_encoder(encoder_spec(), None, 0).eval()
    move_online(encoder)
    found = packing.compare(encoder, random_texts(24), token_budget=256, rounds=1)
    assert max(found["differences"].values()) < 1e-5
    assert found["share_of_places"]["padded"] < found["share_of_places"]["sorted"] <= 1.0


def test_padding_that_changes_a_latent_is_found(monkeypatch):
    monkeypatch.setattr(packing, "BATCH_SIZES", (4,))
    encoder = build_encoder(encoder_spec(), None, 0).eval()
    wrong = packing.padded
    monkeypatch.setattr(packing, "padded", lambda *given: [replace(batch, last_index_N=batch.last_index_N * 0) for batch in wrong(*given)])
    with pytest.raises(SystemExit, match="results differ"):
        packing.compare(encoder, random_texts(8), token_budget=256, rounds=1)


def test_the_adapters_of_a_full_size_checkpoint_are_qwen3_8b_s():
    assert sum(tensor.numel() for tensor in checkpoint.adapters(**checkpoint.QWEN3_8B).values()) == 15_335_424


@pytest.mark.parametrize("name", checkpoint.MODES)
def test_a_course_of_saves_leaves_whole_checkpoints_of_what_was_captured(name, tmp_path):
    torch.set_num_threads(1)
    training = checkpoint.Training(SMALL, checkpoint.adapters(1, 8, {"q_proj": 8}, rank=2))
    tensors, _ = checkpoint.training_with_moments(training)
    wanted = sum(value.nbytes for group in tensors.values() for value in group.values())
    parameters = sum(parameter.numel() for parameter in training.predictor.parameters())
    assert wanted == 4 * (3 * parameters + 4 * 32)  # weights and two moments each; the adapters' target too

    def save(writer, number):
        captured, state = training.capture()
        writer.save(number + 1, captured, {"optimizer": state})

    found = checkpoint.course(training, tmp_path, 3, 1, save, checkpoint.MODES[name])
    assert len(found.blocked) == 3
    assert (tmp_path / "step-00000003" / "manifest.json").exists()
    assert wanted < checkpoint.folder_bytes(tmp_path, 3) < 1.3 * wanted


def test_steps_per_second_count_reports_and_saves_but_not_the_first_step(tmp_path):
    """4 further steps of 2 s, reports of 1 s, and (after 2, 4 and 5 steps) 3 saves of 0.5 s: 4 steps in 10.5 s."""
    history = TrainingHistory()
    history.add_time(60.0, 50.0, 2, starts_at=0)
    for _ in range(4):
        history.add_time(2.0, 0.5, 2)
    history.add_report(1.0)
    history.add_saves(3, 1.5)
    history.steps = [{"step": step, "loss": 1.0} for step in range(5)]
    out = Folder(tmp_path)
    out.write_json("timing.json", history.time_summary())
    out.write_json("metrics.json", history.metrics())
    trained = read_trained(out, phase_job(num_steps=5, checkpoint_every_steps=2))
    assert trained.steps_per_second == pytest.approx(4 / 10.5)
    assert (trained.start_seconds, trained.waiting_share) == (60.0, pytest.approx(0.25))


def test_a_phase_of_one_step_has_a_step_time():
    history = TrainingHistory()
    history.add_time(3.0, 1.0, 1, starts_at=0)
    assert history.time_summary()["seconds_per_step"] == 3.0


def test_launchers_are_compared_by_the_medians_of_their_rounds():
    rounds = {
        name: [Trained(10, seconds, 0, 0, []) for seconds in times] for name, times in {"ray": (5, 99, 4), "torchrun": (4, 1, 4)}.items()
    }
    assert launcher_overhead.ratio(rounds) == pytest.approx((10 / 5) / (10 / 4))


def test_a_round_is_long_enough():
    assert launcher_overhead.steps_for(60, 0.5) * 0.5 >= 60
    assert launcher_overhead.steps_for(0, 0.5, least=7) == 7


def test_many_epochs_of_the_method_s_shares_leave_57_percent_of_the_forward_tokens():
    shape = Shape(METHOD, targets=1.0, epochs=float("inf"), overlap=6.0, training=0.7)
    assert curriculum_cost.cost_stored(shape, gradient=False) / curriculum_cost.cost_every_step(shape, gradient=False) == pytest.approx(
        0.572, abs=1e-3
    )


def test_latent_stores_cost_two_passes_over_all_stays():
    """2 epochs, hours in 3 windows, training stays half of the tokens: a pass is 1 / (2 * 3 * 0.5) = 1/3 of what the steps read."""
    shape = Shape(METHOD, targets=0.5, epochs=2.0, overlap=3.0, training=0.5)
    without = replace(shape, epochs=float("inf"))
    assert curriculum_cost.cost_stored(shape) - curriculum_cost.cost_stored(without) == pytest.approx(2 / 3)


def test_achieved_savings_are_judged_by_possible_ones():
    """Of 1,000 tokens 500 were saved where the formula allows P; 5 s were saved where P * 1,000 tokens take 10 s in a pass."""
    shape = Shape(METHOD, targets=1.0, epochs=float("inf"), overlap=1.0, training=1.0)
    possible = curriculum_cost.possible_saving(shape)
    pass_seconds = 100 / (possible * 100)
    stored = Outcome([], {"joint": 400, "stores": 100}, {"joint": Cost(10, 10), "stores": Cost(2 * pass_seconds, pass_seconds)})
    every = Outcome([], {"warmup": 600, "joint": 400}, {"joint": Cost(15, 15), "warmup": Cost(7, pass_seconds + 5.0)})
    found = curriculum_cost.judged(shape, {"stored": [stored], "every_step": [every]})
    assert found["tokens_achieved_over_possible"] == pytest.approx(0.5 / possible)
    assert found["time_achieved_over_possible"] == pytest.approx(0.5)
    assert found["wall_seconds_every_step"] == 22


def test_losses_may_differ_as_far_as_rounding_takes_them():
    every = Outcome([100.0] * 9)
    drifted = Outcome([100.0] * 4 + [100.0 + step for step in range(5)])
    found = curriculum_cost.compared({"stored": [drifted], "every_step": [every]}, Outcome([100.0] * 4 + [99.0] * 5))
    assert found["largest_loss_difference_of_first_steps"] == 0.0 and found["median_loss_difference_by_rounding"] == 0.01
    with pytest.raises(SystemExit, match="more than rounding explains"):  # a difference from the first step on is no rounding
        curriculum_cost.compared({"stored": [Outcome([100.1] + [100.0] * 8)], "every_step": [every]}, every)
    with pytest.raises(SystemExit, match="more than rounding explains"):
        curriculum_cost.compared({"stored": [Outcome([100.0] * 4 + [101.0] * 5)], "every_step": [every]}, every)


def test_eight_gpus_eat_38_mb_of_bfloat16_a_step():
    per_gpu, seconds, words = feed.eaten_per_second(67.0)
    assert per_gpu * 8 * seconds == pytest.approx(38.0e6, rel=1e-3)
    assert "38.0 MB a step" in words


@pytest.fixture(scope="module")
def latent_job(tmp_path_factory):
    root = tmp_path_factory.mktemp("feed")
    trajectories = make_trajectories(root)
    latents = make_base_and_latents(root, trajectories, encoder_settings())
    return phase_job("warmup", trajectories=trajectories, latents=latents, num_steps=8, global_batch=16, micro_batch=2)


def test_delivery_counts_every_byte_after_the_start(latent_job, monkeypatch):
    sizes: list[int] = []

    def counted(assigned):
        for payload in plain_feed(latent_job)(assigned):
            sizes.append(len(payload))
            yield payload

    clock = iter([10.0, 12.0])
    monkeypatch.setattr(feed.time, "perf_counter", lambda: next(clock))
    bytes_per_second, per_second = feed.delivery(counted, latent_job, 8)
    assert len(sizes) == len(list(assignments(latent_job, 0, feed.GPUS, 0, 8))) == 8
    assert (bytes_per_second, per_second) == (sum(sizes[3:]) / 2.0, 5 / 2.0)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.long, *([pytest.mark.ray] if with_ray else [])])
        for name, with_ray in (
            ("packing", False),
            ("rollout", False),
            ("checkpoint", False),
            ("curriculum_cost", False),
            ("launcher_overhead", True),
            ("feed", True),
        )
    ],
)
def test_the_quick_form_ends_in_one_json_object(name: str):
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", "--quick"],
        cwd=ROOT,
        env=environment(OMP_NUM_THREADS="1"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["name"] == name and result["quick"]
    assert {"measured", "goal", "unit", "versions", "command"} <= result.keys()
    assert set(result["goal"]) <= set(result["measured"]) == set(result["unit"])
