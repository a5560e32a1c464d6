"""A file on the Hub that is read in parts: every byte right, whatever happens on the way, and clear words where it cannot be."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import httpx2
import pytest
from huggingface_hub import set_client_factory, utils
from huggingface_hub.utils._http import default_client_factory
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
        *(Fault("status", path=STORAGE, status=status) for status in (403, 416, 500, 502, 503, 504)),
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


def test_a_line_that_brings_nothing_ends_after_some_tries(hub: FakeHub, file: HubFile) -> None:
    hub.inject(Fault("cut-body", path=STORAGE, times=99))
    with pytest.raises(
        CheckpointError, match=r"hf://tester/model@\w+/model.safetensors: the connection was cut 5 times"
    ):
        read(file, 0, 1)  # of one byte half is none
    assert len([each for each in hub.requests if each.host == "localhost"]) == 5


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "the Hub refuses the token in HF_TOKEN"),
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


def test_a_storage_that_keeps_refusing_is_asked_under_new_addresses(hub: FakeHub, file: HubFile) -> None:
    hub.inject(Fault("status", path=STORAGE, status=403, times=99))
    with pytest.raises(CheckpointError, match=r"its storage refused 5 times in a row.*403") as caught:
        read(file, 0, 10)
    assert "Signature" not in str(caught.value)
    assert "token" not in str(caught.value)
    assert [each.status for each in hub.requests] == [302, 403] * 5


def test_a_commit_that_is_gone_and_a_file_that_is(file: HubFile) -> None:
    with pytest.raises(CheckpointError, match="the repository has no such branch, tag or commit"):
        read(replace(file, commit="0" * 40), 0, 10)
    with pytest.raises(CheckpointError, match="the repository has no such file at this commit"):
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
    """Answers otherwise than the Hub does, from the second request or at once; a header that is None is left out."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, after: int = 0) -> None:
        self.after = after
        self.status: int | None = None
        self.headers: dict[str, str | None] = {}
        self.body: Callable[[], Iterable[bytes]] | None = None
        self.ask = utils.http_stream_backoff
        monkeypatch.setattr(utils, "http_stream_backoff", self.stream)

    @contextmanager
    def stream(self, *arguments: Any, **options: Any) -> Iterator[Any]:
        with self.ask(*arguments, **options) as response:
            if self.after:
                self.after -= 1
            else:
                for answer, (name, value) in itertools.product(
                    (*response.history, response), self.headers.items()
                ):
                    if value is not None:
                        answer.headers[name] = value
                    elif name in answer.headers:
                        del answer.headers[name]
                response.status_code = self.status or response.status_code
                response.iter_bytes = self.body or response.iter_bytes
            yield response


@pytest.mark.parametrize("etag", ['"0123"', '"' + "0" * 64 + '"'])
def test_the_content_is_looked_at_again_after_a_cut(
    hub: FakeHub, file: HubFile, monkeypatch: pytest.MonkeyPatch, etag: str
) -> None:
    Server(monkeypatch, after=1).headers = {"X-Linked-Etag": etag}
    hub.inject(Fault("cut-body", path=STORAGE))
    with pytest.raises(CheckpointError, match="another file has taken its place"):
        read(file, 0, 400_000)


@pytest.mark.parametrize("etag", [None, '"9bb58f26192e4ba00f01e2e7b136bbd8-5"'])
def test_a_server_that_does_not_say_which_content_it_sends(
    file: HubFile, monkeypatch: pytest.MonkeyPatch, etag: str | None
) -> None:
    Server(monkeypatch).headers = {"X-Linked-Etag": None, "ETag": etag}
    with pytest.raises(
        CheckpointError, match=r"does not say which content .*; fetch the repository with 'hf download tester"
    ):
        read(file, 0, 10)


