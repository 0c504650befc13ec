"""Configuration files as accidents and editors make them: each is one line with the file, the line where it is known, and the remedy."""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path

import pytest

from clinjepa.config import file_text, load_config
from clinjepa.config.yaml_text import MOST_ALIASED, MOST_DEPTH, parse_yaml
from clinjepa.errors import ConfigError
from tests.support.machines.pipes import put_pipe

BOMB = "a: &a [1, 2, 3, 4, 5, 6, 7, 8, 9]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcde", "bcdef", strict=True)
)
TEXTS = {
    "a month that is none": ("seed: 1\nname: 2045-13-45", "line 2 has a date, which no setting is; put it in quotation marks"),
    "a date": ("name: 2045-01-05", "line 1 has a date"),
    "an alias of itself": ("source: &a {x: *a}", r"line 1 has an alias .* that contains itself; write its value out"),
    "a merge of itself": ("source: &a\n  <<: *a", "line 2 has an alias .* that contains itself"),
    "a bomb": (BOMB, f"line [56] has aliases .* that stand for over {MOST_ALIASED} values"),
    "brackets": ("name: x\nseed: " + "[" * 3000, f"line 2 is nested over {MOST_DEPTH} levels deep; remove brackets"),
    "closed brackets": ("seed: " + "[" * 3000 + "]" * 3000, "nested over"),
    "indents": ("".join(" " * depth + "a:\n" for depth in range(1000)), "nested over"),
    "digits": ("seed: " + "9" * 5000, "line 1 has an integer of over 20 digits.*write a smaller number"),
    "a control character": ("name: run\nseed: \x07", "line 2 is not valid YAML: it has a control character; remove it"),
    "a key twice": ("name: a\nseed: 1\nname: b", "line 3 repeats the key 'name'; keep one of them"),
    "a nested key twice": ("source:\n  kind: simulator\n  path: a\n  'kind': meds", "line 4 repeats the key 'kind'"),
    "octal": ("seed: 010", "line 1 has an integer that begins with 0, which YAML reads as octal; write the plain number"),
    "sixties": ("seed: 1:30", "line 1 has a number with a colon, which YAML counts in sixties; write the plain number"),
    "sixties with a point": ("seed: 1:30.5", "line 1 has a number with a colon"),
    "no integer": ("seed: !!int many", "line 1 has a value that is no int; mend it"),
    "no truth": ("seed: !!bool perhaps", "line 1 has a value that is no bool"),
    "no binary": ("name: !!binary é", "line 1 has a (value that is no binary|tag)"),
    "python": ("name: !!python/object/apply:os.getcwd []", r"line 1 has a tag \(!name\) that no configuration may have; remove it"),
    "a tag of its own": ("name: run\nseed: !seed 3", r"line 2 has a tag \(!name\)"),
    "two documents": ("name: run\n---\nseed: 3", r"line 2 begins a second document \(---\); keep one document a file"),
    "no anchor": ("name: run\nseed: *number", r"line 2 has an alias \(\*name\) without its anchor"),
    "extends nothing": ("extends: null\nname: run", "extends=None is no file name; name one configuration, or remove the line"),
    "a truth as a number": ("split: {seed: true}", "seed=true: no truth value is taken here; write the number or the name"),
    "a truth in a section": ("curriculum: {num_steps: on}", "num_steps=true: no truth value is taken here"),
    "not a number": ("predictor: {dropout: .nan}", "predictor.dropout=nan: .*finite number"),
    "infinite": ("curriculum: {predictor_lr: .inf}", "curriculum.predictor_lr=inf: .*finite number"),
    "too large to be finite": ("curriculum: {predictor_lr: 1.0e+999}", "curriculum.predictor_lr=inf: .*finite number"),
    "infinite in a mapping": ("curriculum: {shares: {joint: -.inf}}", "curriculum.shares.joint=-inf: .*finite number"),
    "not a number in a list": ("evaluation: {alarms: {thresholds: [.nan]}}", "evaluation"),
    "larger than a megabyte": ("# " + "x" * 1_000_000, "is larger than 1 MB, which no configuration is; check its path"),
}


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        load_config(path, list(overrides))
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000
    return str(error.value)


