"""A plan of treatment becomes the action texts that ingest writes for a stay that really got it; a plan that cannot be meant is refused."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from clinjepa.clinical import load_variables
from clinjepa.errors import ConfigError
from clinjepa.trajectory.hours.action_plan import planned_texts, read_plan
from clinjepa.trajectory.hours.grid import place_events
from clinjepa.trajectory.hours.text import hour_texts
from tests.support.data.handmade_stays import at, event, events_table, stays_table

KNOWN, LAST = 5, 11


def recorded(*events: dict[str, object]) -> list[str]:
    """Action texts of a stay of 12 h that ingest writes."""
    variables = load_variables()
    stays = pl.DataFrame(stays_table({"stay_id": 1, "outtime": at(12)})).with_columns(num_hours=pl.lit(12))
    placed, _ = place_events(events_table(*events), stays, variables)
    texts: list[str] = hour_texts(placed, stays, variables, 2, True)["action_texts"].to_list()[0]
    return texts


def planned(tmp_path: Path, plan: str, last_text: str, first: int = KNOWN + 1) -> list[str]:
    file = tmp_path / "plan.yaml"
    file.write_text(plan)
    return planned_texts(read_plan(file, KNOWN, LAST), last_text, range(first, LAST + 1), 2)


BEFORE = (
    event(1, 2, "norepinephrine", 0.1, until=6),
    event(1, 1, "invasive_ventilation", 1, until=12),
    event(1, 5.5, "medication", 1000, text="Vancomycin", unit="mg"),
)


def test_the_texts_of_a_plan_are_those_of_a_stay_that_really_got_it(tmp_path: Path) -> None:
    """The stay: norepinephrine 0.25 in hours 7 to 9, insulin from hour 8, 125 mL of fluid in hours 6 and 7, FiO2 and mode hourly."""
    given = (
        event(1, 2, "norepinephrine", 0.1, until=7),
        event(1, 1, "invasive_ventilation", 1, until=12),
        event(1, 7, "norepinephrine", 0.25, until=10),
        event(1, 8, "insulin_regular_infusion", 1 / 3, until=12),
        event(1, 6, "crystalloid", 250, until=8),
        *(event(1, hour, "fio2", 60) for hour in range(6, 12)),
        *(event(1, hour, "vent_mode", text="CPAP/PSV") for hour in range(9, 12)),
        event(1, 10, "sodium_bicarbonate", 1, until=12),
    )
    plan = """
- {drug: norepinephrine, rate: 0.25, unit: mcg/kg/min, from_hour: 7, until_hour: 10}
- {drug: norepinephrine, stop: 10}
- {drug: insulin_regular_infusion, rate: 0.33333333333, from_hour: 8}
- {drug: crystalloid, amount: 125, until_hour: 8}
- {drug: fio2, value: 60}
- {drug: vent_mode, words: CPAP/PSV, from_hour: 9}
- {drug: sodium_bicarbonate, value: 1, from_hour: 10}
"""
    last = recorded(*BEFORE[:2])[KNOWN]
    assert planned(tmp_path, plan, last) == recorded(*given)[KNOWN + 1 :]


def test_what_a_plan_does_not_name_goes_on(tmp_path: Path) -> None:
    last = recorded(*BEFORE)[KNOWN]
    assert last == "t=5h | Norepinephrine: 0.1 mcg/kg/min. Invasive Ventilation. Vancomycin: 1000 mg."
    same = planned(tmp_path, "[{drug: norepinephrine, rate: 0.1}]", last)
    assert [text.partition(" | ")[2] for text in same] == [last.partition(" | ")[2]] * 6
    assert [text.partition(" | ")[0] for text in same] == [f"t={hour}h" for hour in range(6, 12)]
    stopped = planned(tmp_path, "[{drug: norepinephrine, stop: 8}]", last)
    assert stopped[:2] == same[:2]
    assert all("Norepinephrine" not in text and "Invasive" in text and "Vancomycin" in text for text in stopped[2:])
    back = planned(tmp_path, "[{drug: norepinephrine, rate: 0.5, from_hour: 7, until_hour: 8}]", last)
    assert "0.5 mcg/kg/min" in back[1] and back[2:] == same[2:]


def test_a_text_without_anything_left_says_so(tmp_path: Path) -> None:
    last = recorded(BEFORE[0])[KNOWN]
    nothing = recorded()[KNOWN]
    assert planned(tmp_path, "[{drug: norepinephrine, stop: 6}]", last) == recorded()[KNOWN + 1 :]
    assert planned(tmp_path, "[{drug: norepinephrine, rate: 0, from_hour: 6}]", last) == recorded()[KNOWN + 1 :]
    assert planned(tmp_path, "[{drug: norepinephrine, rate: 0.1}]", nothing) == recorded(event(1, 6, "norepinephrine", 0.1, until=12))[6:]


def test_a_bolus_with_the_name_of_an_infusion_stays_behind_the_variables(tmp_path: Path) -> None:
    """A named drug is wholly the plan's, its boluses too; another variable is put before the bolus, as ingest does."""
    bolus = event(1, 5.5, "medication", 40, text="Furosemide", unit="mg")
    last = recorded(bolus)[KNOWN]
    found = planned(tmp_path, "[{drug: heparin_infusion, rate: 500}]", last)[0]
    assert found == "t=6h | Heparin Infusion: 500 units/h. Furosemide: 40 mg."
    assert planned(tmp_path, "[{drug: furosemide, rate: 5}]", last)[0] == "t=6h | Furosemide: 5 mg/h."


