"""What can be wrong with a plugin: every LZP code with its words, in one table, and a problem as it is shown."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from linzoo.plugin import SpecError

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Code:
    """One kind of problem: its message, what to do about it, and what the docs say about it.

    ``message`` and ``remedy`` are format strings; ``{name}`` is the plugin.
    """

    code: str
    title: str
    message: str
    remedy: str
    explanation: str
    severity: Severity = "error"


_TABLE = (
    Code(
        "LZP101",
        "The import fails",
        "cannot be imported: {cause}",
        "repair or uninstall it; LINZOO_DISABLE_PLUGINS={name} leaves it out",
        "The module that the entry point names raises an exception while it is imported. Often a package that the "
        "plugin needs is missing; the traceback is in `linzoo plugins show NAME -v`.",
    ),
    Code(
        "LZP102",
        "The plugin ends the program",
        "ends the program while it is loaded ({cause})",
        "repair or uninstall it; LINZOO_DISABLE_PLUGINS={name} leaves it out",
        "The module, or one of its hooks, calls `sys.exit` while plugins are loaded. linzoo goes on without it. "
        "Raise an exception that says what is missing instead.",
    ),
    Code(
        "LZP103",
        "The plugin was written for another linzoo",
        "needs linzoo{wanted}, and this is linzoo {have}: {cause}",
        "pip install --upgrade linzoo {name}",
        "The plugin does not load, and the requirement on linzoo that its package declares is not met by the linzoo "
        "that runs. The cause is what failed, and most likely goes away with a version that fits.",
    ),
    Code(
        "LZP104",
        "The plugin imports something heavy",
        "imports {modules} when it is loaded, which every command waits for",
        "import it inside the functions that need it, and name classes by LazyRef",
        "The module that holds the hooks must be light, since every command loads it. The plugin works all the same.",
        "warning",
    ),
    Code(
        "LZP201",
        "No hooks",
        "implements no hook",
        "mark at least one function with @hookimpl (all hooks: linzoo plugins hooks)",
        "The entry point names a module (or object) without a single hook. It may name the wrong module.",
    ),
    Code(
        "LZP202",
        "A hook without its marker",
        "function '{function}' lacks @hookimpl and would never be called",
        "write @hookimpl above it, or give it a name that does not start with 'linzoo_'",
        "Only marked functions are hooks. One with the prefix of hooks and no marker is nearly always forgotten.",
    ),
    Code(
        "LZP203",
        "A hook that does not exist",
        "hook '{hook}' does not exist",
        "{suggestion}",
        "The name is misspelled, or belongs to another version of linzoo.",
    ),
    Code(
        "LZP204",
        "An argument that the hook does not have",
        "hook '{hook}' has no argument '{argument}'",
        "its signature is {signature}",
        "Arguments are matched by name. An implementation may leave arguments out, and may not add any. One with a "
        "default, or behind a `*`, would never be given.",
    ),
    Code(
        "LZP205",
        "A wrapper where none is allowed",
        "hook '{hook}' cannot be wrapped like this",
        "only linzoo_load_teacher takes a wrapper, and that is a generator function with one yield",
        "A wrapper sees, and could change, what other plugins answer. For declarations that would hide who provides "
        "what, and for `linzoo_before_push` it could undo a veto.",
    ),
    Code(
        "LZP206",
        "One plugin under two names",
        "is the same object as plugin '{other}'",
        "let only one entry point name it",
        "Two entry points, perhaps of two packages, name one module. The second is left out.",
    ),
    Code(
        "LZP301",
        "Not an iterable",
        "hook '{hook}' must return an iterable of {type}, got {got}",
        "return a list, or yield each {type}",
        "A declaration hook returned one object, a text, a dict or nothing at all.",
    ),
    Code(
        "LZP302",
        "The wrong type",
        "hook '{hook}' must give {type}, got {got} as item {index}",
        "every item must be a linzoo.plugin.{type}",
        "The iterable that a declaration hook returned holds something else than its dataclass.",
    ),
    Code(
        "LZP303",
        "A malformed id",
        "in '{stage}': {cause}",
        "an id looks like 'sd15', 'dreamshaper-8' or 'generalized-linear'",
        "Ids are typed on command lines and become parts of file names, so they are lower-case words.",
    ),
    Code(
        "LZP304",
        "An id twice in one plugin",
        "hook '{hook}' gives the id '{id}' twice",
        "every {type} of a plugin needs an id of its own",
        "Nothing could tell the two apart.",
    ),
    Code(
        "LZP305",
        "A malformed LazyRef",
        "in '{stage}': {cause}",
        "write it as in LazyRef('linzoo_kolors.model:Kolors')",
        "The target of a `LazyRef` is a module, a colon, and the name of something in it.",
    ),
    Code(
        "LZP306",
        "Settings that are not plain data",
        "in '{stage}': {cause}",
        "write settings as dicts, lists, strings and numbers, and name objects by LazyRef",
        "Settings are hashed, compared and written to JSON. Sets, arrays, dtypes and other objects cannot be.",
    ),
    Code(
        "LZP307",
        "A malformed field",
        "in '{stage}': {cause}",
        "help('linzoo.plugin') describes every field",
        "A field of a dataclass holds a value that it cannot hold; the message names the field.",
    ),
    Code(
        "LZP308",
        "A hook fails",
        "hook '{hook}' fails: {cause}",
        "the traceback: linzoo plugins show {name} -v",
        "A declaration hook raised an exception. Nothing of what the plugin had declared before is kept.",
    ),
    Code(
        "LZP401",
        "A reference to nothing",
        "{what} names the {kind} '{id}', which no plugin provides",
        "{suggestion}",
        "An entry names another entry by id, and there is none. The plugin is left out as a whole, and plugins that "
        "build on it are left out with it.",
    ),
    Code(
        "LZP402",
        "Variants in a circle",
        "the variants {path} refine or precede each other in a circle",
        "take one of these references out",
        "`refines` and `before` order variants; in a circle no order is left.",
    ),
    Code(
        "LZP403",
        "One id from two plugins",
        "the {kind} '{id}' is provided by {others} too",
        "use the full name '{full_id}'",
        "The short name is ambiguous; every other name works. Built-in entries keep their short names.",
        "warning",
    ),
    Code(
        "LZP501",
        "A lazy reference fails",
        "cannot load '{target}': {cause}",
        "{hint}",
        "A `LazyRef` was used, and its module cannot be imported or does not hold the name. The command that used it "
        "ends; the hint says what to install, where the author wrote one.",
    ),
)

CODES = MappingProxyType({code.code: code for code in _TABLE})


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with one plugin."""

    code: str
    plugin: str
    message: str
    where: str = ""
    remedy: str = ""

    @property
    def severity(self) -> Severity:
        """A plugin with an error is left out; one with a warning is not."""
        return CODES[self.code].severity

    @property
    def line(self) -> str:
        """The message and the code, in one line."""
        return f"{self.message} [{self.code}]"

    def render(self) -> str:
        """Say what is wrong, where, and what to do, on a line each."""
        lines = [f"{self.severity}[{self.code}] {self.plugin}: {self.message}"]
        if self.where:
            lines.append(f"  --> {self.where}")
        if self.remedy:
            lines.append(f"  {self.remedy}")
        return "\n".join(lines)


