"""The hook reference: every hook with its signature and its text, as written in ``linzoo.plugin.hookspecs``."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

from linzoo.errors import PluginError
from linzoo.plugin import hookspecs
from linzoo.registry.kinds import DECLARATIONS


@dataclass(frozen=True, slots=True)
class Hook:
    """One hook.

    Attributes:
        signature: as in ``linzoo_load_teacher(request: TeacherRequest) -> LoadedTeacher | None``.
        summary: the first line of its text.
        text: all of it.
        declares: whether it is asked once when the registry is built; else when something happens.
    """

    name: str
    arguments: tuple[str, ...]
    signature: str
    summary: str
    text: str
    declares: bool


def all_hooks() -> tuple[Hook, ...]:
    """Every hook, in the order of the specification: declarations first."""
    return tuple(
        _describe(name, function)
        for name, function in vars(hookspecs).items()
        if inspect.isfunction(function) and name.startswith("linzoo_")
    )


def find_hook(name: str) -> Hook:
    """Find a hook by name.

    Raises:
        PluginError: there is none.
    """
    hooks = {hook.name: hook for hook in all_hooks()}
    if name not in hooks:
        raise PluginError(f"there is no hook '{name}'; there are: {', '.join(hooks)}")
    return hooks[name]


def _describe(name: str, function: object) -> Hook:
    text = inspect.getdoc(function) or ""
    signature = inspect.signature(function)  # type: ignore[arg-type]
    return Hook(
        name=name,
        arguments=tuple(signature.parameters),
        signature=f"{name}{signature}".replace("'", ""),
        summary=text.splitlines()[0],
        text=text,
        declares=name in DECLARATIONS,
    )
