"""A file on the Hub that is read in parts: every byte right, whatever happens on the way, and clear words where it cannot be."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import utils
from hypothesis import given, settings
from hypothesis import strategies as st

from linzoo.checkpoints.ranges import ByteRange
from linzoo.checkpoints.remote import HubFile, fetch, ranges_folder
from linzoo.errors import CheckpointError
from linzoo.testing.fake_hub import FakeHub, Fault

CONTENT = random.Random(0).randbytes(600_000)
NAME = "model.safetensors"
STORAGE = "/storage/"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    with FakeHub() as hub, hub.client(tmp_path / "home"):
        yield hub


@pytest.fixture
def file(hub: FakeHub) -> HubFile:
    return put(hub, "tester/model")


def put(hub: FakeHub, repo: str, **options: bool) -> HubFile:
    commit = hub.put(repo, {NAME: CONTENT}, **options)
    stored = hub.files(repo)[NAME]
    assert stored.sha256 is not None
    return HubFile(repo, commit, NAME, stored.size, stored.sha256, Path(NAME))


def read(file: HubFile, start: int, end: int) -> bytes:
    buffer = bytearray(end - start)
    file.read_into(ByteRange(start, end), memoryview(buffer))
    return bytes(buffer)


def sent(hub: FakeHub) -> int:
    """Bytes of content that the storage sent."""
    return sum(each.sent for each in hub.requests if each.path.startswith(STORAGE))


def test_it_reads_like_a_file(hub: FakeHub, file: HubFile) -> None:
    assert str(file) == f"hf://tester/model@{hub.head('tester/model')}/{NAME}"
    with file.open("rb") as opened:
        assert opened.read(5) == CONTENT[:5]
        assert opened.seek(1, 1) == 6
        assert opened.read(4) == CONTENT[6:10]
        assert opened.seek(0, 2) == len(CONTENT)
        assert opened.seek(-3, 2) == len(CONTENT) - 3
        assert opened.read(10) == CONTENT[-3:]
        assert opened.read(1) == b""
    assert sent(hub) == 5 + 4 + 3


@settings(deadline=None, max_examples=30)
@given(st.tuples(st.integers(0, 4000), st.integers(0, 4000)).map(sorted), st.data())
def test_any_range_is_the_bytes_of_the_file(
    shared: tuple[FakeHub, HubFile], bounds: list[int], data: st.DataObject
) -> None:
    hub, file = shared
    if data.draw(st.booleans(), label="cut"):
        hub.inject(Fault("cut-body", path=STORAGE))
    assert read(file, *bounds) == CONTENT[bounds[0] : bounds[1]]
    hub.clear_faults()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FakeHub, HubFile]]:
    with FakeHub() as hub, hub.client(tmp_path_factory.mktemp("home")):
        yield hub, put(hub, "tester/shared")


def test_the_token_does_not_follow_to_the_storage(hub: FakeHub, file: HubFile) -> None:
    read(file, 0, 10)
    asked, stored = hub.requests
    assert (asked.host, asked.authorization, asked.status) == ("127.0.0.1", hub.token, 302)
    assert (stored.host, stored.authorization, stored.status) == ("localhost", None, 206)
    assert asked.range == stored.range == "bytes=0-9"


@pytest.mark.parametrize(
    "fault",
    [
        Fault("cut-body", path=STORAGE),
        Fault("cut-body", path=STORAGE, times=3),
        Fault("slow-body", path=STORAGE),
        Fault("drop-before", path=STORAGE),
        Fault("drop-after", path=STORAGE),
        Fault("drop-before", path="/resolve/", times=2),
        Fault("redirect", path="/resolve/"),
        *(Fault("status", path=STORAGE, status=status) for status in (500, 502, 503, 504)),
        Fault("status", path="/resolve/", status=429, retry_after=1),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.path.strip('/')}-{fault.status}-{fault.times}",
)
def test_what_goes_wrong_on_the_way_is_made_good(hub: FakeHub, file: HubFile, fault: Fault) -> None:
    hub.inject(fault)
    assert read(file, 1000, 501_000) == CONTENT[1000:501_000]
    assert fault.struck.is_set()
    assert all(each.authorization is None for each in hub.requests if each.host == "localhost")


def test_after_a_cut_it_goes_on_in_the_middle(hub: FakeHub, file: HubFile) -> None:
    hub.inject(Fault("cut-body", path=STORAGE, times=3))
    assert read(file, 0, 400_000) == CONTENT[:400_000]
    assert [each.range for each in hub.requests if each.host == "localhost"] == [
        f"bytes={start}-399999" for start in (0, 200_000, 300_000, 350_000)
    ]
    assert sent(hub) == 400_000


def test_a_line_that_brings_nothing_ends_after_some_tries(
    hub: FakeHub, file: HubFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.inject(Fault("cut-body", path=STORAGE, times=99))
    with pytest.raises(
        CheckpointError, match=r"hf://tester/model@\w+/model.safetensors: the connection was cut 5 times"
    ):
        read(file, 0, 1)  # of one byte half is none
    assert len([each for each in hub.requests if each.host == "localhost"]) == 5


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "the Hub wants a login|no such repository, or a private one"),
        (403, "your token may not"),
        (404, "404"),
        (429, "asked too often; wait some minutes"),
        (500, "trouble of its own"),
        (504, "trouble of its own"),
    ],
)
def test_a_hub_that_keeps_refusing(hub: FakeHub, file: HubFile, status: int, message: str) -> None:
    hub.inject(Fault("status", path=NAME, status=status, times=99))
    with pytest.raises(CheckpointError, match=message) as caught:
        read(file, 0, 10)
    assert str(caught.value).startswith(str(file))
    assert hub.token not in str(caught.value)


def test_a_signed_address_of_the_storage_is_not_shown(hub: FakeHub, file: HubFile) -> None:
    hub.inject(Fault("status", path=STORAGE, status=403, times=99))
    with pytest.raises(CheckpointError, match="403") as caught:
        read(file, 0, 10)
    assert "Signature" not in str(caught.value)


def test_a_commit_that_is_gone_and_a_file_that_is(file: HubFile) -> None:
    with pytest.raises(CheckpointError, match="the repository has no such branch, tag or commit"):
        read(replace(file, commit="0" * 40), 0, 10)
    with pytest.raises(CheckpointError, match="404"):
        read(replace(file, name="other.safetensors"), 0, 10)


def test_a_repository_that_may_not_be_read(hub: FakeHub, tmp_path: Path) -> None:
    gated = put(hub, "someone/gated")
    hub.gate("someone/gated")
    with pytest.raises(
        CheckpointError, match=r"asks you to accept terms first, at https://huggingface.co/someone/gated;"
    ):
        read(gated, 0, 10)
    private = put(hub, "tester/private", private=True)
    assert read(private, 0, 10) == CONTENT[:10]
    with hub.client(tmp_path / "nobody", token=None), pytest.raises(CheckpointError, match="a private one"):
        read(private, 0, 10)


@pytest.mark.parametrize("other", [{"sha256": "0" * 64}, {"size": len(CONTENT) + 1}])
def test_another_content_than_was_listed_is_an_error(file: HubFile, other: dict[str, str | int]) -> None:
    with pytest.raises(
        CheckpointError, match=r"was listed with .*another file has taken its place; run the same"
    ):
        read(replace(file, **other), 0, 10)  # type: ignore[arg-type]


class Server:
    """Answers otherwise than the Hub does, from the second request or at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, after: int = 0) -> None:
        self.after = after
        self.etag: str | None = None
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.ask = utils.http_stream_backoff
        monkeypatch.setattr(utils, "http_stream_backoff", self.stream)

    @contextmanager
    def stream(self, *arguments: Any, **options: Any) -> Iterator[Any]:
        with self.ask(*arguments, **options) as response:
            if self.after:
                self.after -= 1
            else:
                response.headers.update(self.headers)
                response.status_code = self.status or response.status_code
                if self.etag is not None:
                    response.history[0].headers["X-Linked-Etag"] = self.etag
            yield response


