"""An export loads elsewhere, says what it is, and holds nothing it should not."""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from clinjepa.config.schema import SourceConfig
from clinjepa.errors import CheckpointError, ConfigError, StoreError
from clinjepa.export.folder import check_export
from clinjepa.export.serving_facts import read_serving_facts
from clinjepa.model import Predictor, TextEncoder, encode_texts, rollout
from clinjepa.model.predictor import PREDICTOR_ENCODER
from clinjepa.model.pretrained.identity import encoder_digest
from clinjepa.model.tensor_files import write_tensors
from clinjepa.report.document import build_report
from clinjepa.storage import Folder
from pipelines.results.fitted_export import map_file
from pipelines.results.model_export import export_model as export
from tests.support.data.report_results import results
from tests.support.machines.cli import ROOT, python_without
from tests.support.machines.permissions import open_to_others
from tests.support.training.finished_training import TEXTS, FinishedTraining, small_config
from tests.support.training.served_export import ServedExport

ABSENT = ("ray", "pydantic", "polars", "pandas", "pyarrow")
TOLERANCE = {"rtol": 0.0, "atol": 1e-6}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> FinishedTraining:
    """LoRA on a base made here."""
    return FinishedTraining(small_config(tmp_path_factory.mktemp("storage")))


@pytest.fixture(scope="module")
def exported(finished: FinishedTraining, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "model"
    export(finished.config, str(folder))
    return folder


def own_latents(finished: FinishedTraining, texts: list[str]) -> torch.Tensor:
    """As the project's embedding stage computes them."""
    from clinjepa.trajectory.tokens.tokenizer import load_tokenizer

    ids = [np.asarray(tokens) for tokens in load_tokenizer(finished.trajectories).encode(texts)]
    return encode_texts(finished.encoder, ids, finished.config.encoder.token_budget)


def lines_of(markdown: str) -> str:
    found = re.search(r"```python\n(.*?)```", markdown, re.DOTALL)
    assert found, "the card shows no Python"
    return found[1]


def test_the_lines_of_the_card_give_the_projects_own_latents_and_forecast_without_ray(finished: FinishedTraining, exported: Path) -> None:
    lines = lines_of((exported / "README.md").read_text())
    assert len([line for line in lines.splitlines() if line]) <= 10
    dump = "\nimport json\nprint(json.dumps([[static, *states, *actions], z.tolist(), next_hour.tolist()]))"
    done = python_without(ABSENT, lines + dump, cwd=exported)
    assert done.returncode == 0, done.stderr[-3000:]
    texts, z, next_hour = json.loads(done.stdout.splitlines()[-1])
    expected = own_latents(finished, texts)
    torch.testing.assert_close(torch.tensor(z), expected, **TOLERANCE)
    with torch.no_grad():
        predicted, _ = rollout(finished.predictor, expected[:1], expected[None, 1:4], expected[None, 4:], 3, 1)
    torch.testing.assert_close(torch.tensor(next_hour), predicted, **TOLERANCE)


def test_the_documentation_shows_the_lines_of_the_card(exported: Path) -> None:
    assert lines_of((exported / "README.md").read_text()) == lines_of((ROOT / "docs" / "export.md").read_text())


def test_each_lora_element_is_in_its_place_after_saving_exporting_and_loading_with_peft(tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    finished = FinishedTraining(small_config(tmp_path / "storage"))
    coded = {}
    for number, (name, tensor) in enumerate(sorted(finished.encoder.online_state().items())):
        rank_axis = 0 if ".lora_A." in name else 1
        rank, place = torch.meshgrid(*(torch.arange(size) for size in tensor.shape), indexing="ij")
        rank, place = (rank, place) if rank_axis == 0 else (place, rank)
        coded[name] = (number * 100_000 + rank * 1_000 + place).float()  # whole numbers below 2**24: exact in fp32
    finished.encoder.load_online(coded)
    write_tensors(finished.encoder_folder, "online.safetensors", finished.encoder.online_state())
    finished._publish(finished.trial.embed.inputs["encoder"])
    export(finished.config, str(tmp_path / "model"))

    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "model/base"), str(tmp_path / "model/encoder"))
    found = {name.replace(".default.", "."): parameter for name, parameter in loaded.named_parameters() if ".lora_" in name}
    assert found.keys() == coded.keys() and len(coded) == 8
    for name, value in coded.items():
        assert torch.equal(found[name].detach(), value), name


