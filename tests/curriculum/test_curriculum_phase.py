"""What a phase changes, what it leaves alone, and what interrupting it does to its result: nothing."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from clinjepa.curriculum import sft
from clinjepa.curriculum.checkpoints import checkpoint, saving
from clinjepa.curriculum.checkpoints.checkpoint import save_checkpoint
from clinjepa.curriculum.dispatch import run_training_job
from clinjepa.curriculum.feed.plain_feed import plain_feed
from clinjepa.curriculum.feed.window_batches import WindowBatches
from clinjepa.curriculum.feed.window_plan import Assignment, mix_seed, torch_seed
from clinjepa.curriculum.hard_sync import hard_sync
from clinjepa.curriculum.jobs import Job, PhaseJob, SyncJob
from clinjepa.curriculum.phase import run_phase
from clinjepa.curriculum.steps import assembly
from clinjepa.curriculum.steps.assembly import assemble
from clinjepa.curriculum.steps.diagnostics import PhaseDiagnostics
from clinjepa.curriculum.steps.encoder_specs import encoder_spec
from clinjepa.curriculum.steps.encoding import _CHUNK_TAG
from clinjepa.curriculum.steps.objective import PhaseObjective, spread
from clinjepa.curriculum.training_loop import Launch
from clinjepa.curriculum.workers.dist import Dist
from clinjepa.errors import CheckpointError, ConfigError, StoreError, TrainingError
from clinjepa.model.encoding.encoder import build_encoder
from clinjepa.model.encoding.packing import pack_texts
from clinjepa.model.predictor import load_predictor
from clinjepa.storage import Folder
from clinjepa.trajectory.tokens.latent_store import LatentReader, LatentWriter, finish_latents
from tests.support.training.curriculum_jobs import CURRICULUM, ENCODER, encoder_settings, phase_job, sft_job
from tests.support.training.curriculum_processes import run_job
from tests.support.training.curriculum_store import make_base_and_latents, make_latents, make_trajectories
from tests.support.training.saved import checkpoints_in, newest_whole

PHASE_RESULTS = {"predictor.safetensors", "predictor.json", "optimizer.safetensors", "optimizer.json", "encoder.json", "metrics.json"}
SFT_RESULTS = {"model.safetensors", "config.json", "metrics.json"}
pytestmark = pytest.mark.filterwarnings("ignore:.*the target does not arrive")


class Curriculum:
    """Stores and the results of warmup, joint refinement and alignment, four steps each, on one worker."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.trajectories = make_trajectories(root)
        self.base_latents = make_base_and_latents(root, self.trajectories, encoder_settings())
        run_job(self.job("warmup"))
        run_job(self.job("joint"))
        self.joint_latents = make_latents(root / "joint_latents", self.trajectories, root / "base", root / "joint", encoder_settings())
        run_job(self.job("alignment"))

    def job(self, phase: str, **changes) -> PhaseJob:
        folder = self.root
        inputs = {
            "warmup": {"latents": getattr(self, "base_latents", None)},
            "joint": {"predictor": str(folder / "warmup"), "first_step": 4, "latents": None},
            "alignment": {
                "predictor": str(folder / "joint"),
                "encoder": str(folder / "joint"),
                "target": str(folder / "joint"),
                "latents": getattr(self, "joint_latents", None),
                "first_step": 8,
            },
            "hard_sync": {"encoder": str(folder / "joint"), "target": str(folder / "alignment"), "num_steps": 0, "first_step": 12},
            "finalization": {
                "predictor": str(folder / "alignment"),
                "encoder": str(folder / "joint"),
                "latents": getattr(self, "joint_latents", None),
                "first_step": 12,
                "total_steps": 16,
            },
            "joint_again": {
                "predictor": str(folder / "alignment"),
                "encoder": str(folder / "joint"),
                "target": str(folder / "alignment"),
                "latents": None,
                "first_step": 12,
                "total_steps": 16,
            },
        }
        fields = {"out": str(folder / phase), "trajectories": self.trajectories, "base": str(folder / "base"), **inputs[phase]}
        return phase_job(phase.removesuffix("_again"), **{**fields, **changes})

    def stage(self, name: str) -> Job:
        """A phase, or SFT of the base."""
        if name != "sft":
            return self.job(name)
        return sft_job(self.root / "sft", self.trajectories, base=str(self.root / "base"), **SFT_STEPS)

    def sync_job(self, **changes) -> SyncJob:
        return replace(SyncJob(str(self.root / "hard_sync"), str(self.root / "joint"), str(self.root / "alignment")), **changes)

    def undisturbed(self, stage: str) -> Path:
        """The folder of what a stage leaves when nothing interrupts it."""
        if not (self.root / stage / "metrics.json").exists():
            run_job(self.stage(stage))
        return self.root / stage

    def tensors(self, phase: str, name: str) -> dict[str, torch.Tensor]:
        return load_file(self.root / phase / f"{name}.safetensors")

    def metrics(self, phase: str) -> dict:
        return json.loads((self.root / phase / "metrics.json").read_text())


