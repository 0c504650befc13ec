"""A service that does not start says why: the port is tested on its own, and every other failure names what failed."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from clinjepa.errors import ConfigError
from pipelines.serving.starting import check_port, fault_of_port, why_not_started
from tests.support.machines.cli import call_here
from tests.support.training.served_export import ServedExport

FAILED = "Deploying application clinjepa failed: Failed to update the deployments ['scorer']."
REPLICA = """Deployment 'scorer': The deployment failed to start 3 times in a row. This may be due to \
a problem with its constructor or initial health check failing. See controller logs for details. Error:
\x1b[36mray::ServeReplica:clinjepa:scorer.initialize_and_get_metadata()\x1b[39m (pid=1, ip=127.0.0.1, actor_id=ab)
  File "/somewhere/concurrent/futures/_base.py", line 449, in result
RuntimeError: Traceback (most recent call last):
  File "/somewhere/scoring.py", line 96, in load
clinjepa.errors.StoreError: s3://AKIAIOSFODNN7EXAMPLE:secret-of-a-test@bucket/model/probes.json is missing"""

CONTROLLER = """The actor died unexpectedly before finishing this task.
\tclass_name: ServeController
\tactor_id: 0123
\tname: SERVE_CONTROLLER_ACTOR
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: killed by the OOM killer"""


@pytest.fixture
def taken() -> Iterator[int]:
    """A port of 127.0.0.1 on which a program listens."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield int(other.getsockname()[1])


def test_a_taken_port_is_named_before_anything_starts(made: ServedExport, taken: int) -> None:
    done = call_here("serve", str(made.folder), "--port", str(taken), CLINJEPA_SERVE_TOKEN="a-token-of-a-test-0123")
    assert done.returncode == 2 and f"port {taken} of 127.0.0.1 is taken by another program" in " ".join(done.stdout.split())


def test_a_free_port_passes_although_an_earlier_connection_to_it_is_closing(taken: int) -> None:
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", 0))
        server.listen()
        free = int(server.getsockname()[1])
        with socket.create_connection(("127.0.0.1", free)):
            server.accept()[0].close()  # this side closes first: its port waits
    assert fault_of_port("127.0.0.1", free) == ""
    check_port("127.0.0.1", free)
    with pytest.raises(ConfigError, match="taken by another program"):
        check_port("127.0.0.1", taken)


def test_a_host_of_another_machine_is_named() -> None:
    with pytest.raises(ConfigError, match="--host 192.0.2.77 is no address of this machine"):
        check_port("192.0.2.77", 8000)  # of a network for documentation
    with pytest.raises(ConfigError, match="--host nowhere.invalid is no address"):
        check_port("nowhere.invalid", 8000)


def test_a_replica_that_fails_is_named_with_its_own_exception_and_without_credentials() -> None:
    said = why_not_started(RuntimeError(FAILED), REPLICA)
    assert said.startswith("scorer, StoreError: s3://") and said.endswith("bucket/model/probes.json is missing")
    assert "secret-of-a-test" not in said and "port" not in said and "\n" not in said


def test_an_actor_that_dies_while_starting_is_named_with_how_it_ended() -> None:
    said = why_not_started(RuntimeError(CONTROLLER))
    assert said.startswith("ServeController, RuntimeError: The actor is dead") and "OOM killer" in said and "port" not in said


@pytest.mark.parametrize(("text", "said"), [("", "TimeoutError: without a message"), ("one\ntwo", "TimeoutError: two")])
def test_an_unknown_failure_is_its_class_and_last_line(text: str, said: str) -> None:
    assert why_not_started(TimeoutError(text)) == said


def test_a_long_message_is_cut() -> None:
    assert len(why_not_started(RuntimeError("OSError: " + "x" * 5000))) == 300