def test_a_predictor_of_another_encoder_is_not_exported_with_it(tmp_path: Path) -> None:
    finished = FinishedTraining(small_config(tmp_path / "storage"))
    digest = encoder_digest(finished.base, finished.encoder_folder)
    finished._artifact(finished.predictor_stage).write_json(PREDICTOR_ENCODER, {"encoder_digest": digest})
    finished._publish(finished.predictor_stage)
    export(finished.config, str(tmp_path / "model"))
    made_again = {name: tensor + 1e-7 for name, tensor in finished.encoder.online_state().items()}
    write_tensors(finished.encoder_folder, "online.safetensors", made_again)
    finished._publish(finished.trial.embed.inputs["encoder"])
    with pytest.raises(StoreError, match="trained in the space of another encoder"):
        export(finished.config, str(tmp_path / "other"))
    assert not (tmp_path / "other").exists()


def test_plain_peft_gives_the_same_latents(finished: FinishedTraining, exported: Path) -> None:
    from peft import PeftModel
    from tokenizers import Tokenizer
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(exported / "base", dtype=torch.float32)
    model = PeftModel.from_pretrained(base, str(exported / "encoder")).eval()
    tokenizer = Tokenizer.from_file(str(exported / "tokenizer/tokenizer.json"))
    with torch.no_grad():
        z = [model.get_base_model().model(torch.tensor([tokenizer.encode(text).ids])).last_hidden_state[0, -1] for text in TEXTS]
    torch.testing.assert_close(torch.stack(z), own_latents(finished, TEXTS), rtol=0.0, atol=1e-5)


def test_a_public_base_is_named_with_its_revision_and_never_copied(tmp_path: Path) -> None:
    model = tmp_path / "Qwen3-tiny"
    config = small_config(tmp_path / "storage", "encoder.init=pretrained", f"encoder.model={model}", "encoder.revision=abc123")
    finished = FinishedTraining(config)
    export(config, str(tmp_path / "model"))
    described = json.loads((tmp_path / "model/encoder/encoder.json").read_text())
    assert described["base"] == {"model": "Qwen3-tiny", "revision": "abc123", "local": True}
    tensors = {path.relative_to(tmp_path / "model").as_posix() for path in (tmp_path / "model").rglob("*.safetensors")}
    assert tensors == {"encoder/adapter_model.safetensors", "predictor/predictor.safetensors"}
    assert all(".lora_" in name for name in load_file(tmp_path / "model/encoder/adapter_model.safetensors"))
    with pytest.raises(ConfigError, match="base=<that folder>"):
        TextEncoder.from_pretrained(tmp_path / "model/encoder")
    encoder = TextEncoder.from_pretrained(tmp_path / "model/encoder", base=model)
    torch.testing.assert_close(encoder(TEXTS), own_latents(finished, TEXTS), **TOLERANCE)


@pytest.mark.parametrize(("recipe", "override"), [("clin_jepa", "encoder.adaptation=full"), ("sft", "encoder.append_eos=true")])
def test_weights_without_adapters_are_a_whole_hugging_face_model(tmp_path: Path, recipe: str, override: str) -> None:
    config = small_config(tmp_path / "storage", override, f"grid.recipes=[{recipe}]", "encoder.latent_from=pre_norm")
    finished = FinishedTraining(config, recipe)
    export(config, str(tmp_path / "model"))
    assert {path.name for path in (tmp_path / "model/encoder").iterdir()} == {"config.json", "model.safetensors", "encoder.json"}
    encoder = TextEncoder.from_pretrained(tmp_path / "model/encoder")
    torch.testing.assert_close(encoder(TEXTS), own_latents(finished, TEXTS), **TOLERANCE)


