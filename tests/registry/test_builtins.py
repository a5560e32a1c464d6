"""The plugins that come with linzoo are whole and light."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
from dists import Site

from linzoo.plugin import LazyRef
from linzoo.registry import Registry
from linzoo.registry.loading import HEAVY


def test_all_of_them_load_without_a_problem_and_without_anything_heavy() -> None:
    code = (
        "import sys\n"
        "from linzoo.registry import BUILTINS, build_registry\n"
        "plugins = build_registry(entry_points=False).plugins\n"
        "assert [status.name for status in plugins] == list(BUILTINS)\n"
        "assert not any(status.problems for status in plugins)\n"
        f"print([name for name in {HEAVY} if name in sys.modules])\n"
    )
    env = os.environ | {"LINZOO_STRICT_PLUGINS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_mixers_and_init_recipes(site: Site, build: Callable[..., Registry]) -> None:
    registry = build("linzoo_mixers")
    assert {each.value.id: each.value.needs for each in registry.inits} == {
        "random": ("teacher",),
        "teacher": ("teacher",),
        "calibrated": ("teacher", "pipeline"),
        "pretrained": ("linfusion",),
        "delta": ("teacher", "linfusion", "base"),
    }
    softmax, linear = (registry.mixers.get_value(name) for name in ("softmax", "generalized-linear"))
    assert softmax.module is None
    assert set(linear.options) == {"projection_mid_dim", "projection_mid_divisor"}


def test_what_they_name_exists(site: Site, build: Callable[..., Registry]) -> None:
    pytest.importorskip("torch")
    registry = build("linzoo_mixers")
    references = [recipe.value.build for recipe in registry.inits]
    for mixer in registry.mixers:
        references += [ref for ref in (mixer.value.module, mixer.value.tensors) if isinstance(ref, LazyRef)]
    assert len(references) == 7
    assert all(callable(reference.load()) for reference in references)
