"""A job that cannot work is refused before any work."""

from __future__ import annotations

import json
import re

import pytest

from clinjepa.curriculum.jobs import PhaseJob, SyncJob, alignment_shortfall, check_workers, job_digest, load_job, load_training_job
from clinjepa.curriculum.worker import main
from clinjepa.errors import ConfigError
from tests.support.training.curriculum_jobs import phase_job, sft_job

SFT = sft_job(tokens_per_step=1000, micro_tokens=300)
SYNC = SyncJob("out", "online", "target")


@pytest.mark.parametrize("job", [phase_job(), SFT, SYNC], ids=["phase", "sft", "sync"])
def test_a_job_survives_json(job):
    assert load_job(json.loads(json.dumps(job.to_json()))) == job


@pytest.mark.parametrize(
    ("phase", "changes", "message"),
    [
        ("warmup", {"num_steps": 0}, "at least 1"),
        ("warmup", {"first_step": 10}, "do not fit into total_steps=12"),
        ("warmup", {"latents": None}, "latent store"),
        ("alignment", {"target": None}, "target is needed"),
        ("hard_sync", {"encoder": "e", "num_steps": 3}, "takes no training steps"),
        ("warmup", {"checkpoint_every_steps": 0}, "checkpoint_every_steps is 0"),
    ],
)
def test_a_job_that_cannot_work_is_refused_with_the_reason(phase, changes, message):
    with pytest.raises(ConfigError, match=message):
        PhaseJob.from_json(phase_job(phase, **changes).to_json())


def test_a_hard_sync_without_online_weights_is_refused():
    with pytest.raises(ConfigError, match="sync job lacks online"):
        load_job({"kind": "sync", "out": "out", "target": "target"})
    with pytest.raises(ConfigError, match="sync job.online is None"):
        load_job({"kind": "sync", "out": "out", "online": None})


def test_a_hard_sync_is_no_training_job():
    with pytest.raises(ConfigError, match="hard_sync"):
        load_training_job(SYNC.to_json())


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        (
            "curriculum_settings",
            {"ema_momentum": "0.9"},
            "phase job.curriculum_settings.ema_momentum is '0.9'; expected a value of type float",
        ),
        ("curriculum_settings", {"shared_k": 1}, "shared_k is 1; expected a value of type bool"),
        ("curriculum_settings", {"global_batch": True}, "global_batch is True; expected a value of type int"),
        ("curriculum_settings", {"num_steps": 4}, "unknown num_steps"),
        ("encoder_settings", {"dtype": "float16"}, "dtype is 'float16'; allowed: 'float32', 'bfloat16'"),
        (
            "encoder_settings",
            {"lora": {"rank": 4, "alpha": 8, "targets": "q_proj", "dropout": 0.0}},
            "targets is 'q_proj'; expected a list",
        ),
        ("encoder_settings", {"lora": None}, "lora: expected an object with rank, alpha, targets, dropout"),
        ("predictor_settings", {"mode": "relative"}, "mode is 'relative'; allowed: 'absolute', 'residual'"),
    ],
)
def test_settings_of_another_name_or_type_are_refused(section, changes, message):
    value = phase_job().to_json()
    value[section] |= changes
    with pytest.raises(ConfigError, match=message):
        PhaseJob.from_json(value)


def test_a_phase_that_is_not_well_formed_is_refused():
    with pytest.raises(ConfigError, match="needs exactly"):
        PhaseJob.from_json(phase_job().to_json() | {"phase": {"name": "x"}})


def test_an_unknown_field_is_named():
    with pytest.raises(ConfigError, match="latent_store"):
        PhaseJob.from_json({**phase_job().to_json(), "latent_store": "x"})


def test_a_missing_field_is_an_error():
    value = phase_job().to_json()
    del value["seed"]
    with pytest.raises(ConfigError, match="phase job lacks seed"):
        PhaseJob.from_json(value)


def test_more_workers_than_micro_batches_are_refused():
    with pytest.raises(ConfigError, match="4 workers share 3 micro-batches"):
        check_workers(phase_job(global_batch=6, micro_batch=2), 4)


def test_sft_micro_batches_follow_from_its_tokens():
    assert SFT.num_micro_batches == 4


def test_alignment_too_short_for_its_momentum_is_warned_of_with_the_formula():
    job = phase_job("alignment", target="t", num_steps=4, ema_momentum=0.9)
    with pytest.warns(UserWarning, match=r"num_steps \* \(1 - ema_momentum\) = 4 \* 0.1 = 0.4 is under 4.*give the phase more steps"):
        job.validate()


@pytest.mark.parametrize("num_steps", [5, 7, 17, 41, 2001])
def test_the_momentum_that_is_advised_is_not_warned_of(num_steps):
    phase = phase_job("alignment").phase
    said = alignment_shortfall(phase, num_steps, 0.9999)
    advised = float(re.search(r"ema_momentum <= ([\d.]+)", said)[1])
    assert alignment_shortfall(phase, num_steps, advised) is None
    assert alignment_shortfall(phase, num_steps, advised + 2e-4) is not None


def test_alignment_long_enough_is_not_warned_of(recwarn):
    phase_job("alignment", target="t", num_steps=40, total_steps=40, ema_momentum=0.9).validate()
    assert not recwarn


def test_the_digest_ignores_where_files_lie_and_how_often_it_saves():
    moved = phase_job(out="s3://elsewhere/out", trajectories="s3://elsewhere/t", checkpoint_every_steps=7)
    assert job_digest(moved) == job_digest(phase_job())


def test_the_digest_changes_with_a_setting():
    assert job_digest(phase_job(predictor_lr=1.0)) != job_digest(phase_job())


def test_the_worker_command_shows_its_usage(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0 and "JOB.json" in capsys.readouterr().out


def test_the_worker_command_says_in_one_line_what_is_wrong_with_a_job(tmp_path, capsys):
    (tmp_path / "job.json").write_text(json.dumps(phase_job(latents=None).to_json()))
    status = main([str(tmp_path / "job.json")])
    said = capsys.readouterr().err
    assert status == 1 and said.startswith("ConfigError: phase warmup") and said.count("\n") == 1
