"""Uploading and committing: large file storage, what git keeps, races, and commits that are all or nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi
from huggingface_hub.errors import BadRequestError, HfHubHTTPError
from huggingface_hub.utils import get_session, hf_raise_for_status

from linzoo.testing.fake_hub import FakeHub

REPO = "tester/model"
WEIGHTS = random.Random(0).randbytes(100_000)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model with one large file."""
    (tmp_path / "model" / "unet").mkdir(parents=True)
    (tmp_path / "model" / "unet" / "w.safetensors").write_bytes(WEIGHTS)
    (tmp_path / "model" / "model_index.json").write_text("{}")
    return tmp_path / "model"


def asked(hub: FakeHub) -> list[str]:
    """What the Hub was asked, in short: POST commit, PUT storage."""
    words = ("create", "preupload", "batch", "commit", "storage", "whoami-v2", "tree", "discussions")
    return [
        f"{request.method} {word}" for request in hub.requests for word in words if f"/{word}" in request.path
    ]


def test_a_folder_is_uploaded(hub: FakeHub, api: HfApi, folder: Path) -> None:
    api.create_repo(REPO)
    commit = api.upload_folder(repo_id=REPO, folder_path=folder, commit_message="all of it")
    assert commit.oid == hub.head(REPO)
    assert commit.commit_url == f"{hub.url}/{REPO}/commit/{commit.oid}"
    assert hub.read(REPO, "unet/w.safetensors") == WEIGHTS
    assert hub.read(REPO, "model_index.json") == b"{}"
    stored = hub.files(REPO)["unet/w.safetensors"]
    assert (stored.size, stored.sha256) == (len(WEIGHTS), hashlib.sha256(WEIGHTS).hexdigest())
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{stored.sha256}\nsize {len(WEIGHTS)}\n"
    blob = b"blob %d\0" % len(pointer) + pointer.encode()
    assert stored.oid == hashlib.sha1(blob).hexdigest()
    upload = next(request for request in hub.requests if request.method == "PUT")
    assert (upload.host, upload.authorization, upload.received) == ("localhost", None, len(WEIGHTS))


def test_what_is_there_is_not_uploaded_again(hub: FakeHub, api: HfApi, folder: Path) -> None:
    api.create_repo(REPO)
    head = api.upload_folder(repo_id=REPO, folder_path=folder).oid
    assert api.upload_folder(repo_id=REPO, folder_path=folder).oid == head
    api.upload_file(path_or_fileobj=WEIGHTS, path_in_repo="copy.safetensors", repo_id=REPO)
    assert asked(hub).count("PUT storage") == 1
    assert hub.read(REPO, "copy.safetensors") == WEIGHTS


def test_large_files_come_in_parts(tmp_path: Path, folder: Path) -> None:
    with FakeHub(tmp_path / "store", multipart_chunk=30_000) as hub, hub.client(tmp_path / "home"):
        api = HfApi()
        api.create_repo(REPO)
        api.upload_folder(repo_id=REPO, folder_path=folder)
        assert [request.received for request in hub.requests if request.method == "PUT"] == [
            30_000,
            30_000,
            30_000,
            10_000,
        ]
        assert hub.read(REPO, "unet/w.safetensors") == WEIGHTS
        sha256 = hashlib.sha256(WEIGHTS).hexdigest()
        assert [path.name for path in (tmp_path / "store" / "lfs").iterdir()] == [sha256]


@pytest.mark.parametrize(
    ("path", "content", "large"),
    [
        ("w.safetensors", b"1", True),
        ("logs/events.out.tfevents.1", b"1", True),
        ("saved_model/x.txt", b"1", True),
        ("saved_model/a/b.txt", b"1", True),
        ("notes.txt", b"1", False),
        ("empty.safetensors", b"", False),
        ("zeros.dat", b"a\0b", True),
        ("picture.png", b"PNG", False),
        ("big file.txt", b"a" * (10 * 1024 * 1024 + 1), True),
    ],
)
def test_which_files_are_large(path: str, content: bytes, large: bool, hub: FakeHub, api: HfApi) -> None:
    api.create_repo(REPO)
    api.upload_file(path_or_fileobj=content, path_in_repo=path, repo_id=REPO)
    hub.put("tester/put", {path: content})
    for repo in (REPO, "tester/put"):
        assert (hub.files(repo)[path].sha256 is not None) == large
        assert hub.read(repo, path) == content
        # What the patterns do not cover gets a line of its own.
        own_line = f"{path} filter=lfs".replace("big file", "big[[:space:]]file").encode()
        assert (own_line in hub.read(repo, ".gitattributes")) == (path in ("zeros.dat", "big file.txt"))


def test_pictures_are_large_in_datasets(hub: FakeHub) -> None:
    hub.put("tester/set", {"a.png": b"PNG"}, repo_type="dataset")
    assert hub.files("tester/set", repo_type="dataset")["a.png"].sha256 is not None


def test_a_commit_adds_copies_and_deletes(hub: FakeHub, api: HfApi) -> None:
    hub.put(REPO, {"a.txt": b"a", "w.safetensors": b"w", "old/1": b"1", "old/2": b"2"})
    api.create_commit(
        REPO,
        operations=[
            CommitOperationAdd("b.txt", b"b"),
            CommitOperationCopy("w.safetensors", "v.safetensors"),
            CommitOperationCopy("a.txt", "c.txt"),
            CommitOperationDelete("a.txt"),
            CommitOperationDelete("old/"),
        ],
        commit_message="all kinds",
    )
    assert set(hub.files(REPO)) == {".gitattributes", "b.txt", "c.txt", "v.safetensors", "w.safetensors"}
    assert (hub.read(REPO, "c.txt"), hub.read(REPO, "v.safetensors")) == (b"a", b"w")


