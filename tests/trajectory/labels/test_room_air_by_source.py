"""Whether a PaO2 without FiO2 has a P/F ratio, on each source: 21 % only where a device was charted and is none."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from clinjepa.sources import open_source
from clinjepa.sources.extraction import extract_all, has_extractions
from clinjepa.storage import Folder
from clinjepa.trajectory.hours.ingest import build_partition
from clinjepa.trajectory.labels.artifact import part_state
from tests.sources.test_source_cinc2012 import write_set
from tests.support.data import meds_examples as meds
from tests.support.data import mimic_iv_examples as mimic
from tests.support.data.handmade_stays import lenient_config

DEVICE, PAO2 = 226732, 50821


def ratio(kind: str, path: Path | None, out: Path, hour: int, **settings: Any) -> float | None:
    """The P/F ratio of an hour of the first stay; None where it is unknown."""
    config = lenient_config(source={"kind": kind, "path": None if path is None else str(path), "num_partitions": 1} | settings)
    source, folder, extracted = open_source(config.source), Folder(out / "ingest"), None
    if has_extractions(source):
        extracted = Folder(out / "extracted")
        extract_all(source, extracted, 1024)
    build_partition(source, source.partitions()[0], config, folder, "p", extracted)
    state = part_state(folder, "p", pl.DataFrame(folder.read_table("stays/p.parquet")), ["pf_ratio"])
    value = state.column("pf_ratio")[(state.rows.hour_R == hour) & (state.rows.stay_id_R == state.rows.stay_id_R[0])][0]
    return None if math.isnan(value) else float(value)


@pytest.mark.parametrize("kind", ["mimic_iv", "meds"])
@pytest.mark.parametrize(("device", "expected"), [(None, None), ("None", 63 / 0.21), ("Nasal cannula", None)])
def test_mimic_has_room_air_where_its_device_is_none(tmp_path, kind, device, expected):
    if kind == "mimic_iv":
        charts = [mimic.chart(DEVICE, 1.2, text=device)] if device else [mimic.chart(220045, 1.2, 80)]
        path = mimic.write_mimic(tmp_path / "in", {"labevents": [mimic.lab(PAO2, 3, 63, "mm Hg")], "chartevents": charts})
    else:
        charts = [meds.chart(DEVICE, 1.2, None, text_value=device)] if device else [meds.chart(220045, 1.2, 80.0)]
        path = meds.write_meds(tmp_path / "in", [*meds.stay_rows(), meds.row(f"LAB//{PAO2}//mm Hg", 3, 63.0), *charts])
    found = ratio(kind, path, tmp_path, 3)
    assert found == (None if expected is None else pytest.approx(expected, rel=1e-5))


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("03:00,PaO2,63\n", None),
        ("00:10,MechVent,1\n03:00,PaO2,63\n05:00,MechVent,1\n", None),
        ("00:10,MechVent,1\n02:00,FiO2,0.5\n03:00,PaO2,63\n", 126.0),
    ],
)
def test_cinc_2012_charts_no_device_and_so_never_has_room_air(tmp_path, lines, expected):
    path = write_set(tmp_path / "in", {1: lines})
    assert ratio("cinc2012", path, tmp_path, 3) == (None if expected is None else pytest.approx(expected))
