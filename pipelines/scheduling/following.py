"""Following a job's log until it ends, and the exit status that it stands for."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from clinjepa.errors import StorageError, first_line
from clinjepa.redaction import redacted
from pipelines.scheduling.interruptions import SIGNALS
from pipelines.scheduling.progress import console
from pipelines.scheduling.submission import how_to

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

STOPPED_STATUS = 130
"""Of a job that was stopped, and of a command that follows no longer."""

_PATIENCE_SECONDS = 300.0
"""How long a cluster may not answer: a port-forward that breaks, a head that restarts."""

_LONGEST_WAIT = 15.0


def follow(client: JobSubmissionClient, job: str) -> int:
    """Print a job's log on standard output until the job ends.

    Ctrl-C ends the following, not the job.

    Args:
        client: Of the cluster.
        job: Id of the job.

    Returns:
        0 for a job that succeeded; the driver's status for one that failed, 1 where it is not known; 130 for one that was stopped, and
        when the following was interrupted.

    Raises:
        StorageError: The cluster did not answer for five minutes.
    """
    log = _Log()
    try:
        with _interrupted_by_signals():
            _follow_to_the_end(client, job, log)
            info = client.get_job_info(job)
    except KeyboardInterrupt:
        _say(f"no longer followed, the job goes on: {how_to(client.get_address(), job)}")
        return STOPPED_STATUS
    status = exit_status(str(info.status.value), getattr(info, "driver_exit_code", None))
    if status:
        said = redacted(str(info.message or "").strip().partition("\n")[0])[:300]
        _say(f"job {job} {str(info.status.value).lower()}: {said}")
    return status


def exit_status(state: str, driver: int | None) -> int:
    """The exit status for a job's last state. driver: the status of its process; negative is a signal."""
    if state == "SUCCEEDED":
        return 0
    if state == "STOPPED":
        return STOPPED_STATUS
    if not driver:
        return 1
    return 128 - driver if driver < 0 else min(driver, 255)


class _Log:
    """What was printed of a log, which is sent from its beginning at every connection."""

    def __init__(self) -> None:
        self._printed = self._received = 0

    def begin(self) -> None:
        self._received = 0

    def add(self, text: str) -> None:
        new = text[max(0, self._printed - self._received) :]
        self._received += len(text)
        if new:
            self._printed += len(new)
            sys.stdout.write(redacted(new))
            sys.stdout.flush()


def _follow_to_the_end(client: JobSubmissionClient, job: str, log: _Log) -> None:
    answered, wait = time.monotonic(), 1.0
    while True:
        try:
            asyncio.run(_tail(client, job, log))
            if client.get_job_status(job).is_terminal():
                asyncio.run(_tail(client, job, log))  # what was written between the last look and the end
                return
            answered, wait = time.monotonic(), 1.0
        except Exception as error:  # of the HTTP libraries and Ray, for a connection that broke
            if time.monotonic() - answered > _PATIENCE_SECONDS:
                raise StorageError(
                    f"{client.get_address()} does not answer ({first_line(error)}); the job may go on: {how_to(client.get_address(), job)}"
                ) from None
            if wait == 1.0:
                _say(f"the connection to the cluster broke ({first_line(error)}); trying again, the job goes on")
        time.sleep(wait)
        wait = min(_LONGEST_WAIT, 2 * wait)


async def _tail(client: JobSubmissionClient, job: str, log: _Log) -> None:
    log.begin()
    async for text in client.tail_job_logs(job):
        log.add(text)


@contextlib.contextmanager
def _interrupted_by_signals() -> Iterator[None]:
    """A signal raises KeyboardInterrupt here alone: it ends the following, which is no interruption of the work."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        for number in SIGNALS:
            signal.signal(number, stop)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(line: str) -> None:
    console.print(line, highlight=False, markup=False)
