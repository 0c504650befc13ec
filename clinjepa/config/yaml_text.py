"""YAML as a person writes it: what YAML reads as another value than it looks like is refused with its line, not guessed.

Refused: a key given twice, `010` and `1:30` (8 and 90 in YAML), dates, integers with more digits than any setting has, aliases that
contain themselves or stand for very many values, and very deep nesting.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

MOST_DEPTH = 50
MOST_ALIASED = 10_000
"""Values that all aliases of a text may stand for together."""

MOST_DIGITS = 20
_OTHER_BASE = re.compile(r"[-+]?0[0-9_]+")
_INT, _FLOAT, _TIMESTAMP = (f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "timestamp"))
_CANNOT_CONSTRUCT = (ValueError, TypeError, AttributeError, LookupError, OverflowError)


class YamlFault(Exception):
    """A text that is refused. words: what and how to mend it; line: where, from 1 on, None where it is not known."""

    def __init__(self, words: str, line: int | None = None) -> None:
        super().__init__(words)
        self.words, self.line = words, line


def parse_yaml(text: str) -> Any:
    """The value of a YAML text; `YamlFault` for what is not YAML or is refused here."""
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a safe loader
    except yaml.reader.ReaderError as error:
        place = text.count("\n", 0, error.position) + 1
        raise YamlFault("is not valid YAML: it has a control character; remove it", place) from None
    except yaml.constructor.ConstructorError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise YamlFault("has a tag (!name) that no configuration may have; remove it", line) from None
    except yaml.composer.ComposerError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        if "single document" in str(error.context):
            raise YamlFault("begins a second document (---); keep one document a file", line) from None
        raise YamlFault("has an alias (*name) without its anchor (&name), or an anchor twice; write the value out", line) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else None
        raise YamlFault("is not valid YAML; look for an open bracket or quotation mark, a tab or a wrong indent", line) from None


class _Loader(yaml.SafeLoader):
    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._open: list[yaml.Node] = []
        self._sizes: dict[int, int] = {}
        self._aliased = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """As the composer's, within the limits of depth and of aliases."""
        if self.check_event(yaml.AliasEvent):
            line = self._next_line()
            node = super().compose_node(parent, index)
            if id(node) not in self._sizes:
                raise YamlFault("has an alias (*name) that contains itself; write its value out", line)
            self._aliased += self._sizes[id(node)]
            if self._aliased > MOST_ALIASED:
                words = f"has aliases (*name) that stand for over {MOST_ALIASED} values; write the values out"
                raise YamlFault(words, line)
            return node
        if len(self._open) >= MOST_DEPTH:
            raise YamlFault(f"is nested over {MOST_DEPTH} levels deep; remove brackets or indents", self._next_line())
        self._open.append(yaml.Node("", None, None, None))
        node = super().compose_node(parent, index)
        self._open.pop()
        if node is not None:
            self._sizes[id(node)] = 1 + sum(self._sizes.get(id(child), 1) for child in _children(node))
        return node

    def _next_line(self) -> int:
        return int(self.peek_event().start_mark.line) + 1  # type: ignore[no-untyped-call]  # PyYAML's parser has no types

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """As the composer's; a key given twice is refused."""
        node = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if (key.tag, key.value) in seen:
                raise YamlFault(f"repeats the key {key.value[:60]!r}; keep one of them", key.start_mark.line + 1)
            seen.add((key.tag, key.value))
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """As the constructor's; values that look like something else are refused."""
        line = node.start_mark.line + 1
        if isinstance(node, yaml.ScalarNode):
            _check_scalar(node, line)
        try:
            return super().construct_object(node, deep)
        except _CANNOT_CONSTRUCT:
            raise YamlFault(f"has a value that is no {node.tag.rpartition(':')[2]}; mend it or put it in quotation marks", line) from None


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [each for pair in node.value for each in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _check_scalar(node: yaml.ScalarNode, line: int) -> None:
    """Raise YamlFault for a number or date that is not what it looks like."""
    text = node.value
    if node.tag == _TIMESTAMP:
        raise YamlFault("has a date, which no setting is; put it in quotation marks if it is a name", line)
    if node.tag in (_INT, _FLOAT) and ":" in text:
        raise YamlFault("has a number with a colon, which YAML counts in sixties; write the plain number, or quotation marks", line)
    if node.tag == _INT and _OTHER_BASE.fullmatch(text):
        raise YamlFault("has an integer that begins with 0, which YAML reads as octal; write the plain number", line)
    if node.tag == _INT and len(text) > MOST_DIGITS:
        raise YamlFault(f"has an integer of over {MOST_DIGITS} digits, which no setting takes; write a smaller number", line)
