"""What a session leaves behind in the process that held it, and what it lets onto the terminal."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import ray

from clinjepa.config import Config
from clinjepa.errors import ResourceError, StorageError
from pipelines.scheduling.session import WATCHER_VARIABLE, ray_session
from tests.support.machines.cli import ROOT, environment


@pytest.mark.ray
def test_notices_of_leaving_nodes_are_ignored_on_this_machine_alone_and_only_while_the_session_lasts(tmp_path, monkeypatch):
    monkeypatch.delenv(WATCHER_VARIABLE, raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with ray_session(Config(storage=str(tmp_path), execution={"object_store_mb": 100, "local_num_cpus": 1, "progress": False})):
        assert os.environ[WATCHER_VARIABLE] == "0"
    assert WATCHER_VARIABLE not in os.environ


@pytest.mark.ray
def test_workers_of_this_machine_have_the_niceness_of_the_command(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with ray_session(Config(storage=str(tmp_path), execution={"object_store_mb": 100, "local_num_cpus": 1, "progress": False})):
        assert ray.get(ray.remote(lambda: os.nice(0)).remote(), timeout=60) == os.nice(0)


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
        pytest.raises(ResourceError, match="join the Ray cluster at RAY_ADDRESS=head-node: .*head-node") as raised,
        ray_session(Config(storage=str(tmp_path))),
    ):
        pass
    assert "\n" not in str(raised.value) and "is the address right" in str(raised.value)


def test_a_machine_on_which_ray_cannot_start_is_told_in_one_line_with_what_to_look_at(tmp_path, monkeypatch):
    def has_no_room(**options):
        raise OSError(28, "No space left on device", "/tmp/ray")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", has_no_room)
    words = "could not start on this machine: .*No space left.*execution.object_store_mb"
    with pytest.raises(ResourceError, match=words), ray_session(Config(storage=str(tmp_path))):
        pass


def test_a_job_that_cannot_join_its_cluster_names_the_job_and_no_address_that_nobody_set(tmp_path, monkeypatch):
    def refuses(**options):
        raise ConnectionError("no reply within 5 s")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    monkeypatch.setattr(ray, "init", refuses)
    words = "the Ray cluster of this job cannot be reached .no reply within 5 s.; submit the job again"
    with pytest.raises(StorageError, match=words), ray_session(Config(storage=str(tmp_path))):
        pass


MEETS_A_VALUE = """
import ray, sys
from clinjepa.config import Config
from clinjepa.errors import in_safe_words
from pipelines.scheduling.session import ray_session

def meets(table):
    return {}[table["subject_id"][0].as_py()]

with ray_session(Config(storage=sys.argv[1], execution={"object_store_mb": 100, "local_num_cpus": 1, "progress": False})):
    try:
        list(ray.data.from_items([{"subject_id": 10039708}]).map_batches(meets, batch_format="pyarrow").iter_rows())
    except KeyError as error:
        assert "10039708" in str(error)
        print("said:", in_safe_words(error))
"""


@pytest.mark.ray
def test_a_value_that_a_task_of_ray_data_met_is_neither_logged_nor_said(tmp_path):
    command = [sys.executable, "-c", MEETS_A_VALUE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), cwd=ROOT, timeout=200)
    assert "said: KeyError" in done.stdout, done.stderr[-3000:]
    assert "10039708" not in done.stdout + done.stderr
