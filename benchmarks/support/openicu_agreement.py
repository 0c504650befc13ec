"""OpenICU's MEDS of the MIMIC-IV demo beside the demo's own tables: what differs, and why, as data."""

from __future__ import annotations

from pathlib import Path

from benchmarks.support.source_agreement import Agreement, Comparison, Read
from clinjepa.config.schema import SourceConfig

FOLDER = "openicu-mimic-iv-demo"
"""Folder below CLINJEPA_DATA: what `openicu_convert.py` writes."""

LEAST_SHARE = 0.97
"""Shares of readings and hours below this are a difference that needs a name."""

_ANY_VESSEL = "OpenICU has gases of all vessels; the raw source drops those that are named as not arterial"
_END_ONLY = "OpenICU writes the rate at the end of its interval, without the beginning; the raw source has the interval"
DIFFERENT = {
    "antibiotic": "OpenICU: some drugs by name, at the order's time, starts and ends of infusions; raw: systemic ones, as intervals",
    "culture": "OpenICU moves a culture without a time of day to the end of its day; raw: intervals of the day",
    "dbp": "OpenICU leaves the second arterial line (item 225310) out",
    "fio2": "OpenICU also takes the fraction on the blood gas's slip",
    "gcs_verbal": "OpenICU takes intubated patients as 1; the raw source leaves them to gcs_verbal_response",
    "insulin_regular_infusion": _END_ONLY,
    "paco2": _ANY_VESSEL,
    "pao2": _ANY_VESSEL,
    "resp_rate": "OpenICU also takes the ventilator's set, spontaneous and total rates",
    "sao2": "OpenICU has gases of all vessels, and charted arterial saturations",
    "sbp": "OpenICU leaves the second arterial line (item 225309) out",
    "urine_output": "OpenICU takes two more items (226566, 227510) and leaves irrigation out, which the raw source subtracts",
    "vasopressin": _END_ONLY,
}
"""Variable -> why its readings or hours in OpenICU's data are others than the raw ones."""

ABSENT = (
    *("albumin_infusion", "amiodarone", "ammonia", "amylase", "anion_gap", "antibiotics_iv", "body_weight", "bumetanide"),
    *("carboxyhemoglobin", "cardiac_output", "chest_tube_output", "crrt", "crrt_mode", "crystalloid", "culture_drawn", "cvp"),
    *("dbp_cuff", "dbp_invasive", "delirium_assessment", "dexmedetomidine", "extubation_event", "fentanyl", "ffp_transfusion"),
    *("fio2_blood_gas", "foley_output", "furosemide", "gastric_output", "gcs_verbal_response", "glucose_fingerstick", "hemodialysis"),
    *("heparin_infusion", "hydromorphone", "icp", "insulin_any", "intubation_event", "invasive_ventilation", "ldh", "lipase"),
    *("map_cuff", "map_invasive", "mean_airway_pressure", "medication", "midazolam", "milrinone", "minute_volume", "morphine"),
    *("neuromuscular_blocker", "nicardipine", "nitroglycerin", "noninvasive_ventilation", "ntprobnp", "o2_device", "o2_flow"),
    *("pap_diastolic", "pap_mean", "pap_systolic", "pcwp", "peak_insp_pressure", "peep", "plateau_pressure", "platelet_transfusion"),
    *("pressure_support", "propofol", "rbc_transfusion", "resp_rate_set", "sbp_cuff", "sbp_invasive", "sodium_bicarbonate"),
    *("stool_output", "svo2", "tidal_volume_observed", "tidal_volume_set", "tidal_volume_spontaneous", "total_protein"),
    *("ultrafiltrate", "vent_mode"),
)
"""Variables of the raw tables of which OpenICU has no concept."""

ONLY_OPENICU = ("gcs_total",)

_ORDERED_RATE = dict.fromkeys(("dobutamine", "dopamine", "epinephrine", "norepinephrine", "phenylephrine"), 0.06)
"""OpenICU writes the ordered rate, MIMIC-IV's column `rate` is what was given: they differ by a few percent."""


def read_both(openicu: Path, raw: Path, scratch: Path) -> Comparison:
    """The two sources side by side. openicu: output of `openicu_convert.py`. scratch: an empty folder."""
    config = SourceConfig(kind="meds", map="openicu", path=str(openicu / "datasets"))
    return Comparison(
        Read.of(config, scratch / "openicu"),
        Read.of(SourceConfig(kind="mimic_iv", path=str(raw)), scratch / "raw"),
        keys=("stay_id", "subject_id", "hadm_id"),
        relative=_ORDERED_RATE,
        from_admission=True,
    )


def different(*kinds: dict[str, Agreement]) -> set[str]:
    """Variables that differ in one of the kinds (readings, hours)."""
    return {name for found in kinds for name, shares in found.items() if min(shares["share_same"], shares["share_of_raw"]) < LEAST_SHARE}


def unnamed(*kinds: dict[str, Agreement]) -> list[str]:
    """Variables that differ without a reason in DIFFERENT."""
    return sorted(different(*kinds) - set(DIFFERENT))
