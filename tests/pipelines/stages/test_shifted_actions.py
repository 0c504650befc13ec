"""The stage that encodes actions with other doses, run in this process from hand-made stays to the figures of drift."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from clinjepa.config import Config
from clinjepa.curriculum.embedding import Embedder
from clinjepa.curriculum.jobs import EmbedJob
from clinjepa.curriculum.settings import ReadingSettings
from clinjepa.curriculum.shifted_embedding import ShiftedActionEmbedder
from clinjepa.curriculum.shifted_job import ShiftedActionsJob
from clinjepa.errors import ConfigError, ResourceError, StoreError
from clinjepa.evaluation.space import stays_of
from clinjepa.model.encoding.packing import encode_texts
from clinjepa.storage import Folder
from clinjepa.trajectory.hours.doses import DoseShifter
from clinjepa.trajectory.tokens.changed_actions import ChangedActionReader
from clinjepa.trajectory.tokens.latent_store import LatentReader
from clinjepa.trajectory.tokens.trajectory_store import TrajectoryReader
from pipelines.graph.artifacts import RESULT, Artifact
from pipelines.graph.experiment import build_experiment
from pipelines.graph.stage import Stage
from pipelines.scheduling import preflight
from pipelines.stages import data
from pipelines.stages.base_model import base_settings
from pipelines.stages.shifted_actions import dose_shift
from tests.pipelines.graph.test_golden_results import Stays, tiny_config
from tests.support.training.stages_in_process import run_stage, without_ray

FACTOR = 4.0


def with_doses(storage: str, factor: float | None = FACTOR) -> Config:
    """The tiny configuration with doses times `factor`."""
    raw = tiny_config(storage).model_dump(mode="json")
    raw["evaluation"]["drift"]["dose_factor"] = factor
    return Config.model_validate(raw)


@dataclass
class Chain:
    """The finished stages from the ingest to drift with other doses."""

    storage: Folder
    drift: Stage

    @property
    def shifted(self) -> Stage:
        return self.drift.inputs["other_doses"]

    def folder(self, stage: Stage) -> Folder:
        return Artifact.at(self.storage, stage.kind, stage.key).folder

    def input(self, name: str) -> Folder:
        return self.folder(self.shifted.inputs[name])

    @property
    def encoder(self) -> str | None:
        return self.input("encoder").address if "encoder" in self.shifted.inputs else None

    def job(self, out: Path, **changes: Any) -> ShiftedActionsJob:
        fields = {
            "trajectories": self.input("trajectories").address,
            "base": self.input("base").address,
            "encoder": self.encoder,
            "base_settings": base_settings(self.shifted),
            "reading": ReadingSettings.from_json(self.shifted.settings["reading"]),
            "ingest": self.input("ingest").address,
            "shift": dose_shift(self.shifted),
        }
        return ShiftedActionsJob(out=str(out), **(fields | changes))


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    with pytest.MonkeyPatch.context() as patch:
        torch.set_num_threads(1)
        without_ray(patch)
        patch.setattr(data, "open_source", lambda config: Stays())
        storage = Folder(tmp_path_factory.mktemp("chain") / "storage")
        (trial,) = build_experiment(with_doses(storage.address), "content").trials
        drift = trial.evaluations["drift"]
        run = Config(storage=storage.address)
        for stage in drift.closure():
            run_stage(stage, run, storage)
        yield Chain(storage, drift)


def test_exactly_the_texts_with_a_dose_are_encoded_of_the_evaluated_split(chain: Chain) -> None:
    """Norepinephrine runs from 3.5 h to 9.25 h of every stay, and no other drug."""
    changed = ChangedActionReader(chain.folder(chain.shifted))
    stays, hours = chain.input("ingest").read_table("stays.parquet").to_pylist(), {}
    for part in {stay["part"] for stay in stays}:
        for row in chain.input("ingest").read_table(f"hours/{part}.parquet").to_pylist():
            hours[row["stay_id"]] = [hour for hour, text in enumerate(row["action_texts"]) if "Norepinephrine" in text]
    num_hours = 0
    for stay in stays:
        if stay["split"] == "held_out":
            assert changed.stay(stay["stay_id"])[0].tolist() == hours[stay["stay_id"]]
            num_hours += stay["num_hours"]
        else:
            with pytest.raises(StoreError, match="another split"):
                changed.stay(stay["stay_id"])
    counts = changed.counts
    assert (counts["num_hours"], counts["num_unread"], changed.origin.factor) == (num_hours, 0, FACTOR)
    assert 0 < counts["num_changed"] == counts["num_doses"] < num_hours


def test_a_latent_is_that_of_the_changed_text_under_the_encoder_of_the_latent_store(chain: Chain, tmp_path: Path) -> None:
    reader, changed = TrajectoryReader(chain.input("trajectories")), ChangedActionReader(chain.folder(chain.shifted))
    latents = LatentReader(chain.folder(chain.drift.inputs["latents"]))
    assert changed.origin.encoder_digest == latents.encoder_digest
    job = chain.job(tmp_path)
    embedder = Embedder(EmbedJob(job.out, job.trajectories, job.base, job.encoder, job.base_settings, job.reading))
    shifter, compared = DoseShifter(FACTOR, 2), 0
    for stay_id in stays_of(reader.stays, "held_out")["stay_id"].to_pylist():
        hours_N, z_ND = changed.stay(stay_id)
        for hour, z_D in zip(hours_N.tolist(), z_ND, strict=True):
            text = shifter.shift(reader.tokenizer.decode(reader.stay(stay_id).actions[hour].tolist())).text
            assert "Norepinephrine: 0.5 mcg/kg/min." in text
            alone = encode_texts(embedder.encoder, [np.array(reader.tokenizer.encode([text])[0], np.int32)], 512).float().numpy()[0]
            np.testing.assert_allclose(z_D, alone, atol=1e-5)
            assert np.abs(z_D - latents.stay(stay_id)[2][hour]).max() > 1e-4
            compared += 1
    assert compared == changed.counts["num_changed"]


def test_the_figures_of_drift_have_the_other_doses(chain: Chain) -> None:
    result = chain.folder(chain.drift).read_json(RESULT)["6"]
    assert result["actions"]["other_doses"]["6"]["num_patients"] > 0
    doses = result["other_doses"]
    assert doses["factor"] == FACTOR and doses["num_changed"] == ChangedActionReader(chain.folder(chain.shifted)).counts["num_changed"]
    assert set(doses["horizons"]) == {"6"}


def test_a_finished_shard_is_not_encoded_again(chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = [name.removesuffix(".parquet") for name in chain.input("trajectories").names("shards")]
    first = ShiftedActionEmbedder(chain.job(tmp_path))
    assert sum(first.embed_shard(shard)["num_texts"] for shard in shards[:-1]) > 0
    before = {name: (tmp_path / "actions" / name).stat().st_mtime_ns for name in Folder(tmp_path).names("actions")}
    encoded: list[int] = []
    monkeypatch.setattr(
        "clinjepa.curriculum.embedding.encode_texts",
        lambda encoder, texts, *rest, **more: encoded.append(len(texts)) or encode_texts(encoder, texts, *rest, **more),
    )
    again = ShiftedActionEmbedder(chain.job(tmp_path))
    counts = [again.embed_shard(shard) for shard in shards]
    assert counts[:-1] == [{"num_texts": 0, "num_tokens": 0}] * (len(shards) - 1)
    assert sum(encoded) == counts[-1]["num_texts"]
    assert {name: (tmp_path / "actions" / name).stat().st_mtime_ns for name in before} == before
    whole = chain.folder(chain.shifted)
    for name in whole.names("actions"):
        assert Folder(tmp_path).read_bytes(f"actions/{name}") == whole.read_bytes(f"actions/{name}")


def test_a_shard_without_a_dose_builds_no_encoder(chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clinjepa.curriculum.embedding.build_encoder", lambda *given, **more: pytest.fail("an encoder was built"))
    shift = dose_shift(chain.shifted)
    same = chain.job(tmp_path, shift=type(shift)(shift.split, 1.0, shift.max_decimals, shift.max_tokens))
    embedder = ShiftedActionEmbedder(same)
    for shard in chain.input("trajectories").names("shards"):
        assert embedder.embed_shard(shard.removesuffix(".parquet"))["num_texts"] == 0


def test_a_change_behind_the_cut_of_a_long_text_changes_nothing(chain: Chain, tmp_path: Path) -> None:
    """Cut after the head of the hour, as the trajectory store would have cut it, the text has no dose left."""
    shift = dose_shift(chain.shifted)
    job = chain.job(tmp_path, shift=type(shift)(shift.split, shift.factor, shift.max_decimals, 4))
    embedder = ShiftedActionEmbedder(job)
    whole = TrajectoryReader.stay
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            TrajectoryReader,
            "stay",
            lambda self, stay_id: SimpleNamespace(actions=[tokens[:4] for tokens in whole(self, stay_id).actions]),
        )
        for shard in chain.input("trajectories").names("shards"):
            assert embedder.embed_shard(shard.removesuffix(".parquet"))["num_texts"] == 0


def test_a_missing_encoder_is_an_error_before_anything_is_written(chain: Chain, tmp_path: Path) -> None:
    shard = chain.input("trajectories").names("shards")[0].removesuffix(".parquet")
    with pytest.raises(StoreError, match="online.safetensors"):
        ShiftedActionEmbedder(chain.job(tmp_path / "out", encoder=str(tmp_path / "nothing"))).embed_shard(shard)
    assert not (tmp_path / "out" / "actions").exists()


def test_another_ingest_than_that_of_the_trajectories_is_refused(chain: Chain, tmp_path: Path) -> None:
    name = chain.input("trajectories").names("shards")[0]
    hours = chain.input("ingest").read_table(f"hours/{name}")
    Folder(tmp_path / "ingest").write_table(f"hours/{name}", hours.slice(0, 1))
    with pytest.raises(StoreError, match="is not the ingest of") as raised:
        ShiftedActionEmbedder(chain.job(tmp_path / "out", ingest=str(tmp_path / "ingest"))).embed_shard(name.removesuffix(".parquet"))
    assert not [str(stay_id) for stay_id in hours["stay_id"].to_pylist() if stay_id > 99 and str(stay_id) in str(raised.value)]


def test_drift_refuses_actions_of_another_encoder(chain: Chain, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds actions of another encoder than the latents in somewhere"):
        ChangedActionReader(chain.folder(chain.shifted)).check_encoder("another", "somewhere")


def test_a_job_has_a_json_form(chain: Chain, tmp_path: Path) -> None:
    job = chain.job(tmp_path)
    assert ShiftedActionsJob.from_json(job.to_json()) == job
    with pytest.raises(ConfigError, match="shift"):
        ShiftedActionsJob.from_json({name: value for name, value in job.to_json().items() if name != "shift"})


def stages(config: Config) -> dict[str, Stage]:
    return {stage.key: stage for stage in build_experiment(config, "content").stages}


def test_without_the_setting_every_other_stage_keeps_its_key(tmp_path: Path) -> None:
    plain, asked = stages(tiny_config(str(tmp_path))), stages(with_doses(str(tmp_path)))
    assert stages(with_doses(str(tmp_path), None)).keys() == plain.keys()
    assert sorted(stage.kind for key, stage in asked.items() if key not in plain) == ["drift", "shifted_actions"]
    assert [stage.kind for key, stage in plain.items() if key not in asked] == ["drift"]
    (drift,) = (stage for stage in plain.values() if stage.kind == "drift")
    assert set(drift.inputs) == {"latents", "ingest", "predictor"} and "dose_factor" not in drift.settings["drift"]


def test_factors_have_keys_of_their_own(tmp_path: Path) -> None:
    two, four = (stages(with_doses(str(tmp_path), factor)) for factor in (2.0, 4.0))
    assert sorted(stage.kind for key, stage in two.items() if key not in four) == ["drift", "shifted_actions"]


def test_recipes_with_one_encoder_share_the_stage(tmp_path: Path) -> None:
    raw = with_doses(str(tmp_path)).model_dump(mode="json")
    raw["grid"]["recipes"] = ["clin_jepa", "no_alignment", "sft"]
    trials = {trial.recipe: trial for trial in build_experiment(Config.model_validate(raw), "content").trials}
    keys = {name: trial.evaluations["drift"].inputs["other_doses"].key for name, trial in trials.items()}
    assert keys["clin_jepa"] == keys["no_alignment"] != keys["sft"]


def test_the_stage_needs_a_gpu_where_a_latent_store_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "on_a_cluster", lambda: False)
    monkeypatch.setattr("ray.cluster_resources", dict)
    raw = with_doses(str(tmp_path)).model_dump(mode="json")
    raw["execution"]["use_gpu"] = True
    unfinished = SimpleNamespace(is_complete=lambda: False)
    context = SimpleNamespace(config=Config.model_validate(raw), artifact=lambda _: unfinished)
    with pytest.raises(ResourceError, match=r"1 GPUs are needed \(one encoder worker\)"):
        preflight.check_on_cluster(context, [Stage("shifted_actions", "other doses", {})])  # type: ignore[arg-type]
