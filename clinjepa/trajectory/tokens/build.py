"""The trajectory store, written: the texts of an ingest artifact are tokenised part by part and cut into windows.

`trajectory_store.py` reads it. Format: docs/contracts.md, section 4.
"""

from __future__ import annotations

from typing import TypedDict, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clinjepa.errors import StoreError
from clinjepa.storage import Folder
from clinjepa.storage.parts import PartFile, finished_part, read_card, read_records, write_part_table, write_record
from clinjepa.trajectory.hours.data_card import DataCard, PartTokens, TokenStatistics, add_lengths, token_statistics
from clinjepa.trajectory.settings import TrajectorySettings
from clinjepa.trajectory.tokens.tokenizer import TextTokenizer, load_tokenizer
from clinjepa.trajectory.tokens.trajectory_store import ROW_GROUP_STAYS, SCHEMA_VERSION, SHARD_SCHEMA, STORE_STAYS_SCHEMA, TEXT_KINDS
from clinjepa.trajectory.tokens.windows import window_table


class TrajectoryRecord(TypedDict):
    """Record of a finished part. tokens: kind of text -> counts."""

    schema_version: int
    files: list[PartFile]
    tokens: dict[str, PartTokens]


def build_trajectories(ingest: Folder, part: str, tokenizer: Folder, settings: TrajectorySettings, out: Folder) -> TrajectoryRecord:
    """Tokenise one part of an ingest artifact into `shards/<part>.parquet`, unless the part is finished.

    Texts of more than `max_tokens` tokens are cut at their end and counted.

    Args:
        ingest: a finished ingest artifact.
        part: name of one of its parts.
        tokenizer: the tokenizer artifact.
        settings: `max_tokens` is read.
        out: the trajectory store.

    Returns:
        The part's record.
    """
    finished = finished_part(out, part, SCHEMA_VERSION)
    if finished is not None:
        return cast(TrajectoryRecord, finished)
    encoder = load_tokenizer(tokenizer)
    hours = ingest.read_table(f"hours/{part}.parquet")
    max_tokens = settings.max_tokens
    columns: dict[str, pa.Array] = {
        "stay_id": hours["stay_id"].combine_chunks(),
        "num_hours": pc.list_value_length(hours["state_texts"]).combine_chunks(),
    }
    statistics: dict[str, PartTokens] = {}
    static_flat, static_lengths, statistics["static"] = _tokenise(hours["static_text"].combine_chunks(), encoder, max_tokens)
    columns["static_tokens"] = _lists(static_flat, static_lengths)
    for kind in ("state", "action"):
        texts = hours[f"{kind}_texts"].combine_chunks()
        num_hours = pc.list_value_length(texts).to_numpy(zero_copy_only=False)
        flat, lengths, statistics[kind] = _tokenise(texts.flatten(), encoder, max_tokens)
        hour_ends = np.cumsum(num_hours)
        token_ends = np.concatenate([[0], np.cumsum(lengths)])[hour_ends]
        columns[f"{kind}_tokens"] = _lists(flat, np.diff(token_ends, prepend=0))
        columns[f"{kind}_lengths"] = _lists(lengths, num_hours)
    if not out.exists("tokenizer.json") or not out.exists("special_tokens.json"):
        encoder.save(out)
    table = pa.table([columns[name] for name in SHARD_SCHEMA.names], schema=SHARD_SCHEMA)
    record: TrajectoryRecord = {
        "schema_version": SCHEMA_VERSION,
        "files": [write_part_table(out, f"shards/{part}.parquet", table, row_group_size=ROW_GROUP_STAYS)],
        "tokens": statistics,
    }
    write_record(out, part, record)
    return record


