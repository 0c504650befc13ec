"""Every baseline, tuned: CinC 2012 (training on set a, tested on set b) and CinC 2019 set A (its held-out patients).

The cases:
* `death_after_48h`, `death_after_24h`: death in hospital on CinC 2012, the baselines on features.
* `eight_tasks`: eight tasks of CinC 2012, the stay-level ones after 24 h, every baseline.
* `cinc2019`: sepsis as labelled, MAP < 65, SpO2 < 90 and glucose > 180 in 8 h; LightGBM and controls.

Settings are chosen on the tuning patients: a fifth of set a, or the split of the configuration. With `--work FOLDER` a killed run goes on:
ingests and every finished fit are kept there. The result file is written after each case and names those that are left. `--cases` runs
some of the cases. CPU seconds are those of the fits and of the features, in this and earlier sessions of the folder. `--quick`: simulated
patients.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.support.baseline_pool import FitPool
from benchmarks.support.harness import Report, arguments, publish, timed
from clinjepa.clinical import load_tasks
from clinjepa.config import Config
from clinjepa.config.schema import BaselinesConfig, DownstreamConfig
from clinjepa.evaluation.baselines.evaluate import BaselineResults, LabelledStays, score_baselines
from clinjepa.evaluation.baselines.names import COLUMN
from clinjepa.sources import open_source
from clinjepa.storage import Folder
from clinjepa.trajectory.hours.ingest import build_partition, finish_ingest
from clinjepa.trajectory.labels.artifact import compute_labels
from clinjepa.trajectory.settings import IngestSettings

SPLIT = "held_out"
TUNING_SHARE = 5
"""One of so many patients of set a is a tuning patient."""
ON_FEATURES = ["last_value", "sofa", "hours_in_icu", "logistic", "ridge", "lightgbm", "xgboost"]
ON_HOURS = ["gru", "lstm", "tcn", "transformer", "gru_d"]
EIGHT = [
    "in_hospital_death", "hypotension_8h", "hyperglycaemia_8h", "tachycardia_8h", "shock_index_8h", "thrombocytopenia_24h", "map_8h",
    "creatinine_day_2",
]  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One data set with its tasks and baselines."""

    kind: str
    tasks: list[str]
    names: list[str]
    stay_prediction_hour: int = 24
    a_to_b: bool = False
    goals: dict[str, tuple[str, str, float]] | None = None
    """Figure -> (task, method, least AUROC)."""


DEATH = ["in_hospital_death"]
CASES = {
    "death_after_48h": Case(
        "cinc2012", DEATH, ON_FEATURES, 48, True,
        {
            "death_after_48h_lightgbm": ("in_hospital_death", "lightgbm", 0.862),
            "death_after_48h_ensemble": ("in_hospital_death", "ensemble", 0.862),
        },
    ),
    "death_after_24h": Case(
        "cinc2012", DEATH, ON_FEATURES, 24, True,
        {
            "death_after_24h_lightgbm": ("in_hospital_death", "lightgbm", 0.838),
            "death_after_24h_ensemble": ("in_hospital_death", "ensemble", 0.838),
        },
    ),
    "eight_tasks": Case("cinc2012", EIGHT, [*ON_FEATURES, *ON_HOURS], 24, True),
    "cinc2019": Case(
        "cinc2019", ["sepsis_label_cinc2019", "hypotension_8h", "hypoxaemia_8h", "hyperglycaemia_8h"],
        ["last_value", "hours_in_icu", "lightgbm"], 24, False,
        {
            "sepsis_lightgbm": ("sepsis_label_cinc2019", "lightgbm", 0.815),
            "map_below_65_lightgbm": ("hypotension_8h", "lightgbm", 0.80),
            "spo2_below_90_lightgbm": ("hypoxaemia_8h", "lightgbm", 0.77),
            "glucose_over_180_lightgbm": ("hyperglycaemia_8h", "lightgbm", 0.72),
        },
    ),
}  # fmt: skip
QUICK = {"simulator": Case("simulator", ["in_hospital_death", "hypotension_8h", "map_8h"], ["logistic", "ridge", "lightgbm", "gru"])}


def ingest(source: dict[str, Any], out: Folder) -> pa.Table:
    """The ingest artifact of a source in `out`, with the default cohort and split; returns its stays. Finished parts are kept."""
    config = Config.model_validate({"source": source})
    opened, settings = open_source(config.source), IngestSettings.of(config)
    for place, partition in enumerate(opened.partitions()):
        build_partition(opened, partition, settings, out, f"part-{place:05d}")
    if not out.exists("stays.parquet"):
        finish_ingest(out, settings)
    return out.read_table("stays.parquet")


def split_by_set(stays: pa.Table, path: str) -> pa.Table:
    """Set b is held out; of set a every fifth patient is for tuning, separately for those who died and those who did not."""
    lines = Folder(path).read_bytes("Outcomes-a.txt").decode().splitlines()[1:]
    set_a = {int(line.split(",")[0]) for line in lines if line.strip()}
    rows = zip(stays["stay_id"].to_pylist(), stays["died_in_hospital"].to_pylist(), strict=True)
    order = sorted((bool(died), hashlib.sha256(str(stay).encode()).hexdigest(), stay) for stay, died in rows if stay in set_a)
    tuning = {stay for place, (_, _, stay) in enumerate(order) if place % TUNING_SHARE == 0}
    splits = [SPLIT if stay not in set_a else "tuning" if stay in tuning else "train" for stay in stays["stay_id"].to_pylist()]
    return stays.set_column(stays.column_names.index("split"), "split", pa.array(splits))


