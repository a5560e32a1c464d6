"""Loading one plugin behind a guard: whatever goes wrong in it is noted on it, and stops nothing else."""

from __future__ import annotations

import contextlib
import importlib
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import pluggy

from linzoo._version import __version__
from linzoo.errors import PluginError
from linzoo.plugin import SpecError, spec
from linzoo.registry.candidates import Candidate
from linzoo.registry.collecting import Entries, collect
from linzoo.registry.lint import lint_hooks
from linzoo.registry.problems import Fault, Problem, brief, make_problem
from linzoo.registry.status import PluginStatus
from linzoo.registry.switches import Switches
from linzoo.registry.trace import Tracer

HEAVY = ("torch", "diffusers", "transformers", "triton", "numpy")
_INNER = {Path(path).parent for path in (__file__, spec.__file__, importlib.__file__)}


class Loader:
    """Takes candidates through import, lint, registration and collection, one at a time."""

    def __init__(self, manager: pluggy.PluginManager, switches: Switches, trace: Tracer) -> None:
        self._manager = manager
        self._switches = switches
        self._trace = trace
        self._registered: dict[PluginStatus, Any] = {}

    def load(self, candidate: Candidate) -> tuple[PluginStatus, Entries]:
        """Load one plugin.

        Returns:
            What became of it, and its entries: all of them, or none.

        Raises:
            PluginError: it has a problem, and ``LINZOO_STRICT_PLUGINS`` is set.
        """
        status = PluginStatus(candidate)
        if not self._switches.admit(candidate):
            status.state = "disabled"
            return status, {}
        start = time.perf_counter()
        entries: Entries = {}
        try:
            # What a plugin prints must not end up in the JSON that a command prints.
            with contextlib.redirect_stdout(sys.stderr):
                entries = self._take_in(status)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self.refuse(status, _as_fault(error))
        for problem in status.problems:
            self.enforce(problem)
        status.ms = (time.perf_counter() - start) * 1000
        return status, entries

    def refuse(self, status: PluginStatus, fault: Fault) -> None:
        """Note why a plugin is left out, and forget its hooks.

        Raises:
            PluginError: ``LINZOO_STRICT_PLUGINS`` is set.
        """
        if status in self._registered:
            self._manager.unregister(self._registered.pop(status))
        status.error = fault.__cause__
        where = fault.where or _place(status.error)
        problem = make_problem(fault.code, status.name, status.version, where, **fault.values)
        wanted = _unmet_requirement(status.candidate)
        if wanted:
            words = {"wanted": wanted, "have": __version__, "cause": problem.message}
            problem = make_problem("LZP103", status.name, status.version, where, **words)
        status.note(problem)
        self.enforce(problem, status.error)

    def enforce(self, problem: Problem, cause: BaseException | None = None) -> None:
        """Raise the problem as a PluginError where ``LINZOO_STRICT_PLUGINS`` is set."""
        if self._switches.strict:
            raise PluginError(problem.render()) from cause

    def _take_in(self, status: PluginStatus) -> Entries:
        candidate, manager = status.candidate, self._manager
        before = set(sys.modules)
        plugin = candidate.load()
        status.hooks = lint_hooks(manager, plugin)
        other = manager.get_name(plugin)
        if other is not None:
            raise Fault("LZP206", getattr(plugin, "__file__", None) or "", other=other)
        manager.register(plugin, name=candidate.key)
        self._registered[status] = plugin
        entries = collect(manager, candidate.key, self._trace)
        status.provides = {kind: tuple(sorted(each.id for each in found)) for kind, found in entries.items()}
        heavy = [module for module in HEAVY if module in sys.modules and module not in before]
        if heavy:
            status.note(make_problem("LZP104", status.name, status.version, modules=", ".join(heavy)))
        return entries


def _as_fault(error: BaseException) -> Fault:
    if isinstance(error, Fault):
        return error
    if isinstance(error, SpecError):
        fault = Fault.of_spec(error, "import")
    else:
        fault = Fault("LZP102" if isinstance(error, SystemExit) else "LZP101", cause=brief(error))
    fault.__cause__ = error
    return fault


def _place(error: BaseException | None) -> str:
    """The first line of code outside linzoo and the import machinery on the way to an exception."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    for frame in traceback.extract_tb(error.__traceback__ if error else None):
        if not frame.filename.startswith("<") and _INNER.isdisjoint(Path(frame.filename).parents):
            return f"{frame.filename}:{frame.lineno}"
    return ""


def _unmet_requirement(candidate: Candidate) -> str:
    """The version specifier that a distribution wants of linzoo, where this linzoo does not meet it."""
    if not candidate.requires:
        return ""
    from packaging.requirements import Requirement

    for line in candidate.requires:
        try:
            requirement = Requirement(line)
            applies = requirement.name.lower() == "linzoo" and (
                requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            )
        except ValueError:  # packaging's errors for what it cannot read, or compare
            continue
        if applies and not requirement.specifier.contains(__version__, prereleases=True):
            return str(requirement.specifier)
    return ""


def format_error(status: PluginStatus) -> str:
    """The traceback of what broke a plugin; empty where nothing was raised."""
    error: Any = status.error
    return "".join(traceback.format_exception(error)) if error is not None else ""
