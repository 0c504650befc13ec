"""The study of docs/study.md: the paper's claims on open data, and what stands beside gradient boosting.

Runs the parts of `benchmarks/study/parts.py` one after the other with `clinjepa run`, and keeps their figures in
`benchmarks/results/study.json` after each. `--work FOLDER` is the storage; a killed study goes on there. `--only` names groups
(candidates, claims, rules, death). Needs CLINJEPA_DATA with `cinc2019` and `cinc2012`. `--quick`: one part on simulated patients.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.study.figures import kept_figures
from benchmarks.study.parts import GROUPS, OWN, Part, parts
from benchmarks.support.harness import RESULTS, Report, arguments, publish
from tests.support.machines.cli import ROOT, environment

MINIATURE = Part("miniature", "claims", "cinc2019", ("clin_jepa", f"{OWN}/decode_frozen.yaml", "untrained"), (0,))
SMALL = (
    "source.kind=simulator",
    "source.path=null",
    "source.simulator.num_patients=80",
    "tokenizer.vocab_size=512",
    "encoder.hidden_size=32",
    "encoder.num_layers=1",
    "encoder.ffn_size=64",
    "predictor.hidden_size=32",
    "predictor.num_layers=1",
    "predictor.ffn_size=64",
    "sft.max_steps=6",
    "curriculum.num_steps=24",
    "curriculum.global_batch=4",
    "curriculum.micro_batch=2",
    "curriculum.ema_momentum=0.2",
    "evaluation.downstream.tasks=[hypotension_8h]",
    "evaluation.downstream.probe.max_epochs=3",
    "evaluation.downstream.baselines.names=[lightgbm]",
    "evaluation.downstream.baselines.num_trials=1",
    "evaluation.added_value.enabled=false",
    "evaluation.drift.num_bootstrap=20",
    "evaluation.geometry.num_bootstrap=20",
    "evaluation.downstream.num_bootstrap=20",
    "evaluation.forecasts.num_variables=3",
    "evaluation.forecasts.num_trees=5",
)


def clinjepa(*words: str) -> None:
    """Run a command of this package; its output is the terminal's.

    Raises:
        SystemExit: It failed, with its status.
    """
    done = subprocess.run([sys.executable, "-m", "pipelines.cli", *words], env=environment(), cwd=str(ROOT), check=False)
    if done.returncode:
        raise SystemExit(done.returncode)


def run_words(part: Part, storage: Path, settings: tuple[str, ...]) -> list[str]:
    """The command line of a part, without the program."""
    grid = [f"grid.recipes={json.dumps(part.recipes)}", f"grid.seeds={list(part.seeds)}"]
    return ["run", f"{OWN}/{part.data}.yaml", f"name={part.name}", f"storage={storage}", *settings, *part.settings, *grid]


def source_of(part: Part, data: Path, stays: int) -> tuple[str, ...]:
    """Settings of the source. Only CinC 2019 is cut to `stays` patients; both sets of CinC 2012 are read whole."""
    path = f"source.path={data / part.data}"
    return (path, f"source.max_stays={stays}") if part.data == "cinc2019" else (path,)


def score(part: Part, storage: Path, data: Path) -> dict[str, Any]:
    """The figures of the part's frozen trials on the other subset, by recipe."""
    found: dict[str, Any] = {}
    for recipe in part.recipes:
        name = f"{part.name}_{part.external}_{Path(recipe).stem}"
        words = ["--source", part.data, "--path", str(data / part.data), f"source.subsets=[{part.external}]", "--name", name]
        clinjepa("score", str(storage / "runs" / part.name), "--recipe", Path(recipe).stem, *words)
        found[Path(recipe).stem] = kept_figures(storage / "runs" / name)
    return found


def study(storage: Path, data: Path, stays: int, groups: list[str], keep: Any) -> dict[str, Any]:
    """Figures by part; `keep` is called with all of them after each part."""
    found: dict[str, Any] = json.loads((storage / "study.json").read_text()) if (storage / "study.json").exists() else {}
    for part in (one for one in parts() if one.group in groups):
        clinjepa(*run_words(part, storage, source_of(part, data, stays)))
        found[part.name] = kept_figures(storage / "runs" / part.name)
        if part.external is not None:
            found[f"{part.name}_{part.external}"] = score(part, storage, data)
        (storage / "study.json").write_text(json.dumps(found))
        keep(found)
    return found


def report_of(stays: int, found: dict[str, Any]) -> Report:
    """One figure a recipe and task in `measured`; all else in the details."""
    measured = {
        f"{part}_auroc_{task}_{method}".replace(" · ", "_"): figure["value"]
        for part, of in found.items()
        if "auroc" in of
        for task, methods in of["auroc"].items()
        for method, figure in methods.items()
        if figure is not None
    }
    return Report("study", measured, {}, {}, {"stays_of_cinc2019": stays, "parts": found})


def main() -> None:
    options = arguments(__doc__ or "", work=None, stays=4800, only=",".join(GROUPS))
    groups = options.only.split(",")
    if unknown := sorted(set(groups) - set(GROUPS)):
        raise SystemExit(f"--only: {', '.join(unknown)} is no group; there are {', '.join(GROUPS)}")
    with tempfile.TemporaryDirectory(prefix="clj-") as scratch:
        storage = Path(options.work or scratch)
        storage.mkdir(parents=True, exist_ok=True)
        if options.quick:
            clinjepa(*run_words(MINIATURE, storage, SMALL))
            publish(report_of(80, {MINIATURE.name: kept_figures(storage / "runs" / MINIATURE.name)}), True)
            return
        data = Path(os.environ.get("CLINJEPA_DATA", "/nonexistent"))
        if missing := [name for name in ("cinc2019", "cinc2012") if not (data / name).is_dir()]:
            raise SystemExit(f"no folder {missing[0]} in CLINJEPA_DATA; `clinjepa data get {missing[0]}` fetches the open copy")
        study(storage, data, options.stays, groups, lambda found: publish(report_of(options.stays, found), False))
    print(f"figures: {RESULTS / 'study.json'}")


if __name__ == "__main__":
    main()