@pytest.mark.parametrize(("text", "told"), TEXTS.values(), ids=list(TEXTS))
def test_a_text_that_means_something_else_is_refused_with_its_line(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text, encoding="utf-8")
    pytest.raises(ConfigError, load_config, path).match(f"own.yaml.*{told}")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("source={kind: meds, kind: simulator}", "override source: the value repeats the key 'kind'"),
        ("seed=007", "override seed: the value has an integer that begins with 0"),
        ("seed=1:30", "override seed: the value has a number with a colon"),
        ("name=2045-13-45", "override name: the value has a date"),
        ("name=" + "[" * 3000, "override name: the value is nested over"),
        ("predictor.dropout=.nan", "predictor.dropout=nan: .*finite number"),
        ("a" + ".a" * 3000 + "=1", "no setting lies 3000 sections deep"),
    ],
)
def test_an_override_is_held_to_the_same_rules(tmp_path: Path, override: str, told: str) -> None:
    (tmp_path / "own.yaml").write_text("seed: 1", encoding="utf-8")
    with pytest.raises(ConfigError, match=told):
        load_config(tmp_path / "own.yaml", [override])


def test_plain_numbers_names_and_small_aliases_are_read() -> None:
    text = "a: &a {b: 10, c: -3, d: 1.5}\ne: {<<: *a, b: 0x10}\nf: [*a, *a]\ng: '010'\nh: 0\ni: '2045-01-05'\nj: 0.5\nk: 1_000"
    known = {"b": 10, "c": -3, "d": 1.5}
    wanted = {"a": known, "e": known | {"b": 16}, "f": [known, known], "g": "010", "h": 0, "i": "2045-01-05", "j": 0.5, "k": 1000}
    assert parse_yaml(text) == wanted


def put_loop(path: Path) -> None:
    path.symlink_to(path)


def put_zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


def put_socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the name of a socket has at most 108 bytes
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)


@pytest.mark.parametrize(
    ("put", "told"),
    [
        (put_loop, "own.yaml cannot be read .Too many levels of symbolic links.; check its path"),
        (put_zeros, "own.yaml is no regular file .a socket or a device.; give a YAML file"),
        (put_socket, "own.yaml is no regular file"),
        (put_pipe, "own.yaml is empty"),
        (Path.mkdir, "own.yaml is a folder; give one YAML file of it"),
    ],
)
def test_what_is_no_file_is_told_apart_and_not_waited_for(tmp_path: Path, put, told: str) -> None:
    put(tmp_path / "own.yaml")
    began = time.monotonic()
    pytest.raises(ConfigError, load_config, tmp_path / "own.yaml").match(told)
    (tmp_path / "over.yaml").write_text("extends: own.yaml", encoding="utf-8")
    pytest.raises(ConfigError, load_config, tmp_path / "over.yaml").match(told)
    assert time.monotonic() - began < 5


def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text('extends: "a\\ud800"', encoding="utf-8")
    assert "cannot be the name of a file" in refusal(tmp_path / "own.yaml")


def writing(descriptor: int, pieces: list[bytes]) -> None:
    for piece in pieces:
        time.sleep(0.1)
        os.write(descriptor, piece)
    os.close(descriptor)


def test_a_pipe_of_a_shell_is_read_to_its_end() -> None:
    reader, writer = os.pipe()
    thread = threading.Thread(target=writing, args=(writer, [b"name: from_", b"a_pipe\n", b"source: {kind: simulator}\n"]))
    thread.start()
    config = load_config(f"/dev/fd/{reader}")
    thread.join()
    os.close(reader)
    assert (config.name, config.source.kind) == ("from_a_pipe", "simulator")


def test_a_pipe_that_stays_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_text, "PIPE_SECONDS", 0.2)
    reader, writer = os.pipe()
    assert "is a pipe, and nothing came through it" in refusal(Path(f"/dev/fd/{reader}"))
    os.close(reader)
    os.close(writer)


def test_a_pipe_that_never_ends_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_text, "MOST_BYTES", 1000)
    reader, writer = os.pipe()
    os.write(writer, b"#" * 5000)
    assert "is larger than" in refusal(Path(f"/dev/fd/{reader}"))
    os.close(reader)
    os.close(writer)