@pytest.fixture(scope="module")
def curriculum(tmp_path_factory) -> Curriculum:
    return Curriculum(tmp_path_factory.mktemp("curriculum"))


def starts(out: str | Path) -> list[int]:
    """Steps from which the attempts at a stage went on."""
    return [start["step"] for start in json.loads(Path(out, "timing.json").read_text())["starts"]]


def losses(out: str | Path) -> list[float]:
    return [row["loss"] for row in json.loads(Path(out, "metrics.json").read_text())["steps"]]


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_each_phase_writes_exactly_the_states_it_changes(curriculum):
    written = {phase: {path.stem for path in (curriculum.root / phase).glob("*.safetensors")} for phase in ("warmup", "joint", "alignment")}
    assert written == {
        "warmup": {"predictor", "optimizer"},
        "joint": {"predictor", "optimizer", "online", "target"},
        "alignment": {"predictor", "optimizer", "target"},
    }


def test_joint_refinement_changes_every_online_and_target_tensor(curriculum):
    start = assemble(curriculum.job("joint"), Dist.current(), None).encoder.online_state()
    assert {"A", "B"} == {name.partition(".lora_")[2][0] for name in start}
    for name in ("online", "target"):
        assert changed(start, curriculum.tensors("joint", name)) == set(start)


def test_the_target_follows_the_online_encoder_by_the_emas_rule_at_every_step_of_joint_refinement(curriculum, tmp_path):
    every = {"checkpoint_every_steps": 1, "keep_checkpoints": 9, "asynchronous_checkpoints": False}
    job = curriculum.job("joint", out=str(tmp_path), ema_momentum=0.9, **every)
    before = assemble(job, Dist.current(), None).encoder.online_state()
    run_job(job)
    for step in range(5, 9):
        online, target = (load_file(tmp_path / f"checkpoints/step-{step:08d}/{name}.safetensors") for name in ("online", "target"))
        for name, tensor in target.items():
            torch.testing.assert_close(tensor, 0.9 * before[name] + 0.1 * online[name], rtol=1e-6, atol=1e-9)
            assert not torch.equal(tensor, before[name])
        before = target


def test_every_predictor_tensor_trains_in_every_phase(curriculum):
    warmup, joint, alignment = (curriculum.tensors(phase, "predictor") for phase in ("warmup", "joint", "alignment"))
    assert changed(warmup, joint) == changed(joint, alignment) == set(warmup)


def test_alignment_moves_the_target_by_the_closed_form_of_the_ema(curriculum):
    online, start = curriculum.tensors("joint", "online"), curriculum.tensors("joint", "target")
    end = curriculum.tensors("alignment", "target")
    kept = CURRICULUM["ema_momentum"] ** 4
    for name in online:
        torch.testing.assert_close(end[name], online[name] + kept * (start[name] - online[name]), rtol=1e-5, atol=1e-8)


def test_the_predictors_moments_live_through_all_phases_and_the_encoders_start_when_it_joins(curriculum):
    states = [curriculum.root / phase / "optimizer.json" for phase in ("warmup", "joint", "alignment")]
    updates = [json.loads(state.read_text())["updates"] for state in states]
    assert updates == [{"predictor": 4}, {"predictor": 8, "encoder": 4}, {"predictor": 12}]


