"""Simulated stays -> what was ordered: prescriptions, emar and microbiologyevents.

The simulator's medications are given in emar; its intravenous antibiotics are also prescribed, with a blood culture before the first dose.
The rest are the demo's most usual drugs (no antibiotics) and cultures at admission, at the demo's rows per admission.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from clinjepa.sources.simulated.mimic_filler import filler_definitions
from clinjepa.sources.simulated.mimic_people import admission_span
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
"""stay_id -> what its filler rows are drawn from, in a fixed order of tables."""


def order_tables(
    stays: Sequence[SimulatedStay], given: pl.DataFrame, generators: dict[int, np.random.Generator]
) -> dict[str, pl.DataFrame]:
    """prescriptions, emar and microbiologyevents of whole patients; each admission draws from the generator of its first stay."""
    definitions = filler_definitions()
    prescriptions: list[dict[str, Any]] = []
    emar: list[dict[str, Any]] = []
    cultures: list[dict[str, Any]] = []
    doses: dict[int, list[dict[str, Any]]] = {}
    for row in given.filter(pl.col("variable").is_in(["medication", "antibiotics_iv"])).to_dicts():
        doses.setdefault(row["stay_id"], []).append(row)
    admissions: dict[int, list[SimulatedStay]] = {}
    for stay in stays:
        admissions.setdefault(stay.hadm_id, []).append(stay)
    drugs = definitions["drugs"]
    shares = np.array([drug[3] for drug in drugs], float)
    for hadm_id, mine in admissions.items():
        rng, (start, end) = generators[mine[0].stay_id], admission_span(mine)
        whose = {"subject_id": mine[0].subject_id, "hadm_id": hadm_id}
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
            emar += [whose | _administration(row["text"], row["time"], "Administered") for row in rows if row["variable"] == "medication"]
            courses = [row for row in rows if row["variable"] == "antibiotics_iv"]
            if courses:
                begin, last = courses[0]["time"], courses[-1]["time"]
                prescriptions.append(whose | _prescription(_PRESCRIBED[courses[0]["text"]], "IV", "MAIN", begin, last + 8 * _HOUR))
                cultures.append(whose | _culture(_CULTURES[1], begin - 0.5 * _HOUR))
    lists = {"hosp/prescriptions": prescriptions, "hosp/emar": emar, "hosp/microbiologyevents": cultures}
    return {name: pl.DataFrame(rows, infer_schema_length=None) for name, rows in lists.items()}


def _prescription(drug: str, route: str, kind: str, start: datetime.datetime, stop: datetime.datetime) -> dict[str, Any]:
    return {"starttime": start, "stoptime": stop, "drug_type": kind, "drug": drug, "route": route}


def _administration(drug: str, time: datetime.datetime, word: str) -> dict[str, Any]:
    return {"charttime": time, "medication": drug, "event_txt": word, "scheduletime": time, "storetime": time}


def _culture(kind: tuple[str, int, str, int], time: datetime.datetime) -> dict[str, Any]:
    specimen, specimen_id, test, test_id = kind
    day = time.replace(hour=0, minute=0, second=0)
    result = {"storedate": day, "storetime": time + 48 * _HOUR, "comments": "NO GROWTH."}
    return {
        "chartdate": day,
        "charttime": time,
        "spec_itemid": specimen_id,
        "spec_type_desc": specimen,
        "test_seq": 1,
        "test_itemid": test_id,
        "test_name": test,
    } | result
