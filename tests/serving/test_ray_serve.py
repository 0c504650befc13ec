"""The service on a real Ray Serve: a token is needed, faults are told, and a killed scorer loses no answer."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pipelines.scheduling.interruptions import SERVICE_LINE
from pipelines.serve import TOKEN_VARIABLE
from tests.support.data.bad_requests import SECRET, bad_bodies
from tests.support.data.stay_requests import StayRequests
from tests.support.machines.cli import ROOT, call_here, environment
from tests.support.training.served_export import ServedExport

TOKEN = "a-token-of-a-test-0123"
START_SECONDS = 240
PAGE = (ROOT / "docs/serving.md").read_text(encoding="utf-8")
SERVE = next(line for line in PAGE.splitlines() if line.startswith("clinjepa serve "))
"""The documented command: `output/model` in the working folder, the token in the environment."""


class Running:
    """The documented command in a process of its own, on a free port."""

    def __init__(self, folder: Path, root: Path, replicas: int = 1) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.root = root
        self.output = root / "output.txt"
        (root / "output").mkdir()
        (root / "output/model").symlink_to(folder)
        program, *words = shlex.split(SERVE, comments=True)
        assert (program, words) == ("clinjepa", ["serve", "output/model"])
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pipelines.cli", *words, "--port", str(self.port), "--replicas", str(replicas)],
            cwd=root,
            env=environment(RAY_TMPDIR=str(root), PYTHONPATH=str(ROOT), **{TOKEN_VARIABLE: TOKEN}),
            stdout=self.output.open("w"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._wait()

    def _wait(self) -> None:
        until = time.monotonic() + START_SECONDS
        while "answers on" not in self.output.read_text():
            if self.process.poll() is not None or time.monotonic() > until:
                self.end()
                raise AssertionError(f"the service did not start: {self.output.read_text()[-3000:]}")
            time.sleep(0.3)

    def ask(self, path: str, body: bytes | None = None, token: str = TOKEN, timeout: float = 120) -> tuple[int, bytes, dict[str, str]]:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        asked = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", body, headers)
        try:
            with urllib.request.urlopen(asked, timeout=timeout) as answer:
                return answer.status, answer.read(), dict(answer.headers)
        except urllib.error.HTTPError as error:
            return error.code, error.read(), dict(error.headers)

    def replicas(self, name: str) -> list[int]:
        """Process ids of this service's replicas of a deployment, known by the folder of their Ray."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                title = (folder / "cmdline").read_bytes().decode(errors="replace")
                output = os.readlink(folder / "fd/1")
            except OSError:
                continue
            if f"ServeReplica:clinjepa:{name}" in title and output.startswith(f"{os.path.realpath(self.root)}/"):
                found.append(int(folder.name))
        return found

    def end(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(120)


@pytest.fixture(scope="module")
def running(made: ServedExport, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    pytest.importorskip("ray.serve", reason="needs the extra `serve`", exc_type=ImportError)
    import tempfile

    with tempfile.TemporaryDirectory(prefix="cj", dir="/tmp") as root:  # Ray's sockets need a short path
        service = Running(made.folder, Path(root))
        yield service
        status = service.end()
        text = service.output.read_text()
        assert status == 128 + signal.SIGTERM and "Traceback" not in text, text
        said = [line for line in text.splitlines()[1:] if "(raylet)" not in line]  # Ray tells of the scorer that a test killed
        assert said == [SERVICE_LINE], text
        logs = [path for path in Path(root).rglob("*") if path.is_file() and path.suffix in (".log", ".out", ".err", ".txt")]
        assert len(logs) > 5
        for path in logs:
            assert SECRET.encode() not in path.read_bytes() and TOKEN.encode() not in path.read_bytes(), path.name
            assert not stat.S_IMODE(path.stat().st_mode) & 0o077 or path == service.output, path.name


@pytest.fixture(scope="module")
def good(requests: StayRequests) -> dict[str, Any]:
    return requests.plain(next(stay for stay, rows in requests.events.items() if len(rows) > 50), 8)


@pytest.mark.ray
def test_requests_are_answered_with_the_token_only(running: Running, good: dict[str, Any]) -> None:
    body = json.dumps(good).encode()
    assert running.ask("/health", token="")[0] == 200
    assert [running.ask(path, token="wrong")[0] for path in ("/v1/model", "/metrics", "/openapi.json")] == [401] * 3
    assert running.ask("/v1/score", body, token="")[0] == 401
    status, answer, _ = running.ask("/v1/score", body)
    assert status == 200 and len(json.loads(answer)["risks"]) == 3
    assert json.loads(running.ask("/v1/model")[1])["run"] == "small"
    assert b'clinjepa_requests_total{path="/v1/score",status="200"} 1' in running.ask("/metrics")[1]
    assert running.ask("/v1/score", b" " * (9 << 20))[0] == 413


@pytest.mark.ray
def test_the_documented_request_is_answered_by_the_documented_command(running: Running, tmp_path: Path) -> None:
    """Only the port is another."""
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    request = re.search(r"```json\n(.*?)```", PAGE, re.DOTALL)
    command = re.search(r"```sh\n(curl .*?)```", PAGE, re.DOTALL)
    assert request and command and ":8000/" in command[1]
    (tmp_path / "request.json").write_text(request[1])
    words = ["sh", "-c", command[1].replace(":8000/", f":{running.port}/")]
    done = subprocess.run(words, cwd=tmp_path, env=environment(**{TOKEN_VARIABLE: TOKEN}), text=True, capture_output=True, timeout=120)
    answer = json.loads(done.stdout)
    assert set(re.findall(r"^\| `(\w+)` \|", PAGE.partition("## An answer")[2].partition("| status")[0], re.MULTILINE)) == answer.keys()
    assert len(answer["risks"]) == 3 and answer["dropped"] == {}


@pytest.mark.ray
def test_no_process_of_ray_inherits_the_token(running: Running) -> None:
    (scorer,) = running.replicas("scorer")
    assert TOKEN.encode() not in Path(f"/proc/{scorer}/environ").read_bytes()


@pytest.mark.ray
def test_every_bad_request_is_a_clear_fault_of_the_client(running: Running, good: dict[str, Any]) -> None:
    for name, body, status, line in bad_bodies(good):
        found, said, _ = running.ask("/v1/score", body)
        assert (found, line in json.loads(said)["error"]) == (status, True), f"{name}: {found} {said!r}"
        assert SECRET.encode() not in said


@pytest.mark.ray
@pytest.mark.chaos
def test_a_killed_scorer_loses_no_answer(running: Running, requests: StayRequests) -> None:
    stay = next(stay for stay, rows in requests.events.items() if len(rows) > 50)
    bodies = [requests.body(stay, hours) for hours in (4, 8, 12)]
    wanted = [json.loads(running.ask("/v1/score", body)[1]) for body in bodies]
    (scorer,) = running.replicas("scorer")

    def until_answered(body: bytes) -> tuple[dict[str, Any], int]:
        """As a client does it: what is no answer is asked again."""
        for tries in range(1, 200):
            status, answer, _ = running.ask("/v1/score", body)
            if status == 200:
                return json.loads(answer), tries
            assert status in (500, 503), status
            time.sleep(0.5)
        raise AssertionError("no answer")

    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(until_answered, body) for _ in range(4) for body in bodies]
        os.kill(scorer, signal.SIGKILL)
        found = [each.result(timeout=200) for each in asked]
    assert running.replicas("scorer") != [scorer]
    for place, (answer, _) in enumerate(found):
        expected = wanted[place % len(bodies)]
        assert answer["model"] == expected["model"] and answer["dropped"] == expected["dropped"]
        for one, other in zip(answer["risks"], expected["risks"], strict=True):
            assert one["history_only"] == pytest.approx(other["history_only"], rel=1e-4)
            assert one["actions_carried_forward"] == pytest.approx(other["actions_carried_forward"], rel=1e-4)


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        (None, 0o600, "the service needs a token"),
        ("short", 0o600, "at least 16 printable"),
        ("with a space in the token", 0o600, "without spaces"),
        (TOKEN, 0o644, "can be read by other users"),
        ("ä" * 20, 0o600, "cannot be read (UnicodeDecodeError)"),
    ],
)
def test_the_service_does_not_start_without_a_good_token(
    made: ServedExport, tmp_path: Path, content: str | None, mode: int, said: str
) -> None:
    arguments = []
    if content is not None:
        (tmp_path / "token").write_text(content, encoding="utf-8")
        (tmp_path / "token").chmod(mode)
        arguments = ["--token-file", str(tmp_path / "token")]
    done = call_here("serve", str(made.folder), *arguments, CLINJEPA_SERVE_TOKEN="")
    assert done.returncode == 2 and said in " ".join(done.stdout.split()) and (content is None or content not in done.stdout)


def test_an_altered_export_is_not_served(made: ServedExport, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(made.folder, tmp_path / "model")
    (tmp_path / "model/probes/probes.json").write_text("{}")
    done = call_here("serve", str(tmp_path / "model"), CLINJEPA_SERVE_TOKEN=TOKEN)
    assert done.returncode == 2 and "probes/probes.json is missing or was altered" in " ".join(done.stdout.split())
