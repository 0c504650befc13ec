"""What is checked before a job is submitted, what the job is called, and how its end becomes an exit status."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import ray.job_submission
from ray.job_submission import JobStatus

from clinjepa.config import load_config
from clinjepa.errors import ConfigError, StorageError
from pipelines.scheduling import following, submission
from pipelines.scheduling.following import exit_status, follow
from pipelines.scheduling.submission import JobRequest, check_working_folder, connected, request_of_config, request_of_run, submitted
from tests.support.machines.cli import ROOT, call_here

CONFIG = "configs/demo_simulator.yaml"


class Client:
    """Ray's client of a cluster with these jobs; each connection gives a part of the log."""

    def __init__(self, jobs: dict[str, str] | None = None, parts: list[Any] | None = None, driver: int | None = None) -> None:
        self.jobs, self.parts, self.driver, self.sent = dict(jobs or {}), parts or [], driver, []  # type: ignore[var-annotated]

    def get_address(self) -> str:
        return "http://head:8265"

    def list_jobs(self) -> list[Any]:
        return [SimpleNamespace(submission_id=job, status=JobStatus(state)) for job, state in self.jobs.items()]

    def submit_job(self, **asked: Any) -> str:
        if asked["submission_id"] in self.jobs:
            raise RuntimeError(f"Request failed with status code 500: Job with submission_id {asked['submission_id']} already exists.")
        self.sent.append(asked)
        self.jobs[asked["submission_id"]] = "PENDING"
        return asked["submission_id"]

    def get_job_info(self, job: str) -> Any:
        return SimpleNamespace(status=JobStatus(self.jobs[job]), driver_exit_code=self.driver, message="failed with exit code 2, last\nlog")

    def get_job_status(self, job: str) -> JobStatus:
        return JobStatus(self.jobs[job])

    async def tail_job_logs(self, job: str) -> Any:
        part = self.parts.pop(0) if len(self.parts) > 1 else self.parts[0]
        for text in part:
            if isinstance(text, BaseException):
                raise text
            if callable(text):
                text()
            else:
                yield text


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(following.time, "sleep", lambda _: None)


def request(*overrides: str, command: str = "run") -> JobRequest:
    given = ["storage=/everywhere", *overrides]
    return request_of_config(command, load_config(CONFIG, given), CONFIG, given)


def test_the_job_is_the_command_that_a_user_would_submit_by_hand() -> None:
    asked = request("name=mine", "grid.recipes=[clin_jepa, sft]", command="grid")
    assert asked.entrypoint == f"python -m pipelines.grid {CONFIG} storage=/everywhere name=mine 'grid.recipes=[clin_jepa, sft]'"
    client = Client()
    job = submitted(client, asked)  # type: ignore[arg-type]
    (sent,) = client.sent
    assert sent["runtime_env"] == {"working_dir": str(ROOT)}, "no variable of this machine goes into the job"
    assert job == sent["submission_id"] == asked.name(1) and "-mine-" in job


def test_the_driver_may_ask_for_a_node_that_is_not_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client()
    monkeypatch.setattr(submission, "connected", lambda _: client)
    given = ("--no-wait", "storage=/everywhere")
    assert call_here("submit", CONFIG, *given).returncode == 0
    assert call_here("submit", CONFIG, *given, "name=other", "--entrypoint-resources", '{"driver": 1}').returncode == 0
    assert [each["entrypoint_resources"] for each in client.sent] == [None, {"driver": 1.0}]
    for wrong in ("driver=1", "[1]", "{}", '{"driver": 0}', '{"driver": "1"}', '{"driver": true}', '{"driver": NaN}'):
        said = call_here("submit", CONFIG, *given, "--entrypoint-resources", wrong)
        assert said.returncode == 2 and "give amounts above 0 by name as JSON" in " ".join(said.stdout.split()), wrong
    assert len(client.sent) == 2


def test_a_run_that_a_job_works_on_is_refused_and_one_that_ended_goes_on() -> None:
    client = Client()
    first = submitted(client, request())  # type: ignore[arg-type]
    for asked in (request(), request("curriculum.num_steps=24"), request(command="grid")):
        with pytest.raises(ConfigError, match=f"a job works on this run already: follow it with .*{first}.*stop it with.*another name="):
            submitted(client, asked)  # type: ignore[arg-type]
    other = submitted(client, request("name=other"))  # type: ignore[arg-type]
    assert other != first
    for state in ("SUCCEEDED", "FAILED", "STOPPED"):
        client.jobs = dict.fromkeys(client.jobs, state)
        again = submitted(client, request())  # type: ignore[arg-type]
        assert again.rpartition("-")[0] == first.rpartition("-")[0] and int(again.rpartition("-")[2]) > 1


