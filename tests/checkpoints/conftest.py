"""The registry of the built-in plugins alone."""

from __future__ import annotations

import pytest

from linzoo.registry import Registry, build_registry


@pytest.fixture(scope="session")
def registry() -> Registry:
    return build_registry(
        builtins=("linzoo_sd15", "linzoo_sd21", "linzoo_sdxl", "linzoo_mixers"), entry_points=False, env={}
    )
