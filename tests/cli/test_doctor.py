"""``linzoo doctor``."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from linzoo import __version__
from linzoo.cli.main import main


@pytest.fixture(scope="module")
def report() -> dict:
    result = CliRunner().invoke(main, ["doctor", "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_names_versions_devices_plugins_and_the_hub(report: dict) -> None:
    import torch

    assert report["linzoo"] == __version__
    assert report["packages"]["torch"] == torch.__version__
    assert report["devices"][0]["name"] == "cpu"
    assert "float32" in report["devices"][0]["dtypes"]
    assert {plugin["name"] for plugin in report["plugins"]} >= {"linzoo_sd15", "linzoo_sdxl", "linzoo_mini"}


@pytest.mark.parametrize(("value", "word"), [("1", "offline"), ("0", "online")])
def test_says_whether_the_hub_is_asked(monkeypatch: pytest.MonkeyPatch, value: str, word: str) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    report = json.loads(CliRunner().invoke(main, ["doctor", "--json"]).stdout)
    assert report["hub"].startswith(word)


def test_text_is_one_block_to_paste() -> None:
    lines = CliRunner().invoke(main, ["doctor"]).stdout.splitlines()
    assert lines[0] == lines[-1] == "```"
    assert f"linzoo: {__version__}" in lines


def test_says_so_where_triton_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("linzoo.cli.doctor._version", lambda name: None)
    report = json.loads(CliRunner().invoke(main, ["doctor", "--json"]).stdout)
    assert report["triton"] == "not installed"


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        ("", "torch on cpu (automatic)"),
        ("reference", "reference on cpu (LINZOO_KERNELS)"),
        ("nonsense", "the environment variable LINZOO_KERNELS: there is no backend 'nonsense'."),
    ],
)
def test_says_which_backend_the_kernels_take(
    monkeypatch: pytest.MonkeyPatch, value: str, answer: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("LINZOO_KERNELS", value)
    report = json.loads(CliRunner().invoke(main, ["doctor", "--json"]).stdout)
    assert report["kernels"].startswith(answer)