def test_two_submissions_at_the_same_moment_make_one_job(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client()
    submitted(client, request())  # type: ignore[arg-type]
    monkeypatch.setattr(client, "list_jobs", list)  # looked before the other one was there
    with pytest.raises(ConfigError, match="at the same moment"):
        submitted(client, request())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("storage=output", "storage=output would be a folder of the job"),
        ("source={kind: cinc2012, path: data/x, name: c}", "source.path=data/x is a folder of this machine"),
        ("grid.recipes=[mine.yaml]", "mine.yaml is not sent"),
    ],
)
def test_an_address_that_means_this_machine_is_refused(override: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(CONFIG, ["storage=/everywhere"])
    name, _, value = override.partition("=")
    if name == "storage":
        config = config.model_copy(update={"storage": value})
    elif name == "source":
        config = config.model_copy(update={"source": config.source.model_copy(update={"path": "data/x"})})
    else:
        config = config.model_copy(update={"grid": config.grid.model_copy(update={"recipes": ["mine.yaml"]})})
    with pytest.raises(ConfigError, match=said):
        request_of_config("run", config, CONFIG, [])


@pytest.mark.parametrize("path", ["mine.yaml", "configs/sub/mine.yaml", "configs/.mine.yaml", "configs/mine.txt", "../configs/demo.yaml"])
def test_a_configuration_that_is_not_sent_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match="is not sent with a job"):
        request_of_config("run", load_config(CONFIG, ["storage=/everywhere"]), path, [])


def test_a_scoring_names_its_run_and_passes_options_on() -> None:
    asked = request_of_run("score", "s3://b/runs/demo", ["--source", "clif", "--path", "s3://b/clif"])
    assert asked.entrypoint == "python -m pipelines.score s3://b/runs/demo --source clif --path s3://b/clif"
    assert asked.identity != request_of_run("score", "s3://b/runs/demo", ["--source", "meds"]).identity
    with pytest.raises(ConfigError, match="is a folder of this machine"):
        request_of_run("score", "output/runs/demo", [])


def test_only_a_folder_that_keeps_everything_back_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"has no \.rayignore, clinjepa, pipelines, configs"):
        check_working_folder()
    for name in ("clinjepa", "pipelines", "configs"):
        (tmp_path / name).mkdir()
    (tmp_path / ".rayignore").write_text("# all but data\ndata/\n")
    with pytest.raises(ConfigError, match="keeping everything back"):
        check_working_folder()


@pytest.mark.parametrize(
    ("address", "kind", "said"),
    [
        ("http://user:secretword@head:8265", ConfigError, "--address holds credentials"),
        ("head:8265", ConfigError, "http://host:8265"),
        ("ray://head:10001", ConfigError, "http://host:8265"),
        ("http://127.0.0.1:9", StorageError, "does not answer"),
    ],
)
def test_an_address_that_cannot_be_used_is_one_line(address: str, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said) as told:
        connected(address)
    assert "secretword" not in str(told.value)


def made(monkeypatch: pytest.MonkeyPatch, version: str, nodes: list[Any] | BaseException) -> None:
    """Let Ray's client find a cluster of this version."""
    seen: list[str | None] = []

    def client(address: str) -> Any:
        seen.append(os.environ.get("RAY_ADDRESS"))
        if isinstance(nodes, BaseException):
            raise nodes
        answer = SimpleNamespace(json=lambda: {"data": {"summary": nodes}})
        return SimpleNamespace(_server_ray_version=version, _do_request=lambda *_: answer)

    monkeypatch.setattr(submission.socket, "create_connection", lambda *_, **__: SimpleNamespace(close=lambda: None))
    monkeypatch.setattr(ray.job_submission, "JobSubmissionClient", client)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(ConfigError) if version != ray.__version__ else contextlib.nullcontext():
        connected("http://head:8265")
    assert seen == [None], "Ray would take RAY_ADDRESS instead of --address"
    assert os.environ["RAY_ADDRESS"] == "10.0.0.1:6379"


