"""What every kind of stage makes of a tiny input does not change unless the format version of the kind does.

All executors run in this process, one after another, on hand-made stays; the extraction runs on hand-made MIMIC-IV tables. Of each artifact
the names of files, the structure of tables, tensors and JSON are compared exactly, and numbers to 1 part in 1000, since the last digits of
floating-point results follow the processor.

When a change of a result is meant, raise the kind's number in its room's `FORMAT_VERSIONS`, name it in CHANGELOG.md and write the new
results: `PYTHONPATH=. python tests/pipelines/graph/test_golden_results.py`.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load as load_tensors

from clinjepa.config import Config
from clinjepa.storage import Folder
from pipelines.graph.experiment import build_experiment
from pipelines.graph.saved_run import SavedRun
from pipelines.graph.scoring import score_stage, scoring_config, scoring_experiment, shift_stage
from pipelines.graph.stage import FORMAT_VERSIONS, Stage
from pipelines.stages import data
from tests.pipelines.graph.test_golden_formats import some_stays
from tests.support.data.handmade_stays import HandmadeSource, lenient_config
from tests.support.data.mimic_iv_examples import write_mimic
from tests.support.training.stages_in_process import run_stage, without_ray

GOLDEN = Path(__file__).with_name("golden_results.json")
NOT_RESULTS = ("manifest.json", "timing.json", "cost.json", "parts/")
TOLERANCE = 1e-3
TASKS = ["in_hospital_death", "hypotension_8h", "map_8h"]
NUM_PARTS = 5

Summary = dict[str, Any]
"""{"structure": digest of names, types and texts, "numbers": values in the structure's order}."""


def tiny_config(storage: str) -> Config:
    return lenient_config(
        storage=storage,
        split={"fractions": [0.3, 0.2, 0.5]},
        tokenizer={"vocab_size": 320, "max_tokens": 64},
        windows={"min_hours": 6, "max_hours": 12, "stride_hours": 6},
        encoder={"hidden_size": 16, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "ffn_size": 32},
        predictor={"hidden_size": 16, "num_layers": 1, "num_heads": 2, "ffn_size": 32, "max_hours": 24},
        sft={"max_steps": 2, "tokens_per_step": 1024, "micro_tokens": 512, "learning_rate": 1e-3},
        curriculum={"num_steps": 12, "global_batch": 8, "micro_batch": 4, "ema_momentum": 0.5, "encoder_lr": 1e-3},
        labels={"tasks": TASKS},
        evaluation={
            "drift": {"contexts": [6], "headline_context": 6, "horizons": [1, 6], "num_bootstrap": 20},
            "geometry": {"k_hours": [6], "headline_k": 6, "num_bootstrap": 20, "umap": False},
            "downstream": {
                "tasks": TASKS,
                "stay_prediction_hour": 12,
                "rollout_hours": 2,
                "min_positives": 2,
                "num_bootstrap": 20,
                "probe": {"hidden_size": 8, "max_epochs": 2},
            },
            "added_value": {"shares": [0.3, 1.0]},
            "forecasts": {"context": 6, "starts": [0, 6], "horizons": [1, 5], "num_variables": 3, "num_trees": 5, "num_bootstrap": 20},
            "num_roundtrip_hours": 2000,
        },
        grid={"recipes": ["clin_jepa"], "seeds": [0]},
    )


def with_other_doses(config: Config) -> Config:
    """Adds actions with other doses, and a drift that reads them."""
    raw = config.model_dump(mode="json")
    raw["evaluation"]["drift"]["dose_factor"] = 4
    return Config.model_validate(raw)


class Stays(HandmadeSource):
    """Forty stays of 30 h in five partitions."""

    def __init__(self) -> None:
        super().__init__(*(some_stays(part) for part in range(NUM_PARTS)))

    def partitions(self) -> list[dict[str, int]]:
        return [{"part": part} for part in range(NUM_PARTS)]


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name in sorted(value):
            yield from leaves(value[name], f"{path}/{name}")
    elif isinstance(value, list):
        for place, item in enumerate(value):
            yield from leaves(item, f"{path}/{place}")
    else:
        yield path, "digest" if isinstance(value, str) and re.fullmatch("[0-9a-f]{16,}", value) else value


def facts(folder: Folder, name: str) -> Iterator[tuple[str, Any]]:
    """(name, value) of what a file holds: JSON values; sums and counts of columns; shapes, types and norms of tensors.

    Digests of weights are left out: they follow the last bit.
    """
    if name.endswith(".json"):
        yield from leaves(folder.read_json(name))
    elif name.endswith(".parquet"):
        table = pl.DataFrame(folder.read_table(name))
        yield "rows", str(table.height)
        for column in table.columns:
            yield f"{column}:{table.schema[column]}", str(table[column].null_count())
            values = table[column].explode() if isinstance(table.schema[column], pl.List) else table[column]
            if values.dtype.is_float() or values.dtype.is_integer():
                yield f"{column} sum", float(values.cast(pl.Float64).sum())
    elif name.endswith(".safetensors"):
        for tensor, value in sorted(load_tensors(folder.read_bytes(name)).items()):
            yield (
                f"{tensor}:{value.dtype}:{tuple(value.shape)}",
                float(value.double().norm()),
            )
    else:
        yield "bytes", "some"


def summary(folder: Folder) -> Summary:
    sha, numbers = hashlib.sha256(), []
    for name in sorted(folder.files()):
        if name.startswith(NOT_RESULTS):
            continue
        for fact, value in facts(folder, name):
            numeric = isinstance(value, float) and math.isfinite(value)
            sha.update(f"{name} {fact} {'number' if numeric else value!r}\n".encode())
            if numeric:
                numbers.append(float(f"{value:.5g}"))
    return {"structure": sha.hexdigest()[:16], "numbers": numbers}


def measure() -> dict[str, dict[str, Any]]:
    """Kind -> format version and summaries of its artifacts by label."""
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as scratch, pytest.MonkeyPatch.context() as patch:
        torch.set_num_threads(1)
        without_ray(patch)
        storage = Folder(f"{scratch}/storage")
        raw = Config(source={"kind": "mimic_iv", "path": str(write_mimic(Path(scratch, "mimic")))}, storage=storage.address)
        extract = build_experiment(raw, "content").ingest.inputs["extract"]
        found["extract"] = {"extract 0": summary(run_stage(extract, raw, storage))}
        patch.setattr(data, "open_source", lambda config: Stays())
        # The configuration of the run has other result settings than the stages: executors must not read them.
        run = Config(storage=storage.address)
        made: set[str] = set()
        for config in (tiny_config(storage.address), with_other_doses(tiny_config(storage.address))):
            for stage in build_experiment(config, "content").stages:
                if stage.key not in made:
                    results = found.setdefault(stage.kind, {})
                    results[f"{stage.label} {len(results)}"] = summary(run_stage(stage, run, storage))
                    made.add(stage.key)
        for stage in scoring_stages(tiny_config(storage.address)):
            if stage.key not in made:
                results = found.setdefault(stage.kind, {})
                results[f"{stage.label} {len(results)}"] = summary(run_stage(stage, run, storage))
                made.add(stage.key)
    return {kind: {"format": FORMAT_VERSIONS[kind], "results": results} for kind, results in sorted(found.items())}


def scoring_stages(config: Config) -> list[Stage]:
    """The stages of the finished tiny run on its own stays as other patients, inputs first."""
    experiment = build_experiment(config, "content")
    saved = SavedRun(config, experiment, experiment.trials)
    new = scoring_experiment(saved, saved.trials, scoring_config(config, config.source, "other", "all"), "content")
    last = [shift_stage(saved, new), score_stage(new.trials[0]), *new.trials[0].evaluations.values()]
    return list({stage.key: stage for each in last for stage in each.closure()}.values())


def changes(golden: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Kinds and labels whose results differ, with the largest relative difference of a number."""
    lines = []
    for kind in sorted(golden.keys() | now.keys()):
        before, after = golden.get(kind, {}), now.get(kind, {})
        if before.get("format") != after.get("format"):
            lines.append(f"{kind}: format {before.get('format')} -> {after.get('format')}")
            continue
        for label in sorted(before["results"].keys() | after["results"].keys()):
            old, new = before["results"].get(label), after["results"].get(label)
            if old is None or new is None or old["structure"] != new["structure"]:
                lines.append(f"{kind} ({label}): another structure")
                continue
            a, b = np.array(old["numbers"]), np.array(new["numbers"])
            off = np.abs(a - b) / np.maximum(np.abs(a), 1e-3)
            if off.size and off.max() > TOLERANCE:
                lines.append(f"{kind} ({label}): number {int(off.argmax())} was {a[off.argmax()]:g}, is {b[off.argmax()]:g}")
    return lines


def test_the_results_of_a_format_version_stay_the_same() -> None:
    now = measure()
    assert set(now) == set(FORMAT_VERSIONS), "every kind of stage is measured"
    assert changes(json.loads(GOLDEN.read_text()), now) == []


def test_another_structure_number_or_version_is_found() -> None:
    golden = {"drift": {"format": 1, "results": {"drift": {"structure": "a", "numbers": [1.0, 2.0]}}}}
    for change, line in (
        ({"structure": "b", "numbers": [1.0, 2.0]}, "drift (drift): another structure"),
        ({"structure": "a", "numbers": [1.0, 2.01]}, "drift (drift): number 1 was 2, is 2.01"),
    ):
        assert changes(golden, {"drift": {"format": 1, "results": {"drift": change}}}) == [line]
    assert changes(golden, {"drift": golden["drift"] | {"format": 2}}) == ["drift: format 1 -> 2"]
    assert changes(golden, {"drift": {"format": 1, "results": {"drift": {"structure": "a", "numbers": [1.0, 2.001]}}}}) == []


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(measure(), indent=None).replace('{"format"', '\n{"format"') + "\n")
