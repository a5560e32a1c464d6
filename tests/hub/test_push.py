"""``linzoo.push`` against a real HTTP server, with the Hub's own client."""

from __future__ import annotations

import json
import logging
import re
import shutil
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, ModelCard
from pushing import LICENSE, MESSAGE, REPO, TEACHER, Pusher, checkpoint_of, put_teacher, write_report

from linzoo.checkpoints.lock import encode_json
from linzoo.distillation.progress import Progress
from linzoo.errors import CheckpointError, LinzooError, PluginError, UsageError
from linzoo.hub.target import open_target
from linzoo.hub.upload import Upload
from linzoo.registry import build_registry
from linzoo.testing.fake_hub import FakeHub, Fault

ADAPTER = {
    "config.json",
    "diffusion_pytorch_model.safetensors",
    "linzoo.lock.json",
    "README.md",
    ".gitattributes",
}
OFFICIAL = "diffusion_pytorch_model"
WRITES = ("POST", "PUT", "DELETE")


def writes(hub: FakeHub, start: int = 0) -> list[str]:
    return [f"{each.method} {each.path}" for each in hub.requests[start:] if each.method in WRITES]


def commits(repo: str = REPO, revision: str | None = None) -> list[str]:
    return [each.title for each in HfApi().list_repo_commits(repo, revision=revision)]


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


def test_official_weights_for_another_unet_are_not_pushed_onto(hub: FakeHub, push: Pusher) -> None:
    config = json.loads((push.checkpoint / "config.json").read_text())
    for module in config["modules_list"]:
        module["module_name"] = f"xl.{module['module_name']}"
    before = hub.put(REPO, {"config.json": json.dumps(config).encode(), f"{OFFICIAL}.safetensors": b"xl"})
    with pytest.raises(CheckpointError, match=r"weights for another UNet: 10 modules, among them 'xl\."):
        push()
    assert hub.head(REPO) == before


def test_weights_of_the_official_code_are_replaced(hub: FakeHub, push: Pusher) -> None:
    config = (push.checkpoint / "config.json").read_bytes()
    old = f"{OFFICIAL}.fp16.safetensors"
    hub.put(REPO, {"config.json": config, old: b"old", "notes.txt": b"mine"})
    assert push().deleted == (old,)
    assert set(hub.files(REPO)) == {*ADAPTER, "notes.txt"}


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


def refuse(
    push: Pusher, hub: FakeHub, match: str, kind: type[Exception] = CheckpointError, **options: Any
) -> None:
    """Whatever is refused sends nothing."""
    start = len(hub.requests)
    with pytest.raises(kind, match=match):
        push(**options)
    assert writes(hub, start) == []
    assert hub.head(REPO) is None


def test_what_validation_fails_is_not_published(hub: FakeHub, push: Pusher) -> None:
    report = json.loads((push.report / "report.json").read_text())
    fallen = {**report["measures"][0], "verdict": "failed", "culprits": ["down_blocks.0"]}
    report |= {"verdict": "failed", "measures": [fallen, *report["measures"][1:]]}
    (push.report / "report.json").write_text(json.dumps(report))
    refuse(push, hub, rf"(?s)fails 1 of \d+ measures.*{fallen['name']}: down_blocks.0.*linzoo validate")


def test_a_report_of_another_checkpoint_does_not_count(hub: FakeHub, push: Pusher) -> None:
    report = json.loads((push.report / "report.json").read_text())
    report["lock"]["outputs"]["config.json"]["sha256"] = "0" * 64
    (push.report / "report.json").write_text(json.dumps(report))
    refuse(push, hub, "a report of another checkpoint")
    (push.report / "report.json").unlink()
    refuse(push, hub, "holds no report.json")


