"""From simulated stays to tokens, windows and labels, with the real source and dictionary."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pyarrow as pa
import pytest
from polars.testing import assert_frame_equal

from clinjepa.clinical import excluded_by, load_tasks, load_variables
from clinjepa.config.schema import Config
from clinjepa.sources import open_source
from clinjepa.sources.schema import EVENTS_SCHEMA, MEDICATION
from clinjepa.storage import Folder
from clinjepa.trajectory.hours.ingest import build_partition, finish_ingest
from clinjepa.trajectory.labels.artifact import compute_labels
from clinjepa.trajectory.settings import TrajectorySettings, tokenizer_settings
from clinjepa.trajectory.tokens.build import build_trajectories, finish_trajectories
from clinjepa.trajectory.tokens.tokenizer import build_tokenizer
from clinjepa.trajectory.tokens.trajectory_store import TrajectoryReader

CONFIG = Config(source={"kind": "simulator", "num_partitions": 3, "simulator": {"num_patients": 24, "mean_stay_hours": 20}})
CUT_HOUR = 7
AMOUNTS = [name for name, variable in load_variables().items() if variable.aggregation == "sum"]


class CutSource:
    """The simulator as a chart shows it at the end of `CUT_HOUR`: nothing later; what still runs has run, and given, until now."""

    def __init__(self) -> None:
        self.source = open_source(CONFIG.source)
        self.name = self.source.name

    def read(self, partition):
        tables = self.source.read(partition)
        now = pl.DataFrame(tables.stays).select("stay_id", (pl.col("intime") + pl.duration(hours=CUT_HOUR + 1)).alias("now"))
        events = pl.DataFrame(tables.events).with_columns(pl.col("variable").cast(pl.String)).join(now, on="stay_id")
        events = events.filter(pl.col("time") < pl.col("now"))
        given = (pl.min_horizontal("end_time", "now") - pl.col("time")) / (pl.col("end_time") - pl.col("time"))
        is_amount = pl.col("end_time").is_not_null() & pl.col("variable").is_in(AMOUNTS)
        events = events.with_columns(
            pl.when(is_amount).then(pl.col("value") * given).otherwise(pl.col("value")).alias("value"),
            pl.when(pl.col("end_time").is_not_null()).then(pl.min_horizontal("end_time", "now")).alias("end_time"),
        )
        plain = [(field.name, pa.string() if pa.types.is_dictionary(field.type) else field.type) for field in EVENTS_SCHEMA]
        table = events.select(EVENTS_SCHEMA.names).to_arrow(compat_level=pl.CompatLevel.oldest())
        return replace(tables, events=table.cast(pa.schema(plain)).cast(EVENTS_SCHEMA))


def ingest(source, out: Folder) -> Folder:
    for number, partition in enumerate(open_source(CONFIG.source).partitions()):
        build_partition(source, partition, CONFIG, out, f"part-{number}")
    finish_ingest(out, CONFIG)
    return out


def parts_of(out: Folder) -> list[str]:
    return list(out.read_json("data_card.json")["parts"])


def hours_of(out: Folder) -> dict[int, dict]:
    return {row["stay_id"]: row for part in parts_of(out) for row in out.read_table(f"hours/{part}.parquet").to_pylist()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return ingest(open_source(CONFIG.source), Folder(tmp_path_factory.mktemp("whole")))


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    return ingest(CutSource(), Folder(tmp_path_factory.mktemp("cut")))


def test_simulated_stays_become_tokens_windows_and_labels(whole, tmp_path):
    tokenizer, out = Folder(tmp_path / "tokenizer"), Folder(tmp_path / "trajectories")
    build_tokenizer(whole, tokenizer_settings(CONFIG), tokenizer)
    for part in parts_of(whole):
        build_trajectories(whole, part, tokenizer, TrajectorySettings.of(CONFIG), out)
    card = finish_trajectories(whole, out, TrajectorySettings.of(CONFIG))
    reader = TrajectoryReader(out)
    for stay_id, row in hours_of(whole).items():
        tokens = reader.stay(stay_id)
        assert [reader.tokenizer.decode(ids.tolist()) for ids in tokens.states] == row["state_texts"]
        assert [reader.tokenizer.decode(ids.tolist()) for ids in tokens.actions] == row["action_texts"]
    assert card["num_windows"] == reader.windows.num_rows > 0
    assert compute_labels(whole, load_tasks(["in_hospital_death", "hypotension_8h"]), 12).num_rows > 0


@pytest.mark.parametrize("kind", ["state_texts", "action_texts"])
def test_hours_up_to_the_cut_read_the_same_from_a_chart_that_ends_there(whole, cut, kind):
    hours = hours_of(cut)
    for stay_id, row in hours_of(whole).items():
        assert row[kind][: CUT_HOUR + 1] == hours[stay_id][kind][: CUT_HOUR + 1]


def test_the_grid_up_to_the_cut_is_the_same_from_a_chart_that_ends_there(whole, cut):
    for part in parts_of(whole):
        grids = [pl.DataFrame(out.read_table(f"grid/{part}.parquet")).filter(pl.col("hour") <= CUT_HOUR) for out in (whole, cut)]
        assert_frame_equal(*grids, rel_tol=1e-6)


def test_only_named_variables_and_medications_that_are_not_excluded_stand_in_the_texts(whole):
    allowed = {variable.text_name for variable in load_variables().values() if variable.role in ("state", "action")}
    allowed |= {"No observations", "No active interventions"}
    source = open_source(CONFIG.source)
    for partition in source.partitions():
        events = pl.DataFrame(source.read(partition).events).with_columns(pl.col("variable").cast(pl.String))
        allowed |= set(events.filter(pl.col("variable") == MEDICATION)["text"])
    for row in hours_of(whole).values():
        for text in (*row["state_texts"], *row["action_texts"]):
            names = {phrase.split(": ")[0].removesuffix(".") for phrase in text.split(" | ")[1].split(". ")}
            assert names <= allowed and not any(excluded_by(name) for name in names)
