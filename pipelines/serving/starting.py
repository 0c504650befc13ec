"""Why a service cannot start: its port on its own, before Serve starts, and what failed afterwards, from what Ray raises."""

from __future__ import annotations

import errno
import re
import socket

from clinjepa.errors import ConfigError
from clinjepa.redaction import redacted

_EXCEPTION = re.compile(r"(?:[A-Za-z_]\w*\.)*([A-Z]\w*(?:Error|Exception|Exit|Interrupt|Timeout))(?:: (.*))?")
_DEPLOYMENT = re.compile(r"ServeReplica:[^:\s]+:([\w-]+)|Deployment '([\w-]+)'|class_name: (\w+)")
_AT_MOST = 300


def check_port(host: str, port: int) -> None:
    """Raise ConfigError where no service can listen on this host and port of this machine."""
    if fault := fault_of_port(host, port):
        raise ConfigError(fault)


def fault_of_port(host: str, port: int) -> str:
    """Why nothing can listen there; an empty text where it can."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.socket(family, kind) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of an earlier service may still be closing
            tried.bind(address)
            tried.listen()
    except socket.gaierror:
        return f"--host {host} is no address of this machine; 127.0.0.1 and 0.0.0.0 are"
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return f"port {port} of {host} is taken by another program; end it, or give another --port"
        if error.errno == errno.EACCES:
            return f"this user may not listen on port {port}; give a --port from 1024 on"
        if error.errno == errno.EADDRNOTAVAIL:
            return f"--host {host} is no address of this machine; 127.0.0.1 and 0.0.0.0 are"
        return f"nothing can listen on port {port} of {host} ({error.strerror})"
    return ""


def why_not_started(error: Exception, told: str = "") -> str:
    """What failed, in one line: the part of the service, and the last exception line of its traceback, redacted.

    Args:
        error: Of `serve.start` or `serve.run`; its text may hold the tracebacks of other processes. No patient's data are read by then.
        told: What Serve says of its deployments.
    """
    lines = [line.strip().strip("'\"") for line in re.sub(r"\x1b\[[0-9;]*m", "", f"{error}\n{told}").splitlines()]
    text = "\n".join(lines)
    found = [match for line in lines if (match := _EXCEPTION.fullmatch(line))]
    part = next((next(filter(None, each.groups())) for each in _DEPLOYMENT.finditer(text)), "")
    if found:
        words = f"{found[-1][1]}: {found[-1][2]}" if found[-1][2] else found[-1][1]
    else:
        ends = [line for line in lines if line.startswith(("Worker exit", "The actor is dead", "Failed to bind"))]
        words = f"{type(error).__name__}: {(ends or [line for line in lines if line] or ['without a message'])[-1]}"
    return redacted(f"{f'{part}, ' if part else ''}{words}")[:_AT_MOST]
