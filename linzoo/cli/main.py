"""The ``linzoo`` command."""

from __future__ import annotations

import click

from linzoo._version import __version__
from linzoo.cli.bench import bench
from linzoo.cli.convert import convert
from linzoo.cli.demo import demo
from linzoo.cli.distill import distill
from linzoo.cli.doctor import doctor
from linzoo.cli.generate import generate
from linzoo.cli.inspect import inspect
from linzoo.cli.list import list_entries
from linzoo.cli.plugin_commands import RootGroup
from linzoo.cli.plugins import plugins
from linzoo.cli.push import push
from linzoo.cli.recipes import recipes
from linzoo.cli.show import show
from linzoo.cli.validate import validate
from linzoo.cli.verify import verify
from linzoo.cli.zoo import zoo


@click.group(cls=RootGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", prog_name="linzoo")
def main() -> None:
    """Convert Stable Diffusion checkpoints to linear attention (LinFusion), mount them and draw with them.

    \b
    Examples:
      linzoo inspect dreamshaper_8.safetensors
      linzoo convert dreamshaper_8.safetensors dreamshaper-linfusion
      linzoo demo
    """


main.add_command(bench)
main.add_command(convert)
main.add_command(demo)
main.add_command(distill)
main.add_command(doctor)
main.add_command(generate)
main.add_command(inspect)
main.add_command(list_entries)
main.add_command(plugins)
main.add_command(push)
main.add_command(recipes)
main.add_command(show)
main.add_command(validate)
main.add_command(verify)
main.add_command(zoo)
