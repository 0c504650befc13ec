"""Measures on the MIMIC-IV demo how often each item outside the variable dictionary is charted, for the simulator's MIMIC-IV tables.

    python -m benchmarks.fit_simulated_mimic DEMO > clinjepa/sources/simulated/mimic_items.yaml

DEMO: folder of the MIMIC-IV demo v2.2 (ODbL 1.0). Only frequencies, quantiles and values that stand in at least 20 rows are kept.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import polars as pl

from clinjepa.clinical import load_variables

ICU_TABLES = ("chartevents", "inputevents", "outputevents", "procedureevents", "datetimeevents", "ingredientevents")
FEWEST_ROWS = 20
_AMOUNT = {"inputevents": "amount", "ingredientevents": "amount"}
_UNIT = {"inputevents": "amountuom", "ingredientevents": "amountuom"}
_DRUGS = 60


def main(demo: Path) -> None:
    """Print the YAML of all tables."""
    stays = _read(demo, "icu/icustays")
    days = stays["los"].cast(pl.Float64).sum()
    stay_days = stays.select("subject_id", _time("intime"), _time("outtime"))
    print(
        "# What is charted beside the variables of the dictionary: rows per stay-day, unit and usual values, measured on the MIMIC-IV demo"
    )
    print("# v2.2 (ODbL 1.0, https://physionet.org/content/mimic-iv-demo/2.2/) by `python -m benchmarks.fit_simulated_mimic`.")
    print(
        "# Each item: id, label, category, unit, rows per stay-day, then [10 % and 90 % quantile, decimals] or the usual texts with shares."
    )
    print("version: 1")
    print("items:")
    labels = {row["itemid"]: row for row in _read(demo, "icu/d_items").to_dicts()}
    for table in ICU_TABLES:
        print(f"  {table}:")
        _items(_read(demo, f"icu/{table}"), table, labels, days)
    labels = {row["itemid"]: row for row in _read(demo, "hosp/d_labitems").to_dicts()}
    labs = _read(demo, "hosp/labevents")
    inside = labs.with_row_index("at").join(stay_days, on="subject_id").filter(_time("charttime").is_between("intime", "outtime"))
    in_icu = pl.Series(range(labs.height)).is_in(inside["at"].unique().implode())
    print("  labevents:")
    _items(labs.filter(in_icu), "labevents", labels, days)
    print("  labevents_outside_icu: # rows per stay")
    _items(labs.filter(~in_icu), "labevents", labels, stays.height, everything=True)
    admissions = _read(demo, "hosp/admissions").height
    drugs = _read(demo, "hosp/prescriptions")
    antibiotics = [label.split("/")[0].split(" ")[0].casefold() for label in load_variables()["antibiotics_iv"].sources[0].labels.values()]
    plain = drugs.filter(~pl.col("drug").str.to_lowercase().str.contains_any(antibiotics))
    usual = plain.group_by("drug", "route", "drug_type").len().sort("len", "drug", descending=True).filter(pl.col("len") >= FEWEST_ROWS)
    print(
        "rows_per_admission: "
        + json.dumps({name: round(_read(demo, f"hosp/{name}").height / admissions, 1) for name in ("prescriptions", "microbiologyevents")})
    )
    print("drugs:")
    for row in usual.head(_DRUGS).iter_rows():
        print(f"- {json.dumps(list(row), ensure_ascii=False)}")


def _items(rows: pl.DataFrame, table: str, labels: dict[str, dict[str, str]], days: float, everything: bool = False) -> None:
    known = {str(item) for v in load_variables().values() for source in v.sources if source.table == table for item in source.itemids}
    other = rows if everything else rows.filter(~pl.col("itemid").is_in(list(known)))
    value, unit = _AMOUNT.get(table, "value"), _UNIT.get(table, "valueuom")
    for item, count in other["itemid"].value_counts(sort=True).sort(["count", "itemid"], descending=[True, False]).iter_rows():
        if count < FEWEST_ROWS or item not in labels:
            continue
        mine = other.filter(pl.col("itemid") == item)
        numbers = mine[value].cast(pl.Float64, strict=False).drop_nulls()
        entry = labels[item]
        units = mine[unit].drop_nulls().mode().sort().to_list()
        usual: list[object] = []
        if table != "datetimeevents" and numbers.len() > count / 2:
            low, high = numbers.quantile(0.1), numbers.quantile(0.9)
            decimals = 0 if (numbers == numbers.floor()).mean() > 0.9 else 1
            usual = [round(low or 0, 1), round(high or 0, 1), decimals]
        elif table != "datetimeevents":
            texts = (
                mine[value]
                .value_counts(sort=True)
                .sort(["count", value], descending=[True, False])
                .filter(pl.col("count") >= FEWEST_ROWS)
                .head(5)
            )
            usual = [[text, round(times / count, 2)] for text, times in texts.drop_nulls().iter_rows()]
        row = [int(item), entry["label"], entry["category"], units[0] if units else None, round(count / days, 3), usual]
        print(f"  - {json.dumps(row, ensure_ascii=False)}")


def _read(demo: Path, name: str) -> pl.DataFrame:
    return pl.read_csv(demo / f"{name}.csv.gz", infer_schema=False)


def _time(column: str) -> pl.Expr:
    return pl.col(column).str.to_datetime("%Y-%m-%d %H:%M:%S", time_unit="us", strict=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
