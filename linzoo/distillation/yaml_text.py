"""YAML without its surprises, with the place of every setting.

Words are booleans, numbers and null as YAML 1.2 has them: ``1e-4`` is a number, ``no`` and ``2024-01-01`` are text.
Aliases and tags are refused, a key that is set twice is a fault.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from linzoo.distillation.faults import Fault, dotted
from linzoo.distillation.settings import Mark, Path, Settings

_TAG = "tag:yaml.org,2002:"
_FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$"
)
_RESOLVERS = (
    ("bool", re.compile(r"(true|True|TRUE|false|False|FALSE)$"), "tTfF"),
    ("int", re.compile(r"[-+]?(0|[1-9][0-9_]*)$"), "-+0123456789"),
    ("float", _FLOAT, "-+.0123456789"),
    ("null", re.compile(r"(~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
)


class _Loader(yaml.SafeLoader):
    """Composes nodes and makes plain values; the tree is built by :class:`_Builder`."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (PyYAML's own attribute)

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(
                problem="aliases (*name) are not read here; write the setting out",
                problem_mark=self.peek_event().start_mark,  # type: ignore[no-untyped-call]
            )
        node: yaml.Node | None = super().compose_node(parent, index)
        return node


class _Dumper(yaml.SafeDumper):
    """Quotes what either version of YAML would take for something else than text."""


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    """In double quotes where lines end: in the other styles PyYAML writes some ends of lines as spaces."""
    style = '"' if text and text.splitlines() != [text] else None
    return dumper.represent_scalar(f"{_TAG}str", text, style=style)


_Dumper.add_representer(str, _represent_text)
for _name, _pattern, _first in _RESOLVERS:
    _Loader.add_implicit_resolver(_TAG + _name, _pattern, list(_first))
_Dumper.add_implicit_resolver(_TAG + "float", _FLOAT, list("-+.0123456789"))


def parse(text: str, where: str) -> tuple[Settings | None, list[Fault]]:
    """Read a document whose outermost level is a mapping.

    Args:
        text: the document.
        where: how marks name it.

    Returns:
        The settings, None where there is no making sense of the text; and what is wrong.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            what = (
                "empty" if node is None else "a list" if isinstance(node, yaml.SequenceNode) else "one word"
            )
            message = f"a recipe is a mapping of settings, such as 'schema_version: 1'; this is {what}"
            return None, [Fault(Mark(where, 1, 1), "", message)]
        builder = _Builder(loader, where)
        return Settings(builder.mapping(node, ()), builder.marks), builder.faults
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        mark = Mark(where, before.count("\n") + 1, len(before) - before.rfind("\n"))
        return None, [Fault(mark, "", f"the character #x{ord(text[error.position]):x} is not allowed")]
    except yaml.MarkedYAMLError as error:
        return None, [Fault(_mark(error.problem_mark or error.context_mark, where), "", _said(error))]
    except RecursionError:
        return None, [Fault(Mark(where, 1, 1), "", "sections within sections without end: this is no recipe")]


def parse_value(text: str) -> Any:
    """Read one value, such as stands behind ``--set key=``.

    Raises:
        ValueError: it is no YAML; the message says why.
    """
    settings, faults = parse(f"value:\n  {text.strip()}" if text.strip() else "value:", "")
    if settings is None or faults or list(settings.data) != ["value"]:
        raise ValueError(faults[0].message if faults else "one value is wanted")
    return settings.data["value"]


def dump(data: dict[str, Any]) -> str:
    """Write plain data so that :func:`parse` gives the same again; short lists on one line."""
    return yaml.dump(
        data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100, default_flow_style=None
    )


class _Builder:
    """Turns nodes into plain data, and remembers where everything stood."""

    def __init__(self, loader: _Loader, where: str) -> None:
        self.marks: dict[Path, Mark] = {(): Mark(where, 1, 1)}
        self.faults: list[Fault] = []
        self._loader = loader
        self._where = where

    def mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key, value in node.value:
            here = (*path, str(key.value) if isinstance(key, yaml.ScalarNode) else "?")
            mark = _mark(key.start_mark, self._where)
            if not isinstance(key, yaml.ScalarNode):
                self.faults.append(Fault(mark, dotted(path), "a key is one word"))
            elif here[-1] in data:
                self.faults.append(
                    Fault(mark, dotted(here), f"is set twice, first on line {self.marks[here].line}")
                )
            else:
                self.marks[here] = mark
                data[str(here[-1])] = self._value(value, here)
        return data

    def _value(self, node: yaml.Node, path: Path) -> Any:
        self.marks.setdefault(path, _mark(node.start_mark, self._where))
        kind = node.tag.removeprefix(_TAG)
        if isinstance(node, yaml.MappingNode) and kind == "map":
            return self.mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and kind == "seq":
            return [self._value(each, (*path, index)) for index, each in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode) and kind in ("str", "bool", "int", "float", "null"):
            return self._scalar(node, path)
        self.faults.append(Fault(self.marks[path], dotted(path), f"the tag {node.tag} is not allowed here"))
        return None

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> Any:
        try:
            node.value.encode()
            return self._loader.construct_object(node)
        except (ValueError, KeyError):  # more digits than int() takes, half a surrogate pair, !!bool maybe
            self.faults.append(Fault(self.marks[path], dotted(path), "cannot be read as a value"))
            return None


def _mark(mark: Any, where: str) -> Mark:
    return Mark(where, mark.line + 1, mark.column + 1) if mark is not None else Mark(where, 1, 1)


def _said(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or "cannot be read"
    if "'\\t'" in problem:
        return "a tab cannot stand here; indent with spaces"
    if "another document" in problem or "single document" in (error.context or ""):
        return "a second document ('---') begins here; a recipe is one"
    around = f" ({error.context})" if error.context else ""
    return f"this is no YAML: {problem}{around}"
