"""The pages for plugin authors say what the code does: every hook, every code, and a tutorial that runs."""

from __future__ import annotations

import inspect
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from dists import Site

from linzoo._version import __version__
from linzoo.cli.main import main
from linzoo.errors import PluginError
from linzoo.plugin import Card, PushPlan, hookspecs
from linzoo.registry import Registry
from linzoo.registry.hooks import all_hooks
from linzoo.registry.problems import CODES

DOCS = Path(__file__).parents[2] / "docs"
PLUGINS = DOCS / "plugins"
TESTS = Path(__file__).parents[1]


def test_every_hook_is_documented_with_its_exact_arguments() -> None:
    headings = re.findall(r"^### (linzoo_\w+\(.*\))$", (PLUGINS / "hooks.md").read_text(), re.MULTILINE)
    specs = {name: spec for name, spec in vars(hookspecs).items() if name.startswith("linzoo_")}
    assert headings == [
        f"{name}({', '.join(inspect.signature(spec).parameters)})" for name, spec in specs.items()
    ]


@pytest.mark.parametrize("hook", all_hooks(), ids=lambda hook: hook.name)
def test_every_hook_says_when_it_is_asked_and_shows_an_example(hook: object) -> None:
    assert re.search(r"^Asked ", hook.text, re.MULTILINE)
    assert f"@hookimpl\n    def {hook.name}({', '.join(hook.arguments)}):" in hook.text


def test_every_hook_has_a_test() -> None:
    tests = "".join(file.read_text() for file in (TESTS / "registry").glob("*.py"))
    assert [
        hook.name for hook in all_hooks() if f"{hook.name}(" not in tests and f'"{hook.name}"' not in tests
    ] == []


def test_every_code_is_documented_with_its_words() -> None:
    page = (PLUGINS / "errors.md").read_text()
    assert re.findall(r"^## (LZP\d+): ", page, re.MULTILINE) == list(CODES)
    for code in CODES.values():
        assert f"{code.severity}[{code.code}] NAME VERSION: {code.message}\n" in page
        assert code.explanation in page


