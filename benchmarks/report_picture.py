"""The first screen of a finished run's report as a PNG: `python -m benchmarks.report_picture RUN_FOLDER OUT.png` (made docs/report.png).

Headless Chromium opens `RUN_FOLDER/report.html` from disk, without network, in a window of 1200 × 1610 px with light colours.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run")
FLAGS += ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars")
WIDTH, HEIGHT = 1200, 1610
"""Size of the picture, px."""
TIMEOUT = 120
"""Seconds after which Chromium is ended."""


def browser() -> str | None:
    """Path of an installed Chromium, or None."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


def take_picture(page: Path, out: Path) -> None:
    """Write the first WIDTH × HEIGHT px of a page on disk as a PNG.

    Raises FileNotFoundError without a page or without Chromium, RuntimeError where Chromium fails or writes no picture.
    """
    command = browser()
    if command is None:
        raise FileNotFoundError("no Chromium found (Debian: apt-get install chromium)")
    if not page.is_file():
        raise FileNotFoundError(f"{page} is missing; write it with `clinjepa report CONFIG`")
    with tempfile.TemporaryDirectory() as profile:
        shot = Path(profile, "page.png")
        options = [f"--user-data-dir={profile}/new", f"--screenshot={shot}", f"--window-size={WIDTH},{HEIGHT}"]
        done = subprocess.run([command, *FLAGS, *options, page.resolve().as_uri()], capture_output=True, text=True, timeout=TIMEOUT)
        if done.returncode or not shot.is_file():
            raise RuntimeError(f"{command} ended with {done.returncode} and wrote no picture: {done.stderr[-500:]}")
        out.write_bytes(shot.read_bytes())


def main() -> None:
    parser = argparse.ArgumentParser(description="The first screen of a finished run's report as a PNG.")
    parser.add_argument("run", type=Path, help="folder of a run with report.html: <storage>/runs/<name>")
    parser.add_argument("out", type=Path, help="the PNG to write")
    given = parser.parse_args()
    try:
        take_picture(given.run / "report.html", given.out)
    except (FileNotFoundError, RuntimeError) as fault:
        raise SystemExit(str(fault)) from None


if __name__ == "__main__":
    main()
