"""docs/adding_a_recipe.md works: its recipe and its term train in miniature, its tables are those of the code."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from clinjepa.curriculum.feed.window_batches import WindowBatches
from clinjepa.curriculum.feed.window_plan import torch_seed
from clinjepa.curriculum.recipes import LossTerm, load_recipe, load_recipes, recipe_names
from clinjepa.curriculum.recipes.phases import OWN_SETTINGS
from clinjepa.curriculum.recipes.reading import _PHASE_FIELDS
from clinjepa.curriculum.steps.assembly import assemble
from clinjepa.curriculum.steps.objective import PhaseObjective
from clinjepa.curriculum.terms.table import COUNTS, TERMS
from clinjepa.curriculum.workers.dist import Dist
from clinjepa.errors import ConfigError, TrainingError
from pipelines.graph.experiment import build_experiment
from tests.curriculum.plain_recipe_loss import Batch, PlainLoss
from tests.repository.test_docs import blocks
from tests.support.data.hour_grids import normalised_values
from tests.support.machines.cli import ROOT
from tests.support.training.curriculum_processes import run_job, run_on_workers
from tests.support.training.finished_training import small_config
from tests.support.training.recipe_chain import SHARES, Chain, RecipeStores, losses

PAGE = ROOT / "docs" / "adding_a_recipe.md"
pytestmark = pytest.mark.filterwarnings("ignore:.*the target does not arrive")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page's recipe and its file of terms."""
    root = tmp_path_factory.mktemp("own")
    (recipe,), (terms, values) = blocks(PAGE, "yaml"), blocks(PAGE, "python")
    (root / "direction.yaml").write_text(recipe)
    (root / "direction_terms.py").write_text(terms)
    (root / "next_values.py").write_text(values)
    loss = [{"term": "teacher_forcing", "weight": 1.0}, {"term": "next_values", "weight": 3.0}]
    phase = {"name": "only", "trains": ["predictor", "next_values"], "shares": list(SHARES), "loss": loss}
    (root / "next.yaml").write_text(yaml.safe_dump({"encoder_start": "sft", "terms": "next_values.py", "phases": [phase]}))
    return root


@pytest.fixture(scope="module")
def chain(folder: Path) -> Chain:
    return Chain(RecipeStores(folder / "stores"), load_recipe(str(folder / "direction.yaml")), folder / "out")


class NextValues(PlainLoss):
    def _next_values(self, batch: Batch, term: LossTerm) -> tuple[float, int]:
        """Huber distance of the next hour's values, hour by hour."""
        total = 0.0
        for window, (stay, start, hours) in enumerate(batch.windows):
            for hour in range(hours - 1):
                known, mean_number = normalised_values(self.job.ingest, stay, start + hour + 1)
                predicted_V = self.modules.heads["next_values"](batch.hidden_BTH[window, hour])
                errors = [abs(float(predicted_V[column]) - value) for column, value in known.items()]
                total += sum(error**2 / 2 if error < 1 else error - 0.5 for error in errors) / mean_number
        return total, sum(hours - 1 for *_, hours in batch.windows)


def test_a_term_that_reads_the_hours_values_trains_a_frozen_encoder_s_predictor(chain: Chain, folder: Path) -> None:
    own = Chain(chain.stores, load_recipe(str(folder / "next.yaml")), folder / "next")
    row = json.loads((own.out / "only" / "metrics.json").read_text())["steps"][0]
    plain = NextValues(own.jobs["only"])
    assert row["loss"] == pytest.approx(plain.value(), rel=1e-5) and row["next_values"] > 0
    assert set(json.loads((own.out / "only" / "hour_values.json").read_text())) == {"heart_rate", "map"}


def test_the_term_is_in_the_loss_and_logged_as_a_plain_computation_gives_it(chain: Chain) -> None:
    rows = json.loads((chain.out / "joint" / "metrics.json").read_text())["steps"]
    assert all(row["loss"] == pytest.approx(row["teacher_forcing"] + row["rollout"] + 2 * row["direction"]) for row in rows)
    assert "direction" not in json.loads((chain.out / "warmup" / "metrics.json").read_text())["steps"][0]
    assert rows[0]["direction"] == pytest.approx(plain_direction(chain), rel=1e-4)


def plain_direction(chain: Chain) -> float:
    """1 - cosine, hour by hour, for the first step of joint refinement."""
    job = chain.jobs["joint"]
    modules, fetcher = assemble(job, Dist.current(), None), WindowBatches(job)
    objective, total, count = PhaseObjective(job, modules.predictor, modules.encoder, Dist.current()), 0.0, 0
    modules.predictor.train()
    for micro, ids in enumerate(fetcher.plan.step(job.first_step)):
        given = fetcher.window_arrays(ids, fetcher.plan.rollout_starts(job.first_step, micro))
        arrays, seed = {name: torch.from_numpy(value) for name, value in given.items()}, torch_seed(job.seed, job.first_step, micro)
        with torch.no_grad():
            latents = objective.latents(arrays, seed, with_gradient=False)
            torch.manual_seed(seed)
            pred, _ = modules.predictor(latents.z_static_BD, latents.z_state_BTD, latents.z_action_BTD, arrays["valid"])
        for window in range(len(ids)):
            for hour in range(int(arrays["valid"][window].sum()) - 1):
                now = latents.z_state_BTD[window, hour]
                guess, true = pred[window, hour] - now, latents.target_BTD[window, hour + 1] - now
                total += 1 - float(guess @ true) / (float(guess.norm()) * float(true.norm()))
                count += 1
    return total / count


def test_two_workers_train_with_a_term_of_ones_own_as_one_does(chain: Chain, tmp_path: Path) -> None:
    run_on_workers([replace(chain.jobs["joint"], out=str(tmp_path / "joint"))], 2)
    assert losses(tmp_path / "joint") == pytest.approx(chain.losses("joint"), rel=1e-5)


