"""The death of a MIMIC-IV patient, from his own tables or from MEDS, to the outcome of each ICU stay.

A time of death is `deathtime` (deaths in hospital only) or a date without a time (`dod`); `sources.calendar` says what such a date means.
Rules, with their source in MIMIC-IV's documentation of patients and admissions and in MIT-LCP/mimic-code issues 346, 789, 874, 1346:

* Died in hospital: the admission's discharge says so, or a time of death lies inside the admission or the ICU stay. A date alone never says
  it, since who dies at home on the day of discharge has the same date.
* Died in the ICU: died in hospital, not later than ICU discharge. With a date alone the discharge from hospital is the time of death if it
  lies on that day ("almost always the same"); otherwise the whole day must lie on one side of ICU discharge.
* A death, or a discharge as dead, that contradicts a time at which the patient was alive is unknown and counted.
* A discharge that cannot be read, or contradicts itself, says nothing (`with_left_dead`). Then the outcome is unknown and counted, unless a
  time of death lies inside the admission.
"""

from __future__ import annotations

from collections import Counter

import polars as pl

from clinjepa.sources.calendar import end_of, is_date_only
from clinjepa.sources.mimic_iv.row_meaning import mimic_map

_DAY = pl.duration(days=1)


def with_outcomes(stays: pl.DataFrame, entered: pl.DataFrame, admissions: pl.DataFrame, counts: Counter[str]) -> pl.DataFrame:
    """`stays` with death_time, died_in_hospital and died_in_icu; a date alone becomes the last time of that day at which he was alive.

    Args:
        stays: All usable stays of their patients: stay_id, subject_id, intime, outtime, admitted, discharged, left_dead (whether the
            discharge says that the patient died; null where it says nothing), discharge_fault, next_icu_admission_time, death_time (as
            recorded).
        entered: All ICU admissions of these patients, also of stays that are not usable: subject_id, intime.
        admissions: All hospitalisations of these patients: subject_id, admitted, discharged, left_dead.
        counts: Receives `impossible_death`: stays whose recorded death is unknown because it contradicts the record, and the rules of
            `with_left_dead`: stays whose outcome is unknown by them.
    """
    found = stays.join(
        _alive(pl.concat([stays.select("subject_id", "intime"), entered.select("subject_id", "intime")]), admissions),
        on="subject_id",
        how="left",
        maintain_order="left",
    )
    in_icu_later = (pl.col("last_intime") > end_of(pl.col("discharged")) + _DAY).fill_null(False)
    left_dead = pl.col("left_dead").fill_null(False)
    found = found.with_columns(_is_impossible(found).alias("impossible") | (left_dead & in_icu_later), left_dead & ~in_icu_later)
    impossible = found.select(pl.col("impossible").sum()).item()
    if impossible:
        counts["impossible_death"] += impossible
    death = pl.when(~pl.col("impossible")).then(pl.col("death_time"))
    found = found.with_columns(death, is_date_only(death).fill_null(False).alias("date_only"))
    found = _last_alive_that_day(found, stays, entered, admissions)
    timed = pl.col("death_time").is_not_null() & ~pl.col("date_only")
    inside = timed & (
        pl.col("death_time").is_between(pl.col("admitted"), end_of(pl.col("discharged"))).fill_null(False)
        | pl.col("death_time").is_between(pl.col("intime"), pl.col("outtime")).fill_null(False)
    )
    found = found.with_columns(
        pl.when(pl.col("left_dead") | inside.fill_null(False))
        .then(pl.lit(True))
        .when(pl.col("discharged").is_not_null() & ~pl.col("impossible") & pl.col("discharge_fault").is_null())
        .then(pl.lit(False))
        .alias("died_in_hospital")
    )
    unknown = found.filter(pl.col("died_in_hospital").is_null())["discharge_fault"].drop_nulls()
    for rule, number in unknown.value_counts().iter_rows():
        counts[rule] += number
    died_in_icu = (
        pl.when(pl.col("died_in_hospital").not_()).then(pl.lit(False)).when(pl.col("died_in_hospital")).then(_before_icu_discharge())
    )
    return found.with_columns(died_in_icu.alias("died_in_icu")).select(*stays.columns, "died_in_hospital", "died_in_icu")


