"""``linzoo validate``: what the command adds to ``linzoo.validate``."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from linzoo.cli import validate as command
from linzoo.cli.common import State
from linzoo.cli.main import main
from linzoo.errors import CheckpointError, UndecidedError
from linzoo.plugin import Measure
from linzoo.validation.result import ValidationResult
from linzoo.validation.settings import PRESETS, Wishes
from linzoo.validation.suites import SUITES
from linzoo.validation.verdicts import judge

LAYERS = tuple(f"down.{index}" for index in range(7))
MEASURES = (
    Measure(name="misfits", title="Misfits", value=0, bar=0, detail="all fit"),
    Measure(name="kd", title="KD", value=0.01234567, detail="mean square", culprits=LAYERS),
    Measure(name="psnr", title="PSNR", value=21.5, unit="dB", better="higher", detail="4 pictures"),
    Measure(name="lpips", title="LPIPS", value=None, skipped="pip install torchvision"),
)
ABOUT = {"checkpoint": {"spec": "own"}, "teacher": {"spec": "mini"}}

Invoke = Callable[..., Result]


def result_of(bars: Mapping[str, float], report: Path | None = None) -> ValidationResult:
    held = {name: (value, "--bar") for name, value in bars.items()}
    judged = tuple(judge("a-check", measure, held) for measure in MEASURES)
    return ValidationResult("quality", "own", "mini", judged, ("LPIPS: skipped",), ABOUT, report)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What ``linzoo.validate`` is called with by the command, instead of doing it."""
    arguments: dict[str, Any] = {}

    def validate(checkpoint: str, teacher: str, **given: Any) -> ValidationResult:
        arguments.update(given, checkpoint=checkpoint, teacher=teacher)
        return result_of(given["bars"], given["report"])

    monkeypatch.setattr("linzoo.validation.run.validate", validate)
    return arguments


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["validate", "mini-linfusion", "--teacher", "mini", *map(str, arguments)])


# What it is asked for


def test_options_reach_the_function(asked: dict[str, Any], tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a\nb\n")
    done = invoke(
        "--suite", "full", "--report", tmp_path / "report", "--bar", "kd=0.5", "--bar", "psnr=-1e1",
        "--preset", "coco-30k", "--prompts", prompts, "--images", 9, "--real", tmp_path, "--encoder", "one",
        "--encoder", "two", "--size", "96x64", "--steps", 3, "--guidance", 2.5, "--seed", 7, "--batch", 4,
        "--speed-sizes", "1,2.5", "--device", "cpu", "--dtype", "bfloat16", "--variant", "mini",
        "--prediction-type", "v_prediction",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert (asked["checkpoint"], asked["teacher"], asked["suite"]) == ("mini-linfusion", "mini", "full")
    assert asked["bars"] == {"kd": 0.5, "psnr": -10.0}
    assert (asked["preset"], asked["prompts"], asked["real"]) == ("coco-30k", prompts, tmp_path)
    assert (asked["encoders"], asked["images"], asked["size"]) == (("one", "two"), 9, (96, 64))
    assert (asked["steps"], asked["guidance"], asked["seed"], asked["batch"]) == (3, 2.5, 7, 4)
    assert asked["speed_sizes"] == (1.0, 2.5)
    assert (asked["device"], asked["dtype"]) == ("cpu", "bfloat16")
    assert (asked["variant"], asked["prediction_type"]) == ("mini", "v_prediction")


def test_what_is_not_said_is_left_open(asked: dict[str, Any]) -> None:
    assert invoke().exit_code == 0
    wishes = {name: asked[name] for name in Wishes.__dataclass_fields__ if name in asked}
    assert Wishes(**wishes) == Wishes()
    assert set(Wishes.__dataclass_fields__) - set(wishes) == {"speed_sizes"}
    assert (asked["suite"], asked["report"]) == ("quick", None)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--bar", "kd"], "'kd' is not of the form kd=0.02"),
        (["--bar", "kd=low"], "'kd=low' is not of the form kd=0.02"),
        (["--bar", "kd=nan"], "'kd=nan' is not of the form kd=0.02"),
        (["--bar", "kd=inf"], "'kd=inf' is not of the form kd=0.02"),
        (["--speed-sizes", ""], "'' is not of the form 0.5,1,2"),
        (["--speed-sizes", "1,,2"], "'1,,2' is not of the form 0.5,1,2"),
        (["--speed-sizes", "1,0"], "'1,0' is not of the form 0.5,1,2"),
        (["--speed-sizes", "1,nan"], "'1,nan' is not of the form 0.5,1,2"),
        (["--speed-sizes", "inf"], "'inf' is not of the form 0.5,1,2"),
        (["--suite", "fast"], "'fast' is not one of"),
        (["--images", "1"], "1 is not in the range x>=2"),
        (["--size", "big"], "'big' is not of the form 768x512"),
        (["--prompts", "nowhere.txt"], "'nowhere.txt' does not exist"),
    ],
)
def test_wrong_usage(asked: dict[str, Any], arguments: list[str], says: str) -> None:
    done = invoke(*arguments)
    assert (done.exit_code, asked) == (2, {})
    assert says in done.stderr


