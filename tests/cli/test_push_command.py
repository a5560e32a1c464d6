"""``linzoo push``: what the command adds to ``linzoo.push``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from linzoo.checkpoints.license import License
from linzoo.cli import push as command
from linzoo.cli.main import main
from linzoo.errors import CheckpointError
from linzoo.hub import push as pushing
from linzoo.hub.push import PushResult
from linzoo.hub.upload import Request, Sent

URL = "https://hub/me/model/commit/0123"
LICENSE = License("mit", None, None, "inherited from the card of user/model at commit 0123abc")
REQUESTS = (
    Request("POST", "/api/repos/create", "make the public repository me/model"),
    Request("PUT", "<storage>", "weights.safetensors", 1234567),
)
SENT = Sent("0123", URL, None, new=True)

Invoke = Callable[..., Result]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What ``linzoo.push`` is called with by the command, instead of doing it."""
    arguments: dict[str, Any] = {}

    def push(checkpoint: str, repo: str, **given: Any) -> PushResult:
        arguments.update(given, checkpoint=checkpoint, repo=repo)
        if repo == "me/fails":
            raise CheckpointError("hf://me/fails: refused")
        sent = None if given["dry_run"] else SENT
        if given["pr"]:
            sent = Sent("0123", URL, "https://hub/me/model/discussions/1", new=False)
        return PushResult("me/model", LICENSE, {"weights.safetensors": 1234567}, ("old.bin",), REQUESTS, sent)

    monkeypatch.setattr("linzoo.hub.push.push", push)
    return arguments


def invoke(*arguments: object, repo: str = "me/model") -> Result:
    return CliRunner().invoke(main, ["push", "mini-linfusion", repo, *map(str, arguments)])


def test_what_it_is_asked_for(asked: dict[str, Any], tmp_path: Path) -> None:
    given = [
        "--teacher", "mini", "--report", tmp_path, "--license", "mit", "--format", "pipeline", "--private",
        "--revision", "fp16", "--message", "Weights", "--max-shard-size", "500MB",
    ]  # fmt: skip
    assert invoke(*given).exit_code == 0
    for name in ("registry", "progress"):
        del asked[name]
    assert asked == {
        "checkpoint": "mini-linfusion", "repo": "me/model", "teacher": "mini", "report": tmp_path, "license": "mit",
        "format": "pipeline", "private": True, "pr": False, "revision": "fp16", "message": "Weights",
        "max_shard_bytes": 500_000_000, "dry_run": False,
    }  # fmt: skip


def test_what_it_asks_for_by_itself_is_what_python_does(asked: dict[str, Any]) -> None:
    invoke()
    assert asked["max_shard_bytes"] == pushing.MAX_SHARD
    assert asked["message"] == pushing.MESSAGE
    assert asked["format"] == "adapter"
    assert command.FORMATS == pushing.FORMATS


@pytest.mark.parametrize("size", ["5", "0GB", "GB", "5 parsecs", "-1GB", "1.5GB"])
def test_sizes_that_are_none(asked: dict[str, Any], size: str) -> None:
    result = invoke("--max-shard-size", size)
    assert result.exit_code == 2
    assert "is not of the form 5GB" in result.stderr
    assert not asked


def test_the_commit_is_the_last_line(asked: dict[str, Any]) -> None:
    lines = invoke().stdout.splitlines()
    assert lines[-1] == URL
    assert "weights.safetensors  1,234,567" in lines
    assert "old.bin              deleted" in lines
    assert "1 file, 1,234,567 bytes, to me/model" in lines
    assert f"licence: mit, {LICENSE.origin}" in lines
    assert invoke("-q").stdout == f"{URL}\n"


def test_a_pull_request_is_named_before_its_commit(asked: dict[str, Any]) -> None:
    result = invoke("--pr")
    assert result.stdout.splitlines()[-2:] == ["pull request: https://hub/me/model/discussions/1", URL]
    assert "nothing to do: all of it is there already" in result.stderr


def test_a_dry_run_prints_every_request(asked: dict[str, Any]) -> None:
    lines = invoke("--dry-run").stdout.splitlines()
    assert lines[-1] == "nothing was sent (--dry-run)"
    rows = [line.split() for line in lines]
    assert ["POST", "/api/repos/create", "0", *REQUESTS[0].what.split()] in rows
    assert ["PUT", "<storage>", "1,234,567", "weights.safetensors"] in rows


def test_json(asked: dict[str, Any]) -> None:
    document = json.loads(invoke("--json").stdout)
    assert document["sent"] == {"commit": "0123", "url": URL, "pull_request": None, "new": True}
    assert document["requests"][1]["bytes"] == 1234567
    assert document["license"]["id"] == "mit"
    assert json.loads(invoke("--json", "--dry-run").stdout)["sent"] is None


def test_a_failure_has_exit_code_1_and_no_address(asked: dict[str, Any]) -> None:
    result = invoke(repo="me/fails")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "error: hf://me/fails: refused\n"
