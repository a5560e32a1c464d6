"""``linzoo demo`` from end to end, on the tiny pipeline in the place of mini."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file

import linzoo
from linzoo.cli import demo, demo_hub
from linzoo.cli.common import State
from linzoo.cli.main import main
from linzoo.registry import Registry

PROMPTS = ["a cat", "a dog", "an apple"]


@pytest.fixture
def state(zoo: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> State:
    (tmp_path / "linzoo_prompts").mkdir()
    (tmp_path / "linzoo_prompts" / "prompts.json").write_text(json.dumps(PROMPTS))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(demo, "SOURCE", "tiny")
    monkeypatch.setattr(demo, "DISTILLED", str(tmp_path / "out" / "converted"))
    monkeypatch.setattr(demo, "IMAGES", 2)
    monkeypatch.setattr(demo, "PROMPTS", ("linzoo_prompts", "prompts.json"))
    # The processes of this step do not know the tiny model.
    monkeypatch.setattr(demo_hub, "publish_and_load", lambda *_: None)
    state = State()
    state.__dict__["registry"] = zoo
    return state


def test_leaves_a_checkpoint_a_contact_sheet_and_a_report_and_names_each_command(
    state: State, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for _ in range(2):  # again over its own result
        result = CliRunner().invoke(main, ["demo", "--out", str(out), "--steps", "2"], obj=state)
        assert result.exit_code == 0, result.output
    assert result.stdout.endswith(f"{out / 'contact-sheet.html'}\n{out / 'report' / 'report.html'}\n")
    for command in (
        "$ linzoo inspect tiny",
        f"$ linzoo convert tiny {out / 'converted'}",
        f"$ linzoo validate {out / 'converted'} --teacher tiny --suite quality",
        f'$ linzoo generate tiny "a cat" --linfusion {out / "converted"} --compare',
    ):
        assert command in result.stderr
    page = (out / "contact-sheet.html").read_text()
    assert page.count("<img") == 2 * len(PROMPTS)
    assert "not distilled yet" in page
    with Image.open(out / "contact-sheet.png") as picture:
        assert picture.width > 2 * 16
    assert sorted(each.name for each in out.iterdir()) == [
        "contact-sheet.html",
        "contact-sheet.png",
        "converted",
        "report",
    ]
    assert json.loads((out / "report" / "report.json").read_text())["suite"] == "quality"


def test_its_checkpoint_starts_from_the_teacher(state: State, tmp_path: Path, zoo: Registry) -> None:
    from tiny import tiny_unet

    result = CliRunner().invoke(
        main, ["demo", "-q", "--out", str(tmp_path / "out"), "--steps", "1"], obj=state
    )
    assert (result.exit_code, result.stderr) == (0, "")
    folder = tmp_path / "out" / "converted"
    unet = tiny_unet()
    handle = linzoo.load(unet, folder, registry=zoo)
    assert all(len(layer.teacher) == 0 for layer in handle.modules.values())
    weights = load_file(folder / "diffusion_pytorch_model.safetensors")
    assert not weights["0.to_q_.3.weight"].any()
