"""A setting changes the keys of exactly the kinds of stages that read it, and of what is made from them.

`READERS` names, for every field of the configuration that changes results, the kinds of stages that hold it in their own settings. A new
field fails the test until it has a line. `evaluation.downstream` is one section of two kinds: `baselines` holds also the fields that only
`downstream` uses.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
from pydantic import ValidationError

from clinjepa.config import Config
from clinjepa.config.axes import grid_points
from clinjepa.config.section import result_fields
from clinjepa.curriculum.recipes import Phase, Recipe, load_recipe, recipe_names
from clinjepa.errors import ConfigError
from clinjepa.evaluation.settings import (
    AddedValueSettings,
    BaselineSettings,
    DirectForecastSettings,
    DownstreamSettings,
    DriftSettings,
    ForecastSettings,
    GeometrySettings,
    RoundtripSettings,
)
from clinjepa.trajectory.settings import LabelSettings, TrajectorySettings
from pipelines.graph.experiment import Experiment, build_experiment
from pipelines.graph.stage import Stage
from pipelines.graph.trial_stages import TrialBuilder
from pipelines.stages import data
from tests.pipelines.graph.test_stage_graph import CONFIG, LEAVES, RAW, changed, is_result, others

_COHORT = "preset min_age_years min_stay_hours max_stay_hours first_stay_of_admission min_vitals_records max_gap_hours"
_PHASE = (
    "num_steps shares budget state_token_share "
    "global_batch micro_batch predictor_lr encoder_lr weight_decay warmup_fraction encoder_warmup_steps clip_norm "
    "ema_momentum rollout_steps rollout_weight term_weights shared_k collapse_rankme stop_on_collapse"
)
_SFT = "num_epochs max_steps tokens_per_step micro_tokens learning_rate warmup_fraction weight_decay clip_norm"
_POINTS = "hourly_stride min_history_hours min_positives num_bootstrap"
_BASELINES = "names num_trials num_sequence_trials max_trial_points num_averaged max_seconds ensemble"
_FORECASTS = "context starts horizons num_variables max_stays max_train_stays num_trees"
_PROBE = "kinds hidden_size dropout learning_rate weight_decay batch_size max_epochs patience"

_TABLE: list[tuple[str, str, str]] = [
    ("extract ingest", "source", "kind subsets max_stays num_partitions time_zone"),  # the kind also says whether there is an extraction
    ("ingest", "source", "event_time simulator.num_patients simulator.seed simulator.mean_stay_hours simulator.measurement_density"),
    ("ingest", "cohort", _COHORT),
    ("ingest", "split", "fractions seed use_source_split everyone"),
    ("ingest", "text", "max_decimals include_medications exclusions"),
    ("trajectories", "windows", "max_hours stride_hours min_hours tail"),
    ("tokenizer", "tokenizer", "init vocab_size"),
    ("trajectories", "tokenizer", "max_tokens"),
    ("base embed phase sft shifted_actions", "encoder", "init"),  # SFT of a public model trains adapters, which SFT and latents then hold
    ("base phase tokenizer", "encoder", "model revision"),
    ("base phase", "encoder", "hidden_size num_layers num_heads num_kv_heads ffn_size"),
    ("embed phase sft shifted_actions", "encoder", "adaptation lora.rank lora.alpha lora.targets lora.dropout"),
    ("embed phase shifted_actions", "encoder", "latent_from append_eos token_budget"),
    ("base embed phase shifted_actions", "encoder", "dtype"),
    ("phase", "predictor", "hidden_size num_layers num_heads ffn_size dropout attention_dropout max_hours mode"),
    ("sft", "sft", _SFT),
    ("phase", "curriculum", _PHASE),
    ("labels", "labels", "tasks files"),
    ("added_value baselines direct_forecasts downstream drift forecasts geometry roundtrip shifted_actions", "evaluation", "split"),
    ("drift shifted_actions", "evaluation.drift", "dose_factor"),
    ("drift", "evaluation.drift", "contexts starts headline_context horizons num_bootstrap"),
    ("geometry", "evaluation.geometry", "k_hours headline_k num_bootstrap umap max_umap_points"),
    ("added_value baselines downstream forecasts geometry labels", "evaluation.downstream", "tasks"),
    ("baselines downstream labels", "evaluation.downstream", "stay_prediction_hour"),
    ("baselines downstream", "evaluation.downstream", "pooling rollout_hours"),
    ("added_value baselines downstream", "evaluation.downstream", _POINTS),
    ("baselines downstream", "evaluation.downstream.probe", _PROBE),
    ("baselines", "evaluation.downstream.baselines", _BASELINES),
    ("roundtrip", "evaluation", "num_roundtrip_hours"),
    ("", "evaluation.added_value", "enabled"),  # whether there are such stages
    ("added_value", "evaluation.added_value", "shares estimators max_train_patients"),
    ("", "evaluation.forecasts", "enabled"),
    ("direct_forecasts forecasts", "evaluation.forecasts", _FORECASTS),
    ("forecasts", "evaluation.forecasts", "num_decoder_hours num_bootstrap"),
]
READERS = {f"{section}.{name}": set(kinds.split()) for kinds, section, names in _TABLE for name in names.split()}

_PUBLIC = {**RAW, "tokenizer": {**RAW["tokenizer"], "init": "pretrained"}, "encoder": {**RAW["encoder"], "init": "pretrained"}}
_TABLES = {**RAW, "source": {**RAW["source"], "kind": "mimic_iv"}, "labels": {"tasks": RAW["evaluation"]["downstream"]["tasks"][:1]}}
_TABLES["curriculum"] = {**RAW["curriculum"], "budget": "encoder_tokens"}
_TABLES["evaluation"] = {**RAW["evaluation"], "drift": {**RAW["evaluation"]["drift"], "dose_factor": 4.0}}
VARIANTS = (RAW, _PUBLIC, _TABLES)
"""The demo, the same with a public model, and the same with a source that is extracted first, few labels, a budget of tokens and other
doses."""

RESULTS = [(".".join(path), path, value, annotation) for path, value, annotation in LEAVES if is_result(path)]


Place = tuple[str, str, int]
"""Kind, label, and which of the stages with this label."""


def stages(config: Config) -> dict[Place, Stage]:
    found: dict[Place, Stage] = {}
    for stage in build_experiment(config, "content", label_digests={}).stages:
        number = sum((kind, label) == (stage.kind, stage.label) for kind, label, _ in found)
        found[stage.kind, stage.label, number] = stage
    return found


BEFORE = [stages(Config.model_validate(raw)) for raw in VARIANTS]


def downstream_of(readers: set[Place], graph: dict[Place, Stage]) -> set[str]:
    """Keys of the stages of a graph that are, or are made from, one of the stages named."""
    keys = {graph[name].key for name in readers}
    for stage in sorted(graph.values(), key=lambda each: each.depth):
        if any(upstream.key in keys for upstream in stage.inputs.values()):
            keys.add(stage.key)
    return keys


@pytest.mark.parametrize(("name", "path", "value", "annotation"), RESULTS, ids=[name for name, *_ in RESULTS])
def test_a_setting_changes_the_keys_of_exactly_its_readers(name: str, path: tuple[str, ...], value: Any, annotation: Any) -> None:
    if path[0] == "grid":
        return  # which stages there are, not what they do
    assert name in READERS, f"{name}: name the kinds of stages that read it in READERS"
    found: set[str] = set()
    for raw, before in zip(VARIANTS, BEFORE, strict=True):
        for other in others(value, annotation):
            try:
                after = stages(changed(raw, path, other))
            except (ValidationError, ConfigError):
                continue
            both = before.keys() & after.keys()
            readers = {each for each in both if before[each].settings != after[each].settings}
            replaced = {each for each in both if set(before[each].inputs) != set(after[each].inputs)}
            found |= {kind for kind, *_ in readers}
            moved = {each for each in both if before[each].key != after[each].key}
            assert {before[each].key for each in moved} == downstream_of(readers | replaced, before) & {before[each].key for each in both}
    assert found == READERS[name]


def test_the_table_names_no_setting_that_is_gone() -> None:
    assert set(READERS) == {name for name, *_ in RESULTS if not name.startswith("grid.")}


def choices() -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """(path, allowed values) of every single setting with named values that changes results."""
    for path, _, annotation in LEAVES:
        if get_origin(annotation) is Literal and is_result(path) and path[0] != "grid":
            yield path, get_args(annotation)


@pytest.mark.parametrize(("path", "values"), list(choices()), ids=lambda each: ".".join(each) if isinstance(each, tuple) else None)
def test_each_named_value_has_its_own_key(path: tuple[str, ...], values: tuple[str, ...]) -> None:
    """A value that makes the same stages as another is a value without a meaning."""
    for raw in VARIANTS:
        made = {}
        for value in values:
            try:
                made[value] = frozenset(stage.key for stage in stages(changed(raw, path, value)).values())
            except (ValidationError, ConfigError):
                continue
        if len(made) == len(values) == len(set(made.values())):
            return
    pytest.fail(f"{'.'.join(path)}: two of {', '.join(values)} make the same stages")


def trial_keys(recipe: Recipe) -> frozenset[str]:
    experiment: Experiment = build_experiment(CONFIG, "content")
    builder = TrialBuilder(CONFIG, experiment.data[0], lambda stage: stage, grid_points(CONFIG)[0])
    return frozenset(stage.key for stage in builder.trial(recipe, 0).stages)


def test_each_encoder_start_has_its_own_key() -> None:
    """`random` needs a pretrained architecture; a model of `encoder.init: config` has random weights already and is refused."""
    recipe = load_recipe("sft")
    starts = [start for start in get_args(get_type_hints(Recipe)["encoder_start"]) if start not in ("random", "run")]  # run: a finished one
    assert len({trial_keys(replace(recipe, encoder_start=start)) for start in starts}) == len(starts) > 1
    with pytest.raises(ConfigError, match="random weights already"):
        trial_keys(replace(recipe, encoder_start="random"))


@pytest.mark.parametrize("field", [name for name, hint in get_type_hints(Phase).items() if get_origin(hint) is Literal or hint is bool])
def test_each_value_of_a_phase_has_its_own_key(field: str) -> None:
    hint = get_type_hints(Phase)[field]
    used = {getattr(phase, field) for name in recipe_names() for phase in load_recipe(name).phases}
    values = {False, True} if hint is bool else set(get_args(hint))
    assert used == values, f"{field}: no recipe uses {values - used}"
    joint = next(phase for phase in load_recipe("clin_jepa").phases if phase.name == "joint")
    assert field in {each.name for each in fields(Phase)}
    assert len({Stage("phase", "p", {"phase": replace(joint, **{field: value}).to_json()}).key for value in values}) == len(values)


@pytest.mark.parametrize("raw", VARIANTS, ids=["demo", "public model", "tables"])
def test_an_executor_reads_back_all_that_is_in_the_key(raw: dict[str, Any]) -> None:
    """What is parsed from a stage's settings gives these settings again, so no part of a key is ignored."""
    parsed = {
        "tokenizer": lambda stage: data._TOKENIZER.validate_python(stage.settings),
        "trajectories": lambda stage: TrajectorySettings.model_validate(stage.settings),
        "labels": lambda stage: LabelSettings.model_validate(data._without_digests(stage)),
        "ingest": lambda stage: data._ingest_settings(stage, CONFIG.source),
        "roundtrip": lambda stage: RoundtripSettings.model_validate(stage.settings),
        "drift": lambda stage: DriftSettings.model_validate(stage.settings),
        "forecasts": lambda stage: ForecastSettings.model_validate(stage.settings),
        "direct_forecasts": lambda stage: DirectForecastSettings.model_validate(stage.settings),
        "added_value": lambda stage: AddedValueSettings.model_validate(stage.settings),
        "downstream": lambda stage: DownstreamSettings.model_validate(stage.settings),
        "baselines": lambda stage: BaselineSettings.model_validate(stage.settings),
    }
    for stage in build_experiment(Config.model_validate(raw), "content").stages:
        if stage.kind == "geometry":
            assert GeometrySettings.model_validate(stage.settings).stage_settings() == stage.settings
        elif stage.kind in parsed:
            again = result_fields(parsed[stage.kind](stage))
            stated = {name: value for name, value in stage.settings.items() if name != "definitions"}
            if stage.kind == "ingest":
                stated["source"] = {name: value for name, value in stated["source"].items() if name != "digest"}
                again["source"] = {name: value for name, value in again["source"].items() if name in stated["source"]}
            assert again == stated