def test_a_detail_with_a_full_stop_stays_with_its_variable(tmp_path: Path) -> None:
    last = recorded(event(1, 5, "antibiotics_iv", 1, text="Pip. Tazo"), event(1, 5, "culture_drawn", 1))[KNOWN]
    body = last.partition(" | ")[2]
    assert planned(tmp_path, "[{drug: peep, stop: 6}]", last)[0] == f"t=6h | {body}"
    assert planned(tmp_path, "[{drug: antibiotics_iv, stop: 6}]", last)[0] == "t=6h | Culture Drawn."


def test_a_later_entry_ends_an_open_one(tmp_path: Path) -> None:
    plan = "[{drug: norepinephrine, stop: 9}, {drug: norepinephrine, rate: 0.2, from_hour: 7}]"
    texts = planned(tmp_path, plan, recorded()[KNOWN])
    assert ["0.2" in text for text in texts] == [False, True, True, False, False, False]


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ("[]", "is no plan"),
        ("{drug: norepinephrine}", "is no plan"),
        ("- [", "not valid YAML"),
        ("- 5", "entry 1: is no mapping"),
        ("- {drug: noradrenalin, rate: 0.1}", "entry 1: 'noradrenalin' is no action"),
        ("- {drug: norepinefrine, rate: 0.1}", "did you mean norepinephrine"),
        ("- {drug: Insulin Infusion, rate: 1}", "did you mean insulin_regular_infusion"),
        ("- {drug: heart_rate, value: 80}", "heart_rate is observed and not given"),
        ("- {rate: 0.1}", "names no drug"),
        ("- {drug: norepinephrine, rate: 0.1, dose: 1}", "unknown key dose"),
        ("- {drug: norepinephrine}", "does not say what is given; norepinephrine takes rate .mcg/kg/min. or stop"),
        ("- {drug: norepinephrine, amount: 3}", "has amount; norepinephrine takes rate"),
        ("- {drug: norepinephrine, rate: 0.1, stop: 8}", "has rate and stop"),
        ("- {drug: norepinephrine, rate: 0.1, unit: mg/h}", "another unit than that of norepinephrine"),
        ("- {drug: norepinephrine, rate: 30}", "rate is outside 0 to 3 mcg/kg/min"),
        ("- {drug: norepinephrine, rate: -1}", "rate is outside 0 to 3"),
        ("- {drug: norepinephrine, rate: true}", "rate is no number"),
        ("- {drug: norepinephrine, rate: .nan}", "rate is no number"),
        ("- {drug: invasive_ventilation, value: 0.5}", "must be 1 for on or 0 for off"),
        ("- {drug: vent_mode, words: 'A. B'}", "in one sentence"),
        ("- {drug: norepinephrine, rate: 0.1, from_hour: 5}", "from_hour must be after hour 5"),
        ("- {drug: norepinephrine, rate: 0.1, from_hour: 7.5}", "from_hour must be a whole hour"),
        ("- {drug: norepinephrine, rate: 0.1, from_hour: 12}", "from_hour is after hour 11"),
        ("- {drug: norepinephrine, rate: 0.1, from_hour: 8, until_hour: 8}", "until_hour must be a whole hour of the stay after 8"),
        ("- {drug: norepinephrine, stop: 4}", "stop must be after hour 5"),
        ("- {drug: norepinephrine, stop: 8, from_hour: 6}", "stands alone beside drug"),
        ("- {drug: fio2, value: 40}\n- {drug: fio2, value: 60}", "entry 2: overlaps entry 1 of fio2"),
        ("- {drug: fio2, value: 40, from_hour: 8}\n- {drug: fio2, value: 60, until_hour: 9}", "entry 2: overlaps entry 1 of fio2"),
    ],
)
def test_a_plan_that_cannot_be_meant_is_one_line_with_file_entry_and_remedy(tmp_path: Path, plan: str, words: str) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(plan)
    with pytest.raises(ConfigError, match=words) as caught:
        read_plan(file, KNOWN, LAST)
    assert str(caught.value).startswith(str(file)) and "\n" not in str(caught.value)


def test_the_plan_of_the_documentation_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs/scoring.md").read_text(encoding="utf-8")
    file = tmp_path / "plan.yaml"
    file.write_text(page.partition("```yaml\n")[2].partition("```")[0])
    found = {(entry.variable.name, entry.given, entry.first, entry.end) for entry in read_plan(file, 24, 47)}
    assert found == {
        ("norepinephrine", 0.1, 26, 32),
        ("norepinephrine", None, 32, 48),
        ("crystalloid", 250.0, 25, 27),
        ("fio2", 60.0, 25, 48),
    }


def test_a_plan_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such plan"):
        read_plan(tmp_path / "none.yaml", KNOWN, LAST)
