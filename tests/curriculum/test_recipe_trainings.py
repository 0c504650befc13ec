"""Every recipe runs from its YAML in miniature and does what it says: changed tensors, loss, workers, resume."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from clinjepa.curriculum.feed.window_batches import WindowBatches
from clinjepa.curriculum.feed.window_plan import mix_seed, torch_seed
from clinjepa.curriculum.jobs import PhaseJob
from clinjepa.curriculum.steps.assembly import assemble
from clinjepa.curriculum.steps.objective import PhaseObjective
from clinjepa.curriculum.terms.masked import masked_hours
from clinjepa.curriculum.workers.dist import Dist
from clinjepa.model.encoding.encoder import Encoder
from clinjepa.model.encoding.packing import pack_texts
from tests.curriculum.test_curriculum_phase import run_until, starts
from tests.support.training.curriculum_jobs import CURRICULUM
from tests.support.training.curriculum_processes import run_job, run_on_workers
from tests.support.training.recipe_chain import Chain, RecipeStores, losses

pytestmark = pytest.mark.filterwarnings("ignore:.*the target does not arrive")
TRAINED = ["no_warmup", "vjepa2_ac", "naive", "layernorm_targets", "sigreg", "chained", "hybrid", "token_aux"]
"""Recipes that train the encoder otherwise than clin_jepa."""


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> RecipeStores:
    return RecipeStores(tmp_path_factory.mktemp("recipes"))


def encoder_phase(chain: Chain) -> str:
    return next(name for name, job in chain.jobs.items() if job.trains_encoder)


WRITTEN = {
    "no_warmup": {"joint": "predictor online target", "alignment": "predictor target", "finalization": "predictor"},
    "vjepa2_ac": {"refinement": "online target heads", "predictor": "predictor"},
    "naive": {"joint": "predictor online"},
    "layernorm_targets": {"warmup": "predictor", "joint": "predictor online target", "alignment": "predictor target"},
    "sigreg": {"warmup": "predictor", "joint": "predictor online", "finalization": "predictor"},
    "chained": {"warmup": "predictor", "joint": "predictor online target", "alignment": "predictor target"},
    "hybrid": {"warmup": "predictor", "joint": "predictor online target heads", "alignment": "predictor target"},
    "token_aux": {"warmup": "predictor", "joint": "predictor online target", "alignment": "predictor target"},
}


@pytest.mark.parametrize("name", TRAINED)
def test_each_phase_changes_every_tensor_of_what_it_trains_and_writes_no_other(stores: RecipeStores, name: str) -> None:
    chain = stores.chain(name)
    for phase, written in WRITTEN[name].items():
        assert {path.stem for path in (chain.out / phase).glob("*.safetensors")} == {*written.split(), "optimizer"}
        job = chain.jobs[phase]
        before = assemble(job, Dist.current(), None)
        start = before.captured(job)[0]
        for part in written.split():
            end = chain.tensors(phase, part)
            unchanged = {each for each in end if torch.equal(end[each], start[part][each])}
            assert unchanged == set(), f"{phase}, {part}"


@pytest.mark.parametrize("name", TRAINED)
def test_the_logged_loss_is_that_of_a_plain_computation(stores: RecipeStores, name: str) -> None:
    chain = stores.chain(name)
    phase = encoder_phase(chain)
    job = chain.jobs[phase]
    assert chain.losses(phase)[0] == pytest.approx(plain_loss(name, job), rel=1e-5)


def plain_loss(name: str, job: PhaseJob) -> float:
    """The loss of the phase's first step, computed window by window and, for statistics, over all windows at once."""
    modules, fetcher, step = assemble(job, Dist.current(), None), WindowBatches(job), job.first_step
    objective = PhaseObjective(job, modules.predictor, modules.encoder, Dist.current(), modules.heads)
    for module in (modules.predictor, *modules.heads.values()):
        if module is not None:
            module.train()
    sums = dict.fromkeys(("teacher_forcing", "rollout", "masked_latents", "in_4_hours", "in_16_hours", "next_token"), 0.0)
    counts = {"in_4_hours": 0, "in_16_hours": 0}
    hours = predicted = rolled = masked = 0
    states = []
    for micro in range(job.num_micro_batches):
        ids = fetcher.plan.step(step)[micro]
        starts = fetcher.plan.rollout_starts(step, micro)
        arrays = {key: torch.from_numpy(value) for key, value in fetcher.window_arrays(ids, starts).items()}
        seed, valid = torch_seed(job.seed, step, micro), arrays["valid"]
        with torch.no_grad():
            latents = objective.latents(arrays, seed, with_gradient=False)
            torch.manual_seed(seed)
            states.append(latents.z_state_BTD[valid])
            hours, predicted = hours + int(valid.sum()), predicted + int(valid[:, 1:].sum())
            if name == "vjepa2_ac":
                hidden = masked_hours(valid, 0.4)
                assert int((valid & ~hidden).sum(dim=1).min()) >= 2
                pred = modules.heads["masked_latents"](latents.z_static_BD, latents.z_state_BTD, latents.z_action_BTD, valid & ~hidden)
                sums["masked_latents"] += float((pred - latents.target_BTD).abs().sum(-1)[hidden].sum())
                masked += int(hidden.sum())
                continue
            pred, hidden, cache = modules.predictor(latents.z_static_BD, latents.z_state_BTD, latents.z_action_BTD, valid, keep_cache=True)
            sums["teacher_forcing"] += float(compared(name, pred[:, :-1], latents.target_BTD[:, 1:])[valid[:, 1:]].sum())
            if name in ("hybrid", "token_aux"):
                sums["next_token"] += plain_next_token(modules.encoder, arrays) / job.num_micro_batches
            for head, module in modules.heads.items():
                ahead = int(head.split("_")[1])
                for window in range(len(ids)):
                    for hour in range(int(valid[window].sum()) - ahead):
                        guess = module(hidden[window, hour])
                        sums[head] += float(compared(name, guess, latents.target_BTD[window, hour + ahead]))
                        counts[head] += 1
            if name in ("sigreg", "hybrid"):
                continue
            begin = torch.from_numpy(starts).clamp(min=0)
            rows = torch.arange(len(begin))
            first = pred[rows, begin]
            if name in ("naive", "chained"):
                action = latents.z_action_BTD[rows, (begin + 1).clamp(max=valid.shape[1] - 1)]
                second = modules.predictor(None, first[:, None], action[:, None], cache=cache.up_to(begin), keep_cache=True)[0][:, 0]
            else:
                second = pred[rows, (begin + 1).clamp(max=valid.shape[1] - 1)]
            for index in range(len(begin)):
                if starts[index] >= 0:
                    for ahead, guess in ((1, first), (2, second)):
                        sums["rollout"] += float(compared(name, guess[index], latents.target_BTD[index, starts[index] + ahead]))
                    rolled += 1
    if name == "vjepa2_ac":
        return sums["masked_latents"] / masked
    if name == "sigreg":
        return sums["teacher_forcing"] / predicted + 0.09 * plain_sigreg(torch.cat(states), step, job.seed)
    if name == "hybrid":
        assert min(counts.values()) == 0 < max(counts.values())  # windows have at most 12 hours
        ahead = sum(sums[head] / max(1, counts[head]) for head in counts)
        return sums["teacher_forcing"] / predicted + ahead + 0.1 * sums["next_token"]
    return sums["teacher_forcing"] / predicted + sums["rollout"] / rolled + 10 * sums["next_token"]


