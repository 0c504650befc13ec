"""What a session leaves behind in the process that held it, and what it lets onto the terminal."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys

import pytest
import ray

from clinjepa.config import Config
from clinjepa.errors import ResourceError, StorageError
from pipelines.scheduling import session
from pipelines.scheduling.session import WATCHER_VARIABLE, ray_session
from tests.support.machines.cli import ROOT, environment


@pytest.mark.ray
def test_notices_of_leaving_nodes_are_ignored_on_this_machine_alone_and_only_while_the_session_lasts(tmp_path, monkeypatch):
    monkeypatch.delenv(WATCHER_VARIABLE, raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with ray_session(Config(storage=str(tmp_path), execution={"object_store_mb": 100, "local_num_cpus": 1, "progress": False})):
        assert os.environ[WATCHER_VARIABLE] == "0"
    assert WATCHER_VARIABLE not in os.environ


@pytest.mark.ray
def test_workers_of_this_machine_have_the_niceness_of_the_command(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with ray_session(Config(storage=str(tmp_path), execution={"object_store_mb": 100, "local_num_cpus": 1, "progress": False})):
        assert ray.get(ray.remote(lambda: os.nice(0)).remote(), timeout=60) == os.nice(0)


@pytest.mark.ray
def test_a_session_that_cannot_begin_leaves_the_environment_as_it_was(tmp_path, monkeypatch):
    monkeypatch.delenv(WATCHER_VARIABLE, raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        with pytest.raises(ResourceError, match="could not start on this machine: .*twice"), ray_session(Config(storage=str(tmp_path))):
            pass
    finally:
        ray.shutdown()
    assert WATCHER_VARIABLE not in os.environ


SLOW_AGENTS = """
import sys, time
if any(argument.endswith(("dashboard/agent.py", "agent/main.py")) for argument in sys.orig_argv):
    time.sleep(40)
"""

ONE_TASK = """
import sys, ray
from clinjepa.config import Config
from pipelines.scheduling.session import ray_session

with ray_session(Config(storage=sys.argv[1], execution={"object_store_mb": 100, "local_num_cpus": 1, "progress": False})):
    print(ray.get(ray.remote(lambda: "worked").remote(), timeout=120))
"""


@pytest.mark.ray
def test_ray_starts_while_its_agents_are_slow_and_without_a_home_folder(tmp_path):
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / "sitecustomize.py").write_text(SLOW_AGENTS)  # raylet gives the agents 15 s
    base = f"/tmp/h{os.getpid()}"  # short, for Ray's sockets
    try:
        done = subprocess.run(
            [sys.executable, "-c", ONE_TASK, str(tmp_path / "storage")],
            cwd=ROOT,
            env=environment(PYTHONPATH=f"{tmp_path / 'slow'}:{ROOT}", RAY_TMPDIR=base, HOME="/proc/nobody"),
            text=True,
            capture_output=True,
            timeout=400,
        )
        assert (done.returncode, done.stdout) == (0, "worked\n"), done.stderr
        token = f"{base}/clinjepa-{os.geteuid()}/auth_token"
        assert os.stat(token).st_mode & 0o777 == 0o600
    finally:
        shutil.rmtree(base, ignore_errors=True)


NO_HOME = """
import os
from pipelines.scheduling.local_ray import local_start
os.setuid(23460)  # a user id without a name
with local_start():
    print(os.environ["HOME"])
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become a user id without a name")
def test_a_user_without_a_home_folder_gets_a_private_one(tmp_path):
    base = f"/tmp/n{os.getpid()}"
    os.mkdir(base)
    os.chmod(base, 0o777)
    try:
        env = {name: value for name, value in environment(RAY_TMPDIR=base).items() if name != "HOME"}
        done = subprocess.run([sys.executable, "-c", NO_HOME], cwd=ROOT, env=env, text=True, capture_output=True, timeout=300)
        assert (done.returncode, done.stdout) == (0, f"{base}/clinjepa-23460\n"), done.stderr
        assert os.stat(f"{base}/clinjepa-23460").st_mode & 0o777 == 0o700
    finally:
        shutil.rmtree(base, ignore_errors=True)


def test_an_address_that_ray_cannot_join_is_one_line_with_rays_reason(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "head-node")
    with (
        pytest.raises(ResourceError, match="join the Ray cluster at RAY_ADDRESS=head-node: .*head-node") as raised,
        ray_session(Config(storage=str(tmp_path))),
    ):
        pass
    assert "\n" not in str(raised.value) and "is the address right" in str(raised.value)


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_at_which_nothing_listens_is_one_line_before_ray_tries(scheme, tmp_path, monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    monkeypatch.setenv("RAY_ADDRESS", f"{scheme}127.0.0.1:{port}")
    monkeypatch.setattr(session, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(ray, "init", lambda **options: pytest.fail("Ray was asked"))
    with (
        pytest.raises(StorageError, match="cannot be reached .*nothing answers there.*unset RAY_ADDRESS"),
        ray_session(Config(storage=str(tmp_path))),
    ):
        pass


def test_a_machine_on_which_ray_cannot_start_is_told_in_one_line_with_what_to_look_at(tmp_path, monkeypatch):
    def has_no_room(**options):
        raise OSError(28, "No space left on device", "/tmp/ray")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", has_no_room)
    words = "could not start on this machine: .*No space left.*execution.object_store_mb"
    with pytest.raises(ResourceError, match=words), ray_session(Config(storage=str(tmp_path))):
        pass


def test_a_job_that_cannot_join_its_cluster_names_the_job_and_no_address_that_nobody_set(tmp_path, monkeypatch):
    def refuses(**options):
        raise ConnectionError("no reply within 5 s")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    monkeypatch.setattr(ray, "init", refuses)
    words = "the Ray cluster of this job cannot be reached .no reply within 5 s.; submit the job again"
    with pytest.raises(StorageError, match=words), ray_session(Config(storage=str(tmp_path))):
        pass


MEETS_A_VALUE = """
import ray, sys
from clinjepa.config import Config
from clinjepa.errors import in_safe_words
from pipelines.scheduling.session import ray_session

def meets(table):
    return {}[table["subject_id"][0].as_py()]

with ray_session(Config(storage=sys.argv[1], execution={"object_store_mb": 100, "local_num_cpus": 1, "progress": False})):
    try:
        list(ray.data.from_items([{"subject_id": 10039708}]).map_batches(meets, batch_format="pyarrow").iter_rows())
    except KeyError as error:
        assert "10039708" in str(error)
        print("said:", in_safe_words(error))
"""


@pytest.mark.ray
def test_a_value_that_a_task_of_ray_data_met_is_neither_logged_nor_said(tmp_path):
    command = [sys.executable, "-c", MEETS_A_VALUE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), cwd=ROOT, timeout=200)
    assert "said: KeyError" in done.stdout, done.stderr[-3000:]
    assert "10039708" not in done.stdout + done.stderr
