"""Copies of a MIMIC-IV demo folder made any number of times larger: every id moves, so that a join of two tables does not fan out.

Per copy: subject_id + 1e5; hadm_id, stay_id, transfer_id, labevent_id, microevent_id + 1e7; pharmacy_id, specimen_id, micro_specimen_id,
orderid, linkorderid + 1e8; poe_id and emar_id take the new subject_id as their prefix. Dictionaries are copied as they stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from clinjepa.sources.simulated.gzip_stream import GzipStream, deflated

OFFSETS = {
    "subject_id": 10**5,
    **dict.fromkeys(("hadm_id", "stay_id", "transfer_id", "labevent_id", "microevent_id"), 10**7),
    **dict.fromkeys(("pharmacy_id", "specimen_id", "micro_specimen_id", "orderid", "linkorderid"), 10**8),
}
PREFIXED = ("poe_id", "emar_id", "discontinue_of_poe_id", "discontinued_by_poe_id")


def copy_demo(demo: Path, out: Path, factor: int, more: Sequence[Path] = ()) -> dict[str, int]:
    """Write `factor` copies of the tables of `demo` as one MIMIC-IV folder; returns rows per table.

    more: further tables of `hosp/` (emar of another version). A folder whose `copies.json` is there is finished, and is left alone.
    """
    done = out / "copies.json"
    tables = [*sorted((demo / "hosp").glob("*.csv.gz")), *sorted((demo / "icu").glob("*.csv.gz")), *more]
    if done.exists():
        return {row["table"]: row["rows"] for row in pl.read_json(done).to_dicts()}
    rows: dict[str, int] = {}
    for path in tables:
        folder = path.parent.name if path.parent.parent == demo else "hosp"
        target = out / folder / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        table = pl.read_csv(path, infer_schema=False)
        name = f"{folder}/{path.name.removesuffix('.csv.gz')}"
        if "subject_id" not in table.columns:
            target.write_bytes(path.read_bytes())
            rows[name] = table.height
            continue
        with open(target, "wb") as file:
            stream = GzipStream(file)
            for copy in range(factor):
                stream.append(deflated(moved(table, copy).write_csv(include_header=copy == 0).encode()))
            stream.close()
        rows[name] = table.height * factor
    pl.DataFrame({"table": list(rows), "rows": list(rows.values())}).write_json(done)
    return rows


def moved(table: pl.DataFrame, copy: int) -> pl.DataFrame:
    """The table (all columns strings) with the ids of copy number `copy`; number 0 is the table itself."""
    offset = [
        (pl.col(name).cast(pl.Int64) + copy * step).cast(pl.String).alias(name) for name, step in OFFSETS.items() if name in table.columns
    ]
    subject = (pl.col("subject_id").cast(pl.Int64) + copy * OFFSETS["subject_id"]).cast(pl.String)
    prefixed = [(subject + pl.col(name).str.extract(r"^\d+(-.*)$", 1)).alias(name) for name in PREFIXED if name in table.columns]
    return table.with_columns(offset + prefixed)
