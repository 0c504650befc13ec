"""Submitting a command as a job to a Ray cluster: the checks before, what is sent, and the job's name.

A job is what `ray job submit --working-dir . -- python -m pipelines.<command> …` makes of the same folder. Sent is what `.rayignore` lets
through, nothing else. No secret is in the job: the nodes have the credentials of the storage.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import re
import shlex
import socket
import sys
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinjepa.errors import ConfigError, StorageError, first_line
from clinjepa.redaction import REMEDY, holds_credentials
from pipelines.graph.artifacts import content_key
from pipelines.scheduling.locations import vanishes_with_a_job

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

    from clinjepa.config import Config

UPLOAD_LIST = ".rayignore"
_SENT = ("clinjepa", "pipelines", "configs")
_ANSWER_SECONDS = 10.0
_OTHER_ADDRESSES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""Ray would take these instead of the address that it is given."""

_TOKEN_REMEDY = "export RAY_AUTH_MODE=token, and the cluster's token in RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token (docs/privacy.md)"  # noqa: S105


@dataclass(frozen=True)
class JobRequest:
    """What a job does, and which run it works on."""

    command: str
    arguments: tuple[str, ...]
    run: str
    """Name of the run, for the job's own name."""

    identity: str
    """Digest of the run: two requests with the same work on the same files."""

    @property
    def entrypoint(self) -> str:
        """The shell command of the job's driver."""
        return shlex.join(["python", "-m", f"pipelines.{self.command.replace('-', '_')}", *self.arguments])

    def name(self, attempt: int) -> str:
        """The id of the job on the cluster. Ray refuses one that it has seen, so every attempt has its number."""
        return f"{self._stem}-{attempt}"

    def attempt_of(self, job: str | None) -> int | None:
        """The number of a job that is an attempt of this run; None for every other job."""
        found = re.fullmatch(re.escape(self._stem) + r"-(\d+)", job or "")
        return int(found[1]) if found else None

    @property
    def _stem(self) -> str:
        return f"clinjepa-{re.sub(r'[^A-Za-z0-9_.-]+', '-', self.run)[:40]}-{self.identity}"


def request_of_config(command: str, config: Config, path: str, arguments: Sequence[str]) -> JobRequest:
    """The request of a command that takes a configuration.

    Args:
        command: Name of the command.
        config: The configuration as it was given, with relative addresses as they stand.
        path: Its file.
        arguments: Overrides and options as typed.

    Raises:
        ConfigError: The file is not sent with a job, or an address means this machine's folder.
    """
    sent = os.path.relpath(os.path.realpath(path), os.path.realpath(os.curdir))
    if not re.fullmatch(r"configs/[^./][^/]*\.yaml", sent):
        raise ConfigError(f"{path} is not sent with a job: {UPLOAD_LIST} lets configs/*.yaml of this folder through; put it there")
    for recipe in config.grid.recipes:
        if recipe.endswith((".yaml", ".yml")) and not os.path.isabs(recipe) and not recipe.startswith("configs/"):
            raise ConfigError(f"grid.recipes: {recipe} is not sent with a job; put it into configs/")
    if vanishes_with_a_job(config.storage):
        raise ConfigError(
            f"storage={config.storage} would be a folder of the job, which vanishes with it; give an absolute folder that every node "
            "sees, or s3://bucket/prefix"
        )
    if config.source.path is not None and vanishes_with_a_job(config.source.path):
        raise ConfigError(
            f"source.path={config.source.path} is a folder of this machine, and data are not sent with a job; give an absolute folder "
            "that every node sees, or s3://bucket/prefix"
        )
    return JobRequest(command, (sent, *arguments), config.name, content_key([config.storage, config.name])[:10])


def request_of_run(command: str, run: str, arguments: Sequence[str]) -> JobRequest:
    """The request of a command that takes a finished run. Raises ConfigError for a run that only this machine sees."""
    if vanishes_with_a_job(run):
        raise ConfigError(f"{run} is a folder of this machine; give <storage>/runs/<name> as an absolute folder or an address")
    if holds_credentials(run):
        raise ConfigError(f"the run's address holds credentials; {REMEDY}")
    name = f"{run.rstrip('/').rpartition('/')[2]}-{command}"
    return JobRequest(command, (run, *arguments), name, content_key([run, *arguments])[:10])


def connected(address: str) -> JobSubmissionClient:
    """The job server of a cluster of the Ray version that is installed here.

    Args:
        address: Of the dashboard, `http://host:8265`.

    Raises:
        ConfigError: The address cannot be used, the token is missing or wrong, or the versions of Ray or Python differ.
        StorageError: Nothing answers there.
    """
    _check_address(address)
    logging.getLogger("ray").setLevel(logging.ERROR)
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    try:
        with _without_other_addresses():
            client = JobSubmissionClient(address)
    except AuthenticationError as error:
        wrong = "the token is not that of the cluster" if "invalid" in str(error).lower() else "the cluster asks for a token"
        raise ConfigError(f"{address}: {wrong}; {_TOKEN_REMEDY}") from None
    except Exception as error:  # what the HTTP library and Ray raise for an address that is something else
        raise StorageError(f"{address} does not answer as a Ray dashboard ({first_line(error)}); is it the head's port 8265?") from None
    _check_versions(client, address)
    return client


