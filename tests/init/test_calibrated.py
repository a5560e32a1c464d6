"""The init recipe ``calibrated`` on mini: what it writes, what it says, and when it computes."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from linzoo.checkpoints.lock import read_lock
from linzoo.checkpoints.source import open_source
from linzoo.cli.main import main
from linzoo.distillation import calibrated
from linzoo.distillation.lookup import find_recipe
from linzoo.errors import CheckpointError, PluginError, UsageError
from linzoo.init.convert import convert, execute
from linzoo.init.planning import plan_conversion
from linzoo.registry import build_registry
from tests.init.toys import contents, read_result

REGISTRY = build_registry(entry_points=False, env={})
QUICK = (
    "data.held_out=2",
    "data.sampling.steps=2",
    "calibrate.samples=2",
    "calibrate.timesteps=1",
    "calibrate.sharpness=[2]",
    "calibrate.shift=[4]",
    "calibrate.ridge=[0.1]",
)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """mini's own recipe, with hardly any samples."""
    monkeypatch.setenv("LINZOO_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    settings(monkeypatch, *QUICK)


def settings(monkeypatch: pytest.MonkeyPatch, *overrides: str) -> None:
    monkeypatch.setattr(
        calibrated, "find_recipe", lambda name, registry, **options: find_recipe(name, registry, overrides=overrides, **options)
    )  # fmt: skip


def test_the_result_is_the_teachers_weights_calibrated(tmp_path: Path) -> None:
    result = convert("mini", tmp_path / "out", init="calibrated", registry=REGISTRY)
    convert("mini", tmp_path / "teacher", registry=REGISTRY)
    modules, tensors = read_result(tmp_path / "out")
    wanted, own = read_result(tmp_path / "teacher")
    assert modules == wanted
    assert tensors.keys() == own.keys()
    lock = read_lock(tmp_path / "out")
    assert lock is not None
    measured = lock["init"]["measured"]
    assert measured["kd_after"] < 0.8 * measured["kd_before"]
    assert measured["recipe"] == "mini"
    assert measured["ridge"] == 0.1
    layer = measured["sharpness"]["mid_block.attentions.0.transformer_blocks.0.attn1"]
    assert [head["scale"] for head in layer["heads"]] == [2, 2]
    for name, tensor in tensors.items():
        assert tensor.dtype == own[name].dtype
        told = lock["tensors"][name]
        assert (told["how"] == "calibrated") == (
            not name.endswith("to_v.weight") and "_.0." not in name and "_.1." not in name
        )
        if told["how"] != "calibrated":
            assert (tensor == own[name]).all()
        else:
            assert any("to_k.weight" in source for source in told["sources"])
    assert (tensors["0.to_q.weight"] != own["0.to_q.weight"]).any()
    assert result.plan.init.prepare is None


def test_the_same_input_gives_the_same_bytes_over_an_earlier_result_too(tmp_path: Path) -> None:
    convert("mini", tmp_path / "out", init="calibrated", registry=REGISTRY)
    first = contents(tmp_path / "out")
    convert("mini", tmp_path / "out", init="calibrated", registry=REGISTRY)
    assert contents(tmp_path / "out") == first
    with pytest.raises(CheckpointError, match=r"different: init"):
        convert("mini", tmp_path / "out", init="calibrated", seed=1, registry=REGISTRY)


def test_a_dry_run_computes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrated, "_prepare", lambda *_: pytest.fail("computed"))
    result = convert("mini", tmp_path / "out", init="calibrated", dry_run=True, registry=REGISTRY)
    assert not result.written
    assert result.plan.init.measured == {}
    assert sum(tensor.how == "calibrated" for tensor in result.plan.init.tensors) == 80


def test_what_speaks_against_out_is_said_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrated, "_prepare", lambda *_: pytest.fail("computed"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    result = CliRunner().invoke(main, ["convert", "mini", str(tmp_path / "out"), "--init", "calibrated"])
    assert result.exit_code == 1
    assert "was not made by linzoo" in result.stderr


def test_the_command_tells_kd(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["convert", "mini", str(tmp_path / "out"), "--init", "calibrated"])
    assert result.exit_code == 0, result.output
    assert "kd before: " in result.stdout
    assert "sharpness" not in result.stdout


def test_a_unet_alone_of_a_variant_that_ships_the_rest_will_do(tmp_path: Path) -> None:
    convert("mini-v1", tmp_path / "out", init="calibrated", registry=REGISTRY)
    assert (tmp_path / "out" / "config.json").is_file()


def test_a_folder_with_a_unet_alone_cannot_draw(tmp_path: Path) -> None:
    teacher = open_source("mini", registry=REGISTRY).path
    shutil.copytree(teacher / "unet", tmp_path / "alone" / "unet")
    with pytest.raises(CheckpointError, match="name the pipeline's folder"):
        convert(tmp_path / "alone" / "unet", tmp_path / "out", init="calibrated", registry=REGISTRY,
                prediction_type="epsilon")  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_a_recipe_that_does_not_calibrate_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings(monkeypatch, "calibrate=null")
    with pytest.raises(UsageError, match=r"'mini' of variant 'mini' does not calibrate; use --init teacher"):
        convert("mini", tmp_path / "out", init="calibrated", registry=REGISTRY)


def test_a_recipe_has_to_prepare_what_it_planned(tmp_path: Path) -> None:
    plan = plan_conversion("mini", registry=REGISTRY)
    other = replace(plan.init, prepare=lambda follow: replace(plan.init, tensors=plan.init.tensors[1:]))
    with pytest.raises(PluginError, match="what it prepared is not what it planned"):
        execute(replace(plan, init=other), tmp_path / "out")
    assert not (tmp_path / "out").exists()