def test_another_version_of_ray_or_python_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    made(monkeypatch, ray.__version__, [{"cmdline": [f"/venv/lib/python{own}/site-packages/ray/raylet"]}])
    made(monkeypatch, ray.__version__, [])
    made(monkeypatch, "2.40.0", [])
    with pytest.raises(ConfigError, match=rf"http://head:8265 runs Ray 2.40.0, this machine has {ray.__version__}"):
        connected("http://head:8265")
    other = [{"cmdline": ["/venv/lib/python3.9/site-packages/ray/raylet"]}]
    client = SimpleNamespace(
        _server_ray_version=ray.__version__,
        _do_request=lambda *_: SimpleNamespace(json=lambda: {"data": {"summary": other}}),
    )
    monkeypatch.setattr(ray.job_submission, "JobSubmissionClient", lambda _: client)
    with pytest.raises(ConfigError, match=f"runs Python 3.9, this machine {own}"):
        connected("http://head:8265")


@pytest.mark.parametrize(
    ("state", "driver", "status"),
    [
        ("SUCCEEDED", 0, 0),
        ("FAILED", 2, 2),
        ("FAILED", None, 1),
        ("FAILED", 0, 1),
        ("FAILED", -9, 137),
        ("STOPPED", None, 130),
        ("STOPPED", 143, 130),
    ],
)
def test_the_end_of_a_job_is_an_exit_status(state: str, driver: int | None, status: int) -> None:
    assert exit_status(state, driver) == status


def test_a_log_is_printed_once_over_broken_connections(capsys: pytest.CaptureFixture[str]) -> None:
    ended = lambda: client.jobs.update(job="FAILED")  # noqa: E731
    parts = [["one\n", RuntimeError("closed unexpectedly")], ["one\ntw"], ["one\ntwo\n", ended], ["one\ntwo\nthree\n"]]
    client = Client({"job": "RUNNING"}, parts, driver=2)
    assert follow(client, "job") == 2  # type: ignore[arg-type]
    said = capsys.readouterr()
    assert said.out == "one\ntwo\nthree\n"
    assert "trying again, the job goes on" in said.err and "job failed: failed with exit code 2, last" in " ".join(said.err.split())


def test_a_cluster_that_stays_away_ends_the_following(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter(range(0, 10**6, 100))
    monkeypatch.setattr(following, "time", SimpleNamespace(monotonic=lambda: next(times), sleep=lambda _: None))
    with pytest.raises(StorageError, match="does not answer .*the job may go on: follow it with"):
        follow(Client({"job": "RUNNING"}, [[ConnectionError("refused")]]), "job")  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_following_and_not_the_job(number: signal.Signals, capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(number)
    client = Client({"job": "RUNNING"}, [["one\n", lambda: os.kill(os.getpid(), number), "two\n"]])
    assert follow(client, "job") == 130  # type: ignore[arg-type]
    said = " ".join(capsys.readouterr().err.split())
    assert "no longer followed, the job goes on: follow it with `ray job logs --follow" in said and "ray job stop" in said
    assert client.jobs == {"job": "RUNNING"} and signal.getsignal(number) == before


def test_the_command_refuses_before_it_asks_the_cluster() -> None:
    said = call_here("submit", CONFIG, "--address", "http://127.0.0.1:9", "storage=output")
    assert said.returncode == 2 and "would be a folder of the job" in " ".join(said.stdout.split())
    said = call_here("submit", CONFIG, "--address", "http://127.0.0.1:9", "storage=/everywhere", "execution.num_worker=3")
    assert said.returncode == 2 and "unknown key" in said.stdout


def test_options_of_the_command_are_given_after_two_dashes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def noted(client: object, request: JobRequest, resources: object) -> str:
        assert resources is None
        asked.append(request.entrypoint)
        return "job"

    monkeypatch.setattr(submission, "connected", lambda _: None)
    monkeypatch.setattr(submission, "submitted", noted)
    done = call_here("submit", "/s/runs/demo", "--command", "score", "--no-wait", "--", "--source", "clif", "source.time_zone=UTC")
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "job"
    assert asked == ["python -m pipelines.score /s/runs/demo --source clif source.time_zone=UTC"]
    call_here("submit", CONFIG, "--command", "grid", "--no-wait", "storage=/everywhere", "--", "--no-evaluation")
    assert asked[1] == f"python -m pipelines.grid {CONFIG} storage=/everywhere --no-evaluation"
