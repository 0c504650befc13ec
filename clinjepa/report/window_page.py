"""One window as a self-contained page: the hour grid as a heat map and the texts hour by hour (`clinjepa data show --html`)."""

from __future__ import annotations

from markupsafe import Markup

from clinjepa.report.charts.grids import HeatRow, heat_map
from clinjepa.report.document import page_environment, page_style
from clinjepa.report.words import title
from clinjepa.trajectory.audit.show import GridRow, WindowView


def render_window(view: WindowView, name: str) -> str:
    """The page of a window of the data set `name`. It shows one patient: keep it where the data may be kept."""
    hours = range(view.start_hour, view.start_hour + len(view.states))
    rows = list(zip(hours, view.states, view.actions, strict=True))
    chart = Markup(_chart(view)) if view.grid else Markup("")
    template = page_environment().get_template("templates/window.html")
    return template.render(window=view, name=name, rows=rows, chart=chart, style=page_style())


def _chart(view: WindowView) -> str:
    rows: list[HeatRow] = []
    section = ""
    for row in view.grid or ():
        if row.section != section:
            section = row.section
            rows.append(HeatRow("GCS" if section == "gcs" else title(section)))
        tips = [_tip(row, view.start_hour + index, value) for index, value in enumerate(row.values)]
        rows.append(HeatRow(row.name, row.shades(), tips=tips))
    alt = f"{len(view.grid or ())} variables over {len(view.states)} hours; the texts below say the values"
    return heat_map(
        rows,
        title="Hour grid: each variable between its lowest and highest value here",
        x_label="hour since ICU admission",
        alt=alt,
        first_x=view.start_hour,
        scale=("lowest", "highest"),
    )


def _tip(row: GridRow, hour: int, value: float | str | None) -> str:
    said = "nothing" if value is None else value if isinstance(value, str) else f"{value:.4g} {row.unit}"
    return f"{row.name}, hour {hour}: {said}"
