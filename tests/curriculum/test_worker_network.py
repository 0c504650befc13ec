"""Workers on several hosts reach each other before a training, by the interface of their addresses, or a fault names both hosts."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

import pipelines.stages.worker_checks as checks
from clinjepa.curriculum.workers import network
from clinjepa.curriculum.workers.network import INTERFACE_VARIABLE, Place, address_of, check_reach, choose_interface, interface_with, listen
from clinjepa.errors import ResourceError


@pytest.fixture(autouse=True)
def no_interface_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(INTERFACE_VARIABLE, "")
    monkeypatch.delenv(INTERFACE_VARIABLE)


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_an_interface_and_its_address_lead_to_each_other() -> None:
    assert address_of("lo") == "127.0.0.1" and interface_with("127.0.0.1") == "lo"
    assert address_of("none7") is None and interface_with("203.0.113.9") is None


def test_a_worker_that_listens_is_reached() -> None:
    there = listen("127.0.0.1", seconds=10)
    assert there.address == "127.0.0.1" and there.port > 0
    check_reach(Place("here", "127.0.0.1", "127.0.0.1", 1), [there, there], seconds=0)


def test_one_out_of_reach_is_named_with_both_hosts_and_the_remedy() -> None:
    with pytest.raises(ResourceError) as raised:
        check_reach(Place("ward-1", "10.0.0.1", "10.0.0.1", 5), [Place("ward-2", "127.0.0.1", "127.0.0.1", closed_port())], seconds=0)
    said = str(raised.value)
    assert "on host ward-1 (10.0.0.1) cannot reach the one on ward-2 (127.0.0.1): Connection refused" in said
    assert INTERFACE_VARIABLE in said and "open all TCP ports" in said and "\n" not in said


def test_one_that_answers_later_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["Connection refused", "Connection refused", None])
    monkeypatch.setattr(network, "_fault_of", lambda place: next(answers))
    check_reach(Place("here", "10.0.0.1", "10.0.0.1", 1), [Place("there", "10.0.0.2", "10.0.0.2", 1)], seconds=30)
    assert next(answers, "used up") == "used up"


def test_the_interface_that_the_user_names_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(INTERFACE_VARIABLE, "lo")
    assert listen("203.0.113.9", seconds=1).address == "127.0.0.1"
    choose_interface(Place("here", "203.0.113.9", "203.0.113.9", 1))
    assert os.environ[INTERFACE_VARIABLE] == "lo"
    monkeypatch.setenv(INTERFACE_VARIABLE, "none7")
    choose_interface(Place("here", "127.0.0.1", "127.0.0.1", 1))
    assert os.environ[INTERFACE_VARIABLE] == "none7"
    with pytest.raises(ResourceError, match="none7, but host .* has no such interface"):
        listen("127.0.0.1", seconds=1)


def test_gloo_gets_the_interface_of_the_workers_address() -> None:
    choose_interface(Place("here", "203.0.113.9", "203.0.113.9", 1))
    assert INTERFACE_VARIABLE not in os.environ
    choose_interface(Place("here", "127.0.0.1", "127.0.0.1", 1))
    assert os.environ[INTERFACE_VARIABLE] == "lo"


class Group:
    """A worker group whose workers are the one process, called one after another."""

    def __init__(self, addresses: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.addresses, self.rank, self.notes = addresses, 0, list[str]()
        monkeypatch.setattr(checks, "note_fault", lambda name, error: self.notes.append(f"{name}: {error}"))
        monkeypatch.setattr("ray.util.get_node_ip_address", lambda: self.addresses[self.rank])
        context = SimpleNamespace(get_world_rank=lambda: self.rank)
        monkeypatch.setattr("ray.train.get_context", lambda: context)
        monkeypatch.setattr(checks, "choose_interface", lambda own: self.chosen.append(own.address))
        self.chosen: list[str] = []

    def execute(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        found = []
        for rank in range(len(self.addresses)):
            self.rank = rank
            found.append(function(*arguments))
        return found


def test_workers_of_one_host_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    group = Group(["127.0.0.1", "127.0.0.1"], monkeypatch)
    assert checks._reach_each_other(group, "sft") and group.chosen == [] and group.notes == []


def test_two_hosts_that_shall_use_the_loopback_are_two_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(INTERFACE_VARIABLE, "lo")
    group = Group(["10.0.0.1", "10.0.0.2"], monkeypatch)
    tried: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(checks, "check_reach", lambda own, others: tried.append((own.node, [place.address for place in others])))
    assert checks._reach_each_other(group, "sft") and tried == [("10.0.0.1", ["127.0.0.1"]), ("10.0.0.2", ["127.0.0.1"])]


def test_workers_of_two_hosts_choose_their_interfaces_and_are_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    group = Group(["127.0.0.1", "127.0.0.2"], monkeypatch)
    assert checks._reach_each_other(group, "sft") and group.chosen == ["127.0.0.1", "127.0.0.2"]


def test_the_fault_of_workers_that_do_not_reach_each_other_is_noted_and_no_group_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    group = Group(["127.0.0.1", "127.0.0.2"], monkeypatch)
    monkeypatch.setattr(
        checks, "check_reach", lambda own, others: check_reach(own, [Place("x", "127.0.0.1", "127.0.0.1", closed_port())], 0)
    )
    joined: list[str] = []
    monkeypatch.setattr(checks._TorchBackend, "on_start", lambda *_: joined.append("started"))
    monkeypatch.setattr(checks._TorchBackend, "on_shutdown", lambda *_: joined.append("ended"))
    backend, config = checks._CheckedTorchBackend(), checks.CheckedTorchConfig(name="sft")
    backend.on_start(group, config)
    backend.on_shutdown(group, config)
    assert joined == [] and group.notes[0].startswith("sft: the training worker on host") and len(group.notes) == 2
