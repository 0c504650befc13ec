"""The CLIF tables of the MIMIC-IV demo beside its own tables: which stays and which hourly values agree."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

import polars as pl

from clinjepa.config.schema import SourceConfig
from clinjepa.sources import open_source
from clinjepa.sources.extraction import extract_all, read_partition
from clinjepa.storage import Folder

ZONE = "Etc/GMT+5"
"""The demo's CLIF times are MIMIC's times + 5 h, without daylight saving."""

ABSENT_FROM_CLIF = (
    *("ammonia", "amylase", "anion_gap", "bands_pct", "base_excess", "carboxyhemoglobin", "ck", "ck_mb", "etco2", "fibrinogen"),
    *("fio2_blood_gas", "glucose_fingerstick", "hba1c", "hematocrit", "lipase", "mch", "mchc", "mcv", "methemoglobin", "ntprobnp"),
    *("rbc", "rdw", "total_co2_gas", "cardiac_output", "cvp", "icp", "pap_diastolic", "pap_mean", "pap_systolic", "pcwp"),
    *("chest_tube_output", "foley_output", "gastric_output", "stool_output", "ultrafiltrate", "urine_output"),
    *("culture", "culture_drawn", "extubation_event", "intubation_event", "invasive_ventilation", "noninvasive_ventilation"),
    *("hemodialysis", "ffp_transfusion", "platelet_transfusion", "rbc_transfusion", "gcs_verbal_response"),
    *("dbp_cuff", "dbp_invasive", "map_cuff", "map_invasive", "sbp_cuff", "sbp_invasive", "tidal_volume_spontaneous"),
)
"""Variables of the raw tables that CLIF 2.1 has no place for, or that the demo's conversion left out."""

_WHOLE_BLOOD = "CLIF has one category for the laboratory's value and that of a blood-gas machine; the raw source reads the laboratory's"
_ANY_VESSEL = "the demo's conversion calls every gas of unknown vessel arterial; the raw source drops those that are named otherwise"
DIFFERENT = {
    "antibiotic": "raw: orders, from start to stop; CLIF: administrations",
    "chloride": _WHOLE_BLOOD,
    "crrt": "raw: the procedure from start to end; CLIF: a row per charted hour",
    "crystalloid": "CLIF does not say which fluid only carries a drug; the raw source leaves carriers out",
    "dexmedetomidine": "15 rows that the demo v2.2 lacks (the CLIF demo was made from a newer release)",
    "hemoglobin": _WHOLE_BLOOD,
    "insulin_regular_infusion": "the conversion makes rates of amounts that were given without one",
    "medication": "other names of drugs; the raw demo v2.2 has no emar",
    "o2_device": "CLIF has one word for several masks, and tells a tracheostomy with a ventilator from one without",
    "o2_flow": "CLIF takes the flow of an additional cannula too",
    "paco2": _ANY_VESSEL,
    "pao2": _ANY_VESSEL,
    "potassium": _WHOLE_BLOOD,
    "sao2": _ANY_VESSEL,
    "sodium": _WHOLE_BLOOD,
    "svo2": "CLIF takes the laboratory's mixed venous saturation too",
    "tidal_volume_observed": "CLIF takes the spontaneous tidal volume too",
    "troponin_t": "the conversion writes <0.01 ng/mL as 10 ng/L; the raw source has no number there",
    "vent_mode": "CLIF has one word for several modes; by mask it is NIV, whatever its name",
}
"""Variable -> why its values in CLIF are others than the raw ones."""

_ONLY_CLIF = ("gcs_total",)
_ROUNDED = {"temperature": 0.06, "body_weight": 0.06, "calcium_ionized": 0.02}
"""Differences that CLIF's rounding makes: degrees and kilograms to one place, ionised calcium by way of mg/dL."""


class Agreement(TypedDict):
    """Readings of one variable in stays that both have, at the same time and with the same value."""

    num_clif: int
    num_raw: int
    share_same: float
    """Same readings over those of CLIF."""
    share_of_raw: float
    """Same readings over those of the raw tables."""


