"""The points of `grid.axes`: every combination of values, as a whole configuration and with a name. All faults are one line."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, get_origin

from pydantic import BaseModel

from clinjepa.config.grid import AxisRange, GridConfig
from clinjepa.config.load import validated
from clinjepa.config.schema import Config
from clinjepa.config.section import is_execution
from clinjepa.errors import ConfigError

Value = Any
"""A JSON value of a setting."""


@dataclass(frozen=True)
class GridPoint:
    """One combination of values of the axes."""

    values: Mapping[str, Value]
    """Dotted name of a setting -> its value; empty where there are no axes."""

    words: Mapping[str, str]
    """The same for people: the shortest unambiguous end of the dotted name -> `name=value`."""

    config: Config
    """The configuration with these values and without axes."""

    @property
    def name(self) -> str:
        """`encoder_lr=1e-05 · rollout_steps=2`; empty where there are no axes."""
        return " · ".join(self.words.values())


def grid_points(config: Config) -> tuple[GridPoint, ...]:
    """The points of the grid, in the order of the axes; one point without values where there are no axes.

    Raises:
        ConfigError: an axis names no setting, a section, or a setting that changes no result; has fewer than two values or one twice; axes
            that are zipped differ in length; a value is refused by the schema; or there would be more than `grid.max_trials` trials.
    """
    grid = config.grid
    if repeated := sorted({seed for seed in grid.seeds if grid.seeds.count(seed) > 1}):
        raise ConfigError(
            f"grid.seeds holds {', '.join(map(str, repeated))} twice, so two trials would have the same key; give each seed once"
        )
    check_names(config)
    values = {name: axis_values(name, axis) for name, axis in grid.axes.items()}
    if grid.combine == "zipped" and len({len(each) for each in values.values()}) > 1:
        lengths = ", ".join(f"{name} has {len(each)}" for name, each in values.items())
        raise ConfigError(f"grid.axes: {lengths} values; with grid.combine: zipped all axes have equally many")
    _check_size(grid, [len(each) for each in values.values()])
    combined = zip(*values.values(), strict=True) if values and grid.combine == "zipped" else product(*values.values())
    alone, names = without_axes(config), short_names(values)
    return tuple(_point(alone, dict(zip(values, chosen, strict=True)), names) for chosen in combined)


def _point(config: Config, values: Mapping[str, Value], names: Mapping[str, str]) -> GridPoint:
    words = {name: f"{names[name]}={in_words(value)}" for name, value in values.items()}
    return GridPoint(values, words, with_values(config, values))


def without_axes(config: Config) -> Config:
    """The configuration of a grid's recipes and seeds alone."""
    return config.model_copy(update={"grid": config.grid.model_copy(update={"axes": {}, "combine": "crossed"})})


def with_values(config: Config, values: Mapping[str, Value]) -> Config:
    """The configuration with other values of some settings, by dotted name. Sections that stay as they are were validated before.

    Raises:
        ConfigError: a value is refused, with the name of the axis.
    """
    if not values:
        return config
    changed = _fields(config)
    for name, value in values.items():
        *parents, last = name.split(".")
        node = changed
        for parent in parents:
            inner = node[parent]
            node[parent] = _fields(inner) if isinstance(inner, BaseModel) else dict(inner)
            node = node[parent]
        node[last] = value
    return validated(changed, "grid.axes")


def _fields(section: BaseModel) -> dict[str, Any]:
    return {name: getattr(section, name) for name in type(section).model_fields}


def axis_values(name: str, axis: Sequence[Value] | AxisRange) -> list[Value]:
    """The values of an axis in a grid. Raises ConfigError for fewer than two values, or one that is there twice."""
    found = _of_range(name, axis) if isinstance(axis, AxisRange) else list(axis)
    if len(found) < 2:
        given = f"has the value {in_words(found[0])} only and changes nothing" if found else "has no value"
        raise ConfigError(f"grid.axes: {name} {given}; give two values or more, or set {name} itself")
    written = [in_words(value) for value in found]
    if twice := sorted({value for value in written if written.count(value) > 1}):
        raise ConfigError(f"grid.axes: {name} has {', '.join(twice)} twice, so two trials would have the same key; give each value once")
    return found


