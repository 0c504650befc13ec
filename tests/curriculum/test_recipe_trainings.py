"""Every recipe runs from its YAML in miniature and does what it says: changed tensors, loss, workers, resume."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from clinjepa.curriculum.jobs import PhaseJob, job_digest
from clinjepa.curriculum.recipes import recipe_names
from clinjepa.curriculum.steps.assembly import assemble
from clinjepa.curriculum.workers.dist import Dist
from tests.curriculum.plain_recipe_loss import PlainLoss
from tests.curriculum.test_curriculum_phase import run_until, starts
from tests.support.training.curriculum_jobs import CURRICULUM
from tests.support.training.curriculum_processes import run_job, run_on_workers
from tests.support.training.recipe_chain import Chain, RecipeStores, losses

pytestmark = pytest.mark.filterwarnings("ignore:.*the target does not arrive")


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> RecipeStores:
    return RecipeStores(tmp_path_factory.mktemp("recipes"))


def main_phase(chain: Chain) -> str:
    """The phase that trains the encoder; where it is frozen, the one that trains the predictor."""
    return next((name for name, job in chain.jobs.items() if job.trains_encoder), next(iter(chain.jobs)))


_JOINT = {"warmup": "predictor", "joint": "predictor online target", "alignment": "predictor target", "finalization": "predictor"}
_FROZEN = {"predictor": "predictor"}
WRITTEN = {
    "clin_jepa": _JOINT,
    "no_warmup": {name: parts for name, parts in _JOINT.items() if name != "warmup"},
    "no_alignment": {name: parts for name, parts in _JOINT.items() if name != "alignment"},
    "continued": {name: parts for name, parts in _JOINT.items() if name != "warmup"},
    "vjepa2_ac": {"refinement": "online target heads", "predictor": "predictor"},
    "sft": _FROZEN,
    "untrained": _FROZEN,
    "random": _FROZEN,
    "naive": {"joint": "predictor online"},
    "layernorm_targets": _JOINT,
    "sigreg": {"warmup": "predictor", "joint": "predictor online", "finalization": "predictor"},
    "chained": _JOINT,
    "hybrid": _JOINT | {"joint": "predictor online target heads"},
    "token_aux": _JOINT,
    "value_decode": {"decode": "online heads"} | _JOINT,
    "value_aux": _JOINT | {"joint": "predictor online target heads"},
}
"""What every phase that trains writes, by recipe and phase. A new recipe needs its line."""


def test_every_recipe_of_the_folder_has_its_line() -> None:
    assert set(WRITTEN) == set(recipe_names())


@pytest.mark.parametrize("name", recipe_names())
def test_each_phase_changes_every_tensor_of_what_it_trains_and_writes_no_other(stores: RecipeStores, name: str) -> None:
    chain = stores.chain(name)
    assert list(chain.jobs) == list(WRITTEN[name])
    for phase, written in WRITTEN[name].items():
        assert {path.stem for path in (chain.out / phase).glob("*.safetensors")} == {*written.split(), "optimizer"}
        start = assemble(chain.jobs[phase], Dist.current(), None).captured(chain.jobs[phase])[0]
        for part in written.split():
            end = chain.tensors(phase, part)
            unchanged = {each for each in end if torch.equal(end[each], start[part][each])}
            assert unchanged == set(), f"{phase}, {part}"


@pytest.mark.parametrize("name", recipe_names())
def test_the_logged_loss_is_that_of_a_plain_computation(stores: RecipeStores, name: str) -> None:
    chain = stores.chain(name)
    for phase in chain.jobs if name == "clin_jepa" else [main_phase(chain)]:
        assert chain.losses(phase)[0] == pytest.approx(PlainLoss(chain.jobs[phase]).value(), rel=1e-5), phase


def test_the_terms_that_look_ahead_have_windows_that_are_too_short_for_them(stores: RecipeStores) -> None:
    counts = PlainLoss(stores.chain("hybrid").jobs["joint"]).counts
    assert counts["in_16_hours"] == 0 < counts["in_4_hours"]  # windows have at most 12 hours


SHORT = ("clin_jepa", "sigreg", "hybrid", "value_decode", "token_aux", "vjepa2_ac")
"""Recipes of the short form: every kind of term and of statistic over the global batch once."""
BY_NAME = pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in SHORT else pytest.mark.long) for name in recipe_names()])


@pytest.fixture(scope="module")
def on_two_workers(stores: RecipeStores, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of every recipe's main phase, trained by two workers; recipes with the same phase have the same folder."""
    root, folders, jobs = tmp_path_factory.mktemp("two"), dict[str, Path](), dict[str, PhaseJob]()
    asked = [each for each in request.session.items if "on_two_workers" in getattr(each, "fixturenames", ())]
    for name in dict.fromkeys(each.callspec.params["name"] for each in asked):  # type: ignore[attr-defined]  # parametrized below
        chain = stores.chain(name)
        job = chain.jobs[main_phase(chain)]
        folders[name] = root / job_digest(job)
        jobs[job_digest(job)] = replace(job, out=str(folders[name]))
    run_on_workers(list(jobs.values()), 2, layer_by_layer=True, seconds=100 * len(jobs))
    return folders