def entrypoint_resources(text: str) -> dict[str, float]:
    """What a job's driver asks for by name, of one JSON object such as `{"driver": 1}`. Raises ConfigError for anything else."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    amounts = list(found.values()) if isinstance(found, dict) else []
    if not amounts or not all(type(each) in (int, float) and 0 < each < math.inf for each in amounts):
        raise ConfigError(f"--entrypoint-resources {text}: give amounts above 0 by name as JSON, '{{\"driver\": 1}}'")
    return {str(name): float(amount) for name, amount in found.items()}


def submitted(client: JobSubmissionClient, request: JobRequest, resources: Mapping[str, float] | None = None) -> str:
    """Submit a job with the code and configurations of the working folder; returns its id.

    Args:
        client: Of the cluster.
        request: What the job does.
        resources: Resources by name that the node of the driver must have; without them it runs on the head.

    Raises:
        ConfigError: A job of the same run is at work, or this folder is not the project's.
        StorageError: The cluster refuses the job.
    """
    root = check_working_folder()
    attempts = [(number, job) for job in client.list_jobs() if (number := request.attempt_of(job.submission_id)) is not None]
    for _, job in attempts:
        if not job.status.is_terminal():
            raise ConfigError(
                f"a job works on this run already: {how_to(client.get_address(), str(job.submission_id))}; or give another name=…"
            )
    number = max((number for number, _ in attempts), default=0) + 1
    try:
        return client.submit_job(
            entrypoint=request.entrypoint,
            submission_id=request.name(number),
            runtime_env={"working_dir": str(root)},
            entrypoint_resources=dict(resources) if resources else None,
            metadata={"clinjepa_command": request.command, "clinjepa_run": request.run},
        )
    except (RuntimeError, ConnectionError, OSError, ValueError) as error:
        if "already" in str(error):
            raise ConfigError("a job of this run was submitted at the same moment; try again to see it") from None
        raise StorageError(f"{client.get_address()} refuses the job: {first_line(error)}") from None


def check_working_folder() -> Path:
    """The working folder, which must be the project's: its list of what is sent is there. Raises ConfigError."""
    root = Path.cwd()
    missing = [name for name in (UPLOAD_LIST, *_SENT) if not (root / name).exists()]
    if missing:
        raise ConfigError(f"{root} has no {', '.join(missing)}; submit from the project's folder, whose code and configurations are sent")
    patterns = [line for line in (root / UPLOAD_LIST).read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    if patterns[:1] != ["*"]:
        raise ConfigError(
            f"{root / UPLOAD_LIST} does not begin by keeping everything back (*), so data could be sent; use the project's list"
        )
    return root


def how_to(address: str, job: str) -> str:
    """How to follow a job and how to stop it."""
    return f"follow it with `ray job logs --follow --address {address} {job}`, stop it with `ray job stop --address {address} {job}`"


def _check_address(address: str) -> None:
    if holds_credentials(address):
        raise ConfigError(f"--address holds credentials; {_TOKEN_REMEDY}")
    parts = urllib.parse.urlsplit(address)
    try:
        host, port = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        host, port = None, 0
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigError(f"--address {address}: give the address of the cluster's dashboard, http://host:8265")
    try:
        socket.create_connection((host, port), timeout=_ANSWER_SECONDS).close()
    except OSError as error:
        raise StorageError(f"{address} does not answer ({error}); is the cluster up, and the port forwarded?") from None


@contextlib.contextmanager
def _without_other_addresses() -> Iterator[None]:
    kept = {name: os.environ.pop(name) for name in _OTHER_ADDRESSES if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


def _check_versions(client: JobSubmissionClient, address: str) -> None:
    import ray

    theirs = str(getattr(client, "_server_ray_version", None) or ray.__version__)
    if theirs != ray.__version__:
        raise ConfigError(
            f"{address} runs Ray {theirs}, this machine has {ray.__version__}: give the cluster an image with Ray {ray.__version__}, or "
            f"install ray=={theirs} here"
        )
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    other = _python_of(client)
    if other is not None and other != own:
        raise ConfigError(f"{address} runs Python {other}, this machine {own}: use the same Python on both")


def _python_of(client: Any) -> str | None:
    """Python `major.minor` of the head's raylet, by its command line; None where the dashboard does not tell it."""
    with contextlib.suppress(Exception):  # no public interface tells it
        nodes = client._do_request("GET", "/nodes?view=summary").json()["data"]["summary"]
        lines = [" ".join(map(str, node.get("cmdline", []))) for node in nodes]
        found = {match[1] for line in lines if (match := re.search(r"python(3\.\d+)", line))}
        return found.pop() if len(found) == 1 else None
    return None