def plain_next_token(encoder: Encoder, arrays: dict[str, torch.Tensor]) -> float:
    """Mean next-token loss of the distinct texts, text by text, end-of-text included."""
    total, lengths = 0.0, arrays["text_lengths"].tolist()
    for text in torch.split(arrays["tokens"], lengths):
        (pack,) = pack_texts([text.numpy()], 1 << 20, encoder.spec.eos_id)
        total += float(encoder(pack.input_ids_L, pack.position_ids_L, labels_L=pack.labels_L))
    return total / sum(lengths)


def compared(name: str, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    if name in ("layernorm_targets", "hybrid"):
        pred, target = normalised(pred), normalised(target)
    if name in ("sigreg", "hybrid"):
        return ((pred - target) ** 2).mean(-1)
    return (pred - target).abs().sum(-1)


def normalised(z: torch.Tensor) -> torch.Tensor:
    return (z - z.mean(-1, keepdim=True)) / (z.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()


def plain_sigreg(z_ND: torch.Tensor, step: int, seed: int) -> float:
    """LeJEPA's published statistic on all latents at once."""
    generator = torch.Generator().manual_seed(mix_seed(7, seed, step))
    directions = torch.randn(z_ND.shape[1], 256, generator=generator)
    t = torch.linspace(0, 3, 17)
    weights = torch.full((17,), 2 * 3 / 16)
    weights[[0, -1]] = 3 / 16
    normal = torch.exp(-t.square() / 2)
    x_t = (z_ND @ (directions / directions.norm(p=2, dim=0))).unsqueeze(-1) * t
    error = (x_t.cos().mean(0) - normal).square() + x_t.sin().mean(0).square()
    return float(((error @ (weights * normal)) * len(z_ND)).mean())


@pytest.mark.parametrize("name", ["vjepa2_ac", "sigreg", "chained", "hybrid", "token_aux"])
def test_two_workers_compute_the_losses_and_weights_of_one(stores: RecipeStores, tmp_path: Path, name: str) -> None:
    chain = stores.chain(name)
    phase = encoder_phase(chain)
    run_on_workers([replace(chain.jobs[phase], out=str(tmp_path / phase))], 2, layer_by_layer=True)
    assert losses(tmp_path / phase) == pytest.approx(chain.losses(phase), rel=1e-5)
    for part in {"online", "heads"} & {path.stem for path in (tmp_path / phase).glob("*.safetensors")}:
        one, two = chain.tensors(phase, part), load_file(tmp_path / phase / f"{part}.safetensors")
        assert max(float((one[key] - two[key]).abs().max()) for key in one) < 2e-4


@pytest.mark.parametrize("name", TRAINED)
def test_an_interrupted_phase_leaves_the_same_bytes(stores: RecipeStores, tmp_path: Path, name: str) -> None:
    chain = stores.chain(name)
    phase = encoder_phase(chain)
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
    for done, momentum in ((1, 0.996), (2, 0.998)):
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