def settings_of(case: Case, options: Any) -> DownstreamConfig:
    """Prediction points, budget and bootstrap of a case."""
    baselines = BaselinesConfig(
        names=case.names,
        num_trials=options.trials,
        num_sequence_trials=options.sequence_trials,
        max_trial_points=options.trial_points,
        num_averaged=options.averaged,
    )
    return DownstreamConfig(
        stay_prediction_hour=case.stay_prediction_hour, baselines=baselines, num_bootstrap=100 if options.quick else 300, min_positives=5
    )


def sources(case: Case, options: Any) -> dict[str, Any]:
    """Settings of the case's source."""
    if case.kind == "simulator":
        return {"kind": "simulator", "simulator": {"num_patients": 200}}
    folder = Path(options.data or os.environ.get("CLINJEPA_DATA", "/nonexistent")) / case.kind
    if not folder.is_dir():
        raise SystemExit(f"{folder} is not there; get it with `clinjepa data get {case.kind}`, or leave its cases out with --cases")
    return {"kind": case.kind, "path": str(folder), "num_partitions": 8 if case.kind == "cinc2012" else 20}


def run_case(case: Case, options: Any, work: Path) -> tuple[dict[str, Any], BaselineResults]:
    """The figures of one case, and its results."""
    source = sources(case, options)
    folder = Folder(str(work / case.kind))
    stays = ingest(source, folder)
    if case.a_to_b:
        stays = split_by_set(stays, source["path"])
    settings, tasks = settings_of(case, options), load_tasks(case.tasks)
    data = LabelledStays(folder, stays, compute_labels(folder, tasks, case.stay_prediction_hour))
    results: list[BaselineResults] = []
    with FitPool(work / "fits", options.workers, case.kind) as pool:
        cost = timed(lambda: results.append(score_baselines(data, tasks, settings, runner=pool)))
        record = pool.record(cost.cpu_seconds)
    (found,) = results
    numbers = dict(zip(*np.unique(stays["split"].to_pylist(), return_counts=True), strict=True))
    details = {
        "num_stays": {str(split): int(number) for split, number in numbers.items()},
        "tuning_budget": settings.baselines.model_dump(mode="json"),
        "cost": record,
        "events": {task: _events(methods) for task, methods in found.tables.items()},
        "numbers": found.regression,
        "kept_settings": found.tuning,
    }
    return details, found


def _events(methods: dict[str, Any]) -> dict[str, Any]:
    cells = {method: columns[COLUMN] for method, columns in methods.items()}
    some = next(iter(cells.values()))
    basis = {"num_points": some["num_total"], "num_positive": some["num_positive"]}
    basis["prevalence"] = some["num_positive"] / max(some["num_total"], 1)
    figures = {method: {name: cell[name] for name in ("auroc", "auprc", "reason") if name in cell} for method, cell in cells.items()}
    return {**basis, "num_positive_patients": some["num_positive_patients"], "methods": figures}


def reached(case: Case, found: BaselineResults) -> tuple[dict[str, float], dict[str, str]]:
    """(figure -> AUROC, figure -> goal) of a case's goals."""
    measured, goal = {}, {}
    for figure, (task, method, least) in (case.goals or {}).items():
        cell = found.tables[task].get(method, {}).get(COLUMN)
        if cell is not None and cell["auroc"] is not None:
            measured[figure], goal[figure] = cell["auroc"]["value"], f">= {least}"
    return measured, goal


def main() -> None:
    options = arguments(
        __doc__ or "", data=None, work=None, cases=",".join(CASES), trials=16, averaged=5, sequence_trials=2, trial_points=4000, workers=2
    )
    cases = QUICK if options.quick else {name: CASES[name] for name in options.cases.split(",")}
    if options.quick:
        options.trials, options.sequence_trials = 3, 1
    measured: dict[str, float] = {}
    goal: dict[str, str] = {}
    details: dict[str, Any] = {"cases": {}}
    with tempfile.TemporaryDirectory() as scratch:
        for place, (name, case) in enumerate(cases.items(), start=1):
            details["cases"][name], found = run_case(case, options, Path(options.work or scratch))
            own, goals = reached(case, found)
            own[f"{name}_minutes_on_2_cores"] = details["cases"][name]["cost"]["cpu_seconds"] / 120
            if name == "eight_tasks":
                goals[f"{name}_minutes_on_2_cores"] = "<= 30"
            measured, goal = {**measured, **own}, {**goal, **goals}
            details["cases_left"] = list(cases)[place:]
            unit = {each: "min (CPU seconds over two cores)" if each.endswith("cores") else "AUROC" for each in measured}
            publish(Report("baselines", measured, goal, unit, details), options.quick)


if __name__ == "__main__":
    main()
