"""The tiny variant with its teacher and a LinFusion checkpoint, and a Hub that this process is a client of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from zoo import linfusion, zoo

from linzoo.testing.fake_hub import FakeHub

__all__ = ["linfusion", "zoo"]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    with FakeHub() as hub, hub.client(tmp_path / "home"):
        yield hub
