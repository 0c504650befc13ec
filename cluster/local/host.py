"""One host: its namespaces, its link to the bridge, its processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cluster.local.init import Spec
from cluster.local.system import HostsError, called

ROOT = Path(__file__).resolve().parents[2]
"""Folder of the project, which every host sees."""

SHARED_MEMORY_MB = 512
_PATIENCE_SECONDS = 120.0


@dataclass
class Host:
    """What is known of a host; as JSON it is in the cluster's state file."""

    name: str
    address: str
    """Its IPv4 address."""

    link: str
    """The end of its link at the bridge, a network interface of this machine."""

    folder: str
    """Folder of this machine with its disks, its files and the logs of its processes."""

    num_cpus: int = 0
    """Logical CPUs that Ray is told; of a host without Ray, 0."""

    pid: int = 0
    """Process 1 of the host, by its number on this machine."""

    started: str = ""
    """When that process was started, in the kernel's clock ticks: a later process with the same number has another."""

    environment: dict[str, str] = field(default_factory=dict, repr=False)
    """Variables of every process."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def disk(self) -> Path:
        """Its `/tmp` as this machine sees it, unless the disk is in memory."""
        return Path(self.folder, "tmp")

    def begin(self, bridge: str, gateway: str, prefix: int, disk_mb: int | None = None) -> None:
        """Make its namespaces, folders and link.

        Args:
            bridge: The bridge to be linked to.
            gateway: Address of the bridge.
            prefix: Length of the network's prefix.
            disk_mb: Size of its `/tmp` in MiB, which is then in memory; None: a folder of this machine.

        Raises:
            HostsError: The kernel refuses something.
        """
        self._make_files()
        process = subprocess.Popen(
            ["unshare", "--net", "--pid", "--mount", "--uts", "--ipc", "--fork", "--kill-child", "--propagation", "private"]
            + [sys.executable, "-m", "cluster.local.init", json.dumps(self._spec(disk_mb))],
            cwd=ROOT,
            env=self.environment | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert process.stdout is not None and process.stderr is not None
        if process.stdout.readline() != b"ready\n":
            said = process.stderr.read().decode(errors="replace").split("\n")
            process.wait()
            raise HostsError(f"host {self.name} could not be made: {[line for line in said if line][-1:]}")
        process.stdout.close()
        process.stderr.close()
        self.pid = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])
        self.started = started_at(self.pid) or ""
        called("ip", "link", "add", self.link, "type", "veth", "peer", "name", "eth0", "netns", str(self.pid))
        called("ip", "link", "set", self.link, "master", bridge, "up")
        for words in (
            ["link", "set", "lo", "up"],
            ["address", "add", f"{self.address}/{prefix}", "dev", "eth0"],
            ["link", "set", "eth0", "up"],
            ["route", "add", "default", "via", gateway],
        ):
            self._in_network("ip", *words)

    def _make_files(self) -> None:
        folder = Path(self.folder)
        for name in ("tmp", "var_tmp"):
            (folder / name).mkdir(parents=True, exist_ok=True)
            (folder / name).chmod(0o1777)
        (folder / "hosts").touch()
        (folder / "resolv.conf").write_text("")

    def _spec(self, disk_mb: int | None) -> Spec:
        disks = {"/tmp": str(self.disk), "/var/tmp": str(Path(self.folder, "var_tmp"))}
        in_memory = {"/dev/shm": SHARED_MEMORY_MB}
        if disk_mb is not None:
            in_memory["/tmp"] = disk_mb
            del disks["/tmp"]
        files = {f"/etc/{name}": str(Path(self.folder, name)) for name in ("hosts", "resolv.conf")}
        seen = [str(ROOT), *dict.fromkeys((os.path.realpath(sys.base_prefix), os.path.abspath(sys.prefix)))]
        return {"name": self.name, "disks": disks, "in_memory": in_memory, "files": files, "seen": seen}

    def set_clock(self, ahead: int) -> None:
        """Let processes that are started from now on read a time of day that is `ahead` seconds too late, or too early where negative.

        Raises HostsError where there is no C compiler, or it fails.
        """
        library = Path(self.folder, "clock.so")
        called("cc", "-shared", "-fPIC", "-O2", "-o", str(library), str(Path(__file__).with_name("clock.c")), "-ldl")
        self.run(["sh", "-c", "cat > /tmp/clock.so"], input=library.read_bytes()).check_returncode()
        self.environment |= {"CLJ_CLOCK": "/tmp/clock.so", "CLJ_CLOCK_AHEAD": str(ahead)}

    def write_names(self, names: Mapping[str, str]) -> None:
        """Write its `/etc/hosts`: names -> addresses, beside localhost."""
        lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in names.items())]
        Path(self.folder, "hosts").write_text("\n".join(lines) + "\n")

    def runs(self) -> bool:
        """Whether its namespaces are there."""
        return bool(self.pid) and started_at(self.pid) == self.started

    def command(self, words: Sequence[str]) -> list[str]:
        """The command that runs `words` in the host, in the project's folder."""
        # The library of a wrong clock is on the host's disk, where nsenter does not see it yet.
        inside = ["sh", "-c", 'cd "$0" && exec env ${CLJ_CLOCK:+LD_PRELOAD=$CLJ_CLOCK} "$@"', str(ROOT), *words]
        return ["nsenter", "--target", str(self.pid), "--net", "--pid", "--mount", "--uts", "--ipc", *inside]

    def start(self, words: Sequence[str], log: str, env: Mapping[str, str] | None = None) -> int:
        """Start a command in the host that outlives this process, with its output in a log of the host's folder; returns its number
        on this machine."""
        self._check()
        with open(Path(self.folder, log), "ab") as file:
            done = subprocess.Popen(
                self.command(words),
                env=self.environment | dict(env or {}),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        return done.pid

    def popen(self, words: Sequence[str], env: Mapping[str, str] | None = None, **options: Any) -> subprocess.Popen[Any]:
        """A command in the host, as `subprocess.Popen`."""
        self._check()
        return subprocess.Popen(self.command(words), env=self.environment | dict(env or {}), **options)

    def run(
        self, words: Sequence[str], timeout: float | None = None, env: Mapping[str, str] | None = None, input: bytes = b""
    ) -> subprocess.CompletedProcess[str]:
        """A command in the host, run to its end; its output is text."""
        self._check()
        environment = self.environment | dict(env or {})
        done = subprocess.run(self.command(words), env=environment, timeout=timeout, capture_output=True, input=input)
        said, errors = (each.decode(errors="replace") for each in (done.stdout, done.stderr))
        return subprocess.CompletedProcess(done.args, done.returncode, said, errors)

    def _check(self) -> None:
        if not self.runs():
            raise HostsError(f"host {self.name} does not run; see status")

    def _in_network(self, *words: str) -> None:
        called("nsenter", "--target", str(self.pid), "--net", *words)

    def cut(self) -> None:
        """Take its link down: nothing reaches it, and nothing that it sends arrives."""
        called("ip", "link", "set", self.link, "down")

    def join(self) -> None:
        """Take its link up again."""
        called("ip", "link", "set", self.link, "up")

    def is_cut(self) -> bool:
        return "UP" not in json.loads(called("ip", "-json", "link", "show", self.link))[0]["flags"]

    def limit(self, kbit: int | None) -> None:
        """Let no more than `kbit` kilobits a second through its link in each direction; None: no limit. Raises HostsError."""
        rest = [] if kbit is None else ["tbf", "rate", f"{kbit}kbit", "burst", "64kbit", "latency", "500ms"]
        what = "del" if kbit is None else "replace"
        with contextlib.suppress(HostsError) if kbit is None else contextlib.nullcontext():
            called("tc", "qdisc", what, "dev", self.link, "root", *rest)
            self._in_network("tc", "qdisc", what, "dev", "eth0", "root", *rest)

    def processes(self) -> list[int]:
        """Processes of the host but its first, by their numbers on this machine."""
        try:
            own = os.stat(f"/proc/{self.pid}/ns/pid").st_ino
        except OSError:
            return []
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                if int(entry.name) != self.pid and os.stat(entry / "ns/pid").st_ino == own:
                    found.append(int(entry.name))
        return found

    def stop(self) -> None:
        """SIGKILL every process of the host but its first, as a loss of power would; its disks stay."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while (found := [each for each in self.processes() if not ended(each)]) and time.monotonic() < deadline:
            for process in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            time.sleep(0.1)

    def kill(self) -> None:
        """Have the kernel end every process of the host, and with them its namespaces; returns before that is done."""
        if self.runs():
            os.kill(self.pid, signal.SIGKILL)

    def end(self) -> None:
        """Take the host away with all its processes, mounts and its link."""
        self.kill()
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while self.runs() and not ended(self.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        with contextlib.suppress(HostsError):  # the kernel may have removed it with the namespace
            called("ip", "link", "del", self.link)


def started_at(pid: int) -> str | None:
    """When a process was started, in clock ticks since the machine was; None when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except (OSError, IndexError):
        return None


def ended(pid: int) -> bool:
    """Whether a process has ended, collected by its parent or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX"
    except (OSError, IndexError):
        return True
