"""A what-if as one self-contained page: charts of every variable, probabilities of events, and the actions of each version."""

from __future__ import annotations

from itertools import groupby
from typing import NamedTuple

from markupsafe import Markup

from clinjepa.evaluation.forecasts.what_if import (
    HISTORY_HOURS,
    ForecastHours,
    History,
    ValueForecast,
    VariableHours,
    Version,
    VersionForecast,
    WhatIf,
)
from clinjepa.report.charts.lines import marker_svg
from clinjepa.report.charts.parts import number
from clinjepa.report.charts.what_if_chart import HourForecast, Readings, VersionFan, what_if_chart
from clinjepa.report.document import page_environment, page_style
from clinjepa.report.words import title

LABELS: dict[Version, str] = {
    "carried_forward": "carried forward",
    "none": "none",
    "plan": "plan",
    "recorded": "recorded*",
}
SLOTS: dict[Version, int] = {"carried_forward": 0, "none": 1, "plan": 2, "recorded": 3}


class ActionHours(NamedTuple):
    """Hours in a row with the same actions."""

    hours: str
    given: str


def render_what_if(content: WhatIf) -> str:
    """The page of a `forecast.json`. It shows one patient and names none: keep it where the data may be kept."""
    shown = [own for own in content["versions"] if own["reason"] is None]
    charts = [Markup(_chart(content["hour"], variable, shown)) for variable in content["variables"]]  # noqa: S704 - escaped by the XML writer
    template = page_environment().get_template("templates/what_if.html")
    return template.render(
        content=content,
        history_hours=HISTORY_HOURS,
        hours_in_words=_hours_in_words,
        star=any(own["uses_future"] for own in shown),
        legend=[(Markup(marker_svg(SLOTS[own["version"]])), LABELS[own["version"]]) for own in shown],  # noqa: S704 - drawn here
        charts=charts,
        columns=[LABELS[own["version"]] for own in shown],
        events=_event_rows(shown),
        values=_value_rows(content, shown),
        actions=[(LABELS[own["version"]], own["reason"], _action_rows(own)) for own in content["versions"]],
        style=page_style(),
    )


def _hours_in_words(own: History | ForecastHours) -> str:
    first, last = own["first_hour"], own["last_hour"]
    return f"hour {number(last)}" if first == last else f"hours {number(first)} to {number(last)}"


def _chart(hour: int, variable: VariableHours, versions: list[VersionForecast]) -> str:
    fans = []
    for own in versions:
        points = [
            HourForecast(hour + row["horizon"], row["point"], row["low_50"], row["high_50"], row["low_90"], row["high_90"])
            for row in own["values"]
            if row["variable"] == variable["variable"] and row["point"] is not None
        ]
        fans.append(VersionFan(LABELS[own["version"]], SLOTS[own["version"]], points))
    known, later = Readings(variable["hours"], variable["values"]), Readings(variable["later_hours"], variable["later_values"])
    return what_if_chart(title(variable["variable"]), variable["unit"], hour, known, later, [fan for fan in fans if fan.points])


def _event_rows(versions: list[VersionForecast]) -> list[tuple[str, list[str], str]]:
    """(task, probability under each version, why one is missing)."""
    rows = []
    for place, task in enumerate(versions[0]["events"] if versions else []):
        own = [version["events"][place] for version in versions]
        cells = ["–" if each["probability"] is None else f"{100 * each['probability']:.1f}\u00a0%" for each in own]
        reasons = dict.fromkeys(each["reason"] for each in own if each["reason"] is not None)
        now = "it is the state of the last known hour" if task["in_event"] else ""
        rows.append((title(task["task"]), cells, "; ".join([*reasons, *([now] if now else [])])))
    return rows


def _value_rows(content: WhatIf, versions: list[VersionForecast]) -> list[tuple[str, int, list[tuple[str, str]]]]:
    """(variable with unit, hour of the stay, forecast with its 90 % interval under each version)."""
    found = [{(row["variable"], row["horizon"]): row for row in own["values"]} for own in versions]
    rows = []
    for variable in content["variables"]:
        for horizon in content["horizons"]:
            own = [each.get((variable["variable"], horizon)) for each in found]
            cells = [_cell(row) for row in own]
            unit = f", {variable['unit']}" if variable["unit"] else ""
            rows.append((f"{title(variable['variable'])}{unit}", content["hour"] + horizon, cells))
    return rows


def _cell(row: ValueForecast | None) -> tuple[str, str]:
    """(forecast, its 90 % interval where it has one)."""
    if row is None or row["point"] is None:
        return "–", ""
    low, high = row["low_90"], row["high_90"]
    return number(row["point"]), "" if low is None or high is None else f"{number(low)} to {number(high)}"


def _action_rows(version: VersionForecast) -> list[ActionHours]:
    """Equal actions in a row as one line."""
    rows = []
    for given, group in groupby(version["coming_actions"], key=lambda each: each["given"]):
        hours = [each["hour"] for each in group]
        rows.append(ActionHours(number(hours[0]) if len(hours) == 1 else f"{number(hours[0])} to {number(hours[-1])}", given))
    return rows
