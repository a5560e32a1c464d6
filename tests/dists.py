"""Throw-away distributions: a ``.dist-info`` folder and a module on ``sys.path``, as pip would leave them."""

from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from linzoo.registry import Registry, build_registry

HEAD = "from linzoo.plugin import *\n"


def mixer(id: str) -> str:
    """The source of a plugin that provides one mixer."""
    return HEAD + f"@hookimpl\ndef linzoo_mixers():\n    yield Mixer(id={id!r}, module=None, tensors=None)\n"


def variant(id: str, **fields: object) -> str:
    """The source text of a small, whole variant with a plan of the same id."""
    extra = "".join(f", {name}={value!r}" for name, value in fields.items())
    return (
        f"Variant(id={id!r}, components=Resource('linzoo', 'cli'), native_size={{'epsilon': 64}}, "
        "fingerprint=Fingerprint(channels=32, in_channels=4, context_dim=64, linear_projection=False, "
        f"depth=(1, 1), mid_depth=1), prediction_types=('epsilon',), default_plan={id!r}{extra})"
    )


def variants(*texts: str) -> str:
    """The source of a plugin that provides variants, and for each a plan of the same id."""
    listed = ", ".join(texts)
    return HEAD + textwrap.dedent(
        f"""\
        VARIANTS = [{listed}]
        @hookimpl
        def linzoo_variants(): return VARIANTS
        @hookimpl
        def linzoo_attention_plans():
            for v in VARIANTS:
                yield AttentionPlan(id=v.id, variant=v.id, rules=(AttentionRule(mixer='softmax'),), expect_replaced=0)
        """
    )


class Site:
    """A folder on ``sys.path`` that distributions can be put into."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def add(
        self,
        dist: str,
        body: str,
        *,
        entry: str | None = None,
        group: str = "linzoo",
        target: str | None = None,
        version: str = "1.0",
        requires: Sequence[str] = (),
    ) -> Path:
        """Install a distribution with one module and one entry point; return the module's file."""
        module = dist.replace("-", "_")
        info = self.folder / f"{module}-{version}.dist-info"
        info.mkdir()
        head = f"Metadata-Version: 2.1\nName: {dist}\nVersion: {version}\n"
        info.joinpath("METADATA").write_text(head + "".join(f"Requires-Dist: {line}\n" for line in requires))
        point = f"{entry or dist.removeprefix('linzoo-')} = {target or module}"
        info.joinpath("entry_points.txt").write_text(f"[{group}]\n{point}\n")
        file = self.folder / f"{module}.py"
        file.write_text(textwrap.dedent(body))
        importlib.invalidate_caches()
        return file

    def forget(self) -> None:
        """Drop the modules that were imported from here, or from files beside it."""
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", None) or "").startswith(str(self.folder.parent)):
                del sys.modules[name]
        importlib.invalidate_caches()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """An empty place for throw-away distributions, gone after the test."""
    made = Site(tmp_path / "site")
    monkeypatch.syspath_prepend(made.folder)
    for switch in ("PLUGINS", "DISABLE_PLUGINS", "STRICT_PLUGINS", "TRACE_PLUGINS"):
        monkeypatch.delenv(f"LINZOO_{switch}", raising=False)
    yield made
    made.forget()


@pytest.fixture
def build(site: Site) -> Callable[..., Registry]:
    """Build a registry of what the test puts into ``site`` and the named built-ins; ``env`` holds the switches."""

    def build(*builtins: str, env: dict[str, str] | None = None, **options: object) -> Registry:
        return build_registry(builtins=builtins, env=env or {}, **options)

    return build
