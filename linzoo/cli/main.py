"""The ``linzoo`` command."""

from __future__ import annotations

import click

from linzoo._version import __version__
from linzoo.cli.common import Group
from linzoo.cli.doctor import doctor


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", prog_name="linzoo")
def main() -> None:
    """Convert Stable Diffusion checkpoints to linear attention (LinFusion), mount them and draw with them.

    \b
    Examples:
      linzoo inspect dreamshaper_8.safetensors
      linzoo convert dreamshaper_8.safetensors dreamshaper-linfusion
      linzoo demo
    """


main.add_command(doctor)
