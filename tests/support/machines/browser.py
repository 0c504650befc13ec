"""A headless Chromium for the tests of pages, spoken to over its debugging port."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

websocket = pytest.importorskip("websocket", reason="the package websocket-client is not installed (extra `dev`)")

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
_FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
_FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]


class Browser:
    """One window. `events` are the messages that it sent by itself."""

    def __init__(self, profile: Path) -> None:
        command = [
            str(CHROMIUM),
            *_FLAGS,
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

    def open(self, file: Path) -> None:
        """Show a page from disk, its pictures decoded."""
        for domain in ("Runtime", "Log", "Network", "Page"):
            self.call(f"{domain}.enable")
        self.call("Page.navigate", url=file.as_uri())
        self.wait_for("Page.loadEventFired")
        self.value("Promise.all([...document.images].map(image => image.decode())).then(() => true)")

    def faults(self) -> list[dict[str, Any]]:
        """Errors and warnings that the page caused."""
        return [
            message
            for message in self.events
            if message.get("method") == "Runtime.exceptionThrown"
            or (message.get("method") == "Runtime.consoleAPICalled" and message["params"]["type"] in ("error", "warning"))
            or (message.get("method") == "Log.entryAdded" and message["params"]["entry"]["level"] in ("error", "warning"))
        ]

    def asked(self) -> list[str]:
        """Addresses that the page asked for."""
        return [m["params"]["request"]["url"] for m in self.events if m.get("method") == "Network.requestWillBeSent"]

    def charts(self) -> list[dict[str, Any]]:
        """Drawn height (px) and text alternative of every chart, folded parts included."""
        return self.value(
            """(() => {
                const closed = [...document.querySelectorAll('details:not([open])')];
                closed.forEach(part => part.open = true);
                const charts = [...document.querySelectorAll('svg.chart')];
                const seen = charts.map(chart => ({height: chart.getBoundingClientRect().height, label: chart.getAttribute('aria-label')}));
                closed.forEach(part => part.open = false);
                return seen;
            })()"""
        )

    def clipped(self, width: int) -> list[str]:
        """Tables, tiles and sections whose content is wider than they are at that width of the window, folded parts included."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        return self.value(
            """(() => {
                const closed = [...document.querySelectorAll('details:not([open])')];
                closed.forEach(part => part.open = true);
                const wide = [...document.querySelectorAll('.table, .card, .alarm, section, main')]
                    .filter(part => part.scrollWidth > part.clientWidth)
                    .map(part => `${part.closest('section')?.id ?? 'top'}: ${part.scrollWidth} > ${part.clientWidth}`);
                closed.forEach(part => part.open = false);
                return wide;
            })()"""
        )

    def picture(self, width: int) -> bytes:
        """The whole page at that width, as PNG. Fails when it is wider than the window."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        assert self.value("document.documentElement.scrollWidth") <= width
        height = self.value("document.documentElement.scrollHeight")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
