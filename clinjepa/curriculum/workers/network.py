"""Whether the workers of a training reach each other, and through which network interface.

gloo looks for its own address by the host's name, and takes 127.0.0.1 where the name leads nowhere or to the loopback, as on Debian.
Workers on other hosts then connect to themselves. `GLOO_SOCKET_IFNAME` names the interface instead.
"""

from __future__ import annotations

import contextlib
import os
import platform
import socket
import struct
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

from clinjepa.errors import ResourceError

INTERFACE_VARIABLE = "GLOO_SOCKET_IFNAME"
REACH_SECONDS = 60.0
"""Longest time to try to reach another worker: longer than Ray needs to find that a node is lost, so that a firewall is what remains."""

_CONNECT_SECONDS = 5.0
_SIOCGIFADDR = 0x8915
"""Linux's request for the IPv4 address of an interface."""


class Place(NamedTuple):
    """Where a worker listens."""

    host: str
    """Name of its host."""

    node: str
    """The address by which the cluster knows that host."""

    address: str
    """Where it listens: `node`, or the address of the interface that the user chose."""

    port: int


def address_of(interface: str) -> str | None:
    """The IPv4 address of a network interface; None where it has none or the system does not tell."""
    try:
        import fcntl

        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
            answer = fcntl.ioctl(asked.fileno(), _SIOCGIFADDR, struct.pack("256s", interface.encode()[:15]))
    except (ImportError, OSError):
        return None
    return socket.inet_ntoa(answer[20:24])


def interface_with(address: str) -> str | None:
    """The network interface that has an IPv4 address; None where none has or the system does not tell."""
    return next((name for _, name in socket.if_nameindex() if address_of(name) == address), None)


def listen(address: str, seconds: float = 2 * REACH_SECONDS) -> Place:
    """Accept connections at this worker's address for so many seconds, in a thread; returns where.

    Args:
        address: The address of this host by which the cluster knows it. The interface of `GLOO_SOCKET_IFNAME` comes first.
        seconds: How long.

    Raises:
        ResourceError: The interface of `GLOO_SOCKET_IFNAME` has no address here.
    """
    chosen = os.environ.get(INTERFACE_VARIABLE, "").split(",")[0]
    own = address_of(chosen) if chosen else address
    if own is None:
        raise ResourceError(f"{INTERFACE_VARIABLE}={chosen}, but host {platform.node()} has no such interface with an IPv4 address")
    server = socket.create_server((own, 0), family=socket.AF_INET6 if ":" in own else socket.AF_INET)
    threading.Thread(target=_accept, args=(server, time.monotonic() + seconds), name="reached", daemon=True).start()
    return Place(platform.node(), address, own, server.getsockname()[1])


def _accept(server: socket.socket, until: float) -> None:
    with server:
        server.settimeout(1.0)
        while time.monotonic() < until:
            with contextlib.suppress(OSError):
                server.accept()[0].close()


def choose_interface(own: Place) -> None:
    """Let gloo use the interface of this worker's address, unless `GLOO_SOCKET_IFNAME` is set or no interface is found."""
    if not os.environ.get(INTERFACE_VARIABLE) and (found := interface_with(own.address)) is not None:
        os.environ[INTERFACE_VARIABLE] = found


def check_reach(own: Place, others: Sequence[Place], seconds: float = REACH_SECONDS) -> None:
    """Connect to every other worker, repeatedly where it does not succeed at once.

    Args:
        own: Where this worker listens.
        others: Where the others do.
        seconds: Longest time, for all of them together.

    Raises:
        ResourceError: One was not reached; names both hosts and what to do.
    """
    deadline = time.monotonic() + seconds
    for place in others:
        while (fault := _fault_of(place)) is not None:
            if time.monotonic() > deadline:
                raise ResourceError(
                    f"the training worker on host {own.host} ({own.address}) cannot reach the one on {place.host} ({place.address}): "
                    f"{fault}; open all TCP ports between the nodes (firewall, security group, network policy), or name the interface "
                    f"that joins them as {INTERFACE_VARIABLE} in the environment of Ray on every node"
                )
            time.sleep(0.5)


def _fault_of(place: Place) -> str | None:
    try:
        socket.create_connection((place.address, place.port), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        return os.strerror(error.errno) if error.errno else "no answer"
    return None
