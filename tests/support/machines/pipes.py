"""A named pipe in the place of a file. Where a program reads it all the same, the read ends after some seconds and the test fails."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

GIVE_UP_SECONDS = 10


def put_pipe(path: Path) -> None:
    """Put a pipe at `path`, in the place of a file that is there."""
    path.unlink(missing_ok=True)
    os.mkfifo(path)

    def end_reader() -> None:
        with contextlib.suppress(OSError):  # nobody reads, or the test's folder is gone
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))

    timer = threading.Timer(GIVE_UP_SECONDS, end_reader)
    timer.daemon = True
    timer.start()
