"""The trajectory store gives back the texts of the ingest artifact, token by token, and the windows that training sees."""

from __future__ import annotations

import pickle

import pytest

from clinjepa.errors import StoreError
from clinjepa.storage import Folder
from clinjepa.trajectory.hours.ingest import build_partition, finish_ingest
from clinjepa.trajectory.settings import TrajectorySettings, tokenizer_settings
from clinjepa.trajectory.tokens import build, piece_tokens, tokenizer
from clinjepa.trajectory.tokens.build import build_trajectories, finish_trajectories
from clinjepa.trajectory.tokens.tokenizer import build_tokenizer, load_tokenizer
from clinjepa.trajectory.tokens.trajectory_store import TrajectoryReader
from tests.support.data.handmade_stays import HandmadeSource, at, event, events_table, lenient_config, stays_table

NUM_STAYS = 70
CONFIG = lenient_config(windows={"max_hours": 8, "stride_hours": 3, "min_hours": 4}, tokenizer={"vocab_size": 400, "max_tokens": 40})


def part(stay_ids: range) -> tuple:
    stays = stays_table(*({"stay_id": stay, "outtime": at(3.5 + stay % 9), "race": f"group {stay % 4}"} for stay in stay_ids))
    events = [event(stay, hour + 0.5, "heart_rate", 60.0 + stay + hour) for stay in stay_ids for hour in range(stay % 5)]
    events += [event(stay, 0.0, "norepinephrine", 0.1, until=2.0) for stay in stay_ids if stay % 2]
    events += [event(stay, 1.0 + minute / 60, "map", 70.0 + minute) for stay in stay_ids if stay % 10 == 0 for minute in range(20)]
    return stays, events_table(*events)


SOURCE = HandmadeSource(part(range(100, 100 + NUM_STAYS - 5)), part(range(10, 15)))
NAMES = ["part-0", "part-1"]


@pytest.fixture(scope="module")
def ingest(tmp_path_factory):
    out = Folder(tmp_path_factory.mktemp("ingest"))
    for number, name in enumerate(NAMES):
        build_partition(SOURCE, {"part": number}, CONFIG, out, name)
    finish_ingest(out, CONFIG)
    return out


@pytest.fixture(scope="module")
def trained(ingest, tmp_path_factory):
    out = Folder(tmp_path_factory.mktemp("tokenizer"))
    build_tokenizer(ingest, tokenizer_settings(CONFIG), out)
    return out


@pytest.fixture
def trajectories(ingest, trained, tmp_path):
    out = Folder(tmp_path)
    for name in NAMES:
        build_trajectories(ingest, name, trained, TrajectorySettings.of(CONFIG), out)
    finish_trajectories(ingest, out, TrajectorySettings.of(CONFIG))
    return out


def test_every_text_of_every_stay_comes_back_from_its_tokens(ingest, trajectories):
    reader = TrajectoryReader(trajectories, cached_row_groups=1)
    num_seen = 0
    for name in NAMES:
        for row in ingest.read_table(f"hours/{name}.parquet").to_pylist():
            tokens = reader.stay(row["stay_id"])
            for texts, ids in (
                ([row["static_text"]], [tokens.static]),
                (row["state_texts"], tokens.states),
                (row["action_texts"], tokens.actions),
            ):
                assert [reader.tokenizer.decode(one.tolist()) for one in ids] == [
                    reader.tokenizer.decode(reader.tokenizer.encode([text])[0][:40]) for text in texts
                ]
            num_seen += 1
    assert num_seen == NUM_STAYS == reader.stays.num_rows


def test_row_groups_hold_at_most_32_stays(trajectories):
    import pyarrow.parquet as pq

    shard = pq.ParquetFile(trajectories.path("shards/part-0.parquet"))
    assert [shard.metadata.row_group(group).num_rows for group in range(shard.num_row_groups)] == [32, 32, 1]


def test_stays_and_windows_agree_with_the_ingest(ingest, trajectories):
    reader = TrajectoryReader(trajectories)
    expected = {row["stay_id"]: row for row in ingest.read_table("stays.parquet").to_pylist()}
    for row in reader.stays.to_pylist():
        assert {key: row[key] for key in ("subject_id", "split", "num_hours")} == {
            key: expected[row["stay_id"]][key] for key in ("subject_id", "split", "num_hours")
        }
    windows = reader.windows.to_pylist()
    assert [row["window_id"] for row in windows] == list(range(len(windows)))
    assert windows == sorted(windows, key=lambda row: (row["stay_id"], row["start_hour"]))
    assert all(row["split"] == expected[row["stay_id"]]["split"] for row in windows)


def test_texts_that_are_too_long_are_cut_at_their_end_and_counted(ingest, trajectories):
    reader = TrajectoryReader(trajectories)
    assert max(len(state) for stay in reader.stays["stay_id"].to_pylist() for state in reader.stay(stay).states) == 40
    assert reader.card["tokens"]["state"]["num_cut"] == 8 and reader.card["tokens"]["static"]["num_cut"] == 0


