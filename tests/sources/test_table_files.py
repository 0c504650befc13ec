"""Tables of MIMIC-IV and shards of MEDS as other programs leave them: marks, blanks, strays, packed files without end."""

from __future__ import annotations

import codecs
import gzip
import re
import shutil

import pytest

from clinjepa.config.schema import SourceConfig
from clinjepa.errors import ClinJepaError, SourceError
from clinjepa.sources.access import source_access
from clinjepa.sources.files import csv_stream
from clinjepa.sources.mimic_iv.tables import load_tables
from tests.support.data import meds_examples
from tests.support.data.mimic_iv_examples import as_csv, at, chart, hospital, infusion, lab, read_all, write_mimic, write_table
from tests.support.data.real_data import real
from tests.support.machines.pipes import put_pipe

TABLES = {
    "chartevents": [chart(220045, hour, 80 + hour, "bpm", storetime=at(hour + 0.1)) for hour in range(3)],
    "labevents": [lab(50971, hour, 4.25, "mEq/L") for hour in range(3)],
    "inputevents": [infusion(221906, 1, 3, 0.2, "mcg/kg/min", 5)],
}


def given_tables() -> dict[str, bytes]:
    """Every table of the example as text."""
    rows = {name: list(found) for name, found in hospital().items()}
    for name, more in TABLES.items():
        rows.setdefault(name, []).extend(more)
    return {name: as_csv(name, rows.get(name, [])) for name in load_tables() if name != "emar" or name in rows}


def same_as_written(folder, changed, packed: bool = True) -> None:
    """The example read from tables that `changed` has rewritten equals the example as it is."""
    wanted = read_all(write_mimic(folder / "plain", TABLES))
    for name, content in given_tables().items():
        write_table(folder / "changed", name, changed(content), packed=packed)
    found = read_all(folder / "changed")
    assert wanted.events.num_rows and found.events.equals(wanted.events) and found.stays.equals(wanted.stays)


@pytest.mark.parametrize(("packed", "marks"), [(True, 1), (False, 2)])
def test_a_byte_order_mark_is_no_part_of_the_first_column_s_name(tmp_path, packed, marks):
    same_as_written(tmp_path, lambda content: marks * codecs.BOM_UTF8 + content, packed)


@pytest.mark.parametrize(("encoding", "packed"), [("utf-16", True), ("utf-16-le", False), ("utf-16-be", True)])
def test_utf_16_is_named_with_or_without_its_mark(tmp_path, encoding, packed):
    (write_mimic(tmp_path, TABLES) / "icu" / "chartevents.csv.gz").unlink()
    write_table(tmp_path, "chartevents", given_tables()["chartevents"].decode().encode(encoding), packed=packed)
    with pytest.raises(SourceError, match="chartevents.csv.*: the file is UTF-16; export the table as UTF-8"):
        read_all(tmp_path)


@pytest.mark.parametrize("blanks", [b" , ", b", ", b"\t,"])
def test_blanks_around_fields_are_no_part_of_them(tmp_path, blanks):
    """A comma inside quotation marks is text."""

    def spaced(content: bytes) -> bytes:
        return b"".join(line if b'"' in line else line.replace(b",", blanks) for line in content.splitlines(keepends=True))

    same_as_written(tmp_path, spaced)


def test_a_pipe_in_the_place_of_a_table_is_named_and_not_waited_for(tmp_path):
    put_pipe(write_mimic(tmp_path, TABLES) / "icu" / "chartevents.csv.gz")
    with pytest.raises(ClinJepaError, match="chartevents.csv.gz is no regular file"):
        read_all(tmp_path)


def test_whole_numbers_with_a_point_are_ids(tmp_path):
    """As pandas writes an integer column with gaps."""

    def with_points(content: bytes) -> bytes:
        return re.sub(rb"(?m)(?<![\d:.-])(\d+)(?=,|$)", rb"\1.0", content)

    same_as_written(tmp_path, with_points)


@pytest.mark.parametrize("number", ["1.5", "1e3", "12 3", "1,0", "1234567890123456.0"])
def test_what_is_no_whole_number_is_named_by_row_and_column(tmp_path, number):
    content = given_tables()["icustays"].replace(b"1,101,11,", f'1,101,"{number}",'.encode())
    write_table(write_mimic(tmp_path, TABLES), "icustays", content)
    with pytest.raises(SourceError, match="icustays.csv.gz, row 2: the value of column 'stay_id' is not an integer"):
        read_all(tmp_path)


STRAYS = ["icu/._chartevents.csv.gz", "icu/.ipynb_checkpoints/chartevents-checkpoint.csv", "hosp/~$labevents.csv", "icu/.DS_Store"]
STRAYS += ["__MACOSX/icu/._icustays.csv.gz", "._hosp", ".Trash-0/icu/icustays.csv.gz"]


def test_strays_beside_the_tables_change_nothing(tmp_path):
    wanted = read_all(write_mimic(tmp_path / "plain", TABLES))
    folder = write_mimic(tmp_path / "stray", TABLES)
    for stray in STRAYS:
        (folder / stray).parent.mkdir(parents=True, exist_ok=True)
        (folder / stray).write_bytes(b"\0\5\26\7")
    assert read_all(folder).events.equals(wanted.events)


def test_strays_beside_the_shards_of_meds_are_no_shards(tmp_path):
    rows = [*meds_examples.stay_rows(), meds_examples.chart(220045, 1, 80, "bpm")]
    wanted = meds_examples.read_all(meds_examples.write_meds(tmp_path / "plain", rows))
    folder = meds_examples.write_meds(tmp_path / "stray", rows)
    for stray in ("data/train/._0.parquet", "data/.ipynb_checkpoints/0-checkpoint.parquet", "data/._train/0.parquet"):
        (folder / stray).parent.mkdir(parents=True, exist_ok=True)
        (folder / stray).write_bytes(b"\0\5\26\7")
    assert meds_examples.read_all(folder).events.equals(wanted.events)


def test_a_stray_does_not_make_open_data_credentialed(tmp_path):
    folder = shutil.copytree(real("mimic-iv-demo-meds", "https://physionet.org/content/mimic-iv-demo-meds/0.0.1/"), tmp_path / "demo")
    folder.chmod(0o755)
    (folder / "data").chmod(0o755)
    (folder / "data" / "._0.parquet").write_bytes(b"\0")
    config = SourceConfig(kind="meds", path=str(folder))
    assert source_access(config) == "open"
    (folder / "data" / "mine.parquet").write_bytes(b"\0")
    assert source_access(config) == "credentialed"


def test_a_packed_table_without_end_is_refused_in_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_stream, "UNPACKED_ALLOWANCE", 2**20)
    header, first, *_ = given_tables()["chartevents"].splitlines(keepends=True)
    path = write_mimic(tmp_path, TABLES) / "icu" / "chartevents.csv.gz"
    path.write_bytes(gzip.compress(header + first * 200_000, 9))
    with pytest.raises(SourceError, match="chartevents.csv.gz: unpacks to more than 200 times its size"):
        read_all(tmp_path)
