"""Which settings make which stages: a setting that changes results is in a key, one that does not is in none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel, ValidationError

from clinjepa.config import Config, load_config
from clinjepa.config.grid import GridConfig
from clinjepa.config.schema import LabelsConfig
from clinjepa.config.section import is_execution
from clinjepa.curriculum.recipes import load_recipe, recipe_names, run_order
from clinjepa.errors import ConfigError
from clinjepa.trajectory import STORED_FORMAT
from pipelines.graph.experiment import Experiment, build_experiment

DEMO = Path(__file__).parents[3] / "configs" / "demo_simulator.yaml"


def leaves(section: BaseModel, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """(path, value, annotation) of every single setting."""
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from leaves(value, (*path, name))
        else:
            yield (*path, name), value, field.annotation


def others(value: Any, annotation: Any) -> list[Any]:
    """Values that the setting might have instead."""
    choices = [choice for part in (annotation, *get_args(annotation)) if get_origin(part) is Literal for choice in get_args(part)]
    if choices and not isinstance(value, list):
        return [choice for choice in choices if choice != value]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int | float):
        return [value + 1, value * 2, value * 0.9, value - 1, 0.5]
    if isinstance(value, str):
        return [value + "x"]
    if isinstance(value, list) and (value or choices):
        more = [value[-1] + 1] if value and isinstance(value[-1], int) else value[-1:]
        return [value[:-1], [*value, *more], choices[-1:]]
    if isinstance(value, tuple):
        return [(0.6, 0.2, 0.2)]
    if value == {} and annotation == GridConfig.model_fields["axes"].annotation:
        return [AXES]
    if value == {} and annotation == LabelsConfig.model_fields["files"].annotation:
        return [{"outside": {"path": "labels.parquet"}}]
    if isinstance(value, dict):
        moved = (0.01, -0.01, 0.0, 0.0)  # shares add up to 1
        return [{name: share + move for (name, share), move in zip(value.items(), moved, strict=True)}] if value else [{"rollout": 0.5}]
    return [1, 100, ["hypotension_8h"], "x"]


def changed(raw: dict[str, Any], path: tuple[str, ...], value: Any) -> Config:
    copy = Config.model_validate(raw).model_dump(mode="json")
    node = copy
    for name in path[:-1]:
        node = node[name]
    node[path[-1]] = value
    return Config.model_validate(copy)


def keys(config: Config) -> set[str]:
    return {stage.key for stage in build_experiment(config, "content", label_digests={}).stages}


def with_phases(experiment: Experiment) -> Any:
    return next(trial for trial in experiment.trials if trial.recipe == "clin_jepa")


CONFIG = load_config(DEMO, ["source.path=data", "encoder.model=somebody/model", "evaluation.added_value.enabled=true"])
"""The demo, so that other sources and models are valid too, with every evaluation."""
RAW = CONFIG.model_dump(mode="json")
LEAVES = [leaf for leaf in leaves(CONFIG) if leaf[0] != ("init_from", "run")]  # tests/pipelines/results/test_continued.py has a run
UNUSED_HERE = {("encoder", "model"), ("encoder", "revision"), ("curriculum", "state_token_share"), ("grid", "combine")}
"""They name a public model; here the encoder is made, the budget is one of steps, and there are no axes."""
AXES = {"curriculum.encoder_lr": [1e-5, 2e-5]}


def is_result(path: tuple[str, ...]) -> bool:
    """No part of the path is marked `Execution`; also a field that enters keys only where it differs from its default."""
    section: Any = CONFIG
    for name in path:
        if is_execution(type(section).model_fields[name]):
            return False
        section = getattr(section, name)
    return True


@pytest.mark.parametrize("path", [path for path, _, _ in LEAVES], ids=lambda path: ".".join(path))
def test_a_setting_is_in_a_key_exactly_if_it_changes_results(path: tuple[str, ...]) -> None:
    value, annotation = next((value, annotation) for each, value, annotation in LEAVES if each == path)
    tried = 0
    for other in others(value, annotation):
        try:
            config = changed(RAW, path, other)
            keys(config)
        except (ValidationError, ConfigError):
            continue
        tried += 1
        if is_result(path):
            if keys(config) != keys(CONFIG):
                return
        else:
            assert keys(config) == keys(CONFIG)
    assert tried, f"{'.'.join(path)}: no other value is valid"
    assert not is_result(path) or path in UNUSED_HERE, f"{'.'.join(path)} changes results but no stage's key"


def test_only_ingests_by_time_of_storage_hold_the_further_format_of_these() -> None:
    for event_time in ("measured", "stored"):
        ingest = build_experiment(changed(RAW, ("source", "event_time"), event_time), "content").ingest
        assert ingest.settings.get("stored_format") == (STORED_FORMAT if event_time == "stored" else None)


def test_a_public_model_with_adapters_keeps_its_base_and_one_trained_whole_becomes_the_base() -> None:
    public = {**RAW, "encoder": {**RAW["encoder"], "init": "pretrained", "model": "somebody/model"}}
    warmup = with_phases(build_experiment(Config.model_validate(public), "content")).phases[0]
    assert (warmup.inputs["base"].kind, warmup.inputs["encoder"].kind) == ("base", "sft")
    public["encoder"]["adaptation"] = "full"
    warmup = with_phases(build_experiment(Config.model_validate(public), "content")).phases[0]
    assert warmup.inputs["base"].kind == "sft" and "encoder" not in warmup.inputs


def test_recipes_share_what_they_have_in_common() -> None:
    experiment = build_experiment(CONFIG, "content")
    trials = {trial.recipe: trial for trial in experiment.trials}
    assert [a.key == b.key for a, b in zip(trials["clin_jepa"].phases, trials["no_alignment"].phases, strict=False)][:3] == [
        True,
        True,
        False,
    ]
    assert trials["clin_jepa"].embed.key == trials["no_alignment"].embed.key
    assert trials["sft"].embed.key != trials["untrained"].embed.key


@pytest.mark.parametrize("recipe", [name for name in recipe_names() if name != "continued"])  # it needs a finished run
def test_the_plan_counts_the_latent_stores_of_the_graph(recipe: str) -> None:
    public = ["encoder.init=pretrained", "encoder.model=public/model"] if recipe == "random" else []
    (trial,) = build_experiment(load_config(DEMO, [f"grid.recipes=[{recipe}]", "grid.seeds=[0]", *public]), "content").trials
    stores = [each for each in run_order(load_recipe(recipe)) if isinstance(each, str)]
    assert len(stores) == sum(stage.kind == "embed" for stage in trial.stages)


def test_only_phases_whose_loss_reads_the_hours_values_depend_on_the_hour_grid() -> None:
    config = load_config(DEMO, ["grid.recipes=[clin_jepa, value_decode, value_aux]", "grid.seeds=[0]"])
    trials = {trial.recipe: trial for trial in build_experiment(config, "content").trials}
    reading = {
        name: [stage.settings["phase"]["name"] for stage in trial.phases if "ingest" in stage.inputs] for name, trial in trials.items()
    }
    assert reading == {"clin_jepa": [], "value_decode": ["decode"], "value_aux": ["joint"]}
    assert trials["value_aux"].phases[0].key == trials["clin_jepa"].phases[0].key


@pytest.mark.parametrize("key", ["evaluation.downstream.tasks", "labels.tasks"])
def test_a_task_that_is_not_there_is_refused_before_anything_runs(key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key} names nowhere_8h"):
        build_experiment(load_config(DEMO, [f"{key}=[nowhere_8h]"]), "content")
