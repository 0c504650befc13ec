"""An object store that fails for a while is waited for, one that stays away is one clear line, and neither makes a create wrong."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from clinjepa.errors import StorageError
from clinjepa.storage import Folder
from clinjepa.storage.s3 import PATIENCE_VARIABLE, PatientS3
from pipelines.scheduling.lease import LeaseQueue
from tests.support.machines.faulty_s3 import FaultyS3

OUTAGE_REQUESTS = 10
"""So many requests fail before the outage ends: one of nearly every action."""


@pytest.fixture
def s3(s3_address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    """The proxy before the test's own bucket; `s3.bucket` is its address, `s3.direct` the server's own endpoint."""

    with FaultyS3(os.environ["AWS_ENDPOINT_URL"]).start() as proxy:
        proxy.bucket = s3_address  # type: ignore[attr-defined]
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
        PatientS3.clear_instance_cache()
        yield proxy
        PatientS3.clear_instance_cache()


def impatient(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    monkeypatch.setenv(PATIENCE_VARIABLE, f"{seconds:g}")
    PatientS3.clear_instance_cache()


def at_once(actions: dict[str, Callable[[], Any]]) -> dict[str, Any]:
    """Results (or exceptions) of all actions, each in a thread of its own."""
    results: dict[str, Any] = {}

    def run(name: str, action: Callable[[], Any]) -> None:
        try:
            results[name] = action()
        except Exception as error:
            results[name] = error

    threads = [threading.Thread(target=run, args=item) for item in actions.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


def everything(folder: Folder) -> dict[str, Callable[[], Any]]:
    """One action of every kind, on files that `prepared` wrote."""

    def stream() -> bytes:
        with folder.writing("new/stream.bin") as out:
            out.write(b"streamed")
        return b"streamed"

    def copy() -> bytes:
        with folder.local_copy("old") as path:
            return (path / "a.bin").read_bytes()

    def opened() -> bytes:
        with folder.fs.open(folder.path("old/a.bin"), "rb") as file:
            return file.read(4) + file.read()

    return {
        "read": lambda: folder.read_bytes("old/a.bin"),
        "part": lambda: folder.read_bytes("old/a.bin", 1, 3),
        "open": opened,
        "copy": copy,
        "names": lambda: folder.names("old"),
        "files": lambda: folder.files("old"),
        "exists": lambda: (folder.exists("old/a.bin"), folder.exists("old/b.bin"), Folder(folder.address.rsplit("/", 1)[0]).exists()),
        "size": lambda: folder.size("old/a.bin"),
        "write": lambda: folder.write_bytes("new/a.bin", b"written"),
        "create": lambda: folder.create_bytes("new/created.bin", b"mine"),
        "stream": stream,
        "remove": lambda: folder.remove("gone"),
    }


WHOLE = {
    "read": b"0123456789",
    "part": b"12",
    "open": b"0123456789",
    "copy": b"0123456789",
    "names": ["a.bin"],
    "files": {"a.bin": 10},
    "exists": (True, False, True),
    "size": 10,
    "write": None,
    "create": True,
    "stream": b"streamed",
    "remove": None,
}


def prepared(s3: FaultyS3) -> Folder:
    folder = Folder(f"{s3.bucket}/store")  # type: ignore[attr-defined]
    folder.write_bytes("old/a.bin", b"0123456789")
    folder.write_bytes("gone/a.bin", b"x")
    return folder


@pytest.mark.parametrize("mode", ["503", "500", "hang", "reset", "lost", "cut"])
def test_every_read_and_write_survives_an_outage(s3: FaultyS3, mode: str) -> None:
    folder = prepared(s3)
    s3.mode = mode

    def end_it() -> None:
        while s3.counts[mode] < OUTAGE_REQUESTS:
            time.sleep(0.01)
        s3.mode = "pass"

    ending = threading.Thread(target=end_it, daemon=True)
    ending.start()
    assert at_once(everything(folder)) == WHOLE
    ending.join(10)
    assert folder.read_bytes("new/a.bin") == b"written"
    assert folder.read_bytes("new/created.bin") == b"mine"
    assert folder.read_bytes("new/stream.bin") == b"streamed"
    assert folder.names("gone") == []


@pytest.mark.parametrize("mode", ["503", "hang", "reset"])
def test_an_outage_for_good_is_one_line_with_address_and_remedy(s3: FaultyS3, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    impatient(monkeypatch, 1.0)
    folder = prepared(s3)
    s3.mode = mode
    results = at_once(everything(folder))
    assert set(results) == set(WHOLE)
    for name, error in results.items():
        assert isinstance(error, StorageError), (name, error)
        told = str(error)
        assert "s3://" in told or name == "open", told
        assert s3.address in told and "AWS_ENDPOINT_URL" in told and "same command again" in told and "\n" not in told


def test_one_policy_decides_how_often_a_request_is_sent(s3: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> None:
    impatient(monkeypatch, 1.0)
    folder = prepared(s3)
    s3.mode = "503"
    with pytest.raises(StorageError, match=r"HTTP 503 SlowDown for 1 s and (\d+) attempts"):
        folder.write_bytes("x", b"1")
    assert 3 <= s3.counts["503"] <= 8  # waits of 0.1-0.2, 0.2-0.4, 0.4-0.8 ... seconds fill one second


def test_a_refusal_is_not_tried_again(s3: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StorageError, match="access refused.*credentials"):
        Folder(f"{s3.bucket}/p").write_bytes("x", b"1")  # type: ignore[attr-defined]
    assert s3.counts["pass"] == 1


def test_a_create_whose_answer_was_lost_is_ours(s3: FaultyS3) -> None:
    folder = prepared(s3)
    s3.applies = lambda method, path: method == "PUT"
    s3.fail_times("lost", 1)
    assert folder.create_bytes("lease/1.json", b"owner a")
    assert s3.counts["lost"] == 1
    assert not folder.create_bytes("lease/1.json", b"owner b")


def test_a_create_that_another_made_during_the_outage_is_theirs(s3: FaultyS3) -> None:
    folder = prepared(s3)
    s3.applies = lambda method, path: method == "PUT"
    s3.fail_times("503", 3)
    ours: list[bool] = []
    thread = threading.Thread(target=lambda: ours.append(folder.create_bytes("lease/1.json", b"owner a")))
    thread.start()
    while not s3.counts["503"]:
        time.sleep(0.01)
    s3.applies = lambda method, path: False  # the other one's way is free ...
    rival = folder.create_bytes("lease/1.json", b"owner b")
    thread.join(30)
    assert sorted([rival, *ours]) == [False, True]
    assert folder.read_bytes("lease/1.json") == (b"owner b" if rival else b"owner a")


def test_of_many_creators_in_an_outage_that_loses_answers_exactly_one_wins(s3: FaultyS3) -> None:
    folder = prepared(s3)
    s3.applies = lambda method, path: method == "PUT"
    s3.fail_for("lost", 0.8)
    owners = {name: name.encode() for name in (uuid.uuid4().hex for _ in range(6))}
    won = at_once({name: lambda data=data: folder.create_bytes("lease/1.json", data) for name, data in owners.items()})
    assert [name for name, mine in won.items() if mine is True] == [folder.read_bytes("lease/1.json").decode()]
    assert sum(mine is False for mine in won.values()) == 5


def test_a_lease_is_taken_once_though_answers_are_lost(s3: FaultyS3) -> None:
    folder = prepared(s3)
    s3.applies = lambda method, path: method == "PUT"
    s3.fail_times("lost", 1)
    lease = LeaseQueue(folder, 20).try_acquire()
    assert lease is not None and s3.counts["lost"] == 1
    assert LeaseQueue(folder, 20).try_acquire() is None
    lease.check()


def test_a_large_upload_whose_last_answer_was_lost_is_whole(s3: FaultyS3, tmp_path) -> None:
    folder = prepared(s3)
    large = tmp_path / "large.bin"
    large.write_bytes(bytes(range(256)) * (11 << 12))
    s3.applies = lambda method, path: method == "POST" and "uploadId=" in path
    s3.fail_times("lost", 1)
    folder.fs.put_file(str(large), folder.path("large.bin"), chunksize=5 << 20)
    assert s3.counts["lost"] == 1
    assert folder.read_bytes("large.bin") == large.read_bytes()


def test_a_run_starts_though_the_store_is_busy_at_first(s3: FaultyS3) -> None:
    s3.fail_times("503", 2)
    Folder(f"{s3.bucket}/p").check_writable()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "127.0.0.1:9 gave no connection.*AWS_ENDPOINT_URL"),
        ({"AWS_ENDPOINT_URL": "http://nowhere.invalid:8333"}, "nowhere.invalid:8333 gave no connection.*AWS_ENDPOINT_URL"),
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "access refused.*credentials"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, "access refused.*credentials"),
        ({"bucket": "s3://nobody-made-this"}, "there is no bucket nobody-made-this; create it"),
        ({"mode": "hang"}, "gave no answer.*AWS_ENDPOINT_URL"),
    ],
    ids=["port", "host", "secret", "key", "bucket", "silence"],
)
def test_an_address_that_never_worked_is_refused_at_the_start(
    s3: FaultyS3, wrong: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clinjepa.storage.s3.FIRST_CONTACT_SECONDS", 0.5)  # 120 s of patience stay for whoever did answer
    bucket = wrong.pop("bucket", s3.bucket)  # type: ignore[attr-defined]
    s3.mode = wrong.pop("mode", "pass")
    for name, value in wrong.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StorageError, match=words) as caught:
        Folder(f"{bucket}/p").check_writable()
    assert bucket in str(caught.value)


def test_patience_that_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PATIENCE_VARIABLE, "soon")
    PatientS3.clear_instance_cache()
    with pytest.raises(StorageError, match=PATIENCE_VARIABLE):
        Folder("s3://bucket/p").exists("x")
