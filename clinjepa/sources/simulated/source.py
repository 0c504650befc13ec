"""Source of simulated ICU stays, any number of them, with known onsets and severity to test against; the default source.

Patient i and each stay have separate random generators (seeded with seed, i, stay), so a patient is the same for any number of
patients and any partitions. `physiology` simulates the course, `charting` selects the charted values; this module brings both into
the common schema.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import polars as pl
import pyarrow as pa

from clinjepa.clinical import load_variables
from clinjepa.config.section import result_fields
from clinjepa.sources.calendar import age_at, years_before
from clinjepa.sources.readings.cleaning import finish, raw_events
from clinjepa.sources.schema import LABEL_COLUMNS, STAYS_TYPES, TIMES_OF_STATICS, SourceTables, partition_count
from clinjepa.sources.simulated.charting import chart
from clinjepa.sources.simulated.patient import Course, Patient, draw_patient
from clinjepa.sources.simulated.physiology import simulate_course
from clinjepa.sources.stay_counts import StayCounts

if TYPE_CHECKING:
    from clinjepa.config.schema import SourceConfig

MODEL_VERSION = 1
"""Incremented when the same settings give different stays."""

_FIRST_DAY = datetime.datetime(2100, 1, 1)
FIRST_SUBJECT, _FIRST_ADMISSION, _FIRST_STAY = 10_000_000, 20_000_000, 30_000_000
_STAYS_PER_PATIENT = 8
_MINUTE = np.timedelta64(1, "m")
_UNITS = ("Medical ICU", "Surgical ICU", "Cardiac ICU")


class PatientRange(TypedDict):
    """A partition: patients `first_patient` … `first_patient + num_patients - 1`, and the last stay id to read (null: all)."""

    first_patient: int
    num_patients: int
    max_stay_id: int | None


@dataclass(frozen=True)
class Truth:
    """Hidden state of simulated stays, which is in no text.

    onsets: stay_id int64, kind string (shock, respiratory, renal), onset_hour float64 (hours after ICU admission, negative = before).
    severity: stay_id int64, hour int32, severity float32 (0 … 1, mean of the hour).
    """

    onsets: pa.Table
    severity: pa.Table


@dataclass(frozen=True)
class SimulatedStay:
    """One stay of a patient; hour 0 starts at `intime`."""

    stay_id: int
    subject_id: int
    hadm_id: int
    number_in_admission: int
    intime: datetime.datetime
    care_unit: str
    patient: Patient
    age_years: float
    course: Course
    generator: np.random.Generator
    death_time: datetime.datetime | None = None
    """Time of death in this hospital admission (possibly after this stay); None if discharged alive."""


class SimulatorSource:
    """The simulator as a source. Its settings are in `config.simulator`."""

    name = "simulator"

    def __init__(self, config: SourceConfig) -> None:
        self._config = config
        self._settings = config.simulator

    def content_digest(self) -> str:
        """SHA-256 over the simulator's settings and version."""
        content = json.dumps({"model_version": MODEL_VERSION, **result_fields(self._settings)}, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def stay_counts(self) -> StayCounts:
        """About 1.2 stays a patient; the mean of few log-normal lengths may lie far from `mean_stay_hours`."""
        number, mean = self._settings.num_patients, self._settings.mean_stay_hours
        spread = 1.2 + 3 / math.sqrt(number)
        most = math.ceil(number * min(_STAYS_PER_PATIENT, 1.2 * spread))
        return StayCounts(number, most, math.floor(number * mean / spread), math.ceil(most * mean))

    def partitions(self) -> list[PatientRange]:
        """Ranges of patients; with `max_stays`, of as many patients as are needed for that many stays."""
        total, last = self._settings.num_patients, None
        if self._config.max_stays is not None:
            ids: list[int] = []
            for index in range(total):
                ids += [stay.stay_id for stay in self.patient_stays(index)]
                if len(ids) >= self._config.max_stays:
                    total, last = index + 1, ids[self._config.max_stays - 1]
                    break
        number = min(partition_count(self._config.num_partitions, total), total)
        edges = [total * index // number for index in range(number + 1)]
        return [
            {"first_patient": first, "num_patients": end - first, "max_stay_id": last} for first, end in zip(edges, edges[1:], strict=False)
        ]

    def read(self, partition: PatientRange) -> SourceTables:
        """Stays and charted events of a range of patients."""
        stays = list(self.simulate(partition))
        frame = pl.DataFrame([_stay_row(stay) for stay in stays], schema=STAYS_TYPES, orient="row")
        charted = charted_events(stays, self._settings.measurement_density)
        events = pl.concat([raw_events(charted), raw_events(given_events(stays))])
        units = {name: variable.unit for name, variable in load_variables().items()}
        unit = pl.col("variable").replace_strict(units, default=None, return_dtype=pl.String)
        # The simulator gives no implausible value, so no conversion is needed.
        return finish(frame, events.with_columns(unit.alias("unit"), pl.int_range(pl.len(), dtype=pl.Int64).alias("row")), Counter())

    def truth(self, partition: PatientRange) -> Truth:
        """Onsets and severity of the stays that `read` returns."""
        onsets: list[tuple[int, str, float]] = []
        ids, hours, levels = [], [], []
        for stay in self.simulate(partition):
            onsets += [(stay.stay_id, onset.kind, onset.hour) for onset in stay.course.onsets]
            whole = np.floor(stay.course.hours).astype(np.int32)
            means = np.bincount(whole, weights=stay.course.severity) / np.bincount(whole)
            ids.append(np.full(len(means), stay.stay_id))
            hours.append(np.arange(len(means), dtype=np.int32))
            levels.append(means.astype(np.float32))
        columns = list(zip(*onsets, strict=True)) or [(), (), ()]
        return Truth(
            pa.table(
                {
                    "stay_id": pa.array(columns[0], pa.int64()),
                    "kind": pa.array(columns[1], pa.string()),
                    "onset_hour": pa.array(columns[2], pa.float64()),
                }
            ),
            pa.table({"stay_id": np.concatenate(ids).astype(np.int64), "hour": np.concatenate(hours), "severity": np.concatenate(levels)}),
        )

    def simulate(self, partition: PatientRange) -> Iterator[SimulatedStay]:
        """The stays of a partition with everything the simulator computed, also for writers of other formats."""
        first = partition["first_patient"]
        for index in range(first, first + partition["num_patients"]):
            for stay in self.patient_stays(index):
                if partition["max_stay_id"] is None or stay.stay_id <= partition["max_stay_id"]:
                    yield stay

    def patient_stays(self, index: int) -> list[SimulatedStay]:
        """All stays of patient `index`; a death in hospital is the end of the list."""
        rng = np.random.default_rng([self._settings.seed, index])
        patient = draw_patient(rng)
        intime = _FIRST_DAY + datetime.timedelta(minutes=int(rng.integers(0, 60 * 24 * 365 * 20)))
        whole_years = math.floor(patient.age_years)
        born = years_before(intime, whole_years) - datetime.timedelta(days=(patient.age_years - whole_years) * 365)
        stays: list[SimulatedStay] = []
        admission, number = 0, 0
        for place in range(patient.num_stays):
            generator = np.random.default_rng([self._settings.seed, index, place])
            same_admission = place > 0 and generator.random() < 0.5
            if place:
                days = 1.5 + 4 * generator.random() if same_admission else 30 + 400 * generator.random()
                intime = (
                    stays[-1].intime
                    + datetime.timedelta(hours=stays[-1].course.length_hours)
                    + datetime.timedelta(minutes=int(days * 1440))
                )
            admission, number = (admission, number + 1) if same_admission else (admission + 1, 1)
            age = age_at(born, intime)
            stay_id = _FIRST_STAY + index * _STAYS_PER_PATIENT + place
            hadm_id = _FIRST_ADMISSION + index * _STAYS_PER_PATIENT + admission
            unit = _UNITS[int(generator.integers(0, len(_UNITS)))]
            course = simulate_course(patient, self._settings.mean_stay_hours, generator)
            stays.append(
                SimulatedStay(stay_id, FIRST_SUBJECT + index, hadm_id, number, intime, unit, patient, float(age), course, generator)
            )
            if course.died_in_hospital:
                out = intime + datetime.timedelta(hours=course.length_hours)
                death = out if course.died_in_icu else out + datetime.timedelta(days=2)
                return [replace(stay, death_time=death) if stay.hadm_id == hadm_id else stay for stay in stays]
        return stays


def _stay_row(stay: SimulatedStay) -> tuple[object, ...]:
    """The stay's columns in the order of STAYS_SCHEMA."""
    course, patient = stay.course, stay.patient
    outtime = stay.intime + datetime.timedelta(hours=course.length_hours)
    septic = any(onset.kind == "shock" for onset in course.onsets)
    row: dict[str, object] = {
        "stay_id": stay.stay_id,
        "subject_id": stay.subject_id,
        "hadm_id": stay.hadm_id,
        "intime": stay.intime,
        "outtime": outtime,
        "age_years": stay.age_years,
        "sex": "female" if patient.female else "male",
        "race": patient.race,
        "height_cm": patient.height_cm,
        "weight_kg": patient.weight_kg,
        "admission_type": "EMERGENCY",
        "care_unit": stay.care_unit,
        "stay_number_in_admission": stay.number_in_admission,
        "died_in_hospital": stay.death_time is not None,
        "died_in_icu": course.died_in_icu,
        "death_time": stay.death_time,
        "sepsis": septic,
        "source_split": None,
    }
    row |= dict.fromkeys((*LABEL_COLUMNS, *TIMES_OF_STATICS.values()))
    return tuple(row[name] for name in STAYS_TYPES)


def charted_events(stays: list[SimulatedStay], density: float) -> pl.DataFrame:
    """stay_id, variable, time, store_time, value of all charted values.

    Uses the stays' random generators, so a second call with the same stays gives different values.
    """
    ids, variables, sizes, times, values, stored = [], [], [], [], [], []
    for stay in stays:
        intime = np.datetime64(stay.intime, "us")
        for charted in chart(stay.course, density, stay.generator):
            at = intime + charted.minutes * _MINUTE
            delay = np.full(len(at), np.timedelta64("NaT", "us")) if charted.delay_minutes is None else charted.delay_minutes * _MINUTE
            ids.append(stay.stay_id)
            variables.append(charted.variable)
            sizes.append(len(at))
            times.append(at)
            values.append(charted.values)
            stored.append(at + delay)
    labels = pl.DataFrame({"stay_id": ids, "variable": variables}, schema={"stay_id": pl.Int64, "variable": pl.String})
    rows = labels[np.repeat(np.arange(len(ids)), sizes)]
    no_time, no_value = np.array([], "datetime64[us]"), np.array([], float)
    return rows.with_columns(
        pl.Series("time", np.concatenate([no_time, *times])),
        pl.Series("store_time", np.concatenate([no_time, *stored])),
        pl.Series("value", np.concatenate([no_value, *values])),
    )


def given_events(stays: list[SimulatedStay]) -> pl.DataFrame:
    """stay_id, variable, time, end_time, value, text of all treatments.

    Times are in whole minutes. An end lies inside the stay; an instantaneous treatment has none.
    """
    rows = [
        (
            stay.stay_id,
            given.variable,
            stay.intime + datetime.timedelta(minutes=round(given.start * 60)),
            None
            if given.end <= given.start
            else stay.intime + datetime.timedelta(minutes=round(min(given.end, stay.course.length_hours) * 60)),
            None if math.isnan(given.value) else given.value,
            given.text,
        )
        for stay in stays
        for given in stay.course.given
    ]
    types = {
        "stay_id": pl.Int64(),
        "variable": pl.String(),
        "time": pl.Datetime("us"),
        "end_time": pl.Datetime("us"),
        "value": pl.Float64(),
        "text": pl.String(),
    }
    return pl.DataFrame(rows, schema=types, orient="row")
