"""The command line of a cluster on this machine: `python -m cluster.local up --folder F`, and what to do with its hosts."""

from __future__ import annotations

import argparse
import subprocess
import sys

from cluster.local.cluster import HEAD, NAMES, STORE, LocalCluster
from cluster.local.system import HostsError


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    top = argparse.ArgumentParser(prog="python -m cluster.local", description="A cluster of several hosts on this machine (Linux, root).")
    actions = top.add_subparsers(dest="action", required=True)
    on_host = {
        "cut": "take the link of a host down",
        "join": "take it up again",
        "slow": "limit the link of a host",
        "stop": "SIGKILL every process of a host, as a loss of power does; its disks stay",
        "start": "start Ray, or the store, on a host again",
        "exec": "run a command on a host",
    }
    made = {name: actions.add_parser(name, help=text) for name, text in on_host.items()}
    for each in made.values():
        each.add_argument("host")
    made["slow"].add_argument("--kbit", type=int, help="kilobits a second in each direction; no limit unless given")
    made["exec"].add_argument("command", nargs=argparse.REMAINDER, help="after --")
    up = made["up"] = actions.add_parser("up", help="make the store, the head and the workers")
    up.add_argument("--workers", type=int, default=2, help="worker hosts (2)")
    up.add_argument("--names", choices=NAMES, default="all", help="what hosts know of each other's names (all)")
    up.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="a variable of every process; may be repeated")
    add = made["add"] = actions.add_parser("add", help="another worker host")
    add.add_argument("--disk-mb", type=int, help="size of its /tmp in MiB, in memory")
    add.add_argument("--clock-ahead", type=int, default=0, metavar="SECONDS", help="its time of day is so much too late; needs cc")
    add.add_argument("--without-ray", action="store_true", help="do not start Ray on it")
    for each in (up, add):
        each.add_argument("--cpus", type=int, default=2, help="logical CPUs of a worker host (2)")
    made["status"] = actions.add_parser("status", help="hosts and how they are")
    made["env"] = actions.add_parser("env", help='variables to submit jobs from this machine: eval "$(… env --folder F)"')
    down = made["down"] = actions.add_parser("down", help="take everything away")
    down.add_argument("--keep", action="store_true", help="keep the disks and logs of the hosts")
    for each in made.values():
        each.add_argument("--folder", required=True, help="where the cluster's state, disks and logs lie")
    return top


def carried_out(given: argparse.Namespace) -> int:
    """Do what the command line says; returns the exit status. Raises HostsError."""
    cluster = LocalCluster(given.folder)
    if given.action == "up":
        _up(cluster, given)
    elif given.action == "add":
        print(cluster.add(given.cpus, given.disk_mb, ray=not given.without_ray, clock_ahead=given.clock_ahead).name)
    elif given.action == "down":
        cluster.down(given.keep)
    elif given.action == "env":
        print("\n".join(f"export {name}={value}" for name, value in cluster.client_environment().items()))
    elif given.action == "exec":
        words = given.command[1:] if given.command[:1] == ["--"] else given.command
        return subprocess.run(cluster.host(given.host).command(words), env=cluster.host(given.host).environment).returncode
    elif given.action != "status":
        _change(cluster, given)
    if given.action in ("up", "status"):
        for host, words in cluster.status():
            print(f"{host.name:10} {host.address:15} {words}")
        if HEAD in cluster.hosts:
            print(f"dashboard  {cluster.dashboard}   token in {cluster.folder}/token")
    return 0


def _up(cluster: LocalCluster, given: argparse.Namespace) -> None:
    try:
        cluster.up(given.workers, given.cpus, given.names, dict(each.split("=", 1) for each in given.env))
    except (HostsError, KeyboardInterrupt):
        if cluster.hosts:
            cluster.down(keep=True)  # the logs say more
        raise


def _change(cluster: LocalCluster, given: argparse.Namespace) -> None:
    host = cluster.host(given.host)
    if given.action == "start":
        cluster.start_store() if given.host == STORE else cluster.start_ray(given.host)
    elif given.action == "slow":
        host.limit(given.kbit)
    else:
        {"cut": host.cut, "join": host.join, "stop": host.stop}[given.action]()


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 2 for a fault, with one line on standard error."""
    try:
        return carried_out(parser().parse_args(arguments))
    except HostsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
