"""The simulator: reproducible whatever the partitions, and alike in what an ICU chart has: severity, response, missingness."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from clinjepa.config.schema import SourceConfig
from clinjepa.sources import open_source
from clinjepa.sources.simulated.source import SimulatorSource


def source(num_patients: int = 40, num_partitions: int | None = 1, **more) -> SimulatorSource:
    simulator = {"num_patients": num_patients, "mean_stay_hours": 40} | more.pop("simulator", {})
    return SimulatorSource(SourceConfig(num_partitions=num_partitions, simulator=simulator, **more))


@pytest.fixture(scope="module")
def many() -> dict[str, pl.DataFrame]:
    """300 patients, read once: stays, events, severity, onsets."""
    simulator = source(300)
    (partition,) = simulator.partitions()
    tables, truth = simulator.read(partition), simulator.truth(partition)
    events = pl.from_arrow(tables.events).with_columns(pl.col("variable").cast(pl.String))
    return {
        "stays": pl.from_arrow(tables.stays),
        "events": events,
        "severity": pl.from_arrow(truth.severity),
        "onsets": pl.from_arrow(truth.onsets),
    }


def test_a_patient_is_the_same_in_any_number_of_patients():
    few, more = source(4), source(9)
    one = few.read({"first_patient": 2, "num_patients": 1, "max_stay_id": None})
    other = more.read({"first_patient": 2, "num_patients": 1, "max_stay_id": None})
    assert one.stays.equals(other.stays) and one.events.equals(other.events)


def test_another_seed_gives_other_patients():
    (partition,) = source(4).partitions()
    assert not source(4).read(partition).stays.equals(source(4, simulator={"seed": 1}).read(partition).stays)


def test_partitions_do_not_change_the_stays():
    whole, parts = source(11), source(11, num_partitions=4)
    (all_of_it,) = whole.partitions()
    ids = [stay for partition in parts.partitions() for stay in parts.read(partition).stays["stay_id"].to_pylist()]
    assert ids == whole.read(all_of_it).stays["stay_id"].to_pylist()


@pytest.mark.parametrize(("num_patients", "number"), [(5, 5), (100, 8), (2000, 10)])
def test_partitions_become_more_with_the_stays_not_larger(num_patients, number):
    sizes = [partition["num_patients"] for partition in source(num_patients, num_partitions=None).partitions()]
    assert (len(sizes), sum(sizes)) == (number, num_patients) and max(sizes) <= 200


def test_max_stays_keeps_the_first_by_id():
    whole, limited = source(12), source(12, max_stays=5)
    (all_of_it,) = whole.partitions()
    (some,) = limited.partitions()
    assert limited.read(some).stays["stay_id"].to_pylist() == whole.read(all_of_it).stays["stay_id"].to_pylist()[:5]


def test_the_registry_opens_it():
    assert open_source(SourceConfig()).name == "simulator"


def test_the_digest_follows_the_settings():
    assert source(4).content_digest() == source(4, num_partitions=3).content_digest() != source(5).content_digest()


def test_deaths_are_as_frequent_as_in_an_icu(many):
    assert 0.08 < many["stays"]["died_in_hospital"].mean() < 0.20


def test_some_patients_have_several_stays(many):
    per_patient = many["stays"].group_by("subject_id").len()["len"]
    assert 0.05 < (per_patient > 1).mean() < 0.30


def test_stays_of_one_patient_do_not_overlap(many):
    ordered = many["stays"].sort("subject_id", "intime")
    gaps = ordered.select((pl.col("intime") - pl.col("outtime").shift(1).over("subject_id")).dt.total_minutes().alias("gap"))[
        "gap"
    ].drop_nulls()
    assert gaps.min() > 0


def test_the_dying_are_sicker(many):
    worst = many["severity"].group_by("stay_id").agg(pl.col("severity").max()).join(many["stays"], on="stay_id")
    dead, alive = (worst.filter(pl.col("died_in_hospital") == died)["severity"].mean() for died in (True, False))
    assert dead > alive + 0.1


def test_a_shock_lowers_the_pressure_after_its_onset(many):
    shocks = many["onsets"].filter((pl.col("kind") == "shock") & (pl.col("onset_hour") > 10))
    pressures = (
        many["events"]
        .filter(pl.col("variable") == "map")
        .join(shocks, on="stay_id")
        .join(many["stays"].select("stay_id", "intime"), on="stay_id")
    )
    since = pressures.with_columns(((pl.col("time") - pl.col("intime")).dt.total_minutes() / 60 - pl.col("onset_hour")).alias("since"))
    before = since.filter(pl.col("since").is_between(-8, 0))["value"].mean()
    after = since.filter(pl.col("since").is_between(4, 12))["value"].mean()
    assert after < before - 5


def test_a_vasopressor_raises_the_pressure_it_was_given_for(many):
    """Pressure in the hour before the first infusion against three to six hours later, in the same stays."""
    first = many["events"].filter(pl.col("variable") == "norepinephrine").group_by("stay_id").agg(pl.col("time").min().alias("start"))
    pressures = many["events"].filter(pl.col("variable") == "map").join(first, on="stay_id")
    since = pressures.with_columns(((pl.col("time") - pl.col("start")).dt.total_minutes() / 60).alias("since"))
    before = since.filter(pl.col("since").is_between(-1, 0))["value"].mean()
    after = since.filter(pl.col("since").is_between(3, 6))["value"].mean()
    assert after > before + 2


def test_the_sicker_half_is_measured_more(many):
    hours = many["severity"].group_by("stay_id").agg(pl.col("severity").mean(), pl.len().alias("hours"))
    gases = many["events"].filter(pl.col("variable") == "lactate").group_by("stay_id").len()
    rates = hours.join(gases, on="stay_id", how="left").with_columns((pl.col("len").fill_null(0) / pl.col("hours")).alias("rate"))
    middle = rates["severity"].median()
    assert rates.filter(pl.col("severity") > middle)["rate"].mean() > 2 * rates.filter(pl.col("severity") <= middle)["rate"].mean()


def test_charting_is_sparse_and_uneven(many):
    hours = many["severity"].height
    per_hour = {name: number / hours for name, number in many["events"].group_by("variable").len().iter_rows()}
    assert 0.6 < per_hour["heart_rate"] < 2 and 0.02 < per_hour["creatinine"] < 0.15 and per_hour["bilirubin_total"] < 0.06


def test_the_next_hours_follow_from_the_last(many):
    """A value three to five hours ahead correlates with the present one, less than perfectly."""
    rates = many["events"].filter(pl.col("variable") == "heart_rate").select("stay_id", "time", "value")
    later = rates.with_columns((pl.col("time") - pl.duration(hours=4)).alias("time")).sort("time")
    pairs = rates.sort("time").join_asof(
        later.rename({"value": "later"}), on="time", by="stay_id", strategy="nearest", tolerance="1h", check_sortedness=False
    )
    pairs = pairs.drop_nulls()
    assert 0.5 < np.corrcoef(pairs["value"], pairs["later"])[0, 1] < 0.98


def test_no_hidden_variable_is_charted(many):
    assert not {"severity", "onset", "deterioration"} & set(many["events"]["variable"].unique())


def test_truth_covers_every_hour_of_every_stay(many):
    hours = many["severity"].group_by("stay_id").len().join(many["stays"], on="stay_id")
    lengths = hours.select((pl.col("outtime") - pl.col("intime")).dt.total_minutes() / 60)["outtime"]
    assert (hours["len"].cast(pl.Float64) == lengths.ceil()).all()
