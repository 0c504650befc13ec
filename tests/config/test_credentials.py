"""A credential in any setting, override, file name or address of the environment is refused before anything is written."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, ValidationError
from typer.testing import CliRunner

from clinjepa.config import Config, load_config
from clinjepa.errors import ClinJepaError, ConfigError, StorageError
from clinjepa.storage import Folder
from pipelines.cli import app
from pipelines.show import show
from pipelines.terminal.arguments import run_as_module
from tests.support.machines.cli import ROOT

SIMULATED = str(ROOT / "configs" / "demo_simulator.yaml")
SECRET = "pLaNtEd/s3cret+VALUE"
ADDRESS = f"s3://PLANTEDKEY:{SECRET}@bucket/prefix"


def shows(text: str) -> bool:
    return "PLANTEDKEY" in text or "s3cret" in text


def string_fields(section: type[BaseModel] = Config, path: str = "") -> Iterator[str]:
    """Dotted names of every setting whose type admits a string."""
    for name, info in section.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from string_fields(info.annotation, f"{path}{name}.")
        elif "str" in str(info.annotation) or "Literal" in str(info.annotation):
            yield f"{path}{name}"


def nested(dotted: str, value: Any) -> dict[str, Any]:
    for part in reversed(dotted.split(".")):
        value = {part: value}
    return value


@pytest.mark.parametrize("field", list(string_fields()))
def test_no_setting_takes_a_credential_from_a_file_an_override_or_a_program(field: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    for value in (ADDRESS, [ADDRESS], {ADDRESS: 0.5}):
        file.write_text(yaml.safe_dump({"extends": SIMULATED} | nested(field, value)))
        for attempt in (
            lambda value=value: load_config(SIMULATED, [f"{field}={yaml.safe_dump(value, default_flow_style=True)}"]),
            lambda: load_config(file),
            lambda value=value: Config.model_validate(nested(field, value)),
        ):
            with pytest.raises(ConfigError, match=r"credentials.*environment \(AWS_ACCESS_KEY_ID.*role") as refused:
                attempt()
            assert field in str(refused.value) and not shows(str(refused.value)), str(refused.value)


OVERRIDES = [
    [f"storage={ADDRESS}"],
    [f"source.path=https://user:{SECRET}@host.example/data"],
    ["execution.trackers=[mlflow]", f"execution.tracker_uri=postgresql://user:two words {SECRET}@db/x"],
    [f"encoder.model=https://PLANTEDKEY-{SECRET.replace('/', '')}@hub.example/org/model"],
    [f"no.such.setting={ADDRESS}"],
    [f"{ADDRESS}=1"],
    [ADDRESS],
    [f"storage=https://bucket.example/x?X-Amz-Signature={SECRET}"],
    [f"curriculum.num_steps={ADDRESS}"],
    [f"storage=[1, '{ADDRESS}'"],
    [f"storage=!!set {{'{ADDRESS}'}}"],
    [f"storage=!!binary {b64encode(ADDRESS.encode()).decode()}"],
]
COMMANDS = ["run", "ingest", "pretrain", "grid", "evaluate", "report", "plan", "data audit", "export"]


@pytest.mark.parametrize(
    ("command", "words"), [*(("plan", words) for words in OVERRIDES), *((command, OVERRIDES[0]) for command in COMMANDS)]
)
def test_no_command_says_or_writes_a_credential_of_its_overrides(
    command: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    place = ["out"] if command == "export" else []
    for extra in ([], ["--debug"]):
        done = CliRunner().invoke(app, [*command.split(), SIMULATED, *place, "storage=here", *words, *extra])
        assert done.exit_code == (1 if extra else 2) and "credentials" in done.output, done.output
        assert not shows(done.output) and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words", [["data", "simulate", ADDRESS], ["data", "show", ADDRESS], ["plan", ADDRESS], ["plan", f"https://u:two words {SECRET}@h"]]
)
def test_no_command_takes_an_address_with_a_credential(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2 and "credentials" in done.output and not shows(done.output) and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words",
    [
        ["plan", SIMULATED, f"--password {SECRET}"],
        ["plan", SIMULATED, "--", "--api-token", SECRET],
        ["plan", SIMULATED, "--", "storage=here", "-u", f"zoe:{SECRET}"],
        ["plan", SIMULATED, f"--api-token={SECRET}"],
        ["data", "simulate", "here", "there", ADDRESS],
        ["data", "show", "here", "there", "--", "--password", SECRET],
        [ADDRESS],
        ["data", ADDRESS],
    ],
)
def test_a_stray_argument_with_a_credential_is_not_repeated(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2 and done.output and not shows(done.output) and not list(tmp_path.iterdir())


def test_a_stray_argument_of_a_command_by_itself_is_not_repeated(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["show", "here", "there", ADDRESS])
    with pytest.raises(SystemExit) as ended:
        run_as_module(show, "data show")
    said = capsys.readouterr()
    assert ended.value.code == 2 and "***" in said.err and not shows(said.out + said.err)


def test_an_export_to_an_address_with_a_credential_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["export", SIMULATED, ADDRESS, f"storage={tmp_path}"])
    assert done.exit_code == 2 and "credentials" in done.output and not shows(done.output)


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "RAY_ADDRESS"])
def test_an_address_of_the_environment_with_a_credential_is_refused_by_its_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, f"http://user:{SECRET}@127.0.0.1:9000")
    with pytest.raises(ConfigError, match=f"{name} in the environment holds credentials") as refused:
        load_config(SIMULATED)
    assert not shows(str(refused.value))


def test_an_endpoint_with_a_credential_is_refused_also_where_no_configuration_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://user:{SECRET}@127.0.0.1:9")
    with pytest.raises(StorageError, match="AWS_ENDPOINT_URL in the environment holds credentials") as refused:
        Folder("s3://bucket/x").check_writable()
    assert not shows(str(refused.value))


def test_a_folder_with_a_credential_cannot_be_named() -> None:
    with pytest.raises(StorageError, match="credentials") as refused:
        Folder(ADDRESS)
    assert not shows(str(refused.value))


def test_a_validation_error_of_a_program_repeats_no_value() -> None:
    with pytest.raises(ValidationError) as refused:
        Config.model_validate({"storage": 5, "name": "a b"})
    assert "a b" not in str(refused.value)


def test_ordinary_addresses_are_taken() -> None:
    for storage in ("s3://bucket/runs@2", "abfss://container@account.dfs.core.windows.net/runs"):
        assert load_config(SIMULATED, [f"storage={storage}"]).storage == storage
    assert issubclass(ConfigError, ClinJepaError)
