"""Severity scores stand in state texts only where `text.exclusions` leaves them in, and look at no later hour."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl

from clinjepa.storage import Folder
from clinjepa.trajectory.audit.checks import Sampling
from clinjepa.trajectory.audit.leaks import sample_charts, text_checks, truncation_checks
from clinjepa.trajectory.hours import ingest
from clinjepa.trajectory.hours.ingest import build_partition, finish_ingest
from clinjepa.trajectory.labels import scores
from tests.support.data.handmade_stays import HandmadeSource, at, event, events_table, lenient_config, stays_table

PARTS = {"part-0": {"part": 0}}
WITH_SCORES = lenient_config(text={"exclusions": "all_but_scores"})


def stays(ids: range = range(1, 5)):
    """Platelets of 40 at hour 1 (3 points), bilirubin of 7 at hour 30 (3 points); creatinine doubles at hour 5 (KDIGO 2); no hour 3.

    The urine of hour 5, 480 mL in 6 h, is KDIGO 0; before it the stage by urine, and so the stage, is unknown.
    """
    rows = []
    for i in ids:
        rows += [event(i, hour + 0.2, "heart_rate", 80.0) for hour in range(34) if hour != 3]
        rows += [event(i, 0.5, "creatinine", 1.0), event(i, 5.5, "creatinine", 2.1)]
        rows += [event(i, 5.6, "urine_output", 480.0)]
        rows += [event(i, 1.5, "platelets", 40.0), event(i, 30.5, "bilirubin_total", 7.0)]
    return stays_table(*({"stay_id": i, "weight_kg": 80.0, "outtime": at(34)} for i in ids)), events_table(*rows)


SOURCE = HandmadeSource(stays())


def texts_of(config, folder: Path) -> list[str]:
    build_partition(SOURCE, {"part": 0}, config, Folder(folder), "part-0")
    return pl.DataFrame(Folder(folder).read_table("hours/part-0.parquet"))["state_texts"][0].to_list()


def test_no_text_has_a_score_by_default(tmp_path: Path) -> None:
    assert not any("SOFA" in text or "KDIGO" in text for text in texts_of(lenient_config(), tmp_path))


def test_scores_stand_before_the_observations_and_change_nothing_else(tmp_path: Path) -> None:
    plain, scored = texts_of(lenient_config(), tmp_path / "plain"), texts_of(WITH_SCORES, tmp_path / "scored")
    assert plain[0] == "t=0h | Heart Rate: 80 bpm. Creatinine: 1 mg/dL."
    assert scored[0] == "t=0h | SOFA: 0. Heart Rate: 80 bpm. Creatinine: 1 mg/dL."
    assert scored[1].startswith("t=1h | SOFA: 3. Heart Rate: 80 bpm.")
    assert (plain[3], scored[3]) == ("t=3h | No observations.", "t=3h | SOFA: 3.")
    assert scored[5].startswith("t=5h | SOFA: 5. KDIGO: 2. Heart Rate: 80 bpm.")
    removed = [re.sub(r"\|(?: SOFA: \d+\.)?(?: KDIGO: \d\.)?", "|", text) for text in scored]
    assert [text if text != "t=3h |" else "t=3h | No observations." for text in removed] == plain


def test_points_fade_after_24_hours(tmp_path: Path) -> None:
    scored = texts_of(WITH_SCORES, tmp_path)
    assert "SOFA: 5." in scored[24] and "SOFA: 2." in scored[27] and "SOFA: 3." in scored[31]


def test_the_audit_notes_scores_that_the_setting_leaves_in_and_calls_them_a_leak_otherwise(tmp_path: Path) -> None:
    texts_of(WITH_SCORES, tmp_path)
    finish_ingest(Folder(tmp_path), WITH_SCORES)
    allowed = {check.name: check for check in text_checks(Folder(tmp_path), list(PARTS), WITH_SCORES.text)}
    note = allowed["severity scores stand in state texts"]
    assert note.outcome == "note" and note.num_found > 100 and not [each for each in allowed.values() if each.outcome == "leak"]
    refused = text_checks(Folder(tmp_path), list(PARTS), lenient_config().text)
    assert {check.name for check in refused if check.outcome == "leak"} >= {"no excluded field or task names a phrase"}


def test_a_chart_that_ends_earlier_has_the_same_scores(tmp_path: Path) -> None:
    texts_of(WITH_SCORES, tmp_path)
    finish_ingest(Folder(tmp_path), WITH_SCORES)
    kept = pl.DataFrame(Folder(tmp_path).read_table("stays.parquet"))
    charts = sample_charts(kept, Sampling(PARTS, SOURCE.read, 1, 4))
    found = truncation_checks(Folder(tmp_path), WITH_SCORES, charts)
    assert [check.num_found for check in found] == [0, 0, 0] and found[0].num_checked > 100


def late_weight(weight: float) -> HandmadeSource:
    """Stays of 34 h whose only weight is charted at 20:30; 30 mL of urine an hour, KDIGO 3 for 150 kg after 24 h and 0 for 40 kg."""
    rows = [event(i, hour + 0.2, "heart_rate", 80.0) for i in range(1, 5) for hour in range(34)]
    rows += [event(i, hour + 0.6, "urine_output", 30.0) for i in range(1, 5) for hour in range(34)]
    rows += [event(i, hour, "creatinine", 1.0) for i in range(1, 5) for hour in (0.5, 12.5, 25.5)]
    given = {"weight_kg": weight, "weight_time": at(20.5), "outtime": at(34)}
    return HandmadeSource((stays_table(*({"stay_id": i, **given} for i in range(1, 5))), events_table(*rows)))


def late_texts(weight: float, folder: Path) -> list[str]:
    build_partition(late_weight(weight), {"part": 0}, WITH_SCORES, Folder(folder), "part-0")
    return pl.DataFrame(Folder(folder).read_table("hours/part-0.parquet"))["state_texts"][0].to_list()


def test_a_weight_enters_the_scores_of_texts_when_it_is_charted(tmp_path: Path) -> None:
    light, heavy = late_texts(40.0, tmp_path / "light"), late_texts(150.0, tmp_path / "heavy")
    assert light[:20] == heavy[:20] and light[12] != light[25]
    assert "KDIGO: 0." in light[25] and "KDIGO: 3." in heavy[25]


def test_the_audit_finds_a_weight_that_a_text_knows_too_early(tmp_path: Path, monkeypatch) -> None:
    def found(folder: Path) -> list[int]:
        late_texts(40.0, folder)
        finish_ingest(Folder(folder), WITH_SCORES)
        kept = pl.DataFrame(Folder(folder).read_table("stays.parquet"))
        charts = sample_charts(kept, Sampling(PARTS, late_weight(40.0).read, 1, 4))
        return [check.num_found for check in truncation_checks(Folder(folder), WITH_SCORES, charts)]

    assert found(tmp_path / "right") == [0, 0, 0]
    of_hours = scores.with_scores
    early = lambda texts, grid, history, stays: of_hours(texts, grid, history, stays.with_columns(weight_time=None))  # noqa: E731
    monkeypatch.setattr(ingest, "with_scores", early)
    assert found(tmp_path / "wrong")[0] > 0


def test_a_result_from_before_admission_enters_the_scores_when_it_is_stored(tmp_path: Path) -> None:
    """By store time: creatinine of 4 drawn an hour before admission, stored at 20:30."""
    rows = [event(1, hour + 0.2, "heart_rate", 80.0) for hour in range(34)]
    rows += [event(1, hour + 0.6, "urine_output", 80.0) for hour in range(34)]
    rows += [event(1, -30, "creatinine", 1.0), event(1, -1, "creatinine", 4.0) | {"store_time": at(20.5)}]
    source = HandmadeSource((stays_table({"stay_id": 1, "weight_kg": 80.0, "outtime": at(34)}), events_table(*rows)))
    config = lenient_config(text={"exclusions": "all_but_scores"}, source={"event_time": "stored"})
    build_partition(source, {"part": 0}, config, Folder(tmp_path), "part-0")
    texts = pl.DataFrame(Folder(tmp_path).read_table("hours/part-0.parquet"))["state_texts"][0].to_list()
    assert not any("KDIGO: 3" in text for text in texts[:20]) and "KDIGO: 3" in texts[20]