def keys_of(folder: Path, *overrides: str) -> dict[str, str]:
    config = small_config(folder / "storage", f"grid.recipes=[clin_jepa, {folder / 'direction.yaml'}]", *overrides)
    trial = build_experiment(config, "0" * 16).trial("direction", 0)
    return {stage.label.split(" · ")[0]: stage.key for stage in trial.phases}


def test_a_changed_function_or_weight_makes_new_keys_for_the_phases_that_use_it(folder: Path, tmp_path: Path) -> None:
    for name in ("direction.yaml", "direction_terms.py"):
        (tmp_path / name).write_text((folder / name).read_text())
    before, weighed = keys_of(tmp_path), keys_of(tmp_path, "curriculum.term_weights={direction: 0.5}")
    (tmp_path / "direction_terms.py").write_text((folder / "direction_terms.py").read_text() + "\n# another\n")
    changed = keys_of(tmp_path)
    assert len({before["joint"], weighed["joint"], changed["joint"]}) == 3
    assert before["warmup"] == weighed["warmup"] == changed["warmup"]
    trials = {trial.recipe: trial for trial in build_experiment(small_config(tmp_path, "grid.recipes=[clin_jepa]"), "0" * 16).trials}
    assert trials["clin_jepa"].phases[0].key == before["warmup"]


def test_a_weight_of_no_term_is_refused(folder: Path) -> None:
    says = r"curriculum.term_weights .* names dirction, .* of grid.recipes; did you mean direction\? they have direction"
    with pytest.raises(ConfigError, match=says):
        keys_of(folder, "curriculum.term_weights={dirction: 0.5}")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import nothing_of_this_name", "fails when it is imported: ModuleNotFoundError"),
        ("x = 1", "defines no term; mark a function with @loss_term"),
        ("def broken(:", "file of terms is not Python: line 2: "),
        ("@loss_term(counts='hours', docs='')\ndef mine(): ...", "the first parameter is the TermInputs"),
        ("@loss_term(counts='hours', docs='')\ndef mine(margin=0.1): ...", "the first parameter is the TermInputs"),
        ("@loss_term(counts='hours', docs='')\ndef mine(*, inputs): ...", "the first parameter is the TermInputs"),
        ("@loss_term(counts='beats', docs='')\ndef mine(inputs): ...", "counts is 'beats'; allowed: hours"),
        ("@loss_term(counts='hours', docs='')\ndef mine(inputs, size): ...", "parameters size need a default"),
        (
            "@loss_term(counts='hours', docs='', reads=('labels',))\ndef mine(inputs): ...",
            "reads has labels; allowed: predictor, encoder, values",
        ),
        ("@loss_term(counts='hours', docs='')\ndef rollout(inputs): ...", "defines rollout, which the project has"),
    ],
)
def test_a_file_of_terms_that_cannot_be_used_is_refused_in_one_line(tmp_path: Path, source: str, message: str) -> None:
    (tmp_path / "mine.py").write_text("from clinjepa.curriculum.terms import loss_term\n" + source)
    (tmp_path / "own.yaml").write_text("{encoder_start: sft, terms: mine.py, phases: [{name: a, trains: predictor, shares: [warmup]}]}")
    with pytest.raises(ConfigError, match=message) as raised:
        load_recipes([str(tmp_path / "own.yaml")])
    assert "\n" not in str(raised.value) and "own.yaml" in str(raised.value)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return inputs.nothing.sum()", "phase joint: term direction fails with AttributeError in line 5 of its file"),
        ("return inputs.z_state_BTD", r"phase joint: term direction returns \(.*\); it must return a scalar"),
        (
            "return (inputs.z_state_BTD @ inputs.z_state_BTD).sum()",
            "phase joint: term direction fails with RuntimeError in line 5 of its file",
        ),
        ("return 3.0", "phase joint: term direction returns float; it must return a scalar"),
    ],
)
def test_a_term_that_fails_is_named_in_one_line(chain: Chain, tmp_path: Path, body: str, message: str) -> None:
    source = (
        "from clinjepa.curriculum.terms import loss_term\n\n@loss_term(counts='hours', docs='')\n"
        f"def direction(inputs, smallest_change: float = 0.01):\n    {body}\n"
    )
    job = replace(chain.jobs["joint"], out=str(tmp_path), terms_source=source)
    with pytest.raises(ConfigError, match=message) as raised:
        run_job(job)
    assert "\n" not in str(raised.value)


def test_a_term_that_returns_nan_stops_the_phase_before_its_first_update(chain: Chain, tmp_path: Path) -> None:
    source = (
        "from clinjepa.curriculum.terms import loss_term\n\n@loss_term(counts='hours', docs='')\n"
        "def direction(inputs, smallest_change: float = 0.01):\n    return (inputs.z_state_BTD * 0).sum().log() * 0\n"
    )
    job = replace(chain.jobs["joint"], out=str(tmp_path), terms_source=source, label="joint · direction")
    with pytest.raises(TrainingError, match=r"^phase joint · direction, step \d+: loss term direction is not finite before"):
        run_job(job)


def test_the_page_lists_every_term_count_field_setting_and_recipe() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for name, term in TERMS.items():
        options = ", ".join(f"`{option}` ({value})" for option, value in term.options.items()) or "–"
        assert f"| `{name}` | {'– (a statistic)' if term.of_sums else term.counts} | {options} | {term.docs} |" in page
    for name in (*COUNTS, *_PHASE_FIELDS, *(set(OWN_SETTINGS) - {"ema_momentum_end"}), *recipe_names()):
        assert f"`{name}`" in page
