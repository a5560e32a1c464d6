"""What the repository promises as a whole: the wheel's contents, the README's links and commands."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "linzoo",
    "linzoo_benchmarks",
    "linzoo_checks",
    "linzoo_kernels",
    "linzoo_sd15",
    "linzoo_sd21",
    "linzoo_sdxl",
    "linzoo_mixers",
    "linzoo_mini",
    "linzoo_recipes",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)],
        check=True,
        capture_output=True,
    )
    (path,) = out.glob("*.whl")
    return zipfile.ZipFile(path)


def test_wheel_holds_the_packages_without_their_folders(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == PACKAGES


def test_wheel_holds_what_the_report_is_made_of(wheel: zipfile.ZipFile) -> None:
    files = {f"linzoo/validation/report/report.{end}" for end in ("html.jinja", "css", "js")}
    assert files <= set(wheel.namelist())


def test_wheel_holds_mini_with_its_licences_in_28_megabytes(wheel: zipfile.ZipFile) -> None:
    weights = [info for info in wheel.infolist() if info.filename.startswith("linzoo_mini/weights/")]
    safetensors = [info for info in weights if info.filename.endswith(".safetensors")]
    assert {Path(info.filename).name for info in safetensors} >= {
        "mini-v1.safetensors",
        "mini-3d.safetensors",
    }
    assert {
        "linzoo_mini/weights/clip/model.safetensors",
        "linzoo_mini/weights/linfusion/linzoo.lock.json",
    } <= {info.filename for info in weights}
    assert sum(info.file_size for info in safetensors) <= 28e6
    licences = wheel.read("linzoo_mini/weights/ART-LICENSES.md").decode()
    for word in ("Noto", "Apache License", "Fluent", "MIT", "FxEmojis", "CC BY 4.0"):
        assert word in licences


def test_wheel_holds_what_works_offline_and_types(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    assert "linzoo/py.typed" in names
    for plugin in ("linzoo_sd15", "linzoo_sd21", "linzoo_sdxl"):
        assert f"{plugin}/components/unet/config.json" in names


def test_wheel_holds_the_distill_recipes_and_their_prompts(wheel: zipfile.ZipFile) -> None:
    files = [path for suffix in ("yaml", "txt") for path in (ROOT / "recipes").rglob(f"*.{suffix}")]
    assert len(files) >= 10
    assert {path.relative_to(ROOT / "recipes").as_posix() for path in files} <= set(wheel.namelist())


def test_packages_have_no_folder_package_around_them() -> None:
    """``benchmarks``, ``kernels``, ``plugins`` and ``recipes`` must not become importable packages of those names."""
    for folder in ("benchmarks", "plugins", "recipes", "kernels"):
        assert not (ROOT / folder / "__init__.py").exists()


@pytest.mark.parametrize("package", ["diffusers", "transformers"])
def test_from_a_checkout_the_folder_kernels_is_not_the_package_of_that_name(package: str) -> None:
    """``kernels`` is also on PyPI, and found installed it changes what these two do."""
    program = (
        f"import sys; sys.path[0] = {str(ROOT)!r}; from {package}.utils import is_kernels_available as found"
    )
    ran = subprocess.run(
        [sys.executable, "-c", f"{program}; print(found())"], cwd=ROOT, capture_output=True, text=True
    )
    assert ran.stdout.strip() == "False", ran.stderr


@pytest.mark.parametrize(
    "page", sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("docs/**/*.md")), ids=lambda p: p.name
)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text())
    missing = [link for link in links if not (page.parent / link).exists()]
    assert missing == []


def test_every_linzoo_command_that_the_readme_shows_exists() -> None:
    from linzoo.cli.main import main

    shown = set(re.findall(r"^linzoo (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert shown
    assert shown <= set(main.commands)


def test_make_targets_that_the_readme_names_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(
        re.findall(
            r"\bmake ([a-z-]+)", (ROOT / "README.md").read_text() + (ROOT / "docs/house.md").read_text()
        )
    )
    assert {"demo", "test"} <= named <= targets