def test_generated_pages_are_checked(tmp_path: Path) -> None:
    """``--check`` must see a page that is out of date; that ours are not is what ``make check`` asks."""
    for name in ("generate.py", "plugins/hooks.md", "plugins/errors.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text((DOCS / name).read_text())
    generate = [sys.executable, str(tmp_path / "generate.py")]
    subprocess.run(generate, check=True)
    subprocess.run([*generate, "--check"], check=True)
    (tmp_path / "cli.md").write_text("# Commands\n")
    done = subprocess.run([*generate, "--check"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "out of date: docs/cli.md (make docs)\n")


@pytest.fixture(scope="module")
def files() -> dict[str, str]:
    """The tutorial's files, by name; one that goes on in a second block is one file."""
    text = (PLUGINS / "tutorial.md").read_text()
    files: dict[str, str] = {}
    block = r"^\*\*`([^`]+)`\*\*[^\n]*\n\n```\w+\n(.*?)^```"
    for name, code in re.findall(block, text, re.MULTILINE | re.DOTALL):
        files[name] = files.get(name, "") + code
    return files


class TestTutorial:
    """The tutorial's files are installed as it says, and do what it says."""

    @pytest.fixture
    def installed(self, site: Site, files: dict[str, str]) -> Path:
        (name,) = re.findall(r'^name = "(.*)"', files["pyproject.toml"], re.MULTILINE)
        (version,) = re.findall(r'^version = "(.*)"', files["pyproject.toml"], re.MULTILINE)
        (requires,) = re.findall(r'^dependencies = \["(.*)"\]', files["pyproject.toml"], re.MULTILINE)
        ((group, entry, target),) = re.findall(
            r'^\[project\.entry-points\.(\S+)\]\n(\w+) = "(.*)"', files["pyproject.toml"], re.MULTILINE
        )
        return site.add(
            name,
            files["linzoo_bksdm.py"],
            entry=entry,
            group=group,
            target=target,
            version=version,
            requires=[requires],
        )

    def test_the_one_file_plugin_works_as_shown(
        self, site: Site, files: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = site.folder.parent
        folder.joinpath("linzoo_bksdm.py").write_text(files["linzoo_bksdm.py"])
        monkeypatch.chdir(folder)
        tutorial = (PLUGINS / "tutorial.md").read_text()
        commands = re.findall(r"^\$ linzoo (.* --plugin .*)$", tutorial, re.MULTILINE)
        assert len(commands) == 2
        for command in commands:
            done = CliRunner().invoke(main, shlex.split(command))
            assert done.exit_code == 0, done.output
            assert "bk-sdm-small" in done.stdout

    def test_its_own_test_passes(self, installed: Path, files: dict[str, str]) -> None:
        assert "\n    assert " in files["test_bksdm.py"]  # a test that a reader copies can fail
        scope: dict[str, Callable[[], None]] = {}
        exec(files["test_bksdm.py"], scope)
        scope["test_declarations"]()

    def test_its_test_against_a_hub_passes(self, files: dict[str, str], tmp_path: Path) -> None:
        assert "    assert " in files["test_download.py"]
        scope: dict[str, Callable[[Path], None]] = {}
        exec(files["test_download.py"], scope)
        scope["test_it_survives_a_cut"](tmp_path)

    def test_it_is_well_in_every_respect(self, installed: Path, build: Callable[..., Registry]) -> None:
        registry = build("linzoo_sd15", "linzoo_mixers", env={"LINZOO_STRICT_PLUGINS": "1"})
        status = registry.plugins_called("linzoo-bksdm")[0]
        assert (status.label, status.state, status.problems) == ("linzoo-bksdm 0.1", "ok", [])
        assert registry.variants.get_value("bk-sdm-small").components.locate().is_dir()

    def test_its_behaviour(self, installed: Path, build: Callable[..., Registry]) -> None:
        registry = build("linzoo_sd15", "linzoo_mixers")
        variant = registry.variants.get_value("bk-sdm-small")
        card = Card(checkpoint=Path("out"), variant=variant, lock={})
        assert [section.title for section in registry.card_sections(card)] == ["Pruned teacher"]
        plan = PushPlan(
            repo="me/x", checkpoint=Path("out"), files=(), variant=variant, private=False, license=None
        )
        with pytest.raises(
            PluginError, match=r"plugin linzoo-bksdm 0\.1 stops the push to 'me/x': the weights of"
        ):
            registry.before_push(plan)

    def test_the_error_that_it_shows_is_what_linzoo_says(
        self, site: Site, files: dict[str, str], build: Callable[..., Registry]
    ) -> None:
        misspelled = files["linzoo_bksdm.py"].replace("def linzoo_variants", "def linzoo_variant")
        site.add("linzoo-bksdm", misspelled, version="0.1")
        (problem,) = build("linzoo_sd15", "linzoo_mixers").plugins_called("bksdm")[0].problems
        shown = problem.render().replace(f"{site.folder}/", "")
        assert f"```\n{shown}\n```" in (PLUGINS / "tutorial.md").read_text()

    def test_it_asks_for_a_linzoo_that_exists(self, files: dict[str, str]) -> None:
        from packaging.requirements import Requirement

        (requires,) = re.findall(r'^dependencies = \["(.*)"\]', files["pyproject.toml"], re.MULTILINE)
        assert Requirement(requires).specifier.contains(__version__, prereleases=True)

    @pytest.mark.slow
    def test_its_plans_count_right(self, installed: Path, build: Callable[..., Registry]) -> None:
        """On the variant's tiny structure, and on the real one without weights."""
        import torch
        from diffusers import UNet2DConditionModel

        registry = build("linzoo_sd15", "linzoo_mixers")
        variant = registry.variants.get_value("bk-sdm-small")
        config = UNet2DConditionModel.load_config(str(variant.components.locate() / "unet"))

        def widths(**overrides: object) -> list[int]:
            """Widths of the self-attentions."""
            with torch.device("meta"):
                unet = UNet2DConditionModel.from_config(
                    {**config, **variant.component_overrides["unet"], **overrides}
                )
            return [each.to_q.in_features for name, each in unet.named_modules() if name.endswith("attn1")]

        full, keep_small = (
            registry.plans.get_value(f"bk-sdm-small-{name}") for name in ("full", "keep-small")
        )
        assert len(widths()) == len(widths(**variant.tiny)) == full.expect_replaced
        kept = keep_small.rules[0].channels
        assert sum(width != kept for width in widths()) == keep_small.expect_replaced