@pytest.mark.timeout(1500)  # the first of these tests trains every recipe that was asked for
@BY_NAME
def test_two_workers_compute_the_losses_and_weights_of_one(stores: RecipeStores, on_two_workers: dict[str, Path], name: str) -> None:
    chain, folder = stores.chain(name), on_two_workers[name]
    phase = main_phase(chain)
    assert losses(folder) == pytest.approx(chain.losses(phase), rel=1e-5)
    for part in WRITTEN[name][phase].split():
        one, two = chain.tensors(phase, part), load_file(folder / f"{part}.safetensors")
        assert max(float((one[key] - two[key]).abs().max()) for key in one) < 2e-4


@BY_NAME
def test_an_interrupted_phase_leaves_the_same_bytes(stores: RecipeStores, tmp_path: Path, name: str) -> None:
    chain = stores.chain(name)
    phase = main_phase(chain)
    often = {"checkpoint_every_steps": 1, "log_every_steps": 1, "asynchronous_checkpoints": False}
    job = replace(chain.jobs[phase], out=str(tmp_path), **often)
    run_until(job, job.first_step + 1)
    run_job(job)
    assert starts(tmp_path) == [job.first_step, job.first_step + 1]
    names = {path.name for path in (chain.out / phase).iterdir() if path.is_file()} - {"timing.json"}
    assert [each for each in sorted(names) if (tmp_path / each).read_bytes() != (chain.out / phase / each).read_bytes()] == []


def test_the_momentum_of_masked_refinement_rises_over_the_phase(stores: RecipeStores, tmp_path: Path) -> None:
    job = stores.chain("vjepa2_ac").jobs["refinement"]
    every = {"checkpoint_every_steps": 1, "keep_checkpoints": 9, "asynchronous_checkpoints": False}
    before = assemble(job, Dist.current(), None).encoder.online_state()
    run_job(replace(job, out=str(tmp_path), **every))
    for done, momentum in ((1, 0.996), (2, 0.997), (3, 0.998), (4, 0.999)):
        folder = tmp_path / f"checkpoints/step-{done:08d}"
        online, target = load_file(folder / "online.safetensors"), load_file(folder / "target.safetensors")
        for name, tensor in target.items():
            torch.testing.assert_close(tensor, momentum * before[name] + (1 - momentum) * online[name], rtol=1e-6, atol=1e-9)
        before = target


def test_the_rates_of_a_phase_with_a_schedule_of_its_own_start_and_end_with_it(stores: RecipeStores) -> None:
    chain = stores.chain("vjepa2_ac")
    rates = [row["lr_predictor"] for row in json.loads((chain.out / "predictor" / "metrics.json").read_text())["steps"]]
    assert len(rates) == 6 and rates[0] == CURRICULUM["predictor_lr"] and rates == sorted(rates, reverse=True)


def test_gradients_reach_the_encoder_through_targets_only_where_the_phase_says_so(stores: RecipeStores, tmp_path: Path) -> None:
    """Squared error alone: with a gradient into the targets the encoder moves otherwise than without."""
    job = stores.chain("sigreg").jobs["joint"]
    without = replace(
        job, phase=replace(job.phase, target_gradient=False, loss=job.phase.loss[:1]), out=str(tmp_path / "without"), num_steps=1
    )
    within = replace(without, phase=replace(without.phase, target_gradient=True), out=str(tmp_path / "within"))
    for each in (without, within):
        run_job(each)
    norms = [json.loads((tmp_path / name / "metrics.json").read_text())["steps"][0]["grad_norm_encoder"] for name in ("without", "within")]
    assert losses(tmp_path / "without") == losses(tmp_path / "within") and norms[0] != pytest.approx(norms[1], rel=1e-2)


def test_the_gradient_of_a_chained_rollout_is_not_that_of_a_teacher_forced_one(stores: RecipeStores, tmp_path: Path) -> None:
    job = replace(stores.chain("chained").jobs["joint"], num_steps=1)
    norms = []
    for kind in ("chained", "teacher_forced"):
        run_job(replace(job, phase=replace(job.phase, rollout=kind), out=str(tmp_path / kind)))
        norms.append(json.loads((tmp_path / kind / "metrics.json").read_text())["steps"][0]["grad_norm_encoder"])
    assert norms[0] != pytest.approx(norms[1], rel=1e-3)
