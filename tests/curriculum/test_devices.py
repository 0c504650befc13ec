"""Where a process computes: as the configuration says, not on whatever GPU is in sight; a GPU that torch cannot use is named at once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as torch_dist
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

import clinjepa.curriculum.embedding as embedding
import clinjepa.curriculum.worker as worker
import clinjepa.model.encoding.text_encoder as text_encoder
import pipelines.scheduling.preflight as preflight
import pipelines.stages.latents as embed
import pipelines.stages.worker_checks as checks
from clinjepa.curriculum.embedding import Embedder
from clinjepa.curriculum.jobs import EmbedJob
from clinjepa.curriculum.steps.encoder_specs import encoder_spec
from clinjepa.curriculum.workers.dist import Dist, chosen_device, require_gpu, set_up_gpu
from clinjepa.errors import ResourceError
from clinjepa.model.encoding.encoder import Loading, build_encoder
from clinjepa.model.pretrained.base_model import make_base
from clinjepa.storage import Folder
from pipelines.graph.artifacts import Artifact
from pipelines.graph.stage import Stage
from tests.support.models.model_encoders import encoder_spec as model_spec
from tests.support.training.curriculum_jobs import encoder_settings
from tests.support.training.curriculum_store import make_trajectories
from tests.support.training.finished_training import small_config

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")


@pytest.fixture
def gpus_in_sight(monkeypatch: pytest.MonkeyPatch, as_torch_begins: None) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)


@pytest.fixture
def as_torch_begins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No process has set up a GPU yet; what a test sets up is taken back."""
    for name in ALLOCATOR:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(True)
    yield
    torch.backends.cuda.enable_cudnn_sdp(before)


def is_set_up() -> bool:
    return not torch.backends.cuda.cudnn_sdp_enabled() and os.environ.get("PYTORCH_ALLOC_CONF") == "expandable_segments:True"


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)


@pytest.fixture
def gloo() -> Iterator[None]:
    torch_dist.init_process_group("gloo", store=torch_dist.HashStore(), rank=0, world_size=1)
    yield
    torch_dist.destroy_process_group()


def test_workers_of_a_gloo_group_compute_on_the_cpu_although_gpus_are_in_sight(gloo: None, gpus_in_sight: None) -> None:
    assert Dist.current().device == CPU


def test_workers_of_an_nccl_group_compute_on_their_gpu(monkeypatch: pytest.MonkeyPatch, gpus_in_sight: None) -> None:
    for name, value in {"is_initialized": True, "get_backend": "nccl", "get_rank": 1, "get_world_size": 2}.items():
        monkeypatch.setattr(torch_dist, name, lambda value=value: value)
    assert Dist.current().device == GPU


def test_a_plain_process_takes_the_gpu_it_sees(gpus_in_sight: None) -> None:
    assert Dist.current().device == GPU


def test_a_plain_process_without_a_gpu_computes_on_the_cpu(no_gpu: None) -> None:
    assert Dist.current().device == CPU


@pytest.mark.parametrize(("use_gpu", "device"), [(False, CPU), (True, GPU), (None, GPU)])
def test_an_encoder_worker_computes_where_its_job_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus_in_sight: None, use_gpu: bool | None, device: torch.device
) -> None:
    assert asked_device(tmp_path, monkeypatch, use_gpu) == device


def test_an_encoder_worker_that_cannot_use_its_gpu_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_gpu: None) -> None:
    with pytest.raises(ResourceError, match="has no CUDA build; install torch with CUDA.*execution.use_gpu=false"):
        asked_device(tmp_path, monkeypatch, True)


@pytest.mark.parametrize("use_gpu", [False, True])
def test_the_pool_tells_its_encoder_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use_gpu: bool) -> None:
    class Told(Exception):
        pass

    def job(**fields: Any) -> EmbedJob:
        raise Told(fields["use_gpu"])

    monkeypatch.setattr(embed, "EmbedJob", job)
    settings = encoder_settings()
    inputs = {
        "trajectories": Stage("trajectories", "trajectories", {}),
        "base": Stage("base", "base", {"encoder": settings.base.to_json()}),
    }
    stage = Stage("embed", "latents", settings.reading(adapted=False).without_defaults(), inputs)
    artifact = Artifact("embed", "key", Folder(tmp_path))
    context = SimpleNamespace(config=small_config(tmp_path, f"execution.use_gpu={str(use_gpu).lower()}"), artifact=lambda _: artifact)
    with pytest.raises(Told) as told:
        embed.run_embed_stage(context, stage, artifact)  # type: ignore[arg-type]
    assert told.value.args == (use_gpu,)


