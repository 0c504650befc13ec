"""New patients beside those of a training split: distances against scipy, shares and percentiles by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ks_2samp

from clinjepa.config.schema import SplitConfig
from clinjepa.evaluation import shift
from clinjepa.evaluation.shift import Shift, in_words, ks_distance, measure_shift
from clinjepa.storage import Folder
from clinjepa.trajectory.hours.ingest import build_partition, finish_ingest
from clinjepa.trajectory.settings import IngestSettings
from tests.support.data.handmade_stays import HandmadeSource, at, event, events_table, lenient_config, stays_table

REACH = 24


def ingested(folder: Path, stays: list[dict], events: list[dict], **sections: object) -> Folder:
    """An ingest artifact of hand-made stays."""
    settings = IngestSettings.of(lenient_config(**sections))
    out = Folder(folder)
    build_partition(HandmadeSource((stays_table(*stays), events_table(*events))), {"part": 0}, settings, out, "part-00000")
    finish_ingest(out, settings)
    return out


def hospital(
    folder: Path, heart_rates: list[float], first_id: int = 1, hours: int = 10, more: str = "lactate", everyone: bool = True
) -> Folder:
    """Stays of `hours`, one a heart rate, which is charted in every second hour; `more` is charted once."""
    stays = [{"stay_id": first_id + place, "outtime": at(hours), "age_years": 50.0 + place} for place in range(len(heart_rates))]
    events = [
        event(stay["stay_id"], hour + 0.5, "heart_rate", rate)
        for stay, rate in zip(stays, heart_rates, strict=True)
        for hour in range(0, hours, 2)
    ]
    events += [event(stay["stay_id"], 1.5, more, 2.0) for stay in stays]
    split = SplitConfig(everyone="held_out") if everyone else SplitConfig(fractions=(0.6, 0.2, 0.2))
    return ingested(folder, stays, events, split=split)


@pytest.fixture
def trained_on(tmp_path: Path) -> Folder:
    return hospital(tmp_path / "own", [60.0 + place for place in range(40)], everyone=False)


def test_distance_is_that_of_scipy() -> None:
    rng = np.random.default_rng(0)
    for number, other in ((50, 50), (7, 400), (400, 7)):
        one, two = np.sort(rng.normal(size=number).round(1)), np.sort(rng.normal(0.5, 2, size=other).round(1))
        assert ks_distance(one, two) == pytest.approx(ks_2samp(one, two).statistic)
    assert ks_distance(np.arange(5.0), np.arange(5.0)) == 0
    assert ks_distance(np.arange(5.0), np.arange(5.0) + 10) == 1


def test_everyone_is_held_out_however_few(tmp_path: Path) -> None:
    stays = hospital(tmp_path / "new", [80.0]).read_table("stays.parquet")
    assert stays["split"].to_pylist() == ["held_out"]


def test_equal_patients_differ_by_nothing_but_the_draw(tmp_path: Path, trained_on: Folder) -> None:
    found = measure_shift(hospital(tmp_path / "new", [60.0 + place for place in range(40)], first_id=1000), trained_on, REACH)
    heart_rate = found["variables"]["heart_rate"]
    assert heart_rate["here"]["share_of_hours"] == heart_rate["trained_on"]["share_of_hours"] == 0.5
    assert heart_rate["distance"] is not None and heart_rate["distance"] < 0.35  # 24 of the same 40 values
    assert heart_rate["here"]["percentiles"] == pytest.approx(np.percentile(np.repeat(60.0 + np.arange(40), 5), shift.PERCENTILES))
    assert found["not_here"] == found["only_here"] == [] and found["num_known_patients"] == 0 and found["share_beyond_reach"] == 0
    assert found["here"]["num_stays"] == 40 and found["trained_on"]["num_stays"] == 24
    assert found["here"]["median_age_years"] == pytest.approx(69.5)


def test_other_values_variables_lengths_and_known_patients_are_told(tmp_path: Path, trained_on: Folder) -> None:
    new = hospital(tmp_path / "new", [150.0 + place for place in range(40)], hours=30, more="sodium")
    found = measure_shift(new, trained_on, REACH)
    assert found["variables"]["heart_rate"]["distance"] == 1 and found["variables"]["heart_rate"]["outside"] == 1
    assert found["not_here"] == ["lactate"] and found["only_here"] == ["sodium"]
    assert found["share_beyond_reach"] == pytest.approx(6 / 30)
    known = Folder(trained_on.address).read_table("stays.parquet").to_pylist()
    assert found["num_known_patients"] == sum(row["split"] != "held_out" for row in known)
    told = "\n".join(in_words(found))
    for words in ("warning", "lactate", "sodium", "heart_rate 1.00", "20.0 %", "unmapped_code 1"):
        assert words in told
    assert "150" not in told.replace("median 169", "")  # no single value


def test_how_far_the_values_are_is_one_figure_the_median_over_the_variables(tmp_path: Path, trained_on: Folder) -> None:
    found = measure_shift(hospital(tmp_path / "new", [150.0 + place for place in range(40)], first_id=1000), trained_on, REACH)
    distances = {"heart_rate": 1.0, "lactate": 0.0}  # lactate is 2 everywhere
    assert {name: found["variables"][name]["distance"] for name in distances} == distances
    assert in_words(found)[1].startswith("distance from training's values: 0.50 ") and in_words(found)[1].endswith("over 2 variables)")
    del found["variables"]["lactate"]
    assert in_words(found)[1].startswith("distance from training's values: 1.00 ") and in_words(found)[1].endswith("over 1 variable)")
    found["variables"]["heart_rate"]["distance"] = None
    assert in_words(found)[1] == "distance from training's values: unknown, no variable has 20 values on both sides"


def test_one_is_said_as_one_and_rows_beyond_max_stays_are_not_said_to_have_no_stay(tmp_path: Path, trained_on: Folder) -> None:
    found = measure_shift(hospital(tmp_path / "new", [150.0], first_id=1000), trained_on, REACH)
    found["num_known_patients"], found["dropped"] = 1, {"no_icu_stay": 1}
    told = in_words(found)
    assert told[0].startswith("1 stay of 1 patient, 10 h; trained on 24 stays") and "1 patient id is in" in told[2]
    assert told[-1] == "1 row left out: no_icu_stay 1"
    assert in_words(found, is_cut=True)[-1] == "1 row left out: no_icu_stay (without an ICU stay, or cut off by source.max_stays) 1"


def test_a_draw_of_hours_is_near_the_whole(tmp_path: Path, trained_on: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    new = hospital(tmp_path / "new", [70.0 + place for place in range(40)], first_id=1000, hours=40)
    whole = measure_shift(new, trained_on, REACH)
    monkeypatch.setattr(shift, "MOST_HOURS", 800)
    drawn = measure_shift(new, trained_on, REACH)
    assert drawn["variables"]["heart_rate"]["here"]["share_of_hours"] == whole["variables"]["heart_rate"]["here"]["share_of_hours"]
    assert _distance(drawn) == pytest.approx(_distance(whole), abs=0.1) and _distance(drawn) != _distance(whole)


def test_too_few_values_have_no_distance(tmp_path: Path, trained_on: Folder) -> None:
    found = measure_shift(hospital(tmp_path / "new", [80.0, 90.0], first_id=1000), trained_on, REACH)
    assert found["variables"]["heart_rate"]["distance"] is None and found["variables"]["heart_rate"]["outside"] is None


def _distance(found: Shift) -> float:
    distance = found["variables"]["heart_rate"]["distance"]
    assert distance is not None
    return distance