class Fault(Exception):  # noqa: N818 (never leaves the registry)
    """Raised inside the registry where a plugin turns out to be wrong; becomes a :class:`Problem`.

    Its cause is what the plugin itself raised.
    """

    def __init__(self, code: str, where: str = "", **values: Any) -> None:
        super().__init__(code)
        self.code = code
        self.where = where
        self.values = values

    @classmethod
    def of_spec(cls, error: SpecError, stage: str) -> Fault:
        """What a dataclass of a plugin finds wrong with its own fields, in a hook or while it is imported."""
        code: Any = getattr(error, "code", None)  # a plugin may raise one of its own making
        if code not in ("LZP303", "LZP305", "LZP306"):
            code = "LZP307"
        return cls(code, cause=first_line(error), stage=stage)


def make_problem(code: str, name: str, version: str, where: str = "", **values: Any) -> Problem:
    """Fill in the words of a code for one plugin."""
    entry = CODES[code]
    words = {"name": name, **values}
    return Problem(
        code=code,
        plugin=f"{name} {version}".strip(),
        message=entry.message.format(**words),
        where=where,
        remedy=entry.remedy.format(**words),
    )


def brief(error: BaseException) -> str:
    """Name an exception in one line."""
    line = first_line(error)
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def first_line(error: BaseException) -> str:
    """The first line of what an exception says; empty where it says nothing, or fails at that too."""
    try:
        return next(iter(str(error).strip().splitlines()), "")
    except Exception:
        return ""
