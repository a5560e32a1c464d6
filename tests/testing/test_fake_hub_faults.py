"""What goes wrong on request: each kind, how the client takes it, and what was carried out all the same."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

import pytest
from huggingface_hub import HfApi, constants, hf_hub_download, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import get_session

from linzoo.testing.fake_hub import FakeHub, Fault

REPO = "tester/model"
WEIGHTS = random.Random(0).randbytes(200_000)


@pytest.fixture(autouse=True)
def weights(hub: FakeHub) -> None:
    hub.put(REPO, {"w.safetensors": WEIGHTS, "config.json": b"{}"})


def download() -> bytes:
    return Path(hf_hub_download(REPO, "w.safetensors")).read_bytes()


def faults(hub: FakeHub) -> list[tuple[str, str | None, int]]:
    """Method, fault and status of all requests."""
    return [(request.method, request.fault, request.status) for request in hub.requests]


@pytest.mark.parametrize("status", [401, 403, 404, 409, 412, 429, 500, 502, 503, 504])
def test_a_status_is_what_the_client_sees(status: int, hub: FakeHub, api: HfApi) -> None:
    hub.inject(Fault("status", status=status))
    with pytest.raises(HfHubHTTPError, match="A fault that the test has injected") as refused:
        api.model_info(REPO)
    assert refused.value.response.status_code == status
    assert refused.value.response.headers["X-Request-Id"].startswith("fake-")
    assert api.model_info(REPO).id == REPO
    assert faults(hub) == [("GET", "status", status), ("GET", None, 200)]


def test_the_client_asks_again_without_waiting(hub: FakeHub, api: HfApi) -> None:
    hub.inject(Fault("status", status=503, retry_after=3600, method="POST", path="/preupload/", times=4))
    api.upload_file(path_or_fileobj=b"1", path_in_repo="x", repo_id=REPO)
    assert [kind for method, kind, _ in faults(hub) if method == "POST"] == ["status"] * 4 + [None, None]
    hub.inject(Fault("status", status=429, retry_after=7))
    answer = get_session().get(f"{hub.url}/api/models/{REPO}")
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "7")


def test_a_drop_before_does_nothing(hub: FakeHub, api: HfApi) -> None:
    head = hub.head(REPO)
    hub.inject(Fault("drop-before", path="/commit/"))
    with pytest.raises(Exception, match="disconnected without sending a response"):
        api.upload_file(path_or_fileobj=b"1", path_in_repo="x", repo_id=REPO)
    assert hub.head(REPO) == head
    dropped = hub.requests[-1]
    assert (dropped.fault, dropped.status, dropped.sent) == ("drop-before", 0, 0)
    assert dropped.received > 0


def test_a_drop_after_has_done_it(hub: FakeHub, api: HfApi) -> None:
    hub.inject(Fault("drop-after", path="/commit/"))
    with pytest.raises(Exception, match="disconnected without sending a response"):
        api.upload_file(path_or_fileobj=b"1", path_in_repo="x", repo_id=REPO)
    assert hub.read(REPO, "x") == b"1"
    assert (hub.requests[-1].fault, hub.requests[-1].status) == ("drop-after", 0)


def test_an_upload_that_is_dropped_is_sent_again(hub: FakeHub, api: HfApi) -> None:
    hub.inject(Fault("drop-before", method="PUT"))
    api.upload_file(path_or_fileobj=WEIGHTS[:5], path_in_repo="v.safetensors", repo_id=REPO)
    assert hub.read(REPO, "v.safetensors") == WEIGHTS[:5]
    puts = [(request.fault, request.received) for request in hub.requests if request.method == "PUT"]
    assert puts == [("drop-before", 5), (None, 5)]


def test_a_cut_body_is_resumed_where_it_ended(
    hub: FakeHub, api: HfApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # what the client keeps of it
    hub.inject(Fault("cut-body", path="/storage/", times=2))
    assert download() == WEIGHTS
    gets = [(each.range, each.status, each.sent) for each in hub.requests if each.host == "localhost"]
    assert gets == [
        (None, 200, 100_000),
        ("bytes=100000-", 206, 50_000),
        ("bytes=150000-", 206, 50_000),
    ]


def test_a_cut_body_of_a_file_on_disk(hub: FakeHub, api: HfApi, tmp_path: Path) -> None:
    path = tmp_path / "on-disk"
    path.write_bytes(WEIGHTS[:1001])
    hub.put(REPO, {"w.safetensors": path})
    hub.inject(Fault("cut-body", path="/storage/"))
    assert download() == WEIGHTS[:1001]
    assert [request.sent for request in hub.requests if request.host == "localhost"] == [500, 1001]


def test_a_slow_body_is_whole(hub: FakeHub, api: HfApi) -> None:
    slow = Fault("slow-body", path="/storage/")
    assert not slow.struck.is_set()
    hub.inject(slow)
    assert download() == WEIGHTS
    assert slow.struck.is_set()


def test_a_body_waits_for_the_test(hub: FakeHub, api: HfApi) -> None:
    held = Fault("slow-body", path="/storage/", release=threading.Event())
    hub.inject(held)
    with ThreadPoolExecutor(1) as pool:
        downloading = pool.submit(download)
        assert held.struck.wait(10)
        assert not downloading.done()
        assert held.release is not None
        held.release.set()
        assert downloading.result(10) == WEIGHTS


@pytest.mark.parametrize("leave", [False, True])
def test_nothing_is_held_for_ever(leave: bool) -> None:
    held = Fault("slow-body", path="/storage/", release=threading.Event())

    def read(url: str) -> bytes:
        with urlopen(url) as answer:
            return answer.read()

    with ThreadPoolExecutor(1) as pool:
        with FakeHub() as hub:
            hub.put(REPO, {"w.safetensors": WEIGHTS})
            hub.inject(held)
            reading = pool.submit(read, f"{hub.url}/{REPO}/resolve/main/w.safetensors")
            assert held.struck.wait(10)
            if not leave:
                hub.clear_faults()
                assert reading.result(10) == WEIGHTS
        # Leaving the hub lets go too: what is left of the body comes, or the connection ends.
        assert reading.exception(10) is None or isinstance(reading.exception(), OSError | HTTPException)


def test_a_redirect_to_the_other_host_loses_the_token(hub: FakeHub, api: HfApi) -> None:
    hub.inject(Fault("redirect", path="/api/models/"))
    assert api.model_info(REPO).id == REPO
    first, second = hub.requests
    assert (first.status, first.host, first.authorization) == (307, "127.0.0.1", hub.token)
    assert (second.status, second.host, second.authorization) == (200, "localhost", None)
    assert second.path == first.path


def test_faults_count_the_requests_that_match(hub: FakeHub, api: HfApi) -> None:
    session, config, weights = (
        get_session(),
        hf_hub_url(REPO, "config.json"),
        hf_hub_url(REPO, "w.safetensors"),
    )
    hub.inject(Fault("status", at=1, times=2, status=404, method="GET", path=r"config\.json$"))
    seen = [session.get(url).status_code for url in (config, weights, config, config, config)]
    assert seen == [200, 200, 404, 404, 200]
    assert session.head(config).status_code == 200
    hub.inject(Fault("status", at=2, status=500))
    hub.inject(Fault("status", at=1, status=502))
    assert [session.get(config).status_code for _ in range(4)] == [200, 502, 500, 200]
    hub.inject(Fault("status", times=9))
    hub.clear_faults()
    assert session.get(config).status_code == 200


def test_a_path_is_matched_unquoted(hub: FakeHub, api: HfApi) -> None:
    api.create_pull_request(REPO, title="A draft")
    hub.inject(Fault("status", path=r"/commit/refs/pr/1$", status=403))
    with pytest.raises(HfHubHTTPError, match="injected"):
        api.upload_file(path_or_fileobj=b"1", path_in_repo="x", repo_id=REPO, revision="refs/pr/1")
    assert hub.requests[-1].path == f"/api/models/{REPO}/commit/refs/pr/1"


def test_there_is_no_other_fault() -> None:
    with pytest.raises(
        ValueError, match=r"no kind of fault: 'drop'; there are status, drop-before, .*redirect"
    ):
        Fault("drop")  # type: ignore[arg-type]


def test_a_failure_of_the_fake_hub_itself_is_told(hub: FakeHub, api: HfApi) -> None:
    answer = get_session().post(
        f"{hub.url}/api/models/{REPO}/discussions",
        json={},
        headers={"Authorization": f"Bearer {hub.token}"},
    )
    assert answer.status_code == 500
    assert answer.json()["error"] == (
        f"The fake Hub failed on POST /api/models/{REPO}/discussions: KeyError('title')"
    )
