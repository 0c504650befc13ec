"""A finished run continued on other patients: what it starts from, what is refused, and what it does to the first patients."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from clinjepa.config import Config
from clinjepa.config.schema import SourceConfig
from clinjepa.curriculum.recipes import load_recipe, run_order
from clinjepa.errors import ConfigError, StoreError
from clinjepa.model.tensor_files import read_tensors
from clinjepa.storage import Folder
from pipelines.graph.artifacts import RESULT
from pipelines.graph.experiment import Experiment, build_experiment
from pipelines.graph.saved_run import open_saved_run, read_start
from pipelines.graph.scoring import scoring_config, scoring_experiment
from pipelines.results.grid_costs import costly_stages
from pipelines.results.run_report import write_report
from pipelines.stages import data
from tests.pipelines.graph.test_golden_results import Stays, tiny_config
from tests.pipelines.results.test_scoring import Finished, OtherStays
from tests.support.training.stages_in_process import without_ray

STILL = 1e-30
"""A learning rate that changes no float32."""


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        without_ray(patch)
        patch.setattr(data, "open_source", lambda config: OtherStays() if config.name == "elsewhere" else Stays())
        yield Finished(tmp_path_factory.mktemp("storage"))


def continuing(first: Finished, **sections: Any) -> Config:
    """The tiny experiment that continues the first run on other patients."""
    raw = tiny_config(first.config.storage).model_dump(mode="json")
    raw["init_from"] = {"run": f"{first.config.storage}/runs/{first.config.name}"}
    raw |= {"name": "second", "source": raw["source"] | {"name": "elsewhere"}}
    raw["grid"]["recipes"] = ["continued"]
    for name, changes in sections.items():
        raw[name] = {**raw[name], **changes} if isinstance(raw[name], dict) else changes
    return Config.model_validate(raw)


def built(config: Config) -> Experiment:
    return build_experiment(config, "other content", start=read_start(config))


def test_it_starts_from_the_encoder_predictor_and_tokenizer_of_the_run(first: Finished) -> None:
    before, (trial,) = first.run.trials[0], built(continuing(first)).trials
    joint = trial.phases[0]
    assert joint.inputs["encoder"].key == before.final_encoder.key and joint.inputs["predictor"].key == before.phases[-1].key
    assert trial.data.tokenizer.key == before.data.tokenizer.key and joint.inputs["base"].key == before.embed.inputs["base"].key
    stores = [each for each in run_order(load_recipe("continued")) if isinstance(each, str)]
    made = [stage.kind for stage in trial.stages if stage.key not in {each.key for each in before.stages}]
    assert made.count("embed") == len(stores) and {"sft", "base", "tokenizer"}.isdisjoint(made)
    theirs = {stage.label for stage in trial.stages if stage.key in {each.key for each in before.stages}}
    assert theirs and all(label.endswith(f" · {first.config.name}") for label in theirs)  # beside stages of the same names


def test_the_place_of_the_run_is_in_no_key_and_what_it_made_is(first: Finished, tmp_path: Path) -> None:
    same = built(continuing(first, init_from={"recipe": "clin_jepa", "seed": 0}))
    assert same.trials[0].results == built(continuing(first)).trials[0].results
    fresh = built(continuing(first, init_from={"run": None}, grid={"recipes": ["clin_jepa"]}))
    assert fresh.trajectories.key != same.trajectories.key


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"init_from": {"run": None}}, "recipe continued continues a finished run: set init_from.run"),
        ({"init_from": {"seed": 7}}, r"no finished trial of init_from.seed=7; it has clin_jepa, seed 0"),
        ({"encoder": {"ffn_size": 64}, "predictor": {"ffn_size": 64}}, r"other settings: encoder\.ffn_size; give"),
        ({"tokenizer": {"vocab_size": 400}}, r"other settings: tokenizer\.vocab_size"),
    ],
)
def test_what_cannot_be_continued_is_one_clear_line(first: Finished, sections: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        built(continuing(first, **sections))


def test_a_run_in_another_storage_or_none_is_refused(first: Finished, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="this experiment in"):
        built(continuing(first, storage=str(tmp_path)))
    with pytest.raises(StoreError, match="holds no finished run"):
        built(continuing(first, init_from={"run": str(tmp_path / "runs/none")}))


def test_without_learning_it_ends_where_the_run_ended_and_with_it_elsewhere(first: Finished) -> None:
    before = first.run.trials[0]
    start = {name: read_tensors(first.folder(stage), name) for name, stage in weights(before)}
    for rate, equal in ((STILL, True), (1e-2, False)):
        config = continuing(first, curriculum={"predictor_lr": rate, "encoder_lr": rate, "weight_decay": 0.0})
        (trial,) = built(config).trials
        first.finish(list(trial.phases), "elsewhere")
        for name, stage in weights(trial):
            now = read_tensors(first.folder(stage), name)
            assert all(torch.equal(tensor, start[name][key]) for key, tensor in now.items()) is equal, name


def weights(trial: Any) -> list[tuple[str, Any]]:
    return [("predictor.safetensors", trial.phases[-1]), ("online.safetensors", trial.final_encoder)]


def test_the_first_hospitals_held_out_patients_are_scored_by_the_continued_run(first: Finished) -> None:
    config = continuing(first, curriculum={"predictor_lr": STILL, "encoder_lr": STILL, "weight_decay": 0.0})
    experiment = built(config)
    first.finish(experiment.stages, "elsewhere")
    write_report(config, experiment, None)
    continued = open_saved_run(f"{first.config.storage}/runs/second")
    asked = scoring_config(continued.config, SourceConfig(name="the run's"), "back", "held_out")
    back = scoring_experiment(continued, continued.trials, asked, "content")
    own = first.run.trials[0]
    assert back.ingest.key == own.data.ingest.key and back.trajectories.key == own.data.trajectories.key
    drift = back.trials[0].evaluations["drift"]
    first.finish([drift], "the run's")
    found, before = (first.folder(stage).read_json(RESULT)["6"]["horizons"]["1"]["l1"] for stage in (drift, own.evaluations["drift"]))
    assert found == before  # nothing was learnt, so the first patients are predicted as before


def test_the_folder_of_a_scoring_is_no_run_to_continue(first: Finished) -> None:
    first.scored("all", "other content", "elsewhere")
    with pytest.raises(StoreError, match="report of a scoring of other patients"):
        built(continuing(first, init_from={"run": f"{first.config.storage}/runs/elsewhere"}))
    assert Folder(first.config.storage).exists("runs/elsewhere/report.html")


def test_the_costs_of_a_continued_run_leave_out_what_was_paid_before(first: Finished) -> None:
    experiment = built(continuing(first, grid={"recipes": ["continued", "clin_jepa"]}))
    recipes = {recipe.name: recipe for recipe in experiment.recipes}
    kinds = {trial.recipe: [stage.kind for stage in costly_stages(trial, recipes[trial.recipe])] for trial in experiment.trials}
    assert "sft" in kinds["clin_jepa"] and "sft" not in kinds["continued"]
    timed = [each for each in run_order(recipes["continued"]) if getattr(each, "trains", "") != "nothing"]
    assert len(kinds["continued"]) == len(timed)