def test_a_server_that_says_it_by_the_plain_etag(file: HubFile, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(monkeypatch)
    server.headers = {"X-Linked-Etag": None, "ETag": f'W/"{file.sha256}"'}
    assert read(file, 0, 10) == CONTENT[:10]
    server.headers["ETag"] = '"' + "0" * 64 + '"'
    with pytest.raises(CheckpointError, match="another file has taken its place"):
        read(file, 0, 10)


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


def test_a_server_that_does_not_say_how_many_bytes_it_sends(
    file: HubFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server(monkeypatch)
    server.headers = {"Content-Length": None}
    assert read(file, 0, 10) == CONTENT[:10]
    server.body = lambda: [CONTENT[:8], CONTENT[8:12]]
    with pytest.raises(CheckpointError, match="bytes 0-9 were asked for, and the answer has more"):
        read(file, 0, 10)
    pieces = iter([CONTENT[:8], CONTENT[8:10]])
    server.body = lambda: [next(pieces)]
    assert read(file, 0, 10) == CONTENT[:10]
    server.body = list
    with pytest.raises(CheckpointError, match=r"cut 5 times in a row before a byte came \(an empty answer\)"):
        read(file, 0, 10)


def test_a_server_that_has_no_such_bytes(hub: FakeHub, file: HubFile) -> None:
    with pytest.raises(CheckpointError, match=r"now has 600000 bytes .*another file has taken its place"):
        read(replace(file, size=700_000), 650_000, 650_010)
    assert hub.requests[-1].status == 416
    hub.inject(Fault("status", path=STORAGE, status=416, times=99))
    with pytest.raises(CheckpointError, match=r"its storage refused 5 times .*\(status 416\)"):
        read(file, 0, 10)


# --- fetching ahead


def test_what_was_fetched_is_not_asked_for_again(hub: FakeHub, file: HubFile) -> None:
    wanted = [ByteRange(0, 100), ByteRange(100, 250), ByteRange(5000, 5100)]
    seen: list[int] = []
    fetch({file: wanted}, seen.append)
    assert sum(seen) == 350
    assert sent(hub) == 350
    assert len([each for each in hub.requests if each.host == "localhost"]) == 2
    for each in (*wanted, ByteRange(90, 110)):
        assert read(file, each.start, each.end) == CONTENT[each.start : each.end]
    assert sent(hub) == 350
    assert file.kept.missing([*wanted, ByteRange(240, 260)]) == [ByteRange(240, 260)]
    assert file.kept.folder == ranges_folder() / file.sha256


def test_what_arrived_before_an_error_stays(hub: FakeHub, file: HubFile) -> None:
    wanted = [ByteRange(start, start + 10) for start in range(0, 400, 20)]
    hub.inject(Fault("status", path="/resolve/", status=403, at=6, times=99))
    with pytest.raises(CheckpointError, match="403"):
        fetch({file: wanted}, lambda count: None)
    assert sum(each.status == 403 for each in hub.requests) <= 4  # nothing new is begun
    assert sent(hub) == 60
    hub.clear_faults()
    fetch({file: file.kept.missing(wanted)}, lambda count: None)
    assert sent(hub) == 200


def test_each_piece_is_told_when_it_is_here(hub: FakeHub, file: HubFile) -> None:
    told: list[int] = []
    release = threading.Event()

    def advance(count: int) -> None:
        told.append(count)
        assert threading.current_thread() is threading.main_thread()
        release.set()

    hub.inject(
        Fault("slow-body", path=STORAGE, release=release)
    )  # the second half waits for the first to be told
    fetch({file: [ByteRange(0, 400_000)]}, advance)
    assert len(told) > 1
    assert sum(told) == 400_000


class Failing(httpx2.HTTPTransport):
    """Fails as connections do, and as the session does that other threads use when the client closes it below them."""

    errors: ClassVar[dict[int, Exception]] = {
        9: httpx2.ConnectError("no route"),
        14: RuntimeError("Cannot send a request, as the client has been closed."),
        23: AttributeError("'NoneType' object has no attribute 'stream'"),
        31: httpx2.ConnectError("no route"),
    }

    def __init__(self, numbers: Iterator[int]) -> None:
        super().__init__()
        self.numbers = numbers

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        if error := self.errors.get(next(self.numbers)):
            raise error
        return super().handle_request(request)


@pytest.fixture
def numbers() -> Iterator[Iterator[int]]:
    """Counts the requests, through every session that the client opens."""
    numbers = itertools.count()
    set_client_factory(lambda: httpx2.Client(follow_redirects=True, transport=Failing(numbers)))
    yield numbers
    set_client_factory(default_client_factory)


def test_a_session_that_is_closed_below_the_threads(file: HubFile, numbers: Iterator[int]) -> None:
    wanted = [ByteRange(start, start + 5000) for start in range(0, 400_000, 10_000)]
    fetch({file: wanted}, lambda count: None)
    assert next(numbers) > max(Failing.errors)
    for each in wanted:
        assert read(file, each.start, each.end) == CONTENT[each.start : each.end]


def test_an_interruption_waits_for_nobody_and_keeps_nothing_more(hub: FakeHub, file: HubFile) -> None:
    def interrupt(count: int) -> None:
        raise KeyboardInterrupt

    release = threading.Event()
    hub.inject(Fault("slow-body", path=STORAGE, release=release, times=999))
    wanted = [ByteRange(start, start + 10_000) for start in range(0, 500_000, 20_000)]
    with pytest.raises(KeyboardInterrupt):
        fetch({file: wanted}, interrupt)  # while the second half of every body waits
    threads = [each for each in threading.enumerate() if each.name == "linzoo-fetch"]
    assert threads
    assert all(each.daemon for each in threads)  # the end of the program waits for nobody either
    release.set()
    for each in threads:
        each.join()
    assert len(hub.requests) <= 2 * 4
    assert file.kept.missing(wanted) == wanted
    assert not list(file.kept.folder.iterdir())
