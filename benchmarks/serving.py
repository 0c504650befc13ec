"""A new hour of a known stay beside the whole stay anew, and with `--load SECONDS` the service under load.

Weights are made up and patients simulated: only times count. `demo` is the encoder of the tests (one layer of 32), `larger` one of eight
layers of 256, still some thousand times smaller than the paper's. One thread. Both sides make texts, latents, probabilities and forecasts
of hour 48; they are compared first. Under load, clients send the hours of many stays one after the other to `clinjepa serve`, which runs
in processes of its own.
"""

from __future__ import annotations

import os
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from itertools import count
from pathlib import Path
from typing import Any

import torch

from benchmarks.support.demo_stores import ROOT
from benchmarks.support.harness import Report, all_rounds, arguments, interleaved, median, publish
from clinjepa.serving.requests import read_request
from clinjepa.serving.scoring import ScoringModel
from clinjepa.sources import open_source
from tests.support.data.stay_requests import StayRequests
from tests.support.training.served_export import ServedExport

HOUR = 48
_SMALL = ["encoder.token_budget=4096", "source.simulator.mean_stay_hours=72"]
SIZES = {
    "demo": _SMALL,
    "larger": [*_SMALL, "encoder.hidden_size=256", "encoder.num_layers=8", "encoder.num_heads=4", "encoder.ffn_size=1024"],
}
SANE = 1e-3
"""A difference of two probabilities above this is a fault; nothing is timed then."""
PORT_SECONDS = 240


def simulated(made: ServedExport, least: int) -> tuple[StayRequests, list[int]]:
    """The simulated patients of an export as requests, and those with at least so many hours."""
    source = open_source(made.config.source)
    requests = StayRequests(source.read(source.partitions()[0]))
    hours = {stay: (row["outtime"] - row["intime"]).total_seconds() / 3600 for stay, row in requests.stays.items()}
    return requests, [stay for stay, number in hours.items() if number >= least]


def compare(made: ServedExport, rounds: int) -> dict[str, Any]:
    """Seconds of CPU for hour 48 of a stay: with hour 47 known, and with nothing known. Raises SystemExit where the answers differ."""
    requests, stays = simulated(made, HOUR)
    before, after = (read_request(requests.body(stays[0], hour)) for hour in (HOUR - 1, HOUR))
    known, unknown = ScoringModel.load(made.folder), ScoringModel.load(made.folder)

    def seen() -> None:
        known.clear_caches()
        known.score([before])

    seen()
    answers = [model.score([after])[0] for model in (known, unknown)]
    difference = max(
        abs(one.history_only[kind] - other.history_only[kind])  # type: ignore[union-attr]
        for one, other in zip(answers[0].risks, answers[1].risks, strict=True)  # type: ignore[union-attr]
        for kind in one.history_only
    )
    if difference > SANE:
        raise SystemExit(f"a known stay is scored otherwise than a new one, by {difference:.3g}")
    costs: dict[str, list] = {"new_hour": [], "recomputed": []}
    for _ in range(rounds):
        seen()
        unknown.clear_caches()
        for name, model in (("new_hour", known), ("recomputed", unknown)):
            costs[name] += interleaved({name: lambda model=model: model.score([after])}, 1, warm_up=False)[name]
    seconds = {name: median(own) for name, own in costs.items()}
    return {
        "seconds": seconds,
        "speedup": seconds["recomputed"] / seconds["new_hour"],
        "difference": difference,
        "rounds": all_rounds(costs),
    }


