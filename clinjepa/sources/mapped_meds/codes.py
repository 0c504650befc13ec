"""Codes of a MEDS data set to the entries of its map."""

from __future__ import annotations

import polars as pl

from clinjepa.clinical.code_maps import CodeMap

_SEPARATOR = "//"
_MOST_CODES = 1_000_000
"""Codes whose place in the map is remembered; some data sets have free texts as codes."""

_TYPES = pl.Schema({"code": pl.String(), "kind": pl.String(), "key": pl.String(), "rest": pl.String()})


class CodeReader:
    """Places codes in a map: `kind` of a row, the map's `key` for its code, and the `rest` of the code behind it.

    kind: `code` for entries of `codes`, `not_used`, or a kind of structure such as `stays.begin`; null where the map lacks the code.
    """

    def __init__(self, code_map: CodeMap) -> None:
        kinds = {code: "not_used" for code in code_map.not_used} | {code: "code" for code in code_map.codes}
        kinds |= {code: kind for kind, codes in code_map.structure.items() for code in codes}
        self._kinds = kinds
        self._known: dict[str, tuple[str | None, str | None, str | None]] = {}

    def place(self, rows: pl.DataFrame) -> pl.DataFrame:
        """`rows` with kind, key and rest."""
        codes = rows["code"].unique().drop_nulls().to_list()
        if len(self._known) + len(codes) > _MOST_CODES:
            self._known.clear()
        for code in codes:
            if code not in self._known:
                self._known[code] = self._find(code)
        table = pl.DataFrame([(code, *self._known[code]) for code in codes], schema=_TYPES, orient="row")
        return rows.join(table, on="code", how="left", maintain_order="left")

    def _find(self, code: str) -> tuple[str | None, str | None, str | None]:
        """(kind, key, rest) by the longest part of the code that the map has."""
        parts = code.split(_SEPARATOR)
        for length in range(len(parts), 0, -1):
            key = _SEPARATOR.join(parts[:length])
            if key in self._kinds:
                return self._kinds[key], key, _SEPARATOR.join(parts[length:]) or None
        return None, None, None