@pytest.mark.parametrize("etag", ['"0123"', '"' + "0" * 64 + '"'])
def test_the_content_is_looked_at_again_after_a_cut(
    hub: FakeHub, file: HubFile, monkeypatch: pytest.MonkeyPatch, etag: str
) -> None:
    Server(monkeypatch, after=1).etag = etag
    hub.inject(Fault("cut-body", path=STORAGE))
    with pytest.raises(CheckpointError, match="another file has taken its place"):
        read(file, 0, 400_000)


def test_a_server_that_sends_the_whole_file(file: HubFile, monkeypatch: pytest.MonkeyPatch) -> None:
    Server(monkeypatch).status = 200
    with pytest.raises(
        CheckpointError,
        match=r"knows no ranges; fetch the repository with 'hf download tester/model' and name",
    ):
        read(file, 0, 10)


@pytest.mark.parametrize(
    ("header", "value"),
    [("Content-Range", "bytes 0-8/600000"), ("Content-Length", "9"), ("Content-Range", "")],
)
def test_a_server_that_sends_other_bytes(
    file: HubFile, monkeypatch: pytest.MonkeyPatch, header: str, value: str
) -> None:
    Server(monkeypatch).headers = {header: value}
    with pytest.raises(
        CheckpointError, match=rf"bytes 0-9 were asked for, and the answer has .*{value}.* bytes long"
    ):
        read(file, 0, 10)


