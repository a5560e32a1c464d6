"""Mixers and init recipes of a plugin: the contract, and what a plugin that breaks it is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from linzoo.errors import LinzooError, PluginError
from linzoo.init.convert import convert
from tests.init.toys import contents, read_result, toy_registry, toy_unet, write_ldm


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_ldm(tmp_path / "model.safetensors", toy_unet())


def test_another_mixer_is_named_in_the_config_with_its_options(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "out", plan="toy-own-mixer", init="toy-ones", registry=toy_registry())
    modules, tensors = read_result(tmp_path / "out")
    assert modules == [
        {
            "module_name": "mid_block.attentions.0.transformer_blocks.0.attn1",
            "dim_n": 64,
            "heads": 4,
            "projection_mid_dim": None,
            "mixer": "toy-mixer",
            "options": {"rank": 3, "scale": 1.5},
        }
    ]
    assert {name: array.shape for name, array in tensors.items()} == {
        "0.down.weight": (3, 64),
        "0.up.weight": (64, 3),
    }
    assert all((array == 1).all() for array in tensors.values())


@pytest.mark.parametrize(
    ("plan", "init", "message"),
    [
        (
            "toy-own-mixer",
            "teacher",
            "init recipe 'teacher' cannot start the mixer 'toy-mixer' of 'mid_block",
        ),
        ("toy-full", "toy-ones", "cannot start the mixer 'generalized-linear'"),
        ("toy-nothing", "teacher", "keeps every module softmax: nothing to convert"),
        (
            "toy-own-mixer",
            "toy-raises",
            "'toy-raises' of plugin tests.init.toyzoo .*failed: ZeroDivisionError: oh",
        ),
        ("toy-own-mixer", "toy-raises-late", "'toy-raises-late' of plugin .* failed: KeyError: 'late'"),
        ("toy-own-mixer", "toy-incomplete", "does not plan the tensors that the mixers have: 0.down.weight"),
        ("toy-own-mixer", "toy-wrong-type", "does not plan the tensors that the mixers have: 0.down.weight"),
        ("toy-own-mixer", "toy-wrong-shape", "was announced as F32"),
    ],
)
def test_what_does_not_fit(source: Path, tmp_path: Path, plan: str, init: str, message: str) -> None:
    before = contents(tmp_path)
    with pytest.raises(LinzooError, match=message):
        convert(source, tmp_path / "out", plan=plan, init=init, registry=toy_registry())
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("answer", "message"),
    [(ZeroDivisionError("oh"), "ZeroDivisionError: oh"), (None, "AttributeError"), ({"a": 3}, "TypeError")],
)
def test_a_mixer_that_fails_is_named(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: object, message: str
) -> None:
    def tensors(*_: object) -> object:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr("tests.init.toyzoo.own.tensors", tensors)
    with pytest.raises(
        PluginError, match=f"mixer 'toy-mixer' cannot tell its tensors at 'mid_block.*{message}"
    ):
        convert(source, tmp_path / "out", plan="toy-own-mixer", init="toy-ones", registry=toy_registry())
