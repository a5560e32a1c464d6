"""Listing and downloading files: redirects, ranges, caches, and where the token goes."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import pytest
from huggingface_hub import HfApi, HfFileSystem, hf_hub_download, hf_hub_url, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import get_session
from hypothesis import given
from hypothesis import strategies as st

from linzoo.testing.fake_hub import FakeHub
from linzoo.testing.fake_hub.messages import HttpError
from linzoo.testing.fake_hub.ranges import select_range
from linzoo.testing.fake_hub.routes import files

REPO = "someone/model"
WEIGHTS = random.Random(0).randbytes(300_000)
SEED = {"config.json": b"{}", "unet/config.json": b'{"a": 1}', "unet/w.safetensors": WEIGHTS}


def test_a_download_is_what_was_put(hub: FakeHub, api: HfApi) -> None:
    first = hub.put(REPO, SEED)
    second = hub.put(REPO, {"config.json": b"[]"}, title="another config")
    assert Path(hf_hub_download(REPO, "unet/w.safetensors")).read_bytes() == WEIGHTS
    assert Path(hf_hub_download(REPO, "config.json")).read_bytes() == b"[]"
    assert Path(hf_hub_download(REPO, "config.json", revision=first)).read_bytes() == b"{}"
    folder = Path(snapshot_download(REPO))
    assert folder.name == second
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found == {*SEED, ".gitattributes"} == set(api.list_repo_files(REPO)) == set(hub.files(REPO))


def test_what_is_cached_is_not_sent_again(hub: FakeHub, api: HfApi) -> None:
    hub.put(REPO, SEED)
    snapshot_download(REPO)
    assert sum(request.sent for request in hub.requests if request.host == "localhost") == len(WEIGHTS)
    before = len(hub.requests)
    snapshot_download(REPO)
    assert sum(request.sent for request in hub.requests[before:] if "/resolve/" in request.path) == 0


def test_the_token_stays_with_the_hub(hub: FakeHub, api: HfApi) -> None:
    hub.put("tester/secret", SEED, private=True)
    snapshot_download("tester/secret")
    tokens = {request.host: request.authorization for request in hub.requests}
    assert tokens == {"127.0.0.1": hub.token, "localhost": None}


def test_the_storage_wants_its_signature(hub: FakeHub, api: HfApi) -> None:
    hub.put(REPO, SEED)
    answer = get_session().get(hf_hub_url(REPO, "unet/w.safetensors"), follow_redirects=False)
    assert (answer.status_code, answer.headers["X-Linked-Size"]) == (302, "300000")
    sha256 = hub.files(REPO)["unet/w.safetensors"].sha256
    assert answer.headers["X-Linked-Etag"] == f'"{sha256}"'
    assert answer.headers["X-Repo-Commit"] == hub.head(REPO)
    signed = answer.headers["Location"]
    assert signed.startswith(f"{hub.cdn_url}/storage/{sha256}?X-Signature=")
    stored = get_session().get(signed)
    assert stored.content == WEIGHTS
    assert sha256 not in stored.headers["ETag"]
    assert get_session().get(signed, headers={"Range": "bytes=5-"}).headers["ETag"] == stored.headers["ETag"]
    assert get_session().get(signed.partition("?")[0]).status_code == 403
    assert get_session().get(signed.replace(str(sha256), "0" * 64)).status_code == 404


def test_a_file_on_disk_is_served_from_where_it_is(hub: FakeHub, api: HfApi, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(WEIGHTS)
    hub.put(REPO, {"w.safetensors": path})
    assert Path(hf_hub_download(REPO, "w.safetensors")).read_bytes() == WEIGHTS
    assert hub.read(REPO, "w.safetensors") == WEIGHTS
    with HfFileSystem().open(f"{REPO}/w.safetensors", cache_type="none") as file:
        file.seek(1000)
        assert file.read(50) == WEIGHTS[1000:1050]
    assert (hub.requests[-1].status, hub.requests[-1].sent) == (206, 50)


def test_what_is_missing(hub: FakeHub, api: HfApi) -> None:
    commit = hub.put(REPO, SEED)
    with pytest.raises(EntryNotFoundError) as missing:
        hf_hub_download(REPO, "nothing.txt")
    assert missing.value.response.headers["X-Repo-Commit"] == commit
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download(REPO, "config.json", revision="v9")
    with pytest.raises(RevisionNotFoundError):
        api.model_info(REPO, revision="0" * 40)
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree(REPO, "nowhere"))
    assert not api.file_exists(REPO, "nothing.txt")
    assert api.file_exists(REPO, "config.json")
    with pytest.raises(KeyError, match="has no revision v9"):
        hub.files(REPO, "v9")


def test_the_tree_has_folders_and_who_changed_them(hub: FakeHub, api: HfApi) -> None:
    hub.put(REPO, SEED, title="first")
    hub.put(REPO, {"unet/config.json": b"{}"}, title="second")
    top = {entry.path: entry for entry in api.list_repo_tree(REPO, expand=True)}
    assert set(top) == {".gitattributes", "config.json", "unet"}
    assert {path: entry.last_commit.title for path, entry in top.items()} == {
        ".gitattributes": "initial commit",
        "config.json": "first",
        "unet": "second",
    }
    assert [entry.path for entry in api.list_repo_tree(REPO, "unet")] == [
        "unet/config.json",
        "unet/w.safetensors",
    ]
    everything = [entry.path for entry in api.list_repo_tree(REPO, recursive=True)]
    assert everything == sorted({*SEED, ".gitattributes", "unet"})
    folder, file = api.get_paths_info(REPO, ["unet", "unet/w.safetensors", "nowhere"], expand=True)
    assert (folder.path, file.size, file.lfs.size) == ("unet", 300_000, 300_000)


def test_a_long_listing_comes_in_pages(hub: FakeHub, api: HfApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PAGE", 2)
    hub.put(REPO, {f"{number}.txt": b"1" for number in range(4)})
    assert len(api.list_repo_files(REPO, revision="refs/heads/main")) == 5
    before = len(hub.requests)
    assert len(list(api.list_repo_tree(REPO, revision="refs/heads/main"))) == 5
    assert [request.query for request in hub.requests[before:]] == [
        "recursive=false&expand=false",
        "recursive=false&expand=false&cursor=2",
        "recursive=false&expand=false&cursor=4",
    ]


@pytest.mark.parametrize("name", ["config.json", "unet/w.safetensors"])
@pytest.mark.parametrize(
    ("header", "part"),
    [
        ("bytes=0-0", slice(0, 1)),
        ("bytes=1-", slice(1, None)),
        ("bytes=-1", slice(-1, None)),
        ("bytes=0-999999999", slice(None)),
        ("bytes=-999999999", slice(None)),
    ],
)
def test_a_range_is_that_part(name: str, header: str, part: slice, hub: FakeHub, api: HfApi) -> None:
    hub.put(REPO, SEED)
    answer = get_session().get(hf_hub_url(REPO, name), headers={"Range": header})
    covered = range(len(SEED[name]))[part]
    assert (answer.status_code, answer.content) == (206, SEED[name][part])
    assert answer.headers["Content-Range"] == f"bytes {covered[0]}-{covered[-1]}/{len(SEED[name])}"
    served = hub.requests[-1]
    assert (served.range, served.status, served.sent) == (header, 206, len(covered))


@pytest.mark.parametrize("header", ["bytes=0-0,5-6", "bytes=5-2", "bytes=-", "bits=0-1", "bytes=x-"])
def test_ranges_that_are_ignored(header: str, hub: FakeHub, api: HfApi) -> None:
    hub.put(REPO, SEED)
    answer = get_session().get(hf_hub_url(REPO, "config.json"), headers={"Range": header})
    assert (answer.status_code, answer.content) == (200, b"{}")


@pytest.mark.parametrize("header", ["bytes=300000-", "bytes=300000-300001", "bytes=-0"])
def test_a_range_behind_the_end(header: str, hub: FakeHub, api: HfApi) -> None:
    hub.put(REPO, SEED)
    answer = get_session().get(hf_hub_url(REPO, "unet/w.safetensors"), headers={"Range": header})
    assert (answer.status_code, answer.headers["Content-Range"]) == (416, "bytes */300000")


def test_a_head_has_the_length_and_no_body(hub: FakeHub, api: HfApi) -> None:
    hub.put(REPO, SEED)
    answer = get_session().head(hf_hub_url(REPO, "config.json"), headers={"Range": "bytes=0-0"})
    assert (answer.status_code, answer.headers["Content-Length"], answer.content) == (200, "2", b"")
    assert answer.headers["ETag"] == f'"{hub.files(REPO)["config.json"].oid}"'
    assert hub.requests[-1].sent == 0


@given(size=st.integers(0, 40), first=st.none() | st.integers(0, 50), last=st.none() | st.integers(0, 50))
def test_a_range_selects_what_the_standard_says(size: int, first: int | None, last: int | None) -> None:
    content = bytes(range(size))
    header = f"bytes={'' if first is None else first}-{'' if last is None else last}"
    if first is None:
        expected = None if last is None else content[max(size - last, 0) :]
    elif last is None:
        expected = content[first:]
    else:
        expected = None if last < first else content[first : last + 1]
    if expected == b"":
        with pytest.raises(HttpError) as refused:
            select_range(header, size)
        assert (refused.value.status, refused.value.headers) == (416, {"Content-Range": f"bytes */{size}"})
        return
    selected = select_range(header, size)
    if expected is None:
        assert selected is None
    else:
        assert selected is not None
        assert content[selected[0] : selected[0] + selected[1]] == expected


@given(st.text())
def test_no_header_is_too_odd(header: str) -> None:
    with contextlib.suppress(HttpError):
        start, length = select_range(header, 10) or (0, 10)
        assert 0 <= start < start + length <= 10
