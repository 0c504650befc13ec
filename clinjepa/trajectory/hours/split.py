"""Patient-disjoint split into train, tuning and held_out, stratified by in-hospital death and, where known, sepsis.

The split is a function of the patients and the seed only. It does not depend on the order of rows or on the source's partitions.
"""

from __future__ import annotations

import hashlib

import polars as pl

from clinjepa.config.schema import SplitConfig
from clinjepa.errors import SourceError

SPLITS = ("train", "tuning", "held_out")
_DRAW = "set split.use_source_split=false to draw one"


def draw_split(stays: pl.DataFrame, config: SplitConfig) -> pl.Series:
    """The split of every row of `stays` (subject_id, died_in_hospital, sepsis, source_split), as a string series named `split`.

    Raises:
        SourceError: there are fewer patients than splits, or the configuration takes the source's split and that is incomplete or
            puts a patient into several splits.
    """
    if config.everyone is not None:
        return pl.Series("split", [config.everyone] * stays.height, dtype=pl.String)
    if config.use_source_split:
        return _source_split(stays)
    patients = stays.group_by("subject_id").agg(
        pl.col("died_in_hospital").fill_null(False).any().alias("died"),
        pl.col("sepsis").fill_null(False).any().alias("sepsis"),
    )
    if patients.height < len(SPLITS):
        raise SourceError(
            f"{patients.height} patients are left after the cohort's rules, but train, tuning and held_out need one each; "
            "loosen cohort.* or read more data"
        )
    rank = {
        subject: hashlib.blake2b(f"{config.seed}:{subject}".encode(), digest_size=8).digest()
        for subject in patients["subject_id"].to_list()
    }
    ordered = sorted(patients.iter_rows(), key=lambda patient: (patient[1], patient[2], rank[patient[0]], patient[0]))
    assigned: dict[int, str] = {}
    given = dict.fromkeys(SPLITS, 0)
    for position, (subject, *_) in enumerate(ordered, start=1):
        # The split furthest below its share so far: every stratum is divided in proportion, and rounding errors carry over.
        split = max(SPLITS, key=lambda name: config.fractions[SPLITS.index(name)] * position - given[name])
        assigned[subject] = split
        given[split] += 1
    for empty in (name for name in SPLITS if not given[name]):
        largest = max(SPLITS, key=lambda name: given[name])
        moved = next(subject for subject, *_ in reversed(ordered) if assigned[subject] == largest)
        assigned[moved] = empty
        given[empty] += 1
        given[largest] -= 1
    return stays["subject_id"].replace_strict(assigned, return_dtype=pl.String).alias("split")


def _source_split(stays: pl.DataFrame) -> pl.Series:
    """The split that the source gives."""
    unknown = stays.filter(~pl.col("source_split").is_in(SPLITS).fill_null(False)).height
    if unknown:
        raise SourceError(f"split.use_source_split: {unknown} stays have no split named {', '.join(SPLITS)} in the source; " + _DRAW)
    torn = stays.group_by("subject_id").agg(pl.col("source_split").n_unique()).filter(pl.col("source_split") > 1).height
    if torn:
        raise SourceError(f"split.use_source_split: {torn} patients are in more than one split of the source; " + _DRAW)
    return stays["source_split"].alias("split")
