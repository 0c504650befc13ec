"""One dtype policy in every phase of a bf16 base: what is frozen and what flows is bf16, what is trained, saved or followed is fp32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, load_file

from clinjepa.curriculum.embedding import Embedder
from clinjepa.curriculum.feed.text_batches import TextBatches
from clinjepa.curriculum.feed.window_batches import WindowBatches
from clinjepa.curriculum.feed.window_plan import Assignment
from clinjepa.curriculum.jobs import EmbedJob, PhaseJob
from clinjepa.curriculum.settings import EncoderSettings
from clinjepa.curriculum.sft import SftTraining
from clinjepa.curriculum.steps.assembly import PhaseModules, assemble
from clinjepa.curriculum.steps.objective import PhaseObjective
from clinjepa.curriculum.workers.dist import Dist
from clinjepa.model.encoding.encoder import Encoder
from clinjepa.model.encoding.packing import encode_texts
from clinjepa.model.pretrained.adapters import adapter_of
from clinjepa.storage import Folder
from clinjepa.trajectory.tokens.latent_store import LatentReader, finish_latents
from clinjepa.trajectory.tokens.trajectory_store import TrajectoryReader
from tests.support.models.model_encoders import SETTINGS
from tests.support.models.public_models import write_shrunk_model
from tests.support.training.curriculum_jobs import phase_job, sft_job
from tests.support.training.curriculum_processes import run_job
from tests.support.training.curriculum_store import make_trajectories

FP32, BF16 = torch.float32, torch.bfloat16
pytestmark = pytest.mark.filterwarnings("ignore:.*the target does not arrive")


class Run:
    """Stores for a shrunk Qwen3-8B in bf16, and joint refinement of one step, whose adapters the later phases start from."""

    def __init__(self, root: Path) -> None:
        self.root, self.trajectories = root, make_trajectories(root, num_stays=9, max_hours=8)
        model = str(write_shrunk_model(root))
        self.settings = EncoderSettings.from_json(SETTINGS | {"init": "pretrained", "model": model, "dtype": "bfloat16"})
        Folder(root / "base").write_json("model.json", {"model": model, "revision": None})
        self.latents = Folder(root / "latents").address
        reading = self.settings.reading(adapted=False)
        embedder = Embedder(EmbedJob(self.latents, self.trajectories, Folder(root / "base").address, None, self.settings.base, reading))
        embedder.embed_shard("p0")
        finish_latents(Folder(self.latents))
        self.encoder = embedder.encoder
        run_job(self.job("joint", num_steps=1, total_steps=1))

    def job(self, phase: str, **changes: Any) -> PhaseJob:
        joint = str(self.root / "joint")
        inputs = {"encoder": joint, "target": joint, "latents": self.latents} if phase == "alignment" else {"latents": self.latents}
        if phase == "joint":
            inputs = {"latents": None}
        fields = {"out": str(self.root / phase), "trajectories": self.trajectories, "encoder_settings": self.settings}
        fields["base"] = str(self.root / "base")
        return phase_job(phase, **{**fields, **inputs, **changes})

    def stepped(self, phase: str) -> PhaseModules:
        """The phase's modules after one micro-batch, with its gradients, and the optimizer's step."""
        job = self.job(phase)
        modules, fetcher = assemble(job, Dist.current(), None), WindowBatches(job)
        ids = fetcher.plan.step(0)[0]
        arrays = {name: torch.from_numpy(value) for name, value in fetcher.window_arrays(ids, fetcher.plan.rollout_starts(0, 0)).items()}
        objective = PhaseObjective(job, modules.predictor, modules.encoder, Dist.current())
        objective.forward_backward(arrays, Assignment(0, 0, 1), (1, 1), sync=True)
        return modules


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    torch.set_num_threads(1)
    return Run(tmp_path_factory.mktemp("run"))


def dtypes(encoder: Encoder) -> dict[str | None, set[torch.dtype]]:
    """Dtypes of the base's weights (None) and of either adapter's."""
    found: dict[str | None, set[torch.dtype]] = {}
    for name, parameter in encoder.model.named_parameters():
        found.setdefault(adapter_of(name)[1], set()).add(parameter.dtype)
    return found


def moments(modules: PhaseModules) -> set[torch.dtype]:
    modules.optimizer.step(dict.fromkeys(modules.optimizer.groups, 1e-3), dict.fromkeys(modules.optimizer.groups, 1.0), 1.0)
    return {tensor.dtype for tensor in modules.optimizer.state()[0].values()}


def test_next_token_training_has_a_bf16_base_and_fp32_adapters(run: Run) -> None:
    steps = {"max_steps": 1, "tokens_per_step": 512, "micro_tokens": 256, "learning_rate": 1e-3}
    job = sft_job(run.root / "sft", run.trajectories, run.settings, **steps)
    training = SftTraining(job, Dist.current(), None)
    encoder, optimizer = training.encoder, training.optimizer
    training.begin_step(0)
    training.forward_backward(load(TextBatches(job)(0, 0).to_pybytes()), Assignment(0, 0, 1), sync=True)
    assert dtypes(encoder) == {None: {BF16}, "online": {FP32}}
    assert {parameter.grad.dtype for _, parameter in encoder.online_parameters()} == {FP32}
    optimizer.step({"encoder": 1e-3}, {"encoder": 1.0}, 1.0)
    assert {tensor.dtype for tensor in optimizer.state()[0].values()} == {FP32}


def test_joint_refinement_trains_fp32_adapters_on_a_bf16_base(run: Run) -> None:
    modules = run.stepped("joint")
    assert dtypes(modules.encoder) == {None: {BF16}, "online": {FP32}, "target": {FP32}}
    gradients = [parameter.grad for _, parameter in modules.encoder.online_parameters()]
    assert {gradient.dtype for gradient in gradients} == {FP32} and any(gradient.abs().max() > 0 for gradient in gradients)
    assert {parameter.grad.dtype for parameter in modules.predictor.parameters()} == {FP32}
    assert moments(modules) == {FP32}


def test_alignment_follows_in_fp32_and_trains_the_predictor_alone(run: Run) -> None:
    modules = run.stepped("alignment")
    assert dtypes(modules.encoder) == {None: {BF16}, "online": {FP32}, "target": {FP32}}
    assert all(parameter.grad is None for parameter in modules.encoder.parameters())
    assert modules.optimizer.groups == ["predictor"] and moments(modules) == {FP32}


def test_phases_on_stored_latents_are_fp32_throughout(run: Run) -> None:
    modules = run.stepped("warmup")
    assert modules.encoder is None
    assert {parameter.dtype for parameter in modules.predictor.parameters()} == {FP32} == moments(modules)


def test_no_gradient_ever_belongs_to_the_base(run: Run) -> None:
    encoder = run.stepped("joint").encoder
    with_gradient = {adapter_of(name)[1] for name, parameter in encoder.model.named_parameters() if parameter.grad is not None}
    assert with_gradient == {"online"}


def test_what_a_phase_writes_is_fp32(run: Run) -> None:
    for name in ("online", "target", "predictor", "optimizer"):
        assert {tensor.dtype for tensor in load_file(run.root / "joint" / f"{name}.safetensors").values()} == {FP32}, name


def test_an_ema_step_of_the_methods_momentum_is_not_lost_in_rounding(run: Run) -> None:
    encoder = run.stepped("joint").encoder
    before = encoder.target_state()
    encoder.load_online({name: tensor + 1e-3 for name, tensor in before.items()})
    encoder.ema_update(0.996)
    moved = [(after - before[name]).abs().max() for name, after in encoder.target_state().items()]
    assert all(float(each) == pytest.approx(4e-6, rel=0.2) for each in moved)


def test_stored_latents_are_the_bf16_encoders_own(run: Run) -> None:
    reader, latents = TrajectoryReader(Folder(run.trajectories)), LatentReader(Folder(run.latents))
    stays = [reader.stay(stay_id) for stay_id in reader.stays["stay_id"].to_pylist()]
    z = encode_texts(run.encoder, [text for stay in stays for text in (stay.static, *stay.states, *stay.actions)], 512)
    stored = [part for stay_id in reader.stays["stay_id"].to_pylist() for part in latents.stay(stay_id)]
    assert z.dtype == BF16 and {tensor.dtype for tensor in load_file(run.root / "latents/latents/p0.safetensors").values()} == {BF16}
    assert torch.equal(torch.from_numpy(np.concatenate([np.atleast_2d(part) for part in stored])), z.float())
