"""The page of a data card (docs/data_card.md): what came in, what was dropped and why, and what is covered.

It is one self-contained HTML file in the style of the report. Its numbers are those of `data_card.json`; none belongs to a single patient.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from markupsafe import Markup

from clinjepa.clinical import list_tasks, load_task, load_variables, section_names
from clinjepa.report.charts.grids import HeatRow, heat_map, histogram
from clinjepa.report.charts.parts import number
from clinjepa.report.charts.rows import Point, Row, bar_chart
from clinjepa.report.document import page_environment, page_style
from clinjepa.report.words import plain, title
from clinjepa.trajectory.hours.code_coverage import describe_coverage
from clinjepa.trajectory.hours.data_card import NOTES
from clinjepa.trajectory.hours.odd_medians import describe_odd

ACCESS = {
    "open": "open data: anyone may look at single patients",
    "synthetic": "synthetic data: these patients do not exist",
    "credentialed": "credentialed data: single patients are for people with the data use agreement only",
}
REASONS = {
    "range": "implausible values",
    "unit": "units that cannot be converted",
    "value": "no usable value",
    "time": "outside the stay or without a usable time",
    "code": "codes that no variable takes",
    "identity": "stays without an id, patient or admission",
    "repeat": "repeated rows",
    "purpose": "left out on purpose",
    "moved": "moved to the variable or unit that they belong to (nothing dropped)",
    "files": "noted about the files (nothing dropped)",
    "other": "other rules",
}
_SPLIT_TITLES = {"num_died_in_hospital": "Died"}


class LabelRow(NamedTuple):
    """A task's row: per split the number of labels, the share that is positive (or the mean), and the patients."""

    title: str
    name: str
    cells: list[tuple[str, str, str]]


class CarriedRow(NamedTuple):
    """A task with the switches-only rule: per split (labels, share positive) under the task's rule and under the other one."""

    title: str
    name: str
    rule: str
    cells: list[tuple[str, str]]


def render_data_card(card: Mapping[str, Any]) -> str:
    """The page of a data card; `audit` (audit.json) and `artifacts` {kind: key} are shown where the card has them."""
    return page_environment().get_template("templates/data_card.html").render(view=DataCardView(card), card=card, style=page_style())


