"""No log, message, metric, dashboard answer, tracker or report holds anything of a patient, over a run whose stages fail on the way.

Every patient of the data is a canary (`tests/support/data/canaries.py`). Stages fail one after another with an exception that quotes a
patient's text, as those of libraries do; the run goes on where it stopped, to its report.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.scheduling.metrics import exported_name
from tests.pipelines.scheduling.test_metrics import queries
from tests.support.data.canaries import FORMS, TEXT, CanarySearch, files_below, plant
from tests.support.machines.cli import ROOT, SMALL
from tests.support.machines.ray_nodes import RayNodes

# The short form joins `make test` by losing its mark once its time on an idle machine is known.
pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.timeout(3000)]
SHORT = ("ingest", "feed", "training", "evaluation")
LONG = ("ingest", "tokenizer", "trajectories", "feed", "training", "embed", "phase", "evaluation", "risk", "report")
LATENTS = ("embed", "shifted_actions")
"""Kinds of artifacts whose parts hold latents, and in their heads the stays' ids."""

MEANT = ("extract", "ingest", "trajectories", "labels", "embed", "downstream", "baselines", "forecasts", "direct_forecasts")
"""Kinds of artifacts whose tables hold patients' data (docs/privacy.md). Their JSON files hold none."""
ANSWERS = (
    "/api/jobs/",
    "/api/v0/tasks?detail=1&limit=10000",
    "/api/v0/actors?detail=1&limit=10000",
    "/api/v0/objects?detail=1&limit=10000",
    "/api/v0/workers?detail=1&limit=10000",
    "/api/v0/runtime_envs?detail=1&limit=10000",
    "/api/v0/placement_groups?detail=1&limit=10000",
    "/api/v0/tasks/summarize",
    "/api/train/v2/runs/v1",
    "/api/data/datasets/",
    "/api/cluster_status",
    "/api/cluster_metadata",
    "/logical/actors",
    "/nodes?view=details",
    "/events",
)
"""Questions to the head's dashboard, the state API among them."""


class Canaries:
    """A run of canary patients on a head of its own."""

    def __init__(self, root: Path, nodes: RayNodes, ids: list[int]) -> None:
        self.root, self.nodes, self.search = root, nodes, CanarySearch(ids)
        self.said: list[str] = []
        self.storage = root / "storage"
        self.figures: set[str] = set()
        self.leaking_metrics: set[str] = set()
        self.fault = Path(nodes.env["CANARY_FAULT"])

    @property
    def arguments(self) -> list[str]:
        settings = {
            "storage": self.storage,
            "source.kind": "mimic_iv",
            "source.path": self.root / "data",
            "source.num_partitions": 2,
            "text.max_decimals": 6,
            "sft.max_steps": 4,
            "curriculum.num_steps": 10,
            "grid.recipes": "[no_alignment]",
            "evaluation.downstream.tasks": "[hypotension_8h]",
            "evaluation.downstream.baselines.names": "[logistic]",
            "execution.trackers": "[tensorboard]",
            "execution.max_worker_failures": 0,
            "execution.memory_mb": 1024,
        }
        return [str(ROOT / SMALL), *(f"{name}={value}" for name, value in settings.items())]

    def run(self, fault: str = "") -> int:
        """Submit the run with a fault planted; returns its exit status and keeps what the terminal showed."""
        self.fault.write_text(fault)
        command = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", self.nodes.dashboard, "--working-dir", "."]
        command += ["--", sys.executable, "-m", "pipelines.run", *self.arguments]
        deadline = time.monotonic() + 180
        while True:
            done = subprocess.run(command, cwd=ROOT, env=self.nodes.env, text=True, capture_output=True, timeout=900)
            self.said.append(done.stdout + done.stderr)
            if "No available agent" not in self.said[-1] or time.monotonic() > deadline:
                return done.returncode
            time.sleep(2)  # a head that has just been started

    def planned(self) -> str:
        command = [sys.executable, "-m", "pipelines.plan", *self.arguments, "--json"]
        done = subprocess.run(command, cwd=ROOT, env=self.nodes.env, text=True, capture_output=True, timeout=120)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout + done.stderr

    def answers(self) -> Iterator[tuple[str, bytes]]:
        """What the dashboard, the state API, the job logs and every metrics port say."""
        for path in ANSWERS:
            try:
                yield path, self.nodes.asked(path)
            except urllib.error.HTTPError as refusal:  # what an error says may hold a patient too
                yield f"{path}, status {refusal.code}", bytes(refusal.read())
        for job in json.loads(self.nodes.asked("/api/jobs/")):
            if job["submission_id"]:
                yield f"log of job {job['submission_id']}", self.nodes.asked(f"/api/jobs/{job['submission_id']}/logs")
        yield from self.metrics()

    def metrics(self) -> Iterator[tuple[str, bytes]]:
        """What every metrics port says, by the list that Ray keeps for Prometheus."""
        for service in json.loads(Path(self.nodes.folder, "0", "prom_metrics_service_discovery.json").read_text()):
            for target in service["targets"]:
                with urllib.request.urlopen(f"http://{target}/metrics", timeout=60) as answer:
                    yield f"metrics of {target}", bytes(answer.read())

    @contextlib.contextmanager
    def scraped(self) -> Iterator[None]:
        """Keep the names of the project's figures, as a Prometheus beside the run would, while the block runs."""
        stop = threading.Event()

        def scrape() -> None:
            while not stop.wait(2):
                with contextlib.suppress(OSError):
                    for _, text in self.metrics():
                        self.figures.update(found.decode() for found in re.findall(rb"^(ray_clinjepa_\w+)", text, re.MULTILINE))
                        self.leaking_metrics |= self.search.kinds(text)

        thread = threading.Thread(target=scrape)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def kept(self) -> Iterator[tuple[str, bytes]]:
        """Every file of the storage apart from tables and latents, which are meant to hold patients' data, and tokenizers, which learned
        their words."""
        for name, content in files_below(self.storage):
            parts = Path(name).relative_to(self.storage).parts
            is_table = name.endswith(".parquet") and (
                parts[:1] == ("artifacts",) and parts[1] in MEANT or parts[-1] == "predictions.parquet"
            )
            are_latents = parts[:1] == ("artifacts",) and parts[1] in LATENTS and parts[-2] in ("latents", "actions")
            if not is_table and not are_latents and parts[-1] != "tokenizer.json":
                yield name, content


