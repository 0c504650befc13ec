"""The body weight that was known when a drug was given: for rates per kg that are charted per patient, or the other way round."""

from __future__ import annotations

import polars as pl

from clinjepa.clinical import load_variables

_OF_WEIGHT = ("weight", "body_weight")
"""Variables that are a weight in kg."""


def is_weight() -> pl.Expr:
    """Whether an event is a charted weight."""
    return pl.col("variable").is_in(pl.Series(_OF_WEIGHT).implode())


def with_known_weight(events: pl.DataFrame, charted: pl.DataFrame, event_time: str) -> pl.DataFrame:
    """Raw events with `known_weight` in kg, null where no plausible one was known.

    A row's own weight counts first. Otherwise it is the last one of the stay that was known when the row's interval began: a charted
    weight, or that of an earlier infusion.

    Args:
        events: Raw events.
        charted: Those that are weights (`is_weight`), converted to kg.
        event_time: `measured` or `stored`; decides from when a weight is known.
    """
    weight = load_variables()["weight"]
    plausible = pl.col("patient_weight").is_between(weight.minimum, weight.maximum)
    events = events.with_columns(pl.when(plausible).then(pl.col("patient_weight")).alias("known_weight"))
    known = pl.max_horizontal("time", *(["store_time"] if event_time == "stored" else [])).alias("known_at")
    lacking = events.select(
        pl.int_range(pl.len()).alias("place"),
        "stay_id",
        known,
        needed=(pl.col("value") > 0) & pl.col("known_weight").is_null() & _is_rate(),
    ).filter(pl.col("needed") & pl.col("known_at").is_not_null())
    own = events.filter(pl.col("known_weight").is_not_null()).select("stay_id", known, "known_weight")
    weights = pl.concat([own, charted.select("stay_id", known, pl.col("value").alias("known_weight"))]).drop_nulls().sort("known_at")
    if not lacking.height or not weights.height:
        return events
    found = lacking.sort("known_at").join_asof(weights, on="known_at", by="stay_id", strategy="backward", check_sortedness=False)
    found = found.filter(pl.col("known_weight").is_not_null())
    return events.with_columns(events["known_weight"].scatter(found["place"], found["known_weight"]))


def _is_rate() -> pl.Expr:
    return pl.col("variable").is_in(pl.Series([name for name, variable in load_variables().items() if variable.kind == "rate"]).implode())
