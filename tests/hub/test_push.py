"""``linzoo.push`` against a real HTTP server, with the Hub's own client."""

from __future__ import annotations

import json
import logging
import re
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from pushing import (
    ADAPTER,
    LICENSE,
    MESSAGE,
    REPO,
    TEACHER,
    WRITES,
    Pusher,
    Told,
    commits,
    writes,
)

from linzoo.errors import CheckpointError, LinzooError
from linzoo.hub.upload import Upload
from linzoo.testing.fake_hub import FakeHub, Fault


def test_a_push_is_one_commit_with_everything_in_it(hub: FakeHub, push: Pusher) -> None:
    result = push()
    assert result.sent is not None
    assert (result.sent.new, result.sent.commit) == (True, hub.head(REPO))
    assert result.sent.url == f"{hub.url}/{REPO}/commit/{hub.head(REPO)}"
    assert commits() == [MESSAGE, "initial commit"]
    assert set(hub.files(REPO)) == ADAPTER
    for name in ("config.json", "diffusion_pytorch_model.safetensors"):
        assert hub.read(REPO, name) == (push.checkpoint / name).read_bytes()
    lock = json.loads(hub.read(REPO, "linzoo.lock.json"))
    before = json.loads((push.checkpoint / "linzoo.lock.json").read_text())
    assert lock == before
    card = ModelCard(hub.read(REPO, "README.md").decode()).data
    assert (card.license, card.base_model, card.library_name) == (LICENSE, TEACHER, "diffusers")


def test_the_same_push_again_sends_nothing(hub: FakeHub, push: Pusher) -> None:
    first = push()
    start = len(hub.requests)
    again = push()
    assert writes(hub, start) == []
    assert again.sent is not None
    assert first.sent is not None
    assert (again.sent.new, again.sent.commit, again.sent.url) == (False, first.sent.commit, first.sent.url)
    assert [each.what for each in again.requests] == ["load it in a fresh process"]


def test_a_pull_request_leaves_the_main_branch_alone_and_is_opened_once(hub: FakeHub, push: Pusher) -> None:
    before = hub.put(REPO, {"notes.txt": b"mine"})
    first = push(pr=True, message="Linear weights")
    assert hub.head(REPO) == before
    (opened,) = hub.pull_requests(REPO)
    assert (opened.title, opened.status) == ("Linear weights", "open")
    assert set(hub.files(REPO, opened.revision)) == {*ADAPTER, "notes.txt"}
    assert first.sent is not None
    assert first.sent.pull_request == f"{hub.url}/{REPO}/discussions/{opened.num}"

    again = push(pr=True, message="Linear weights")
    assert len(hub.pull_requests(REPO)) == 1
    assert again.sent is not None
    assert (again.sent.new, again.sent.pull_request) == (False, first.sent.pull_request)
    push(pr=True, message="Another title")
    assert len(hub.pull_requests(REPO)) == 2


def test_what_the_repository_holds_besides_stays(hub: FakeHub, push: Pusher) -> None:
    readme = "---\nlicense: cc-by-4.0\nthumbnail: a.png\n---\n# Mine\n\nText of my own.\n"
    hub.put(REPO, {"README.md": readme.encode(), "a.png": b"\x89PNG\0", "report/mine.txt": b"x"})
    push()
    assert {"a.png", "report/mine.txt"} < set(hub.files(REPO))
    card = hub.read(REPO, "README.md").decode()
    assert "# Mine\n\nText of my own.\n" in card
    assert ModelCard(card).data.thumbnail == "a.png"


def test_stale_shards_are_removed_in_the_same_commit(hub: FakeHub, push: Pusher) -> None:
    push(max_shard_bytes=300_000)
    shards = {name for name in hub.files(REPO) if "-of-" in name or name.endswith(".index.json")}
    assert len(shards) == 4
    hub.put(REPO, {"notes.txt": b"mine"})
    result = push()
    assert set(result.deleted) == shards
    assert set(hub.files(REPO)) == {*ADAPTER, "notes.txt"}
    assert commits() == [MESSAGE, "seed", MESSAGE, "initial commit"]


def test_weights_of_the_official_code_are_replaced(hub: FakeHub, push: Pusher) -> None:
    config = (push.checkpoint / "config.json").read_bytes()
    old = "diffusion_pytorch_model.fp16.safetensors"
    hub.put(REPO, {"config.json": config, old: b"old", "notes.txt": b"mine"})
    assert push().deleted == (old,)
    assert set(hub.files(REPO)) == {*ADAPTER, "notes.txt"}


def test_a_checkpoint_on_the_hub_is_pushed_on(hub: FakeHub, push: Pusher) -> None:
    push("hf://tester/first")
    push.checkpoint = "hf://tester/first"  # type: ignore[assignment]
    push("tester/second")
    push.checkpoint = "tester/first"  # type: ignore[assignment]
    push("tester/third")
    for repo in ("tester/second", "tester/third"):
        assert set(hub.files(repo)) == ADAPTER


def test_a_commit_in_the_meantime_is_noticed(
    hub: FakeHub, push: Pusher, monkeypatch: pytest.MonkeyPatch
) -> None:
    push()
    send: Callable[[Upload], Any] = Upload.send

    def late(upload: Upload) -> Any:
        hub.put(REPO, {"notes.txt": b"faster"})
        return send(upload)

    monkeypatch.setattr(Upload, "send", late)
    with pytest.raises(CheckpointError, match="somebody else has committed to it in the meantime"):
        push(max_shard_bytes=300_000)
    assert set(hub.files(REPO)) == {*ADAPTER, "notes.txt"}
    monkeypatch.undo()


