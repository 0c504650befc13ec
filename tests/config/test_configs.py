"""The configurations of the project load, and what a user can get wrong is answered with the key and the remedy."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from clinjepa.config import Config, apply_overrides, load_config, result_fields, save_config
from clinjepa.config.reference import reference
from clinjepa.config.section import Section
from clinjepa.errors import ConfigError
from pipelines.scheduling.locations import absolute

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "configs").rglob("*.yaml"))
DEMOS = {"demo.yaml": "meds", "demo_cinc2012.yaml": "cinc2012", "demo_cinc2019.yaml": "cinc2019", "demo_simulator.yaml": "simulator"}


def sections(section: type[BaseModel] = Config, name: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    yield name, section
    for field, info in section.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from sections(info.annotation, f"{name}{field}.")


def write(folder: Path, text: str, name: str = "own.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_configuration_of_the_project_loads(path: Path) -> None:
    assert load_config(path).name == path.stem


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_saved_configuration_loads_to_an_equal_one(path: Path, tmp_path: Path) -> None:
    config = load_config(path)
    assert load_config(write(tmp_path, save_config(config))) == config


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_alignment_has_enough_steps_for_its_target_to_arrive(path: Path) -> None:
    curriculum = load_config(path).curriculum
    assert curriculum.shares["alignment"] * curriculum.num_steps * (1 - curriculum.ema_momentum) >= 4


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_header_works_out_the_memory_or_extends_one_that_does(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    header = "".join(line for line in text.splitlines() if line.startswith("#"))
    assert "extends:" in text or ("Memory per" in header and "GB" in header)


@pytest.mark.parametrize(("name", "kind"), DEMOS.items())
def test_demo_has_the_four_recipes_and_its_source(name: str, kind: str) -> None:
    config = load_config(ROOT / "configs" / name)
    assert config.source.kind == kind and config.grid.recipes == ["clin_jepa", "no_alignment", "sft", "untrained"]


def test_demo_encoder_has_enough_parameters_to_learn() -> None:
    encoder = load_config(ROOT / "configs" / "demo.yaml").encoder
    head = encoder.hidden_size // encoder.num_heads
    attention = 2 * encoder.hidden_size * head * (encoder.num_heads + encoder.num_kv_heads)
    assert 300_000 <= encoder.num_layers * (attention + 3 * encoder.hidden_size * encoder.ffn_size) <= 1_000_000


def test_full_size_configuration_has_the_dimensions_of_the_method() -> None:
    config = load_config(ROOT / "configs" / "mimic_iv_qwen3_8b.yaml")
    predictor = (config.predictor.hidden_size, config.predictor.num_layers, config.predictor.num_heads, config.predictor.ffn_size)
    assert predictor == (1024, 6, 8, 4096) and config.predictor.max_hours == 72
    assert (config.encoder.lora.rank, config.encoder.lora.alpha) == (16, 32) and config.curriculum.num_steps == 11776


def test_a_run_of_days_survives_lost_workers_but_neither_a_collapse_nor_endless_restarts() -> None:
    config = load_config(ROOT / "configs" / "mimic_iv_qwen3_8b.yaml")
    assert config.curriculum.stop_on_collapse and 10 <= config.execution.max_worker_failures <= 50


def test_empty_configuration_is_the_defaults(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, "{}")) == Config()


def test_every_field_has_a_default() -> None:
    assert [f"{name}{field}" for name, section in sections() for field, info in section.model_fields.items() if info.is_required()] == []


def test_every_field_and_every_section_says_what_it_is() -> None:
    """Of a nested section its class's docstring is the text."""
    assert [name for name, section in sections() if not section.__doc__ or section.__doc__ == Section.__doc__] == []
    fields = [(f"{name}{field}", info) for name, section in sections() for field, info in section.model_fields.items()]
    nested = {name.rstrip(".") for name, _ in sections()}
    assert [name for name, info in fields if name not in nested and len((info.description or "").split()) < 2] == []


def test_documentation_lists_every_field_with_its_default() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert page == reference(), "docs/configuration.md is behind the schema: python -m clinjepa.config.reference > docs/configuration.md"


def test_types_are_written_as_words_and_not_as_pythons_own_form() -> None:
    page = reference()
    assert "| `files` | map of str to LabelFileConfig |" in page and "| `shares` | map of str to float |" in page
    assert not [line for line in page.splitlines() if any(words in line for words in ("Annotated", "FieldInfo", "dict[", "metadata"))]


def test_unknown_key_is_refused_with_the_nearest_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'curriculum\.num_step'; did you mean 'num_steps'"):
        load_config(write(tmp_path, "curriculum: {num_step: 5}"))


