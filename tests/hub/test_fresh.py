"""What a fresh process says of a pushed commit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pushing import REPO, make_pusher
from safetensors.numpy import load_file, save_file

from linzoo.checkpoints.source import open_source
from linzoo.errors import CheckpointError
from linzoo.hub.fresh import Question, check_loads
from linzoo.registry import Registry
from linzoo.testing.fake_hub import FakeHub

PAGE = "https://hub/user/pushed/discussions/7"
WEIGHTS = "diffusion_pytorch_model.safetensors"


def question(hub: FakeHub, files: dict[str, bytes | Path], **changes: Any) -> Question:
    local = open_source("mini-linfusion").path
    commit = hub.put("user/pushed", {"config.json": local / "config.json", **files})
    asked = Question(str(local), "user/pushed", commit, "adapter", "mini", "mini", "epsilon", ())
    return Question(**{**vars(asked), **changes})


def test_a_real_push_ends_with_a_fresh_process_that_loads_it(
    hub: FakeHub,
    registry: Registry,
    quick_report: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    push = make_pusher(tmp_path, hub, registry, quick_report)
    here = tmp_path / "here"
    (here / REPO).mkdir(parents=True)  # diffusers would take it for the repository
    (here / "colorsys.py").write_text("raise RuntimeError('code of the folder that the user is in')")
    monkeypatch.chdir(here)
    start = len(hub.requests)
    sent = push().sent
    assert sent is not None
    read = {each.path for each in hub.requests[start:] if f"/resolve/{sent.commit}/" in each.path}
    assert f"/{REPO}/resolve/{sent.commit}/{WEIGHTS}" in read, "the fresh process has it from the Hub"


def test_other_numbers_are_noticed(hub: FakeHub, tmp_path: Path) -> None:
    tensors = load_file(open_source("mini-linfusion").path / WEIGHTS)
    name = "9.to_out.0.bias"
    tensors[name] = np.nextafter(tensors[name], np.inf, dtype=tensors[name].dtype)
    save_file(tensors, tmp_path / WEIGHTS)
    with pytest.raises(CheckpointError, match=rf"{PAGE}\n  was pushed, but computes something else"):
        check_loads(question(hub, {WEIGHTS: tmp_path / WEIGHTS}), PAGE)


def test_what_does_not_load_is_named(hub: FakeHub) -> None:
    with pytest.raises(CheckpointError, match=r"a fresh process cannot load it: .*no UNet weights"):
        check_loads(question(hub, {}), PAGE)


def test_the_process_is_a_real_one(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(CheckpointError, match="it died"):
        check_loads(question(hub, {}), PAGE)
