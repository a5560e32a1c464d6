"""The end of ``linzoo demo``: a push to a Hub, and a load from it."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from linzoo.cli.common import State
from linzoo.errors import LinzooError

REPO = "demo/mini-linfusion"


def publish_and_load(
    state: State, checkpoint: str, teacher: str, report: Path, prompt: str, picture: Path
) -> None:
    """Push a checkpoint to a Hub that lives as long as this call, and draw with what lies there.

    Both commands run as a user would run them, in processes of their own, with the Hub's own client.

    Args:
        state: of the command line.
        checkpoint: the LinFusion checkpoint.
        teacher: the SOURCE of its teacher.
        report: folder of the report that the card shows.
        prompt: what to draw.
        picture: the file to draw to.

    Raises:
        LinzooError: a command failed.
    """
    from linzoo.testing.fake_hub import FakeHub

    with FakeHub(user="demo") as hub, tempfile.TemporaryDirectory(prefix="linzoo-demo-") as home:
        # As the command itself, its processes import nothing from the folder that they are started in.
        environment = {**os.environ, **hub.environment(Path(home)), "PYTHONSAFEPATH": "1"}
        state.say("\nPublish it, on a Hub that runs on this machine for as long as this demo:")
        _run(state, environment, "push", checkpoint, REPO, "--report", str(report))
        state.say("\nAnd load it as anyone would:")
        drawn = ["--linfusion", f"hf://{REPO}", "--out", str(picture)]
        _run(state, environment, "generate", teacher, prompt, *drawn)


def _run(state: State, environment: dict[str, str], *arguments: str) -> None:
    state.say(f"  $ {shlex.join(['linzoo', *arguments])}")
    done = subprocess.run(
        [sys.executable, "-m", "linzoo", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise LinzooError(f"'linzoo {arguments[0]}' failed:\n{done.stderr.strip()}")
    if not state.quiet:
        click.echo("".join(f"  {line}\n" for line in done.stdout.splitlines()), nl=False)
