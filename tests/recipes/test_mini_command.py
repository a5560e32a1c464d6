"""`python -m linzoo_recipes.mini`: its steps, and errors in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from linzoo_recipes.mini import __main__ as command
from linzoo_recipes.mini import fetch
from linzoo_recipes.mini.steps import Recipe


def test_the_command_knows_every_step_in_order(tmp_path: Path) -> None:
    recipe = Recipe(tmp_path, tmp_path, torch.device("cpu"))
    assert ("all", *recipe.steps()) == command.STEPS


def test_a_step_whose_input_is_missing_says_which_step_makes_it(tmp_path: Path) -> None:
    result = CliRunner().invoke(command.main, ["vae", "--out", str(tmp_path), "--device", "cpu"])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert "run the `render` step first" in result.stderr


def test_all_runs_the_steps_in_order_and_stops_at_the_first_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []
    monkeypatch.setattr(
        fetch, "fetch", lambda package, _: fetched.append(package.name) or tmp_path / "none.tgz"
    )
    result = CliRunner().invoke(command.main, ["--out", str(tmp_path), "--device", "cpu"])
    assert isinstance(result.exception, FileNotFoundError)
    assert fetched[: len(fetch.PACKAGES)] == [package.name for package in fetch.PACKAGES]


def test_a_wrong_step_is_wrong_usage(tmp_path: Path) -> None:
    result = CliRunner().invoke(command.main, ["paint", "--out", str(tmp_path)])
    assert result.exit_code == 2
