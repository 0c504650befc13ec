"""Source for MIMIC-IV in the MEDS format (Medical Event Data Standard): PhysioNet's demo (0.3.3) or a newer export (0.4).

Reads `data/**/*.parquet` and `metadata/subject_splits.parquet` below `source.path`. MEDS requires a subject's rows to be contiguous
and in one file, so a partition is a range of rows per file.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, TypedDict

import polars as pl

from clinjepa.errors import SourceError
from clinjepa.sources.meds.columns import COLUMNS, find_columns, typed
from clinjepa.sources.meds.events import read_events
from clinjepa.sources.meds.splits import parquet_schema, read_splits
from clinjepa.sources.meds.stays import read_stays
from clinjepa.sources.mimic_iv.row_meaning import SIGNIFICANT_DIGITS
from clinjepa.sources.readings.cleaning import finish
from clinjepa.sources.readings.range_losses import Counts
from clinjepa.sources.schema import SourceTables, partition_count
from clinjepa.sources.stay_counts import StayCounts, of_known_hours
from clinjepa.storage import Folder

if TYPE_CHECKING:
    from clinjepa.config.schema import SourceConfig

_LOOKED_THROUGH_BYTES = 1_000_000_000
"""Up to this size of all files, `stay_counts` reads their codes, which takes seconds."""


class RowRange(TypedDict):
    """Rows `first_row` … `first_row + num_rows - 1` of a file."""

    file: str
    first_row: int
    num_rows: int


class RowRanges(TypedDict):
    """A partition: its row ranges, and the last stay id to read (null: all)."""

    pieces: list[RowRange]
    max_stay_id: int | None


class MedsSource:
    """MIMIC-IV as MEDS. `config.path` is the root of the data set (the folder with `data/` and `metadata/`)."""

    name = "meds"

    def __init__(self, config: SourceConfig) -> None:
        self._config = config
        self._folder = Folder(config.path or "")
        self._files = self._data_files()
        if config.subsets is not None:
            known = sorted({name.split("/")[1] for name in self._files})
            unknown = set(config.subsets) - set(known)
            if unknown:
                raise SourceError(f"{self._folder.address}/data: source.subsets names {sorted(unknown)}, found are {known}")
            self._files = [name for name in self._files if name.split("/")[1] in config.subsets]

    def content_digest(self) -> str:
        """SHA-256 over names and contents of the Parquet files read."""
        sha = hashlib.sha256()
        splits = "metadata/subject_splits.parquet"
        for name in [*self._files, *([splits] if self._folder.exists(splits) else [])]:
            sha.update(f"{name}:{self._folder.digest(name)};".encode())
        return sha.hexdigest()

    def partitions(self) -> list[RowRanges]:
        """Row ranges of near-equal size that end between subjects; `max_stay_id` is the last stay id read with `max_stays`."""
        read_splits(self._folder)  # a file that puts a subject into two splits is refused before any shard is read
        runs, stay_ids = self._subject_runs()
        limit = self._config.max_stays
        last = sorted(stay_ids)[limit - 1] if limit is not None and limit < len(stay_ids) else None
        number = partition_count(self._config.num_partitions, len(stay_ids))
        target = max(1.0, sum(run["num_rows"] for run in runs) / number)
        groups: dict[int, list[RowRange]] = {}
        done = 0
        for run in runs:
            index = min(int(done / target), number - 1)
            pieces = groups.setdefault(index, [])
            if pieces and pieces[-1]["file"] == run["file"]:
                pieces[-1]["num_rows"] += run["num_rows"]
            else:
                pieces.append(run)
            done += run["num_rows"]
        return [{"pieces": pieces, "max_stay_id": last} for pieces in groups.values()]

    def stay_counts(self) -> StayCounts | None:
        """Number and lengths of the stays with an admission and a discharge; None for files too large to look through."""
        if sum(self._folder.size(name) for name in self._files) > _LOOKED_THROUGH_BYTES:
            return None
        rows = pl.concat([self._read(name, ("code", "icustay_id", "time")) for name in self._files])
        kind = pl.col("code").str.extract(r"^ICU_(ADMISSION|DISCHARGE)")
        times = rows.select(kind.alias("kind"), "icustay_id", "time").drop_nulls().group_by("icustay_id", "kind").agg(pl.col("time").min())
        both = times.group_by("icustay_id").agg((pl.col("time").max() - pl.col("time").min()).dt.total_minutes() / 60, pl.len())
        return of_known_hours(both.filter((pl.col("len") == 2) & (pl.col("time") > 0))["time"].to_list())

    def _subject_runs(self) -> tuple[list[RowRange], set[int]]:
        """The rows of each subject, in order of the files, and all stay ids. SourceError when a subject's rows are not together."""
        runs: list[RowRange] = []
        beginnings: list[pl.DataFrame] = []
        seen: set[int] = set()
        for name in self._files:
            frame = self._read(name, ("subject_id", "code", "icustay_id", "time"))
            unknown = frame["subject_id"].null_count()
            if unknown:
                raise SourceError(f"{self._folder.address}/{name}: column 'subject_id' is empty in {unknown} rows; MEDS requires it")
            subjects = frame["subject_id"].rle().struct.unnest()
            ids = set(subjects["value"].to_list())
            if len(ids) < subjects.height or seen & ids:
                raise SourceError(
                    f"{self._folder.address}/{name}: rows of one subject are not contiguous, or in several files; "
                    "MEDS requires them together, sort the shards by subject_id"
                )
            seen |= ids
            lengths = subjects["len"].cast(pl.Int64)
            firsts = lengths.cum_sum() - lengths
            runs += [
                {"file": name, "first_row": first, "num_rows": rows}
                for first, rows in zip(firsts.to_list(), lengths.to_list(), strict=True)
            ]
            admitted = frame.filter(pl.col("code").str.starts_with("ICU_ADMISSION"))
            beginnings.append(admitted.select("subject_id", "icustay_id", "time", pl.lit(name).alias("file")))
        return runs, self._stay_ids(pl.concat(beginnings))

    def _stay_ids(self, beginnings: pl.DataFrame) -> set[int]:
        """The ids of the stays that have one and a beginning. beginnings: subject_id, icustay_id, time and file of the admission codes.

        Raises:
            SourceError: There is no such stay, or one id belongs to two subjects.
        """
        usable = beginnings.drop_nulls(["icustay_id", "time"])
        if not usable.height:
            where, number = f"{self._folder.address}/data", beginnings.height
            if not number:
                raise SourceError(
                    f"{where}: no code starts with 'ICU_ADMISSION' in {len(self._files)} files; "
                    "this source reads the MIMIC-IV conversion to MEDS"
                )
            without_id = beginnings["icustay_id"].null_count()
            raise SourceError(
                f"{where}: none of the {number} rows 'ICU_ADMISSION' can be used: {without_id} have no icustay_id above 0, the other "
                f"{number - without_id} no time; write both columns in the conversion to MEDS"
            )
        owners = usable.unique(["icustay_id", "subject_id"], keep="first", maintain_order=True)
        shared = owners.filter(pl.col("icustay_id").is_duplicated())
        if shared.height:
            files = shared["file"].unique().sort().to_list()
            more = f" and {len(files) - 3} other files" if len(files) > 3 else ""
            raise SourceError(
                f"{self._folder.address}: {shared['icustay_id'].n_unique()} ICU stay ids belong to two subjects, in {', '.join(files[:3])}"
                f"{more}; every stay needs a unique icustay_id in the whole data set, renumber those of one file"
            )
        return set(usable["icustay_id"].to_list())

    def read(self, partition: RowRanges) -> SourceTables:
        """Stays and events of a partition's row ranges."""
        counts = Counts()
        frames = [
            self._read(piece["file"], tuple(COLUMNS), piece["first_row"], piece["num_rows"]).with_row_index("row", piece["first_row"])
            for piece in partition["pieces"]
        ]
        rows = pl.concat(frames).with_columns(pl.col("row").cast(pl.Int64), pl.col("numeric_value").round_sig_figs(SIGNIFICANT_DIGITS))
        stays = read_stays(rows, read_splits(self._folder), self._folder.address, counts)
        if partition["max_stay_id"] is not None:
            stays = stays.filter(pl.col("stay_id") <= partition["max_stay_id"])
        stays, events = read_events(rows, stays, counts)
        return finish(stays, events, counts)

    def _data_files(self) -> list[str]:
        if not self._folder.exists():
            raise SourceError(
                f"{self._folder.address}: no such folder; set source.path to the MEDS data set's root, or get one with `clinjepa data get`"
            )
        files = [f"data/{name}" for name in self._folder.files("data") if name.endswith(".parquet")]
        if not files:
            raise SourceError(
                f"{self._folder.address}/data: no .parquet files there; "
                "source.path must be the folder that holds data/ and metadata/ of a MEDS data set, "
                "or set source.kind to the format of this folder (mimic_iv, cinc2012, cinc2019)"
            )
        return files

    def _read(self, name: str, columns: tuple[str, ...], first_row: int = 0, num_rows: int | None = None) -> pl.DataFrame:
        """Columns of a shard, null where an optional one is missing; `num_rows` rows from `first_row` on (None: all that follow)."""
        where = f"{self._folder.address}/{name}"
        with self._folder.local_copy(name) as path:
            chosen = find_columns(columns, parquet_schema(path, where), where)
            found = [spelling for spelling in chosen.values() if spelling is not None]
            try:
                frame = pl.scan_parquet(path, glob=False).slice(first_row, num_rows).select(found).collect()
                return typed(frame, chosen, where)
            except (pl.exceptions.PolarsError, OSError) as error:
                raise SourceError(f"{where}: cannot be read ({type(error).__name__}); it was cut or altered, get the file again") from None
