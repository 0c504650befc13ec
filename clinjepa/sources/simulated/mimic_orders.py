"""Simulated stays to the tables of orders: prescriptions, emar and microbiologyevents.

The simulator's medications are written to emar. Its intravenous antibiotics are also prescribed, with a blood culture before the first
dose. Filler rows are the demo's most frequent drugs (no antibiotics) and cultures at admission, at the demo's rows per admission.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from clinjepa.sources.simulated.mimic_filler import filler_definitions
from clinjepa.sources.simulated.mimic_people import Row, admission_span
from clinjepa.sources.simulated.source import SimulatedStay

_EMAR_ROWS = 128.0
"""emar rows per admission of the MIMIC-IV demo v1.0."""

_EMAR_WORDS = ("Administered", "Flushed", "Not Given", "Confirmed", "Not Flushed")
_EMAR_SHARES = (0.71, 0.09, 0.075, 0.065, 0.06)
_PRESCRIBED = {"Piperacillin/Tazobactam (Zosyn)": "Piperacillin-Tazobactam", "Vancomycin": "Vancomycin", "Cefepime": "CefePIME"}
_CULTURES = (("URINE", 70079, "URINE CULTURE", 90039), ("BLOOD CULTURE", 70012, "Blood Culture, Routine", 90201))
_SCREEN = ("MRSA SCREEN", 70091, "MRSA SCREEN", 90115)
_HOUR = datetime.timedelta(hours=1)

Generators = dict[int, np.random.Generator]
"""stay_id -> random generator of its filler rows, which are drawn in a fixed order of tables."""


class _Dose(NamedTuple):
    """A medication or an intravenous antibiotic that the simulator gave."""

    stay_id: int
    variable: str
    text: str
    time: datetime.datetime


def order_tables(
    stays: Sequence[SimulatedStay], given: pl.DataFrame, generators: dict[int, np.random.Generator]
) -> dict[str, pl.DataFrame]:
    """prescriptions, emar and microbiologyevents of whole patients; an admission uses the random generator of its first stay."""
    definitions = filler_definitions()
    prescriptions: list[Row] = []
    emar: list[Row] = []
    cultures: list[Row] = []
    doses: dict[int, list[_Dose]] = {}
    drugs_given = given.filter(pl.col("variable").is_in(["medication", "antibiotics_iv"])).select(_Dose._fields)
    for dose in map(_Dose._make, drugs_given.iter_rows()):
        doses.setdefault(dose.stay_id, []).append(dose)
    admissions: dict[int, list[SimulatedStay]] = {}
    for stay in stays:
        admissions.setdefault(stay.hadm_id, []).append(stay)
    drugs = definitions["drugs"]
    shares = np.array([drug[3] for drug in drugs], float)
    for hadm_id, mine in admissions.items():
        rng, (start, end) = generators[mine[0].stay_id], admission_span(mine)
        whose: Row = {"subject_id": mine[0].subject_id, "hadm_id": hadm_id}
        minutes = int((end - start).total_seconds() // 60)
        number = rng.poisson(definitions["rows_per_admission"]["prescriptions"])
        for choice, at, days in zip(
            rng.choice(len(drugs), size=number, p=shares / shares.sum()),
            rng.integers(0, minutes, size=number),
            rng.integers(1, 5, size=number),
            strict=True,
        ):
            begin = (start + datetime.timedelta(minutes=int(at))).replace(minute=0)
            name, route, kind, _ = drugs[choice]
            prescriptions.append(whose | _prescription(name, route, kind, begin, begin + datetime.timedelta(days=int(days))))
        number = rng.poisson(_EMAR_ROWS)
        for choice, at, word in zip(
            rng.choice(len(drugs), size=number, p=shares / shares.sum()),
            rng.integers(0, minutes, size=number),
            rng.choice(len(_EMAR_WORDS), size=number, p=_EMAR_SHARES),
            strict=True,
        ):
            emar.append(whose | _administration(drugs[choice][0], start + datetime.timedelta(minutes=int(at)), _EMAR_WORDS[word]))
        for kind, count in ((_SCREEN, 1), (_CULTURES[0], int(rng.poisson(definitions["rows_per_admission"]["microbiologyevents"] - 1)))):
            cultures += [whose | _culture(kind, start + _HOUR)] * count
        for stay in mine:
            rows = doses.get(stay.stay_id, [])
            emar += [whose | _administration(row.text, row.time, "Administered") for row in rows if row.variable == "medication"]
            courses = [row for row in rows if row.variable == "antibiotics_iv"]
            if courses:
                begin, last = courses[0].time, courses[-1].time
                prescriptions.append(whose | _prescription(_PRESCRIBED[courses[0].text], "IV", "MAIN", begin, last + 8 * _HOUR))
                cultures.append(whose | _culture(_CULTURES[1], begin - 0.5 * _HOUR))
    lists = {"hosp/prescriptions": prescriptions, "hosp/emar": emar, "hosp/microbiologyevents": cultures}
    return {name: pl.DataFrame(rows, infer_schema_length=None) for name, rows in lists.items()}


def _prescription(drug: str, route: str, kind: str, start: datetime.datetime, stop: datetime.datetime) -> Row:
    return {"starttime": start, "stoptime": stop, "drug_type": kind, "drug": drug, "route": route}


def _administration(drug: str, time: datetime.datetime, word: str) -> Row:
    return {"charttime": time, "medication": drug, "event_txt": word, "scheduletime": time, "storetime": time}


def _culture(kind: tuple[str, int, str, int], time: datetime.datetime) -> Row:
    specimen, specimen_id, test, test_id = kind
    day = time.replace(hour=0, minute=0, second=0)
    result: Row = {"storedate": day, "storetime": time + 48 * _HOUR, "comments": "NO GROWTH."}
    return {
        "chartdate": day,
        "charttime": time,
        "spec_itemid": specimen_id,
        "spec_type_desc": specimen,
        "test_seq": 1,
        "test_itemid": test_id,
        "test_name": test,
    } | result
