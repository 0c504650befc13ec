"""docs/grids.md works: its sweep is planned as the page says and runs in miniature; its tables are those of the code."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pyarrow.csv
import pytest
import yaml

from clinjepa.config import load_config
from clinjepa.config.grid import SearchConfig
from pipelines.graph.experiment import build_experiment
from pipelines.results.costs import TrialCosts
from tests.repository.test_docs import blocks
from tests.support.machines.cli import ROOT, call, call_here

PAGE = ROOT / "docs" / "grids.md"
MINIATURE = [
    *("source.simulator.num_patients=60", "source.num_partitions=2", "tokenizer.vocab_size=300", "execution.local_num_cpus=2"),
    *("encoder={hidden_size: 16, num_layers: 1, num_heads: 2, num_kv_heads: 1, ffn_size: 32}", "execution.progress=false"),
    *("predictor={hidden_size: 16, num_layers: 1, num_heads: 2, ffn_size: 32}", "curriculum.num_steps=8", "execution.num_workers=1"),
    *("evaluation.downstream.num_bootstrap=10", "evaluation.drift.num_bootstrap=10", "evaluation.geometry.num_bootstrap=10"),
    "evaluation.geometry.umap=false",
]


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """The page's configuration where it says to save it."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    (text,) = blocks(PAGE, "yaml")
    path = tmp_path / "configs" / "sweep.yaml"
    path.write_text(text)
    return path


def test_the_sweep_has_the_trials_and_names_that_the_page_gives(sweep: Path) -> None:
    experiment = build_experiment(load_config(sweep), "content")
    assert len(experiment.trials) == 24 and "are 24 trials" in PAGE.read_text()
    assert f"`{experiment.trials[0].name}`" in PAGE.read_text()


def test_every_plan_of_the_page_prints_its_trials(sweep: Path, tmp_path: Path) -> None:
    lines = [line for block in blocks(PAGE, "sh") for line in block.splitlines() if line.startswith("clinjepa plan")]
    assert len(lines) == 2
    for line, trials in zip(lines, (6, 24), strict=True):
        config, *overrides = shlex.split(line)[2:]
        done = call_here("plan", str(tmp_path / config), f"storage={tmp_path / 'store'}", *overrides)
        assert done.returncode == 0 and f"grid: {trials} trials" in " ".join(done.stdout.split()), done.stdout[-2000:]


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.timeout(400)
def test_a_grid_along_an_axis_runs_and_leaves_its_table(sweep: Path, tmp_path: Path) -> None:
    own = ["grid.recipes=[untrained]", "grid.seeds=[0]", "grid.axes={curriculum.predictor_lr: [1.0e-3, 4.0e-3]}"]
    done = call("grid", str(sweep), f"storage={tmp_path / 'store'}", *own, *MINIATURE, timeout=380)
    assert done.returncode == 0, done.stdout[-3000:]
    table = pyarrow.csv.read_csv(tmp_path / "store/runs/sweep/grid.csv").to_pylist()
    assert [row["trial"] for row in table] == ["untrained · predictor_lr=0.001, seed 0", "untrained · predictor_lr=0.004, seed 0"]
    first, second = table
    assert first["num_steps"] == second["num_steps"] == 8 and first["num_finished"] == first["num_stages"]
    assert first["latent_tokens"] == second["latent_tokens"] > 0 and first["encoder_tokens"] == 0
    assert first["predictor_tokens"] == second["predictor_tokens"] > 8 * 4
    assert first["tuning_l1"] != second["tuning_l1"] and any(name.startswith("drift.") for name in first)
    of_families = ("drift", "geometry", "downstream", "roundtrip", "forecasts", "curriculum")
    assert all(f"`{name}`" in PAGE.read_text() or name.partition(".")[0] in of_families for name in first)


def test_the_page_names_every_cost_and_every_searcher() -> None:
    page = PAGE.read_text()
    for name in (*TrialCosts.__dataclass_fields__, *SearchConfig.model_fields["algorithm"].annotation.__args__):  # type: ignore[union-attr]
        assert f"`{name}`" in page
    assert yaml.safe_load(blocks(PAGE, "yaml")[0])["grid"]["axes"]
