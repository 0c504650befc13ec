"""What a session leaves behind in the process that held it."""

from __future__ import annotations

import os

import pytest
import ray

from clinjepa.config import Config
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
        with pytest.raises(RuntimeError, match="twice"), ray_session(Config(storage=str(tmp_path))):
            pass
    finally:
        ray.shutdown()
    assert WATCHER_VARIABLE not in os.environ