class StayAgreement(TypedDict):
    """Stays of both, paired by admission and place in it."""

    num_stays: int
    num_stays_raw: int
    num_matched: int
    num_same_window: int
    different: dict[str, int]
    """Column -> matched stays of the same window in which it differs. Names of units, kinds of admission, heights and weights are not
    compared: CLIF has its own words, and other rules of which one is the first."""


def read_both(clif: Path, raw: Path, scratch: Path) -> dict[str, tuple[pl.DataFrame, pl.DataFrame]]:
    """`clif` and `mimic_iv` -> (stays, events)."""
    found = {}
    for kind, path in (("clif", clif), ("mimic_iv", raw)):
        source = open_source(SourceConfig(kind=kind, path=str(path), num_partitions=1, **({"time_zone": ZONE} if kind == "clif" else {})))
        extracted = Folder(scratch / kind)
        extract_all(source, extracted, 1024)
        (partition,) = source.partitions()
        tables = read_partition(source, partition, extracted)
        found[kind] = pl.DataFrame(tables.stays), pl.DataFrame(tables.events).with_columns(pl.col("variable").cast(pl.String))
    return found


def _matched(both: dict[str, tuple[pl.DataFrame, pl.DataFrame]]) -> pl.DataFrame:
    keys = ["subject_id", "hadm_id", "stay_number_in_admission"]
    return both["clif"][0].join(both["mimic_iv"][0], on=keys, suffix="_raw")


def _same_window() -> pl.Expr:
    return (pl.col("intime") == pl.col("intime_raw")) & (pl.col("outtime") == pl.col("outtime_raw"))


def compare_stays(both: dict[str, tuple[pl.DataFrame, pl.DataFrame]]) -> StayAgreement:
    """How far the stays agree. both: result of `read_both`."""
    matched = _matched(both)
    same = matched.filter(_same_window())
    columns = ("age_years", "sex", "died_in_hospital", "died_in_icu", "death_time", "hospital_admission_time", "hospital_discharge_time")
    columns += ("next_icu_admission_time", "next_hospital_admission_time", "chronic_dialysis", "race")
    differing = {name: same.filter(pl.col(name).ne_missing(pl.col(f"{name}_raw"))).height for name in columns}
    return {
        "num_stays": both["clif"][0].height,
        "num_stays_raw": both["mimic_iv"][0].height,
        "num_matched": matched.height,
        "num_same_window": same.height,
        "different": {name: number for name, number in differing.items() if number},
    }


def compare_readings(both: dict[str, tuple[pl.DataFrame, pl.DataFrame]]) -> tuple[dict[str, Agreement], dict[str, int]]:
    """(agreement of every variable that both have, raw readings of those that CLIF lacks), in stays of the same window."""
    pairs = _matched(both).filter(_same_window()).select("stay_id", "stay_id_raw")
    clif = both["clif"][1].join(pairs, on="stay_id").with_columns(stay_id=pl.col("stay_id_raw"))
    raw = both["mimic_iv"][1].join(pairs.select(stay_id="stay_id_raw"), on="stay_id")
    found: dict[str, Agreement] = {}
    absent: dict[str, int] = {}
    for name in sorted({*clif["variable"].unique(), *raw["variable"].unique()} - set(_ONLY_CLIF)):
        ours, theirs = (
            events.filter(pl.col("variable") == name).select("stay_id", "time", "value", "text").unique() for events in (clif, raw)
        )
        if not ours.height:
            absent[name] = theirs.height
            continue
        joined = ours.join(theirs, on=["stay_id", "time"], suffix="_raw")
        near = (pl.col("value") - pl.col("value_raw")).abs() <= pl.col("value_raw").abs() * 1e-4 + _ROUNDED.get(name, 0.0)
        same_words = pl.col("value").is_null() & (pl.col("text").str.strip_chars() == pl.col("text_raw").str.strip_chars())
        same = joined.filter(near.fill_null(False) | same_words).select("stay_id", "time", "value", "text").unique().height
        found[name] = {
            "num_clif": ours.height,
            "num_raw": theirs.height,
            "share_same": same / ours.height,
            "share_of_raw": same / max(1, theirs.height),
        }
    return found, absent
