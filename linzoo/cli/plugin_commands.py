"""Commands that plugins add (entry-point group ``linzoo.commands``): listed from metadata, imported on use."""

from __future__ import annotations

import os
import traceback
from functools import cached_property
from typing import TYPE_CHECKING, Any

import click

from linzoo.cli.common import FailedError, Group
from linzoo.errors import LinzooError

if TYPE_CHECKING:
    from linzoo.registry.candidates import Candidate


class BrokenCommandError(click.ClickException):
    """A plugin's command cannot be used; the message names the plugin."""

    def __init__(self, name: str, plugin: str, why: str, trace: str = "") -> None:
        super().__init__(
            f"{trace}the command '{name}' of plugin {plugin} cannot be used: {why}\n"
            f"  repair or uninstall the plugin; everything else works"
        )


class PluginCommand(click.Command):
    """Stands for a plugin's command in ``--help``; the plugin is imported when the command is used."""

    def __init__(self, name: str, candidate: Candidate) -> None:
        self.plugin = f"{candidate.dist} {candidate.version}"
        super().__init__(name, help=f"(from {self.plugin})", short_help=f"(from {self.plugin})")
        self._candidate = candidate

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **extra: Any) -> click.Context:
        """Import the real command and let it parse the arguments.

        Raises:
            BrokenCommandError: the import fails or gives something else than a command.
        """
        verbose = not {"-v", "--verbose"}.isdisjoint(args)
        try:
            command = self._candidate.load()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            trace = traceback.format_exc() if verbose else ""
            why = f"{type(error).__name__}: {error}"
            raise BrokenCommandError(str(self.name), self.plugin, why, trace) from error
        if not isinstance(command, click.Command):
            from linzoo.plugin.spec import with_article

            why = (
                f"'{self._candidate.target}' is no click command, but {with_article(type(command).__name__)}"
            )
            raise BrokenCommandError(str(self.name), self.plugin, why)
        return command.make_context(info_name, args, *rest, **extra)


class RootGroup(Group):
    """The ``linzoo`` command: its own commands, then those of plugins, which can never stand in front of them."""

    def list_commands(self, context: click.Context) -> list[str]:
        """The names of all commands; one that two plugins provide is listed under its full names."""
        return [*super().list_commands(context), *sorted(self._from_plugins)]

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Find a command by its name, or a plugin's by ``plugin::name``, without importing a plugin."""
        return super().get_command(context, name) or self._from_plugins.get(name)

    def invoke(self, context: click.Context) -> Any:
        """Run a command; a :class:`LinzooError` of a plugin's command becomes its message and exit code."""
        try:
            return super().invoke(context)
        except LinzooError as error:
            raise FailedError(error, error.exit_code, verbose=False) from error

    @cached_property
    def _from_plugins(self) -> dict[str, PluginCommand]:
        from linzoo.registry.candidates import COMMANDS_GROUP, installed_candidates
        from linzoo.registry.switches import Switches

        switches = Switches.read(os.environ)
        admitted = [each for each in installed_candidates(COMMANDS_GROUP) if switches.admit(each)]
        names = [each.name for each in admitted]
        commands = {}
        for each in admitted:
            hidden = names.count(each.name) > 1 or each.name in self.commands
            name = f"{each.dist}::{each.name}" if hidden else each.name
            commands[name] = PluginCommand(name, each)
        return commands
