"""Stays of a source as bodies of scoring requests: what a hospital would have sent at a given hour."""

from __future__ import annotations

import datetime
import json
from typing import Any

from clinjepa.clinical import load_variables
from clinjepa.serving.requests import Stay
from clinjepa.sources.schema import SourceTables


class StayRequests:
    """Requests of the stays of a source's tables."""

    def __init__(self, tables: SourceTables) -> None:
        self.stays = {stay["stay_id"]: stay for stay in tables.stays.to_pylist()}
        self.events: dict[int, list[dict[str, Any]]] = {}
        for event in tables.events.to_pylist():
            self.events.setdefault(event["stay_id"], []).append(event)

    def plain(self, stay_id: int, num_hours: int, minutes: int = 0) -> dict[str, Any]:
        """The request `num_hours` hours and some minutes after the admission, with what had happened by then."""
        stay = self.stays[stay_id]
        now = stay["intime"] + datetime.timedelta(hours=num_hours, minutes=minutes)
        rows = [_row(event, now) for event in self.events.get(stay_id, []) if event["time"] <= now]
        known = {name: _text(stay[name]) for name in Stay.model_fields}
        for name in ("height", "weight"):
            unit = {"height": "cm", "weight": "kg"}[name]
            time = stay[f"{name}_time"]
            if time is not None and time > now:
                known[f"{name}_{unit}"] = known[f"{name}_time"] = None
        return {"now": now.isoformat(), "stay": known, "events": rows}

    def body(self, stay_id: int, num_hours: int, minutes: int = 0) -> bytes:
        """The same as JSON."""
        return json.dumps(self.plain(stay_id, num_hours, minutes)).encode()


def _row(event: dict[str, Any], now: datetime.datetime) -> dict[str, Any]:
    """An event as it was known at `now`: an interval that goes on has the amount so far."""
    row = {name: _text(value) for name, value in event.items() if name not in ("stay_id", "row")}
    row["order_id"] = event["row"] + 1  # what a source keeps apart stays apart
    begun, end = event["time"], event["end_time"]
    variable = load_variables().get(event["variable"])
    if end is not None and end > now:
        row["end_time"] = now.isoformat()
        if variable is not None and variable.aggregation == "sum" and event["value"] is not None:
            row["value"] = event["value"] * ((now - begun) / (end - begun))
    if event["store_time"] is not None and event["store_time"] > now:
        row["store_time"] = None
    return row


def _text(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime.datetime) else value
