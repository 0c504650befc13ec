"""Faults on a cluster of several hosts, at Ray's own settings: what is said, after how many seconds, and that the results stay.

`pytest -m long -s` prints the seconds of each; docs/hosts.md has those that were measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from clinjepa.storage import Folder
from cluster.local.cluster import LocalCluster
from tests.support.machines.host_cluster import (
    ONE_A_HOST,
    HostRun,
    checkpoints,
    contents,
    processes_of,
    training_on,
)

pytestmark = [pytest.mark.ray, pytest.mark.s3, pytest.mark.chaos, pytest.mark.long, pytest.mark.timeout(1800)]

ONE_RECIPE = ["grid.recipes=[clin_jepa]", "curriculum.checkpoint_every_steps=1"]
DATA_KINDS = ("ingest", "tokenizer", "trajectories", "labels", "data_card", "base")
PATIENCE = 600.0
NUM_PHASES = 4
"""Phases that are trained: warmup, joint, alignment, finalization."""


@pytest.fixture
def whole(several_hosts: LocalCluster) -> Iterator[LocalCluster]:
    """The cluster with its two workers, whatever a test before did to it."""
    yield several_hosts
    for host in several_hosts.hosts.values():
        host.join()
        host.limit(None)
    several_hosts.wait_for_ray(["head", "worker1", "worker2"])


class Undisturbed:
    """What a run finds that nobody disturbs; made when it is asked for."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.cluster, self.address = cluster, "s3://clinjepa/whole"  # of test_hosts_run.py too
        self._whole: dict[str, str] = {}

    def contents(self) -> dict[str, str]:
        if not self._whole:
            self._whole = contents(Folder(self.address))
            if len({name.split("/")[1] for name in self._whole if name.startswith("phase/")}) < NUM_PHASES:
                finished(HostRun(self.cluster, "pretrain", self.address, [*ONE_A_HOST, *ONE_RECIPE]))
                self._whole = contents(Folder(self.address))
        return self._whole

    def assert_same(self, storage: str) -> None:
        """All files of a finished run are those of the undisturbed one, to the byte."""
        there = contents(Folder(storage))
        assert there.items() <= self.contents().items()
        assert {"sft", "embed", "phase"} <= {name.partition("/")[0] for name in there}

    def copied(self, name: str, kinds: Sequence[str]) -> str:
        """A storage with its stages of these kinds; returns its address."""
        self.contents()
        there = Folder(f"s3://clinjepa/{name}")
        for kind in kinds:
            for path in Folder(f"{self.address}/artifacts/{kind}").files():
                there.write_bytes(f"artifacts/{kind}/{path}", Folder(self.address).read_bytes(f"artifacts/{kind}/{path}"))
        return there.address


@pytest.fixture(scope="module")
def undisturbed(several_hosts: LocalCluster) -> Undisturbed:
    return Undisturbed(several_hosts)


def finished(run: HostRun, seconds: float = PATIENCE) -> None:
    try:
        assert run.finish(seconds) == 0, run.said[-4000:]
    finally:
        run.stop()


def tell(what: str, since: float, run: HostRun) -> None:
    """Print when something was seen, and what the run has said since."""
    print(f"\n{what} after {time.monotonic() - since:.1f} s", flush=True)
    for when, line in run.lines:
        if when >= since:
            print(f"   {when - since:6.1f} s  {line[:300]}", flush=True)


def wait_until(reached: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.2)


def newest(storage: str) -> int:
    return max(checkpoints(Folder(storage)).values(), default=0)


def test_a_host_cut_off_in_a_phase_that_joins_again(whole: LocalCluster, undisturbed: Undisturbed) -> None:
    storage = undisturbed.copied("cut_in_phase", (*DATA_KINDS, "sft", "embed"))
    run = HostRun(whole, "pretrain", storage, [*ONE_A_HOST, *ONE_RECIPE])
    run.wait_for(lambda: newest(storage) >= 2, PATIENCE)
    host, since = whole.host("worker2"), time.monotonic()
    host.cut()
    wait_until(lambda: whole.ray_states().get(host.address) == "DEAD", 120)
    tell("cut in a phase: dead for Ray", since, run)
    run.pause(max(0.0, 90 - (time.monotonic() - since)))
    tell("cut in a phase: before it joins again", since, run)
    host.join()
    joined = time.monotonic()
    wait_until(lambda: whole.ray_states().get(host.address) == "ALIVE", 120)
    tell("cut in a phase: alive again (since it was joined)", joined, run)
    wait_until(lambda: len(training_on(whole)) == 2, 120)
    tell("cut in a phase: trains again on both (since it was joined)", joined, run)
    finished(run)
    tell("cut in a phase: finished", since, run)
    undisturbed.assert_same(storage)


