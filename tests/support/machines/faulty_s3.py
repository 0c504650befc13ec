"""A real HTTP proxy in front of an S3 server that can be told to fail, so that clients meet the faults a network gives them.

`with FaultyS3(url).start() as s3: s3.mode = "503"`; give clients `s3.address` as their endpoint. Signed requests stay valid, since the
Host header is passed on as it came.
"""

from __future__ import annotations

import http.client
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

MODES = ("pass", "503", "500", "hang", "reset", "lost", "cut")
"""pass on · answer 503 or 500 · never answer · reset instead of answering · the answer is lost · half of it is."""

_CODES = {"503": "SlowDown", "500": "InternalError"}
_NOT_PASSED_ON = {"expect", "connection", "transfer-encoding", "content-length"}


class FaultyS3:
    """The proxy; `mode` may be changed at any time and holds for every request that comes (or waits) from then on."""

    def __init__(self, upstream: str) -> None:
        self.upstream = urlsplit(upstream).netloc
        self.mode = "pass"
        self.applies: Callable[[str, str], bool] = lambda method, path: True
        """Which requests (method, path with query) the mode holds for; others pass."""

        self.counts: Counter[str] = Counter()
        """Requests by the mode they met."""

        self._server: ThreadingHTTPServer | None = None
        self._timers: list[threading.Timer] = []
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._left: int | None = None

    @property
    def address(self) -> str:
        assert self._server is not None, "start() first"
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def start(self) -> FaultyS3:
        handler = type("Handler", (_Handler,), {"proxy": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, name="faulty-s3", daemon=True).start()
        return self

    def fail_for(self, mode: str, seconds: float) -> None:
        """Set `mode` now, and `pass` after `seconds`."""
        self.mode = mode
        timer = threading.Timer(seconds, lambda: setattr(self, "mode", "pass"))
        timer.daemon = True
        timer.start()
        self._timers.append(timer)

    def fail_times(self, mode: str, times: int) -> None:
        """Set `mode` for the next `times` requests that it applies to, then `pass`."""
        with self._lock:
            self.mode, self._left = mode, times

    def stop(self) -> None:
        self._stopped.set()
        for timer in self._timers:
            timer.cancel()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def __enter__(self) -> FaultyS3:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def mode_for(self, method: str, path: str) -> str:
        with self._lock:
            mode = self.mode if self.mode != "pass" and self.applies(method, path) else "pass"
            self.counts[mode] += 1
            if mode != "pass" and self._left is not None:
                self._left -= 1
                if self._left == 0:
                    self.mode, self._left = "pass", None
            return mode

    def wait_while_hanging(self) -> None:
        while self.mode == "hang" and not self._stopped.is_set():
            time.sleep(0.02)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is part of the game."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: FaultyS3

    def log_message(self, format: str, *arguments: object) -> None:
        """Quiet."""

    def _handle(self) -> None:
        mode = self.proxy.mode_for(self.command, self.path)
        if mode == "reset":
            return self._reset()
        body = self._body()
        if mode == "hang":
            self.proxy.wait_while_hanging()
            return self._reset()
        if mode in _CODES:
            text = f"<?xml version='1.0'?><Error><Code>{_CODES[mode]}</Code><Message>made to fail</Message></Error>".encode()
            return self._answer(int(mode), [("Content-Type", "application/xml")], text)
        status, headers, answer = self._pass_on(body)
        if mode == "lost":
            return self._reset()
        self._answer(status, headers, answer, cut=mode == "cut" and len(answer) > 1)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _handle

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        pieces = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(pieces)

    def _pass_on(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        upstream = http.client.HTTPConnection(self.proxy.upstream, timeout=60)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in _NOT_PASSED_ON:
                    upstream.putheader(name, value)
            upstream.putheader("Content-Length", str(len(body)))
            upstream.endheaders(body)
            response = upstream.getresponse()
            content = response.read()
            headers = [(name, value) for name, value in response.getheaders() if name.lower() not in {"transfer-encoding", "connection"}]
            return response.status, headers, content
        finally:
            upstream.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes, cut: bool = False) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() != "content-length" or self.command == "HEAD":
                self.send_header(name, value)
        if self.command != "HEAD" and status not in (204, 304):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(content[: len(content) // 2] if cut else content)
        self.wfile.flush()
        if cut:
            self._reset()

    def _reset(self) -> None:
        """End the connection with a TCP reset."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
