"""The picture of a report is made by a command, and nothing in it is clipped."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.report_picture import HEIGHT, WIDTH, browser, take_picture
from clinjepa.report.document import build_report, render_html
from tests.support.data.report_results import extras, results
from tests.support.machines.browser import Browser

needs_browser = pytest.mark.skipif(browser() is None, reason="no Chromium found (Debian: apt-get install chromium)")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "report.html").write_text(render_html(build_report(results()), extras()), encoding="utf-8")
    return tmp_path


@needs_browser
def test_the_command_writes_a_picture_of_its_stated_size(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.png"
    subprocess.run([sys.executable, "-m", "benchmarks.report_picture", str(run), str(out)], check=True, timeout=120)
    content = out.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n" and struct.unpack(">II", content[16:24]) == (WIDTH, HEIGHT)
    assert len(content) > 50_000


@needs_browser
def test_nothing_is_clipped_at_the_width_of_the_picture(run: Path, tmp_path: Path) -> None:
    window = Browser(tmp_path / "profile")
    try:
        window.open(run / "report.html")
        assert window.clipped(WIDTH) == []
    finally:
        window.close()


def test_a_folder_without_a_report_is_refused_with_the_command_that_writes_one(tmp_path: Path) -> None:
    if browser() is None:
        pytest.skip("no Chromium found (Debian: apt-get install chromium)")
    with pytest.raises(FileNotFoundError, match="clinjepa report CONFIG"):
        take_picture(tmp_path / "report.html", tmp_path / "out.png")
