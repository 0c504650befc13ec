"""CLIF's respiratory_support to raw events: settings and observations by column, device and mode as the dictionary's words.

A row states device and mode together, so the device decides what its mode means: the same mode belongs to a mask and to a tube. The words
and which of them are ventilators are data: `clinical/maps/clif.yaml`.
"""

from __future__ import annotations

from collections import Counter

import polars as pl

from clinjepa.clinical.derived import load_derived
from clinjepa.sources.clif.tables import category, clif_map
from clinjepa.sources.mimic_iv.row_meaning import SIGNIFICANT_DIGITS
from clinjepa.sources.readings.cleaning import raw_events

_OTHER = "other"


def respiratory(rows: pl.DataFrame, counts: Counter[str]) -> list[pl.DataFrame]:
    """Raw events of respiratory_support.

    Args:
        rows: The table's columns, with stay_id, time and row.
        counts: Receives `unmapped_code` (words for device or mode that the map lacks; they are of unknown class) and `contradicting_mode`
            (modes of a ventilator in a row whose device is none).
    """
    found = []
    for column, variable in clif_map()["ventilation"].items():
        value = pl.col(column).round_sig_figs(SIGNIFICANT_DIGITS).alias("value")
        found.append(raw_events(rows.drop_nulls(column).select("stay_id", "time", "row", value, pl.lit(variable).alias("variable"))))
    said = _with_known_words(rows, counts)
    for variable, text in (("o2_device", _device()), ("vent_mode", _mode())):
        named = said.with_columns(text.alias("text")).drop_nulls("text")
        found.append(raw_events(named.select("stay_id", "time", "row", "text", pl.lit(variable).alias("variable"))))
    contradicting = pl.col("mode").is_not_null() & _mode().is_null()
    _count(said, contradicting, "contradicting_mode", counts)
    return found


def _with_known_words(rows: pl.DataFrame, counts: Counter[str]) -> pl.DataFrame:
    """`rows` with device and mode as categories of the map, and `latest`, the last charted device that may still be the present one."""
    for name, words in (("device", clif_map()["devices"]), ("mode", clif_map()["modes"])):
        word = category(f"{name}_category")
        is_known = word.is_in(list(words))
        _count(rows, ~is_known, "unmapped_code", counts)
        rows = rows.with_columns(pl.when(is_known).then(word).when(word.is_not_null()).then(pl.lit(_OTHER)).alias(name))
    rows = rows.sort("stay_id", "time", "row")
    charted = pl.when(pl.col("device").is_not_null()).then(pl.col("time"))
    longest = pl.duration(hours=int(load_derived()["vent_status"].parameters["status_max_age_hours"]))
    recent = pl.col("time") - charted.forward_fill().over("stay_id") <= longest
    return rows.with_columns(pl.when(recent).then(pl.col("device").forward_fill().over("stay_id")).alias("latest"))


def _device() -> pl.Expr:
    """The word for the device. A tracheostomy with a ventilator has its own word."""
    known = clif_map()
    device, mode = pl.col("device"), pl.col("mode")
    sets = pl.any_horizontal(pl.col(name).fill_nan(None) > 0 for name in known["ventilator_settings"]).fill_null(False)
    breathes = (mode.is_not_null() & ~mode.is_in(known["no_ventilator_modes"])).fill_null(False) | sets
    by_ventilator = device.is_in(known["invasive"]).fill_null(False) | (_is_unclear() & breathes)
    through_neck = pl.col("tracheostomy").fill_null(False) & by_ventilator
    words = device.replace_strict(known["devices"], default=None, return_dtype=pl.String)
    return pl.when(through_neck).then(pl.lit(known["ventilated_tracheostomy"])).otherwise(words)


def _mode() -> pl.Expr:
    """The word for the mode; null where the row's device is known and no ventilator."""
    known = clif_map()
    device, mode = pl.col("device"), pl.col("mode")
    word = mode.replace_strict(known["modes"], default=None, return_dtype=pl.String)
    by_mask = device.is_in(known["noninvasive"]).fill_null(False)
    still_by_mask = _is_unclear() & pl.col("latest").is_in(known["noninvasive"]) & mode.is_in(known["shared_modes"])
    still_by_mask = still_by_mask.fill_null(False) & ~pl.col("tracheostomy").fill_null(False)
    return (
        pl.when(mode.is_null() | mode.is_in(known["no_ventilator_modes"]))
        .then(word)
        .when(by_mask | still_by_mask)
        .then(pl.lit(known["noninvasive_mode"]))
        .when(_is_unclear() | device.is_in(known["invasive"]).fill_null(False))
        .then(word)
    )


def _is_unclear() -> pl.Expr:
    """Whether a row names no device, or one of unknown class."""
    return (pl.col("device").is_null() | (pl.col("device") == _OTHER)).fill_null(True)


def _count(rows: pl.DataFrame, fault: pl.Expr, rule: str, counts: Counter[str]) -> None:
    """Add the rows with a fault, each once also where it belongs to two stays."""
    if number := rows.filter(fault.fill_null(False))["row"].n_unique():
        counts[rule] += number
