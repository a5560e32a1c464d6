"""References are resolved when used, never before, and say what to do when they cannot be."""

from __future__ import annotations

import importlib
import sys
from collections import OrderedDict
from pathlib import Path

import pytest

from linzoo.errors import PluginError
from linzoo.plugin import LazyRef, Resource


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that must not be imported to find its files."""
    folder = tmp_path / "lazy_package"
    folder.mkdir()
    folder.joinpath("__init__.py").write_text("raise AssertionError('imported')")
    folder.joinpath("data.yaml").write_text("a: 1")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    return folder


def test_a_reference_loads_what_it_names() -> None:
    assert LazyRef("collections:OrderedDict").load() is OrderedDict
    assert LazyRef("collections:OrderedDict.fromkeys").load()("a") == OrderedDict(a=None)


@pytest.mark.parametrize("target", ["collections:NoSuchThing", "no_such_module:x", "lazy_package:x"])
def test_a_reference_that_fails_names_itself(package: Path, target: str) -> None:
    with pytest.raises(PluginError, match=rf"^cannot load '{target}': .* \[LZP501\]$"):
        LazyRef(target).load()


@pytest.mark.parametrize("error", ["SystemExit", "BaseException"])
def test_a_reference_whose_module_exits_or_panics_is_an_error(package: Path, error: str) -> None:
    package.joinpath("__init__.py").write_text(f"raise {error}('not here')")
    with pytest.raises(PluginError, match=rf"cannot load 'lazy_package:x': {error}: not here"):
        LazyRef("lazy_package:x").load()


def test_a_resource_is_found_without_importing_its_package(package: Path) -> None:
    assert Resource("lazy_package", "data.yaml").locate() == package / "data.yaml"
    assert "lazy_package" not in sys.modules


@pytest.mark.parametrize(
    ("resource", "says"),
    [
        (
            Resource("no_such_package", "x"),
            "cannot open resource 'x': package 'no_such_package' is not installed",
        ),
        (
            Resource("no_such.package", "x"),
            "cannot open resource 'x': package 'no_such.package' cannot be found "
            "(ModuleNotFoundError: No module named 'no_such')",
        ),
        (Resource("lazy_package", "x"), "package 'lazy_package' does not hold 'x' (FOLDER); reinstall it"),
        (
            Resource("this", "x"),
            "package 'this' does not hold 'x' (it is a module, not a package); reinstall it",
        ),
    ],
)
def test_a_resource_that_is_not_there(package: Path, resource: Resource, says: str) -> None:
    with pytest.raises(PluginError) as caught:
        resource.locate()
    assert str(caught.value) == says.replace("FOLDER", str(package))


def test_the_plugin_api_is_light() -> None:
    """Nothing that a plugin imports pulls in torch and its like; tests/cli holds this for the command line."""
    import subprocess

    code = (
        "import sys, linzoo.plugin, linzoo.registry\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'triton', 'numpy', 'huggingface_hub', 'pydantic', 'yaml'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
