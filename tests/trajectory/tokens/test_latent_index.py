"""The index of a store of latents is read in the version that the caller knows, and in no other."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from clinjepa.errors import StoreError
from clinjepa.storage import Folder
from clinjepa.trajectory.tokens.changed_actions import ChangedActionReader
from clinjepa.trajectory.tokens.latent_rows import read_index
from clinjepa.trajectory.tokens.latent_store import LatentReader


@pytest.mark.parametrize("metadata", [{"schema_version": "999"}, None])
def test_an_index_of_another_version_is_refused_by_both_readers(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    folder = Folder(tmp_path)
    folder.write_table("index.parquet", pa.table({"stay_id": [1]}).replace_schema_metadata(metadata))
    with pytest.raises(StoreError, match="has schema version"):
        _ = LatentReader(folder).encoder_digest
    with pytest.raises(StoreError, match="has schema version"):
        _ = ChangedActionReader(folder).origin


def test_an_index_of_the_same_version_is_read_with_its_metadata(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.write_table("index.parquet", pa.table({"stay_id": [1]}).replace_schema_metadata({"schema_version": "2", "x": "y"}))
    table, metadata = read_index(folder, 2)
    assert table["stay_id"].to_pylist() == [1] and metadata[b"x"] == b"y"
