"""Fitted probes are kept: read again they score the same bits, and files that are not theirs are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from clinjepa.clinical import load_task
from clinjepa.config.schema import DownstreamConfig, ProbeConfig
from clinjepa.errors import EvaluationError, StoreError
from clinjepa.evaluation.downstream.evaluate import score_downstream
from clinjepa.evaluation.downstream.fitted import PROBE_TENSORS, PROBES, FittedProbes, predictor_digest
from clinjepa.evaluation.downstream.fitted_probe import FittedProbe, LinearWeights
from clinjepa.evaluation.downstream.point_features import COLUMNS
from clinjepa.evaluation.downstream.probe_rows import LabelScale, ProbeTask, Standardiser
from clinjepa.evaluation.downstream.probes import number_probes_of_tasks, numbers_of_tasks, probes_of_tasks, scores_of_tasks
from clinjepa.model.predictor import Predictor, build_predictor
from clinjepa.model.specs import PredictorSpec
from clinjepa.storage import Folder
from tests.evaluation.test_evaluation_downstream import MemoryLatents, _labels, _stays
from tests.support.data.probe_points import probe_points
from tests.support.machines.cli import python_without

CONFIG = ProbeConfig(hidden_size=16, batch_size=64, max_epochs=3, learning_rate=1e-2)
EVENT, DEATH, NUMBER, RARE = (load_task(name) for name in ("hypotension_8h", "in_hospital_death", "map_8h", "hypoxaemia_8h"))
TASKS = [EVENT, DEATH, NUMBER, RARE]
SETTINGS = DownstreamConfig(rollout_hours=6, min_positives=5, num_bootstrap=20, probe=CONFIG)
SPEC = PredictorSpec(latent_dim=6, hidden_size=16, num_layers=1, num_heads=2, ffn_size=32, max_hours=40)


def world(are_numbers: bool) -> tuple[np.ndarray, list[ProbeTask]]:
    label = (lambda signal_N, number: 80 + signal_N) if are_numbers else (lambda signal_N, number: (signal_N > 0).astype(np.float64))
    return probe_points(label, 600, 3, 0)


def some_labels(latents: MemoryLatents) -> pa.Table:
    """Labels that the state of the prediction hour tells; of RARE too few patients have one."""
    of = {stay: parts[1][:, 0] for stay, parts in latents.stays.items()}
    hourly = [(stay, hour, float(state_T[hour])) for stay, state_T in of.items() for hour in range(3, 28, 4)]
    return pa.concat_tables(
        [
            _labels(EVENT, [(stay, hour, float(state > 0)) for stay, hour, state in hourly]),
            _labels(DEATH, [(stay, 23, float(state_T[23] > 0)) for stay, state_T in of.items()]),
            _labels(NUMBER, [(stay, hour, 80 + state) for stay, hour, state in hourly]),
            _labels(RARE, [(0, 3, 1.0), (1, 3, 0.0)]),
        ]
    )


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return build_predictor(SPEC, seed=0)


@pytest.fixture(scope="module")
def fitted(predictor: Predictor) -> FittedProbes:
    latents = MemoryLatents(60)
    found = score_downstream(predictor, latents, some_labels(latents), _stays(60), TASKS, SETTINGS).probes
    assert found is not None
    return found


@pytest.mark.parametrize("kind", ["linear", "mlp"])
@pytest.mark.parametrize("are_numbers", [False, True])
def test_fit_and_apply_is_fit_then_apply_in_every_bit(kind: str, are_numbers: bool) -> None:
    x_NF, tasks = world(are_numbers)
    probes = (number_probes_of_tasks if are_numbers else probes_of_tasks)(kind, x_NF, tasks, CONFIG, 0)
    scores = (numbers_of_tasks if are_numbers else scores_of_tasks)(kind, x_NF, tasks, CONFIG, 0)
    for probe, task, scores_N in zip(probes, tasks, scores, strict=True):
        np.testing.assert_array_equal(probe(x_NF[task.scored_N]), scores_N)
        assert (probe.kind, probe.output, probe.num_features) == (kind, "number" if are_numbers else "log_odds", x_NF.shape[1])


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_the_rows_that_are_scored_do_not_enter_a_fit(kind: str) -> None:
    x_NF, tasks = world(False)
    hidden = [replace(task, scored_N=np.zeros(0, dtype=np.int64)) for task in tasks]
    for one, other in zip(*(probes_of_tasks(kind, x_NF, each, CONFIG, 0) for each in (tasks, hidden)), strict=True):
        assert all(torch.equal(tensor, other.tensors()[name]) for name, tensor in one.tensors().items())


def test_a_linear_probe_by_hand() -> None:
    standardise = Standardiser(np.array([1.0, 2.0], np.float32), np.array([0.5, 4.0], np.float32))
    x_NF = np.array([[3.0, 2.5], [1.0, 200.0]], np.float32)
    probe = FittedProbe(standardise, LinearWeights(np.array([10.0, 0.25]), -1.0), None)
    assert probe(x_NF).tolist() == [10.0 * 1 + 0.25 * 2 - 1, 0.25 * 10 - 1]  # the second feature of the second row is cut at 10
    in_unit = replace(probe, scale=LabelScale(mean=70.0, std=5.0))
    assert in_unit(x_NF).tolist() == [70 + 5 * 9.5, 70 + 5 * 1.5] and in_unit.output == "number"


def test_features_of_another_width_or_not_finite_are_errors() -> None:
    x_NF, tasks = world(False)
    probe = probes_of_tasks("linear", x_NF, tasks, CONFIG, 0)[0]
    with pytest.raises(EvaluationError, match="12 features got an array of shape"):
        probe(x_NF[:, :5])
    with pytest.raises(EvaluationError, match="a feature of the probe is NaN or infinite"):
        probe(np.where(np.arange(12) == 3, np.nan, x_NF).astype(np.float32))


def test_an_evaluation_keeps_the_probes_of_every_cell(fitted: FittedProbes) -> None:
    assert list(fitted.tasks) == [task.name for task in TASKS]
    for task in (EVENT, DEATH, NUMBER):
        assert {*fitted.tasks[task.name].probes} == {(column, kind) for column in COLUMNS for kind in ("linear", "mlp")}
    assert fitted.tasks[EVENT.name].reason is None and not fitted.tasks[RARE.name].probes
    assert "1 patients with a positive label in train" in str(fitted.tasks[RARE.name].reason)
    assert fitted.num_features == {"history_only": 16, "actions_carried_forward": 32, "recorded_actions": 32}
    assert [fitted.tasks[task.name].predicted_at for task in (EVENT, DEATH)] == ["hourly", "prediction_hour"]
    assert (fitted.tasks[NUMBER.name].output, fitted.tasks[NUMBER.name].unit) == ("number", "mmHg")


def test_the_base_rate_is_that_of_train(fitted: FittedProbes) -> None:
    latents, splits = MemoryLatents(60), _stays(60)["split"].to_pylist()
    label_N = np.array([parts[1][23, 0] > 0 for stay, parts in latents.stays.items() if splits[stay] == "train"])
    train = fitted.tasks[DEATH.name].train
    assert (train.num_points, train.num_patients) == (30, 30) and train.mean == pytest.approx(label_N.mean())
    assert fitted.tasks[NUMBER.name].train.num_points == 30 * 7 and fitted.tasks[NUMBER.name].train.num_patients == 30


def test_written_and_read_probes_score_the_same_bits(fitted: FittedProbes, tmp_path: Path) -> None:
    fitted.write(Folder(tmp_path))
    rng = np.random.default_rng(1)
    for read in (FittedProbes.read(Folder(tmp_path)), FittedProbes.from_pretrained(tmp_path)):
        assert (read.input, read.points, read.columns, read.kinds) == (fitted.input, fitted.points, fitted.columns, fitted.kinds)
        assert list(read.tasks) == list(fitted.tasks)
        for name, task in fitted.tasks.items():
            assert read.tasks[name].description() == task.description()
            assert list(read.tasks[name].probes) == list(task.probes)
            for cell, probe in task.probes.items():
                x_NF = rng.normal(size=(5000, probe.num_features)).astype(np.float32)
                np.testing.assert_array_equal(read.tasks[name].probes[cell](x_NF), probe(x_NF))
    assert "NaN" not in (tmp_path / PROBES).read_text()


def _of_other_version(folder: Path) -> None:
    content = json.loads((folder / PROBES).read_text())
    (folder / PROBES).write_text(json.dumps(content | {"schema_version": 99}))


def _cut(name: str) -> Callable[[Path], None]:
    def cut(folder: Path) -> None:
        (folder / name).write_bytes((folder / name).read_bytes()[:-7])

    return cut


def _of_another_evaluation(folder: Path) -> None:
    """The same names and shapes, another number."""
    data = bytearray((folder / PROBE_TENSORS).read_bytes())
    data[-1] ^= 1
    (folder / PROBE_TENSORS).write_bytes(data)


def _edited(change: Callable[[dict], None]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        content = json.loads((folder / PROBES).read_text())
        change(content)
        (folder / PROBES).write_text(json.dumps(content))

    return edit


@pytest.mark.parametrize(
    ("breaks", "said"),
    [
        (lambda folder: (folder / PROBES).unlink(), PROBES),
        (lambda folder: (folder / PROBE_TENSORS).unlink(), PROBE_TENSORS),
        (_of_other_version, "schema version 99, this clinjepa reads 1"),
        (_cut(PROBES), "is not valid JSON"),
        (_cut(PROBE_TENSORS), "was altered or cut"),
        (_of_another_evaluation, "is not of the probes.json beside it"),
        (_edited(lambda content: content["tasks"].pop(0)), "does not describe the probes"),
        (_edited(lambda content: content["tasks"][0].pop("reason")), "does not describe the probes"),
        (_edited(lambda content: content["tasks"][2].update(output="log_odds")), "does not describe the probes"),
        (_edited(lambda content: content["kinds"].append("tree")), "does not describe the probes"),
        (_edited(lambda content: content["num_features"].update(history_only=5)), "does not describe the probes"),
        (_edited(lambda content: content.update(tasks=3)), "does not describe the probes"),
    ],
)
@pytest.mark.parametrize("local", [False, True])
def test_broken_files_are_store_errors(
    fitted: FittedProbes, tmp_path: Path, breaks: Callable[[Path], None], said: str, local: bool
) -> None:
    fitted.write(Folder(tmp_path))
    breaks(tmp_path)
    with pytest.raises(StoreError, match=said):
        FittedProbes.from_pretrained(tmp_path) if local else FittedProbes.read(Folder(tmp_path))


def test_a_predictor_with_another_weight_or_size_is_another_predictor(predictor: Predictor, fitted: FittedProbes) -> None:
    fitted.check_predictor(predictor)
    other = build_predictor(SPEC, seed=0)
    assert predictor_digest(other) == fitted.input.predictor_digest
    with torch.no_grad():
        other.out.weight[0, 0] += 1e-6
    for each in (other, build_predictor(replace(SPEC, trained_hours=24), seed=0)):
        with pytest.raises(StoreError, match="another predictor"):
            fitted.check_predictor(each)


def test_probes_are_read_and_used_without_tables_and_ray(fitted: FittedProbes, tmp_path: Path) -> None:
    fitted.write(Folder(tmp_path))
    code = (
        "import numpy as np\nfrom clinjepa.evaluation.downstream.fitted import FittedProbes\n"
        f"probes = FittedProbes.from_pretrained({str(tmp_path)!r})\n"
        f"probe = probes.tasks[{EVENT.name!r}].probes['history_only', 'mlp']\n"
        "print(probe(np.zeros((2, probe.num_features), np.float32)).shape)"
    )
    done = python_without(("ray", "pyarrow", "pandas", "polars", "pydantic", "scipy", "sklearn", "fsspec", "transformers", "yaml"), code)
    assert done.returncode == 0 and done.stdout.strip() == "(2,)", done.stderr[-2000:]
