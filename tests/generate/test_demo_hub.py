"""The end of ``linzoo demo``: two real commands and a Hub."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

import linzoo
from linzoo.cli.common import State
from linzoo.cli.demo_hub import REPO, publish_and_load
from linzoo.errors import LinzooError


@pytest.mark.slow
def test_it_pushes_and_draws_with_what_it_pushed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report, picture = tmp_path / "report", tmp_path / "picture.png"
    linzoo.validate("mini-linfusion", "mini", report=report, device="cpu")
    capsys.readouterr()
    publish_and_load(State(), "mini-linfusion", "mini", report, "red apple, 3d emoji", picture)
    out, err = capsys.readouterr()
    assert re.search(rf"^  http://127\.0\.0\.1:\d+/{REPO}/commit/[0-9a-f]{{40}}$", out, re.MULTILINE)
    assert f"$ linzoo push mini-linfusion {REPO} --report {report}" in err
    assert f"--linfusion hf://{REPO} --out {picture}" in err
    with Image.open(picture) as drawn:
        assert drawn.size == (128, 128)


def test_a_command_that_fails_ends_it(tmp_path: Path) -> None:
    with pytest.raises(LinzooError, match=r"(?s)'linzoo push' failed:.*no such file or folder"):
        publish_and_load(State(), "nothing-here", "mini", tmp_path, "a cat", tmp_path / "picture.png")