def test_a_text_longer_than_the_limit_is_cut_as_the_store_cuts_it(exported: Path) -> None:
    encoder = TextEncoder.from_pretrained(exported / "encoder")
    encoder.max_tokens = 5
    ids = encoder.tokenizer.encode(TEXTS[1], add_special_tokens=False).ids[:5]
    shortened = encode_texts(encoder.encoder, [np.asarray(ids)], 512)
    assert torch.equal(encoder([TEXTS[1]]), shortened)


def test_the_manifest_names_every_file_with_its_digest(exported: Path) -> None:
    manifest = check_export(Folder(exported))
    there = {path.relative_to(exported).as_posix() for path in exported.rglob("*") if path.is_file()}
    assert {entry["path"] for entry in manifest["files"]} == there - {"export.json"}
    assert {"README.md", "encoder/adapter_config.json", "predictor/predictor.json", "tokenizer/tokenizer.json"} <= there


def test_an_altered_file_of_an_export_is_found(finished: FinishedTraining, tmp_path: Path) -> None:
    export(finished.config, str(tmp_path))
    (tmp_path / "encoder/encoder.json").write_text("{}")
    with pytest.raises(StoreError, match=r"encoder/encoder\.json is missing or was altered"):
        check_export(Folder(tmp_path))


def test_no_file_names_the_storage_it_came_from(finished: FinishedTraining, exported: Path) -> None:
    for path in exported.rglob("*"):
        assert path.is_dir() or finished.storage.address.encode() not in path.read_bytes(), path.name


def test_the_same_training_exports_the_same_bytes(finished: FinishedTraining, exported: Path, tmp_path: Path) -> None:
    export(finished.config, str(tmp_path))
    digests = [{entry["path"]: entry["sha256"] for entry in check_export(Folder(folder))["files"]} for folder in (exported, tmp_path)]
    assert digests[0] == digests[1]


def test_the_card_of_simulated_patients_says_so_and_has_no_figures_without_a_report(exported: Path) -> None:
    card = (exported / "README.md").read_text()
    assert "simulated patients" in card and "None: the run has no report yet" in card
    assert "clin_jepa" in card and "60 stays of 55 patients" in card


def test_the_card_has_the_figures_of_the_report_of_these_weights_and_of_no_others(finished: FinishedTraining, tmp_path: Path) -> None:
    run = finished.storage / "runs/small"
    artifacts = {stage.label: f"{stage.kind}/{stage.key}" for stage in finished.trial.stages}
    run.write_json("run.json", {"trials": [{"recipe": "clin_jepa", "seed": 0, "artifacts": artifacts}]})
    tables = {task: {f"{name} · linear": columns for name, columns in methods.items()} for task, methods in results()["downstream"].items()}
    run.write_json("report.json", build_report(results() | {"downstream": tables}))
    try:
        export(finished.config, str(tmp_path / "same"))
        card = (tmp_path / "same/README.md").read_text()
        assert "| round trip: linear R² of an hour's values from its latent | 0.41, 118 patients, 1 seed |" in card
        assert "| AUROC in_hospital_death, history only, linear probe | 0.8 (0.74 to 0.86), 118 patients, 1 seed |" in card
        assert "not estimated: 3 positive patients in the held-out part, 10 are needed" in card
        run.write_json("run.json", {"trials": [{"recipe": "clin_jepa", "seed": 0, "artifacts": {"drift": "drift/0"}}]})
        export(finished.config, str(tmp_path / "other"))
        assert "None: the report of the run is about another configuration." in (tmp_path / "other/README.md").read_text()
    finally:
        run.remove()


def test_data_of_unknown_terms_count_as_credentialed(finished: FinishedTraining, tmp_path: Path) -> None:
    finished.trajectories.write_json("data_card.json", {"num_stays": 60, "num_patients": 55, "access": "credentialed"})
    try:
        assert export(finished.config, str(tmp_path))["access"] == "credentialed"
        assert "do not publish or pass on this folder" in (tmp_path / "README.md").read_text()
    finally:
        finished.trajectories.write_json("data_card.json", {"num_stays": 60, "num_patients": 55})


