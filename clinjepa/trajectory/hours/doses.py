"""The doses of an action text multiplied by a factor: read by the grammar of `text.py`, written by its rules.

A dose is the number of a phrase `name: number unit.` that says how much was given: the rate of an infusion (kind `rate` of the variable
dictionary), an amount (aggregation `sum`: fluids and transfusions), or the dose of a medication, whose name the dictionary does not have.
Other variables of the dictionary are no doses and stay as they are: settings of a ventilator (FiO2, PEEP, volumes), modes, and procedures.
A number inside a name (`Dextrose 5%`) is no dose either. Read by the drift evaluation, which feeds these texts as wrong actions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from clinjepa.clinical import DEFAULT_DIGITS, Variable, load_variables
from clinjepa.trajectory.hours.numbers import format_number

_HEAD = re.compile(r"t=\d+h \| ")
_DOSE = re.compile(r"(?P<name>.+): (?P<number>-?\d+(?:\.\d+)?(?:e[-+]\d+)?)(?P<unit> .+)?")
_NUMBER_FIRST = re.compile(r": [-+<>~]?\.?\d")
_MOST_PHRASES = 1 << 18


class Shifted(NamedTuple):
    """A text with other doses."""

    text: str
    num_doses: int
    """Doses that were multiplied, those of 0 left out."""
    num_unread: int
    """Phrases with a number after their name that the text writer would not write (`5-10 mg`, `1,000 units`), and texts without the
    head of an hour; they stay as they are."""


class DoseShifter:
    """Multiplies the doses of action texts by a factor; keeps the phrases that it met, since texts repeat them."""

    def __init__(self, factor: float, max_decimals: int, variables: Mapping[str, Variable] | None = None) -> None:
        """The rules of texts with these decimals.

        Args:
            factor: what every dose is multiplied by, above 0.
            max_decimals: `text.max_decimals` of the ingest that wrote the texts.
            variables: the variable dictionary; None reads it.
        """
        self._factor, self._max_decimals = factor, max_decimals
        written = [each for each in (load_variables() if variables is None else variables).values() if each.role == "action"]
        self._given = {each.text_name: each for each in written if each.kind == "rate" or each.aggregation == "sum"}
        self._others = {each.text_name for each in written} - set(self._given)
        self._phrase = lru_cache(maxsize=_MOST_PHRASES)(self._shifted_phrase)

    def shift(self, text: str) -> Shifted:
        """The text of an hour with its doses multiplied; nothing else of it changes."""
        head = _HEAD.match(text)
        if head is None or not text.endswith("."):
            return Shifted(text, 0, 1)
        phrases = [self._phrase(phrase) for phrase in text[head.end() : -1].split(". ")]
        body = ". ".join(phrase.text for phrase in phrases)
        return Shifted(f"{head[0]}{body}.", sum(each.num_doses for each in phrases), sum(each.num_unread for each in phrases))

    def _shifted_phrase(self, phrase: str) -> Shifted:
        """phrase: without its full stop. A name with `. ` in it makes two phrases, of which the second has the dose."""
        opening = phrase.partition(": ")[0]
        if opening in self._others or not _NUMBER_FIRST.search(phrase):
            return Shifted(phrase, 0, 0)
        found = _DOSE.fullmatch(phrase)
        if found is None:
            return Shifted(phrase, 0, 1)
        variable, unit = self._given.get(found["name"]), found["unit"] or ""
        # The dictionary may list a drug as an infusion. A bolus of it is then written with the bolus's unit and the default digits.
        digits = variable.digits if variable is not None and unit.strip() == variable.unit else DEFAULT_DIGITS
        value = float(found["number"])
        if format_number(value, digits, self._max_decimals) != found["number"]:
            return Shifted(phrase, 0, 1)
        return Shifted(f"{found['name']}: {format_number(value * self._factor, digits, self._max_decimals)}{unit}", int(value != 0), 0)
