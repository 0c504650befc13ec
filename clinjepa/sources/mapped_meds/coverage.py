"""The codes that a map lacks, and what share of the rows that is; maps that do not fit a data set are refused.

Shares are of the rows with a number inside ICU stays: a hospital's MEDS also holds diagnoses, bills and years of outpatient care, which no
map of intensive care names. Codes may be free texts: only those of several patients are named, and only in the data card.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TypedDict

import polars as pl

from clinjepa.errors import SourceError
from clinjepa.storage import Folder
from clinjepa.storage.parts import RECORDS

LEAST_SHARE = 0.2
"""Least share of the rows with a number inside ICU stays whose code the map must name."""

NAMED_PATIENTS = 10
"""A code that the map lacks is named if at least this many patients have it in one piece of the extraction."""

NAMED_CODES = 20
"""Codes that are named, at most."""

_MOST_CODES = 100_000
"""Unknown codes of a piece whose patients are counted; further ones enter the total only."""


class UnknownCode(TypedDict):
    """A code that the map lacks: its rows inside ICU stays, and a number of patients that it has at least."""

    code: str
    num_rows: int
    num_patients: int


class CodeCoverage(TypedDict):
    """Rows inside ICU stays. num_numeric: with a number; num_known: those of them whose code the map names.

    num_unknown: rows of any kind whose code the map lacks. unknown: the most frequent of these codes.
    """

    num_numeric: int
    num_known: int
    num_unknown: int
    unknown: list[UnknownCode]


class CoverageCounter:
    """Counts the codes of a piece's rows."""

    def __init__(self) -> None:
        self._numeric = self._known = self._unknown = 0
        self._rows: Counter[str] = Counter()
        self._patients = pl.DataFrame(schema={"code": pl.String, "subject_id": pl.Int64})

    def add(self, rows: pl.DataFrame) -> None:
        """Count rows inside ICU stays: subject_id, code, numeric_value and kind (null where the map lacks the code)."""
        numeric = rows.filter(pl.col("numeric_value").is_not_null())
        self._numeric += numeric.height
        self._known += numeric.height - numeric["kind"].null_count()
        unknown = rows.filter(pl.col("kind").is_null() & pl.col("code").is_not_null())
        self._unknown += unknown.height
        for code, number in unknown.group_by("code").len().sort("len", "code", descending=[True, False]).iter_rows():
            if code in self._rows or len(self._rows) < _MOST_CODES:
                self._rows[code] += number
        named = unknown.filter(pl.col("code").is_in(list(self._rows))).select("code", "subject_id")
        self._patients = pl.concat([self._patients, named]).unique()

    def result(self) -> CodeCoverage:
        """The counts; codes of fewer than NAMED_PATIENTS patients are not among `unknown`."""
        patients = dict(self._patients.group_by("code").len().iter_rows())
        known = [code for code, number in patients.items() if number >= NAMED_PATIENTS]
        first = sorted(known, key=lambda code: (-self._rows[code], code))[: 5 * NAMED_CODES]
        return {
            "num_numeric": self._numeric,
            "num_known": self._known,
            "num_unknown": self._unknown,
            "unknown": [{"code": code, "num_rows": self._rows[code], "num_patients": patients[code]} for code in first],
        }


def add_coverage(pieces: Iterable[CodeCoverage]) -> CodeCoverage:
    """The counts of all pieces; patients of a code are the most of one piece, since pieces may share patients."""
    total: CodeCoverage = {"num_numeric": 0, "num_known": 0, "num_unknown": 0, "unknown": []}
    rows: Counter[str] = Counter()
    patients: dict[str, int] = {}
    for piece in pieces:
        total["num_numeric"] += piece["num_numeric"]
        total["num_known"] += piece["num_known"]
        total["num_unknown"] += piece["num_unknown"]
        for entry in piece["unknown"]:
            rows[entry["code"]] += entry["num_rows"]
            patients[entry["code"]] = max(patients.get(entry["code"], 0), entry["num_patients"])
    first = sorted(rows, key=lambda code: (-rows[code], code))[:NAMED_CODES]
    total["unknown"] = [{"code": code, "num_rows": rows[code], "num_patients": patients[code]} for code in first]
    return total


def read_coverage(extracted: Folder) -> CodeCoverage | None:
    """The coverage that an extraction recorded; None for sources without a map."""
    records = [extracted.read_json(f"{RECORDS}/{name}") for name in extracted.names(RECORDS)]
    found = [record["coverage"] for record in records if "coverage" in record]
    return add_coverage(found) if found else None


def check_coverage(found: CodeCoverage, where: str, code_map: str) -> None:
    """SourceError when the map names too few of the rows inside ICU stays. where: the data set. code_map: the map, for messages."""
    remedy = f"set source.map to the map of this data set, or state the differences in a map of your own that extends {code_map}"
    if not found["num_known"]:
        raise SourceError(f"{where}: {code_map} names no code of the {found['num_numeric']} rows with a number inside ICU stays; {remedy}")
    share = found["num_known"] / found["num_numeric"]
    if share < LEAST_SHARE:
        raise SourceError(
            f"{where}: {code_map} names the codes of only {100 * share:.1f} % of the {found['num_numeric']} rows with a number inside ICU "
            f"stays, at least {100 * LEAST_SHARE:.0f} % are needed; {remedy}"
        )
