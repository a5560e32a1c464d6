"""Looking over an imported plugin before it is registered: every function that looks like a hook must be one."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterator
from typing import Any

import pluggy

from linzoo.registry.problems import Fault

PREFIX = "linzoo_"
WRAPPABLE = "linzoo_load_teacher"


def lint_hooks(manager: pluggy.PluginManager, plugin: Any) -> tuple[str, ...]:
    """Return the names of the hooks that a plugin implements.

    Raises:
        Fault: LZP201 to LZP205.
    """
    hooks = set()
    for name, function, options in _functions(manager, plugin):
        if options is None:
            if name.startswith(PREFIX):
                raise Fault("LZP202", place(function), function=name)
            continue
        hook = options["specname"] or name
        spec = getattr(manager.hook, hook, None)
        if spec is None:
            if not options["optionalhook"]:
                raise Fault("LZP203", place(function), hook=hook, suggestion=_suggestion(manager, hook))
            continue
        _lint_arguments(hook, spec.spec.argnames, function)
        wraps = options["wrapper"] or options["hookwrapper"]
        if wraps and not (hook == WRAPPABLE and inspect.isgeneratorfunction(function)):
            raise Fault("LZP205", place(function), hook=hook)
        hooks.add(hook)
    if not hooks:
        raise Fault("LZP201", getattr(plugin, "__file__", None) or "")
    return tuple(sorted(hooks))


def place(function: Any) -> str:
    """Where a function is written, as ``file:line``."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else ""


def _functions(manager: pluggy.PluginManager, plugin: Any) -> Iterator[tuple[str, Any, Any]]:
    for name in dir(plugin):
        options = manager.parse_hookimpl_opts(plugin, name)
        member = inspect.getattr_static(plugin, name, None)  # None for what a module's __getattr__ makes
        if options is not None or inspect.isroutine(member):
            yield name, getattr(plugin, name), options


def _lint_arguments(hook: str, known: tuple[str, ...], function: Any) -> None:
    """What a hook is asked with is given by position, and never to an argument that has a default."""
    for argument in inspect.signature(function).parameters.values():
        needed = argument.default is argument.empty and argument.kind not in (
            argument.VAR_POSITIONAL,
            argument.VAR_KEYWORD,
        )
        given = needed and argument.kind is not argument.KEYWORD_ONLY
        if not given if argument.name in known else needed:
            written = str(argument.replace(annotation=argument.empty))
            if argument.kind is argument.KEYWORD_ONLY:
                written = f"*, {written}"
            signature = f"{hook}({', '.join(known)})"
            raise Fault("LZP204", place(function), hook=hook, argument=written, signature=signature)


def _suggestion(manager: pluggy.PluginManager, hook: str) -> str:
    close = difflib.get_close_matches(hook, vars(manager.hook), 1)
    return (
        f"did you mean '{close[0]}'?  (all hooks: linzoo plugins hooks)"
        if close
        else "all hooks: linzoo plugins hooks"
    )