def test_a_host_cut_off_while_latents_are_made(whole: LocalCluster, undisturbed: Undisturbed) -> None:
    storage = undisturbed.copied("cut_in_embed", (*DATA_KINDS, "sft"))
    run = HostRun(whole, "pretrain", storage, [*ONE_A_HOST, *ONE_RECIPE])
    run.wait_for(lambda: bool(processes_of(whole, "worker2", "_EmbedShards")), PATIENCE)
    cut_and_join(whole, run, "cut in latents", 60)
    finished(run)
    undisturbed.assert_same(storage)


def test_a_host_cut_off_in_ingest(whole: LocalCluster) -> None:
    many = ["source.simulator.num_patients=400", "source.num_partitions=16"]
    run = HostRun(whole, "ingest", "s3://clinjepa/cut_in_ingest", many)
    run.wait_for(lambda: bool(Folder("s3://clinjepa/cut_in_ingest").names("artifacts/ingest")), PATIENCE)
    cut_and_join(whole, run, "cut in ingest", 60)
    finished(run)
    finished(HostRun(whole, "ingest", "s3://clinjepa/ingest_undisturbed", many))
    assert contents(Folder("s3://clinjepa/cut_in_ingest")) == contents(Folder("s3://clinjepa/ingest_undisturbed"))


def cut_and_join(cluster: LocalCluster, run: HostRun, what: str, seconds: float) -> None:
    host, since = cluster.host("worker2"), time.monotonic()
    host.cut()
    wait_until(lambda: cluster.ray_states().get(host.address) == "DEAD", 120)
    tell(f"{what}: dead for Ray", since, run)
    run.pause(max(0.0, seconds - (time.monotonic() - since)))
    host.join()
    wait_until(lambda: cluster.ray_states().get(host.address) == "ALIVE", 120)
    tell(f"{what}: alive again", since, run)


def test_a_host_that_joins_in_a_phase_is_used(whole: LocalCluster, undisturbed: Undisturbed) -> None:
    storage = undisturbed.copied("joining", (*DATA_KINDS, "sft", "embed"))
    elastic = [
        "execution.num_workers=[1,3]",
        "execution.resize_interval_seconds=5",
        "curriculum.global_batch=6",
        "curriculum.num_steps=400",
    ]
    run = HostRun(whole, "pretrain", storage, [*ONE_A_HOST, *ONE_RECIPE, *elastic])
    run.wait_for(lambda: newest(storage) >= 2, PATIENCE)
    since = time.monotonic()
    host = whole.add()
    tell("joining: alive for Ray", since, run)
    wait_until(lambda: host.name in training_on(whole), 180)
    tell("joining: trains there", since, run)
    host.cut()
    cut = time.monotonic()
    finished(run)
    tell("joining: finished (since it was cut off)", cut, run)
    host.end()
    del whole.hosts[host.name]


def test_the_store_is_away_for_a_while_in_a_phase(whole: LocalCluster, undisturbed: Undisturbed) -> None:
    storage = undisturbed.copied("store_away", (*DATA_KINDS, "sft", "embed"))
    run = HostRun(whole, "pretrain", storage, [*ONE_A_HOST, *ONE_RECIPE])
    run.wait_for(lambda: newest(storage) >= 2, PATIENCE)
    since = time.monotonic()
    whole.host("store").cut()
    run.pause(30)
    whole.host("store").join()
    tell("store away: back", since, run)
    finished(run)
    tell("store away: finished", since, run)
    undisturbed.assert_same(storage)


