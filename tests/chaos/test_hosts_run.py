"""The path of a user on a cluster of several hosts whose names lead nowhere: the files are those of one host, to the byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from clinjepa.storage import Folder
from cluster.local.cluster import LocalCluster
from tests.support.machines.host_cluster import ONE_A_HOST, HostRun, contents, single_host_run, training_on

pytestmark = [pytest.mark.ray, pytest.mark.s3, pytest.mark.chaos, pytest.mark.long, pytest.mark.timeout(3600)]

COMMANDS = ("ingest", "pretrain", "evaluate", "grid")


def test_ingest_to_grid_by_jobs_on_two_hosts_finds_what_one_host_finds(several_hosts: LocalCluster, tmp_path: Path) -> None:
    storage, hosts = "s3://clinjepa/whole", set()
    for command in COMMANDS:
        run = HostRun(several_hosts, command, storage, ONE_A_HOST)
        try:
            while run.process.poll() is None:
                hosts |= {tuple(training_on(several_hosts))}
                run.pause()
        finally:
            run.stop()
        assert run.finish(30) == 0, run.said[-4000:]
    assert ("worker1", "worker2") in hosts, "both hosts trained at once"
    for command in COMMANDS:
        single_host_run(tmp_path / "alone", command, [*ONE_A_HOST, "execution.local_num_cpus=4"])
    there, alone = contents(Folder(storage)), contents(Folder(tmp_path / "alone"))
    assert {"phase", "sft", "embed", "drift", "geometry", "downstream"} <= {name.partition("/")[0] for name in there}
    assert there == alone
