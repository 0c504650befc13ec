"""The trajectory store, read: every stay's texts as token ids, and the windows that training reads.

`build.py` writes it from an ingest artifact. It is read by stay, one row group at a time. Format: docs/contracts.md, section 4.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clinjepa.errors import StoreError
from clinjepa.storage import Folder
from clinjepa.storage.parts import read_card
from clinjepa.trajectory.tokens.range_file import RangeFile
from clinjepa.trajectory.tokens.tokenizer import TextTokenizer, load_tokenizer

SCHEMA_VERSION = 2
ROW_GROUP_STAYS = 32
TEXT_KINDS = ("static", "state", "action")
_TOKENS = pa.list_(pa.int32())
SHARD_SCHEMA = pa.schema(
    [
        ("stay_id", pa.int64()),
        ("num_hours", pa.int32()),
        ("static_tokens", _TOKENS),
        ("state_tokens", _TOKENS),
        ("state_lengths", _TOKENS),
        ("action_tokens", _TOKENS),
        ("action_lengths", _TOKENS),
    ]
)
STORE_STAYS_SCHEMA = pa.schema(
    [
        ("stay_id", pa.int64()),
        ("subject_id", pa.int64()),
        ("split", pa.string()),
        ("num_hours", pa.int32()),
        ("shard", pa.string()),
        ("row", pa.int32()),
    ]
)


@dataclass(frozen=True)
class StayTokens:
    """Token ids (int32) of one stay: `static` [n], `states` and `actions` one array per hour."""

    static: np.ndarray
    states: list[np.ndarray]
    actions: list[np.ndarray]


def store_digest(folder: Folder) -> str:
    """SHA-256 in hex of a finished store's content: stays, windows, special tokens, and the digests of its shards in the data card.

    Shards are not read. Raises StoreError if the store is not finished.
    """
    card = read_card(folder, SCHEMA_VERSION, "remove the folder and run again")
    shards = sorted(file["sha256"] for files in card["parts"].values() for file in files)
    index = [folder.digest(name) for name in ("stays.parquet", "windows.parquet", "special_tokens.json")]
    return hashlib.sha256("\n".join([*index, *shards]).encode()).hexdigest()


class TrajectoryReader:
    """Reads a finished trajectory store; caches the row groups used last. Picklable: only the folder and the cache's size are sent."""

    def __init__(self, folder: Folder, cached_row_groups: int = 16) -> None:
        self.folder = folder
        self.card = read_card(folder, SCHEMA_VERSION, "remove the folder and run again")
        self._cached_row_groups = cached_row_groups
        self._shards: dict[str, tuple[RangeFile, pq.ParquetFile]] = {}
        self._groups: OrderedDict[tuple[str, int], dict[str, pa.Array]] = OrderedDict()

    def __reduce__(self) -> tuple[type[TrajectoryReader], tuple[Folder, int]]:
        return TrajectoryReader, (self.folder, self._cached_row_groups)

    @cached_property
    def stays(self) -> pa.Table:
        """STORE_STAYS_SCHEMA, sorted by stay_id."""
        return self.folder.read_table("stays.parquet")

    @cached_property
    def windows(self) -> pa.Table:
        """WINDOWS_SCHEMA, sorted by window_id = row number."""
        return self.folder.read_table("windows.parquet")

    @cached_property
    def tokenizer(self) -> TextTokenizer:
        """The tokenizer of the store's texts."""
        return load_tokenizer(self.folder)

    @cached_property
    def _places(self) -> dict[int, tuple[str, int]]:
        """stay_id -> (shard, row)."""
        return {
            stay_id: (shard, row)
            for stay_id, shard, row in zip(*(self.stays[name].to_pylist() for name in ("stay_id", "shard", "row")), strict=True)
        }

    def stay(self, stay_id: int) -> StayTokens:
        """Token ids of one stay. Raises StoreError if the store does not contain it."""
        if stay_id not in self._places:
            raise StoreError(f"{self.folder.address} does not hold a stay that was asked for; it belongs to another store")
        shard, row = self._places[stay_id]
        group = self._row_group(shard, row // ROW_GROUP_STAYS)
        values = {name: group[name][row % ROW_GROUP_STAYS].values.to_numpy() for name in SHARD_SCHEMA.names[2:]}
        states, actions = (np.split(values[f"{kind}_tokens"], np.cumsum(values[f"{kind}_lengths"])[:-1]) for kind in ("state", "action"))
        return StayTokens(values["static_tokens"], states, actions)

    def _row_group(self, shard: str, number: int) -> dict[str, pa.Array]:
        key = (shard, number)
        if key not in self._groups:
            file, parquet = self._open(shard)
            group = parquet.metadata.row_group(number)
            columns = [group.column(position) for position in range(group.num_columns)]
            starts = [column.dictionary_page_offset or column.data_page_offset for column in columns]
            file.hold(min(starts), max(start + column.total_compressed_size for start, column in zip(starts, columns, strict=True)))
            table = parquet.read_row_group(number, use_threads=False)
            file.release()
            self._groups[key] = {name: table[name].combine_chunks() for name in SHARD_SCHEMA.names[2:]}
            while len(self._groups) > self._cached_row_groups:
                self._groups.popitem(last=False)
        self._groups.move_to_end(key)
        return self._groups[key]

    def _open(self, shard: str) -> tuple[RangeFile, pq.ParquetFile]:
        if shard not in self._shards:
            file = RangeFile(self.folder, shard)
            try:
                # Without pre-buffering and threads, Arrow reads in this thread only. If an Arrow thread still held a Python buffer when
                # the interpreter ends, the process would abort.
                self._shards[shard] = file, pq.ParquetFile(pa.PythonFile(file, mode="r"), pre_buffer=False)
            except pa.ArrowInvalid:
                raise StoreError(
                    f"{self.folder.address}/{shard} is not a readable Parquet file: it was altered or cut; remove its folder and run again"
                ) from None
        return self._shards[shard]