@pytest.fixture(scope="module", params=[SHORT, LONG], ids=["short", "long"])
def canaries(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Canaries]:
    root = tmp_path_factory.mktemp("canaries")
    ids = plant(root / "data", num_patients=24, seed=1)
    (root / "fault").touch()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    faults = str(ROOT / "tests" / "support" / "machines" / "planted_faults")
    env = {"CANARY_FAULT": str(root / "fault"), "CANARY_TEXT": TEXT, "PYTHONPATH": faults, "PATH": path}
    env["RAY_health_check_failure_threshold"] = "300"  # no node is lost here, however busy the machine is
    with RayNodes(head_cpus=2, env=env, has_dashboard=True) as nodes:
        run = Canaries(root, nodes, ids)
        with run.scraped():
            for fault in request.param:
                assert run.run(fault) != 0, f"{fault}: {run.said[-1][-3000:]}"
                assert "ValueError" in run.said[-1], f"{fault}: {run.said[-1][-3000:]}"
            assert run.run() == 0, run.said[-1][-4000:]
        yield run


def test_the_terminal_shows_no_patient(canaries: Canaries) -> None:
    said = [(f"run {number}", text.encode()) for number, text in enumerate(canaries.said)]
    assert canaries.search.hits([*said, ("plan", canaries.planned().encode())]) == {}


def test_no_file_of_rays_session_holds_a_patient(canaries: Canaries) -> None:
    code = "/runtime_resources/"  # the uploaded packages: tests/repository/test_upload.py holds what is in them
    files = [(name, content) for name, content in files_below(canaries.nodes.folder) if code not in name]
    names = {Path(name).name.partition("-")[0].partition(".")[0] for name, _ in files}
    assert {"worker", "raylet", "gcs_server", "dashboard_agent"} <= names
    assert canaries.search.hits(files) == {}


def test_no_answer_of_dashboard_state_api_job_logs_or_metrics_holds_a_patient(canaries: Canaries) -> None:
    answers = list(canaries.answers())
    said = {name: content for name, content in answers}
    assert b'"FAILED"' in said["/api/v0/tasks?detail=1&limit=10000"], "the faults are among the answers"
    assert any(name.startswith("metrics") for name in said)
    assert canaries.search.hits(answers) == {} and canaries.leaking_metrics == set()


def test_every_figure_of_the_board_is_shown_by_a_run(canaries: Canaries) -> None:
    needs_two_trials = exported_name("clinjepa_stages_shared")
    asked = {name for query in queries().values() for name in re.findall(r"\bray_clinjepa_\w+", query)}
    assert asked - canaries.figures <= {needs_two_trials}


def test_a_leak_would_be_found(canaries: Canaries, tmp_path: Path) -> None:
    (tmp_path / "worker-1.err").write_text(f"ValueError: could not convert string to float: {TEXT!r}")
    assert list(canaries.search.hits(files_below(tmp_path)).values()) == [set(FORMS)]
    for packed in (TEXT.encode("utf-16"), base64.b64encode(TEXT.encode()), b"head" + gzip.compress(TEXT.encode()), TEXT.lower().encode()):
        assert canaries.search.kinds(b"before " + packed + b" after"), packed
    assert canaries.search.kinds(b"7316429 2117 Zyx 0.731 2026-11-29 10:00:00") == set()


def test_the_storage_holds_patients_only_where_they_are_meant_to_be(canaries: Canaries) -> None:
    kept = list(canaries.kept())
    assert {"report.html", "report.json", "data_card.html", "run.json"} <= {Path(name).name for name, _ in kept}
    assert any("tfevents" in name for name, _ in kept)
    assert canaries.search.hits(kept) == {}
    meant = list(files_below(canaries.storage / "artifacts" / "ingest"))
    assert {"drug", "number"} <= set().union(*canaries.search.hits(meant).values()), "the data have canaries where they belong"