def with_left_dead(admissions: pl.DataFrame) -> pl.DataFrame:
    """`admissions` with left_dead and discharge_fault in the place of `place` and `flag`.

    left_dead: whether the discharge says that the patient died, by the flag or else by the place; null where it says nothing.
    discharge_fault: the rule by which a discharge that says something is not believed. It is `discharge_before_admission` (discharged is
    then null), `unknown_outcome_code` (a flag other than 0 and 1), `contradicting_discharge` (flag and place say different things) or
    `unknown_discharge` (a place that is not in `clinical/maps/mimic_iv.yaml`, without a flag).

    Args:
        admissions: admitted, discharged, place (words) and flag (integer; null in MEDS), and any other columns.
    """
    places = mimic_map()["discharges"]
    word, flag = pl.col("place").str.strip_chars().str.to_uppercase(), pl.col("flag")
    died = pl.when(word.is_in(places["died"])).then(True).when(word.is_in(places["alive"])).then(False)
    by_flag = pl.when(flag.is_in([0, 1])).then(flag == 1)
    fault = (
        pl.when(end_of(pl.col("discharged")) < pl.col("admitted"))
        .then(pl.lit("discharge_before_admission"))
        .when(~flag.is_in([0, 1]))
        .then(pl.lit("unknown_outcome_code"))
        .when(died != by_flag)
        .then(pl.lit("contradicting_discharge"))
        .when(flag.is_null() & died.is_null() & ~word.is_in(places["unknown"]))
        .then(pl.lit("unknown_discharge"))
    )
    table = admissions.with_columns(pl.coalesce(by_flag, died).alias("left_dead"), fault.alias("discharge_fault"))
    believed = pl.col("discharge_fault").is_null()
    backwards = (pl.col("discharge_fault") == "discharge_before_admission").fill_null(False)
    return table.with_columns(
        pl.when(believed).then(pl.col("left_dead")).alias("left_dead"),
        pl.when(~backwards).then(pl.col("discharged")).alias("discharged"),
    ).drop("place", "flag")


def last_death(time: pl.Expr) -> pl.Expr:
    """Of several recorded deaths of a patient the last one with a time of day, otherwise the last date."""
    return pl.coalesce(time.filter(~is_date_only(time)).max(), time.max())


def _alive(entered: pl.DataFrame, admissions: pl.DataFrame) -> pl.DataFrame:
    """subject_id and the times that bound the death of a patient: last_intime, last_admitted, first_left_dead."""
    last = entered.group_by("subject_id").agg(pl.col("intime").max().alias("last_intime"))
    left = admissions.group_by("subject_id").agg(
        pl.col("admitted").max().alias("last_admitted"),
        pl.col("discharged").filter(pl.col("left_dead")).min().alias("first_left_dead"),
    )
    return last.join(left, on="subject_id", how="left")


def _is_impossible(found: pl.DataFrame) -> pl.Expr:
    """Whether the recorded death contradicts the record of its patient.

    Alive: at ICU and hospital admission; before a discharge that is no death (on days before it, where one of the two is a date alone). A
    later hospitalisation within a day is the account of an organ donor. A death in hospital is not recorded more than a day after the
    discharge.
    """
    death, latest = pl.col("death_time"), end_of(pl.col("death_time"))
    dated = is_date_only(death) | is_date_only(pl.col("discharged"))
    # A time of death inside an admission whose end is not described is a death in hospital; a date alone is not.
    left_alive = ~pl.when(is_date_only(death)).then(pl.col("left_dead").fill_null(False)).otherwise(pl.col("left_dead"))
    rules = (
        latest < pl.max_horizontal("intime", "admitted", "last_intime"),
        latest + _DAY < pl.col("last_admitted"),
        left_alive & (latest < pl.when(dated).then(pl.col("discharged").dt.truncate("1d")).otherwise(pl.col("discharged"))),
        death.dt.truncate("1d") > pl.col("first_left_dead").dt.truncate("1d") + _DAY,
    )
    return pl.any_horizontal(rule.fill_null(False) for rule in rules)


def _last_alive_that_day(found: pl.DataFrame, stays: pl.DataFrame, entered: pl.DataFrame, admissions: pl.DataFrame) -> pl.DataFrame:
    """`found` with each date of death moved to the last admission or discharge of the patient on that day, if there is one."""
    times = [stays.select("subject_id", pl.col(name).alias("seen")) for name in ("intime", "outtime")]
    times.append(entered.select("subject_id", pl.col("intime").alias("seen")))
    times += [admissions.select("subject_id", pl.col(name).alias("seen")) for name in ("admitted", "discharged")]
    day = pl.col("death_time").dt.truncate("1d").alias("day")
    seen = pl.concat(times).with_columns(pl.col("seen").dt.truncate("1d").alias("day"))
    last = seen.group_by("subject_id", "day").agg(pl.col("seen").max())
    found = found.with_columns(day).join(last, on=["subject_id", "day"], how="left", maintain_order="left")
    moved = pl.when(pl.col("date_only")).then(pl.coalesce("seen", "day")).otherwise(pl.col("death_time"))
    return found.with_columns(moved.alias("death_time"))


def _before_icu_discharge() -> pl.Expr:
    """For a patient who died in hospital: whether that was not later than ICU discharge; null where the record does not say."""
    exact = ~pl.col("date_only") | (pl.col("discharged").dt.truncate("1d") == pl.col("day")) & ~is_date_only(pl.col("discharged"))
    return (
        pl.when(pl.col("next_icu_admission_time").is_not_null())
        .then(pl.lit(False))
        .when(pl.col("death_time").is_null())
        .then(pl.when(pl.col("discharged") <= pl.col("outtime")).then(pl.lit(True)))
        .when(exact.fill_null(False))
        .then(pl.col("death_time") <= pl.col("outtime"))
        .when(pl.col("outtime") < pl.col("day"))
        .then(pl.lit(False))
        .when(pl.col("day") + _DAY <= pl.col("outtime"))
        .then(pl.lit(True))
    )