def test_what_arrived_before_an_interruption_is_not_sent_again(hub: FakeHub, push: Pusher) -> None:
    hub.inject(Fault("status", status=500, method="POST", path=r"/commit/main$"))
    with pytest.raises(CheckpointError, match="run the same command again"):
        push()
    assert sum(each.method == "PUT" for each in hub.requests) == 1
    push()
    assert sum(each.method == "PUT" for each in hub.requests) == 1
    assert set(hub.files(REPO)) == ADAPTER


def place(path: str) -> str:
    """A path as a plan names it, which cannot know what the Hub answers."""
    known = path.startswith("/api/") or path.endswith(".git/info/lfs/objects/batch")
    return path if known else "<storage>"


PUSHES: dict[str, dict[str, Any]] = {
    "first": {},
    "second": {"max_shard_bytes": 300_000},
    "card alone": {},
    "same": {},
    "pull request": {"pr": True},
    "branch": {"revision": "fp16"},
}


@pytest.mark.parametrize("kind", list(PUSHES))
def test_a_dry_run_says_exactly_what_a_push_then_asks(hub: FakeHub, push: Pusher, kind: str) -> None:
    """Method, path and bytes of every request; what is read before is the same in both."""
    if kind != "first":
        push()
    if kind in ("pull request", "branch"):
        push.renew(kind)
    if kind == "card alone":
        hub.put(REPO, {"README.md": b"# Mine\n"})
    before = hub.head(REPO)
    start = len(hub.requests)
    planned = push(dry_run=True, **PUSHES[kind])
    assert planned.sent is None
    assert hub.head(REPO) == before
    looked = [(each.method, each.path) for each in hub.requests[start:]]
    assert not [each for each in looked if each[0] in WRITES]

    start = len(hub.requests)
    push(**PUSHES[kind])
    made = [each for each in hub.requests[start:] if (each.method, each.path) not in looked]
    *sending, loading = planned.requests
    assert sorted((each.method, place(each.path)) for each in made) == sorted(
        (each.method, each.path) for each in sending
    )
    assert loading.path == f"/{REPO}/resolve/<commit>/…"
    assert loading.bytes > 800_000
    assert sorted(each.received for each in made if each.method == "PUT") == sorted(
        each.bytes for each in planned.requests if each.method == "PUT"
    )
    assert len(sending) == {"first": 7, "card alone": 4, "same": 0}.get(kind, len(sending))


def test_a_dry_run_asks_whether_the_token_may_write(hub: FakeHub, push: Pusher) -> None:
    hub.put(REPO, {"notes.txt": b"mine"})
    push(dry_run=True)
    assert f"/api/models/{REPO}/auth-check/write" in [each.path for each in hub.requests]


def test_a_hub_without_xet_is_told_from_other_trouble(
    hub: FakeHub, push: Pusher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", False)
    with pytest.raises(LinzooError, match="set HF_HUB_DISABLE_XET=1"):
        push()


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (403, r"the storage behind the Hub refuses \(403\)"),
        (503, r"Error while uploading '.*safetensors' .*503.*\n  .*trouble of its own"),
    ],
)
def test_trouble_of_the_storage_has_a_cause_and_advice(
    hub: FakeHub, push: Pusher, status: int, says: str
) -> None:
    hub.inject(Fault("status", status=status, path="/storage/", times=99))
    with pytest.raises(CheckpointError, match=says) as caught:
        push()
    assert "X-Signature" not in str(caught.value)


def test_the_token_is_nowhere(
    hub: FakeHub,
    push: Pusher,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither in what is published, nor in what is said and logged, however much, nor in what an error drags along."""
    monkeypatch.setattr(logging.getLogger("huggingface_hub"), "propagate", True)
    said = []
    with caplog.at_level(logging.DEBUG):
        push()
        push(dry_run=True)
        for fault in (Fault("status", status=403), Fault("drop-before", times=9), Fault("cut-body", times=9)):
            push.renew(fault.kind)
            hub.inject(fault)
            with pytest.raises(CheckpointError) as caught:
                push()
            hub.clear_faults()
            said += traceback.format_exception(caught.value)
    assert len(caplog.text) > 10_000, "the client's own log was looked at"
    published = [hub.read(REPO, name) for name in hub.files(REPO)]
    kept = [
        path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and "home/token" not in str(path)
    ]
    texts = ["".join(said), caplog.text, *capfd.readouterr()]
    assert hub.requests[-1].authorization == hub.token, "it was sent"
    assert not any(hub.token in text for text in texts)
    assert not any(hub.token.encode() in content for content in published + kept)


@pytest.mark.parametrize(
    ("where", "says", "committed"),
    [
        ("linzoo.hub.upload.Upload.send", "nothing is committed yet; the same command goes on", False),
        ("linzoo.hub.push.check_loads", "/commit/.* is published; the same command checks again", True),
    ],
)
def test_an_interruption_says_how_things_stand(
    hub: FakeHub, push: Pusher, monkeypatch: pytest.MonkeyPatch, where: str, says: str, committed: bool
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(where, interrupt)
    told = Told()
    with pytest.raises(KeyboardInterrupt):
        push(progress=told)
    assert re.search(f"^interrupted: .*{says}", told.lines[-1])
    assert (hub.head(REPO) is not None) == committed
