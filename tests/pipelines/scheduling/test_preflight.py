"""What is refused before hours are spent on it, and what an error that comes later says to change."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from clinjepa.config import Config
from clinjepa.curriculum.phase import run_phase
from clinjepa.curriculum.workers.dist import Dist
from clinjepa.curriculum.workers.out_of_memory import phase_remedies, sft_remedies
from clinjepa.errors import CheckpointError, ConfigError, ResourceError, StorageError
from clinjepa.model.encoding.encoder import build_encoder
from clinjepa.model.pretrained.weights import public_content
from clinjepa.storage import Folder
from pipelines.evaluate import evaluate_trials
from pipelines.graph.artifacts import Artifact, WorkRecord
from pipelines.graph.planning import plan_experiment
from pipelines.grid import run_grid
from pipelines.pretrain import pretrain_first_trial
from pipelines.results.plan_record import plan_record
from pipelines.results.plan_tables import print_plan
from pipelines.run import run_experiment
from pipelines.scheduling import opening, preflight
from pipelines.scheduling.preflight import check_model, check_workers, warnings
from tests.support.models.model_encoders import encoder_spec
from tests.support.models.public_models import write_shrunk_model
from tests.support.training.curriculum_jobs import phase_job, sft_job
from tests.support.training.curriculum_store import make_trajectories
from tests.support.training.finished_training import small_config

SAID = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB of which 1.20 GiB is free. Including non-"
    "PyTorch memory, this process has 77.80 GiB memory in use. Of the allocated memory 70.10 GiB is allocated by PyTorch."
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shrunk_model(tmp_path_factory.mktemp("model"))


def pretrained(storage: Path, model: Path, *overrides: str) -> Config:
    return small_config(storage, "encoder.init=pretrained", f"encoder.model={model}", "tokenizer.init=pretrained", *overrides)


def check(config: Config) -> None:
    check_model(config, plan_experiment(config))


def test_what_can_run_is_not_refused(tmp_path: Path, model: Path) -> None:
    check(small_config(tmp_path))
    check(pretrained(tmp_path, model))


def test_adapters_that_would_go_nowhere_are_refused_for_a_model_made_here(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="c_attn match no linear layer.*q_proj"):
        check(small_config(tmp_path, "encoder.lora.targets=[q_proj, c_attn]"))


def test_adapters_that_would_go_nowhere_are_refused_for_a_public_model(tmp_path: Path, model: Path) -> None:
    with pytest.raises(ConfigError, match="c_attn match no linear layer.*lm_head"):
        check(pretrained(tmp_path, model, "encoder.lora.targets=[q_proj, c_attn]"))


def test_a_public_model_that_is_not_here_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere: there is no such folder on this machine"):
        check(pretrained(tmp_path, tmp_path / "nowhere"))


def test_a_folder_with_an_adapter_beside_the_model_is_refused_before_the_cluster(tmp_path: Path) -> None:
    model = write_shrunk_model(tmp_path)
    (model / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/base"}')
    with pytest.raises(ConfigError, match="beside it an adapter of someone/base"):
        check(pretrained(tmp_path / "store", model))


def replace_weights(model: Path) -> None:
    """Another model of the same shape in the same folder."""
    for path in model.glob("*.safetensors"):
        save_file({name: tensor + 0.5 for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"})


def test_results_of_a_model_that_was_replaced_in_its_folder_are_not_gone_on_from(tmp_path: Path) -> None:
    model = write_shrunk_model(tmp_path)
    config = pretrained(tmp_path / "store", model)
    (stage,) = [stage for stage in plan_experiment(config).stages if stage.kind == "base"]
    base = Artifact.at(Folder(config.storage), stage.kind, stage.key)
    base.folder.write_json("model.json", {"model": str(model), "revision": None, "content": public_content(str(model), None)})
    base.publish(WorkRecord(label="base", inputs={}, settings=stage.settings, metrics={}, seconds=0.0))
    check(config)
    spec = encoder_spec(init="pretrained", model=str(model))
    build_encoder(spec, base.folder, 0)
    replace_weights(model)
    with pytest.raises(CheckpointError, match="not the model that this run began with"):
        check(config)
    with pytest.raises(CheckpointError, match="not the model that this run began with"):
        build_encoder(spec, base.folder, 0)


def test_an_alignment_too_short_is_warned_of_with_the_formula(tmp_path: Path) -> None:
    (line,) = [line for line in lines_about_alignment(tmp_path, "curriculum.num_steps=100", "curriculum.ema_momentum=0.9")]
    assert "17 * 0.1 = 1.7 is under 4" in line and "ema_momentum <= 0.7647" in line


def test_an_alignment_that_no_momentum_could_save_is_to_be_longer(tmp_path: Path) -> None:
    (line,) = lines_about_alignment(tmp_path, "curriculum.num_steps=16")
    assert "give the phase more steps (curriculum.num_steps)" in line and "<=" not in line


def test_an_alignment_that_is_long_enough_is_not_warned_of(tmp_path: Path) -> None:
    assert lines_about_alignment(tmp_path, "curriculum.num_steps=100", "curriculum.ema_momentum=0.75") == []


def test_an_alignment_that_is_just_long_enough_is_not_warned_of(tmp_path: Path) -> None:
    steps = ["curriculum.num_steps=80", "curriculum.shares={warmup: 0.2, joint: 0.2, alignment: 0.5, finalization: 0.1}"]
    assert lines_about_alignment(tmp_path, *steps, "curriculum.ema_momentum=0.9") == []
    assert len(lines_about_alignment(tmp_path, *steps, "curriculum.ema_momentum=0.901")) == 1


@pytest.mark.parametrize("workers", ["64", "[1, 64]"])
@pytest.mark.parametrize("use_gpu", ["true", "false"])
def test_a_run_that_would_be_refused_for_its_workers_is_planned_with_the_remedy(tmp_path, capsys, workers, use_gpu) -> None:
    print_plan(plan_record(small_config(tmp_path, f"execution.num_workers={workers}", f"execution.use_gpu={use_gpu}")))
    said = " ".join(capsys.readouterr().out.split())
    assert "change: execution.num_workers: 64 workers would share" in said and "some will idle" not in said


def test_a_storage_that_is_away_is_told_soon_whatever_else_is_looked_for_in_it(tmp_path, monkeypatch) -> None:
    def is_away(config):
        raise StorageError("away")

    monkeypatch.setattr(preflight, "check_storage", is_away)
    monkeypatch.setattr(preflight, "check_run_folder", lambda config: pytest.fail("looked into a storage that is away"))
    with pytest.raises(StorageError, match="away"):
        run_experiment(small_config(tmp_path))


@pytest.mark.parametrize("command", [evaluate_trials, run_grid, pretrain_first_trial, run_experiment], ids=lambda command: command.__name__)
def test_every_command_that_trains_refuses_and_warns_before_it_asks_for_a_cluster(tmp_path, monkeypatch, capsys, command) -> None:
    monkeypatch.setattr(opening, "ray_session", lambda *_: pytest.fail("a cluster is asked for"))
    with pytest.raises(ConfigError, match="64 workers would share"):
        command(small_config(tmp_path, "execution.num_workers=64"))
    with pytest.raises(pytest.fail.Exception):
        command(small_config(tmp_path, "curriculum.num_steps=100", "curriculum.ema_momentum=0.9", "grid.recipes=[clin_jepa]"))
    assert "the target does not arrive" in " ".join(capsys.readouterr().err.split())


def test_a_pretraining_asks_for_gpus_for_its_own_stages_alone(tmp_path, monkeypatch) -> None:
    asked = []

    def ends(context, stages):
        asked.extend(stages)
        raise ResourceError("enough seen")

    monkeypatch.setattr(opening, "ray_session", lambda *_: nullcontext())
    monkeypatch.setattr(opening, "check_on_cluster", ends)
    config = small_config(tmp_path, "grid.recipes=[clin_jepa]")
    with pytest.raises(ResourceError, match="enough seen"):
        pretrain_first_trial(config)
    assert {stage.key for stage in asked} == {stage.key for stage in plan_experiment(config).trials[0].phases[-1].closure()}


def test_the_micro_batches_of_a_training_that_is_not_done_limit_no_workers(tmp_path: Path) -> None:
    many = [
        "curriculum.global_batch=64",
        "curriculum.micro_batch=1",
        "sft.tokens_per_step=512",
        "sft.micro_tokens=512",
        "execution.num_workers=4",
    ]
    check_workers(small_config(tmp_path, *many, "grid.recipes=[untrained]"))
    with pytest.raises(ConfigError, match="sft.micro_tokens"):
        check_workers(small_config(tmp_path, *many, "grid.recipes=[untrained, sft]"))


def test_adapters_on_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="encoder.lora.targets"):
        small_config(tmp_path, "encoder.lora.targets=[]")


def lines_about_alignment(storage: Path, *overrides: str) -> list[str]:
    config = small_config(storage, "grid.recipes=[clin_jepa]", *overrides)
    return [line for line in warnings(config) if "target does not arrive" in line]


def test_a_gpu_that_is_full_in_a_phase_names_what_to_change(tmp_path: Path) -> None:
    job = phase_job("joint", out=str(tmp_path / "joint"), trajectories=make_trajectories(tmp_path, num_stays=9), latents=None)

    def feed(_: object):
        raise torch.OutOfMemoryError(SAID)
        yield b""

    with pytest.raises(ResourceError) as caught:
        run_phase(job, Dist.current(), feed, lambda *_: None)
    said = str(caught.value)
    assert "phase joint" in said and "Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB" in said
    settings = ("encoder.activation_checkpointing", "execution.num_workers", "encoder.token_budget (is 512", "curriculum.micro_batch (is 2")
    assert [said.index(name) for name in settings] == sorted(said.index(name) for name in settings)


def test_a_machine_that_is_full_in_a_phase_names_what_to_change(tmp_path: Path) -> None:
    job = phase_job("joint", out=str(tmp_path / "joint"), trajectories=make_trajectories(tmp_path, num_stays=9), latents=None)

    def feed(_: object):
        torch.empty(1 << 50)  # a petabyte
        yield b""

    with pytest.raises(ResourceError, match=r"phase joint: this machine's memory ran out .*encoder.token_budget \(is 512"):
        run_phase(job, Dist.current(), feed, lambda *_: None)


def test_what_is_named_is_what_the_job_runs() -> None:
    assert [line.split(" (")[0] for line in phase_remedies(phase_job("warmup"))] == ["a lower curriculum.micro_batch"]
    alignment = phase_remedies(phase_job("alignment", target="target"))
    assert "encoder.token_budget" in alignment[1] and not any("activation_checkpointing" in line for line in alignment)
    full = phase_remedies(phase_job("joint", activation_checkpointing="full"))
    assert not any("activation_checkpointing" in line for line in full)
    assert [line.split(" (")[0] for line in sft_remedies(sft_job())][-1] == "a lower sft.micro_tokens"