def test_a_teacher_is_needed() -> None:
    done = CliRunner().invoke(main, ["validate", "own"])
    assert done.exit_code == 2
    assert "--teacher" in done.stderr


# What it says


def test_the_table_and_the_verdict(asked: dict[str, Any]) -> None:
    done = invoke("--suite", "quality", "--bar", "psnr=20")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert [line.split() for line in lines[:5]] == [
        ["VERDICT", "MEASURE", "VALUE", "BAR", "WHAT", "WAS", "FOUND"],
        ["passed", "misfits", "0", "≤", "0", "all", "fit"],
        ["measured", "kd", "0.01235", "mean", "square"],
        ["passed", "psnr", "21.5", "dB", "≥", "20", "4", "pictures"],
        ["skipped", "lpips", "pip", "install", "torchvision"],
    ]
    assert lines[5:] == ["note: LPIPS: skipped", "own passed 'quality' against mini"]


def test_culprits_are_named_the_worst_first(asked: dict[str, Any], tmp_path: Path) -> None:
    done = invoke("--bar", "kd=0.01", "--bar", "psnr=30", "--report", tmp_path / "report")
    assert done.exit_code == 1
    assert done.stdout.splitlines()[6:] == [
        "kd failed: down.0, down.1, down.2, down.3, down.4 and 2 more",
        "psnr failed: 4 pictures",
        "own failed 'quality' against mini",
        str(tmp_path / "report" / "report.html"),
    ]


def test_json_is_the_document(asked: dict[str, Any]) -> None:
    done = invoke("--json", "--bar", "kd=0.01")
    assert done.exit_code == 1
    assert json.loads(done.stdout) == json.loads(json.dumps(result_of({"kd": 0.01}).to_json()))


def test_junit_has_a_case_for_each_measure(asked: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "new" / "junit.xml"
    done = invoke("--junit", path, "--bar", "kd=0.01")
    assert done.exit_code == 1
    [suite] = ET.fromstring(path.read_bytes()).iter("testsuite")
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("4", "1", "1")
    [failed] = [case.get("name") for case in suite.iter("testcase") if case.find("failure") is not None]
    assert failed == "kd"


def test_other_processes_are_silent(
    asked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    done = invoke("--bar", "kd=0.01", "--junit", tmp_path / "junit.xml")
    assert (done.exit_code, done.output) == (0, "")
    assert not (tmp_path / "junit.xml").exists()


@pytest.mark.parametrize(
    ("error", "code"), [(CheckpointError("it is cut"), 1), (UndecidedError("it may be"), 3)]
)
def test_errors_have_exit_codes(monkeypatch: pytest.MonkeyPatch, error: Exception, code: int) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("linzoo.validation.run.validate", fail)
    done = invoke()
    assert (done.exit_code, done.stdout) == (code, "")
    assert done.stderr.splitlines()[-1] == f"error: {error}"


# With the tiny pipeline


@pytest.fixture
def tiny(zoo: Any, linfusion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """The command on the tiny checkpoint."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Result:
        state = State()
        state.__dict__["registry"] = zoo
        whole = ["validate", linfusion, "--teacher", "tiny", "--device", "cpu", *arguments]
        return CliRunner().invoke(main, [str(each) for each in whole], obj=state)

    return run


def test_quick(tiny: Invoke, linfusion: Path, tmp_path: Path) -> None:
    done = tiny("-q")
    assert (done.exit_code, done.stderr) == (0, ""), done.output
    assert done.stdout.splitlines()[-1] == f"{linfusion} passed 'quick' against tiny"
    assert list(tmp_path.iterdir()) == []


def test_a_fallen_bar_and_a_report(tiny: Invoke, tmp_path: Path) -> None:
    done = tiny("--bar", "row-sums=1e-9", "--report", "report", "--json")
    assert done.exit_code == 1
    document = json.loads(done.stdout)
    assert document == json.loads((tmp_path / "report" / "report.json").read_text())
    assert (document["verdict"], document["counts"]["failed"]) == ("failed", 1)
    assert "loading the teacher: 0/1" in done.stderr
    assert tiny("-q", "--report", "report").stdout.splitlines()[-1] == "report/report.html"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["--bar", "row-sum=1"],
            "error: --bar row-sum: suite 'quick' does not measure that; did you mean 'row-sums'?",
        ),
        (["--size", "17"], "multiple of 8"),
        (["--device", "nowhere"], "--device nowhere: torch cannot compute there"),
        (["--preset", "coco-30k"], "needs its captions"),
    ],
)
def test_wrong_usage_that_needs_plugins(
    tiny: Invoke, tmp_path: Path, arguments: list[str], says: str
) -> None:
    done = tiny(*arguments)
    assert done.exit_code == 2
    assert says in done.stderr
    assert list(tmp_path.iterdir()) == []


# --help, which imports nothing


def test_help_lists_the_suites() -> None:
    done = CliRunner().invoke(main, ["validate", "--help"])
    assert done.exit_code == 0
    assert "[quick|quality|speed|full]" in done.output


def test_names_that_are_written_out_are_those_that_there_are() -> None:
    assert command.SUITES == SUITES
    assert tuple(PRESETS) == command.PRESETS