def test_the_learning_rate_is_one_curve_over_the_phases(curriculum):
    rates = [row["lr_predictor"] for phase in ("warmup", "joint", "alignment") for row in curriculum.metrics(phase)["steps"]]
    assert len(rates) == 12 and rates == sorted(rates, reverse=True)


def test_hard_sync_makes_the_target_equal_to_online(curriculum, tmp_path):
    gaps = hard_sync(curriculum.sync_job(out=str(tmp_path)))
    assert gaps["target_gap_before"] > 1e-5 > gaps["target_gap_after"]
    assert not changed(curriculum.tensors("joint", "online"), load_file(tmp_path / "target.safetensors"))


def test_hard_sync_refuses_states_of_different_encoders(curriculum, tmp_path):
    other = {name: tensor[:1].contiguous() for name, tensor in curriculum.tensors("joint", "online").items()}
    (tmp_path / "target").mkdir()
    save_file(other, tmp_path / "target" / "target.safetensors")
    with pytest.raises(CheckpointError, match="shape"):
        hard_sync(curriculum.sync_job(out=str(tmp_path), target=str(tmp_path / "target")))


@pytest.mark.parametrize("phase", ["warmup", "alignment"])
def test_cached_latents_give_the_losses_of_encoding_at_every_step(curriculum, tmp_path, phase):
    run_job(curriculum.job(phase, out=str(tmp_path), latents=None, reencode=True))
    assert losses(tmp_path) == pytest.approx(losses(curriculum.root / phase), rel=1e-5)


def test_a_phase_on_cached_latents_never_loads_the_encoder(curriculum, tmp_path, monkeypatch):
    monkeypatch.setattr(assembly, "build_encoder", lambda *args, **options: pytest.fail("an encoder is loaded"))
    run_job(curriculum.job("warmup", out=str(tmp_path)))
    assert losses(tmp_path) == losses(curriculum.root / "warmup")


