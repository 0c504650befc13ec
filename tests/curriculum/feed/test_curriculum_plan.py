"""The plan is a function of (seed, step, micro-batch) and of nothing else."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from clinjepa.curriculum.feed.text_plan import TextPlan
from clinjepa.curriculum.feed.window_plan import PhasePlan, SamplePlan, assignments, torch_seed
from clinjepa.curriculum.jobs import SftJob
from clinjepa.errors import ConfigError, StoreError
from tests.support.training import curriculum_jobs
from tests.support.training.curriculum_jobs import phase_job


def windows_table(hours: list[int], split: str = "train") -> pa.Table:
    return pa.table(
        {
            "window_id": pa.array(range(len(hours)), pa.int64()),
            "stay_id": pa.array(range(100, 100 + len(hours)), pa.int64()),
            "split": [split] * len(hours),
            "start_hour": pa.array([0] * len(hours), pa.int32()),
            "num_hours": pa.array(hours, pa.int32()),
        }
    )


def sample_plan(num_windows: int, seed: int, global_batch: int, micro_batch: int) -> SamplePlan:
    """A plan over windows of 10 to 19 hours."""
    return SamplePlan(np.arange(num_windows), seed, global_batch, micro_batch, 10 + np.arange(num_windows) % 10)


def test_micro_batches_of_a_step_have_near_equal_hours():
    plan = SamplePlan(np.arange(5), seed=0, global_batch=5, micro_batch=2, num_hours=np.array([10, 72, 20, 60, 30]))
    assert sorted(sorted(ids.tolist()) for ids in plan.step(0)) == [[0, 1], [2, 3], [4]]


def test_every_window_is_seen_once_in_an_epoch():
    plan = sample_plan(50, seed=3, global_batch=10, micro_batch=4)
    seen = np.concatenate([ids for k in range(5) for ids in plan.step(k)])
    assert sorted(seen.tolist()) == list(range(50))


def test_a_step_is_the_same_whichever_steps_were_asked_for_before():
    straight = sample_plan(23, seed=3, global_batch=10, micro_batch=4)
    walked = [straight.step(k) for k in range(12)]
    direct = sample_plan(23, seed=3, global_batch=10, micro_batch=4).step(11)
    assert [ids.tolist() for ids in direct] == [ids.tolist() for ids in walked[11]]


def test_micro_batches_cut_the_global_batch_and_the_last_is_shorter():
    sizes = [len(ids) for ids in sample_plan(50, seed=0, global_batch=10, micro_batch=4).step(7)]
    assert sizes == [4, 4, 2]


def test_a_global_batch_may_be_larger_than_the_data():
    plan = sample_plan(4, seed=0, global_batch=10, micro_batch=5)
    counts = np.bincount(np.concatenate(plan.step(0)))
    assert counts.sum() == 10 and counts.min() >= 2


def test_another_seed_gives_another_order():
    one, other = (np.concatenate(sample_plan(50, seed, 50, 50).step(0)).tolist() for seed in (0, 1))
    assert one != other


def test_a_store_without_training_windows_is_refused():
    with pytest.raises(StoreError, match="no training windows"):
        PhasePlan(windows_table([10, 12], split="held_out"), phase_job())


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_workers_share_every_micro_batch_exactly_once(world_size):
    job = phase_job(global_batch=10, micro_batch=2)
    shares = [list(assignments(job, rank, world_size, 4, 6)) for rank in range(world_size)]
    run = sorted((each.step, each.micro) for share in shares for each in share if each.weight)
    assert run == [(step, micro) for step in (4, 5) for micro in range(job.num_micro_batches)]


def test_a_short_worker_runs_as_many_micro_batches_with_weight_zero():
    job = phase_job(global_batch=10, micro_batch=2)
    lengths = {len(list(assignments(job, rank, 3, 0, 2))) for rank in range(3)}
    weights = [each.weight for each in assignments(job, 2, 3, 0, 1)]
    assert (lengths, weights) == ({4}, [1, 0])


def test_counts_are_the_valid_positions_of_the_global_batch():
    plan = PhasePlan(windows_table([3, 4, 10, 72]), phase_job(global_batch=4, micro_batch=2))
    assert plan.count(0, "predicted_hours") == 2 + 3 + 9 + 71
    assert plan.count(0, "rollouts") == 3


def test_rollouts_start_where_their_last_step_is_still_recorded():
    plan = PhasePlan(windows_table([3, 4, 6, 40]), phase_job(global_batch=4, micro_batch=2))
    for step in range(40):
        for micro, ids in enumerate(plan.step(step)):
            starts, hours = plan.rollout_starts(step, micro), plan.num_hours[ids]
            assert np.all(starts[hours < 4] == -1)
            assert np.all((starts >= 1)[hours >= 4]) and np.all((starts + 2 <= hours - 1)[hours >= 4])


def test_rollout_starts_cover_their_whole_range():
    plan = PhasePlan(windows_table([6] * 4), phase_job(global_batch=4, micro_batch=2))
    drawn = {int(k) for step in range(60) for micro in range(2) for k in plan.rollout_starts(step, micro)}
    assert drawn == {1, 2, 3}


def test_rollout_starts_differ_from_step_to_step_and_from_micro_batch_to_micro_batch():
    plan = PhasePlan(windows_table([72] * 4), phase_job(global_batch=4, micro_batch=2))
    by_step = {int(plan.rollout_starts(step, 0)[0]) for step in range(30)}
    by_micro = [plan.rollout_starts(step, 0)[0] == plan.rollout_starts(step, 1)[0] for step in range(30)]
    assert len(by_step) > 10 and sum(by_micro) < 10


def test_a_shared_start_is_one_for_the_global_batch_and_fits_its_shortest_window():
    plan = PhasePlan(windows_table([8, 30, 40, 72]), phase_job(global_batch=4, micro_batch=2, shared_k=True))
    drawn = [{int(k) for micro in range(2) for k in plan.rollout_starts(step, micro)} for step in range(60)]
    assert all(len(each) == 1 for each in drawn) and set.union(*drawn) == {1, 2, 3, 4, 5}


def test_seeds_differ_between_micro_batches_and_steps():
    seeds = {torch_seed(seed, step, micro) for seed in range(3) for step in range(20) for micro in range(5)}
    assert len(seeds) == 300


def sft_job(**sft) -> SftJob:
    return curriculum_jobs.sft_job(seed=1, **{"num_epochs": 1.0, "max_steps": None, "tokens_per_step": 200, "micro_tokens": 60, **sft})


def text_lengths() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(5, 40, size=2 * hours + 1) for hours in generator.integers(4, 30, size=20)]


def test_sft_reads_every_text_once_in_an_epoch():
    lengths = text_lengths()
    plan = TextPlan(np.arange(20), lengths, sft_job())
    read = [text for step in range(plan.num_steps) for micro in range(4) for text in plan.micro(step, micro)]
    assert sorted(read) == [(stay, text) for stay in range(20) for text in range(len(lengths[stay]))]


def test_sft_steps_have_about_the_tokens_asked_for_in_near_equal_micro_batches():
    lengths = text_lengths()
    plan = TextPlan(np.arange(20), lengths, sft_job())
    steps = range(plan.num_steps - 1)
    sizes = np.array([[sum(lengths[s][t] + 1 for s, t in plan.micro(step, micro)) for micro in range(4)] for step in steps])
    assert np.all(np.abs(sizes.sum(1) - 200) <= 41) and np.all(np.abs(sizes - 50) <= 45)


def test_sft_counts_one_label_per_token_and_end_of_text():
    lengths = text_lengths()
    plan = TextPlan(np.arange(20), lengths, sft_job())
    assert plan.label_count(3) == sum(lengths[s][t] for micro in range(4) for s, t in plan.micro(3, micro))


def test_sft_epochs_and_step_limit_set_the_number_of_steps():
    lengths = text_lengths()
    per_epoch = TextPlan(np.arange(20), lengths, sft_job()).num_steps
    assert TextPlan(np.arange(20), lengths, sft_job(num_epochs=2.5)).num_steps == round(2.5 * per_epoch)
    assert TextPlan(np.arange(20), lengths, sft_job(num_epochs=2.5, max_steps=7)).num_steps == 7


def test_sft_steps_shorter_than_a_text_are_refused():
    with pytest.raises(ConfigError, match="less than the longest text"):
        TextPlan(np.arange(1), [np.array([300, 4, 4])], sft_job())
