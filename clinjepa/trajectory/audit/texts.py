"""Names in the hourly texts of an ingest artifact, compared with the names that texts may contain. Part of the leak audit.

Every text is read, part by part: the name that opens each phrase (`Heart Rate: 88 bpm.`), and identifiers of excluded fields anywhere.
Definitions: `clinjepa/clinical/exclusions.yaml`, roles in `clinjepa/clinical/variables.yaml`, names in `clinjepa/clinical/tasks/`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import polars as pl

from clinjepa.clinical import excluded_by, list_tasks, load_exclusions, load_variables
from clinjepa.storage import Folder
from clinjepa.trajectory.hours.text import NO_INTERVENTIONS, NO_OBSERVATIONS

STATIC_NAMES = frozenset({"Age", "Gender", "Race"})
"""Names in the texts of `text.static_texts`."""

_KINDS = {"state": "state_texts", "action": "action_texts"}
_HOUR_PREFIX = r"^t=(\d+)h \| "


@dataclass
class TextFindings:
    """Numbers of texts and phrases read, and names found where they must not be; counted by name over all patients."""

    num_texts: int = 0
    num_phrases: int = 0
    excluded: Counter[str] = field(default_factory=Counter)
    """Phrases whose name is an excluded field, or the name of a task."""
    identifiers: Counter[str] = field(default_factory=Counter)
    """Texts with an identifier of an excluded field (`drg_code`, `MEDS_DEATH`) anywhere."""
    label_only: Counter[str] = field(default_factory=Counter)
    """Phrases whose name is that of a label-only variable."""
    misplaced: Counter[str] = field(default_factory=Counter)
    """Phrases whose name is not allowed in this kind of text: a treatment among observations, or an undeclared field."""
    scores: int = 0
    """Phrases with a severity score that the texts may have."""
    wrong_hour: int = 0
    """Texts whose `t=…h` is not their position in the stay, and stays whose number of texts is not their number of hours."""


def read_texts(ingest: Folder, parts: list[str], scores: Collection[str] = ()) -> TextFindings:
    """Check every text of `parts` (parts of a finished ingest artifact). scores: excluded names that state texts may have."""
    found = TextFindings()
    num_hours = pl.DataFrame(ingest.read_table("stays.parquet", columns=["stay_id", "num_hours"]))
    for part in parts:
        hours = pl.DataFrame(ingest.read_table(f"hours/{part}.parquet"))
        found.wrong_hour += _wrong_hours(hours.join(num_hours, on="stay_id", how="left"))
        _check_texts(hours["static_text"], "static", found, ())
        for kind, column in _KINDS.items():
            _check_texts(hours[column].explode(empty_as_null=False), kind, found, scores if kind == "state" else ())
    return found


def folded(name: str) -> str:
    """A name without regard to case, hyphens, underscores and slashes."""
    return re.sub(r"[\s_/-]+", " ", name).strip().casefold()


def _check_texts(texts: pl.Series, kind: str, found: TextFindings, scores: Collection[str]) -> None:
    frame = texts.alias("text").to_frame()
    found.num_texts += frame.height
    for name, count in _count(frame.select(pl.col("text").str.extract(_identifier_pattern(frozenset(scores)), 1))):
        found.identifiers[name] += count
    body = pl.col("text").str.replace(_HOUR_PREFIX, "").str.strip_suffix(".").str.split(". ")
    phrases = frame.select(body.alias("phrase")).explode("phrase", empty_as_null=False)
    found.num_phrases += phrases.height
    allowed = _allowed_names()
    own, others = allowed[kind], set().union(*(names for other, names in allowed.items() if other != kind))
    label_only = _label_only_names() - {folded(name) for name in own}
    for name, count in _count(phrases.select(pl.col("phrase").str.splitn(": ", 2).struct.field("field_0"))):
        if name in own:
            continue
        if name in scores:
            found.scores += count
            continue
        if excluded_by(name) or folded(name) in _excluded_names():
            found.excluded[name] += count
        elif folded(name) in label_only:
            found.label_only[name] += count
        elif name in others or kind != "action":  # an action text may name any medication
            found.misplaced[name] += count


def _wrong_hours(hours: pl.DataFrame) -> int:
    """`TextFindings.wrong_hour` of one part. hours: HOURS_SCHEMA and num_hours."""
    wrong = 0
    for column in _KINDS.values():
        wrong += hours.filter(pl.col(column).list.len() != pl.col("num_hours")).height
        texts = hours.select("stay_id", column).explode(column, empty_as_null=False)
        texts = texts.with_columns(pl.int_range(pl.len()).over("stay_id").alias("place"))
        wrong += texts.filter(pl.col(column).str.extract(_HOUR_PREFIX, 1).cast(pl.Int64, strict=False).ne_missing(pl.col("place"))).height
    return wrong


def _count(names: pl.DataFrame) -> list[tuple[str, int]]:
    column = names.columns[0]
    return [(name, count) for name, count in names.group_by(column).len().iter_rows() if name is not None]


def _allowed_names() -> Mapping[str, set[str]]:
    """Kind of text -> names that may open its phrases. Action texts may also name any medication."""
    names: dict[str, set[str]] = {
        role: {variable.text_name for variable in load_variables().values() if variable.role == role} for role in ("state", "action")
    }
    names["state"].add(NO_OBSERVATIONS.removesuffix("."))
    names["action"].add(NO_INTERVENTIONS.removesuffix("."))
    return names | {"static": set(STATIC_NAMES)}


def _label_only_names() -> set[str]:
    return {folded(name) for v in load_variables().values() if v.role == "label_only" for name in (v.name, v.text_name)}


def _excluded_names() -> set[str]:
    return {folded(name) for name in (*load_exclusions(), *list_tasks())}


def _identifier_pattern(without: frozenset[str]) -> str:
    """Pattern of excluded names that occur in no clinical prose: with an underscore, slash or digit, or in capitals; case-sensitive."""
    names = {name for name in (*load_exclusions(), *list_tasks()) if re.search(r"[_/\d]", name) or (name.isupper() and len(name) > 2)}
    names -= without
    return rf"(?:^|[^\w])({'|'.join(sorted(map(re.escape, names), key=len, reverse=True))})(?:$|[^\w])"


def list_names(names: Counter[str], most: int = 8) -> str:
    """`drg_code (12), SOFA (3)`: the most frequent names. Names in no definition are only counted, since they may be free text."""
    known = _known_names()
    shown: Counter[str] = Counter()
    for name, count in names.items():
        shown[name if folded(name) in known or excluded_by(name) else "a name of no definition"] += count
    return ", ".join(f"{name} ({count})" for name, count in shown.most_common(most))


def _known_names() -> set[str]:
    return {folded(name) for v in load_variables().values() for name in (v.name, v.text_name)} | _excluded_names()
