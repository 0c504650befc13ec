"""SIGINT, SIGTERM and SIGHUP end every command in the same way, whichever library is at work.

A signal raises KeyboardInterrupt in the main thread, and `Interruption` remembers its number: Ray turns any exception of a handler into a
plain KeyboardInterrupt, and a library may swallow it. Ray, Ray Train and Ray Tune install further handlers, which end the process
with another status or end a run as if it were finished; while a command runs these are not installed.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any, NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LINE = "interrupted; finished stages are kept, the same command goes on"
SERVICE_LINE = "interrupted; the service has ended, the same command starts it again"
READING_LINE = "interrupted; nothing was changed"
DELETING_LINE = "interrupted; what was deleted is gone, the same command deletes the rest"

_WITHOUT_STAGES = ("plan", "runs", "gc")

_REPEATED_SECONDS = 1.0
"""A signal this soon after the first is the same event: a terminal that closes sends SIGHUP, and so does the shell in it."""

_SWALLOWED_SECONDS = 10.0
"""After this time without clean-up the signal is sent again: a library may have swallowed the exception."""

_CLEANUP_SECONDS = 60.0
"""After this time in addition the process ends without more clean-up. Ray's processes on this machine end with it."""


class Interruption:
    """The first signal that a command received."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.line = LINE
        """What the command says when it ends; `LINE` until it says something else."""
        self._at = 0.0
        self._cleaning_up, self._over = threading.Event(), threading.Event()

    @property
    def exit_status(self) -> int:
        """128 + the signal's number; that of SIGINT for a KeyboardInterrupt without a signal."""
        return 128 + (self.number or signal.SIGINT)

    def receive(self, number: int, frame: FrameType | None) -> None:
        """The handler of `SIGNALS`."""
        now = time.monotonic()
        if self.number is None:
            self.number, self._at = number, now
            drop_half_made_objects_quietly()
            threading.Thread(target=self._limit_clean_up, name="interruption", daemon=True).start()
        elif now - self._at < _REPEATED_SECONDS:
            return
        raise KeyboardInterrupt

    def check(self) -> None:
        """Raise KeyboardInterrupt when a signal came, also when a library swallowed the first exception."""
        if self.number is not None:
            raise KeyboardInterrupt

    def cleaning_up(self) -> None:
        """Note that the exception has arrived where it is handled, so that the signal is not sent again."""
        self._cleaning_up.set()

    def over(self) -> None:
        """Note that the command has ended: no time limit any more."""
        self._cleaning_up.set()
        self._over.set()

    def _limit_clean_up(self) -> None:
        if not self._cleaning_up.wait(_SWALLOWED_SECONDS):
            signal.pthread_kill(threading.main_thread().ident or 0, self.number or signal.SIGINT)
        if not self._over.wait(_CLEANUP_SECONDS):
            say(self.line)
            os._exit(self.exit_status)


_active: Interruption | None = None


def drop_half_made_objects_quietly() -> None:
    """Print nothing when an object fails while it is dropped: the signal may have ended its constructor (Ray Data's `Dataset`)."""
    sys.unraisablehook = lambda _: None


@contextlib.contextmanager
def interruptible() -> Iterator[Interruption]:
    """Handle `SIGNALS` while the block runs; a block inside another one shares its record.

    A signal that is ignored when the block begins stays ignored (`nohup`, a shell's background job). Outside the main thread nothing is
    handled.
    """
    global _active
    if _active is not None or threading.current_thread() is not threading.main_thread():
        yield _active or Interruption()
        return
    found = _active = Interruption()
    before: dict[int, Any] = {number: signal.getsignal(number) for number in SIGNALS}
    install, of_dropped_objects = signal.signal, sys.unraisablehook

    def keep(signalnum: int, handler: Any) -> Any:
        """`signal.signal` that installs the handlers of `SIGNALS` again, whatever is asked for."""
        return install(signalnum, ours[signalnum] if signalnum in ours else handler)

    ours: dict[int, Any] = {number: handler if handler is signal.SIG_IGN else found.receive for number, handler in before.items()}
    for number, handler in ours.items():
        install(number, handler)
    signal.signal = keep
    try:
        yield found
    finally:
        signal.signal, sys.unraisablehook = install, of_dropped_objects
        for number, handler in before.items():
            install(number, signal.SIG_DFL if handler is None else handler)
        found.over()
        _active = None


def first_line(words: Sequence[str]) -> str:
    """What this process says of a signal before its command has begun. words: `sys.orig_argv`."""
    commands = [word.partition("pipelines.")[2] for word in words if word.startswith("pipelines.")]
    commands += [after for word, after in itertools.pairwise(words) if word.endswith("/clinjepa")]
    return READING_LINE if commands[:1] and commands[0] in _WITHOUT_STAGES else LINE


def end_on_signals() -> None:
    """Handle `SIGNALS` by the line and the status of a command, without clean-up: for the first moments of a process."""
    line = first_line(sys.orig_argv)

    def end(number: int, _: FrameType | None) -> None:
        with contextlib.suppress(OSError):
            os.write(2, f"{line}\n".encode())
        os._exit(128 + number)

    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, end)


def handle_again() -> None:
    """Install the handlers of the running command again, after a library replaced them below Python (Ray's core does, for SIGTERM)."""
    if _active is not None and threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)  # replaced by the command's own handler


def cleaning_up() -> None:
    """Note in the running command's record that clean-up has begun."""
    if _active is not None:
        _active.cleaning_up()


@contextlib.contextmanager
def hangups_held_back() -> Iterator[None]:
    """Deliver SIGHUP after the block only, and start processes in it that never receive one.

    A terminal that closes sends SIGHUP to all processes that were started from it. Without Ray's the command could not clean up.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def limit_exit(status: int) -> None:
    """End the process with `status` after `_CLEANUP_SECONDS` if its other threads and libraries have not let it end by then."""

    def end() -> None:
        time.sleep(_CLEANUP_SECONDS)
        os._exit(status)

    threading.Thread(target=end, name="exit", daemon=True).start()


def end_without_destructors(status: int) -> NoReturn:
    """End the process with `status` after its exit functions (Ray's end the processes that it started), without libraries' destructors.

    Ray's core crashes in them when the signal came while it started: the status was then that of SIGSEGV or SIGABRT.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def say(line: str) -> None:
    """Print a line on standard error; once that fails (its terminal was closed), output of this process goes nowhere."""
    try:
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(nowhere, stream)