def finish_trajectories(ingest: Folder, out: Folder, settings: TrajectorySettings) -> DataCard:
    """Join the parts: write `stays.parquet`, `windows.parquet` and `data_card.json`.

    Args:
        ingest: the ingest artifact that the parts were made from.
        out: the trajectory store, all of whose parts are finished.
        settings: `windows` is read.

    Returns:
        The data card: that of the ingest with `num_windows` (in total and per split) and the token counts.

    Raises:
        StoreError: the parts are not those of the ingest artifact, or no stay is long enough for a window.
    """
    from clinjepa.trajectory.hours.ingest import SCHEMA_VERSION as INGEST_VERSION  # not at the top: it imports polars

    card = cast(DataCard, read_card(ingest, INGEST_VERSION, "run ingest again"))
    records = cast("dict[str, TrajectoryRecord]", read_records(out, SCHEMA_VERSION))
    stays = ingest.read_table("stays.parquet", columns=["stay_id", "subject_id", "split", "num_hours", "part"])
    missing = set(card["parts"]) ^ set(records)
    if missing:
        raise StoreError(
            f"{out.address}: {len(missing)} parts do not match those of {ingest.address}; tokenise each part of that artifact and no other"
        )
    shards = [out.read_table(f"shards/{name}.parquet", columns=["stay_id"]) for name in records]
    places = [
        (stay_id, f"shards/{name}.parquet", row)
        for name, shard in zip(records, shards, strict=True)
        for row, stay_id in enumerate(shard["stay_id"].to_pylist())
    ]
    index = pa.table(
        [list(column) for column in zip(*places, strict=True)],
        schema=pa.schema([("stay_id", pa.int64()), ("shard", pa.string()), ("row", pa.int32())]),
    )
    joined = stays.join(index, "stay_id", join_type="inner").sort_by("stay_id").select(STORE_STAYS_SCHEMA.names).cast(STORE_STAYS_SCHEMA)
    if joined.num_rows != stays.num_rows or index.num_rows != stays.num_rows:
        raise StoreError(
            f"{out.address}: its shards hold {index.num_rows} stays, {ingest.address} has {stays.num_rows}; remove the folder and run again"
        )
    windows = window_table(joined, settings.windows)
    if not windows.num_rows:
        raise StoreError(f"none of the {stays.num_rows} stays is as long as windows.min_hours={settings.windows.min_hours}; lower it")
    out.write_table("stays.parquet", joined)
    out.write_table("windows.parquet", windows)
    splits = windows["split"].to_pylist()
    card["schema_version"] = SCHEMA_VERSION
    card["num_windows"] = windows.num_rows
    for split, counts in card["splits"].items():
        counts["num_windows"] = splits.count(split)
    card["tokens"] = {kind: _token_counts([record["tokens"][kind] for record in records.values()]) for kind in TEXT_KINDS}
    card["parts"] = {name: record["files"] for name, record in records.items()}
    out.write_json("data_card.json", card)
    return card


def _tokenise(texts: pa.Array, encoder: TextTokenizer, max_tokens: int) -> tuple[np.ndarray, np.ndarray, PartTokens]:
    """(ids of all texts end to end, int32; ids per text, int32; counts) of `texts`, each cut at `max_tokens`."""
    flat, kept, whole = encoder.encode_array(texts, max_tokens)
    num_cut = int((whole > max_tokens).sum())
    histogram = np.bincount(whole)
    lengths = {str(length): int(count) for length, count in enumerate(histogram) if count}
    return flat, kept.astype(np.int32), {"num_distinct": pc.count_distinct(texts).as_py(), "num_cut": num_cut, "lengths": lengths}


def _lists(flat: np.ndarray, lengths: np.ndarray) -> pa.Array:
    """list<int32> of the given lengths. Raises StoreError if a part has more tokens than its offsets can count."""
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    if offsets[-1] > np.iinfo(np.int32).max:
        raise StoreError(f"a part holds {offsets[-1]} tokens, more than one shard can; raise source.num_partitions")
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(flat, pa.int32()))


def _token_counts(parts: list[PartTokens]) -> TokenStatistics:
    return token_statistics(add_lengths(parts), sum(part["num_cut"] for part in parts))
