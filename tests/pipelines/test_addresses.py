"""Where a path ends that a shell did not expand: the home folder, a plain folder, or a refusal; never a folder called `~` or `file:`."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from clinjepa.addresses import plain_address
from clinjepa.config import load_config
from clinjepa.errors import ConfigError, StorageError
from clinjepa.storage import Folder
from pipelines.cli import app
from pipelines.scheduling.locations import absolute
from tests.support.machines.cli import ROOT

SIMULATED = ROOT / "configs" / "demo_simulator.yaml"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder, and an empty working folder beside it in which nothing may appear."""
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


@pytest.mark.parametrize(
    "written", ["~/a b", "file:~/a b", "file://~/a b", "FILE:{home}/a b", "file://localhost{home}/a%20b", " {home}/a b\t"]
)
def test_every_way_to_write_a_folder_of_the_home_means_that_folder(home: Path, written: str) -> None:
    address = written.format(home=home)
    Folder(address).write_bytes("x", b"1")
    assert (home / "a b" / "x").read_bytes() == b"1" and list((home.parent / "work").iterdir()) == []


@pytest.mark.parametrize("field", ["storage", "source.path", "encoder.model", "execution.tracker_uri"])
def test_every_path_of_a_configuration_may_begin_with_a_tilde_or_file(home: Path, field: str) -> None:
    section, _, name = field.rpartition(".")
    for written in ("~/data", f"file:{home}/data", f"file://{home}/data"):
        config = absolute(load_config(SIMULATED, [f"{field}={written}"]))
        found = getattr(getattr(config, section) if section else config, name)
        is_uri = field == "execution.tracker_uri" and written.startswith("file:")
        assert found == ((home / "data").as_uri() if is_uri else str(home / "data"))


def test_a_configuration_file_may_lie_in_the_home_and_extend_another_there(home: Path) -> None:
    (home / "base.yaml").write_text("storage: ~/out\n")
    (home / "mine.yaml").write_text("extends: ~/base.yaml\n")
    assert load_config("~/mine.yaml").storage == load_config(f"file:{home}/mine.yaml").storage == str(home / "out")


def test_every_path_of_a_command_line_may_begin_with_a_tilde(home: Path) -> None:
    simulated = CliRunner().invoke(app, ["data", "simulate", "~/tables", "--patients", "4", "--workers", "1"])
    assert simulated.exit_code == 0 and (home / "tables" / "icu").is_dir(), simulated.output
    assert f"source.path={home}/tables" in simulated.stdout.replace("\n", "")
    refused = CliRunner().invoke(app, ["data", "show", "~/nothing"])
    assert refused.exit_code == 2 and str(home) in refused.output, refused.output
    assert list((home.parent / "work").iterdir()) == []


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("~nobody-of-this-name/x", "knows no such home folder"),
        ("file:x", "absolute"),
        ("file://host/x", "three"),
        ("s3:/bucket/x", "two slashes"),
        ("s3:bucket", "two slashes"),
        ("s3//bucket/x", "colon is missing"),
        ("s3://", "a bucket"),
        ("dbfs:/mnt/x", "no kind of storage"),
        ("file::/x", "no kind of storage|absolute"),
        ("C:/x", "Windows"),
        ("--help", "option"),
        ('""', "empty"),
        ("$HOME/results", "environment variables"),
        ("s3://${BUCKET}/x", "environment variables"),
        ('"/a\\nb"', "line break"),
    ],
)
@pytest.mark.parametrize("field", ["storage", "source.path", "encoder.model"])
def test_what_can_mean_no_folder_is_refused_with_the_name_of_the_setting(home: Path, field: str, written: str, words: str) -> None:
    with pytest.raises(ConfigError, match=f"{field}: .*{words}") as raised:
        load_config(SIMULATED, [f"{field}={written}"])
    assert "\n" not in str(raised.value)


def test_a_refused_address_is_not_repeated_since_it_may_hold_a_password(home: Path) -> None:
    for written in ("s3:/KEY:hunter2@bucket", "file://u:hunter2@host/x", "https://u:hunter2@host/$X"):
        with pytest.raises(ConfigError) as raised:
            load_config(SIMULATED, [f"storage={written}"])
        assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("address", ["s3://b/~/x", "/a/~x", "./~", "a:b/c", "zip::s3://b/x", "memory://x", "Qwen/Qwen3-8B", "./$x"])
def test_other_addresses_stay_as_they_are(address: str) -> None:
    assert plain_address(address) == address


@pytest.mark.parametrize("address", [r"C:\\x", r"\\\\host\\share"])
def test_a_windows_path_is_no_folder_below_the_working_folder(address: str) -> None:
    with pytest.raises(ConfigError, match="Windows"):
        plain_address(address.replace("\\\\", "\\"))


@pytest.mark.parametrize("address", ["zip::s3://nothing-of-this-name/x.zip", "zip:///nothing-of-this-name.zip"])
def test_an_address_that_fsspec_cannot_open_is_one_line(address: str) -> None:
    with pytest.raises(StorageError, match="use a folder or s3://bucket/prefix"):
        Folder(address).exists("x")


def test_a_scheme_is_read_in_any_case() -> None:
    assert plain_address("S3://Bucket/Prefix") == "s3://Bucket/Prefix"
