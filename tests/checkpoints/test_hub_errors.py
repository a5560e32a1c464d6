"""What goes wrong on the way to the Hub, in words."""

from __future__ import annotations

import click
import httpx2
import pytest
from click.testing import CliRunner
from huggingface_hub import constants, errors

from linzoo.checkpoints.hub_errors import hub_errors, without_signatures
from linzoo.cli.common import Command
from linzoo.errors import CheckpointError, UsageError

WHERE = "hf://user/model@main"
SIGNED = "https://storage.example/blob?X-Signature=0123&X-Expires=9"


def answered(status: int, *, by: str = constants.ENDPOINT) -> errors.HfHubHTTPError:
    request = httpx2.Request("PUT", by)
    return errors.HfHubHTTPError(f"{status} for {SIGNED}", response=httpx2.Response(status, request=request))


@pytest.fixture(autouse=True)
def _no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)


def said(error: Exception, *, cached: bool = True) -> str:
    with pytest.raises(CheckpointError) as caught, hub_errors(WHERE, cached=cached):
        raise error
    return str(caught.value)


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (400, "the Hub refuses what was sent"),
        (401, "run 'hf auth login', or set HF_TOKEN"),
        (403, "make one that may"),
        (409, "somebody else is changing it"),
        (412, "somebody else has committed to it in the meantime"),
        (429, "asked too often"),
        (500, "trouble of its own"),
        (504, "trouble of its own"),
        (418, "see that the Hub can be reached"),
    ],
)
def test_each_status_has_its_advice_even_below_another_error(status: int, advice: str) -> None:
    text = said(answered(status))
    assert text.startswith(f"{WHERE}: {status} for https://storage.example/blob")
    assert advice in text
    wrapped = RuntimeError("Error while uploading 'weights' to the Hub.")
    wrapped.__cause__ = answered(status)
    text = said(wrapped)
    assert text.startswith(f"{WHERE}: Error while uploading 'weights' to the Hub.: {status}")
    assert advice in text


def test_a_token_that_the_hub_refuses_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_0123")
    text = said(answered(401))
    assert text.endswith("the Hub refuses the token in HF_TOKEN, which goes before that of 'hf auth login'; correct it, or"
                         " unset it")  # fmt: skip
    assert "hf_0123" not in text
    assert "HF_TOKEN, which" not in said(answered(401, by=SIGNED))


def test_a_storage_that_refuses_is_not_blamed_on_the_token() -> None:
    assert said(answered(403, by=SIGNED)).startswith(f"{WHERE}: the storage behind the Hub refuses (403)")
    assert "trouble of its own" in said(answered(500, by=SIGNED))
    assert said(answered(400, by=SIGNED)).endswith("run the same command again")
    assert "refuses what was sent" not in said(answered(400, by=SIGNED))


def test_without_a_network_what_is_asked_for_may_be_in_the_cache() -> None:
    for method, cached, advised in (
        ("GET", True, True),
        ("HEAD", True, True),
        ("GET", False, False),
        ("POST", True, False),
    ):
        error = httpx2.ConnectError("no route", request=httpx2.Request(method, constants.ENDPOINT))
        text = said(error, cached=cached)
        assert text.startswith(f"{WHERE}: no route\n  see that the Hub can be reached")
        assert text.endswith("or set HF_HUB_OFFLINE=1 to use what is in the cache") == advised
    assert said(httpx2.ConnectError("of no request")).endswith("run the same command again")


def test_a_hub_without_xet() -> None:
    text = said(ConnectionError("404 for https://hub/api/models/user/model/xet-write-token/main"))
    assert "set HF_HUB_DISABLE_XET=1" in text


def test_no_login() -> None:
    assert said(errors.LocalTokenNotFoundError("no token")).endswith("set HF_TOKEN")


def test_what_is_linzoo_s_own_passes() -> None:
    for error in (UsageError("mine"), CheckpointError("mine"), TypeError("a bug"), AttributeError("a bug")):
        with pytest.raises(type(error), match=str(error)), hub_errors(WHERE):
            raise error


def test_signatures_are_neither_in_the_message_nor_in_the_traceback_of_the_command_line() -> None:
    assert without_signatures(f"PUT '{SIGNED}' failed") == "PUT 'https://storage.example/blob' failed"

    @click.command(cls=Command)
    def fails() -> None:
        with hub_errors(WHERE):
            raise answered(403)

    for flags in ([], ["-v"]):
        result = CliRunner().invoke(fails, flags)
        assert result.exit_code == 1
        assert "https://storage.example/blob" in result.stderr
        assert "X-Signature" not in result.stderr
    assert "Traceback" in result.stderr
