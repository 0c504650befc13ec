"""The report as a reader sees it: opened from disk in a real browser, without network, at a desktop's and a small window's width."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_results import extras, results

from clinjepa.evaluation.report import build_report, render_html

websocket = pytest.importorskip("websocket", reason="the package websocket-client is not installed (extra `dev`)")

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
SECTIONS = ["run", "cohort", "drift", "geometry", "downstream", "training", "stages", "config"]
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
WIDTHS = (1440, 900)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium found (Debian: apt-get install chromium)")


class Browser:
    """A headless Chromium spoken to over its debugging port."""

    def __init__(self, profile: Path) -> None:
        command = [
            str(CHROMIUM),
            *FLAGS,
            f"--user-data-dir={profile}",
            "--remote-debugging-port=0",
            "--remote-allow-origins=*",
            "about:blank",
        ]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        port = self._port(profile / "DevToolsActivePort")
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"http://127.0.0.1:{port}/json", timeout=20) as answer:
            page = next(target for target in json.load(answer) if target["type"] == "page")
        self.socket = websocket.create_connection(page["webSocketDebuggerUrl"], timeout=30, http_no_proxy=["*"])
        self.events: list[dict[str, Any]] = []
        self.calls = 0

    def _port(self, file: Path) -> int:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if file.exists() and (lines := file.read_text().splitlines()):
                return int(lines[0])
            if self.process.poll() is not None:
                pytest.fail(f"Chromium ended at once with exit code {self.process.returncode}")
            time.sleep(0.1)
        raise TimeoutError("Chromium opened no debugging port within 60 s")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self.calls += 1
        self.socket.send(json.dumps({"id": self.calls, "method": method, "params": params}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") == self.calls:
                assert "error" not in message, message
                return message["result"]
            self.events.append(message)

    def wait_for(self, event: str) -> None:
        while not any(message.get("method") == event for message in self.events):
            self.events.append(json.loads(self.socket.recv()))

    def value(self, expression: str) -> Any:
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)["result"]["value"]

    def close(self) -> None:
        self.socket.close()
        self.process.terminate()
        self.process.wait(timeout=30)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    folder = tmp_path_factory.mktemp("report")
    file = folder / "report.html"
    file.write_text(render_html(build_report(results()), extras()), encoding="utf-8")
    browser = Browser(folder / "profile")
    for domain in ("Runtime", "Log", "Network", "Page"):
        browser.call(f"{domain}.enable")
    browser.call("Page.navigate", url=file.as_uri())
    browser.wait_for("Page.loadEventFired")
    browser.value("Promise.all([...document.images].map(image => image.decode())).then(() => true)")
    yield browser
    browser.close()


def test_report_opens_without_console_errors(page: Browser) -> None:
    faults = [
        message
        for message in page.events
        if message.get("method") == "Runtime.exceptionThrown"
        or (message.get("method") == "Runtime.consoleAPICalled" and message["params"]["type"] in ("error", "warning"))
        or (message.get("method") == "Log.entryAdded" and message["params"]["entry"]["level"] in ("error", "warning"))
    ]
    assert faults == []


def test_report_needs_no_network(page: Browser) -> None:
    asked = [message["params"]["request"]["url"] for message in page.events if message.get("method") == "Network.requestWillBeSent"]
    assert [url[:60] for url in asked if not url.startswith(("file:", "data:"))] == []
    assert sum(url.startswith("file:") for url in asked) == 1


def test_every_image_has_pixels_and_a_text_alternative(page: Browser) -> None:
    images = page.value("[...document.images].map(image => ({width: image.naturalWidth, alt: image.alt}))")
    assert len(images) == 4
    assert all(image["width"] > 0 and image["alt"] for image in images)


def test_every_chart_is_drawn_and_has_a_text_alternative(page: Browser) -> None:
    charts = page.value(
        """(() => {
            const closed = [...document.querySelectorAll('details:not([open])')];
            closed.forEach(part => part.open = true);
            const charts = [...document.querySelectorAll('svg.chart')];
            const seen = charts.map(chart => ({height: chart.getBoundingClientRect().height, label: chart.getAttribute('aria-label')}));
            closed.forEach(part => part.open = false);
            return seen;
        })()"""
    )
    assert len(charts) > 20
    assert all(chart["height"] > 40 and len(chart["label"]) > 20 for chart in charts)


def test_all_sections_stand_in_order(page: Browser) -> None:
    assert page.value("[...document.querySelectorAll('section')].map(part => part.id)") == SECTIONS


def test_missing_figures_are_dashes_with_their_reason(page: Browser) -> None:
    reasons = page.value("[...document.querySelectorAll('#downstream abbr')].map(mark => mark.title)")
    assert reasons and set(reasons) == {"3 positive patients in the held-out part, 10 are needed"}


@pytest.mark.parametrize("width", WIDTHS)
def test_page_fits_the_window(page: Browser, width: int, tmp_path: Path) -> None:
    page.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
    assert page.value("document.documentElement.scrollWidth") <= width
    height = page.value("document.documentElement.scrollHeight")
    page.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
    picture = base64.b64decode(page.call("Page.captureScreenshot", format="png")["data"])
    (tmp_path / f"report-{width}.png").write_bytes(picture)
    assert len(picture) > 50_000
