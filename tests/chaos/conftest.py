"""What the tests of trainings on real Ray nodes share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cluster.local.cluster import LocalCluster
from tests.conftest import S3Server
from tests.support.machines.faulty_s3 import FaultyS3
from tests.support.machines.host_cluster import environment_of, local_cluster
from tests.support.training.trainings import Inputs, Training


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return Inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture
def started() -> Iterator[Callable[..., Training]]:
    """Starts trainings whose drivers end with the test."""
    running: list[Training] = []

    def start(*arguments: Any, **execution: Any) -> Training:
        running.append(Training(*arguments, **execution))
        return running[-1]

    yield start
    for training in running:
        if training.process.poll() is None:
            training.process.kill()
        training.process.wait()


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[FaultyS3]:
    """Stands between clients and the S3 server, and fails when told to."""
    with FaultyS3(s3_server.environment["AWS_ENDPOINT_URL"]).start() as proxy:
        yield proxy


@pytest.fixture(scope="session")
def several_hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Store, head and two workers on hosts that know no names, at Ray's own settings; this process reads the store.

    `CLINJEPA_HOSTS` may name the folder of a cluster that runs already (`python -m cluster.local up --names none`), which is then left.
    """
    if (running := os.environ.get("CLINJEPA_HOSTS")) is not None:
        with environment_of(cluster := LocalCluster(running)):
            yield cluster
        return
    with local_cluster(tmp_path_factory.mktemp("hosts") / "cluster", names="none") as cluster, environment_of(cluster):
        yield cluster