def test_unknown_key_without_a_near_one_is_answered_with_the_allowed_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'text\.zzz'; allowed: .*max_decimals"):
        load_config(write(tmp_path, "text: {zzz: 5}"))


def test_unknown_key_in_an_override_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'execution\.num_worker'"):
        load_config(write(tmp_path, "{}"), ["execution.num_worker=3"])


def test_every_fault_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"windows\.stride_hours=0.*curriculum\.ema_momentum=2"):
        load_config(write(tmp_path, "windows: {stride_hours: 0}\ncurriculum: {ema_momentum: 2}"))


def test_overrides_are_yaml_values() -> None:
    raw = apply_overrides({"a": {"b": 1}}, ["a.b=2", "a.c=[6, 12]", "d.e=null", "f=true", "g=s3://bucket/x=y"])
    assert raw == {"a": {"b": 2, "c": [6, 12]}, "d": {"e": None}, "f": True, "g": "s3://bucket/x=y"}


def test_override_wins_over_the_file(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, "curriculum: {num_steps: 50}"), ["curriculum.num_steps=60"]).curriculum.num_steps == 60


@pytest.mark.parametrize("override", ["num_steps", "=5", ""])
def test_override_that_is_no_pair_is_refused(tmp_path: Path, override: str) -> None:
    with pytest.raises(ConfigError, match="is not key=value"):
        load_config(write(tmp_path, "{}"), [override])


def test_an_override_in_letters_that_the_locale_cannot_read_says_which_locale_can() -> None:
    with pytest.raises(ConfigError, match="override storage: .* set LC_ALL=C.UTF-8"):
        apply_overrides({}, ["storage=" + os.fsencode("größe").decode("ascii", "surrogateescape")])


def test_override_below_a_single_value_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name is a single value"):
        load_config(write(tmp_path, "name: x"), ["name.first=5"])


def test_extending_file_changes_only_what_it_names(tmp_path: Path) -> None:
    write(tmp_path, "curriculum: {num_steps: 50, global_batch: 4}\ngrid: {recipes: [sft, untrained]}", "base.yaml")
    config = load_config(write(tmp_path, "extends: base.yaml\ncurriculum: {num_steps: 70}\ngrid: {recipes: [sft]}"))
    assert (config.curriculum.num_steps, config.curriculum.global_batch, config.grid.recipes) == (70, 4, ["sft"])


