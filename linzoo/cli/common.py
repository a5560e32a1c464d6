"""What all commands share: the state behind ``-q``, ``-v`` and ``--plugin``, errors, JSON and progress."""

from __future__ import annotations

import contextlib
import json
import re
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

from linzoo.checkpoints.hub_errors import without_signatures
from linzoo.errors import LinzooError, UsageError

if TYPE_CHECKING:
    from linzoo.registry import Registry


@dataclass
class State:
    """One run of the command line: how much it says, which one-file plugins it loads, and its registry."""

    quiet: bool = False
    verbose: bool = False
    plugin_files: list[str] = field(default_factory=list)

    @cached_property
    def registry(self) -> Registry:
        """The registry, built on first use; each broken plugin is named on stderr in one line."""
        from linzoo.registry import build_registry

        registry = build_registry(paths=tuple(self.plugin_files))
        if not self.quiet:
            for warning in registry.warnings():
                click.echo(warning, err=True)
        return registry

    def say(self, text: str) -> None:
        """Print a line for people on stderr, unless ``-q`` was given."""
        if not self.quiet:
            click.echo(text, err=True)


pass_state = click.make_pass_decorator(State, ensure=True)


def _flag(name: str) -> Any:
    def callback(context: click.Context, _: click.Parameter, value: Any) -> None:
        state = context.ensure_object(State)
        if name == "plugin_files":
            state.plugin_files.extend(value)
        elif value:
            setattr(state, name, True)

    return callback


def _shared_options() -> list[click.Option]:
    return [
        click.Option(["-q", "--quiet"], is_flag=True, expose_value=False, callback=_flag("quiet"),
                     help="Say nothing but results and errors."),
        click.Option(["-v", "--verbose"], is_flag=True, expose_value=False, callback=_flag("verbose"),
                     help="Say more; errors come with a traceback."),
        click.Option(["--plugin", "plugin_file"], multiple=True, expose_value=False, metavar="FILE.py",
                     type=click.Path(exists=True, dir_okay=False), callback=_flag("plugin_files"),
                     help="Load a one-file plugin too; may be given again."),
    ]  # fmt: skip


class FailedError(click.ClickException):
    """An error that the user can act on, on its way out of the command line, with its own exit code."""

    def __init__(self, error: Exception, exit_code: int, verbose: bool) -> None:
        super().__init__(str(error))
        self.exit_code = exit_code  # type: ignore[misc]  # click reads it from the instance
        self.trace = without_signatures("".join(traceback.format_exception(error))) if verbose else ""

    def show(self, file: Any = None) -> None:
        """Print the message, behind the traceback when ``-v`` was given."""
        click.echo(
            f"{self.trace}{click.style('error:', fg='red', bold=True)} {self.message}", file=file, err=True
        )


class Command(click.Command):
    """A command that takes ``-q``, ``-v`` and ``--plugin``, and turns linzoo's errors into exit codes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.extend(_shared_options())

    def invoke(self, context: click.Context) -> Any:
        """Run the command; a :class:`LinzooError` becomes its message and exit code."""
        try:
            return super().invoke(context)
        except LinzooError as error:
            raise FailedError(error, error.exit_code, context.ensure_object(State).verbose) from error
        except RuntimeError as error:
            if not _names_a_backend(error):
                raise
            raise FailedError(error, UsageError.exit_code, context.ensure_object(State).verbose) from error


def _names_a_backend(error: RuntimeError) -> bool:
    """Whether ``LINZOO_KERNELS`` asked for what the kernels, which have errors of their own, cannot do."""
    kernels = sys.modules.get("linzoo_kernels")  # not imported here: it imports torch
    return kernels is not None and isinstance(error, kernels.BackendError)


class Group(click.Group):
    """A group whose commands are :class:`Command`."""

    command_class = Command
    group_class = type


class OutPath(click.Path):
    """What is written on this machine; as a path, an address of the Hub would become a folder of that name."""

    def __init__(self, **checks: Any) -> None:
        super().__init__(path_type=Path, **checks)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse an address."""
        if str(value).startswith(("hf:/", "http:/", "https:/")):
            self.fail(
                f"{value}: a path on this machine is meant; 'linzoo push' publishes checkpoints", param, ctx
            )
        return super().convert(value, param, ctx)


def require_sources(state: State, *sources: str | None) -> None:
    """Refuse a model that is nowhere before libraries are imported, which takes seconds.

    Raises:
        CheckpointError: as :func:`linzoo.checkpoints.source.find_source`.
    """
    from linzoo.checkpoints.source import find_source

    for each in sources:
        if each is not None:
            find_source(each, state.registry)


def echo_json(value: Any) -> None:
    """Print a value as indented JSON on stdout."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def parse_size(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """A callback of click: ``768x512``, or ``768`` for a square, as width and height."""
    if value is None:
        return None
    match = re.fullmatch(r"(\d{1,6})(?:x(\d{1,6}))?", value)
    if match is None:
        raise click.BadParameter(f"{value!r} is not of the form 768x512, or 768 for a square.")
    return int(match[1]), int(match[2] or match[1])


class Advance(Protocol):
    """Reports progress: how many more steps are done."""

    def __call__(self, steps: int = 1) -> None:
        """Count ``steps`` more as done."""


@contextlib.contextmanager
def progress(state: State, title: str, total: int) -> Iterator[Advance]:
    """A progress bar with ETA on stderr; silent with ``-q`` or where stderr is no terminal."""
    if state.quiet or not sys.stderr.isatty():
        yield lambda steps=1: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda steps=1: bar.advance(task, steps)
