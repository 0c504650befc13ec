"""Nothing after the prediction time reaches "history only" or "carried forward": checked from raw events to scores, and on latents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from clinjepa.clinical import load_task
from clinjepa.config.schema import DownstreamConfig, ProbeConfig
from clinjepa.evaluation.downstream.evaluate import score_downstream
from clinjepa.evaluation.downstream.point_features import COLUMNS
from clinjepa.evaluation.predictions import cell_predictions
from clinjepa.evaluation.space import Latents
from clinjepa.model.encoding.encoder import build_encoder
from clinjepa.model.encoding.packing import encode_texts
from clinjepa.model.predictor import build_predictor
from clinjepa.model.specs import EncoderSpec, PredictorSpec
from clinjepa.storage import Folder
from clinjepa.trajectory.hours.ingest import build_partition, finish_ingest
from clinjepa.trajectory.settings import TrajectorySettings, tokenizer_settings
from clinjepa.trajectory.tokens.build import build_trajectories, finish_trajectories
from clinjepa.trajectory.tokens.tokenizer import build_tokenizer
from clinjepa.trajectory.tokens.trajectory_store import TrajectoryReader
from tests.support.data.handmade_stays import HandmadeSource, at, event, events_table, lenient_config, stays_table
from tests.support.models.model_encoders import SETTINGS

TASK = load_task("in_hospital_death")
NUM_STAYS, NUM_HOURS, HOUR = 30, 16, 9
"""The prediction is made at the end of hour HOUR."""
PAST_ONLY = ("history_only", "actions_carried_forward")
DOWNSTREAM = DownstreamConfig(
    tasks=[TASK.name],
    rollout_hours=6,
    min_positives=2,
    num_bootstrap=50,
    probe=ProbeConfig(kinds=["linear", "mlp"], hidden_size=8, max_epochs=5),
)
CONFIG = lenient_config(
    split={"fractions": [0.4, 0.3, 0.3]},
    tokenizer={"vocab_size": 320, "max_tokens": 64},
    windows={"min_hours": 6, "max_hours": NUM_HOURS, "stride_hours": 6},
)
Event = dict[str, Any]
ENCODED: dict[bytes, np.ndarray] = {}
"""Latents of texts that some store had already; every store has the same encoder."""


def some_events() -> list[Event]:
    """Heart rates, pressures and glucose of random size, and norepinephrine for an hour now and then."""
    rng = np.random.default_rng(0)
    rows = []
    for stay in range(1, NUM_STAYS + 1):
        for hour in range(NUM_HOURS):
            rows.append(event(stay, hour + 0.25, "heart_rate", float(rng.integers(50, 130))))
            rows.append(event(stay, hour + 0.5, "map", float(rng.integers(45, 110))))
            if rng.random() < 0.3:
                rows.append(event(stay, hour + 0.6, "glucose", float(rng.integers(60, 250))))
            if rng.random() < 0.4:
                rows.append(event(stay, hour + 0.1, "norepinephrine", float(rng.integers(1, 60)) / 100, until=hour + 0.9))
    return rows


def shuffled_after(rows: list[Event], variables: set[str] | None = None) -> list[Event]:
    """What was measured or given after the prediction time, dealt out anew among all stays and times after it; `variables`: only these."""
    later = [i for i, row in enumerate(rows) if row["time"] >= at(HOUR + 1) and (variables is None or row["variable"] in variables)]
    order = np.random.default_rng(1).permutation(len(later))
    found = list(rows)
    for place, other in zip(later, order, strict=True):
        found[place] = {**rows[later[other]], "stay_id": rows[place]["stay_id"]}
    return found


class TextLatents:
    """Latents of the texts that the ingest makes of events, by a random encoder."""

    dim = int(SETTINGS["hidden_size"])

    def __init__(self, root: Path, rows: list[Event], tokenizer: Path) -> None:
        stays = stays_table(*({"stay_id": stay, "outtime": at(NUM_HOURS)} for stay in range(1, NUM_STAYS + 1)))
        ingest, store = Folder(root / "ingest"), Folder(root / "store")
        build_partition(HandmadeSource((stays, events_table(*rows))), {"part": 0}, CONFIG, ingest, "part-00000")
        finish_ingest(ingest, CONFIG)
        if not tokenizer.exists():
            build_tokenizer(ingest, tokenizer_settings(CONFIG), Folder(tokenizer))
        build_trajectories(ingest, "part-00000", Folder(tokenizer), TrajectorySettings.of(CONFIG), store)
        finish_trajectories(ingest, store, TrajectorySettings.of(CONFIG))
        self.stays = ingest.read_table("stays.parquet")
        self.reader = TrajectoryReader(store)
        self.encoder = build_encoder(EncoderSpec.from_settings(SETTINGS, 320, eos_id=1), None, 0).eval()
        self.known: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def stay(self, stay_id: int, start_hour: int = 0, num_hours: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if stay_id not in self.known:
            tokens = self.reader.stay(stay_id)
            z_ND = np.stack([self._latent(text) for text in (tokens.static, *tokens.states, *tokens.actions)])
            self.known[stay_id] = z_ND[0], z_ND[1 : 1 + NUM_HOURS], z_ND[1 + NUM_HOURS :]
        z_static_D, z_state_TD, z_action_TD = self.known[stay_id]
        hours = slice(start_hour, None if num_hours is None else start_hour + num_hours)
        return z_static_D, z_state_TD[hours], z_action_TD[hours]

    def _latent(self, text: np.ndarray) -> np.ndarray:
        """Of one text alone: the texts beside it in a pack would change its last digits."""
        if text.tobytes() not in ENCODED:
            ENCODED[text.tobytes()] = encode_texts(self.encoder, [text], token_budget=512)[0].numpy()
        return ENCODED[text.tobytes()]


class ShuffledLatents:
    """Latents whose hours after the prediction time are dealt out anew among all stays: states, or actions, or both."""

    def __init__(self, latents: Latents, stay_ids: list[int], states: bool = True, actions: bool = True) -> None:
        self.dim = latents.dim
        whole = {stay_id: [part.copy() for part in latents.stay(stay_id)] for stay_id in stay_ids}
        rng = np.random.default_rng(2)
        for part, chosen in ((1, states), (2, actions)):
            if chosen:
                later = rng.permutation(np.concatenate([whole[stay_id][part][HOUR + 1 :] for stay_id in stay_ids]))
                for stay_id, own in zip(stay_ids, np.split(later, len(stay_ids)), strict=True):
                    whole[stay_id][part][HOUR + 1 :] = own
        self.whole = whole

    def stay(self, stay_id: int, start_hour: int = 0, num_hours: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        z_static_D, z_state_TD, z_action_TD = self.whole[stay_id]
        hours = slice(start_hour, None if num_hours is None else start_hour + num_hours)
        return z_static_D, z_state_TD[hours], z_action_TD[hours]


def evaluated(latents: Latents, stays: pa.Table) -> tuple[dict[tuple[str, str], np.ndarray], dict[tuple[str, str], Any]]:
    """(scores, cells) by (probe, column) of a random predictor."""
    spec = PredictorSpec(latent_dim=latents.dim, hidden_size=16, num_layers=2, num_heads=2, ffn_size=32, max_hours=24)
    stay_ids = stays["stay_id"].to_pylist()
    label = np.random.default_rng(4).integers(0, 2, len(stay_ids)).astype(np.float32)
    names = {"stay_id": stay_ids, "task": [TASK.name] * len(stay_ids), "hour": [HOUR] * len(stay_ids), "label": label}
    found = score_downstream(build_predictor(spec, seed=0), latents, pa.table(names), stays, [TASK], DOWNSTREAM)
    table, kept = found.tables, found.predictions
    cells = [(probe, column) for probe in ("linear", "mlp") for column in COLUMNS]
    return (
        {cell: cell_predictions(kept, *cell)["score"].to_numpy() for cell in cells},
        {(probe, column): table[TASK.name][probe][column] for probe, column in cells},
    )


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[TextLatents, Path]:
    root = tmp_path_factory.mktemp("recorded")
    return TextLatents(root, some_events(), root / "tokenizer"), root / "tokenizer"


def assert_only_the_recorded_column_changed(before: tuple[Any, Any], after: tuple[Any, Any]) -> None:
    for cell in before[0]:
        if cell[1] in PAST_ONLY:
            np.testing.assert_array_equal(after[0][cell], before[0][cell], err_msg=str(cell))
            assert after[1][cell] == before[1][cell]
        else:
            assert not np.allclose(after[0][cell], before[0][cell], atol=1e-3), cell


def test_events_after_the_prediction_time_change_the_recorded_column_only(recorded: tuple[TextLatents, Path], tmp_path: Path) -> None:
    """Raw events are shuffled; ingest, texts, tokens, latents, features, probes and figures are made again."""
    latents, tokenizer = recorded
    shuffled = TextLatents(tmp_path, shuffled_after(some_events()), tokenizer)
    assert shuffled.stays.equals(latents.stays)
    assert not np.array_equal(shuffled.stay(1)[1][HOUR + 1 :], latents.stay(1)[1][HOUR + 1 :])
    assert_only_the_recorded_column_changed(evaluated(latents, latents.stays), evaluated(shuffled, latents.stays))


def test_wrong_treatments_after_the_prediction_time_change_the_recorded_column_only(
    recorded: tuple[TextLatents, Path], tmp_path: Path
) -> None:
    latents, tokenizer = recorded
    wrong = TextLatents(tmp_path, shuffled_after(some_events(), {"norepinephrine"}), tokenizer)
    assert_only_the_recorded_column_changed(evaluated(latents, latents.stays), evaluated(wrong, latents.stays))


@pytest.mark.parametrize(("states", "actions"), [(True, True), (False, True)])
def test_latents_after_the_prediction_time_change_the_recorded_column_only(
    recorded: tuple[TextLatents, Path], states: bool, actions: bool
) -> None:
    latents = recorded[0]
    shuffled = ShuffledLatents(latents, latents.stays["stay_id"].to_pylist(), states, actions)
    assert_only_the_recorded_column_changed(evaluated(latents, latents.stays), evaluated(shuffled, latents.stays))


def test_states_after_the_prediction_time_change_no_column(recorded: tuple[TextLatents, Path]) -> None:
    latents = recorded[0]
    shuffled = ShuffledLatents(latents, latents.stays["stay_id"].to_pylist(), actions=False)
    before, after = evaluated(latents, latents.stays), evaluated(shuffled, latents.stays)
    for cell, scores_N in before[0].items():
        np.testing.assert_array_equal(after[0][cell], scores_N)


def test_the_hours_before_the_prediction_time_do_count(recorded: tuple[TextLatents, Path], tmp_path: Path) -> None:
    """The control of the tests above: an event of the prediction hour itself changes every column."""
    latents, tokenizer = recorded
    rows = [{**row, "value": 200.0} if row["time"] == at(HOUR + 0.25) and row["stay_id"] % 2 else row for row in some_events()]
    before, after = evaluated(latents, latents.stays), evaluated(TextLatents(tmp_path, rows, tokenizer), latents.stays)
    for cell, scores_N in before[0].items():
        assert not np.allclose(after[0][cell], scores_N, atol=1e-3), cell