def test_files_that_extend_each_other_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "extends: b.yaml", "a.yaml")
    with pytest.raises(ConfigError, match="circle"):
        load_config(write(tmp_path, "extends: a.yaml", "b.yaml"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [1", "line .* is not valid YAML"),
        ("- 1\n- 2", "expected a mapping"),
        ("# later", "is empty"),
        ("source: {kind: meds}", "source.path is needed"),
    ],
)
def test_file_that_cannot_be_a_configuration_is_told_apart(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        load_config(write(tmp_path, text))


@pytest.mark.parametrize(
    ("factor", "told"),
    [("1", "leaves every dose as it is"), ("1.0", "leaves every dose as it is"), ("0", "dose_factor"), ("-2", "dose_factor")],
)
def test_a_factor_that_changes_no_dose_is_refused(tmp_path: Path, factor: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        load_config(write(tmp_path, "{}"), [f"evaluation.drift.dose_factor={factor}"])


def test_other_doses_are_measured_where_the_claims_are_judged_on_data_with_drugs() -> None:
    """The challenges record no drugs, and the demos stay as they are."""
    measured = {path.name for path in FILES if load_config(path).evaluation.drift.dose_factor is not None}
    assert measured == {"mimic_iv_qwen3_8b.yaml", "rehearsal_qwen3_8b.yaml"}


def tarred(form: int) -> bytes:
    """A tar archive of one configuration."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=form) as archive:
        member = tarfile.TarInfo("mine.yaml")
        member.size = 9
        archive.addfile(member, io.BytesIO(b"name: run"))
    return written.getvalue()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("name: run".encode("utf-16"), "looks like UTF-16"),
        ("name: run".encode("utf-16-le"), "looks like UTF-16"),
        (gzip.compress(b"name: run", mtime=0), "is a compressed file; unpack it"),
        (lzma.compress(b"name: run"), "is a compressed file; unpack it"),
        (lzma.compress(b"name: run", lzma.FORMAT_ALONE), "is a compressed file; unpack it"),
        (b"7z\xbc\xaf\x27\x1c\0\4" + bytes(40), "is a compressed file; unpack it"),
        (b"\x04\x22\x4d\x18\x60\x70" + bytes(30), "is a compressed file; unpack it"),
        (tarred(tarfile.USTAR_FORMAT), "is a tar archive; unpack it"),
        (tarred(tarfile.GNU_FORMAT), "is a tar archive; unpack it"),
        (tarred(tarfile.PAX_FORMAT), "is a tar archive; unpack it"),
        (tarred(tarfile.USTAR_FORMAT).replace(b"ustar\x0000", bytes(8)), "line 1 has a zero byte"),
        (bytes(300), "line 1 has a zero byte"),
        ("name: é run ünd".encode("utf-16-be"), "looks like UTF-16"),
        (b"name: run\nstorage: a\0b # and text enough that most of it is not a zero byte", "line 2 has a zero byte"),
        (b"name: run\n# caf\xe9", "line 2 is not UTF-8"),
        (b"storage: ~", "storage is null: YAML reads a bare ~"),
        (b"storage:", "storage is null"),
    ],
)
def test_a_file_in_another_encoding_and_a_bare_tilde_are_named(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=told):
        load_config(path)


@pytest.mark.parametrize("address", ["https://host.example/results", "HTTP://host.example"])
def test_a_web_address_is_no_storage(address: str) -> None:
    with pytest.raises(ConfigError, match="storage: a web address .* cannot be written to"):
        load_config(ROOT / "configs/demo_simulator.yaml", [f"storage={address}"])


def test_a_configuration_of_another_machine_is_refused(tmp_path: Path) -> None:
    for text in ("s3://bucket/mine.yaml", write(tmp_path, "extends: s3://bucket/mine.yaml")):
        with pytest.raises(ConfigError, match="s3://bucket/mine.yaml: a configuration is read from a file of this machine"):
            load_config(text)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.yaml: no such configuration file"):
        load_config(tmp_path / "gone.yaml")


EXECUTION = [
    "name=other",
    "storage=s3://elsewhere/x",
    "source.path=/somewhere/else",
    "encoder.allow_download=true",
    "curriculum.checkpoint_every_steps=7",
    "grid.max_concurrent_trials=1",
    "execution.num_workers=5",
    "execution.use_gpu=true",
]
RESULT = [
    "source.max_stays=10",
    "source.simulator.seed=1",
    "cohort.min_age_years=16",
    "split.seed=1",
    "text.max_decimals=1",
    "encoder.lora.rank=4",
    "encoder.token_budget=512",
    "curriculum.num_steps=20",
    "curriculum.micro_batch=2",
    "evaluation.downstream.probe.max_epochs=3",
]


@pytest.mark.parametrize("override", EXECUTION)
def test_where_and_how_it_runs_enters_no_key(tmp_path: Path, override: str) -> None:
    path = write(tmp_path, "{}")
    assert result_fields(load_config(path, [override])) == result_fields(load_config(path))


@pytest.mark.parametrize("override", RESULT)
def test_what_changes_results_enters_the_key(tmp_path: Path, override: str) -> None:
    path = write(tmp_path, "{}")
    assert result_fields(load_config(path, [override])) != result_fields(load_config(path))


def test_relative_addresses_are_made_absolute_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = absolute(load_config(ROOT / "configs/demo.yaml"))
    assert config.storage == str(tmp_path / "output")
    assert config.source.path == str(tmp_path / "data/mimic-iv-demo-meds")
    remote = absolute(load_config(ROOT / "configs/demo.yaml", ["storage=s3://bucket/x", "source.path=s3://bucket/y"]))
    assert (remote.storage, remote.source.path) == ("s3://bucket/x", "s3://bucket/y")


@pytest.mark.parametrize("override", ["grid.seeds=[]", "grid.recipes=[]", "name=../../elsewhere", "name=a/b", "name="])
def test_what_would_run_nothing_or_write_elsewhere_is_refused(override: str) -> None:
    with pytest.raises(ConfigError, match=override.split("=")[0]):
        load_config(ROOT / "configs/demo_simulator.yaml", [override])


@pytest.mark.parametrize(("given", "least", "most", "words"), [("8", 8, 8, "8"), ("[2, 8]", 2, 8, "2 to 8")])
def test_workers_are_a_number_or_a_range(given: str, least: int, most: int, words: str) -> None:
    execution = load_config(ROOT / "configs/mimic_iv_qwen3_8b.yaml", [f"execution.num_workers={given}"]).execution
    assert (execution.min_workers, execution.max_workers, execution.workers_in_words) == (least, most, words)


@pytest.mark.parametrize(("given", "says"), [("[8, 2]", "minimum above its"), ("[0, 2]", "below 1 worker"), ("0", "below 1 worker")])
def test_workers_that_cannot_be_are_refused(given: str, says: str) -> None:
    with pytest.raises(ConfigError, match=f"execution.num_workers.*{says}"):
        load_config(ROOT / "configs/demo_simulator.yaml", [f"execution.num_workers={given}"])
