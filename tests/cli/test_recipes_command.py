"""``linzoo recipes ls|cat|cp|validate``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from dists import HEAD, Site

from linzoo.cli.main import main

WRONG = "schema_version: 1\nname: mine\nvariant: sd51\ndata: {sorce: a}\nalign: {steps: 1, batch: 1}\n"


def recipes(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["recipes", *map(str, arguments)])


def test_ls_lists_recipes_with_their_variants() -> None:
    rows = recipes("ls").stdout.splitlines()
    assert rows[0].split() == ["ID", "VARIANT", "WHAT", "IT", "IS", "FROM"]
    by_id = {row.split()[0]: row for row in rows[1:]}
    assert "sd15 (default)" in by_id["sd15"]
    assert "(default)" not in by_id["official-sd15"]


def test_ls_json() -> None:
    data = json.loads(recipes("ls", "--json").stdout)
    (mini,) = (each for each in data["recipes"] if each["id"] == "mini")
    assert mini == {
        "id": "mini",
        "full_id": "linzoo_mini::mini",
        "variant": "mini",
        "default": True,
        "summary": "Calibrate, align, distil on a CPU in minutes.",
        "plugin": "linzoo_mini",
    }


def test_cat_shows_the_file_as_it_is_with_its_comments() -> None:
    shown = recipes("cat", "sdxl").stdout
    assert shown.startswith("# Stable Diffusion XL")
    assert "\npresets:\n" in shown


def test_cat_shows_what_holds_with_a_preset_and_overrides() -> None:
    shown = recipes("cat", "sdxl", "--preset", "16gb", "--set", "distill.steps=7", "--set", "seed=3").stdout
    settings = yaml.safe_load(shown)
    assert settings["distill"]["steps"] == 7
    assert settings["seed"] == 3
    assert settings["distill"]["optimizer"]["name"] == "adamw8bit"
    assert settings["guards"]["max_skips"] == 20  # a default, written out
    assert "presets" not in settings


def test_cat_json_has_settings_and_digest() -> None:
    data = json.loads(recipes("cat", "mini", "--set", "seed=3", "--json").stdout)
    assert data["recipe"]["seed"] == 3
    assert len(data["sha256"]) == 64
    assert data["sha256"] != json.loads(recipes("cat", "mini", "--json").stdout)["sha256"]


def test_cp_copies_the_file_and_never_overwrites(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    first = recipes("cp", "sd15", mine)
    assert first.exit_code == 0
    assert f"linzoo recipes validate {mine}" in first.stderr
    assert mine.read_text(encoding="utf-8") == recipes("cat", "sd15").stdout
    mine.write_text("changed")
    again = recipes("cp", "sd15", mine)
    assert again.exit_code == 2
    assert "mine.yaml exists; name another file" in again.stderr
    assert mine.read_text() == "changed"


def test_cp_into_a_folder_keeps_the_name(tmp_path: Path) -> None:
    assert recipes("cp", "mini", tmp_path).exit_code == 0
    assert (tmp_path / "mini.yaml").exists()


def test_cp_says_why_it_cannot(tmp_path: Path) -> None:
    result = recipes("cp", "mini", tmp_path / "none" / "a.yaml")
    assert result.exit_code == 1
    assert "No such file or directory" in result.stderr


def test_validate_says_that_recipes_are_right(tmp_path: Path) -> None:
    recipes("cp", "mini", tmp_path / "mine.yaml")
    result = recipes("validate", tmp_path / "mine.yaml", "sd15")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        f"{tmp_path / 'mine.yaml'}: right (variant mini; presets: none)",
        "sd15: right (variant sd15; presets: 8gb, 16gb, 24gb, 80gb, 8x80gb)",
    ]


def test_validate_tells_all_faults_of_all_files(tmp_path: Path) -> None:
    wrong, gone = tmp_path / "wrong.yaml", tmp_path / "gone.yaml"
    wrong.write_text(WRONG)
    result = recipes("validate", wrong, "sd15", gone)
    assert result.exit_code == 2
    assert result.stdout.startswith("sd15: right")
    assert f"{wrong}:4:8: data.sorce: unknown key; did you mean 'source'?" in result.stderr
    assert f"cannot read the recipe {gone}: No such file" in result.stderr
    assert "Traceback" not in result.stderr


def test_validate_knows_the_ids_of_plugins(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(WRONG.replace("sorce", "source") + "start: randon\n")
    result = recipes("validate", wrong)
    assert result.exit_code == 2
    assert f"{wrong}: variant: unknown variant 'sd51'" in result.stderr
    assert "start: unknown init recipe 'randon'\n  did you mean 'random'?" in result.stderr


def test_validate_json(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(WRONG)
    result = recipes("validate", wrong, "mini", "--json")
    assert result.exit_code == 2
    bad, good = json.loads(result.stdout)["recipes"]
    assert not bad["valid"]
    assert "did you mean 'source'?" in bad["error"]
    assert good["valid"]
    assert good["presets"] == []


@pytest.mark.parametrize("command", ["cat", "cp", "validate"])
def test_an_unknown_name_is_told_with_close_ones(command: str, tmp_path: Path) -> None:
    result = recipes(command, "sd5", *([tmp_path / "a"] if command == "cp" else []))
    assert result.exit_code != 0
    assert "unknown distill recipe 'sd5'" in result.stderr
    assert "did you mean 'sd15'" in result.stderr


def test_recipes_of_plugins_are_found(site: Site, tmp_path: Path) -> None:
    code = f"""{HEAD}
from linzoo.plugin import DistillRecipe, Resource

@hookimpl
def linzoo_distill_recipes():
    return [DistillRecipe(id="theirs", variant="mini", document=Resource("linzoo_recipes", "mini/mini.yaml"))]
"""
    site.add("linzoo-theirs", code)
    assert "theirs" in recipes("ls").stdout
    assert recipes("cp", "linzoo-theirs::theirs", tmp_path / "a.yaml").exit_code == 0
