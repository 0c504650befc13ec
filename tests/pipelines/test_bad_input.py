"""What goes wrong at the command line is one line that names what, where and what to do; nothing finished is lost."""

from __future__ import annotations

import json
import subprocess
import zipfile
from pathlib import Path

import pytest
import torch

from tests.support.machines.cli import SMALL, call, call_here


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """The command failed with one readable error that holds all `words`, and no traceback."""
    output = " ".join(done.stdout.split())
    assert done.returncode == 2, output[-2000:]
    assert "Traceback" not in output
    assert all(word in output for word in words), output[-2000:]


def test_an_unknown_key_is_refused_with_the_nearest_known_one() -> None:
    refused(call_here("plan", SMALL, "curriculum.num_step=10"), "curriculum.num_step", "num_steps")


def test_adapters_that_would_go_nowhere_are_refused_before_anything_starts(tmp_path: Path) -> None:
    refused(call_here("run", SMALL, f"storage={tmp_path}", "encoder.lora.targets=[c_attn]"), "c_attn match no linear layer", "q_proj")
    assert not (tmp_path / "artifacts").exists()


def test_a_value_that_cannot_be_is_refused_with_the_limit(tmp_path: Path) -> None:
    refused(call_here("run", SMALL, f"storage={tmp_path}", "curriculum.ema_momentum=2"), "curriculum.ema_momentum", "less than 1")


def test_more_workers_than_micro_batches_are_refused_before_anything_runs(tmp_path: Path) -> None:
    done = call_here("run", SMALL, f"storage={tmp_path}", "execution.num_workers=[1, 50]")
    refused(done, "50 workers", "curriculum.micro_batch")
    assert not (tmp_path / "artifacts").exists()


def test_a_configuration_file_that_is_not_there_is_named() -> None:
    refused(call_here("run", "configs/demmo.yaml"), "configs/demmo.yaml", "no such configuration file")


def test_a_configuration_file_without_content_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("# nothing yet\n")
    refused(call_here("plan", str(tmp_path / "empty.yaml")), "empty.yaml is empty", "extends")


def test_data_that_are_not_there_are_named_before_anything_starts(tmp_path: Path) -> None:
    done = call_here("run", SMALL, f"storage={tmp_path}", "source.kind=meds", f"source.path={tmp_path / 'nowhere'}")
    refused(done, "nowhere")
    assert not (tmp_path / "artifacts").exists()


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = call_here("run", SMALL, f"storage={tmp_path}", "source.kind=meds", f"source.path={tmp_path / 'nowhere'}", "--debug")
    assert done.returncode != 0 and "Traceback" in done.stdout


def test_a_zip_that_was_cut_short_is_named(tmp_path: Path) -> None:
    whole = tmp_path / "set-a.zip"
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr("set-a/1.txt", "Time,Parameter,Value\n00:00,RecordID,1\n00:07,HR,73\n")
    (tmp_path / "Outcomes-a.txt").write_text("RecordID,SAPS-I,SOFA,Length_of_stay,Survival,In-hospital_death\n1,6,1,5,-1,0\n")
    whole.write_bytes(whole.read_bytes()[:-30])
    done = call_here("run", SMALL, f"storage={tmp_path / 'store'}", "source.kind=cinc2012", f"source.path={tmp_path}")
    refused(done, "set-a.zip")


def test_an_s3_address_that_does_not_answer_is_named_within_seconds(tmp_path: Path) -> None:
    env = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}
    refused(call_here("run", SMALL, "storage=s3://bucket-of-nobody/x", **env), "s3://bucket-of-nobody/x", "127.0.0.1:9", "AWS_ENDPOINT_URL")


def test_a_storage_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("")
    refused(call_here("run", SMALL, f"storage={tmp_path / 'store'}"), "store", "is a file, not a folder")


def test_a_run_folder_of_another_schema_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "small"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"schema_version": 0}))
    refused(call_here("run", SMALL, f"storage={tmp_path}"), "run.json", "schema version 0", "name=")
    assert json.loads((folder / "run.json").read_text()) == {"schema_version": 0}


def test_a_report_before_anything_is_finished_says_what_to_run(tmp_path: Path) -> None:
    refused(call_here("report", SMALL, f"storage={tmp_path}"), "clinjepa run")


@pytest.mark.ray
@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_gpus_that_nobody_has_are_named_and_not_waited_for(tmp_path: Path) -> None:
    done = call("run", SMALL, f"storage={tmp_path}", "execution.use_gpu=true", "execution.num_workers=2", timeout=280)
    refused(done, "execution.use_gpu=true: 2 GPUs are needed", "this machine has 0", "execution.use_gpu=false")
    assert not (tmp_path / "artifacts").exists()


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_disk_that_fills_up_is_named_and_what_is_finished_goes_on_after_room_was_made(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=360k", "tmpfs", str(disk)], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip("a small disk can only be made by root with the right to mount")
    try:
        overrides = (f"storage={disk}", "source.simulator.num_patients=40")
        full = call("ingest", SMALL, *overrides, timeout=300)
        refused(full, "the disk is full", "finished stages are kept")
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        before = {path: path.stat().st_mtime_ns for path in disk.rglob("manifest.json")}
        done = call("ingest", SMALL, *overrides, timeout=300)
        assert done.returncode == 0, done.stdout[-2000:]
        assert {path: path.stat().st_mtime_ns for path in before} == before
        assert len(list(disk.rglob("manifest.json"))) >= 4
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
