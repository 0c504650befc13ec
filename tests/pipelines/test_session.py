"""What a session leaves behind in the process that held it, and what it lets onto the terminal."""

from __future__ import annotations

import os

import pyarrow as pa
import pytest
import ray

from clinjepa.config import Config
from clinjepa.errors import ResourceError, in_safe_words
from pipelines.session import WATCHER_VARIABLE, ray_session


@pytest.mark.ray
def test_notices_of_leaving_nodes_are_ignored_on_this_machine_alone_and_only_while_the_session_lasts(tmp_path, monkeypatch):
    monkeypatch.delenv(WATCHER_VARIABLE, raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with ray_session(Config(storage=str(tmp_path), execution={"object_store_mb": 100, "local_num_cpus": 1, "progress": False})):
        assert os.environ[WATCHER_VARIABLE] == "0"
    assert WATCHER_VARIABLE not in os.environ


@pytest.mark.ray
def test_a_session_that_cannot_begin_leaves_the_environment_as_it_was(tmp_path, monkeypatch):
    monkeypatch.delenv(WATCHER_VARIABLE, raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        with pytest.raises(ResourceError, match="could not start on this machine: .*twice"), ray_session(Config(storage=str(tmp_path))):
            pass
    finally:
        ray.shutdown()
    assert WATCHER_VARIABLE not in os.environ


def test_an_address_that_ray_cannot_join_is_one_line_with_rays_reason(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "head-node")
    with (
        pytest.raises(ResourceError, match="join the cluster at RAY_ADDRESS=head-node: .*head-node") as raised,
        ray_session(Config(storage=str(tmp_path))),
    ):
        pass
    assert "\n" not in str(raised.value)


@pytest.mark.ray
def test_a_value_that_a_task_of_ray_data_met_is_neither_logged_nor_said(tmp_path, monkeypatch, capfd):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def meets(table: pa.Table) -> pa.Table:
        return {}[table["subject_id"][0].as_py()]

    with ray_session(Config(storage=str(tmp_path), execution={"object_store_mb": 100, "local_num_cpus": 1, "progress": False})):
        dataset = ray.data.from_items([{"subject_id": 10039708}]).map_batches(meets, batch_format="pyarrow")
        with pytest.raises(KeyError) as raised:
            list(dataset.iter_rows())
    assert in_safe_words(raised.value).startswith("KeyError")
    out, err = capfd.readouterr()
    assert "10039708" in str(raised.value) and "10039708" not in out + err + in_safe_words(raised.value)
