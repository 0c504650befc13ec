"""What a stage writes for the same settings does not change unless its format version does.

When a change of output is meant, raise the stage's number in its room's `FORMAT_VERSIONS` and write the new digests:
`PYTHONPATH=. python tests/pipelines/graph/test_golden_formats.py`.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path

import pyarrow as pa

from clinjepa.clinical import load_tasks
from clinjepa.storage import Folder
from clinjepa.trajectory.hours.ingest import build_partition, finish_ingest
from clinjepa.trajectory.labels.artifact import compute_labels
from clinjepa.trajectory.settings import TrajectorySettings, tokenizer_settings
from clinjepa.trajectory.tokens.build import build_trajectories, finish_trajectories
from clinjepa.trajectory.tokens.tokenizer import build_tokenizer
from pipelines.graph.stage import FORMAT_VERSIONS
from tests.support.data.handmade_stays import HandmadeSource, at, event, events_table, lenient_config, stays_table

GOLDEN = Path(__file__).with_name("golden_formats.json")


def digest(folder: Folder, *names: str) -> str:
    """Over the content of tables, not over Parquet's bytes, which follow the library's version."""
    sha = hashlib.sha256()
    for name in names:
        data = folder.read_table(name).to_pylist() if name.endswith(".parquet") else folder.read_json(name)
        sha.update(json.dumps(data, sort_keys=True, default=str).encode())
    return sha.hexdigest()


def some_stays(part: int) -> tuple[pa.Table, pa.Table]:
    """Eight stays of 30 h whose values follow from their numbers: no random draws, whose last bits follow the processor."""
    ids = range(1 + 8 * part, 9 + 8 * part)
    stays = stays_table(*({"stay_id": i, "outtime": at(30), "died_in_hospital": i % 3 == 0} for i in ids))
    rows = []
    for i in ids:
        for hour in range(30):
            rows.append(event(i, hour + 0.25, "heart_rate", 60 + (7 * i + 3 * hour) % 50))
            rows.append(event(i, hour + 0.5, "map", 55 + (5 * i + hour) % 40))
            if hour % 6 == i % 6:
                rows.append(event(i, hour, "glucose", 90 + (11 * i + 17 * hour) % 160 + 0.5))
        rows.append(event(i, 3.5, "norepinephrine", 0.125, until=9.25))
    return stays, events_table(*rows)


def measure() -> dict[str, dict[str, object]]:
    config = lenient_config(tokenizer={"vocab_size": 320})
    with tempfile.TemporaryDirectory() as scratch:
        ingest, tokenizer, store = (Folder(f"{scratch}/{name}") for name in ("ingest", "tokenizer", "store"))
        source = HandmadeSource(*(some_stays(part) for part in range(3)))
        names = [f"part-{part:05d}" for part in range(3)]
        for part, name in enumerate(names):
            build_partition(source, {"part": part}, config, ingest, name)
        finish_ingest(ingest, config)
        build_tokenizer(ingest, tokenizer_settings(config), tokenizer)
        for name in names:
            build_trajectories(ingest, name, tokenizer, TrajectorySettings.of(config), store)
        finish_trajectories(ingest, store, TrajectorySettings.of(config))
        ingest.write_table("labels.parquet", compute_labels(ingest, load_tasks(config.evaluation.downstream.tasks), 24))
        found = {
            "ingest": digest(ingest, "stays.parquet", *(f"{table}/{name}.parquet" for table in ("hours", "grid") for name in names)),
            "tokenizer": digest(tokenizer, "tokenizer.json"),
            "trajectories": digest(store, "windows.parquet", *(f"shards/{name}.parquet" for name in names)),
            "labels": digest(ingest, "labels.parquet"),
        }
    return {kind: {"format": FORMAT_VERSIONS[kind], "digest": value} for kind, value in found.items()}


def test_the_output_of_a_format_version_stays_the_same() -> None:
    assert measure() == json.loads(GOLDEN.read_text())


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(measure(), indent=1) + "\n")