def test_the_card_counts_texts_and_tokens(ingest, trajectories, trained):
    encoder = load_tokenizer(trained)
    texts = [text for name in NAMES for row in ingest.read_table(f"hours/{name}.parquet")["action_texts"].to_pylist() for text in row]
    lengths = sorted(len(ids) for ids in encoder.encode(texts))
    statistics = TrajectoryReader(trajectories).card["tokens"]["action"]
    assert (statistics["num_texts"], statistics["num_tokens"], statistics["max"]) == (len(texts), sum(lengths), lengths[-1])
    assert statistics["p95"] == lengths[-(-len(lengths) * 95 // 100) - 1]


def test_a_finished_part_is_not_tokenised_again(ingest, trained, trajectories, monkeypatch):
    monkeypatch.setattr(tokenizer.TextTokenizer, "encode_array", lambda *args: pytest.fail("tokenised again"))
    assert build_trajectories(ingest, "part-0", trained, TrajectorySettings.of(CONFIG), trajectories)["files"]


def test_a_word_is_tokenised_once_however_many_texts_and_parts_hold_it(ingest, trained, tmp_path, monkeypatch):
    asked: list[str] = []
    encode = piece_tokens.whole_text_ids
    monkeypatch.setattr(piece_tokens, "whole_text_ids", lambda tokenizer, texts: asked.extend(texts) or encode(tokenizer, texts))
    tokenizer.parse_tokenizer.cache_clear()
    for name in NAMES:
        build_trajectories(ingest, name, trained, TrajectorySettings.of(CONFIG), Folder(tmp_path))
    assert " observations." in asked and len(asked) == len(set(asked))


def test_the_tokenizer_is_the_same_however_the_source_was_partitioned(ingest, trained, tmp_path):
    one = Folder(tmp_path / "ingest")
    import pyarrow as pa

    joined = HandmadeSource(tuple(pa.concat_tables(tables) for tables in zip(*reversed(SOURCE.parts), strict=True)))
    build_partition(joined, {"part": 0}, CONFIG, one, "all")
    finish_ingest(one, CONFIG)
    build_tokenizer(one, tokenizer_settings(CONFIG), Folder(tmp_path / "tokenizer"))
    assert Folder(tmp_path / "tokenizer").read_bytes("tokenizer.json") == trained.read_bytes("tokenizer.json")


def test_the_tokenizer_looks_at_training_patients_only(ingest):
    kept = {row["stay_id"] for row in ingest.read_table("stays.parquet").to_pylist() if row["split"] == "train"}
    hours = [row for name in NAMES for row in ingest.read_table(f"hours/{name}.parquet").to_pylist()]
    allowed = {text for row in hours if row["stay_id"] in kept for text in (row["static_text"], *row["state_texts"], *row["action_texts"])}
    assert set(tokenizer.training_texts(ingest)) == allowed


def test_a_reader_travels_between_processes(trajectories):
    reader = TrajectoryReader(trajectories)
    reader.stay(100)
    assert pickle.loads(pickle.dumps(reader)).stay(100).static.tolist() == reader.stay(100).static.tolist()


def test_an_object_store_gives_the_same_tokens(trajectories, tmp_path):
    remote = Folder(f"memory://trajectories-{tmp_path.name}")
    remote.upload(tmp_path)
    there, here = TrajectoryReader(remote).stay(140), TrajectoryReader(trajectories).stay(140)
    assert [state.tolist() for state in there.states] == [state.tolist() for state in here.states]


def test_a_row_group_is_one_request_and_is_kept(trajectories, monkeypatch):
    reader = TrajectoryReader(trajectories)
    reader.stay(100)
    asked = []
    read_bytes = Folder.read_bytes
    monkeypatch.setattr(Folder, "read_bytes", lambda self, *range_: asked.append(range_) or read_bytes(self, *range_))
    for stay_id in (101, 140, 141, 100):
        reader.stay(stay_id)
    assert len(asked) == 1


def test_a_missing_part_is_noticed(ingest, trained, tmp_path):
    build_trajectories(ingest, "part-0", trained, TrajectorySettings.of(CONFIG), Folder(tmp_path))
    with pytest.raises(StoreError, match="1 parts do not match"):
        finish_trajectories(ingest, Folder(tmp_path), TrajectorySettings.of(CONFIG))


def test_a_store_of_another_schema_version_is_refused(trajectories):
    trajectories.write_json("data_card.json", trajectories.read_json("data_card.json") | {"schema_version": build.SCHEMA_VERSION + 1})
    with pytest.raises(StoreError, match=f"schema version {build.SCHEMA_VERSION + 1}, this code reads {build.SCHEMA_VERSION}"):
        TrajectoryReader(trajectories)


def test_a_cut_shard_is_refused(trajectories):
    trajectories.write_bytes("shards/part-0.parquet", trajectories.read_bytes("shards/part-0.parquet")[:-20])
    with pytest.raises(StoreError, match="not a readable Parquet file"):
        TrajectoryReader(trajectories).stay(100)


def test_a_stay_of_another_store_is_refused_without_naming_it(trajectories):
    with pytest.raises(StoreError) as raised:
        TrajectoryReader(trajectories).stay(987654)
    assert "987654" not in str(raised.value)


def test_stays_too_short_for_any_window_are_refused_with_a_remedy(ingest, trained, tmp_path):
    config = CONFIG.model_copy(update={"windows": CONFIG.windows.model_copy(update={"min_hours": 50, "max_hours": 72})})
    for name in NAMES:
        build_trajectories(ingest, name, trained, TrajectorySettings.of(config), Folder(tmp_path))
    with pytest.raises(StoreError, match="windows.min_hours=50"):
        finish_trajectories(ingest, Folder(tmp_path), TrajectorySettings.of(config))