def test_a_dataset_and_a_branch(hub: FakeHub, api: HfApi) -> None:
    api.create_repo("tester/index", repo_type="dataset")
    api.create_branch("tester/index", branch="next", repo_type="dataset")
    api.upload_file(
        path_or_fileobj=WEIGHTS,
        path_in_repo="x.bin",
        repo_id="tester/index",
        repo_type="dataset",
        revision="next",
    )
    assert "x.bin" not in hub.files("tester/index", repo_type="dataset")
    assert hub.read("tester/index", "x.bin", "next", "dataset") == WEIGHTS
    assert hub.put("tester/index", {"y": b"1"}, repo_type="dataset", branch="third") == hub.head(
        "tester/index", "third", "dataset"
    )


def test_a_commit_on_what_is_no_branch_any_more(hub: FakeHub, api: HfApi) -> None:
    first = hub.put(REPO, {"x": b"1"})
    second = hub.put(REPO, {"x": b"2"})
    for revision in (first, "nowhere"):
        with pytest.raises(HfHubHTTPError) as refused:
            api.upload_file(path_or_fileobj=b"3", path_in_repo="x", repo_id=REPO, revision=revision)
        assert refused.value.response.headers["X-Error-Code"] == "RevisionNotFound"
    add = [CommitOperationAdd("x", b"3")]
    with pytest.raises(HfHubHTTPError, match="A commit has happened since") as refused:
        api.create_commit(REPO, operations=add, commit_message="late", parent_commit=first)
    assert refused.value.response.status_code == 412
    assert hub.head(REPO) == second
    api.create_commit(REPO, operations=add, commit_message="in time", parent_commit=second[:10])
    assert hub.read(REPO, "x") == b"3"


def commit_lines(hub: FakeHub, *lines: tuple[str, dict[str, Any]]) -> None:
    """Send the lines of a commit as they are."""
    body = "".join(json.dumps({"key": key, "value": value}) + "\n" for key, value in lines)
    answer = get_session().post(
        f"{hub.url}/api/models/{REPO}/commit/main",
        content=body.encode(),
        headers={"Authorization": f"Bearer {hub.token}"},
    )
    hf_raise_for_status(answer)


GOOD = ("file", {"path": "good.txt", "content": base64.b64encode(b"good").decode(), "encoding": "base64"})


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (("lfsFile", {"path": "w.bin", "algo": "sha256", "oid": "0" * 64, "size": 1}), "was not uploaded"),
        (("file", {"path": "x", "content": "%"}), "the content cannot be read"),
        (("rename", {"path": "x"}), "Unknown operation: rename"),
        (("deletedFile", {"path": "nowhere"}), "nowhere does not exist"),
    ],
)
def test_a_commit_is_made_whole_or_not_at_all(
    bad: tuple[str, dict[str, Any]], message: str, hub: FakeHub, api: HfApi
) -> None:
    head = hub.put(REPO, {"x": b"1"})
    header = ("header", {"summary": "title"})
    with pytest.raises(HfHubHTTPError, match=message) as refused:
        commit_lines(hub, header, GOOD, bad)
    assert refused.value.response.status_code in (400, 404)
    assert hub.head(REPO) == head
    assert "good.txt" not in hub.files(REPO)
    commit_lines(hub, header, GOOD)
    assert hub.read(REPO, "good.txt") == b"good"


def test_an_upload_with_another_hash_is_refused(hub: FakeHub, api: HfApi) -> None:
    hub.put(REPO, {})
    session, headers = get_session(), {"Authorization": f"Bearer {hub.token}"}
    wanted = {"oid": hashlib.sha256(b"right").hexdigest(), "size": 5}
    batch = session.post(
        f"{hub.url}/{REPO}.git/info/lfs/objects/batch",
        json={"operation": "upload", "transfers": ["basic"], "objects": [wanted]},
        headers=headers,
    ).json()
    actions = batch["objects"][0]["actions"]
    assert session.put(actions["upload"]["href"], content=b"wrong").status_code == 400
    assert session.post(actions["verify"]["href"], json=wanted, headers=headers).status_code == 404
    assert session.put(actions["upload"]["href"].partition("?")[0], content=b"right").status_code == 403
    assert session.put(actions["upload"]["href"], content=iter([b"ri", b"ght"])).status_code == 200
    assert hub.requests[-1].received == 5  # in chunks, without a length
    assert session.post(actions["verify"]["href"], json=wanted, headers=headers).status_code == 200
    with pytest.raises(BadRequestError, match="Invalid JSON"):
        hf_raise_for_status(session.post(actions["verify"]["href"], content=b"{", headers=headers))


def test_of_two_at_once_one_is_late(hub: FakeHub, api: HfApi) -> None:
    parent = hub.put(REPO, {"x": b"1"})
    together = threading.Barrier(8)

    def push(number: int) -> int:
        add = [CommitOperationAdd(f"{number}.txt", b"1")]
        together.wait()
        try:
            api.create_commit(REPO, operations=add, commit_message=f"{number}", parent_commit=parent)
        except HfHubHTTPError as error:
            return error.response.status_code
        return 200

    with ThreadPoolExecutor(8) as pool:
        results = sorted(pool.map(push, range(8)))
    assert results == [200] + [412] * 7
    assert len(hub.files(REPO)) == 3


def test_without_a_parent_all_at_once_are_kept(hub: FakeHub, api: HfApi) -> None:
    hub.put(REPO, {})

    def push(number: int) -> None:
        api.upload_file(path_or_fileobj=b"%d" % number, path_in_repo=f"{number}.txt", repo_id=REPO)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(push, range(16)))
    assert len(hub.files(REPO)) == 17
    assert len(api.list_repo_commits(REPO)) == 18