def test_an_export_that_may_be_shared_follows_the_umask_and_one_that_may_not_is_for_its_owner_only(
    finished: FinishedTraining, tmp_path: Path
) -> None:
    before = os.umask(0o022)
    try:
        export(finished.config, str(tmp_path / "open"))
        finished.trajectories.write_json("data_card.json", {"num_stays": 60, "num_patients": 55, "access": "credentialed"})
        export(finished.config, str(tmp_path / "closed"))
    finally:
        finished.trajectories.write_json("data_card.json", {"num_stays": 60, "num_patients": 55})
        os.umask(before)
    modes = {path.is_dir(): stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "open").rglob("*")}
    assert modes == {True: 0o755, False: 0o644}
    assert open_to_others(tmp_path / "closed") == []


def test_an_earlier_export_of_the_same_run_is_written_anew(finished: FinishedTraining, tmp_path: Path) -> None:
    export(finished.config, str(tmp_path))
    (tmp_path / "export.json").unlink()
    (tmp_path / "export.unfinished.json").write_text(json.dumps({"run": "small", "recipe": "clin_jepa", "seed": 0}))
    (tmp_path / "encoder/left_over.json").write_text("{}")
    export(finished.config, str(tmp_path))
    assert not (tmp_path / "encoder/left_over.json").exists() and not (tmp_path / "export.unfinished.json").exists()


def test_a_folder_with_something_else_is_left_as_it_is(finished: FinishedTraining, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(StoreError, match="holds 1 entry of no export"):
        export(finished.config, str(tmp_path))
    assert (tmp_path / "README.md").read_text() == "mine"


def test_the_export_of_another_run_is_left_as_it_is(finished: FinishedTraining, tmp_path: Path) -> None:
    export(finished.config, str(tmp_path))
    with pytest.raises(StoreError, match="holds another export"):
        export(finished.config.model_copy(update={"name": "other"}), str(tmp_path))
    check_export(Folder(tmp_path))


@pytest.mark.parametrize(("recipe", "seed"), [("clinjepa", None), (None, 7)])
def test_an_unknown_recipe_or_seed_is_refused_with_those_there_are(
    finished: FinishedTraining, tmp_path: Path, recipe: str, seed: int
) -> None:
    with pytest.raises(ConfigError, match="its recipes are clin_jepa, no_alignment, its seeds 0"):
        export(finished.config, str(tmp_path / "model"), recipe, seed)


def test_what_is_not_trained_yet_is_named_and_nothing_is_written(finished: FinishedTraining, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="nothing to export yet: no_alignment, seed 0 of small lacks finalization · no_alignment"):
        export(finished.config, str(tmp_path / "model"), "no_alignment")
    assert not (tmp_path / "model").exists()


def test_altered_weights_are_not_exported(tmp_path: Path) -> None:
    finished = FinishedTraining(small_config(tmp_path / "storage"))
    path = Path(finished.encoder_folder.path("online.safetensors"))
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(StoreError, match=r"online\.safetensors was altered"):
        export(finished.config, str(tmp_path / "model"))


def test_a_remote_storage_is_exported_to_a_remote_folder() -> None:
    finished = FinishedTraining(small_config("memory://export-test/storage"))
    export(finished.config, "memory://export-test/model")
    assert check_export(Folder("memory://export-test/model"))["base"] == {"folder": "../base"}


def test_a_predictor_folder_that_was_cut_is_refused(exported: Path, tmp_path: Path) -> None:
    for name in ("predictor.json", "predictor.safetensors"):
        (tmp_path / name).write_bytes((exported / "predictor" / name).read_bytes())
    (tmp_path / "predictor.safetensors").write_bytes((tmp_path / "predictor.safetensors").read_bytes()[:-40])
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        Predictor.from_pretrained(tmp_path)


def test_another_tokenizer_than_the_trained_one_is_refused(finished: FinishedTraining, tmp_path: Path) -> None:
    from clinjepa.trajectory.tokens.tokenizer import train_tokenizer

    export(finished.config, str(tmp_path))
    train_tokenizer(TEXTS * 2, 280).save(Folder(tmp_path / "tokenizer"))
    with pytest.raises(CheckpointError, match="tokenizer is not the one"):
        TextEncoder.from_pretrained(tmp_path / "encoder")


def test_fitted_parts_load_as_the_documentation_shows_without_ray_or_tables(tmp_path: Path) -> None:
    made = ServedExport(tmp_path)
    lines = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "export.md").read_text(), re.DOTALL)
    assert len(lines) == 2
    dump = "\nimport json\nprint(json.dumps([values, len(weights), [float(p(probe_z)[0]) for p in weights.values()]]))"
    start = "\nimport numpy\nprobe_z = numpy.ones((1, predictor.spec.hidden_size), 'float32')"
    done = python_without(ABSENT, lines[0] + lines[1] + start + dump, cwd=made.folder)
    assert done.returncode == 0, done.stderr[-3000:]
    values, number, scores = json.loads(done.stdout.splitlines()[-1])
    assert set(values) == {"heart_rate", "map"} and number == 3
    z = np.ones((1, made.predictor.spec.hidden_size), np.float32)
    assert scores == [float(made.probes.tasks[name].probes["history_only", "linear"](z)[0]) for name in made.probes.tasks]


