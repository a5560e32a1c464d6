from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import linzoo
from linzoo.cli.common import State
from linzoo.cli.main import main
from linzoo.registry import Registry


@pytest.fixture
def run(zoo: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Result:
        state = State()
        state.__dict__["registry"] = zoo
        quick = ["--steps", 2, "--device", "cpu"]
        return CliRunner().invoke(main, ["generate", *map(str, [*quick, *arguments])], obj=state)

    return call


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_draws_the_teacher_under_the_prompts_name(run: object, tmp_path: Path) -> None:
    result = run("tiny", "A red Apple, 3D!", "--seed", 3)
    assert (result.exit_code, result.stdout) == (0, "a-red-apple-3d-3.png\n"), result.output
    assert pixels(tmp_path / "a-red-apple-3d-3.png").shape == (16, 16, 3)


def test_draws_the_student_and_both(run: object, tmp_path: Path, linfusion: Path) -> None:
    for name, options in (
        ("teacher.png", []),
        ("student.png", ["--linfusion", linfusion]),
        ("softmax.png", ["--linfusion", linfusion, "--min-tokens", 65]),
        ("both.png", ["--linfusion", linfusion, "--compare"]),
        ("both.html", ["--linfusion", linfusion, "--compare"]),
    ):
        result = run("tiny", "a cat", "-o", tmp_path / name, *options)
        assert result.exit_code == 0, result.output
        assert result.stdout == f"{tmp_path / name}\n"
    teacher, student, softmax = (pixels(tmp_path / f"{x}.png") for x in ("teacher", "student", "softmax"))
    assert (teacher == softmax).all()
    assert (teacher != student).any()
    both = pixels(tmp_path / "both.png")
    for picture in (teacher, student):
        windows = np.lib.stride_tricks.sliding_window_view(both, picture.shape)[:, :, 0]
        assert (windows == picture).all(axis=(-3, -2, -1)).any()
    assert (tmp_path / "both.html").read_text().count("<img") == 2


def test_what_the_linfusion_is_is_looked_at_before_the_teacher_is_loaded(
    run: object, tmp_path: Path, zoo: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = linzoo.convert("tiny", tmp_path / "other", registry=zoo).out
    lock = json.loads((other / "linzoo.lock.json").read_text())
    lock["source"]["base_hash"] = "0" * 16
    (other / "linzoo.lock.json").write_text(json.dumps(lock))
    result = run("tiny", "a cat", "-o", "other.png", "--linfusion", other)
    assert (result.exit_code, result.stdout) == (0, "other.png\n")
    assert (
        f"note: {other} was made for tiny (base hash {'0' * 16}), and tiny has other weights" in result.stderr
    )
    monkeypatch.setattr(
        "linzoo.cli.generate.open_teacher", lambda *_, **__: pytest.fail("the teacher is loaded")
    )
    result = run(
        "tiny", "a cat", "-o", "file.png", "--linfusion", other / "diffusion_pytorch_model.safetensors"
    )
    assert result.exit_code == 1
    assert "one file, and a LinFusion checkpoint is a folder" in result.stderr


def test_size_and_seed_are_obeyed(run: object, tmp_path: Path) -> None:
    for name, options in (
        ("a", []),
        ("b", ["--seed", 1]),
        ("wide", ["--size", "24x16"]),
        ("square", ["--size", "8"]),
    ):
        assert run("tiny", "a cat", "-o", f"{name}.png", *options).exit_code == 0
    assert (pixels(tmp_path / "a.png") != pixels(tmp_path / "b.png")).any()
    assert pixels(tmp_path / "wide.png").shape == (16, 24, 3)
    assert pixels(tmp_path / "square.png").shape == (8, 8, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--compare"], "--compare needs --linfusion"),
        (["--size", "big"], "'big' is not of the form 768x512"),
        (["--size", "17"], "multiple of 8"),
        (["--min-tokens", "4"], "--min-tokens needs --linfusion"),
        (["--seed", str(2**70)], "is not in the range"),
        (["--device", "nowhere"], "--device nowhere: torch cannot compute there"),
        (["--device", "meta"], "--device meta: torch cannot compute there"),
        (["-o", "x.tiff"], "name a file that ends in one of .png"),
        (["-o", "x.html"], "name a file that ends in one of .png"),
    ],
)
def test_wrong_usage_ends_with_2(run: object, arguments: list[str], message: str, tmp_path: Path) -> None:
    result = run("tiny", "a cat", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("backend", ["nonsense", "triton"])
def test_a_backend_of_the_kernels_that_cannot_run_is_told_in_words(
    run: object, linfusion: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    monkeypatch.setenv("LINZOO_KERNELS", backend)
    monkeypatch.setattr("linzoo_kernels.dispatch.device_obstacle", lambda *_: "no GPU here")
    result = run("tiny", "a cat", "--linfusion", linfusion)
    assert result.exit_code == 2
    assert backend in result.stderr
    assert "Traceback" not in result.stderr


def test_a_place_that_cannot_be_written_is_refused_before_drawing(
    run: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("linzoo.generate.compare.draw", lambda *_: pytest.fail("drawn in vain"))
    (tmp_path / "file").touch()
    result = run("tiny", "a cat", "-o", tmp_path / "file" / "deep" / "x.png")
    assert result.exit_code == 1
    assert f"{tmp_path / 'file'} is no folder that you may write to" in result.stderr


def test_a_source_or_checkpoint_that_is_not_there_ends_with_1(run: object) -> None:
    for arguments in (["nothing"], ["tiny", "--linfusion", "no/such/thing"]):
        result = (
            run(*arguments, "a cat") if len(arguments) == 1 else run(arguments[0], "a cat", *arguments[1:])
        )
        assert result.exit_code == 1
        assert "no such file or folder" in result.stderr
