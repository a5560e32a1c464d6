"""Which repository and branch a push goes to, what may lie there, and who may write to it."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
from huggingface_hub import HfApi
from pushing import (
    ADAPTER,
    MESSAGE,
    REPO,
    WEIGHTS,
    Pusher,
    assert_refused,
    commits,
    writes,
)

from linzoo.checkpoints.lock import encode_json
from linzoo.errors import CheckpointError, UsageError
from linzoo.hub.target import open_target
from linzoo.testing.fake_hub import FakeHub


def test_onto_a_branch_and_onto_an_open_pull_request(hub: FakeHub, push: Pusher) -> None:
    before = hub.put(REPO, {"notes.txt": b"mine"})
    push(revision="fp32")
    assert hub.head(REPO) == before
    assert commits(revision="fp32") == [MESSAGE, "seed", "initial commit"]
    request = HfApi().create_pull_request(REPO, title="Weights")
    push(revision=f"refs/pr/{request.num}")
    assert set(hub.files(REPO, f"refs/pr/{request.num}")) == {*ADAPTER, "notes.txt"}
    with pytest.raises(CheckpointError, match="no such branch"):
        push(revision="refs/pr/99")


def test_a_new_branch_for_what_is_there_already(hub: FakeHub, push: Pusher) -> None:
    first = push()
    planned = push(revision="copy", dry_run=True)
    assert [each.path.partition(REPO)[2] for each in planned.requests] == [
        "/branch/copy", "", "/preupload/copy", ".git/info/lfs/objects/batch", "/revision/copy", "/resolve/<commit>/…",
    ]  # fmt: skip
    sent = push(revision="copy").sent
    assert sent is not None
    assert first.sent is not None
    assert (sent.new, sent.commit) == (False, first.sent.commit)
    assert hub.head(REPO, "copy") == first.sent.commit


def test_revisions_that_are_no_branches(hub: FakeHub, push: Pusher) -> None:
    commit = hub.put(REPO, {"notes.txt": b"mine"})
    HfApi().create_tag(REPO, tag="v1")
    for revision, says in (("v1", "v1 is a tag"), (commit, "is a commit"), ("refs/pr/99", "no such branch")):
        with pytest.raises(CheckpointError, match=says):
            push(revision=revision)
    for revision in ("a b", "-", ""):
        with pytest.raises(UsageError, match="is no name of a branch") if revision != "-" else nullcontext():
            push(revision=revision)


def test_private_and_message(hub: FakeHub, push: Pusher) -> None:
    push(private=True, message="First weights")
    assert HfApi().model_info(REPO).private
    assert commits()[0] == "First weights"
    hub.put("tester/public", {"notes.txt": b"mine"})
    with pytest.raises(CheckpointError, match="hf://tester/public: public, and a push does not change that"):
        push("tester/public", private=True)


def test_the_user_s_own_namespace_needs_no_name(hub: FakeHub, push: Pusher) -> None:
    assert push("short").repo == "tester/short"


def test_official_weights_for_another_unet_are_not_pushed_onto(hub: FakeHub, push: Pusher) -> None:
    config = json.loads((push.checkpoint / "config.json").read_text())
    for module in config["modules_list"]:
        module["module_name"] = f"xl.{module['module_name']}"
    before = hub.put(REPO, {"config.json": json.dumps(config).encode(), WEIGHTS: b"xl"})
    with pytest.raises(CheckpointError, match=r"weights for another UNet: 10 modules, among them 'xl\."):
        push()
    assert hub.head(REPO) == before


OTHERS: dict[str, tuple[dict[str, bytes], str]] = {
    "a pipeline": (
        {"model_index.json": b'{"_class_name": "StableDiffusionPipeline"}'},
        "StableDiffusionPipeline",
    ),
    "a UNet": ({"config.json": b'{"_class_name": "UNet2DConditionModel"}'}, "UNet2DConditionModel"),
    "a language model": ({"config.json": b'{"model_type": "llama"}'}, "llama"),
    "a single file": ({"dreamshaper.safetensors": b"x"}, r"dreamshaper\.safetensors"),
}


@pytest.mark.parametrize("holds", list(OTHERS))
def test_another_kind_of_model_is_not_pushed_onto(hub: FakeHub, push: Pusher, holds: str) -> None:
    files, named = OTHERS[holds]
    hub.put(REPO, files)
    start = len(hub.requests)
    with pytest.raises(CheckpointError, match=f"holds another kind of model .*{named}"):
        push()
    assert writes(hub, start) == []


def test_another_variant_and_another_format_are_not_pushed_onto(hub: FakeHub, push: Pusher) -> None:
    push()
    lock = json.loads(hub.read(REPO, "linzoo.lock.json"))
    with pytest.raises(CheckpointError, match="holds linzoo's format 'adapter', and this is 'pipeline'"):
        push(format="pipeline")
    lock["detection"]["variant"] = "sd15"
    hub.put(REPO, {"linzoo.lock.json": encode_json(lock)})
    with pytest.raises(CheckpointError, match="for variant 'sd15', and this one is for 'mini'"):
        push()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("README.md", b"\xff\xfe"),
        ("linzoo.lock.json", b"{"),
        ("config.json", b"[]"),
        ("model_index.json", b""),
    ],
)
def test_a_damaged_file_of_the_repository_is_named(
    hub: FakeHub, push: Pusher, name: str, content: bytes
) -> None:
    hub.put(REPO, {name: content})
    with pytest.raises(CheckpointError, match=f"{REPO}: its {name} is damaged; mend or delete it on the Hub"):
        push()


def test_who_may_not_write(hub: FakeHub, push: Pusher, tmp_path: Path) -> None:
    with hub.client(tmp_path / "reader", token=hub.read_token):
        assert_refused(push, hub, "your token may only read")
        assert_refused(push, hub, "your token may only read", pr=True)
    with hub.client(tmp_path / "nobody", token=None):
        assert_refused(push, hub, "the Hub wants a login")
    with hub.client(tmp_path / "wrong", token="hf_wrong"):
        assert_refused(push, hub, "the Hub refuses the token in HF_TOKEN, which goes before")
    hub.put("somebody/else", {"notes.txt": b"theirs"})
    with pytest.raises(CheckpointError, match="somebody/nothing: there is no such repository, and you"):
        push("somebody/nothing")
    before = hub.put(REPO, {"notes.txt": b"mine"})
    with (
        hub.client(tmp_path / "reader", token=hub.read_token),
        pytest.raises(CheckpointError, match="your token may only read"),
    ):
        push()
    assert hub.head(REPO) == before


def test_a_pull_request_needs_no_right_to_write(hub: FakeHub, push: Pusher) -> None:
    before = hub.put("somebody/model", {"notes.txt": b"theirs"})
    with pytest.raises(CheckpointError, match="may not"):
        push("somebody/model")
    push("somebody/model", pr=True)
    (opened,) = hub.pull_requests("somebody/model")
    assert set(hub.files("somebody/model", opened.revision)) == {*ADAPTER, "notes.txt"}
    push("somebody/model", revision=opened.revision, max_shard_bytes=300_000)
    assert len(hub.files("somebody/model", opened.revision)) == len(ADAPTER) + 4
    assert hub.head("somebody/model") == before


def test_offline(hub: FakeHub, push: Pusher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert_refused(push, hub, "nothing can be pushed offline; unset HF_HUB_OFFLINE")


def test_options_that_do_not_go_together(hub: FakeHub, push: Pusher) -> None:
    assert_refused(push, hub, "leave out --revision", UsageError, pr=True, revision="main")
    assert_refused(push, hub, "no format 'zip'", UsageError, format="zip")
    assert_refused(push, hub, "leave out --pr to make it", pr=True)
    assert_refused(push, hub, "holds nothing", UsageError, max_shard_bytes=0)


@pytest.mark.parametrize(
    ("repo", "name"),
    [
        ("model", "tester/model"),
        ("somebody/model", "somebody/model"),
        ("hf://somebody/model", "somebody/model"),
        ("https://huggingface.co/somebody/model", "somebody/model"),
    ],
)
def test_the_ways_to_write_a_repository(hub: FakeHub, repo: str, name: str) -> None:
    hub.put(name, {"notes.txt": b"theirs"})
    assert open_target(repo, None, pull_request=True).repo == name


@pytest.mark.parametrize(
    ("repo", "message"),
    [
        ("", "no id of a repository"),
        ("a b", "no id of a repository"),
        ("hf://model", "no id of a repository"),
        ("a/b/c", "no id of a repository"),
        ("a/b--c", "no id of a repository"),
        ("https://huggingface.co/datasets/a/b", "no id of a repository"),
        ("model@v1", "a branch of it with --revision"),
        ("hf://a/b@v1", "a branch of it with --revision"),
        ("a/b/c.safetensors", "a branch of it with --revision"),
    ],
)
def test_what_is_no_repository_is_not_asked_for(hub: FakeHub, repo: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_target(repo, None, pull_request=False)
    assert hub.requests == []


def test_somebody_else_s_repository_wants_a_pull_request(hub: FakeHub, push: Pusher) -> None:
    hub.put("somebody/model", {"notes.txt": b"theirs"})
    with pytest.raises(CheckpointError, match=r"somebody/model: you \(tester\) may not write there; .*--pr"):
        push("somebody/model")