def test_an_export_has_what_finished_evaluations_fitted_and_no_more(finished: FinishedTraining, exported: Path, tmp_path: Path) -> None:
    assert not any((exported / name).exists() for name in ("probes", "forecaster", "serving.json"))
    made = ServedExport(tmp_path)
    facts = read_serving_facts(made.folder)
    ingest = made.finished.trial.data.ingest.settings
    assert (facts.text, facts.cohort, facts.definitions) == (ingest["text"], ingest["cohort"], ingest["definitions"])
    assert [task.name for task in facts.tasks] == list(made.probes.tasks) and "hypotension_8h" in facts.event_tasks
    assert facts.encoder_digest == encoder_digest(made.finished.base, made.finished.encoder_folder)
    assert {"probes", "forecaster"} <= json.loads((made.folder / "export.json").read_text())["stages"].keys()
    card = (made.folder / "README.md").read_text()
    assert "`probes/` gives" in card and "`forecaster/` gives" in card and "`probes/`" not in (exported / "README.md").read_text()
    stage = made.finished.trial.evaluations["forecasts"]
    made.finished._artifact(stage).remove("manifest.json")
    export(made.config, str(made.folder))
    assert not (made.folder / "forecaster").exists() and (made.folder / "probes").exists()
    assert read_serving_facts(made.folder).event_tasks == ()
    altered = made.finished._artifact(made.finished.trial.evaluations["downstream"])
    altered.write_bytes("probes.json", b"{}" + b" " * (altered.size("probes.json") - 2))
    with pytest.raises(StoreError, match="probes.json"):
        export(made.config, str(tmp_path / "other"))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ({"kind": "meds"}, "maps/mimic_iv.yaml"),
        ({"kind": "meds", "map": "openicu"}, "maps/codes/openicu.yaml"),
        ({"kind": "meds", "map": "/home/someone/hospital.yaml"}, "own"),
        ({"kind": "mimic_iv"}, "maps/mimic_iv.yaml"),
        ({"kind": "cinc2012"}, "maps/cinc2012.yaml"),
        ({"kind": "simulator"}, None),
    ],
)
def test_the_description_of_serving_says_by_which_map_the_run_reads_its_source(source: dict[str, str], expected: str | None) -> None:
    assert map_file(SourceConfig.model_validate({"path": "x"} | source)) == expected


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not valid JSON"),
        (b"[]", "schema version None"),
        (b'{"schema_version": 9}', "schema version 9"),
        (b'{"schema_version": 1}', "schema version 1, this clinjepa reads 2"),
        (b'{"schema_version": 2}', "altered"),
    ],
)
def test_a_damaged_description_of_serving_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "serving.json").write_bytes(content)
    with pytest.raises(StoreError, match=said):
        read_serving_facts(tmp_path)