class Load:
    """`clinjepa serve` with clients that send the hours of stays for some seconds."""

    def __init__(self, made: ServedExport, root: Path, replicas: int, port: int) -> None:
        self.requests, self.stays = simulated(made, 24)
        self.token, self.port, self.root = secrets.token_hex(16), port, root
        self.output = root / "output.txt"
        argv = [sys.executable, "-m", "pipelines.serve", str(made.folder), "--port", str(port), "--replicas", str(replicas)]
        env = os.environ | {"CLINJEPA_SERVE_TOKEN": self.token, "RAY_TMPDIR": str(root)}
        self.process = subprocess.Popen(argv, cwd=ROOT, env=env, stdout=self.output.open("w"), stderr=subprocess.STDOUT)
        self.seconds: list[float] = []
        self.statuses: Counter[int] = Counter()
        self._turn = count()

    def wait(self) -> None:
        """Return when the service answers. Raises SystemExit when it does not."""
        until = time.monotonic() + PORT_SECONDS
        while "answers on" not in self.output.read_text():
            if self.process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"the service did not start: {self.output.read_text()[-2000:]}")
            time.sleep(0.3)

    def ask(self, body: bytes) -> int:
        """Send a request and note its time; returns its status."""
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        asked = urllib.request.Request(f"http://127.0.0.1:{self.port}/v1/score", body, headers)
        began = time.perf_counter()
        try:
            with urllib.request.urlopen(asked, timeout=120) as answer:
                answer.read()
                status = int(answer.status)
        except urllib.error.HTTPError as error:
            status = error.code
        except OSError:
            status = 0
        self.statuses[status] += 1
        if status == 200:
            self.seconds.append(time.perf_counter() - began)
        return status

    def client(self, until: float) -> None:
        """The hours of one stay after the other."""
        while time.monotonic() < until:
            stay = self.stays[next(self._turn) % len(self.stays)]
            for hour in range(6, 24):
                if time.monotonic() > until:
                    return
                if self.ask(self.requests.body(stay, hour)) != 200:
                    time.sleep(1.0)

    def run(self, seconds: float, clients: int) -> None:
        """Send for some seconds."""
        until = time.monotonic() + seconds
        threads = [threading.Thread(target=self.client, args=(until,)) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def memory_mb(self) -> float:
        """Memory of the service's replicas and proxy, shared pages counted once for each."""
        total = 0
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if not os.readlink(folder / "fd/1").startswith(f"{os.path.realpath(self.root)}/"):
                    continue
                if b"Serve" in (folder / "cmdline").read_bytes():
                    total += int((folder / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            except OSError:
                continue
        return total / 2**20

    def end(self) -> None:
        """End the service."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(120)


def under_load(made: ServedExport, seconds: float, clients: int, replicas: int, port: int) -> dict[str, Any]:
    """Throughput, latencies, statuses and memory of the service; a tenth of the time before the first figure of memory."""
    with tempfile.TemporaryDirectory(prefix="cj") as root:
        load = Load(made, Path(root), replicas, port)
        try:
            load.wait()
            load.run(max(5.0, seconds / 10), clients)
            before = load.memory_mb()
            load.seconds, load.statuses = [], Counter()
            began = time.monotonic()
            load.run(seconds, clients)
            took, after = time.monotonic() - began, load.memory_mb()
        finally:
            load.end()
    quantiles = statistics.quantiles(load.seconds, n=100)
    return {
        "requests_per_second": len(load.seconds) / took,
        "p50_seconds": quantiles[49],
        "p99_seconds": quantiles[98],
        "memory_before_mb": before,
        "memory_after_mb": after,
        "statuses": {str(status): number for status, number in sorted(load.statuses.items())},
        "seconds": took,
        "clients": clients,
        "replicas": replicas,
    }


def main() -> None:
    options = arguments(__doc__ or "", threads=1, rounds=5, load=0.0, clients=8, replicas=1, port=8765)
    torch.set_num_threads(options.threads)
    measured: dict[str, float] = {}
    goal, unit, details = {"speedup_larger": ">= 5"}, {}, {"hour": HOUR, "threads": options.threads}
    with tempfile.TemporaryDirectory() as root:
        for name, overrides in SIZES.items():
            made = ServedExport(Path(root, name), *overrides)
            found = compare(made, 1 if options.quick else options.rounds)
            details[name] = found
            measured[f"speedup_{name}"], measured[f"difference_{name}"] = found["speedup"], found["difference"]
            measured |= {f"{side}_{name}": number for side, number in found["seconds"].items()}
            if name == "demo" and options.load:
                load = under_load(made, options.load, options.clients, options.replicas, options.port)
                details["load"] = load
                measured |= {f"load_{figure}": number for figure, number in load.items() if isinstance(number, float)}
                measured["load_not_answered"] = sum(number for status, number in load["statuses"].items() if status != "200")
                goal |= {"load_not_answered": "<= 0"}
    words = {"speedup": "times", "difference": "probability", "new": "CPU seconds", "recomputed": "CPU seconds"}
    for name in measured:
        kind = name.removeprefix("load_").rsplit("_", 1)[-1] if name.startswith("load_") else ""
        unit[name] = {"seconds": "s", "mb": "MB", "second": "requests/s", "answered": "requests"}.get(kind) or words[name.split("_")[0]]
    unit |= {"load_requests_per_second": "requests/s"} if options.load else {}
    publish(Report("serving", measured, goal, unit, details), options.quick)


if __name__ == "__main__":
    main()
