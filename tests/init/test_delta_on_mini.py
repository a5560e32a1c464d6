"""``delta`` on a real pair: mini, and the fine-tune of it that ships beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from linzoo.checkpoints.lock import read_lock
from linzoo.errors import CheckpointError
from linzoo.init.convert import convert
from linzoo.registry import build_registry
from tests.init.toys import ATTENTION, read_result

REGISTRY = build_registry(entry_points=False, env={})


def test_the_fine_tune_is_recognised_and_its_changes_carried_over(tmp_path: Path) -> None:
    convert("mini-v1", tmp_path / "linear", registry=REGISTRY)
    options = {"init": "delta", "linfusion": tmp_path / "linear", "base": "mini-v1"}
    convert("mini-3d", tmp_path / "delta", registry=REGISTRY, **options)
    convert("mini-3d", tmp_path / "teacher", registry=REGISTRY)
    lock = read_lock(tmp_path / "delta")
    assert lock is not None
    assert 0.001 < lock["init"]["measured"]["relative_change"] < 0.3
    assert lock["init"]["measured"]["weakest_correlation"] > 0.9
    modules, tensors = read_result(tmp_path / "delta")
    _, own = read_result(tmp_path / "teacher")
    for index in range(len(modules)):
        for each in ATTENTION:  # the linear weights are still the base's: base + tune - base is the tune
            name = f"{index}.{each}"
            assert (tensors[name] == own[name]).all()


def test_weights_from_a_random_start_are_refused(tmp_path: Path) -> None:
    convert("mini-v1", tmp_path / "linear", init="random", registry=REGISTRY)
    with pytest.raises(CheckpointError, match="shares no basis"):
        convert(
            "mini-3d", tmp_path / "out", registry=REGISTRY, init="delta", linfusion=tmp_path / "linear", base="mini-v1"
        )  # fmt: skip
