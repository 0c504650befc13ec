"""Rows of a mapped MEDS data set that say when ICU stays and hospitalisations begin and end and who the patients are.

They are read once, out of the map's files of stays, and kept beside the extracted rows: every piece of the extraction needs them.
"""

from __future__ import annotations

from collections import Counter

import polars as pl

from clinjepa.clinical.code_maps import CodeMap
from clinjepa.errors import SourceError
from clinjepa.sources.clif.tables import number_ids
from clinjepa.sources.mapped_meds.codes import CodeReader
from clinjepa.sources.mapped_meds.files import MedsFiles, blocks
from clinjepa.sources.mimic_iv.stay_facts import drop_unusable
from clinjepa.storage import Folder

KEPT = "structure.parquet"
_ROWS = 1_000_000
_COLUMNS = (
    *("subject_id", "time", "kind", "key", "rest", "numeric_value", "text_value"),
    *("stay", "hospitalization", "care_unit", "row"),
)
_MOST = 99
"""ICU stays, or hospitalisations, of one patient whose ids are made here."""
_LARGEST_SUBJECT = 10**15
_LONGEST_ID = 18
"""Digits of an id that is taken as the number that it is: all of int64 but its 19 digits."""


def read_structure(folder: Folder, files: MedsFiles, code_map: CodeMap, extracted: Folder | None = None) -> pl.DataFrame:
    """Rows of structure: subject_id, time, kind (`stays.begin`, `people.sex` …), key, rest, values and ids, sorted.

    Ids of stays and of hospitalisations are numbers (`number_ids`). Whether all of a kind are plain ones is decided by the whole data set.

    Args:
        folder: The data set.
        files: Its files.
        code_map: Its map.
        extracted: Folder of the extraction; the rows are kept there and read from there.
    """
    if extracted is not None and extracted.exists(KEPT):
        return pl.DataFrame(extracted.read_table(KEPT))
    reader, frames = CodeReader(code_map), [_nothing()]
    places = {name: place for place, name in enumerate(files.all)}
    for name in files.stays:
        for block in blocks(folder, name, code_map, places[name], _ROWS):
            rows = reader.place(block)
            is_structure = pl.col("kind").str.contains(".", literal=True).fill_null(False)
            frames.append(rows.drop_nulls("subject_id").filter(is_structure).select(_COLUMNS))
    rows = pl.concat(frames).sort("subject_id", "time", "row", nulls_last=True)
    found = rows.with_columns(_numbers(rows[name], folder.address) for name in ("stay", "hospitalization"))
    if extracted is not None:
        extracted.write_table(KEPT, found.to_arrow(compat_level=pl.CompatLevel.oldest()))
    return found


def _numbers(ids: pl.Series, where: str) -> pl.Series:
    """A column of ids as int64; a missing one stays null."""
    distinct = ids.drop_nulls().unique()
    return ids.replace_strict(distinct, number_ids(distinct, where, _LONGEST_ID), default=None, return_dtype=pl.Int64)


def of_kind(structure: pl.DataFrame, kind: str) -> pl.DataFrame:
    """The rows of one kind that have a time."""
    return structure.filter((pl.col("kind") == kind) & pl.col("time").is_not_null())


def icu_stays(structure: pl.DataFrame, code_map: CodeMap, where: str, counts: Counter[str]) -> pl.DataFrame:
    """stay_id, subject_id, hadm_id (as recorded), intime, outtime and care_unit of the usable stays.

    Without ids of stays the first end before the next beginning is that of a stay, and its id is the patient's with two digits behind it.
    With `stays.open: last_row` a stay without an end is kept, with an outtime of null.

    Args:
        structure: Result of `read_structure`.
        code_map: The map.
        where: The data set, for messages.
        counts: Receives `stay_without_id`, `stay_without_beginning`, `duplicate_row` and the rules of `drop_unusable`.

    Raises:
        SourceError: No stay is usable, or one id has two beginnings or ends, or belongs to two patients.
    """
    begins = structure.filter(pl.col("kind") == "stays.begin")
    if not begins.height:
        codes = ", ".join(code_map.structure["stays.begin"][:3])
        raise SourceError(
            f"{where}: no row has a code that begins an ICU stay ({codes} …) of {code_map.where}; set source.map to the map of this data "
            "set, or name its codes under stays.begin of a map of your own"
        )
    timed = begins.drop_nulls("time")
    if timed.height < begins.height:
        counts["stay_without_beginning"] += begins.height - timed.height
    ends = of_kind(structure, "stays.end")
    stays = (_by_id if timed["stay"].count() else _by_time)(timed, ends, where, counts)
    if code_map.open_stays == "last_row":
        open_ended = stays.filter(pl.col("outtime").is_null())
        stays = pl.concat([drop_unusable(stays.drop_nulls("outtime"), counts), open_ended])
    else:
        stays = drop_unusable(stays, counts)
    if not stays.height:
        raise SourceError(
            f"{where}: none of the {begins.height} rows that begin an ICU stay by {code_map.where} can be used; a stay needs a time, an "
            "end after it (or stays.open: last_row), and an id where others have one"
        )
    return stays.sort("stay_id").select("stay_id", "subject_id", "hadm_id", "intime", "outtime", "care_unit")


