"""Ray's temporary folder on this machine is closed to other users, short enough for Ray's sockets, and made where the user asks for it."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import ray

from clinjepa.config import Config
from clinjepa.errors import ResourceError
from pipelines.scheduling.ray_folder import LONGEST, private_ray_folder
from pipelines.scheduling.session import ray_session


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> str:
    """A short base folder that exists only for one test."""
    folder = f"/tmp/b{os.getpid()}"
    os.mkdir(folder)
    monkeypatch.setenv("RAY_TMPDIR", folder)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)  # processes of Ray may still be ending


def mode(path: str) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


@pytest.mark.parametrize("umask", [0o000, 0o277])
def test_the_folder_around_rays_is_private_whatever_the_umask_and_the_same_again(base: str, umask: int) -> None:
    before = os.umask(umask)
    try:
        folder = private_ray_folder()
        os.chmod(os.path.dirname(folder), 0o755)
        assert private_ray_folder() == folder == f"{base}/clinjepa-{os.geteuid()}/ray"
    finally:
        os.umask(before)
    assert mode(os.path.dirname(folder)) == 0o700


def test_a_name_that_somebody_else_has_taken_is_not_used(base: str) -> None:
    taken = f"{base}/clinjepa-{os.geteuid()}"
    os.mkdir(f"{base}/trap")
    os.symlink(f"{base}/trap", taken)
    folder = private_ray_folder()
    assert not folder.startswith(taken + "/") and mode(os.path.dirname(folder)) == 0o700 and mode(f"{base}/trap") != 0o700
    os.remove(taken)
    os.mkdir(taken)
    if os.geteuid() == 0:
        os.chown(taken, 65534, 65534)
        assert not private_ray_folder().startswith(taken + "/")
        os.chown(taken, 0, 0)


def test_a_path_that_is_too_long_for_rays_sockets_is_passed_over_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * LONGEST)
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(long))
    assert private_ray_folder() == f"/tmp/clinjepa-{os.geteuid()}/ray"
    monkeypatch.setenv("RAY_TMPDIR", str(long))
    with pytest.raises(ResourceError, match="too long by .* characters for Ray's sockets.*set RAY_TMPDIR to a short"):
        private_ray_folder()


def test_a_base_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "file"))
    with pytest.raises(ResourceError, match=r"file: .*set RAY_TMPDIR"):
        private_ray_folder()


def test_the_longest_folder_leaves_room_for_rays_longest_socket() -> None:
    from ray._private.utils import validate_socket_filepath

    session = "session_2026-12-31_23-59-59_999999_4194304"
    validate_socket_filepath(f"{'/' + 'x' * (LONGEST - 1)}/{session}/sockets/plasma_store.10")
    with pytest.raises(OSError, match="cannot exceed"):
        validate_socket_filepath(f"{'/' + 'x' * LONGEST}/{session}/sockets/plasma_store.10")


@pytest.mark.ray
def test_a_session_keeps_everything_of_ray_in_the_private_folder(base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    before = os.umask(0o022)
    try:
        with ray_session(Config(storage=str(tmp_path), execution={"object_store_mb": 100, "local_num_cpus": 1, "progress": False})):
            outer = f"{base}/clinjepa-{os.geteuid()}"
            inside = ray._private.worker.global_worker.node.get_session_dir_path()
            assert inside.startswith(f"{outer}/ray/session_") and mode(outer) == 0o700
            assert ray.get(ray.remote(lambda: os.umask(0o077)).remote(), timeout=60) == 0o077
            assert mode(f"{outer}/metrics") == 0o700
            if os.geteuid() == 0:
                assert all("PermissionError" in as_somebody_else(path) for path in (outer, inside, f"{inside}/logs", f"{outer}/metrics"))
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)
    files = [path for path in Path(base).rglob("*") if path.is_file() and not path.is_symlink()]
    assert {".log", ".out", ".err"} <= {path.suffix for path in files}
    assert [path.name for path in files if mode(str(path)) & 0o077] == []


def as_somebody_else(path: str) -> str:
    """What another user is told who lists a folder."""
    code = f"import os\nos.setegid(65534)\nos.seteuid(65534)\nos.listdir({path!r})"
    return subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, timeout=60).stderr
