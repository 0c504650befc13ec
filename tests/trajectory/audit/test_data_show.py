"""`clinjepa data show`: a window says what the store holds, and nothing of a patient who is not for everybody to see."""

from __future__ import annotations

import re
import shutil
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from clinjepa.errors import StoreError
from clinjepa.storage import Folder
from clinjepa.trajectory.audit.show import GridRow, load_window
from pipelines.cli import app
from pipelines.graph.artifacts import Artifact
from pipelines.graph.planning import plan_experiment
from pipelines.stages.data_card import write_data_card
from tests.support.data.finished_data import finish_data, simulated


def said(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["data", "show", *arguments])


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, dict[str, Artifact]]:
    storage = tmp_path_factory.mktemp("show")
    config = simulated(storage, windows={"max_hours": 6, "stride_hours": 4})
    artifacts = finish_data(config)
    write_data_card(config, plan_experiment(config))
    return storage, artifacts


def a_later_window(artifacts: dict[str, Artifact]) -> dict:
    """A window that does not begin with its stay."""
    windows = artifacts["trajectories"].folder.read_table("windows.parquet").to_pylist()
    return next(row for row in windows if row["start_hour"] > 0)


def hours_of(artifacts: dict[str, Artifact], stay_id: int) -> tuple[dict, list[dict]]:
    ingest = artifacts["ingest"].folder
    part = next(row["part"] for row in ingest.read_table("stays.parquet").to_pylist() if row["stay_id"] == stay_id)
    texts, grid = (ingest.read_table(f"{table}/{part}.parquet").to_pylist() for table in ("hours", "grid"))
    return next(row for row in texts if row["stay_id"] == stay_id), [row for row in grid if row["stay_id"] == stay_id]


def test_a_window_has_the_texts_and_the_grid_of_its_own_hours(made):
    _, artifacts = made
    row = a_later_window(artifacts)
    view = load_window(artifacts["trajectories"].folder, artifacts["ingest"].folder, row["window_id"])
    texts, grid = hours_of(artifacts, row["stay_id"])
    hours = slice(row["start_hour"], row["start_hour"] + row["num_hours"])
    assert (view.static, list(view.states)) == (texts["static_text"], texts["state_texts"][hours])
    assert list(view.actions) == texts["action_texts"][hours]
    rate = next(line for line in view.grid if line.name == "Heart Rate")
    assert list(rate.values) == [hour["heart_rate"] for hour in grid[hours]]


def test_a_window_that_is_not_there_is_refused_with_the_numbers_that_are(made):
    store = made[1]["trajectories"].folder
    last = store.read_table("windows.parquet").num_rows - 1
    for window in (-1, last + 1):
        with pytest.raises(StoreError, match=f"windows 0 to {last}"):
            load_window(store, None, window)


@pytest.mark.parametrize("by", ["run", "store"])
def test_the_command_prints_texts_and_grid_by_run_or_store(made, by):
    storage, artifacts = made
    row = a_later_window(artifacts)
    address = f"{storage}/runs/small" if by == "run" else artifacts["trajectories"].folder.address
    shown = said(address, "--window", str(row["window_id"]))
    assert shown.exit_code == 0, shown.output
    texts, _ = hours_of(artifacts, row["stay_id"])
    printed = " ".join(shown.output.split())
    assert all(text in printed for text in texts["state_texts"][row["start_hour"] : row["start_hour"] + row["num_hours"]])
    assert re.search(r"Heart Rate  [▁▂▃▄▅▆▇█·]{6}  \d+", shown.output)
    assert str(row["stay_id"]) not in shown.output


def test_the_page_shows_the_window_and_is_for_its_owner_only(made, tmp_path):
    storage, artifacts = made
    row = a_later_window(artifacts)
    file = tmp_path / "window.html"
    file.touch(0o644)
    assert said(f"{storage}/runs/small", "--window", str(row["window_id"]), "--html", str(file)).exit_code == 0
    page = file.read_text()
    assert page.count("<tr><td>") == row["num_hours"] and "Heart Rate, hour" in page
    assert str(row["stay_id"]) not in page and "<script" not in page
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.fixture
def credentialed(made, tmp_path) -> str:
    """The same store, from a source that is not for everybody."""
    store = shutil.copytree(made[1]["trajectories"].folder.address, tmp_path / "store")
    folder = Folder(store)
    folder.write_json("data_card.json", folder.read_json("data_card.json") | {"access": "credentialed"})
    return str(store)


def test_credentialed_data_are_refused_with_the_reason(credentialed):
    shown = said(credentialed)
    assert shown.exit_code == 2
    assert all(word in " ".join(shown.output.split()) for word in ("credentialed data", "data use agreement", "--i-am-credentialed"))
    assert "Heart Rate" not in shown.output and "Age:" not in shown.output


def test_a_store_that_does_not_say_is_refused(credentialed):
    folder = Folder(credentialed)
    card = folder.read_json("data_card.json")
    del card["access"]
    folder.write_json("data_card.json", card)
    assert said(credentialed).exit_code == 2


def test_who_says_to_be_credentialed_sees_the_texts_but_no_grid_that_is_not_beside_them(credentialed):
    shown = said(credentialed, "--i-am-credentialed")
    assert shown.exit_code == 0 and "Age:" in shown.output and "no hour grid" in shown.output


def test_a_folder_that_is_no_store_is_refused_with_what_to_give(tmp_path):
    shown = said(str(tmp_path))
    assert shown.exit_code == 2 and "clinjepa ingest" in shown.output


@pytest.mark.parametrize(
    ("values", "bars", "span"),
    [
        ((60.0, None, 74.0, 67.0), "▁·█▅", "60 to 74 bpm"),
        ((5.0, 5.0), "██", "5 bpm"),
        (("mask", None, "tube", "mask"), "●·●●", "mask, tube"),
    ],
)
def test_a_line_of_the_grid_is_drawn_between_its_own_lowest_and_highest(values, bars, span):
    row = GridRow("Heart Rate", "vitals", "bpm", "numeric", values)
    assert (row.bars(), row.span()) == (bars, span)