def _by_id(begins: pl.DataFrame, ends: pl.DataFrame, where: str, counts: Counter[str]) -> pl.DataFrame:
    named = begins.drop_nulls("stay")
    if named.height < begins.height:
        counts["stay_without_id"] += begins.height - named.height
    first = _each_once(named, where, "beginnings", counts)
    if not ends["stay"].count():  # only the beginnings have ids
        return _until_next(_described(first), ends)
    last = _each_once(ends.drop_nulls("stay"), where, "ends", counts)
    return _described(first).join(
        last.select(pl.col("stay").alias("stay_id"), "subject_id", pl.col("time").alias("outtime")),
        on=["stay_id", "subject_id"],
        how="left",
        maintain_order="left",
    )


def _each_once(rows: pl.DataFrame, where: str, what: str, counts: Counter[str]) -> pl.DataFrame:
    distinct = rows.unique(["stay", "subject_id", "time"], keep="first", maintain_order=True)
    if clashing := distinct["stay"].is_duplicated().sum():
        raise SourceError(
            f"{where}: {clashing} {what} of ICU stays share their id with another patient's or with another time; every stay needs a "
            "unique id in the whole data set, renumber those of one file"
        )
    if distinct.height < rows.height:
        counts["duplicate_row"] += rows.height - distinct.height
    return distinct


def _by_time(begins: pl.DataFrame, ends: pl.DataFrame, where: str, counts: Counter[str]) -> pl.DataFrame:
    distinct = begins.unique(["subject_id", "time"], keep="first", maintain_order=True)
    if distinct.height < begins.height:
        counts["duplicate_row"] += begins.height - distinct.height
    return _until_next(_described(distinct.with_columns(made_ids(distinct, where).alias("stay"))), ends)


def _described(begins: pl.DataFrame) -> pl.DataFrame:
    return begins.select(
        pl.col("stay").alias("stay_id"),
        "subject_id",
        pl.col("hospitalization").alias("hadm_id"),
        pl.col("time").alias("intime"),
        pl.coalesce("care_unit", "rest").alias("care_unit"),
    )


def _until_next(stays: pl.DataFrame, ends: pl.DataFrame) -> pl.DataFrame:
    return with_end(stays.rename({"intime": "begin"}), ends).rename({"begin": "intime", "end": "outtime"})


def with_end(intervals: pl.DataFrame, ends: pl.DataFrame) -> pl.DataFrame:
    """`intervals` with `end`: the first end of their patient after `begin` and not after the next begin; null where there is none."""
    ordered = intervals.sort("begin", maintain_order=True).with_columns(
        pl.col("begin").shift(-1).over("subject_id", order_by="begin").alias("next")
    )
    last = ends.select("subject_id", pl.col("time").alias("end")).sort("end").with_columns(pl.col("end").alias("at"))
    found = ordered.join_asof(
        last,
        left_on="begin",
        right_on="at",
        by="subject_id",
        strategy="forward",
        allow_exact_matches=False,  # the end of a stay is not that of one that begins at the same time
        check_sortedness=False,
    )
    fits = pl.col("next").is_null() | (pl.col("end") <= pl.col("next"))
    return found.with_columns(pl.when(fits).then(pl.col("end")).alias("end")).drop("next", "at", strict=False)


def made_ids(rows: pl.DataFrame, where: str) -> pl.Series:
    """Ids of rows that have none: the patient's with two digits for their place, or 62 bits of a hash where the patient's is too large.

    rows: subject_id, sorted by time within each patient.
    """
    numbers = rows.select(pl.int_range(1, pl.len() + 1).over("subject_id").alias("n"))["n"].cast(pl.Int64)
    if rows.height and int(numbers.max()) > _MOST:  # type: ignore[arg-type]
        raise SourceError(f"{where}: a patient has more than {_MOST} ICU stays or hospitalisations without an id; give them ids")
    if not rows.height or int(rows["subject_id"].abs().max()) < _LARGEST_SUBJECT:  # type: ignore[arg-type]
        return (rows["subject_id"] * (_MOST + 1) + numbers).rename("id")
    words = [f"{subject}/{number}" for subject, number in zip(rows["subject_id"], numbers, strict=True)]
    return number_ids(pl.Series("id", words, pl.String), where)


def _nothing() -> pl.DataFrame:
    types = {
        **{"subject_id": pl.Int64(), "time": pl.Datetime("us"), "kind": pl.String(), "key": pl.String(), "rest": pl.String()},
        **{"numeric_value": pl.Float64(), "text_value": pl.String(), "stay": pl.String(), "hospitalization": pl.String()},
        **{"care_unit": pl.String(), "row": pl.Int64()},
    }
    return pl.DataFrame(schema=types)
