"""A run trained on CinC 2012 set a, frozen, on other data: set b, CinC 2019, the MIMIC-IV demo as CLIF tables and as OpenICU's MEDS.

Each data set goes through `clinjepa score` as a user types it: reading, comparison with training, encoding, scores of every hour, and the
run's whole evaluation with nothing fitted. First the run scores its own held-out patients. Their figures must equal those of the run's
evaluation. The rates are tokens of the latent store over the seconds of its stage, and over those of both the latent store and the scores.

Needs CLINJEPA_DATA with `cinc2012`; of the other sets those that are there are scored (docs/data pages say where the open copies are).
`--openicu` is a folder of OpenICU's MEDS (docs/openicu.md). `--work FOLDER` keeps the run, so that a second call trains nothing.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.support.harness import Report, arguments, publish, run_command
from tests.support.machines.cli import ROOT, environment

NAME, OWN = "external", "own"
"""Names of the run, and of its held-out patients scored."""


@dataclass(frozen=True)
class External:
    """A data set beside the training's: options of `clinjepa score`, and its folder below CLINJEPA_DATA."""

    name: str
    folder: str
    options: tuple[str, ...]


SETS = (
    External("cinc2012_b", "cinc2012", ("--source", "cinc2012", "source.subsets=[b]")),
    External("cinc2019", "cinc2019", ("--source", "cinc2019")),
    External("clif_demo", "clif-mimic-demo", ("--source", "clif", "source.time_zone=Etc/GMT+5")),
)


def clinjepa(*words: str) -> list[str]:
    return [sys.executable, "-m", "pipelines.cli", *words]


def train(storage: Path, data: Path, stays: int, steps: int) -> Path:
    """The run on set a; its folder."""
    settings = [
        f"storage={storage}",
        f"name={NAME}",
        f"source.path={data / 'cinc2012'}",
        "source.subsets=[a]",
        f"source.max_stays={stays}",
        f"curriculum.num_steps={steps}",
        "grid.recipes=[clin_jepa]",
        "grid.seeds=[0]",
        "evaluation.downstream.baselines.names=[last_value]",
        "execution.progress=false",
    ]
    run_command(clinjepa("run", "configs/demo_cinc2012.yaml", *settings), env=environment(), cwd=str(ROOT))
    return storage / "runs" / NAME


def manifests(storage: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in (storage / "artifacts").glob("*/*/manifest.json")]


def score(storage: Path, run: Path, name: str, options: list[str]) -> dict[str, Any]:
    """Cost, stages and figures of one scoring."""
    known = {manifest["key"] for manifest in manifests(storage)}
    cost = run_command(clinjepa("score", str(run), *options, "--name", name, "execution.progress=false"), env=environment(), cwd=str(ROOT))
    made = {manifest["kind"]: manifest for manifest in manifests(storage) if manifest["key"] not in known}
    if "shift" not in made:
        raise SystemExit(f"{name} was scored before; give another --work folder")
    report = json.loads((storage / "runs" / name / "report.json").read_text())
    shift = json.loads((storage / "artifacts" / "shift" / made["shift"]["key"] / "result.json").read_text())
    found: dict[str, Any] = {
        "wall_seconds": cost.wall_seconds,
        "cpu_seconds": cost.cpu_seconds,
        "peak_bytes": cost.peak_bytes,
        "seconds": {kind: manifest["seconds"] for kind, manifest in made.items()},
        "shift": shift,
        "auroc": _aurocs(report),
        "coverage_90": {h: _value(of["coverage_90"]) for h, of in report["forecasts"]["clin_jepa"]["horizons"].items()},
        "drift": {context: _value(of["drift"]) for context, of in report["drift"]["clin_jepa"].items()},
    }
    if "embed" in made:
        tokens, embed = made["embed"]["metrics"]["num_tokens"], made["embed"]["seconds"]
        found["tokens_per_second"] = {"encoding": tokens / embed, "with_scores": tokens / (embed + made["scores"]["seconds"])}
    return found


def equal_to_its_own(storage: Path) -> int:
    """Files of evaluations of the own held-out patients that equal the run's; raises SystemExit where one does not."""
    by_key = {manifest["key"]: manifest for manifest in manifests(storage)}
    (trial,) = json.loads((storage / "runs" / OWN / "run.json").read_text())["trials"]
    equal = 0
    for manifest in (by_key[name.rpartition("/")[2]] for name in trial["artifacts"].values()):
        own = by_key.get(manifest["inputs"].get("fitted", ""))
        if own is None or manifest["kind"] != own["kind"]:
            continue
        for name in ("predictions.parquet", "forecasts.parquet", "regression.json", "result.json"):
            folders = [storage / "artifacts" / one["kind"] / one["key"] for one in (own, manifest)]
            if not all((folder / name).exists() for folder in folders):
                continue
            before, after = (_content(folder / name) for folder in folders)
            if before != after:
                raise SystemExit(f"{manifest['kind']}/{name}: the frozen run's own held-out patients have other figures")
            equal += 1
    return equal


def _content(path: Path) -> object:
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        return pq.read_table(path).to_pydict()
    content = json.loads(path.read_text())
    if isinstance(content, dict):
        content.pop("num_windows", None)  # of train and tuning too, which a frozen evaluation does not see
    return content


def _aurocs(report: dict[str, Any]) -> dict[str, float | None]:
    """Task -> AUROC of the linear probe on the history."""
    return {task: _value(methods["clin_jepa · linear"]["history_only"]["auroc"]) for task, methods in report["downstream"].items()}


def _value(figure: dict[str, Any] | None) -> float | None:
    return None if figure is None else figure["value"]


def main() -> None:
    options = arguments(__doc__ or "", work=None, stays=2000, steps=120, most=2000, openicu=None)
    stays, steps, most = (40, 12, 20) if options.quick else (options.stays, options.steps, options.most)
    data = Path(os.environ.get("CLINJEPA_DATA", "/nonexistent"))
    if not (data / "cinc2012").is_dir():
        raise SystemExit("no folder cinc2012 in CLINJEPA_DATA; `clinjepa data get cinc2012` fetches the open copy")
    with tempfile.TemporaryDirectory(prefix="clj-") as scratch:
        storage = Path(options.work or scratch)
        run = train(storage, data, stays, steps)
        score(storage, run, OWN, ["--patients", "held_out"])
        equal = equal_to_its_own(storage)
        sets = [(one.name, data / one.folder, one.options) for one in SETS if (data / one.folder).is_dir()]
        if options.openicu is not None:
            sets.append(("openicu_demo", Path(options.openicu), ("--source", "meds", "source.map=openicu")))
        own_rate = next(each["metrics"]["num_tokens"] / each["seconds"] for each in manifests(storage) if each["kind"] == "embed")
        found = {name: score(storage, run, name, ["--path", str(path), *words, f"source.max_stays={most}"]) for name, path, words in sets}
    measured = {"files_equal_on_own_held_out_patients": float(equal)}
    for name, one in found.items():
        measured[f"{name}_stays"] = one["shift"]["here"]["num_stays"]
        measured[f"{name}_peak_bytes"] = one["peak_bytes"]
        measured |= {f"{name}_auroc_{task}": value for task, value in one["auroc"].items() if value is not None}
        if "tokens_per_second" in one:
            measured[f"{name}_rate_over_own"] = one["tokens_per_second"]["encoding"] / own_rate
    publish(Report("external_scores", measured, {}, {}, {"training_stays": stays, "steps": steps, "sets": found}), options.quick)


if __name__ == "__main__":
    main()
