"""A small data set for every kind of source, for `tests/sources/test_conformance.py`.

A new kind gets the conformance tests by its entry in `EXAMPLES`: a function that writes a few patients into a folder. It should hold a
value in another unit than its variable's, a row of a rule that drops rows and, where the format has times, readings after the discharge and
a weight that is charted during the stay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clinjepa.config.schema import SourceConfig
from tests.sources.test_source_cinc2012 import write_set as write_cinc2012
from tests.sources.test_source_cinc2019 import row as cinc2019_row
from tests.sources.test_source_cinc2019 import write_set as write_cinc2019
from tests.support.data import clif_examples as clif
from tests.support.data import meds_examples as meds
from tests.support.data import mimic_iv_examples as mimic
from tests.support.data import openicu_examples as openicu

SUBJECTS = (880001, 880002, 880003, 880004)


@dataclass(frozen=True)
class SourceExample:
    """A data set of a kind of source, and what is known about it.

    write: writes it into a folder. settings: of `source`, beside kind and path. converted: variable -> value in its own unit that every
    stay with the variable has. dropped: rules that drop rows. weight_hours: hours after ICU admission at which the weight was charted;
    None where the format gives it without a time.
    """

    write: Callable[[Path], object] | None
    settings: dict[str, Any] = field(default_factory=dict)
    converted: dict[str, float] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    weight_hours: float | None = None
    ids: tuple[int, ...] = SUBJECTS

    def config(self, kind: str, folder: Path, **more: Any) -> SourceConfig:
        """The section `source` that reads the example written into `folder`."""
        path = {"path": str(folder)} if self.write is not None else {}
        return SourceConfig(**{"kind": kind, "num_partitions": 3, **path, **self.settings, **more})


def _write_meds(folder: Path) -> None:
    rows = []
    for subject in SUBJECTS:
        inside = {"subject_id": subject, "icustay_id": subject + 1000, "hadm_id": subject + 100}
        died = subject == SUBJECTS[3]
        rows += [each | {"hadm_id": subject + 100} for each in meds.stay_rows(subject=subject, stay=subject + 1000, died=died)]
        rows += [
            meds.row("LAB//220045//bpm", 1, 80.0, **inside),
            meds.row("LAB//220045//bpm", 34, 120.0, **inside),
            meds.row("LAB//220045//bpm", 3, 900.0, **inside),
            meds.row("LAB//223761//°F", 2, 98.6, **inside),
            meds.row("LAB//226512//kg", 4, 70.0, **inside),
            meds.row("LAB//999999//bpm", 2, 1.0, **inside),
        ]
    meds.write_meds(folder, rows)


def _write_mimic(folder: Path) -> None:
    base: mimic.Rows = {}
    for subject in SUBJECTS:
        for name, rows in mimic.hospital(subject=subject, stay=subject + 1000, died=subject == SUBJECTS[3]).items():
            base.setdefault(name, []).extend(rows if subject == SUBJECTS[0] or not name.startswith("d_") else [])
    charted = []
    for subject in SUBJECTS:
        place = {"subject_id": subject, "hadm_id": 100 + subject, "stay_id": subject + 1000}
        charted += [
            mimic.chart(220045, 1, 80.0, "bpm", **place),
            mimic.chart(220045, 34, 120.0, "bpm", **place),
            mimic.chart(220045, 3, 900.0, "bpm", **place),
            mimic.chart(223761, 2, 98.6, "°F", **place),
            mimic.chart(226512, 4, 70.0, "kg", **place),
        ]
    mimic.write_mimic(folder, {"chartevents": charted}, base)


def _write_cinc2012(folder: Path) -> None:
    lines = "00:30,HR,80\n01:00,FiO2,0.5\n02:00,HR,900\n03:00,Nothing,1\n47:00,HR,90\n"
    write_cinc2012(folder, dict.fromkeys(SUBJECTS, lines))


def _write_cinc2019(folder: Path) -> None:
    first = [cinc2019_row(hour, HR="80", FiO2="0.5") for hour in range(1, 9)]
    write_cinc2019(folder, {subject - 880000: [*first, cinc2019_row(9, HR="900")] for subject in SUBJECTS})


def _write_clif(folder: Path) -> None:
    content = clif.tables()
    content["vitals"] += [clif.vital("7", 85, "heart_rate", 120.0), clif.vital("7", 14, "heart_rate", 900.0)]
    for subject in SUBJECTS:
        number = str(subject + 100)
        content["patient"].append(dict(content["patient"][0], patient_id=str(subject)))
        content["hospitalization"].append(clif.stay(str(subject), number, 5, 60, "Home"))
        content["adt"].append(clif.place(number, 10, 40, "icu"))
        content["vitals"] += [clif.vital(number, hour, "heart_rate", 80.0) for hour in (11, 20, 55)]
        content["vitals"].append(clif.vital(number, 12, "weight_kg", 70.0))
    clif.write(folder, content)


def _write_openicu(folder: Path) -> None:
    openicu.write(folder, openicu.mimic(SUBJECTS))


EXAMPLES: dict[str, tuple[str, SourceExample]] = {
    "meds": (
        "meds",
        SourceExample(_write_meds, converted={"temperature": 37.0}, dropped=("unmapped_code", "out_of_range:heart_rate"), weight_hours=4),
    ),
    "meds with a map": (
        "meds",
        SourceExample(
            _write_openicu,
            {"map": "openicu"},
            {"temperature": 37.0, "creatinine": 1.0},
            ("excluded:not_used", "row_without_time", "out_of_range:heart_rate"),
            weight_hours=12,
        ),
    ),
    "mimic_iv": (
        "mimic_iv",
        SourceExample(_write_mimic, converted={"temperature": 37.0}, dropped=("outside_stay", "out_of_range:heart_rate"), weight_hours=4),
    ),
    "cinc2012": (
        "cinc2012",
        SourceExample(_write_cinc2012, converted={"fio2": 50.0}, dropped=("unmapped_code", "out_of_range:heart_rate")),
    ),
    "cinc2019": (
        "cinc2019",
        SourceExample(_write_cinc2019, converted={"fio2": 50.0}, dropped=("out_of_range:heart_rate",)),
    ),
    "clif": (
        "clif",
        SourceExample(_write_clif, converted={"creatinine": 1.0}, dropped=("unmapped_code", "out_of_range:heart_rate"), weight_hours=2),
    ),
    "simulator": ("simulator", SourceExample(None, {"simulator": {"num_patients": 12, "seed": 3}}, ids=())),
}
"""Name of an example -> its kind of source and the example; every kind of `SOURCES` has one."""
