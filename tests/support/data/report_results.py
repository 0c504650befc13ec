"""A made-up but realistic `results` and `extras` of a run: two tasks that can be estimated, one that cannot, gaps, an alarm."""

from __future__ import annotations

import math
import random
from typing import Any

from clinjepa.report.charts.forecast_charts import Fan, FanPoint

RECIPES = {"clin_jepa": 0.62, "no_alignment": 0.7, "sft": 0.86, "untrained": 0.93}
PHASES = {
    "clin_jepa": ("warmup", "joint", "alignment", "finalization"),
    "no_alignment": ("warmup", "joint", "finalization"),
    "sft": ("predictor",),
    "untrained": ("predictor",),
}
CODE, OTHER_CODE = "0123456789abcdef", "fedcba9876543210"
TOO_FEW = "3 positive patients in the held-out part, 10 are needed"


def figure(value: float, half: float | None = 0.04, patients: int = 118) -> dict[str, Any]:
    interval = None if half is None else [round(value - half, 4), round(value + half, 4)]
    return {"value": round(value, 4), "ci95": interval, "num_patients": patients, "num_seeds": 1}


def results() -> dict[str, Any]:
    attrition = [
        {"rule": "all ICU stays", "num_stays": 840, "num_dropped": 0},
        {"rule": "adults", "num_stays": 838, "num_dropped": 2},
        {"rule": "first stay of admission", "num_stays": 812, "num_dropped": 26},
        {"rule": "at least 6 h", "num_stays": 801, "num_dropped": 11},
        {"rule": "at least one vital sign", "num_stays": 796, "num_dropped": 5},
    ]
    split = {"num_patients": 557, "num_stays": 557, "num_hours": 26101, "num_windows": 1204}
    dataset = {
        "name": "CinC 2012",
        "num_stays": 796,
        "num_patients": 796,
        "num_hours": 37412,
        "num_windows": 1720,
        "attrition": attrition,
        "splits": {
            "train": split,
            "tuning": {**split, "num_stays": 121, "num_patients": 121},
            "held_out": {**split, "num_stays": 118, "num_patients": 118},
        },
    }
    return {
        "run": "demo_cinc2012",
        "created": "2026-01-02T03:04:05+00:00",
        "headline_context": 24,
        "config_digest": "9f" * 32,
        "code_digest": CODE,
        "dataset": dataset,
        "stages": _stages(),
        "other_code": [{name: stage[name] for name in ("name", "key", "code_digest")} for stage in _stages() if stage["reused"]],
        "phases": {
            recipe: {"0": [_phase(name, level, 600 // len(PHASES[recipe])) for name in PHASES[recipe]]} for recipe, level in RECIPES.items()
        },
        "costs": {
            recipe: {
                "0": {
                    "num_steps": 600,
                    "encoder_tokens": 1_200_000 if "joint" in PHASES[recipe] else 0,
                    "sft_tokens": 0 if recipe == "untrained" else 98_304,
                    "latent_tokens": 412_345,
                    "predictor_tokens": 231_000,
                    "seconds": 412.5,
                }
            }
            for recipe in RECIPES
        },
        "roundtrip": {
            "clin_jepa": {"r2": figure(0.41, None), "variables": {"heart_rate": 0.71, "map": 0.52, "glucose": None}},
            "untrained": {
                "r2": None,
                "reason": "fewer than 100 hours with each variable",
                "variables": {"heart_rate": 0.2, "map": 0.1, "glucose": None},
            },
        },
        "drift": {recipe: {str(context): _drift(level, context) for context in (6, 12, 24)} for recipe, level in RECIPES.items()},
        "forecasts": {recipe: _forecasts(level) for recipe, level in list(RECIPES.items())[:2]},
        "geometry": {
            "clin_jepa": _geometry(1.92),
            "no_alignment": _geometry(1.71),
            "sft": _geometry(1.12),
            "untrained": {"ratio": None, "reason": "the stable stays' mean displacement cannot be told from noise", "k_hours": 12},
        },
        "downstream": {
            "in_hospital_death": _task(0.76),
            "hypotension_8h": _task(0.72),
            "hyperglycaemia_8h": _task(0.65),
            "hypoxaemia_8h": _task(None),
        },
        "regression": {"map_8h": _numbers(4.0), "creatinine_day_2": _numbers(None)},
        "added_value": {"clin_jepa": _added_value(0.03), "untrained": _added_value(0.0)},
        "risk": _risk(),
        "timings": {"ingest": 41.5, "training": 402.0, "evaluation": 88.0, "wall": 560.0},
        "versions": {"clinjepa": "0.1.0", "python": "3.11.7", "ray": "2.60.0", "torch": "2.13.0"},
    }


def extras() -> dict[str, Any]:
    rng = random.Random(0)
    training = {recipe: {"0": _curves(PHASES[recipe], level, rng)} for recipe, level in RECIPES.items()}
    pictures = {}
    for index, recipe in enumerate(RECIPES):
        groups = [("deteriorating", "stable", "other")[min(i % 5, 2)] for i in range(600)]
        spread = {"deteriorating": 1.6 - 0.3 * index, "stable": -1.0, "other": 0.0}
        points = [[rng.gauss(spread[g], 1), rng.gauss(spread[g] / 2, 0.8)] for g in groups]
        paths = {"deteriorating": [[0.1 * k, 0.2 * k] for k in range(13)], "stable": [[-0.05 * k, 0.0] for k in range(13)]}
        picture = {"points": points, "groups": groups, "cohort": "onset_within_24h:hypotension_8h", "paths": paths}
        pictures[recipe] = {"umap": picture, "pca": picture | {"explained": [0.31, 0.12]}}
    bands = [(0.5 * hour + 4, 1.5 * hour + 9) for hour in (1, 4, 8, 12, 24)]
    fans = [
        Fan(
            f"MAP, patient {patient}",
            "mmHg",
            [
                FanPoint(hour, 70 + rng.gauss(0, wide), 70 + patient, 70 - narrow, 71 + narrow, 70 - wide, 71 + wide)
                for hour, (narrow, wide) in zip((1, 4, 8, 12, 24), bands, strict=True)
            ],
        )
        for patient in (1, 2, 3)
    ]
    return {
        "training": training,
        "fans": fans,
        "pictures": pictures,
        "config_yaml": "name: demo_cinc2012\nsource:\n  kind: cinc2012\n",
        "notes": ["Some tasks have too few patients here; the tables say which & why <they> are missing."],
    }


def _stages() -> list[dict[str, Any]]:
    rows = [("ingest", 41.5, True, None), ("trajectories", 12.0, True, None), ("sft", 88.0, False, ["clin_jepa", "no_alignment", "sft"])]
    rows += [("warmup", 60.2, False, ["clin_jepa", "no_alignment"]), ("joint", 122.7, False, ["clin_jepa", "no_alignment"])]
    rows += [
        ("alignment", 31.0, False, ["clin_jepa"]),
        ("finalization", 45.0, False, ["clin_jepa"]),
        ("finalization", 61.0, False, ["no_alignment"]),
    ]
    rows += [
        ("finalization", 70.0, False, ["sft"]),
        ("finalization", 69.0, False, ["untrained"]),
        ("evaluate drift", 9.1, False, ["untrained"]),
    ]
    found = []
    for index, (name, seconds, reused, recipes) in enumerate(rows):
        stage = {"name": name, "key": f"{index:02d}" * 16, "seconds": seconds, "reused": reused, "num_workers": 2}
        stage["code_digest"] = OTHER_CODE if reused else CODE
        ended = f"2026-01-02T03:{10 + 2 * index:02d}:05Z"
        stage |= {"ended": ended, "waited_seconds": None if recipes is None else 7.0 * index, "invocation": "b" if recipes else "a"}
        found.append({**stage, "recipes": recipes} if recipes else stage)
    return found


def _phase(name: str, level: float, num_steps: int) -> dict[str, Any]:
    alarm = {"metric": "rankme", "step": 240, "value": 1.4, "threshold": 1.5}
    row = {
        "name": name,
        "num_steps": num_steps,
        "loss_first": 80 * level,
        "loss_last": 30 * level,
        "tuning_l1_first": 40 * level,
        "tuning_l1_last": 20 * level,
        "latent_std": 0.4,
        "rankme": 11.0 * level,
    }
    return {**row, "alarms": [alarm]} if name == "alignment" else row


def _drift(level: float, context: int) -> dict[str, Any]:
    names = ("l1", "centred_cosine", "norm_ratio", "mase", "vs_mean")
    horizons: dict[str, Any] = {}
    for h in (1, 6, 12, 24):
        if context + h > 47:
            horizons[str(h)] = {**dict.fromkeys(names), "reason": f"no stay lasts {context + h} h"}
            continue
        growth = 1 + 0.06 * math.log(h)
        values = (34 * level * growth, 0.8 - 0.4 * level, 0.97 - 0.002 * h, 0.9 * level * growth, level * growth)
        horizons[str(h)] = {name: figure(value, abs(value) * 0.07) for name, value in zip(names, values, strict=True)}
        horizons[str(h)] |= {"variance_ratio": figure(0.8), "change": figure(growth - 1), "num_windows": 240 - context - h}
        horizons[str(h)] |= {"change_of_space": figure(0.02), "change_of_prediction": figure(growth / 1.02 - 1)}
    return {
        "h_max": 12 if context == 24 else 24,
        "num_stays": 96 - context,
        "horizons": horizons,
        "drift": figure(0.06 * math.log(24), 0.03),
        "drift_survivors": figure(-0.05, 0.03),
        "starts": {str(start): {"vs_mean": figure(0.7 * level), "drift": figure(0.1), "num_windows": 90 - start} for start in (0, 12)},
        "actions": {
            name: {"12": figure(gain, 0.03), "24": figure(gain, 0.03)}
            for name, gain in {"carried_forward": 0.01, "none": 0.2, "shuffled": 0.1 if level < 0.7 else 0.0, "late": 0.05}.items()
        },
    }


def _geometry(level: float) -> dict[str, Any]:
    """Onset of hypotension is the headline; SOFA is absent, deaths are too few."""
    moved = {
        "ratio": figure(level, 0.4, 61),
        "plain_ratio": figure(level - 0.2, None, 61),
        "mean_displacement_ratio": figure(1 + level / 20, 0.03, 61),
        "farther_share": figure(0.45 + level / 20, 0.1, 61),
        "coherence": {"deteriorating": figure(0.12, 0.05, 61), "stable": figure(0.03, 0.04, 61)},
        "p_length": 0.012,
        "p_vector": 0.004,
        "p_farther": 0.2,
        "num_pairs": 31,
        "num_independent": 31,
    }
    about = {"definition": "deteriorating: hypotension begins", "k_hours": 12, "num_deteriorating": 40, "num_stable": 60, "p_holm": 0.024}
    onset = {**moved, "cohort": "onset_within_24h:hypotension_8h", **about, "by_k": {"6": moved, "12": moved}}
    onset["severity"] = {"distance": None, "along_axis": figure(0.3, 0.2, 61), "num_stays": 40, "reason": "SOFA is the same in all stays"}
    few = {"ratio": None, "mean_displacement_ratio": None, "reason": "2 matched pairs last 12 h beyond t0; at least 5 are needed"}
    death = {**few, "num_pairs": 2, "num_independent": 2, "cohort": "in_hospital_death", **about, "by_k": {"12": few}}
    return {
        **onset,
        "headline_rule": "the cohort with the most pairs",
        "cohorts": {"in_hospital_death": death, "onset_within_24h:hypotension_8h": onset},
        "absent": {"sofa_2_within_24h": "not for source CinC 2012"},
        "space": {
            "rankme": 11.5,
            "leading_share": 0.2,
            "isotropy": 0.31,
            "cosine_of_random_hours": 0.8,
            "latent_std": 0.4,
            "num_hours": 900,
        },
    }


def _forecasts(level: float) -> dict[str, Any]:
    """Two variables at two horizons, one of them without a distribution; one task that can be scored and one that cannot."""
    methods = ("model", "last_value", "train_mean", "lightgbm")
    variables: dict[str, Any] = {name: {} for name in ("map", "lactate")}
    for name, horizon in ((name, horizon) for name in variables for horizon in ("1", "24")):
        known = name == "map"
        cell = {of: {method: figure(level + place / 10) for place, method in enumerate(methods)} for of in ("mae", "rmse", "mase", "crps")}
        cell["spearman"] = {method: None if method == "train_mean" else figure(0.6) for method in methods}
        cell |= {of: figure(0.88) if known else None for of in ("coverage_50", "width_50", "coverage_90", "width_90")}
        cell |= {
            "distribution": "by_level" if known else None,
            "pit": [0.1] * 10 if known else None,
            "num_values": 200,
            "num_measured": 200,
        }
        cell |= {
            "measured": {"model": figure(0.7), "measured_share": figure(0.72)},
            "num_hours": 230,
            "reason": "a constant forecast has no ranks",
        }
        variables[name][horizon] = cell
    overall = {
        "num_variables": 2,
        "num_windows": 230,
        "mase": {method: figure(level + place / 10) for place, method in enumerate(methods)},
        "crps_ratio": {method: figure(level + place / 10) for place, method in enumerate(methods)},
        "model_over_lightgbm": figure(0.05),
        "coverage_50": figure(0.49),
        "coverage_90": figure(0.88),
        "measured": {"model": figure(0.7), "measured_share": figure(0.72)},
    }
    curve = {"predicted": [0.05, 0.2, 0.6], "observed": [0.04, 0.25, 0.5], "number": [50, 50, 50]}
    scores = {name: figure(0.7) for name in ("auroc", "brier", "brier_skill", "ece", "slope", "intercept")} | {"reliability": curve}
    counts = {"num_positive": 30, "num_total": 150, "num_positive_patients": 25, "prevalence": 0.2, "horizon_hours": 8}
    return {
        "context": 24,
        "num_windows": {"train": 900, "tuning": 200, "held_out": 230},
        "horizons": {"1": overall, "24": overall},
        "variables": variables,
        "events": {
            "hypotension_8h": {**counts, "methods": {"model": scores, "last_value": scores}},
            "circulatory_failure_8h": {**counts, "methods": {}, "reason": "its rule reads treatments, which are not forecast"},
        },
        "cut": "48 h ahead are cut: its training windows have at most 72 h",
    }


def _task(level: float | None) -> dict[str, Any]:
    methods = {"clin_jepa": 0.04, "no_alignment": 0.03, "sft": 0.02, "untrained": -0.07, "lightgbm": 0.06}
    columns = ("history_only", "actions_carried_forward", "recorded_actions")
    found: dict[str, Any] = {}
    for method, gain in methods.items():
        found[method] = {}
        for index, column in enumerate(columns[:1] if method == "lightgbm" else columns):
            if level is None:
                found[method][column] = {"auroc": None, "auprc": None, "reason": TOO_FEW, "num_positive": 3, "num_total": 410}
            else:
                value = level + gain + 0.01 * index
                found[method][column] = {
                    "auroc": figure(value, 0.06),
                    "auprc": figure(value - 0.4, 0.08),
                    "num_positive": 16,
                    "num_total": 118,
                }
    return found


def _numbers(level: float | None) -> dict[str, Any]:
    """A task whose label is a number: probes of two recipes with three inputs, and a baseline; None: it cannot be estimated."""
    columns = ("history_only", "actions_carried_forward", "recorded_actions")
    unit = {"unit": "mg/dL" if level is None else "mmHg", "num_total": 410}
    found: dict[str, Any] = {}
    for method, more in {"clin_jepa · linear": 0.0, "clin_jepa · mlp": -0.2, "untrained · linear": 1.0, "ridge": 0.4}.items():
        found[method] = {}
        for index, column in enumerate(columns[:1] if method == "ridge" else columns):
            if level is None:
                found[method][column] = {
                    "mae": None,
                    "r2": None,
                    "reason": "7 patients with a label in train; at least 10 are needed",
                } | unit
                continue
            found[method][column] = {"mae": figure(level + more - 0.1 * index, 0.3), "r2": figure(0.4 - more / 5)} | unit
            if (method, column) != ("clin_jepa · linear", "history_only"):
                found[method][column]["mae_difference"] = figure(more - 0.1 * index, 0.15)
    return found


def _added_value(gain: float) -> dict[str, Any]:
    """A task to which the latent adds, one to which it does not, and one that cannot be estimated; 1 % of the patients are too few."""
    few = "1 patients with a positive label in 1 % of the training patients; 2 are needed"
    rare = "3 patients with a positive label in train; at least 10 are needed"
    counts = {"num_total": 410, "num_positive": 60, "num_patients": 118, "num_positive_patients": 30}
    shares = {"0.01": 0.65, "0.1": 0.68, "1": 0.7}
    tasks: dict[str, Any] = {}
    for task, own, reason in (("hypotension_8h", gain, None), ("in_hospital_death", -0.02, None), ("hypoxaemia_8h", 0.0, rare)):
        found = {share: _share(level, own, reason or (few if share == "0.01" else None)) for share, level in shares.items()}
        tasks[task] = {**counts, "shares": found}
    return {"num_train_patients": 557, "tasks": tasks}


def _share(level: float, gain: float, reason: str | None) -> dict[str, Any]:
    counts = {"num_total": 410, "num_positive": 60, "num_positive_patients": 30}
    inputs = {"lightgbm": {"features": 0.0, "latents": -0.05, "both": gain}, "linear": {"features": -0.02, "latents": -0.04}}
    cells: dict[str, Any] = {}
    differences: dict[str, Any] = {}
    for estimator, by_input in inputs.items():
        for name, more in by_input.items():
            found: dict[str, Any] = {"auroc": figure(level + more), "auprc": figure(level + more - 0.4)}
            over: dict[str, Any] = {"auroc": figure(more, 0.02), "auprc": figure(more, 0.03), "p_auroc": 0.005, "p_holm": 0.01}
            if reason:
                found, over = {"auroc": None, "auprc": None, "reason": reason}, dict.fromkeys(over) | {"reason": reason}
            cells.setdefault(estimator, {})[name] = found | counts
            if name != "features":
                differences.setdefault(estimator, {})[name] = over
    learnt = {"num_train_patients": {0.65: 6, 0.68: 56}.get(level, 557), "num_train_positive_patients": 12, "num_train_points": 900}
    return {**learnt, "methods": cells, "differences": differences}


def _risk() -> dict[str, Any]:
    """An hourly task with one group that is too small and one method without probabilities, and a task of the whole stay."""
    counts = {"num_total": 410, "num_positive": 60, "num_patients": 118, "num_positive_patients": 30, "prevalence": 60 / 410}
    curve = [{"predicted": 0.05 + 0.2 * at, "observed": figure(0.04 + 0.18 * at), "num_total": 41} for at in range(3)]
    calibration = {"brier": figure(0.1), "ece": figure(0.03), "slope": figure(0.8), "intercept": figure(0.1), "reliability": curve}
    best = {"auroc": figure(0.8), "auroc_gap": None, "observed_minus_predicted": figure(0.05), "calibration_gap": figure(0.04)}
    other = {"auroc": figure(0.7), "auroc_gap": figure(-0.1), "observed_minus_predicted": figure(0.01), "calibration_gap": None}
    sex = {"best_auroc": "F", "worst_auroc": "M", "best_calibrated": "M", "worst_calibrated": "F", "groups": {"F": best, "M": other}}
    lone = {
        **dict.fromkeys(("best_auroc", "worst_auroc", "best_calibrated", "worst_calibrated")),
        "groups": {"MICU": other | {"auroc_gap": None}},
    }
    groups = {
        "sex": {"F": counts, "M": counts},
        "unit": {"MICU": counts, "<SICU>": counts | {"reason": "3 patients with a positive label; at least 10 are needed"}},
    }
    alarm = {"recall": figure(0.6), "false_alarms_per_day": figure(0.99, None), "lead_hours": figure(5.0, None), "threshold": 0.31}
    silent = {"recall": figure(0.0), "false_alarms_per_day": figure(0.0, None), "lead_hours": None, "threshold": None}
    decision = {"net_benefit": figure(0.05), "over_default": figure(0.01)}
    full = {
        "calibration": calibration,
        "subgroups": {"sex": sex, "unit": lone},
        "alarms": {"1": alarm, "2": alarm},
        "decisions": {"0.1": decision},
    }
    order = {
        "subgroups": {},
        "alarms": {"1": silent | {"reason": "no event is caught at this rate"}},
        "decisions": {},
        "reason": "the method's scores order the points and are no probabilities",
    }
    once = {
        "num_events": 0,
        "num_event_patients": 0,
        "num_stays": 118,
        "patient_days": 0.0,
        "reason": "predicted once per stay, not hour by hour",
    }
    events = {"num_events": 30, "num_event_patients": 30, "num_stays": 118, "patient_days": 68.3}
    settings = {"num_bins": 10, "alarm_rates": [1.0, 2.0], "silence_hours": 8, "stride_hours": 4}
    settings |= {"thresholds": [0.1], "min_group_patients": 10, "num_bootstrap": 1000}
    return {
        "column": "history_only",
        "settings": settings,
        "tasks": {
            "hypotension_8h": {**counts, "groups": groups, "events": events, "methods": {"clin_jepa · linear": full, "sofa": order}},
            "in_hospital_death": {
                **counts,
                "groups": {},
                "events": once,
                "methods": {"clin_jepa · linear": full | {"alarms": {}, "subgroups": {}}},
            },
        },
    }


def _curves(phases: tuple[str, ...], level: float, rng: random.Random) -> list[dict[str, Any]]:
    total, step, found = 600, 0, []
    for name in phases:
        length = total // len(phases)
        steps = [
            {"step": step + i, "loss": 90 * level * math.exp(-(step + i) / 300) * rng.uniform(0.93, 1.07)} for i in range(0, length, 10)
        ]
        marks = [
            {"step": step + i, "rankme": 8 + 4 * level + rng.random(), "latent_std": 0.3 + 0.0002 * (step + i)}
            for i in range(0, length, 50)
        ]
        found.append({"name": name, "steps": steps, "diagnostics": marks})
        step += length
    return found
