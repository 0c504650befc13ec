"""Labels that ACES extracts with the files of `benchmarks/aces/` beside those of this project's own tasks, on the same stays.

ACES runs by itself, since its packages exclude newer ones that this project needs (docs/community.md has the command):

    python -m benchmarks.aces_agreement --data FOLDER --labels FOLDER

`--data` is a MEDS data set, `--labels` the folder with a folder of ACES's shards for each task. Prints JSON: for each task the rows by what
became of them, labels of both, and how many agree.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import polars as pl

from clinjepa.clinical import load_task
from clinjepa.config.schema import CohortConfig, Config, SourceConfig
from clinjepa.sources import open_source
from clinjepa.storage import Folder
from clinjepa.trajectory.hours.ingest import build_partition, finish_ingest
from clinjepa.trajectory.labels.artifact import compute_labels
from clinjepa.trajectory.labels.label_files import LabelFile, place_labels
from clinjepa.trajectory.settings import IngestSettings

FILES = Path(__file__).parent / "aces"
EVERYONE = CohortConfig(preset="custom", min_age_years=None, min_stay_hours=1, first_stay_of_admission=False, min_vitals_records=0)
"""ACES keeps every stay; so does this comparison."""


def tasks_of_files() -> list[str]:
    """Names of the tasks that have a file for ACES."""
    return sorted(path.stem for path in FILES.glob("*.yaml"))


def compare(ingest: Folder, labels: Path, task: str) -> dict[str, object]:
    """Labels of ACES and of this project for one task."""
    stays = pl.DataFrame(ingest.read_table("stays.parquet"))
    given, counts = place_labels(LabelFile(task, str(labels / task), "boolean_value").rows(stays["subject_id"]), stays, task)
    own = pl.DataFrame(compute_labels(ingest, [load_task(task)], 24)).select("stay_id", "hour", own="label")
    if load_task(task).at == "icu_discharge":  # ACES predicts at the discharge itself, which lies in the last hour
        given = given.group_by("stay_id").agg(pl.col("label").last())
        both = own.join(given, on="stay_id", how="full", coalesce=True)
    else:
        both = own.join(given, on=["stay_id", "hour"], how="full", coalesce=True)
    shared = both.drop_nulls(["own", "label"])
    return {
        "rows": counts,
        "own_labels": own.height,
        "own_positive": int((own["own"] > 0.5).sum()),
        "shared": shared.height,
        "equal": int((shared["own"] == shared["label"]).sum()),
        "positive_of_both": int(((shared["own"] > 0.5) & (shared["label"] > 0.5)).sum()),
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--labels", type=Path, required=True)
    options = parser.parse_args()
    config = Config(source=SourceConfig(kind="meds", path=options.data, num_partitions=1), cohort=EVERYONE)
    with tempfile.TemporaryDirectory() as scratch:
        ingest, settings, source = Folder(scratch), IngestSettings.of(config), open_source(config.source)
        for place, partition in enumerate(source.partitions()):
            build_partition(source, partition, settings, ingest, f"part-{place}")
        finish_ingest(ingest, settings)
        there = [task for task in tasks_of_files() if (options.labels / task).is_dir()]
        print(json.dumps({task: compare(ingest, options.labels, task) for task in there}, indent=2))


if __name__ == "__main__":
    main()
