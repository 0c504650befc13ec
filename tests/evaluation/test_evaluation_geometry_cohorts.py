"""The SOFA cohort by hand, its reading from the hour grid, and the rule that chooses the cohort of the headline."""

from __future__ import annotations

import numpy as np
import pytest

from clinjepa.evaluation.geometry.cohorts import HEADLINE_PAIRS, Pair, headline_cohort, num_independent, sofa_cohort
from clinjepa.evaluation.geometry.severity import StaySeverity, read_severity, severity_fault
from clinjepa.storage import Folder
from clinjepa.trajectory.hours.ingest import build_partition, finish_ingest
from tests.support.data.handmade_stays import HandmadeSource, at, event, events_table, lenient_config, stays_table

NOTHING, VENTILATED = (False, False, False), (False, True, False)


def stay(sofa: list[float], support: list[tuple[bool, bool, bool]] | None = None) -> StaySeverity:
    return StaySeverity(np.array(sofa, float), np.array(support or [NOTHING] * len(sofa), bool))


def test_a_rise_of_two_points_within_24_hours_begins_at_the_first_hour_that_sees_it() -> None:
    """SOFA is 3 up to hour 39 and 5 from hour 40: hour 16 is the first with the rise at most 24 h ahead."""
    cohort = sofa_cohort({0: stay([3.0] * 40 + [5.0] * 10)})
    assert (cohort.deteriorating, cohort.stable) == ({0: 16}, {})


@pytest.mark.parametrize(
    ("sofa", "first", "last"),
    [
        ([3.0] * 40, 5, 15),  # hour 15 is the last with 24 h more
        ([3.0] * 36 + [4.0] * 4, 5, 15),  # one point is stable
        ([4.0] * 36 + [2.0] * 4, 5, 11),  # two points down are not
        ([float("nan")] * 10 + [3.0] * 30, 10, 15),  # an unknown SOFA is no stable hour
    ],
)
def test_stable_hours_have_24_hours_more_within_one_point(sofa: list[float], first: int, last: int) -> None:
    cohort = sofa_cohort({7: stay(sofa)})
    assert cohort.deteriorating == {} and cohort.stable == {7: frozenset(range(first, last + 1))}


def test_new_organ_support_is_not_stable_and_continued_support_is() -> None:
    begins_at_20 = [NOTHING] * 20 + [VENTILATED] * 30
    cohort = sofa_cohort({1: stay([3.0] * 50, begins_at_20), 2: stay([3.0] * 50, [VENTILATED] * 50)})
    assert cohort.stable == {1: frozenset(range(20, 26)), 2: frozenset(range(5, 26))}


def test_sofa_and_support_are_read_from_the_hour_grid(tmp_path) -> None:
    """Creatinine 0.9, from hour 6 on 2.5 (2 points), from hour 8 on norepinephrine at 0.05 (3 points and support)."""
    config, out = lenient_config(), Folder(tmp_path / "ingest")
    events = events_table(
        event(1, 1.5, "creatinine", 0.9),
        event(1, 6.5, "creatinine", 2.5),
        event(1, 8.0, "norepinephrine", 0.05, until=12),
        event(2, 1, "map", 80.0),
    )
    source = HandmadeSource((stays_table({"stay_id": 1, "outtime": at(14)}, {"stay_id": 2}, {"stay_id": 3}), events))
    build_partition(source, {"part": 0}, config, out, "part-0")
    finish_ingest(out, config)
    stays = out.read_table("stays.parquet")
    found = {key: one for split in ("train", "tuning", "held_out") for key, one in read_severity(out, stays, split).items()}
    assert np.isnan(found[1].sofa_T[0]) and found[1].sofa_T[1:].tolist() == [0] * 5 + [2] * 2 + [5] * 6
    assert found[1].support_TS[:, 0].tolist() == [False] * 8 + [True] * 4 + [False] * 2
    assert len(found[2].sofa_T) == 10 and not found[2].support_TS.any()
    assert severity_fault(out) == "the source gives no sofa"


def pairs(num: int, first: int = 0) -> list[Pair]:
    return [Pair(first + 2 * index, first + 2 * index + 1, 6) for index in range(num)]


@pytest.mark.parametrize(
    ("numbers", "chosen"),
    [
        ({"sofa_2_within_24h": 30, "death_within_48h": 40, "onset_within_24h:a": 900}, "sofa_2_within_24h"),
        ({"sofa_2_within_24h": 29, "death_within_48h": 40, "onset_within_24h:a": 900}, "death_within_48h"),
        ({"death_within_48h": 29, "onset_within_24h:a": 31, "onset_within_24h:b": 48}, "onset_within_24h:b"),
        ({"death_within_48h": 0, "onset_within_24h:a": 3}, "onset_within_24h:a"),
        ({"onset_within_24h:a": 3, "death_within_48h": 3}, "death_within_48h"),
    ],
)
def test_the_headline_is_the_first_general_cohort_with_enough_pairs_else_the_largest(numbers: dict[str, int], chosen: str) -> None:
    assert HEADLINE_PAIRS == 30
    subjects = {stay_id: stay_id for stay_id in range(2000)}
    assert headline_cohort({name: pairs(num) for name, num in numbers.items()}, subjects) == chosen


def test_pairs_of_one_patient_count_once_for_the_headline() -> None:
    subjects = {stay_id: stay_id if stay_id % 2 else 0 for stay_id in range(200)}  # one patient deteriorates in all of them
    assert num_independent(pairs(40), subjects) == 1
    cohorts = {"death_within_48h": pairs(40), "onset_within_24h:a": pairs(8, first=101)}
    assert headline_cohort(cohorts, dict.fromkeys(range(200), 0)) == "death_within_48h"
    subjects |= {stay_id: 1000 + stay_id for stay_id in range(101, 200)}
    assert headline_cohort(cohorts, subjects) == "onset_within_24h:a"
