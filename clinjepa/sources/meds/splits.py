"""`metadata/subject_splits.parquet` of a MEDS data set, and the schema of a Parquet file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from clinjepa.errors import SourceError
from clinjepa.sources.meds.columns import whole_numbers
from clinjepa.storage import Folder

SPLITS = "metadata/subject_splits.parquet"


def read_splits(folder: Folder) -> pl.DataFrame:
    """subject_id, source_split; empty when the data set has no split. SourceError when a subject is in two splits."""
    if not folder.exists(SPLITS):
        return pl.DataFrame(schema={"subject_id": pl.Int64, "source_split": pl.String})
    where = f"{folder.address}/{SPLITS}"
    with folder.local_copy(SPLITS) as path:
        missing = {"subject_id", "split"} - set(parquet_schema(path, where).names())
        if missing:
            raise SourceError(f"{where}: columns {sorted(missing)} are missing; MEDS requires subject_id and split")
        table = pl.read_parquet(path, columns=["subject_id", "split"], glob=False)
    split = table["split"].cast(pl.String).str.strip_chars()
    given = pl.DataFrame([whole_numbers(table["subject_id"], where), split.rename("source_split")]).drop_nulls().unique()
    torn = given.height - given["subject_id"].n_unique()
    if torn:
        raise SourceError(f"{where}: {torn} subjects are in more than one split; give every subject one split")
    return given


def parquet_schema(path: Path, where: str) -> pl.Schema:
    """The schema of a file; SourceError when it cannot be read or a column occurs twice."""
    try:
        names = Counter(pq.read_schema(path).names)
        repeated = [name for name, times in names.items() if times > 1]
        if repeated:
            raise SourceError(f"{where}: column {repeated[0]!r} occurs twice; remove one")
        return pl.scan_parquet(path, glob=False).collect_schema()
    except (pa.ArrowException, pl.exceptions.PolarsError, OSError) as error:
        raise SourceError(
            f"{where}: not a readable Parquet file ({type(error).__name__}); it was cut or altered, get the file again"
        ) from None