def _of_range(name: str, axis: AxisRange) -> list[Value]:
    if axis.num is None:
        raise ConfigError(
            f"grid.axes: {name} is a range without num, which only a search can use (`clinjepa grid`, grid.search.metric); add num"
        )
    steps = [place / (axis.num - 1) for place in range(axis.num)]
    if axis.scale == "log":
        low, high = math.log(axis.low), math.log(axis.high)
        values: list[float] = [float(f"{math.exp(low + step * (high - low)):.6g}") for step in steps]
    else:
        values = [float(f"{axis.low + step * (axis.high - axis.low):.12g}") for step in steps]
    whole = isinstance(axis.low, int) and isinstance(axis.high, int)
    return [round(value) for value in values] if whole else list(values)


def short_names(names: Sequence[str] | Mapping[str, Any]) -> dict[str, str]:
    """Dotted name -> its shortest end that no other name has: `encoder_lr`, `encoder.num_layers`."""
    parts = {name: name.split(".") for name in names}
    found = {}
    for name, own in parts.items():
        for length in range(1, len(own) + 1):
            if not any(other != name and each[-length:] == own[-length:] for other, each in parts.items()):
                break
        found[name] = ".".join(own[-length:])
    return found


def in_words(value: Value) -> str:
    """A value as it is written in YAML: `1e-05`, `true`, `[6, 12]`, `context`. Different values have different words."""
    return value if isinstance(value, str) else json.dumps(value)


def _check_size(grid: GridConfig, lengths: Sequence[int]) -> None:
    """Raise ConfigError when the grid has more trials than `grid.max_trials`."""
    num_points = (lengths[0] if lengths else 1) if grid.combine == "zipped" else math.prod(lengths)
    num_trials = len(grid.recipes) * len(grid.seeds) * num_points
    if num_trials > grid.max_trials:
        points = f" x {num_points} points of grid.axes" if lengths else ""
        raise ConfigError(
            f"grid: {len(grid.recipes)} recipes x {len(grid.seeds)} seeds{points} = {num_trials} trials, more than "
            f"grid.max_trials={grid.max_trials}; take values out, or raise grid.max_trials"
        )


def check_names(config: Config) -> None:
    """Raise ConfigError unless every axis names one setting that changes results."""
    for name in config.grid.axes:
        _check_name(config, name)


def _check_name(config: Config, name: str) -> None:
    """Raise ConfigError unless the dotted name is one setting that changes results."""
    section: Any = config
    path = name.split(".")
    for depth, part in enumerate(path):
        if isinstance(section, Mapping):
            break  # free names, as those of loss terms; `build_experiment` compares them with the recipes
        fields = type(section).model_fields if isinstance(section, BaseModel) else {}
        if part not in fields:
            weight = f"; the weight of a loss term is curriculum.term_weights.{name}" if len(path) == 1 and not _near(name) else ""
            raise ConfigError(f"grid.axes: {name} is no setting{_near(name)}{weight}; docs/configuration.md lists all settings")
        if is_execution(fields[part]):
            raise ConfigError(f"grid.axes: {name} changes no result, so its trials would be equal; set it outside the axes")
        if depth == 0 and part == "grid":
            raise ConfigError(f"grid.axes: {name} belongs to the grid itself; set it directly")
        section = getattr(section, part)
    if isinstance(section, BaseModel):
        inside = ", ".join(each.removeprefix(f"{name}.") for each in setting_names(type(section)))
        raise ConfigError(f"grid.axes: {name} is a section; name one of its settings: {inside}")


def _near(name: str) -> str:
    """`; did you mean …?` with the closest setting."""
    known = list(setting_names())
    last = name.rsplit(".", 1)[-1]
    same_end = [each for each in known if each.rsplit(".", 1)[-1] == last]
    near = same_end or difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {' or '.join(near[:3])}?" if near else ""


def setting_names(section: type[BaseModel] = Config, prefix: str = "") -> Iterator[str]:
    """Dotted names of all settings that an axis may have."""
    for name, info in section.model_fields.items():
        if is_execution(info) or (not prefix and name == "grid"):
            continue
        kind = info.annotation
        if isinstance(kind, type) and get_origin(kind) is None and issubclass(kind, BaseModel):
            yield from setting_names(kind, f"{prefix}{name}.")
        else:
            yield prefix + name