class DataCardView:
    """The values that the template of the data card reads."""

    def __init__(self, card: Mapping[str, Any]) -> None:
        self.card = card
        self.title, self.plain, self.number = title, plain, number
        self.reasons = REASONS
        self.access = ACCESS[card["access"]]

    def share(self, value: float | None) -> str:
        """A share in percent, two significant digits where it is small."""
        if value is None:
            return "–"
        percent = 100 * value
        return f"{percent:.0f} %" if percent >= 10 or percent == 0 else f"{percent:.2g} %"

    def cards(self) -> list[tuple[str, str, str]]:
        card = self.card
        dropped = sum(count for rule, count in card["dropped"].items() if rule.partition(":")[0] not in NOTES)
        shown = [
            ("Patients", number(card["num_patients"]), f"{number(card['num_stays'])} ICU stays"),
            ("Hours", number(card["num_hours"]), f"{card['num_hours'] / card['num_stays']:.0f} per stay"),
            ("Events", number(card["num_events"]), "rows on the hour grid"),
            ("Dropped", number(dropped), "rows of the source, by rule below"),
            ("Variables", str(len(card["coverage"])), "seen at least once"),
        ]
        if "num_windows" in card:
            shown.append(("Windows", number(card["num_windows"]), "for training and evaluation"))
        if "tokens" in card:
            tokens = sum(kind["num_tokens"] for kind in card["tokens"].values())
            shown.append(("Tokens", number(tokens), f"{tokens / card['num_hours']:.0f} per hour of stay"))
        return shown

    def split_title(self, column: str) -> str:
        return _SPLIT_TITLES.get(column, title(column.removeprefix("num_")))

    def attrition_chart(self) -> Markup:
        rules = self.card["attrition"]
        rows = [Row(title(rule["rule"]), [Point("", 0, rule["num_stays"])]) for rule in rules]
        alt = "; ".join(f"{title(rule['rule'])}: {rule['num_stays']}" for rule in rules)
        return Markup(bar_chart(rows, title="ICU stays left after each rule", x_label="stays", alt=alt))

    def coverage_map(self) -> Markup:
        """Variables in the clinical order of a text, headed by their section; medications are not on the grid."""
        hourly = self.card["hourly_coverage"]
        last = max((hour for hour, stays in enumerate(hourly["num_stays"]) if stays), default=0) + 1
        stays = hourly["num_stays"][:last]
        rows: list[HeatRow] = []
        for section in section_names():
            own = [v for v in load_variables().values() if v.section_name == section and v.name in hourly["variables"]]
            for variable in own:
                counts = hourly["variables"][variable.name][:last]
                values = [count / number if number else None for count, number in zip(counts, stays, strict=True)]
                overall = self.share(self.card["coverage"].get(variable.name, {}).get("share_of_hours"))
                if variable is own[0]:
                    rows.append(HeatRow("GCS" if section == "gcs" else title(section)))
                tip = f"{variable.text_name}: {overall} of all hours"
                tip += "".join(f"; {self.share(values[hour])} in hour {hour}" for hour in (0, 6, 12, 24, 48) if hour < last)
                rows.append(HeatRow(_short(variable.text_name), values, overall, tip))
        alt = f"{len(hourly['variables'])} variables over the first {last} hours; the table below has the numbers over all hours"
        return Markup(
            heat_map(rows, title="Share of stays with a value, hour by hour", x_label="hour since ICU admission; right: all hours", alt=alt)
        )

    def coverage_rows(self) -> list[Mapping[str, Any]]:
        """The table beside the map: the variables with events in the dictionary's order, then medications."""
        covered = self.card["coverage"]
        order = [*(name for name in load_variables() if name in covered), *(name for name in covered if name not in load_variables())]
        names = {name: variable.text_name for name, variable in load_variables().items()}
        return [{"name": names.get(name, title(name)), "role": _role(name)} | covered[name] for name in order]

    def absent(self) -> list[str]:
        """Variables of the dictionary that have no event, as texts would call them."""
        own = [v for v in load_variables().values() if v.role != "static" and v.of is None]
        return [v.text_name for v in own if v.name not in self.card["coverage"]]

    def dropped_chart(self) -> Markup:
        groups = self.card["dropped_by_reason"]
        rows = [Row(REASONS.get(name, name), [Point("", 0, group["num_rows"])]) for name, group in groups.items()]
        alt = "; ".join(f"{REASONS.get(name, name)}: {group['num_rows']}" for name, group in groups.items())
        return Markup(bar_chart(rows, title="Rows dropped, by kind of reason", x_label="rows", alt=alt or "nothing was dropped"))

    def most(self, variables: Mapping[str, int], number_shown: int = 6) -> str:
        """`Heart Rate 12, MAP 3 and 4 more`: the variables with the most dropped rows."""
        names = {name: variable.text_name for name, variable in load_variables().items()}
        ranked = sorted(variables.items(), key=lambda item: -item[1])
        told = ", ".join(f"{names.get(name, name)} {number(count)}" for name, count in ranked[:number_shown])
        return told + (f" and {len(ranked) - number_shown} more" if len(ranked) > number_shown else "")

    def loss_rows(self) -> list[tuple[str, str, str, str, str, str]]:
        """(variable, where, lost of readings, share, median of the lost, what would fit) of each entry of `range_losses`."""
        names = {name: variable.text_name for name, variable in load_variables().items()}
        return [
            (
                names.get(loss["variable"], loss["variable"]),
                loss["where"],
                f"{number(loss['num_lost'])} of {number(loss['num_readings'])}",
                self.share(loss["share_lost"]),
                f"{loss['median_lost']:g} {' or '.join(loss['units'])}".strip(),
                "; ".join(loss["fits"]) or "none",
            )
            for loss in self.card.get("range_losses", [])
        ]

    def odd_lines(self) -> list[str]:
        """One line for each entry of `odd_medians`."""
        return [describe_odd(odd) for odd in self.card.get("odd_medians", [])]

    def unknown_codes(self) -> list[tuple[str, str, str]]:
        """(code, rows, patients) of the most frequent codes that the source's map lacks."""
        found = self.card["code_coverage"]["unknown"] if "code_coverage" in self.card else []
        return [(entry["code"], number(entry["num_rows"]), number(entry["num_patients"])) for entry in found]

    def code_sentence(self) -> str | None:
        """What share of the rows the source's map names; None for sources without a map."""
        return describe_coverage(self.card["code_coverage"]) if "code_coverage" in self.card else None

    def token_charts(self) -> list[Markup]:
        return [self._token_chart(kind, counts) for kind, counts in self.card.get("tokens", {}).items()]

    def _token_chart(self, kind: str, found: Mapping[str, Any]) -> Markup:
        bins = found["histogram"]
        alt = f"median {found['p50']}, 95th percentile {found['p95']}, longest {found['max']} tokens"
        marks = [(found["p95"], f"95 %: {number(found['p95'])}")]
        name = f"{kind.capitalize()} texts by their tokens"
        return Markup(histogram(bins["counts"], bins["bin_width"], title=name, x_label="tokens", alt=alt, marks=marks))

    def label_rows(self) -> list[LabelRow]:
        """One row per task with labels."""
        rows = []
        for name, by_split in self.card["prevalence"]["tasks"].items():
            cells = []
            for found in by_split.values():
                binary = "share_positive" in found
                patients = number(found["num_patients"])
                who = f"{number(found['num_positive_patients'])} of {patients}" if binary else patients
                middle = found.get("mean")
                share = self.share(found["share_positive"]) if binary else "–" if middle is None else f"mean {number(float(middle))}"
                cells.append((number(found["num_labels"]), share, who))
            rows.append(LabelRow(load_task(name).title if name in list_tasks() else name.replace("_", " "), name, cells))
        return rows

    def carried_rows(self) -> list[CarriedRow]:
        """One row per task and rule for a carried event; the rule that the task uses first."""
        rows = []
        for name, by_rule in self.card["prevalence"].get("by_carried_event", {}).items():
            task = load_task(name)
            for rule in sorted(by_rule, key=lambda rule: rule != task.carried_event):
                cells = [(number(found["num_labels"]), self.share(found["share_positive"])) for found in by_rule[rule].values()]
                rows.append(CarriedRow(task.title, name, rule, cells))
        return rows


def _short(name: str) -> str:
    return name if len(name) <= 30 else name[:29] + "…"


def _role(name: str) -> str:
    variable = load_variables().get(name)
    roles = {"state": "observed", "action": "given", "label_only": "for labels only", "static": "static"}
    return roles[variable.role] if variable else "given"