def test_a_server_that_has_no_such_bytes(hub: FakeHub, file: HubFile) -> None:
    with pytest.raises(CheckpointError, match=r"now has 600000 bytes .*another file has taken its place"):
        read(replace(file, size=700_000), 650_000, 650_010)
    assert hub.requests[-1].status == 416
    hub.inject(Fault("status", path=STORAGE, status=416))
    with pytest.raises(CheckpointError, match=r"416.*Requested range: bytes=0-9"):
        read(file, 0, 10)


# --- fetching ahead


def test_what_was_fetched_is_not_asked_for_again(hub: FakeHub, file: HubFile) -> None:
    wanted = [ByteRange(0, 100), ByteRange(100, 250), ByteRange(5000, 5100)]
    seen: list[int] = []
    fetch({file: wanted}, seen.append)
    assert sorted(seen) == [100, 250]
    assert sent(hub) == 350
    assert len([each for each in hub.requests if each.host == "localhost"]) == 2
    for each in (*wanted, ByteRange(90, 110)):
        assert read(file, each.start, each.end) == CONTENT[each.start : each.end]
    assert sent(hub) == 350
    assert file.kept.missing([*wanted, ByteRange(240, 260)]) == [ByteRange(240, 260)]
    assert file.kept.folder == ranges_folder() / file.sha256


def test_what_arrived_before_an_error_stays(hub: FakeHub, file: HubFile) -> None:
    wanted = [ByteRange(start, start + 10) for start in range(0, 200, 20)]
    hub.inject(Fault("status", path="/resolve/", status=403, at=6, times=99))
    with pytest.raises(CheckpointError, match="403"):
        fetch({file: wanted}, lambda count: None)
    before = sent(hub)
    assert 0 < before < 100
    hub.clear_faults()
    fetch({file: file.kept.missing(wanted)}, lambda count: None)
    assert sent(hub) == 100


def test_an_interruption_stops_the_other_requests(hub: FakeHub, file: HubFile) -> None:
    def interrupt(count: int) -> None:
        raise KeyboardInterrupt

    wanted = [ByteRange(start, start + 10) for start in range(0, 200_000, 20)]
    with pytest.raises(KeyboardInterrupt):
        fetch({file: wanted}, interrupt)
    assert len(hub.requests) < 100
    assert not list(file.kept.folder.glob(".*"))