@pytest.mark.parametrize(("adapter_dropout", "plain_budget"), [(0.0, 1 << 20), (0.3, 96)], ids=["in_one_chunk", "with_adapter_dropout"])
def test_the_chunked_gradient_is_that_of_the_plain_graph(curriculum, adapter_dropout, plain_budget):
    """Without dropout the plain graph is of one chunk; with it, of the same chunks, because their masks are drawn chunk by chunk."""
    gradients = []
    for plain in (False, True):
        settings = encoder_settings(lora={**ENCODER["lora"], "dropout": adapter_dropout}, token_budget=plain_budget if plain else 96)
        job = curriculum.job("joint", encoder_settings=settings, micro_batch=6)
        modules = assemble(job, Dist.current(), None)
        objective, arrays = PhaseObjective(job, modules.predictor, modules.encoder, Dist.current()), window_batch(job)
        modules.predictor.train()
        if plain:
            plain_backward(objective, arrays, plain_budget)
        else:
            objective.forward_backward(arrays, Assignment(5, 0, 1), (1, 1), sync=True)
        gradients.append({name: parameter.grad for name, parameter in modules.encoder.online_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-4, atol=1e-5)


def window_batch(job: PhaseJob) -> dict[str, torch.Tensor]:
    fetcher = WindowBatches(job)
    ids = fetcher.plan.step(5)[0]
    return {name: torch.from_numpy(value) for name, value in fetcher.window_arrays(ids, fetcher.plan.rollout_starts(5, 0)).items()}


def plain_backward(objective: PhaseObjective, arrays: dict[str, torch.Tensor], token_budget: int) -> None:
    """The same micro-batch with the encoder's graph kept from input to loss."""
    seed = torch_seed(0, 5, 0)
    latents = objective.latents(arrays, seed, with_gradient=False)
    texts = [text.numpy() for text in torch.split(arrays["tokens"], arrays["text_lengths"].tolist())]
    z_UD = torch.empty(len(texts), latents.z_state_BTD.shape[-1])
    for chunk, pack in enumerate(pack_texts(texts, token_budget)):
        torch.manual_seed(mix_seed(_CHUNK_TAG, seed, chunk))
        z_UD = z_UD.index_copy(0, pack.order, objective._encoder(pack.input_ids_L, pack.position_ids_L, pack.last_index_N))
    latents.z_static_BD = z_UD[arrays["static_texts"].long()]
    latents.z_state_BTD, latents.z_action_BTD = spread(z_UD, arrays["state_texts"]), spread(z_UD, arrays["action_texts"])
    torch.manual_seed(seed)
    sum(objective._terms(latents, arrays, 5)).backward()


@pytest.mark.parametrize("stage", ["warmup", "joint", "joint_again", "alignment", "finalization", "sft"])
def test_an_interrupted_stage_leaves_the_same_bytes_as_an_uninterrupted_one(curriculum, tmp_path, stage):
    often = {"checkpoint_every_steps": 2, "log_every_steps": 1, "asynchronous_checkpoints": False}
    job = replace(curriculum.stage(stage), out=str(tmp_path), **often)
    first = job.start_step
    run_until(job, first + 3)
    run_job(job)
    assert starts(tmp_path) == [first, first + 2]
    undisturbed = curriculum.undisturbed(stage)
    names = {path.name for path in undisturbed.iterdir() if path.is_file()} - {"timing.json"}
    assert names >= (PHASE_RESULTS if isinstance(job, PhaseJob) else SFT_RESULTS)
    differing = [name for name in sorted(names) if (tmp_path / name).read_bytes() != (undisturbed / name).read_bytes()]
    assert differing == []


def run_until(job: Job, last_step: int) -> None:
    """Run a job that is interrupted when that many steps are done."""

    class Interrupted(RuntimeError):
        pass

    def stop(step: int, metrics: dict, checkpoint: str | None) -> None:
        if step == last_step:
            raise Interrupted

    with pytest.raises(Interrupted):
        run_training_job(job, Launch(Dist.current(), plain_feed(job), stop))


@pytest.mark.parametrize("stage", ["warmup", "sft"])
def test_the_time_of_diagnostics_is_told_apart_from_that_of_steps(curriculum, tmp_path, monkeypatch, stage):
    measured = (PhaseDiagnostics, "_figures") if stage == "warmup" else (sft.TuningLoss, "_loss")
    measure = getattr(*measured)

    def slowly(*arguments):
        time.sleep(3)
        return measure(*arguments)

    monkeypatch.setattr(*measured, slowly)
    run_job(replace(curriculum.stage(stage), out=str(tmp_path)))
    timing = json.loads((tmp_path / "timing.json").read_text())
    assert timing["diagnosing_seconds"] >= 6 and timing["seconds_per_step"] * timing["timed_steps"] < 3


def test_a_finished_phase_started_again_only_writes_its_files_anew(curriculum, tmp_path):
    shutil.copytree(curriculum.root / "warmup", tmp_path / "out")
    (tmp_path / "out" / "predictor.safetensors").unlink()
    reports = []
    job = curriculum.job("warmup", out=str(tmp_path / "out"))

    run_phase(job, Dist.current(), plain_feed(job), lambda *report: reports.append(report))
    assert not changed(curriculum.tensors("warmup", "predictor"), load_file(tmp_path / "out" / "predictor.safetensors"))
    assert reports == []


def test_every_further_node_that_is_going_away_brings_one_checkpoint_at_once(curriculum, tmp_path, monkeypatch):
    monkeypatch.setattr(saving, "SECONDS_BETWEEN_QUESTIONS", -1.0)
    job = curriculum.job("warmup", out=str(tmp_path), num_steps=9, checkpoint_every_steps=100)
    leaving = chain([[], ["a"], ["a"], ["b"], ["b"], [], ["b", "a"], ["b", "c"]], repeat([]))
    saved = []

    def on_report(done, metrics, address):
        if address is not None:
            saved.append(done)

    run_phase(job, Dist.current(), plain_feed(job), on_report, lambda: next(leaving))
    assert saved == [2, 4, 8, 9]


def test_weights_of_another_size_are_refused(curriculum, tmp_path):
    job = curriculum.job("joint", out=str(tmp_path))
    with pytest.raises(CheckpointError, match="another model"):
        run_job(replace(job, predictor_settings=replace(job.predictor_settings, ffn_size=128)))


def test_a_loss_that_is_not_finite_stops_the_phase_and_keeps_the_last_good_checkpoint(curriculum, tmp_path):
    job = curriculum.job("warmup", out=str(tmp_path), predictor_lr=1e30, checkpoint_every_steps=1)
    with pytest.raises(TrainingError, match="not finite.*last good checkpoint is kept"):
        run_job(job)
    assert (tmp_path / "checkpoints").is_dir() and not (tmp_path / "predictor.safetensors").exists()


def test_what_is_being_written_when_a_phase_must_stop_becomes_a_whole_checkpoint(curriculum, tmp_path, monkeypatch):
    forward_backward = PhaseObjective.forward_backward

    def not_finite(objective, arrays, assigned, counts, sync):
        losses, tokens = forward_backward(objective, arrays, assigned, counts, sync)
        return losses * (float("nan") if assigned.step == 2 else 1), tokens

    def slowly(*arguments):
        time.sleep(1)
        return save_checkpoint(*arguments)

    monkeypatch.setattr(PhaseObjective, "forward_backward", not_finite)
    monkeypatch.setattr(checkpoint, "save_checkpoint", slowly)
    job = curriculum.job("warmup", out=str(tmp_path), checkpoint_every_steps=2)
    with pytest.raises(TrainingError, match="not finite"):
        run_job(job)
    assert newest_whole(checkpoints_in(job.out)) == 2


def test_a_gradient_that_explodes_stops_the_phase_and_keeps_a_checkpoint_to_go_on_from(curriculum, tmp_path, monkeypatch):
    forward_backward = PhaseObjective.forward_backward

    def exploding(objective, arrays, assigned, counts, sync):
        weight = assigned.weight * (100_000 if assigned.step == 22 else 1)
        return forward_backward(objective, arrays, replace(assigned, weight=weight), counts, sync)

    job = curriculum.job("warmup", num_steps=24, total_steps=24, checkpoint_every_steps=10, asynchronous_checkpoints=False)
    run_job(replace(job, out=str(tmp_path / "undisturbed")))
    job = replace(job, out=str(tmp_path / "exploding"))
    with monkeypatch.context() as fault, pytest.raises(TrainingError) as raised:
        fault.setattr(PhaseObjective, "forward_backward", exploding)
        run_job(job)
    said = str(raised.value)
    assert said.startswith("phase warmup, step 22: grad_norm_predictor is ")
    assert "more than 1000 times the median of the last 22 steps" in said
    assert f"the last good checkpoint is kept under {job.out}/checkpoints" in said
    assert newest_whole(checkpoints_in(job.out)) == 20 and not Path(job.out, "predictor.safetensors").exists()
    run_job(job)
    assert starts(job.out) == [0, 20] and losses(job.out) == losses(tmp_path / "undisturbed")


def constant_latents(curriculum: Curriculum, folder: Path, spread: float = 0.0) -> str:
    """Latents of one mean; with `spread` they also differ along one direction, and by a tenth of a percent of it in all others."""
    reader, out = LatentReader(Folder(curriculum.base_latents)), Folder(folder)
    stays = [(stay, *(1 + spread * (z[..., :1] + 1e-3 * z) for z in reader.stay(stay))) for stay in reader.stay_ids]
    LatentWriter(reader.encoder_digest).write_part(out, "p0", stays)
    finish_latents(out)
    return out.address


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_a_space_of_a_mean_or_of_a_mean_and_one_direction_raises_one_alarm(curriculum, tmp_path, spread):
    latents = constant_latents(curriculum, tmp_path / "latents", spread)
    run_job(curriculum.job("warmup", out=str(tmp_path / "out"), latents=latents))
    alarms = json.loads((tmp_path / "out" / "metrics.json").read_text())["alarms"]
    assert [(alarm["kind"], alarm["step"]) for alarm in alarms] == [("collapse", 0)]


def test_a_collapsed_space_stops_the_phase_when_asked_to(curriculum, tmp_path):
    latents = constant_latents(curriculum, tmp_path / "latents")
    with pytest.raises(TrainingError, match="collapsed"):
        run_job(curriculum.job("warmup", out=str(tmp_path / "out"), latents=latents, stop_on_collapse=True))


def test_a_missing_latent_store_is_one_clear_error(curriculum, tmp_path):
    with pytest.raises(StoreError, match="index.parquet is missing"):
        run_job(curriculum.job("warmup", out=str(tmp_path), latents=str(tmp_path / "nowhere")))


def test_a_phase_that_trains_nothing_is_refused_by_the_training_loop(curriculum):
    with pytest.raises(ConfigError, match="hard_sync"):
        run_job(curriculum.job("hard_sync"))


def test_every_diagnostic_of_the_report_is_measured_at_the_start_and_the_end(curriculum):
    measured = curriculum.metrics("alignment")["diagnostics"]
    assert [row["step"] for row in measured] == [8, 12]
    names = {"latent_std", "rankme", "leading_share", "norm", "centred_cosine", "l1_vs_copy", "l1_vs_mean", "target_gap"}
    assert all(names <= set(row) for row in measured)


def test_the_mean_latent_behind_l1_vs_mean_is_of_training_hours(curriculum, tmp_path):
    """Tuning latents that are all alike have an error of 0 against their own mean, and none against that of training."""
    reader, out = LatentReader(Folder(curriculum.base_latents)), Folder(tmp_path / "latents")
    windows = Folder(curriculum.trajectories).read_table("windows.parquet").to_pylist()
    tuning = {row["stay_id"] for row in windows if row["split"] == "tuning"}
    stays = [(stay, *((0 * z + 5 if stay in tuning else z) for z in reader.stay(stay))) for stay in reader.stay_ids]
    LatentWriter(reader.encoder_digest).write_part(out, "p0", stays)
    finish_latents(out)
    run_job(curriculum.job("warmup", out=str(tmp_path / "out"), latents=out.address, num_steps=1, total_steps=1))
    first = json.loads((tmp_path / "out" / "metrics.json").read_text())["diagnostics"][0]
    assert tuning and 0 < first["l1_vs_mean"] < 10


def test_the_predictor_records_the_hours_of_the_longest_training_window(curriculum):
    windows = Folder(curriculum.trajectories).read_table("windows.parquet").to_pylist()
    longest = max(row["num_hours"] for row in windows if row["split"] == "train")
    spec = load_predictor(Folder(curriculum.root / "alignment")).spec
    assert spec.trained_hours == longest and spec.reach_hours == longest - 1 < spec.max_hours


def test_a_micro_batch_holds_equal_texts_once(curriculum):
    arrays = window_batch(curriculum.job("joint", micro_batch=6))
    texts = [tuple(text.tolist()) for text in torch.split(arrays["tokens"], arrays["text_lengths"].tolist())]
    assert len(set(texts)) == len(texts) < int(arrays["valid"].sum()) * 2


SFT_STEPS = {"max_steps": 4, "tokens_per_step": 1024, "micro_tokens": 300}


def test_sft_of_a_small_base_makes_a_base_that_predicts_its_texts_better(curriculum, tmp_path):
    run_job(sft_job(tmp_path, curriculum.trajectories, base=str(curriculum.root / "base"), **SFT_STEPS))
    build_encoder(encoder_spec(encoder_settings(), Folder(curriculum.trajectories)), Folder(tmp_path), 0)
    measured = [row["tuning_loss"] for row in json.loads((tmp_path / "metrics.json").read_text())["diagnostics"]]
    assert measured[-1] < measured[0] - 0.3


def test_sft_computes_no_more_places_at_a_time_than_a_pack_may_take_and_the_same_loss(curriculum, tmp_path, monkeypatch):
    places: list[int] = []
    forward = sft._next_token_sum

    def counted(encoder, pack, dist):
        if encoder.training:
            places.append(pack.input_ids_L.numel())
        return forward(encoder, pack, dist)

    monkeypatch.setattr(sft, "_next_token_sum", counted)
    losses = []
    for micro_tokens in (300, 1024):
        places.clear()
        out, steps = tmp_path / str(micro_tokens), SFT_STEPS | {"micro_tokens": micro_tokens, "max_steps": 1}
        run_job(sft_job(out, curriculum.trajectories, base=str(curriculum.root / "base"), **steps))
        losses.append(json.loads((out / "metrics.json").read_text())["steps"][0]["loss"])
        assert 0 < max(places) <= micro_tokens * 9 // 8
        # What overhangs is in the same pack.
        assert len(places) == -(-1024 // micro_tokens)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
