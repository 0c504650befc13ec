"""Three-valued conditions on one hour's values, as data: true, surely false, or unknown.

Tasks (`tasks/*.yaml`) and derived states (`derived/*.yaml`) are written in them; `trajectory/labels/states.py` evaluates them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from clinjepa.clinical.definitions import check_keys
from clinjepa.clinical.variables import load_variables
from clinjepa.errors import ConfigError

Stat = Literal["observed", "given"]
Operator = Literal["<", "<=", ">", ">=", "=="]
Rule = Literal["all", "any", "not", "agree"]


@dataclass(frozen=True)
class Condition:
    """A three-valued comparison of one hour's values.

    variables: grid columns or derived quantities. stat `observed`: the hourly aggregate, unknown where null; `given`: the hourly rate,
    amount or indicator of a treatment, 0 where null (so never unknown). pick `first`: the first variable of the list that is known
    decides (a fallback); `any`: true where one of the known ones satisfies the comparison, false where at least one is known
    and none does. value: in the variables' unit.
    """

    variables: tuple[str, ...]
    stat: Stat
    op: Operator
    value: float
    pick: Literal["first", "any"] = "any"

    def all_variables(self) -> tuple[str, ...]:
        """Columns that the condition reads."""
        return self.variables


@dataclass(frozen=True)
class Combination:
    """Three-valued logic over parts.

    `all`: false if one part is false, else unknown if one is unknown, else true. `any`: true if one part is true, else unknown if
    one is unknown, else false. `not` (one part): true and false swap, unknown stays. `agree`: true if all are true,
    false if all are false, else unknown.
    """

    rule: Rule
    parts: tuple[Condition | Combination, ...]

    def all_variables(self) -> tuple[str, ...]:
        """Columns that the parts read, each once."""
        return tuple(dict.fromkeys(name for part in self.parts for name in part.all_variables()))


def parse_condition(raw: Any, where: str, derived: Collection[str] = ()) -> Condition | Combination:
    """A condition from parsed YAML; `derived`: names beyond the dictionary that it may read. ConfigError names the place."""
    if isinstance(raw, dict) and len(raw) == 1 and next(iter(raw)) in get_args(Rule):
        rule, content = next(iter(raw.items()))
        parts = [content] if rule == "not" else content
        if not isinstance(parts, list) or not parts:
            raise ConfigError(f"{where}.{rule}: expected a list of conditions")
        return Combination(
            cast(Rule, rule), tuple(parse_condition(part, f"{where}.{rule}[{index}]", derived) for index, part in enumerate(parts))
        )
    entry = check_keys(raw, {"variables", "stat", "op", "value"}, {"pick"}, where)
    names = tuple(entry["variables"]) if isinstance(entry["variables"], list) else ()
    if not names:
        raise ConfigError(f"{where}.variables: expected a list of variable names")
    check_columns(names, where, derived)
    for key, allowed in (("stat", get_args(Stat)), ("op", get_args(Operator)), ("pick", ("first", "any"))):
        if key in entry and entry[key] not in allowed:
            raise ConfigError(f"{where}.{key}={entry[key]!r} is not one of {list(allowed)}")
    if not isinstance(entry["value"], int | float) or isinstance(entry["value"], bool):
        raise ConfigError(f"{where}.value={entry['value']!r} is not a number")
    return Condition(names, entry["stat"], entry["op"], float(entry["value"]), entry.get("pick", "any"))


def check_columns(names: Collection[str], where: str, derived: Collection[str] = ()) -> None:
    """ConfigError unless every name is a numeric variable of the dictionary or one of `derived`."""
    variables = load_variables()
    for name in names:
        if name in derived:
            continue
        if name not in variables:
            raise ConfigError(f"{where}: {name!r} is not in variables.yaml" + (", nor a derived quantity" if derived else ""))
        if variables[name].kind == "category":
            raise ConfigError(f"{where}: {name!r} is a category; conditions compare numbers")
