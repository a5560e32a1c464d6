"""What is wrong with a recipe, said to the person who wrote it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from linzoo.distillation.errors import RecipeError
from linzoo.distillation.recipe import Recipe
from linzoo.distillation.settings import Mark, Path, Settings

_SHOWN = 60

_WORDS = {
    "bool_type": "must be true or false",
    "dict_type": "must be a section with keys of its own",
    "finite_number": "must be a finite number",
    "float_type": "must be a number",
    "greater_than": "must be more than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "int_from_float": "must be a whole number",
    "int_type": "must be a whole number",
    "less_than": "must be less than {lt:g}",
    "less_than_equal": "must be at most {le:g}",
    "model_type": "must be a section with keys of its own",
    "multiple_of": "must be a multiple of {multiple_of:g}",
    "string_too_short": "must not be empty",
    "string_type": "must be text; put it in quotes",
    "too_long": "must have at most {max_length} values",
    "too_short": "must have at least {min_length}",
    "tuple_type": "must be a list, such as [1, 2]",
}


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        mark: where it was written.
        path: the setting, dotted; empty for the document as a whole.
        message: what is wrong, and what would be right.
    """

    mark: Mark
    path: str
    message: str

    def __str__(self) -> str:
        return ": ".join(filter(None, (str(self.mark), self.path, self.message)))

    def only(self, condition: str) -> Fault:
        """The fault as one that is there under a condition alone."""
        return replace(self, message=f"{self.message} ({condition})")


def recipe_error(faults: Iterable[Fault], where: str) -> RecipeError:
    """All faults in one error, each once, in the order of the document."""
    distinct = dict.fromkeys(faults)
    ordered = sorted(
        distinct, key=lambda fault: (fault.mark.where != where, fault.mark.line, fault.mark.column)
    )
    if len(ordered) == 1:
        return RecipeError(str(ordered[0]))
    return RecipeError("\n  ".join([f"{where} has {len(ordered)} faults", *map(str, ordered)]))


def suggestion(word: str, known: Sequence[str], *, otherwise: str = "known here") -> str:
    """``did you mean 'steps'?``, or all that are known."""
    close = get_close_matches(word, known, 1, 0.6)
    return f"did you mean '{close[0]}'?" if close else f"{otherwise}: {', '.join(known) or 'none'}"


def explain(error: ValidationError, settings: Settings) -> list[Fault]:
    """The faults behind an error of the schema.

    A key that is missing because it is misspelled is one fault.
    """
    found = error.errors(include_url=False)
    faults: list[Fault] = []
    misspelled: set[Path] = set()
    for each in found:
        if each["type"] == "extra_forbidden":
            known = _keys(each["loc"][:-1])
            misspelled.update(
                (*each["loc"][:-1], key) for key in get_close_matches(str(each["loc"][-1]), known, 1, 0.6)
            )
    for each in found:
        if each["type"] != "missing" or each["loc"] not in misspelled:
            faults.append(Fault(settings.mark(each["loc"]), dotted(each["loc"]), _message(each)))
    return faults


def dotted(path: Path) -> str:
    """``data.size[0]``."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


def shown(value: Any) -> str:
    """A value as a document has it, shortened."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _message(error: Any) -> str:
    kind, path, value, context = error["type"], error["loc"], error["input"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return f"unknown key; {suggestion(str(path[-1]), _keys(path[:-1]))}"
    if kind == "missing":
        return "is missing" if isinstance(path[-1], int) else f"is missing: {_description(path)}"
    if kind == "literal_error":
        known = re.findall(r"'([^']*)'", context["expected"]) or [context["expected"]]
        close = get_close_matches(str(value), known, 1, 0.5)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        return f"{shown(value)} is none of {', '.join(known)}{hint}"
    if kind == "value_error":
        return str(context["error"])
    words = _WORDS[kind].format(**context) if kind in _WORDS else str(error["msg"])
    return f"{words}, not {shown(value)}"


def _keys(path: Path) -> list[str]:
    section = _section(path)
    return [] if section is None else list(section.model_fields)


def _description(path: Path) -> str:
    section = _section(path[:-1])
    text = section.model_fields[str(path[-1])].description if section else None
    return " ".join((text or "").split()).rstrip(".").replace("``", "'")


def _section(path: Path) -> type[BaseModel] | None:
    """The schema of the section at a path."""
    section: type[BaseModel] | None = Recipe
    for part in path:
        field = section.model_fields.get(str(part)) if section else None
        section = None if field is None else _model_in(field.annotation)
    return section


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds, whether it may be null or not."""
    choices = (annotation, *get_args(annotation))
    return next((each for each in choices if isinstance(each, type) and issubclass(each, BaseModel)), None)
