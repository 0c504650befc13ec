"""Three-valued conditions on the values of one hour, as data: true, false or unknown.

Tasks (`tasks/*.yaml`) and derived states (`derived/*.yaml`) contain conditions; `trajectory/labels/states.py` evaluates them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from clinjepa.clinical.definitions import Key, check_entry, optional
from clinjepa.clinical.variables import load_variables
from clinjepa.errors import ConfigError

Stat = Literal["observed", "given"]
Operator = Literal["<", "<=", ">", ">=", "=="]
Rule = Literal["all", "any", "not", "agree"]
Pick = Literal["first", "any"]

CONDITION_KEYS = (
    Key("variables", "List of numeric variables or derived quantities."),
    Key(
        "stat",
        "`observed`: the hourly value, unknown where null. `given`: the hourly rate, amount or indicator of a treatment, 0 where null.",
        allowed=get_args(Stat),
    ),
    Key("op", "Comparison of the value with `value`.", allowed=get_args(Operator)),
    Key("value", "Number, in the variables' unit."),
    optional(
        "pick",
        "`any` (default): true if a known variable satisfies the comparison, false if one is known and none does. `first`: the first "
        "variable of the list that is known decides.",
        get_args(Pick),
    ),
)
"""Keys of a comparison."""

RULES: dict[Rule, str] = {
    "all": "List of conditions: false if one is false, otherwise unknown if one is unknown, otherwise true.",
    "any": "List of conditions: true if one is true, otherwise unknown if one is unknown, otherwise false.",
    "not": "One condition: true and false are swapped, unknown stays unknown.",
    "agree": "List of conditions: true if all are true, false if all are false, otherwise unknown.",
}
"""Combinations of conditions: the only key of a mapping, and its meaning."""


@dataclass(frozen=True)
class Condition:
    """A three-valued comparison of one hour's values.

    Grid columns or derived quantities are compared with `value`, a number in their unit. CONDITION_KEYS explains the fields; with stat
    `given` a condition is never unknown, since a null means that nothing was given.
    """

    variables: tuple[str, ...]
    stat: Stat
    op: Operator
    value: float
    pick: Pick = "any"

    def all_variables(self) -> tuple[str, ...]:
        """Columns that the condition reads."""
        return self.variables


@dataclass(frozen=True)
class Combination:
    """Three-valued logic over parts; RULES explains the rules."""

    rule: Rule
    parts: tuple[Condition | Combination, ...]

    def all_variables(self) -> tuple[str, ...]:
        """Columns that the parts read, each once."""
        return tuple(dict.fromkeys(name for part in self.parts for name in part.all_variables()))


def parse_condition(raw: Any, where: str, derived: Collection[str] = ()) -> Condition | Combination:
    """A condition from parsed YAML.

    Args:
        raw: The parsed YAML.
        where: File and key, for messages.
        derived: Names besides the variables that the condition may read.

    Raises:
        ConfigError: An unknown key, name or value.
    """
    if isinstance(raw, dict) and len(raw) == 1 and next(iter(raw)) in get_args(Rule):
        rule, content = next(iter(raw.items()))
        parts = [content] if rule == "not" else content
        if not isinstance(parts, list) or not parts:
            raise ConfigError(f"{where}.{rule}: expected a list of conditions")
        return Combination(
            cast(Rule, rule), tuple(parse_condition(part, f"{where}.{rule}[{index}]", derived) for index, part in enumerate(parts))
        )
    entry = check_entry(raw, CONDITION_KEYS, where)
    names = tuple(entry["variables"]) if isinstance(entry["variables"], list) else ()
    if not names:
        raise ConfigError(f"{where}.variables: expected a list of variable names")
    check_columns(names, where, derived)
    if not isinstance(entry["value"], int | float) or isinstance(entry["value"], bool):
        raise ConfigError(f"{where}.value={entry['value']!r} is not a number")
    return Condition(names, entry["stat"], entry["op"], float(entry["value"]), entry.get("pick", "any"))


def check_columns(names: Collection[str], where: str, derived: Collection[str] = ()) -> None:
    """ConfigError unless every name is one of `derived` or a numeric variable of the dictionary."""
    variables = load_variables()
    for name in names:
        if name in derived:
            continue
        if name not in variables:
            raise ConfigError(f"{where}: {name!r} is not in variables.yaml" + (", nor a derived quantity" if derived else ""))
        if variables[name].kind == "category":
            raise ConfigError(f"{where}: {name!r} is a category; conditions compare numbers")
