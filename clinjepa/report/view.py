"""Charts, tables and tiles of the report page, computed from report.json and its extras. The template only lays them out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from markupsafe import Markup

from clinjepa.report.charts.forecast_charts import fan_chart
from clinjepa.report.charts.lines import LineStyle, Series, line_chart, marker_svg
from clinjepa.report.charts.parts import number
from clinjepa.report.charts.rows import Point, Row, bar_chart, interval_chart
from clinjepa.report.charts.training import training_charts
from clinjepa.report.comparison_words import ComparisonRow, comparison_rows
from clinjepa.report.drift_words import ActionRow, DoseRow, action_rows, action_sentences, action_versions, dose_rows, dose_sentences
from clinjepa.report.headline import MIN_PATIENTS, Tile, cautions, headline_recipe, headlines, risk_headline
from clinjepa.report.sections import costs, geometry
from clinjepa.report.sections.added_value import AddedValueView
from clinjepa.report.sections.claims import HELD, NOT_HELD
from clinjepa.report.sections.forecasts import ForecastView
from clinjepa.report.sections.numbers import NumberView
from clinjepa.report.sections.risk import RiskView
from clinjepa.report.sections.task_map import task_map
from clinjepa.report.sections.training_seeds import SeedRow, same_encoders, seed_rows
from clinjepa.report.size_words import size_words
from clinjepa.report.words import RECIPES, Footnotes, duration, plain, recipe_words, stage_title, title

DRIFT_PANELS = (
    ("l1", "L1 to the real hour's latent", "L1, latent units", None),
    ("vs_mean", "L1 relative to a constant", "ratio", (1.0, "mean latent")),
    ("mase", "L1 relative to copying", "error over copying", (1.0, "copy-forward")),
)


class RecipeRow(NamedTuple):
    """A row of the table of recipes. `sharing` has num_stages and num_shared, or is None."""

    name: str
    about: str
    num_seeds: int
    num_steps: int
    sharing: Mapping[str, int] | None


class ReportView:
    """The values that the template of the report reads; each method returns plain rows or finished markup."""

    def __init__(self, report: Mapping[str, Any], extras: Mapping[str, Any]) -> None:
        self.report, self.extras = report, extras
        found = [*report["phases"], *report["drift"], *report["geometry"], *report["stage_sharing"]["recipes"]]
        self.recipes = list(dict.fromkeys(found))
        self.slots = {name: index for index, name in enumerate(self.recipes)}
        self.title: Callable[[str], str] = title
        self.stage_title: Callable[[str], str] = stage_title
        self.duration, self.plain, self.number = duration, plain, number
        self.footnotes, self.min_patients, self.action_versions = Footnotes, MIN_PATIENTS, action_versions(report)

    def key(self, recipe: str) -> Markup:
        return Markup(marker_svg(self.slots.get(recipe, 0)))

    def column_key(self, slot: int) -> Markup:
        return Markup(marker_svg(slot))

    def tiles(self) -> list[Tile]:
        """The tiles at the top of the page: what was run, then the headline figures."""
        data, sharing = self.report["dataset"], self.report["stage_sharing"]
        seeds = max((len(by_seed) for by_seed in self.report["phases"].values()), default=0)
        seconds = sum(stage["seconds"] or 0 for stage in self.report["stages"])
        return [
            Tile("Patients", number(data["num_patients"]), f"{number(data['num_stays'])} ICU stays"),
            Tile("Hours", number(data["num_hours"]), f"{number(data['num_windows'])} windows"),
            Tile("Recipes", str(len(self.recipes)), f"{seeds} seed{'s' if seeds != 1 else ''} each"),
            Tile("Stages", str(sharing["num_stages"]), f"{sharing['num_shared']} shared by recipes, {sharing['num_reused']} reused"),
            Tile("Computing", duration(seconds), "sum over stages, when they ran"),
            *self._headline_tiles(),
        ]

    def tile_groups(self) -> dict[str, list[Tile]]:
        """The tiles as the page lays them out: `counts`, then `headline`, one for each claim."""
        headline = self._headline_tiles()
        return {"counts": self.tiles()[: -len(headline)], "headline": headline}

    def _headline_tiles(self) -> list[Tile]:
        recipe = self.headline_recipe()
        found = [*headlines(self.report, recipe, self.headline_context()), risk_headline(self.report, recipe)]
        return [headline.tile() for headline in found]

    def size(self) -> str:
        """What was trained, in one line: encoder, steps, seeds, training stays; empty where the page has no configuration."""
        stays = self.report["dataset"].get("splits", {}).get("train", {}).get("num_stays")
        return size_words(self.extras.get("config_yaml", ""), [(row.num_steps, row.num_seeds) for row in self.recipe_rows()], stays)

    def claim_verdict(self, claim: Mapping[str, Any]) -> str:
        """The verdict of a claim; where a headline figure has too few patients, it says that it is one of a small run."""
        decided = claim["verdict"] in (HELD, NOT_HELD)
        return f"{claim['verdict']} in this small run" if decided and self.cautions() else str(claim["verdict"])

    def timeline_title(self) -> str:
        return costs.timeline_title(self.report)

    def has_stages(self, *, reused: bool) -> bool:
        """Whether the run has timed stages that it computed, or such that it found finished."""
        return any(stage["reused"] is reused for stage in self.report["stages"] if stage["seconds"])

    def cautions(self) -> list[str]:
        """Why the headline figures allow no conclusions; empty when each has enough patients."""
        return cautions(self.report, self.headline_recipe(), self.headline_context())

    def headline_recipe(self) -> str:
        return headline_recipe(self.recipes)

    def recipe_rows(self) -> list[RecipeRow]:
        """The table of recipes, in the order of the run."""
        rows = []
        for name in self.recipes:
            by_seed = self.report["phases"].get(name, {})
            phases = next(iter(by_seed.values())) if by_seed else []
            steps = sum(phase["num_steps"] for phase in phases)
            rows.append(RecipeRow(name, self._about(name), len(by_seed), steps, self.report["stage_sharing"]["recipes"].get(name)))
        return rows

    def cost_rows(self) -> list[costs.CostRow]:
        return costs.cost_rows(self.report)

    def cost_charts(self) -> list[Markup]:
        return costs.cost_charts(self.cost_rows(), self.slots)

    def _about(self, recipe: str) -> str:
        """What the recipe is: the words for a built-in one, else its phases."""
        described = self.extras.get("recipes", {}).get(recipe)
        return RECIPES.get(recipe) or (recipe_words(described) if described else "")

    def attrition_chart(self) -> Markup:
        rules = self.report["dataset"]["attrition"]
        rows = [Row(title(rule["rule"]), [Point("", 0, rule["num_stays"])]) for rule in rules]
        alt = "; ".join(f"{title(rule['rule'])}: {rule['num_stays']}" for rule in rules)
        return Markup(bar_chart(rows, title="ICU stays left after each rule", x_label="stays", alt=alt))

    def contexts(self) -> list[str]:
        names = {context for contexts in self.report["drift"].values() for context in contexts}
        headline = self.headline_context()
        return sorted(names, key=lambda context: (context != headline, int(context)))

    def headline_context(self) -> str:
        asked = str(self.report.get("headline_context", ""))
        names = {context for contexts in self.report["drift"].values() for context in contexts}
        return asked if asked in names else max(names, key=int, default="")

    def drift_charts(self, context: str) -> list[Markup]:
        return [self._drift_panel(context, *panel) for panel in DRIFT_PANELS]

    def _drift_panel(self, context: str, measure: str, name: str, unit: str, reference: tuple[float, str] | None) -> Markup:
        series, told = [], []
        for recipe in self.recipes:
            horizons = self.report["drift"].get(recipe, {}).get(context, {}).get("horizons", {})
            order = sorted(horizons, key=int)
            figures = [horizons[h].get(measure) for h in order]
            known = [(h, f["value"]) for h, f in zip(order, figures, strict=True) if f]
            if not known:
                continue
            ends = [f["ci95"] if f and f["ci95"] else (None, None) for f in figures]
            values = [f["value"] if f else None for f in figures]
            series.append(
                Series(title(recipe), self.slots[recipe], [int(h) for h in order], values, [e[0] for e in ends], [e[1] for e in ends])
            )
            told.append(f"{title(recipe)} from {number(known[0][1])} at {known[0][0]} h to {number(known[-1][1])} at {known[-1][0]} h")
        ticks = sorted({int(x) for s in series for x in s.x})
        return Markup(
            line_chart(
                series,
                title=name,
                x_label="hours ahead",
                y_label=unit,
                alt="; ".join(told),
                style=LineStyle(log_y=measure == "l1", x_ticks=ticks, reference=reference),
            )
        )

    def action_rows(self) -> list[ActionRow]:
        return action_rows(self.report)

    def action_sentences(self) -> list[str]:
        """Whether each recipe uses the actions, at the headline context."""
        return action_sentences(self.report, self.headline_context())

    def dose_rows(self) -> list[DoseRow]:
        return dose_rows(self.report)

    def dose_sentences(self) -> list[str]:
        """Whether each recipe uses the doses, at the headline context."""
        return dose_sentences(self.report, self.headline_context())

    def forecasts(self) -> ForecastView:
        return ForecastView(self.report, self.slots)

    def numbers(self) -> NumberView:
        return NumberView(self.report)

    def added_value(self) -> AddedValueView:
        return AddedValueView(self.report)

    def risk(self) -> RiskView:
        return RiskView(self.report)

    def geometry_chart(self) -> Markup:
        return geometry.ratio_chart(self.report, self.slots)

    def geometry_headline(self) -> str:
        return geometry.headline_words(self.report)

    def cohort_rows(self) -> list[geometry.CohortRow]:
        return geometry.cohort_rows(self.report)

    def unknown_ratios(self) -> list[str]:
        return geometry.unknown_ratios(self.report)

    def seed_rows(self) -> list[SeedRow]:
        return seed_rows(self.report, self.headline_context())

    def same_encoders(self) -> list[str]:
        """One sentence per recipe that ends with the encoder of an earlier one."""
        return [
            f"{title(recipe)} has the same encoder as {title(earlier)} in every seed, so its geometry and round trip "
            "are the same numbers; the predictors differ."
            for recipe, earlier in same_encoders(self.report).items()
        ]

    def missing_cohorts(self) -> list[str]:
        return geometry.missing_cohorts(self.report)

    def pictures(self) -> list[geometry.ShownPicture]:
        return geometry.pictures(self.extras)

    def picture_groups(self) -> dict[str, str]:
        return geometry.picture_groups(self.extras)

    def downstream_columns(self) -> list[str]:
        return list(
            dict.fromkeys(column for methods in self.report["downstream"].values() for columns in methods.values() for column in columns)
        )

    def downstream_chart(self, task: str) -> Markup:
        columns = self.downstream_columns()
        rows, told = [], []
        for method, by_column in self.report["downstream"][task].items():
            points = []
            for column, cell in by_column.items():
                figure = cell["auroc"]
                if figure is not None:
                    low, high = figure["ci95"] or (None, None)
                    points.append(Point(title(column), columns.index(column), figure["value"], low, high))
            rows.append(Row(title(method), points, note="–"))
            if points:
                told.append(f"{title(method)} {number(points[0].value)}")
        name = f"{title(task)}: AUROC, 95 % interval"
        alt = "; ".join(told) or "no figure could be estimated"
        return Markup(interval_chart(rows, title=name, x_label="AUROC", alt=alt, reference=(0.5, "chance"), limits=(0.0, 1.0)))

    def comparison_rows(self) -> list[ComparisonRow]:
        return comparison_rows(self.report)

    def can_estimate(self, task: str) -> bool:
        return any(cell["auroc"] is not None for columns in self.report["downstream"][task].values() for cell in columns.values())

    def why_not(self, task: str) -> str:
        """The reasons of a task that has no figure, each once."""
        cells = [cell for columns in self.report["downstream"][task].values() for cell in columns.values()]
        return "; ".join(dict.fromkeys(cell.get("reason", "not computed in this run") for cell in cells))

    def training(self, recipe: str) -> list[Markup]:
        by_seed = self.extras.get("training", {}).get(recipe, {})
        return [Markup(chart) for chart in training_charts(by_seed, self.slots[recipe])]

    def roundtrip_variables(self) -> list[str]:
        """Variables that some encoder has an R² of, in the dictionary's order."""
        found = [found.get("variables", {}) for found in self.report.get("roundtrip", {}).values()]
        return list(dict.fromkeys(name for values in found for name, value in values.items() if value is not None))

    def alarms(self) -> list[str]:
        """One sentence per alarm of a phase."""
        said: list[str] = []
        for recipe, by_seed in self.report["phases"].items():
            for seed, phases in by_seed.items():
                for phase in phases:
                    for alarm in phase.get("alarms", []):
                        value = f" = {number(alarm['value'])}" if alarm.get("value") is not None else ""
                        limit = f" (threshold {number(alarm['threshold'])})" if alarm.get("threshold") is not None else ""
                        at = f" at step {alarm['step']}" if "step" in alarm else ""
                        said.append(f"{title(recipe)}, seed {seed}, {title(phase['name'])}: {alarm['metric']}{value}{limit}{at}")
        return said

    def timing_chart(self) -> Markup:
        return costs.longest_stages(self.report)

    def timeline(self) -> Markup:
        return costs.timeline(self.report)

    def fans(self) -> list[Markup]:
        """Forecasts of single windows; empty where patients may not be shown."""
        return [Markup(fan_chart(fan)) for fan in self.extras.get("fans", ())]

    def task_map(self) -> Markup:
        return task_map(self.report)
