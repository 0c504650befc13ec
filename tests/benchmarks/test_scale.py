"""The arithmetic of large runs: the page is the module's, sums agree with the plan, bounds are bounds."""

from __future__ import annotations

import pytest

from benchmarks.scale import NUM_GPUS, PAGE, PER_TRAINING, SEEDS, SIZES, campaigns, data, plan, tables, traffic, trainings, written_page


def test_the_page_is_what_the_module_writes() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert written_page(page, tables()) == page and page.count("\n| federation |") == len(NUM_GPUS)


def test_the_stages_of_clin_jepa_add_up_to_the_plan_s_total() -> None:
    for num_gpus in PER_TRAINING:
        one, planned = trainings(num_gpus, 1), plan(num_gpus).gpu
        assert one.chain == pytest.approx(planned.seconds)
        others = {each.recipe: each.seconds for each in planned.other_recipes}
        assert one.untrained == pytest.approx(others["untrained"])
        assert one.shared + one.sft == pytest.approx(others["sft"], rel=0.01)


def test_no_campaign_ends_before_its_work_or_its_longest_chain_allow() -> None:
    for one in campaigns():
        chain = trainings(one.gpus_per_training, SIZES[one.size]).chain / 3600
        assert one.hours == pytest.approx(max(chain, one.gpu_hours / one.num_gpus)) and 0 < one.busy <= 1
        assert one.trainings_at_once * one.gpus_per_training <= one.num_gpus
        assert one.gpu_hours == pytest.approx(
            SEEDS * trainings(one.gpus_per_training, SIZES[one.size]).total * one.gpus_per_training / 3600
        )


def test_a_hundred_times_the_data_is_a_hundred_times_the_latents_and_not_the_phases() -> None:
    small, large = data("MIMIC-IV"), data("federation")
    assert large.latents_bytes == 100 * small.latents_bytes and large.objects > 50 * small.objects
    one, many = trainings(8, 1), trainings(8, 100)
    phases = sum(plan(8).phase(name).seconds for name in ("warmup", "joint", "alignment", "finalization"))
    assert many.chain == pytest.approx(100 * (one.chain - phases) + phases)


def test_gathering_grows_with_the_share_of_weights_that_others_hold() -> None:
    few, many = (traffic(num_gpus) for num_gpus in PER_TRAINING)
    assert few.gathered_bytes_a_pass / many.gathered_bytes_a_pass == pytest.approx((7 / 8) / (31 / 32))
    assert many.feed_gb_a_second == pytest.approx(4 * few.feed_gb_a_second, rel=0.05)
