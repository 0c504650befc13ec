"""MEDS infusions without an order id: ends of infusions that overlap are given to their starts by the amount, or to none."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from itertools import permutations

import polars as pl
import pytest

from clinjepa.sources.meds.overlaps import pair_without_ids
from tests.support.data.meds_examples import chart, infusion, read_all, stay_rows, write_meds

BEGIN = datetime(2151, 3, 2, 4)
Given = tuple[float, float | None, str | None]
"""Hours after BEGIN, rate or amount, unit."""


def paired(starts: list[Given], ends: list[Given]) -> tuple[set[tuple[float, float | None, float | None]], dict[str, int]]:
    """({(start, end, amount)} in hours, counts)."""

    def table(given: list[Given], first_row: int, number: str, unit: str) -> pl.DataFrame:
        rows = [(5, 221906, first_row + i, BEGIN + timedelta(hours=at), value, word) for i, (at, value, word) in enumerate(given)]
        types = {"icustay_id": pl.Int64, "item": pl.Int64, "row": pl.Int64, "time": pl.Datetime("us"), number: pl.Float64, unit: pl.String}
        return pl.DataFrame(rows, schema=types, orient="row")

    counts: Counter[str] = Counter()
    tables = table(starts, 0, "numeric_value", "unit"), table(ends, 1000, "amount", "amount_unit")
    found = pair_without_ids(*tables, ["icustay_id", "item"], counts)
    hours = [None if time is None else (time - BEGIN) / timedelta(hours=1) for name in ("time", "end") for time in found[name]]
    return set(zip(hours[: found.height], hours[found.height :], found["amount"].to_list(), strict=True)), dict(counts)


def drip(at: float, rate: float | None) -> Given:
    return at, rate, "mcg/kg/min"


def stop(at: float, amount: float | None) -> Given:
    return at, amount, "mg"


KG_MIN = 70 * 60 / 1000
"""Of 70 kg: mg per hour of 1 mcg/kg/min."""


def test_a_short_drip_inside_a_long_one_keeps_its_end():
    amounts = 0.2 * 9 * KG_MIN, 0.7 * 2 * KG_MIN
    found, counts = paired([drip(0, 0.2), drip(3, 0.7)], [stop(5, amounts[1]), stop(9, amounts[0])])
    assert found == {(0, 9, amounts[0]), (3, 5, amounts[1])} and counts == {}


def test_every_order_of_three_ends_is_found_by_the_amounts():
    rates, begins, stops = (0.11, 0.37, 0.83), (0, 1, 2), (4, 6.5, 11)
    for order in permutations(stops):
        amounts = [rate * (end - begin) * KG_MIN for rate, begin, end in zip(rates, begins, order, strict=True)]
        ends = [stop(end, amount) for end, amount in sorted(zip(order, amounts, strict=True))]
        found, counts = paired([drip(begin, rate) for begin, rate in zip(begins, rates, strict=True)], ends)
        assert found == set(zip(begins, order, amounts, strict=True)) and counts == {}


def test_of_a_volume_one_end_is_enough():
    starts = [(0.0, 60.0, "mL/hour"), (2.0, 400.0, "mL/hour")]
    found, counts = paired(starts, [(3.0, 400.0, "ml")])
    assert found == {(2, 3, 400), (0, None, None)} and counts == {"start_without_end": 1}


def test_a_push_without_a_rate_is_what_the_drip_s_rate_contradicts():
    starts = [(0.0, 60.0, "mL/hour"), (2.0, None, None)]
    found, counts = paired(starts, [(2.25, 500.0, "ml"), (6.0, 360.0, "ml")])
    assert found == {(2, 2.25, 500), (0, 6, 360)} and counts == {}


@pytest.mark.parametrize("amounts", [(None, None), (3.0, 40.0), (2.0, None)])
def test_ends_that_no_amount_explains_are_left_out_and_counted(amounts: tuple[float | None, float | None]):
    found, counts = paired([drip(0, 0.2), drip(3, 0.7)], [stop(5, amounts[0]), stop(9, amounts[1])])
    assert found == set() and counts == {"ambiguous_interval": 2}


def test_a_later_drip_takes_no_end_that_may_be_an_earlier_one_s():
    found, counts = paired([drip(0, 0.2), drip(3, 0.7), drip(6, 0.4)], [stop(5, None), stop(9, None), stop(12, None)])
    assert found == set() and counts == {"ambiguous_interval": 3}
    found, counts = paired([drip(0, 0.2), drip(3, 0.7), drip(10, 0.4)], [stop(5, None), stop(9, None), stop(12, None)])
    assert found == {(10, 12, None)} and counts == {"ambiguous_interval": 2}


def test_drips_one_after_the_other_need_no_amounts():
    starts, ends = [drip(0, 0.2), drip(3, 0.7), drip(8, 0.1)], [stop(3, None), stop(5, None), stop(9, None)]
    assert paired(starts, ends) == ({(0, 3, None), (3, 5, None), (8, 9, None)}, {})
    found, counts = paired(starts, [stop(-1, 1.0), *ends])
    assert found == {(0, 3, None), (3, 5, None), (8, 9, None)} and counts == {"end_without_start": 1}


def test_equal_drips_and_ends_at_one_time_leave_nothing_to_guess():
    assert paired([drip(0, 0.2), drip(0, 0.2)], [stop(5, None), stop(9, None)]) == ({(0, 5, None), (0, 9, None)}, {})
    assert paired([drip(0, 0.2), drip(3, 0.7)], [stop(9, None), stop(9, None)]) == ({(0, 9, None), (3, 9, None)}, {})


def test_a_file_without_order_ids_has_the_events_of_one_with_them(tmp_path):
    def events(order: bool) -> list[tuple[float, float, float]]:
        rows = infusion(221906, 1, 12, 0.2, "mcg/kg/min", 0.2 * 11 * KG_MIN, order=1)
        rows += infusion(221906, 4, 6, 0.7, "mcg/kg/min", 0.7 * 2 * KG_MIN, order=2)
        rows = [each | ({"unit": "mg"} if "END" in each["code"] else {}) | ({} if order else {"order_id": None}) for each in rows]
        tables = read_all(write_meds(tmp_path / str(order), [*stay_rows(), *rows, chart(220045, 2, 80.0, "bpm")]))
        found = pl.DataFrame(tables.events).filter(pl.col("variable").cast(pl.String) == "norepinephrine")
        return found.select("time", "end_time", "value").rows()

    assert len(events(True)) == 2 and events(False) == events(True)
