"""A variant of its own for the tiny pipeline, provided by a throw-away plugin package."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny import CONTEXT, tiny_sd, write_linfusion

from linzoo.registry import Registry, build_registry

PLUGIN = f"""
from linzoo.plugin import Fingerprint, AttentionPlan, AttentionRule, Resource, Variant, hookimpl

@hookimpl
def linzoo_variants():
    yield Variant(
        id="tiny",
        fingerprint=Fingerprint(
            channels=32, in_channels=4, context_dim={CONTEXT}, linear_projection=False, depth=(1, 0), mid_depth=1
        ),
        components=Resource("linzoo_tiny", "model"),
        native_size={{"epsilon": 16}},
        prediction_types=("epsilon",),
        local_teachers={{"tiny": Resource("linzoo_tiny", "model")}},
        default_plan="tiny-full",
    )

@hookimpl
def linzoo_attention_plans():
    yield AttentionPlan(
        id="tiny-full", variant="tiny", rules=(AttentionRule(mixer="generalized-linear"),), expect_replaced=4
    )
"""


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry that knows the variant ``tiny`` and ships its teacher under the same name."""
    root = tmp_path_factory.mktemp("zoo")
    package = root / "linzoo_tiny"
    tiny_sd().save_pretrained(package / "model")
    (package / "__init__.py").write_text(PLUGIN)
    sys.path.insert(0, str(root))
    yield build_registry(
        builtins=("linzoo_tiny", "linzoo_mixers", "linzoo_checks", "linzoo.checkpoints.teacher"),
        entry_points=False,
        env={},
    )
    sys.path.remove(str(root))
    sys.modules.pop("linzoo_tiny", None)


@pytest.fixture(scope="session")
def linfusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LinFusion checkpoint for the tiny pipeline."""
    return write_linfusion(tiny_sd().unet, tmp_path_factory.mktemp("linfusion") / "checkpoint")