def test_a_gpu_that_is_asked_for_and_not_in_sight_is_an_error_with_its_remedy(monkeypatch: pytest.MonkeyPatch, no_gpu: None) -> None:
    with pytest.raises(ResourceError, match="has no CUDA build"):
        chosen_device(use_gpu=True)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with pytest.raises(ResourceError, match=r"sees no GPU \(CUDA_VISIBLE_DEVICES=3\).*driver.*execution.use_gpu=false"):
        require_gpu()


def test_a_run_on_this_machine_is_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_gpu: None) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray.cluster_resources", lambda: {"GPU": 8.0})
    unfinished = SimpleNamespace(is_complete=lambda: False)
    context = SimpleNamespace(config=small_config(tmp_path, "execution.use_gpu=true"), artifact=lambda _: unfinished)
    with pytest.raises(ResourceError, match="has no CUDA build"):
        preflight.check_on_cluster(context, [Stage("sft", "SFT", {})])  # type: ignore[arg-type]


def asked_device(root: Path, monkeypatch: pytest.MonkeyPatch, use_gpu: bool | None) -> torch.device:
    """The device that the worker builds its encoder on; it is not built, for there may be no such device."""
    devices: list[torch.device] = []

    class Asked(Exception):
        pass

    def build(*_: Any, loading: Loading) -> None:
        devices.append(torch.device(loading.device))
        raise Asked

    monkeypatch.setattr(embedding, "build_encoder", build)
    trajectories = make_trajectories(root, num_stays=3, max_hours=4)
    settings = encoder_settings()
    make_base(encoder_spec(settings, Folder(trajectories)), 0, Folder(root / "base"))
    job = EmbedJob(str(root / "out"), trajectories, str(root / "base"), None, settings.base, settings.reading(adapted=False), use_gpu)
    with pytest.raises(Asked):
        Embedder(EmbedJob.from_json(job.to_json())).embed_shard("p0")
    return devices[0]


def test_a_gpu_is_set_up_before_it_is_used(monkeypatch: pytest.MonkeyPatch, gpus_in_sight: None) -> None:
    assert chosen_device(use_gpu=False) == CPU and not is_set_up()
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3 if is_set_up() else 0)
    assert chosen_device(use_gpu=True) == torch.device("cuda", 3)


def test_a_worker_of_torchrun_sets_its_gpu_up_before_it_takes_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gpus_in_sight: None
) -> None:
    class Taken(Exception):
        pass

    def take(device: int) -> None:
        raise Taken(device, is_set_up())

    monkeypatch.setattr(torch.cuda, "set_device", take)
    monkeypatch.setattr(worker, "load_job", lambda value: value)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    (tmp_path / "job.json").write_text("{}")
    with pytest.raises(Taken) as taken:
        worker.run_job_file(str(tmp_path / "job.json"))
    assert taken.value.args == (1, True)


def test_a_worker_of_ray_train_sets_its_gpu_up_before_ray_does(gpus_in_sight: None) -> None:
    assert checks._can_use_gpu("a training") and is_set_up()


@pytest.mark.parametrize("name", ALLOCATOR)
def test_what_a_user_set_of_the_allocator_stays(name: str, monkeypatch: pytest.MonkeyPatch, as_torch_begins: None) -> None:
    monkeypatch.setenv(name, "max_split_size_mb:256")
    set_up_gpu()
    assert {each: os.environ.get(each) for each in ALLOCATOR} == dict.fromkeys(ALLOCATOR) | {name: "max_split_size_mb:256"}


def test_an_exported_encoder_asks_for_no_kernel_of_one_shape_only(monkeypatch: pytest.MonkeyPatch, as_torch_begins: None) -> None:
    allowed: list[bool] = []
    encode = text_encoder.encode_texts

    def watched(*given: Any, **options: Any) -> torch.Tensor:
        allowed.append(torch.backends.cuda.cudnn_sdp_enabled())
        return encode(*given, **options)

    monkeypatch.setattr(text_encoder, "encode_texts", watched)
    tokenizer = Tokenizer(WordLevel({"low": 0, "high": 1}, unk_token="low"))
    encoder = text_encoder.TextEncoder(build_encoder(model_spec(), None, seed=0), tokenizer, max_tokens=8, token_budget=64)
    assert encoder(["high", "low"]).shape == (2, encoder.dim)
    assert allowed == [False] and torch.backends.cuda.cudnn_sdp_enabled()  # the user's own choice is back
