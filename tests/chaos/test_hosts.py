"""A cluster of several hosts on this machine: every host is one of its own, one that is cut off is dead, and nothing stays."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from cluster.local.__main__ import main
from cluster.local.system import links, why_not
from tests.support.machines.cli import ROOT
from tests.support.machines.host_cluster import QUICK_DEATHS, ask_every_host, local_cluster

WORKERS = ["worker1", "worker2"]


@pytest.mark.ray
@pytest.mark.chaos
@pytest.mark.timeout(400)
def test_hosts_are_apart_and_one_that_is_cut_off_is_dead_and_nothing_is_left(tmp_path: Path) -> None:
    with local_cluster(tmp_path / "hosts", num_cpus=1, store=False, env=QUICK_DEATHS) as cluster:
        seen = ask_every_host(cluster, WORKERS)
        assert {name: found["host"] for name, found in seen.items()} == {name: name for name in WORKERS}
        assert {name: found["address"] for name, found in seen.items()} == {name: cluster.host(name).address for name in WORKERS}
        assert {found["first"] for found in seen.values()} == {"cluster.local.init"}, "each has process 1 of its own"
        assert {name: found["only"] for name, found in seen.items()} == {name: [f"only-{name}"] for name in WORKERS}
        outside = cluster.host("worker1").run(["touch", str(ROOT / "written"), "/etc/written"])
        assert outside.returncode != 0 and outside.stderr.count("Read-only file system") == 2

        cut = cluster.host("worker2")
        cut.cut()
        deadline = time.monotonic() + 60
        while cluster.ray_states()[cut.address] != "DEAD":
            assert time.monotonic() < deadline, "Ray did not see that a host is cut off"
            time.sleep(0.5)
        assert cluster.ray_states()[cluster.host("worker1").address] == "ALIVE"
        assert {host.name: words for host, words in cluster.status()}["worker2"] == "cut, Ray: dead"
        processes = [process for host in cluster.hosts.values() for process in host.processes()]
        assert processes and any(link["ifname"].startswith(cluster.mark) for link in links())
    assert cluster.leftovers() == [] and not (tmp_path / "hosts").exists()
    assert not any(Path(f"/proc/{process}/ns/pid").exists() for process in processes)
    assert not any(link["ifname"].startswith(cluster.mark) for link in links())


def test_without_root_it_says_so_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert main(["up", "--folder", str(tmp_path / "hosts")]) == 2 and not (tmp_path / "hosts").exists()
    assert capsys.readouterr().err == "error: hosts need root, for namespaces and network links; run it as root, e.g. with sudo -E\n"


def test_a_host_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cut", "worker7", "--folder", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path} has no host worker7; it has none\n"


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    (tmp_path / "precious").touch()
    assert main(["up", "--folder", str(tmp_path)]) == 2
    assert "is not empty" in capsys.readouterr().err and (tmp_path / "precious").exists()
    assert main(["down", "--folder", str(tmp_path)]) == 2
    assert "holds no cluster" in capsys.readouterr().err and (tmp_path / "precious").exists()
