"""The base of every dataclass that a plugin makes: it freezes and checks its own fields, and names what is wrong."""

from __future__ import annotations

import functools
import math
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Union

from linzoo.plugin.frozen import freeze

ID = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")
REFERENCE = re.compile(rf"(?:[A-Za-z0-9][A-Za-z0-9._-]*::)?{ID.pattern}")

_PLAIN = (type(None), bool, int, float, str)
_WORDS: dict[Any, str] = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    type(None): "None",
    Any: "plain data",
}


class SpecError(ValueError):
    """What a plugin declares is malformed; the message names the field and is written for the plugin's author.

    ``code`` is the LZP code that the registry reports it under.
    """

    def __init__(self, message: str, code: str = "LZP307") -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """Something that a plugin declares; its fields are frozen and hold what their annotations say.

    Raises:
        SpecError: a field holds something else; the message names it.
    """

    def __post_init__(self) -> None:
        cls: Any = type(self)
        for name, hint in _hints(cls).items():
            value = freeze(getattr(self, name))
            check_type(f"{cls.__name__}.{name}", value, hint)
            object.__setattr__(self, name, value)


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def check_type(where: str, value: Any, hint: Any) -> None:
    """Hold a frozen value against a type annotation, all the way down.

    Raises:
        SpecError: it is something else, or, under ``Any``, not plain data that JSON can hold.
    """
    origin = typing.get_origin(hint)
    if hint is Any:
        _check_plain(where, value)
    elif origin is tuple:
        if not isinstance(value, tuple):
            raise _mismatch(where, value, hint)
        for index, item in enumerate(value):
            check_type(f"{where}[{index}]", item, typing.get_args(hint)[0])
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise _mismatch(where, value, hint)
        for key, item in value.items():
            _check_key(where, key)
            check_type(f"{where}[{key!r}]", item, typing.get_args(hint)[1])
    elif not _fits(value, hint):
        raise _mismatch(where, value, hint)


def check_id(where: str, value: str) -> None:
    """Hold a new id against the form that ids have.

    Raises:
        SpecError: it is not lower-case words joined by ``.``, ``_`` or ``-``.
    """
    if not isinstance(value, str) or not ID.fullmatch(value):
        raise SpecError(
            f"{where} must be lower-case words joined by '.', '_' or '-', got {shown(value)}", "LZP303"
        )


def check_reference(where: str, *values: str | None) -> None:
    """Hold ids of other entries against their form; each may be qualified, as in ``linzoo-a::turbo``.

    Raises:
        SpecError: one has another form. None is passed over.
    """
    for value in values:
        if value is not None and not REFERENCE.fullmatch(value):
            raise SpecError(f"{where} must be the id of an entry, got {shown(value)}", "LZP303")


def check_positive(where: str, *values: int | None) -> None:
    """Raise :class:`SpecError` where a number is below 1; None is passed over."""
    for value in values:
        if value is not None and value < 1:
            raise SpecError(f"{where} must be 1 or more, got {shown(value)}")


def check_filled(where: str, value: typing.Sized) -> None:
    """Raise :class:`SpecError` where a text or list is empty."""
    if not value:
        raise SpecError(f"{where} must not be empty")


def _check_key(where: str, key: Any) -> None:
    if not isinstance(key, str):
        raise SpecError(f"{where} must have strings as keys, got {shown(key)}")


def _check_plain(where: str, value: Any) -> None:
    """Settings are written to JSON and hashed, so nothing mutable and no object of a class may hide in them."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            _check_key(where, key)
            _check_plain(f"{where}[{key!r}]", item)
    elif isinstance(value, tuple):
        for index, item in enumerate(value):
            _check_plain(f"{where}[{index}]", item)
    elif type(value) not in _PLAIN or (isinstance(value, float) and not math.isfinite(value)):
        raise SpecError(
            f"{where} must be plain data (None, bool, int, finite float, str, list, dict), got {shown(value)}",
            "LZP306",
        )


def _fits(value: Any, hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, each) for each in typing.get_args(hint))
    if origin is Literal:
        return type(value) is str and value in typing.get_args(hint)
    if hint is float:
        return type(value) in (int, float)
    if hint in (
        bool,
        int,
        str,
    ):  # not the member of an enum, nor any other subclass that JSON and YAML cannot hold
        return type(value) is hint
    return isinstance(value, hint)


def _mismatch(where: str, value: Any, hint: Any) -> SpecError:
    return SpecError(f"{where} must be {describe(hint)}, got {shown(value)}")


def describe(hint: Any) -> str:
    """Say in words what an annotation allows: ``a whole number or None``, ``a list, each a string``."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(describe(each) for each in args)
    if origin is Literal:
        return "one of " + ", ".join(repr(each) for each in args)
    if origin is tuple:
        return f"a list, each {describe(args[0])}"
    if origin is not None:
        return f"a dict of names, each {describe(args[1])}"
    return _WORDS.get(hint) or with_article(hint.__name__)


def shown(value: Any) -> str:
    """A value as it is shown in a message: on one line, and not all of it where it is long."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # a class of a plugin may do anything when it is printed
        text = object.__repr__(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def with_article(name: str) -> str:
    """``a Mixer``, ``an AttentionRule``."""
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
