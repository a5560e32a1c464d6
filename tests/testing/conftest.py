"""A fake Hub, and this process's client of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from linzoo.testing.fake_hub import FakeHub


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        yield hub


@pytest.fixture
def api(hub: FakeHub, tmp_path: Path) -> Iterator[HfApi]:
    """The client, logged in with the token that may write."""
    with hub.client(tmp_path / "home"):
        yield HfApi()
