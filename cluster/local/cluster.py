"""A cluster of such hosts: a bridge, the object store, Ray's head and workers. Its state is a file: any process can go on with it."""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import json
import os
import secrets
import shutil
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from cluster.local.host import Host
from cluster.local.system import HostsError, called, installed, links, why_not

STORE, HEAD = "store", "head"
RAY_PORT, DASHBOARD_PORT, S3_PORT = 6379, 8265, 8333
_STATE = "cluster.json"
_FIRST_ADDRESS = 2
_STORE_SECONDS, _RAY_SECONDS, _END_SECONDS = 180.0, 600.0, 120.0
_OBJECT_STORE_BYTES = 200 * 1024 * 1024
NAMES = ("all", "none", "loopback")
"""What a host's `/etc/hosts` says: every host's address; nothing; only its own name as 127.0.1.1, as Debian does."""


class LocalCluster:
    """A cluster on this machine whose state lies in a folder."""

    def __init__(self, folder: str | Path) -> None:
        """The cluster of a folder, running or not."""
        self.folder = Path(folder).resolve()
        self.hosts: dict[str, Host] = {}
        self._names = "all"
        self._network: ipaddress.IPv4Network | None = None
        self._extra: dict[str, str] = {}
        if (self.folder / _STATE).exists():
            state = json.loads((self.folder / _STATE).read_text())
            self.hosts = {each["name"]: Host(**each) for each in state["hosts"]}
            self._names, self._extra = state["names"], state["extra"]
            self._network = ipaddress.IPv4Network(state["network"])

    @property
    def mark(self) -> str:
        """The name of its bridge, with which the names of its links begin; each of its processes has it as the variable
        CLINJEPA_LOCAL_CLUSTER."""
        return "clj" + hashlib.sha256(str(self.folder).encode()).hexdigest()[:7]

    def host(self, name: str) -> Host:
        """Raises HostsError for a host that is not there."""
        if name not in self.hosts:
            raise HostsError(f"{self.folder} has no host {name}; it has {', '.join(self.hosts) or 'none'}")
        return self.hosts[name]

    def up(
        self, num_workers: int = 2, num_cpus: int = 2, names: str = "all", env: Mapping[str, str] | None = None, store: bool = True
    ) -> None:
        """Make the store's host, the head and the workers, and wait until Ray sees all of them.

        Args:
            num_workers: Worker hosts.
            num_cpus: Logical CPUs of each of them.
            names: What hosts know of each other's names, one of `NAMES`.
            env: More variables of the environment of every process.
            store: Whether to make a host with the object store.

        Raises:
            HostsError: No hosts can be made here, the folder holds a cluster already, or something did not start in time.
        """
        if (reason := why_not(store)) is not None:
            raise HostsError(reason)
        if self.folder.exists() and any(self.folder.iterdir()):
            raise HostsError(f"{self.folder} is not empty; take another folder, or end its cluster with down")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        self._names, self._extra, self._network = names, dict(env or {}), _free_network(self.mark)
        (self.folder / "token").write_text(secrets.token_hex(32))
        (self.folder / "token").chmod(0o600)
        self._keep()
        self._make_bridge()
        if store:
            self._start_store(self._new_host(STORE, 0))
        self.start_ray(self._new_host(HEAD, 0).name)
        self.wait_for_ray([HEAD])  # a node whose head does not answer yet ends itself
        for _ in range(num_workers):
            self.add(num_cpus, wait=False)
        self.wait_for_ray()

    def add(self, num_cpus: int = 2, disk_mb: int | None = None, ray: bool = True, wait: bool = True, clock_ahead: int = 0) -> Host:
        """Another worker host.

        Args:
            num_cpus: Its logical CPUs.
            disk_mb: Size of its `/tmp` in MiB, which is then in memory and can be filled; None: a folder of this machine.
            ray: Whether to start Ray on it.
            wait: Whether to wait until Ray sees it.
            clock_ahead: Seconds by which its time of day is too late; needs a C compiler.

        Raises:
            HostsError: It could not be made, or Ray does not see it in time.
        """
        number = 1 + max([int(name.removeprefix("worker")) for name in self.hosts if name.startswith("worker")], default=0)
        host = self._new_host(f"worker{number}", num_cpus, disk_mb)
        if clock_ahead:
            host.set_clock(clock_ahead)
            self._keep()
        if ray:
            self.start_ray(host.name)
            if wait:
                self.wait_for_ray([host.name])
        return host

    def _new_host(self, name: str, num_cpus: int, disk_mb: int | None = None) -> Host:
        network = self._of_state()
        number = max([int(ipaddress.IPv4Address(host.address)) - int(network[0]) for host in self.hosts.values()], default=1) + 1
        host = Host(
            name=name,
            address=str(network[max(number, _FIRST_ADDRESS)]),
            link=f"{self.mark}-{number}",
            folder=str(self.folder / name),
            num_cpus=num_cpus,
            environment=self._environment(),
        )
        self.hosts[name] = host
        host.begin(self.mark, str(network[1]), network.prefixlen, disk_mb)
        if disk_mb is None:
            (host.disk / "token").write_text((self.folder / "token").read_text())
            (host.disk / "token").chmod(0o600)
        else:
            host.run(["sh", "-c", 'umask 077 && printf %s "$RAY_TOKEN" > /tmp/token'], env={"RAY_TOKEN": self.token}).check_returncode()
        host.run(["mkdir", "-p", host.environment["HOME"]]).check_returncode()
        self._write_names()
        self._keep()
        return host

    def _of_state(self) -> ipaddress.IPv4Network:
        if self._network is None:
            raise HostsError(f"{self.folder} holds no cluster; make one with up")
        return self._network

    def _write_names(self) -> None:
        for host in self.hosts.values():
            names = {each.name: each.address for each in self.hosts.values()} if self._names == "all" else {}
            host.write_names({host.name: "127.0.1.1"} if self._names == "loopback" else names)

    def _environment(self) -> dict[str, str]:
        """Variables of every process: few of this process's, so that hosts are alike wherever they are made from."""
        kept = {name: os.environ[name] for name in ("LANG", "TERM", "OMP_NUM_THREADS") if name in os.environ}
        path = f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        own = {"PATH": path, "HOME": "/tmp/home", "CLINJEPA_LOCAL_CLUSTER": self.mark}
        busy = {"RAY_agent_register_timeout_ms": "120000", "RAY_worker_register_timeout_seconds": "120"}  # several hosts on few cores
        quiet = {"RAY_USAGE_STATS_ENABLED": "0", "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "/tmp/token"}
        return kept | own | busy | quiet | token | self.store_environment() | self._extra

    @property
    def token(self) -> str:
        return (self.folder / "token").read_text()

    def store_environment(self) -> dict[str, str]:
        """Variables with which a client reaches the object store; empty without one."""
        if not (self.folder / "s3.json").exists():
            return {}
        key = json.loads((self.folder / "s3.json").read_text())["identities"][0]["credentials"][0]
        return {
            "AWS_ENDPOINT_URL": f"http://{self._of_state()[_FIRST_ADDRESS]}:{S3_PORT}",
            "AWS_ACCESS_KEY_ID": key["accessKey"],
            "AWS_SECRET_ACCESS_KEY": key["secretKey"],
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_REGION": "us-east-1",
        }

    def client_environment(self) -> dict[str, str]:
        """Variables with which a process of this machine submits jobs and reads the store."""
        return {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"),
            "CLINJEPA_ADDRESS": self.dashboard,
            **self.store_environment(),
        }

    @property
    def dashboard(self) -> str:
        return f"http://{self.host(HEAD).address}:{DASHBOARD_PORT}"

    def _make_bridge(self) -> None:
        network = self._of_state()
        called("ip", "link", "add", self.mark, "type", "bridge")
        called("ip", "address", "add", f"{network[1]}/{network.prefixlen}", "dev", self.mark)
        called("ip", "link", "set", self.mark, "up")

    def _start_store(self, host: Host) -> None:
        """SeaweedFS with the bucket `clinjepa`; keys are made for this cluster."""
        credentials = [{"accessKey": secrets.token_hex(8), "secretKey": secrets.token_hex(24)}]
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        (self.folder / "s3.json").touch(0o600)
        (self.folder / "s3.json").write_text(json.dumps({"identities": [{"name": "p", "credentials": credentials, "actions": actions}]}))
        shutil.copy(self.folder / "s3.json", host.disk / "s3.json")
        (host.disk / "data").mkdir()
        self.start_store()
        _wait(lambda: _answers(host.address, S3_PORT), _STORE_SECONDS, f"the object store did not start; see {host.folder}/weed.log")
        ask = "import s3fs; s3fs.S3FileSystem().mkdir('clinjepa')"
        made = _retried(lambda: host.run([sys.executable, "-c", ask], env=self.store_environment()).returncode == 0, 30)
        if not made:
            raise HostsError(f"the object store takes no bucket; see {host.folder}/weed.log")

    def start_store(self) -> None:
        """Start the object store on its host, whose disk may hold the objects of an earlier start."""
        host = self.host(STORE)
        options = ["-dir=/tmp/data", f"-ip={host.address}", "-ip.bind=0.0.0.0", "-filer", "-s3", f"-s3.port={S3_PORT}"]
        options += ["-s3.config=/tmp/s3.json", "-volume.max=400", "-master.volumeSizeLimitMB=256", "-s3.port.iceberg=0", "-s3.port.lance=0"]
        host.start([str(installed("weed")), "server", *options, "-master.telemetry=false"], "weed.log")

    def start_ray(self, name: str, extra: Mapping[str, str] | None = None) -> None:
        """Start Ray on a host, as head where it is the head's, and again whenever it ends, as a cluster's supervisor does.

        Args:
            name: The host.
            extra: More variables of Ray's processes there.
        """
        host = self.host(name)
        words = [str(installed("ray")), "start", f"--node-ip-address={host.address}", "--temp-dir=/tmp/ray", "--block"]
        words += ["--disable-usage-stats", f"--num-cpus={host.num_cpus}", f"--object-store-memory={_OBJECT_STORE_BYTES}"]
        if name == HEAD:
            words += ["--head", f"--port={RAY_PORT}", f"--dashboard-host={host.address}", f"--dashboard-port={DASHBOARD_PORT}"]
        else:
            words += [f"--address={self.host(HEAD).address}:{RAY_PORT}", f'--resources={{"{name}": 1}}']
        storage = {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": "/tmp/gcs"} if name == HEAD else {}
        # The environment of Ray's processes is that of its tasks; the store's keys are among it, as on a cluster with keys.
        again = ["sh", "-c", 'while :; do "$@"; sleep 2; done', "supervisor", *words]
        host.start(again, "ray.log", {**self._environment(), **host.environment, **storage, **(extra or {})})

    def wait_for_ray(self, names: list[str] | None = None, seconds: float = _RAY_SECONDS) -> None:
        """Wait until Ray says that hosts are alive. Raises HostsError after `seconds`.

        Args:
            names: The hosts; all that have Ray unless given.
            seconds: Longest wait.
        """
        wanted = {self.host(name).address for name in names or [name for name in self.hosts if name != STORE]}
        _wait(
            lambda: wanted <= {address for address, state in self.ray_states().items() if state == "ALIVE"},
            seconds,
            f"Ray did not start on every host within {seconds:g} s; see {self.folder}/*/ray.log",
        )

    def ray_states(self) -> dict[str, str]:
        """Address -> `ALIVE` or `DEAD`, as the head says; empty when it does not answer. A node that came back counts as alive."""
        try:
            address, header = f"{self.dashboard}/api/v0/nodes", {"Authorization": f"Bearer {self.token}"}
            request = urllib.request.Request(address, headers=header)  # noqa: S310  # an address made here
            with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310
                rows = json.load(answer)["data"]["result"]["result"]
        except (OSError, ValueError, KeyError, TypeError, HostsError):
            return {}
        found: dict[str, str] = {}
        for row in rows:
            if found.get(row["node_ip"]) != "ALIVE":
                found[row["node_ip"]] = row["state"]
        return found

    def status(self) -> Iterator[tuple[Host, str]]:
        """Every host and how it is, in words."""
        states = self.ray_states()
        for host in self.hosts.values():
            if not host.runs():
                yield host, "gone"
                continue
            words = ["cut" if host.is_cut() else "linked"]
            if host.name == STORE:
                words.append(f"s3://clinjepa at http://{host.address}:{S3_PORT}")
            else:
                words.append(f"Ray: {states.get(host.address, 'unknown').lower()}")
            yield host, ", ".join(words)

    def down(self, keep: bool = False) -> None:
        """Take away hosts, processes, links, the bridge, and the folder unless `keep`.

        Raises:
            HostsError: The folder holds no cluster, or something of it stays.
        """
        self._of_state()
        for host in self.hosts.values():
            host.kill()
        for host in self.hosts.values():
            host.end()
        for link in links():
            if link["ifname"].startswith(self.mark):
                with contextlib.suppress(HostsError):
                    called("ip", "link", "del", link["ifname"])
        if not _retried(lambda: not self.leftovers(), _END_SECONDS):
            raise HostsError(f"of {self.folder} there is left: {', '.join(self.leftovers())}")
        self.hosts, self._network = {}, None
        (self.folder / _STATE).unlink(missing_ok=True)
        if not keep and not _retried(self._is_removed, _END_SECONDS):
            raise HostsError(f"{self.folder} could not be removed; remove it by hand")

    def _is_removed(self) -> bool:
        shutil.rmtree(self.folder, ignore_errors=True)  # a process that ends just now may write a last file
        return not self.folder.exists()

    def leftovers(self) -> list[str]:
        """What of the cluster is on this machine: links, processes, mounts."""
        found = [link["ifname"] for link in links() if link["ifname"].startswith(self.mark)]
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and f"CLINJEPA_LOCAL_CLUSTER={self.mark}\0".encode() in (entry / "environ").read_bytes():
                    found.append(f"process {entry.name}")
        return found + [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(self.folder) in line]

    def _keep(self) -> None:
        state = {
            "hosts": [host.to_json() for host in self.hosts.values()],
            "names": self._names,
            "extra": self._extra,
            "network": str(self._of_state()),
        }
        made = self.folder / f"{_STATE}.new"
        made.touch(0o600)
        made.write_text(json.dumps(state, indent=1))
        made.replace(self.folder / _STATE)

    def __enter__(self) -> LocalCluster:
        return self

    def __exit__(self, *_: object) -> None:
        if self._network is not None:
            self.down()


def _free_network(mark: str) -> ipaddress.IPv4Network:
    """A network of 254 addresses that overlaps with none of this machine's."""
    used = [
        ipaddress.IPv4Interface(f"{address['local']}/{address['prefixlen']}").network
        for link in links()
        for address in link["addr_info"]
        if address["family"] == "inet"
    ]
    start = int(mark[-4:], 16)
    for number in range(start, start + 16384):
        network = ipaddress.IPv4Network((int(ipaddress.IPv4Address("10.192.0.0")) + 256 * (number % 16384), 24))
        if not any(network.overlaps(other) for other in used):
            return network
    raise HostsError("no free network in 10.192.0.0/10")


def _answers(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=1).close()
    except OSError:
        return False
    return True


def _wait(reached: Callable[[], bool], seconds: float, otherwise: str) -> None:
    if not _retried(reached, seconds):
        raise HostsError(otherwise)


def _retried(attempt: Callable[[], bool], seconds: float) -> bool:
    """Whether it succeeds within so many seconds."""
    deadline = time.monotonic() + seconds
    while not attempt():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.3)
    return True
