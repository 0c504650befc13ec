"""Latents belong to the encoder that made them and a checkpoint to the inputs it was made from: by content, wherever they lie."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from clinjepa.curriculum.embedding import Embedder
from clinjepa.curriculum.feed.plain_feed import plain_feed
from clinjepa.curriculum.jobs import EmbedJob, PhaseJob
from clinjepa.curriculum.phase import run_phase
from clinjepa.curriculum.worker import main
from clinjepa.curriculum.workers.dist import Dist
from clinjepa.errors import CheckpointError, StoreError
from clinjepa.model.predictor import PREDICTOR_ENCODER
from clinjepa.model.pretrained import identity
from clinjepa.model.pretrained.identity import encoder_digest
from clinjepa.storage import Folder
from clinjepa.trajectory.tokens.latent_store import LatentReader, finish_latents
from pipelines.graph.artifacts import Artifact
from pipelines.graph.stage import Stage
from pipelines.stages import evaluation as evaluation_stages
from tests.support.training.curriculum_jobs import encoder_settings, phase_job, sft_job
from tests.support.training.curriculum_processes import run_job
from tests.support.training.curriculum_store import make_base_and_latents, make_latents, make_trajectories

pytestmark = pytest.mark.filterwarnings("ignore:.*the target does not arrive")
STEPS = 2


class Stores:
    """A base, two sets of adapters on it that differ as those of two trainings of the same job do, and the latents of base and first."""

    def __init__(self, root: Path) -> None:
        self.root, self.base = root, root / "base"
        self.trajectories = make_trajectories(root, num_stays=12, max_hours=8, num_parts=2)
        self.base_latents = make_base_and_latents(root, self.trajectories, encoder_settings())
        run_job(self.job("joint", out=str(root / "joint")))
        made_again = {name: tensor + 1e-7 for name, tensor in load_file(root / "joint/online.safetensors").items()}
        shutil.copytree(root / "joint", root / "joint_made_again")
        save_file(made_again, root / "joint_made_again/online.safetensors")
        digest = encoder_digest(Folder(self.base), Folder(root / "joint_made_again"))
        Folder(root / "joint_made_again").write_json(PREDICTOR_ENCODER, {"encoder_digest": digest})
        self.latents = make_latents(root / "latents", self.trajectories, self.base, root / "joint", encoder_settings())

    def job(self, phase: str, joint: str = "joint", **changes) -> PhaseJob:
        encoder = str(self.root / joint)
        inputs = {
            "warmup": {"latents": getattr(self, "base_latents", None)},
            "joint": {"latents": None},
            "alignment": {"latents": getattr(self, "latents", None), **dict.fromkeys(("encoder", "target", "predictor"), encoder)},
        }
        fields = {"trajectories": self.trajectories, "base": str(self.base), "num_steps": STEPS, "checkpoint_every_steps": 1}
        return phase_job(phase, **{**fields, "asynchronous_checkpoints": False, "log_every_steps": 1, **inputs[phase], **changes})


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Stores:
    torch.set_num_threads(1)
    return Stores(tmp_path_factory.mktemp("stores"))


def with_other_bytes(folder: Path, copy: Path, name: str) -> Path:
    """A copy of a folder in which the last byte of one file is another."""
    shutil.copytree(folder, copy)
    data = bytearray((copy / name).read_bytes())
    data[-1] ^= 1
    (copy / name).write_bytes(bytes(data))
    return copy


def begun(job: PhaseJob, out: Path) -> PhaseJob:
    """The job with a checkpoint of its first step, and nothing after it."""

    class Stopped(Exception):
        pass

    def stop(step: int, metrics: dict, checkpoint: str | None) -> None:
        raise Stopped

    job = replace(job, out=str(out))
    with pytest.raises(Stopped):
        run_phase(job, Dist.current(), plain_feed(job), stop)
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-00000001"]
    return job


def starts(job: PhaseJob) -> list[int]:
    return [start["step"] for start in json.loads(Path(job.out, "timing.json").read_text())["starts"]]


@pytest.mark.parametrize("whole", [True, False], ids=["small base", "large base"])
def test_an_encoder_is_told_by_its_content_wherever_it_lies(stores, tmp_path, monkeypatch, whole):
    monkeypatch.setattr(identity, "_READ_WHOLE_BYTES", (1 << 30) * whole)
    base, joint = Folder(stores.base), Folder(stores.root / "joint")
    remote = Folder(f"memory://identity-{tmp_path.name}-{whole}")
    (remote / "base").upload(stores.base)
    (remote / "joint").upload(stores.root / "joint")
    assert encoder_digest(base, joint) == encoder_digest(remote / "base", remote / "joint")
    other_base = Folder(with_other_bytes(stores.base, tmp_path / "base", "model.safetensors"))
    found = {
        encoder_digest(base),
        encoder_digest(base, joint),
        encoder_digest(base, Folder(stores.root / "joint_made_again")),
        encoder_digest(other_base),
        encoder_digest(other_base, joint),
    }
    assert len(found) == 5


def test_a_public_base_is_told_by_the_content_that_was_recorded_else_by_its_name(tmp_path):
    named = {"one": ("m", "c"), "moved": ("elsewhere", "c"), "replaced": ("m", "d"), "unknown": ("m", None), "other": ("n", None)}
    for name, (model, content) in named.items():
        Folder(tmp_path / name).write_json("model.json", {"model": model, "revision": None, "content": content})
    digests = {name: encoder_digest(Folder(tmp_path / name)) for name in named}
    assert digests["one"] == digests["moved"] and len(set(digests.values())) == 4


def test_a_part_of_another_encoder_is_done_again_and_one_of_this_is_kept(stores, tmp_path):
    settings, encoders = encoder_settings(), [stores.root / name for name in ("joint_made_again", "joint")]
    old, new = (
        Embedder(EmbedJob(str(tmp_path), stores.trajectories, str(stores.base), str(each), settings.base, settings.reading(adapted=True)))
        for each in encoders
    )
    old.embed_shard("p0")
    with pytest.raises(StoreError, match="different encoders"):
        new.embed_shard("p1")
        finish_latents(Folder(tmp_path))
    assert new.embed_shard("p0")["num_texts"] > 0
    assert new.embed_shard("p0")["num_texts"] == new.embed_shard("p1")["num_texts"] == 0
    finish_latents(Folder(tmp_path))
    assert LatentReader(Folder(tmp_path)).encoder_digest == encoder_digest(Folder(stores.base), Folder(stores.root / "joint"))
    for name in ("p0", "p1"):
        made = [Path(store, f"latents/{name}.safetensors").read_bytes() for store in (tmp_path, stores.latents)]
        assert made[0] == made[1]


def test_a_phase_refuses_latents_of_adapters_that_were_made_again_with_one_line(stores, tmp_path, capsys):
    job = stores.job("alignment", "joint_made_again", out=str(tmp_path / "out"))
    (tmp_path / "job.json").write_text(json.dumps(job.to_json()))
    assert main([str(tmp_path / "job.json")]) == 1
    said = capsys.readouterr().err
    assert said.startswith("StoreError: ") and said.count("\n") == 1
    assert f"{stores.root}/joint_made_again/online.safetensors on {stores.base}" in said
    assert f"remove {stores.latents} and run again" in said
    assert not (tmp_path / "out").exists()


def test_a_phase_refuses_latents_of_another_base(stores, tmp_path):
    base = with_other_bytes(stores.base, tmp_path / "base", "model.safetensors")
    with pytest.raises(StoreError, match=f"another encoder than {base}"):
        run_job(stores.job("warmup", out=str(tmp_path / "out"), base=str(base)))


def test_an_evaluation_refuses_latents_of_adapters_that_were_made_again(stores, tmp_path):
    def evaluated(joint: str) -> None:
        inputs, encoder = {"latents": Folder(stores.latents)}, {"base": Folder(stores.base), "encoder": Folder(stores.root / joint)}
        evaluation_stages._write_result(
            lambda inputs: evaluation_stages._Outcome({"value": 1}), 1, inputs, encoder, Folder(tmp_path / joint)
        )

    evaluated("joint")
    with pytest.raises(StoreError, match="joint_made_again: that was made again since"):
        evaluated("joint_made_again")
    assert (tmp_path / "joint").exists() and not (tmp_path / "joint_made_again").exists()


def test_a_phase_refuses_a_predictor_that_was_trained_with_adapters_before_they_were_made_again(stores, tmp_path):
    joint = stores.root / "joint_made_again"
    latents = make_latents(tmp_path / "latents", stores.trajectories, stores.base, joint, encoder_settings())
    job = replace(
        stores.job("alignment", "joint_made_again", out=str(tmp_path / "out"), latents=latents), predictor=str(stores.root / "joint")
    )
    with pytest.raises(StoreError, match=f"{stores.root}/joint holds a predictor that was trained in the space of another encoder"):
        run_job(job)
    run_job(replace(job, predictor=str(joint)))
    said = Folder(tmp_path / "out").read_json(PREDICTOR_ENCODER)
    assert said == {"encoder_digest": LatentReader(Folder(latents)).encoder_digest}


def test_an_evaluation_refuses_a_predictor_of_another_encoder_than_its_latents(stores, tmp_path):
    def evaluated(joint: str) -> None:
        inputs = {"latents": Folder(stores.latents), "predictor": Folder(stores.root / joint)}
        evaluation_stages._write_result(lambda inputs: evaluation_stages._Outcome({"value": 1}), 1, inputs, {}, Folder(tmp_path / joint))

    evaluated("joint")
    with pytest.raises(StoreError, match="joint_made_again holds a predictor.*remove .*joint_made_again and run again"):
        evaluated("joint_made_again")


def test_an_evaluation_knows_the_encoder_of_its_latents_where_that_is_still_stored(tmp_path):
    base, adapters = Stage("base", "base", {}), Stage("phase", "joint", {})
    embed = Stage("embed", "latents", {}, {"base": base, "encoder": adapters, "trajectories": Stage("trajectories", "trajectories", {})})
    stage, storage = Stage("drift", "drift", {}, {"latents": embed}), Folder(tmp_path)
    context = SimpleNamespace(artifact=lambda stage: Artifact.at(storage, stage.kind, stage.key))
    assert evaluation_stages._encoder_of(context, stage) == {}
    for each in (base, adapters):
        context.artifact(each).folder.write_json("manifest.json", {})
    found = {name: folder.address for name, folder in evaluation_stages._encoder_of(context, stage).items()}
    assert found == {"base": context.artifact(base).folder.address, "encoder": context.artifact(adapters).folder.address}


@pytest.mark.parametrize("name", ["predictor", "target"])
def test_a_phase_does_not_go_on_from_a_checkpoint_of_another_input(stores, tmp_path, name):
    job = begun(stores.job("alignment"), tmp_path / "out")
    other = with_other_bytes(stores.root / "joint", tmp_path / "other", f"{name}.safetensors")
    with pytest.raises(CheckpointError, match=rf"other inputs than the job has now \({name}\)"):
        run_job(replace(job, **{name: str(other)}))


def test_a_phase_does_not_go_on_with_another_encoder_though_its_latents_were_made_again(stores, tmp_path):
    job = begun(stores.job("alignment"), tmp_path / "out")
    joint = stores.root / "joint_made_again"
    latents = make_latents(tmp_path / "latents", stores.trajectories, stores.base, joint, encoder_settings())
    with pytest.raises(CheckpointError, match=r"\(encoder, latents\)"):
        run_job(replace(job, encoder=str(joint), latents=latents, predictor=str(joint)))


@pytest.mark.parametrize("kind", ["phase", "sft"])
def test_a_training_does_not_go_on_with_other_trajectories(stores, tmp_path, kind):
    other = make_trajectories(tmp_path, num_stays=14, max_hours=8, num_parts=2)
    if kind == "sft":
        job = sft_job(str(tmp_path / "out"), stores.trajectories, base=str(stores.base))
        run_job(job)
    else:
        job = begun(stores.job("joint"), tmp_path / "out")
    with pytest.raises(CheckpointError, match=r"\(trajectories\)"):
        run_job(replace(job, trajectories=other))


def test_joint_refinement_does_not_go_on_with_another_base(stores, tmp_path):
    job = begun(stores.job("joint"), tmp_path / "out")
    base = with_other_bytes(stores.base, tmp_path / "base", "model.safetensors")
    with pytest.raises(CheckpointError, match=r"\(encoder\)"):
        run_job(replace(job, base=str(base)))


def test_next_token_training_does_not_go_on_with_another_base(stores, tmp_path):
    job = sft_job(str(tmp_path / "out"), stores.trajectories, base=str(stores.base))
    run_job(job)
    base = with_other_bytes(stores.base, tmp_path / "base", "model.safetensors")
    with pytest.raises(CheckpointError, match=r"\(base\)"):
        run_job(replace(job, base=str(base)))


def test_a_phase_whose_folders_were_all_moved_goes_on(stores, tmp_path):
    job = begun(stores.job("alignment"), tmp_path / "out")
    moved = {}
    for name in ("out", "trajectories", "latents", "base", "encoder"):
        moved[name] = str(tmp_path / "moved" / name)
        shutil.copytree(getattr(job, name), moved[name])
    run_job(replace(job, **moved, target=moved["encoder"], predictor=moved["encoder"]))
    assert starts(replace(job, **moved)) == [0, 1]