def test_the_head_is_lost_in_a_phase_and_comes_back(whole: LocalCluster, undisturbed: Undisturbed) -> None:
    storage = undisturbed.copied("head_lost", (*DATA_KINDS, "sft", "embed"))
    run = HostRun(whole, "pretrain", storage, [*ONE_A_HOST, *ONE_RECIPE])
    run.wait_for(lambda: newest(storage) >= 2, PATIENCE)
    since = time.monotonic()
    whole.host("head").stop()
    status = run.finish(300)
    tell(f"head lost: the submitting command ended with {status}", since, run)
    assert status != 0
    back = time.monotonic()
    whole.start_ray("head")
    whole.wait_for_ray(["head", "worker1", "worker2"])
    tell("head lost: all are alive again (since its start)", back, run)
    again = HostRun(whole, "pretrain", storage, [*ONE_A_HOST, *ONE_RECIPE])
    finished(again)
    tell("head lost: the same command finished (since its start)", back, again)
    undisturbed.assert_same(storage)


def test_a_slow_link_of_one_host(whole: LocalCluster, undisturbed: Undisturbed) -> None:
    storage = undisturbed.copied("slow_link", (*DATA_KINDS, "sft", "embed"))
    whole.host("worker2").limit(2000)
    since = time.monotonic()
    run = HostRun(whole, "pretrain", storage, [*ONE_A_HOST, *ONE_RECIPE])
    finished(run, 1200)
    tell("slow link of 2 Mbit/s: finished", since, run)
    undisturbed.assert_same(storage)


def test_the_disk_of_one_host_is_full(whole: LocalCluster, undisturbed: Undisturbed, tmp_path: Path) -> None:
    storage = undisturbed.copied("disk_full", (*DATA_KINDS, "sft", "embed"))
    host = whole.add(disk_mb=600)
    whole.host("worker2").stop()
    wait_until(lambda: whole.ray_states().get(whole.host("worker2").address) == "DEAD", 120)
    run = HostRun(whole, "pretrain", storage, [*ONE_A_HOST, *ONE_RECIPE])
    try:
        run.wait_for(lambda: newest(storage) >= 2, PATIENCE)
        since = time.monotonic()
        host.run(["sh", "-c", "cat /dev/zero > /tmp/filler; true"])
        run.pause(120)
        tell(f"disk full: {run.process.poll()}", since, run)
        host.run(["rm", "/tmp/filler"])
        status = run.finish(PATIENCE)
        tell(f"disk full, then free again: ended with {status}", since, run)
        if status:
            finished(HostRun(whole, "pretrain", storage, [*ONE_A_HOST, *ONE_RECIPE]))
        undisturbed.assert_same(storage)
    finally:
        run.stop()
        host.end()
        del whole.hosts[host.name]
        whole.start_ray("worker2")


def test_the_clock_of_one_host_is_wrong(whole: LocalCluster, undisturbed: Undisturbed) -> None:
    storage = undisturbed.copied("wrong_clock", DATA_KINDS)
    host = whole.add(clock_ahead=90)
    try:
        assert int(host.run(["date", "+%s"]).stdout) - time.time() > 80
        whole.host("worker2").cut()
        wait_until(lambda: whole.ray_states().get(whole.host("worker2").address) == "DEAD", 120)
        since = time.monotonic()
        run = HostRun(whole, "pretrain", storage, [*ONE_A_HOST, *ONE_RECIPE])
        run.wait_for(lambda: host.name in training_on(whole), PATIENCE)
        finished(run)
        tell("clock 90 s ahead: finished", since, run)
        undisturbed.assert_same(storage)
    finally:
        host.end()
        del whole.hosts[host.name]


def test_two_clusters_on_one_storage(whole: LocalCluster, undisturbed: Undisturbed) -> None:
    storage = undisturbed.copied("two_clusters", DATA_KINDS)
    other = whole.add(num_cpus=0, ray=False)
    since = time.monotonic()
    run = HostRun(whole, "pretrain", storage, [*ONE_A_HOST, *ONE_RECIPE])
    from tests.support.machines.host_cluster import here_on

    alone = here_on(other, "pretrain", storage, [*ONE_RECIPE, "execution.num_workers=2", "execution.local_num_cpus=2"])
    try:
        finished(run, 1200)
        tell("two clusters: the cluster finished", since, run)
        said = alone.communicate(timeout=600)[0]
        print(f"two clusters: the other one ended with {alone.returncode} after {time.monotonic() - since:.1f} s\n{said[-3000:]}")
        assert alone.returncode == 0
        undisturbed.assert_same(storage)
    finally:
        other.end()
        del whole.hosts[other.name]
