"""Units as a data set writes them, in the dictionary's spelling; texts that mean "no unit" are none."""

from __future__ import annotations

import polars as pl

from clinjepa.clinical import canonical_unit


def written_unit(rows: pl.DataFrame, column: str) -> pl.Expr:
    """The units of a text column of `rows` in the dictionary's spelling, as an expression over `rows`.

    Null where the text is empty or one of `missing` in `clinical/maps/units.yaml`. A source that knows the unit from elsewhere (a code, a
    map, a standard) then takes that one.
    """
    units = rows[column].unique().drop_nulls().to_list()
    return pl.col(column).replace_strict(units, [canonical_unit(unit) for unit in units], default=None, return_dtype=pl.String)