def test_a_bar_that_the_user_has_loosened_does_not_open_the_gate(
    hub: FakeHub, push: Pusher, quick_report: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = {**quick_report, "verdict": "failed"}
    monkeypatch.setattr("linzoo.hub.push.run_quick", lambda *_, **__: failed)
    report = json.loads((push.report / "report.json").read_text())
    loose = [
        {**each, "bar_from": "--bar"} if each["name"] == "row-sums" else each for each in report["measures"]
    ]
    for measures in (loose, [], report["measures"][1:]):
        (push.report / "report.json").write_text(json.dumps({**report, "measures": measures}))
        refuse(push, hub, "is not published")
    for damaged in ({**report, "measures": None}, {**report, "measures": [{}]}, {"lock": report["lock"]}):
        (push.report / "report.json").write_text(json.dumps(damaged))
        refuse(push, hub, "no report of linzoo, or a damaged one")


def test_without_a_report_the_quick_suite_decides(
    hub: FakeHub, push: Pusher, quick_report: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def run(checkpoint: Any, teacher: str, lock: Any, **_: Any) -> dict[str, Any]:
        asked.append((checkpoint.path, teacher))
        return {**quick_report, "verdict": "failed"}

    monkeypatch.setattr("linzoo.hub.push.run_quick", run)
    refuse(push, hub, "is not published", report=None)
    assert asked == [(push.checkpoint, f"hf://{TEACHER}@{hub.head(TEACHER)}")]
    refuse(push, hub, "is not published", report=None, teacher="mini")
    assert asked[1][1] == "mini"


def test_a_licence_that_nothing_tells_is_not_assumed(hub: FakeHub, push: Pusher) -> None:
    put_teacher(hub, license=None)
    shutil.rmtree(push.checkpoint)
    checkpoint_of(push.checkpoint, hub.head(TEACHER))
    refuse(
        push,
        hub,
        rf"(?s)the licence is unknown.*the card of {TEACHER} at commit {str(hub.head(TEACHER))[:7]}",
    )
    assert push(license="cc-by-sa-4.0").license.id == "cc-by-sa-4.0"


def test_the_licence_is_that_of_the_commit_and_not_of_today(hub: FakeHub, push: Pusher) -> None:
    put_teacher(hub, license="mit")
    assert push().license.id == LICENSE


def test_a_conflicting_licence_on_the_card_that_is_there(hub: FakeHub, push: Pusher) -> None:
    before = hub.put(REPO, {"README.md": b"---\nlicense: mit\n---\n"})
    with pytest.raises(
        CheckpointError, match=rf"its README\.md says that it is under mit, and this .* {LICENSE}"
    ):
        push()
    assert hub.head(REPO) == before


def test_a_licence_that_was_named_stays_named_and_can_be_corrected_on_the_hub(
    hub: FakeHub, push: Pusher, quick_report: dict[str, Any], tmp_path: Path
) -> None:
    push = local_pusher(push, quick_report, tmp_path)
    first = push(teacher="mini", license="mit")
    again = push(teacher="mini", license="mit")
    assert again.sent is not None
    assert first.sent is not None
    assert (again.sent.new, again.sent.commit) == (False, first.sent.commit)
    assert "declared by who published this" in hub.read(REPO, "README.md").decode()
    with pytest.raises(
        CheckpointError, match=r"under mit, and this would be under cc-by-4\.0 .*change it there first"
    ):
        push(teacher="mini", license="cc-by-4.0")
    hub.put(REPO, {"README.md": hub.read(REPO, "README.md").replace(b"license: mit", b"license: cc-by-4.0")})
    assert push(teacher="mini", license="cc-by-4.0").license.id == "cc-by-4.0"


def local_pusher(push: Pusher, report: dict[str, Any], folder: Path) -> Pusher:
    """Pushes of a checkpoint whose teacher was a local file."""
    checkpoint = checkpoint_of(folder / "local", None)
    return Pusher(checkpoint, write_report(folder / "local-report", checkpoint, report), push.registry)


def test_the_licence_of_the_model_that_stands_in_for_the_teacher_counts(
    hub: FakeHub, push: Pusher, quick_report: dict[str, Any], tmp_path: Path
) -> None:
    push = local_pusher(push, quick_report, tmp_path)
    put_teacher(hub, repo="artist/closed", license="cc-by-nc-4.0")
    with pytest.raises(CheckpointError, match=r"(?s)--license mit is not .*--teacher names: cc-by-nc-4\.0"):
        push(teacher="hf://artist/closed", license="mit")
    assert push(teacher="hf://artist/closed", license="cc-by-nc-4.0").license.id == "cc-by-nc-4.0"


@pytest.mark.parametrize("format", ["adapter", "pipeline"])
def test_another_model_does_not_stand_in_for_the_teacher(hub: FakeHub, push: Pusher, format: str) -> None:
    refuse(push, hub, "mini-3d: not the model that this checkpoint is for", teacher="mini-3d", format=format)


def test_a_licence_file_that_the_teacher_s_card_links_to(hub: FakeHub, push: Pusher) -> None:
    card = b"---\nlicense: other\nlicense_name: art\nlicense_link: COPYING.md\n---\n"
    commit = hub.put(TEACHER, {"README.md": card, "COPYING.md": b"The terms.\n"})
    shutil.rmtree(push.checkpoint)
    checkpoint_of(push.checkpoint, commit)
    settled = push().license
    assert (settled.name, settled.link) == ("art", f"{hub.url}/{TEACHER}/blob/{commit}/COPYING.md")
    assert hub.read(REPO, "COPYING.md") == b"The terms.\n"


def test_the_teacher_s_licence_text_goes_along(hub: FakeHub, push: Pusher) -> None:
    hub.put(TEACHER, {"LICENSE.md": b"The terms.\n"})
    shutil.rmtree(push.checkpoint)
    checkpoint_of(push.checkpoint, hub.head(TEACHER))
    push()
    assert hub.read(REPO, "LICENSE.md") == b"The terms.\n"
    lock = json.loads(hub.read(REPO, "linzoo.lock.json"))
    assert lock["outputs"]["LICENSE.md"]["bytes"] == 11
    hub.put("tester/other", {"LICENSE.md": b"My own terms.\n"})
    push("tester/other")
    assert hub.read("tester/other", "LICENSE.md") == b"My own terms.\n", "what somebody else put there stays"


def test_a_base_model_goes_with_the_push_that_named_it(hub: FakeHub, push: Pusher) -> None:
    push()
    path = push.checkpoint / "linzoo.lock.json"
    lock = json.loads(path.read_text())
    for name in ("repo", "commit"):  # made from mini instead, which ships with linzoo
        del lock["source"][name]
    path.write_bytes(encode_json(lock))
    push.renew("from mini")
    card = hub.read(REPO, "README.md").decode().replace(f"license: {LICENSE}", "license: apache-2.0")
    hub.put(REPO, {"README.md": card.encode()})
    push()
    made = ModelCard(hub.read(REPO, "README.md").decode())
    assert made.data.base_model is None
    assert "mini, which ships with linzoo" in made.text


def test_a_local_teacher_is_asked_for(hub: FakeHub, push: Pusher) -> None:
    shutil.rmtree(push.checkpoint)
    checkpoint_of(push.checkpoint, None)
    refuse(push, hub, r"the teacher was a local file \(unet/config.json.*--teacher SOURCE", UsageError)
    refuse(push, hub, "the licence is unknown", teacher="mini")


def test_a_checkpoint_that_changed_or_that_linzoo_did_not_make(hub: FakeHub, push: Pusher) -> None:
    config = push.checkpoint / "config.json"
    text = config.read_text()
    config.write_text(text + " ")
    refuse(push, hub, "config.json changed since linzoo wrote it")
    config.write_text(text)
    (push.checkpoint / "linzoo.lock.json").unlink()
    refuse(push, hub, "has no lock file")


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


def test_a_checkpoint_on_the_hub_is_pushed_on(hub: FakeHub, push: Pusher) -> None:
    push("hf://tester/first")
    push.checkpoint = "hf://tester/first"  # type: ignore[assignment]
    push("tester/second")
    push.checkpoint = "tester/first"  # type: ignore[assignment]
    push("tester/third")
    for repo in ("tester/second", "tester/third"):
        assert set(hub.files(repo)) == ADAPTER


def test_who_may_not_write(hub: FakeHub, push: Pusher, tmp_path: Path) -> None:
    with hub.client(tmp_path / "reader", token=hub.read_token):
        refuse(push, hub, "your token may only read")
        refuse(push, hub, "your token may only read", pr=True)
    with hub.client(tmp_path / "nobody", token=None):
        refuse(push, hub, "the Hub wants a login")
    with hub.client(tmp_path / "wrong", token="hf_wrong"):
        refuse(push, hub, "the Hub refuses the token in HF_TOKEN, which goes before")
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
    refuse(push, hub, "nothing can be pushed offline; unset HF_HUB_OFFLINE")


def test_options_that_do_not_go_together(hub: FakeHub, push: Pusher) -> None:
    refuse(push, hub, "leave out --revision", UsageError, pr=True, revision="main")
    refuse(push, hub, "no format 'zip'", UsageError, format="zip")
    refuse(push, hub, "leave out --pr to make it", pr=True)
    refuse(push, hub, "holds nothing", UsageError, max_shard_bytes=0)


def test_a_plugin_can_stop_it(hub: FakeHub, push: Pusher, tmp_path: Path) -> None:
    plugin = tmp_path / "legal.py"
    plugin.write_text(
        "from linzoo.plugin import Veto, hookimpl\n"
        "@hookimpl\n"
        "def linzoo_before_push(plan):\n"
        "    raise Veto(f'{plan.repo} {plan.license} {plan.private} {len(plan.files)} {plan.variant.id}')\n"
    )
    push.registry = build_registry(entry_points=False, paths=(plugin,))
    refuse(
        push,
        hub,
        f"legal stops the push to '{REPO}': {REPO} {LICENSE} True 4 mini",
        PluginError,
        private=True,
    )


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


class Told(Progress):
    """Progress that is kept."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def test_what_was_never_distilled_says_so(hub: FakeHub, push: Pusher) -> None:
    lock = json.loads((push.checkpoint / "linzoo.lock.json").read_text())
    del lock["distill"]
    (push.checkpoint / "linzoo.lock.json").write_bytes(encode_json(lock))
    told = Told()
    push(progress=told)
    assert told.lines == [
        f"note: {push.checkpoint} was never distilled, and draws worse than its teacher; the card says so"
    ]
    assert "**It was never distilled**" in hub.read(REPO, "README.md").decode()


def test_weights_for_another_model_are_replaced_with_a_remark(hub: FakeHub, push: Pusher) -> None:
    push()
    lock = json.loads((push.checkpoint / "linzoo.lock.json").read_text())
    lock["source"]["base_hash"] = "0" * 16
    hub.put(REPO, {"linzoo.lock.json": encode_json(lock)})
    told = Told()
    push(progress=told, dry_run=True)
    assert told.lines == [
        f"note: hf://{REPO} holds weights for hf://{TEACHER}@{hub.head(TEACHER)} (base hash {'0' * 16}); those of this push"
        f" are for hf://{TEACHER}@{hub.head(TEACHER)} (base hash cff95565d8ee50dc)"
    ]


def test_what_was_distilled_says_nothing_and_bars_of_one_s_own_are_counted(
    hub: FakeHub, push: Pusher
) -> None:
    report = json.loads((push.report / "report.json").read_text())
    mine = {**report["measures"][0], "name": "kd", "bar_from": "--bar"}
    (push.report / "report.json").write_text(json.dumps({**report, "measures": [*report["measures"], mine]}))
    told = Told()
    push(progress=told)
    card = hub.read(REPO, "README.md").decode()
    assert told.lines == []
    assert "never distilled" not in card
    assert "Of its bars 1 were set by who validated it" in card


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


def test_folders_that_are_often_taken_for_a_checkpoint(hub: FakeHub, push: Pusher, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(push.checkpoint, run / "linfusion")
    checkpoint = push.checkpoint
    push.checkpoint = run
    refuse(push, hub, f"run: the folder of a distillation; its checkpoint is {run / 'linfusion'}")
    push.checkpoint = Path("mini")
    refuse(push, hub, "mini: a model and not a LinFusion checkpoint; 'linzoo convert mini OUT' makes one")
    push.checkpoint, push.report = checkpoint, tmp_path
    refuse(push, hub, "holds no report.json; name the folder that 'linzoo validate --report' wrote")


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
