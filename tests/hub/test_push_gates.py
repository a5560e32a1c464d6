"""What is not published, whose licence it is under, and what is remarked on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from pushing import (
    LICENSE,
    REPO,
    TEACHER,
    Pusher,
    Told,
    assert_refused,
    checkpoint_of,
    put_teacher,
    write_report,
)

from linzoo.checkpoints.lock import encode_json
from linzoo.errors import CheckpointError, PluginError, UsageError
from linzoo.registry import build_registry
from linzoo.testing.fake_hub import FakeHub


def test_what_validation_fails_is_not_published(hub: FakeHub, push: Pusher) -> None:
    report = json.loads((push.report / "report.json").read_text())
    fallen = {**report["measures"][0], "verdict": "failed", "culprits": ["down_blocks.0"]}
    report |= {"verdict": "failed", "measures": [fallen, *report["measures"][1:]]}
    (push.report / "report.json").write_text(json.dumps(report))
    assert_refused(
        push, hub, rf"(?s)fails 1 of \d+ measures.*{fallen['name']}: down_blocks.0.*linzoo validate"
    )


def test_a_report_of_another_checkpoint_does_not_count(hub: FakeHub, push: Pusher) -> None:
    report = json.loads((push.report / "report.json").read_text())
    report["lock"]["outputs"]["config.json"]["sha256"] = "0" * 64
    (push.report / "report.json").write_text(json.dumps(report))
    assert_refused(push, hub, "a report of another checkpoint")
    (push.report / "report.json").unlink()
    assert_refused(push, hub, "holds no report.json")


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
        assert_refused(push, hub, "is not published")
    for damaged in ({**report, "measures": None}, {**report, "measures": [{}]}, {"lock": report["lock"]}):
        (push.report / "report.json").write_text(json.dumps(damaged))
        assert_refused(push, hub, "no report of linzoo, or a damaged one")


def test_without_a_report_the_quick_suite_decides(
    hub: FakeHub, push: Pusher, quick_report: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def run(checkpoint: Any, teacher: str, lock: Any, **_: Any) -> dict[str, Any]:
        asked.append((checkpoint.path, teacher))
        return {**quick_report, "verdict": "failed"}

    monkeypatch.setattr("linzoo.hub.push.run_quick", run)
    assert_refused(push, hub, "is not published", report=None)
    assert asked == [(push.checkpoint, f"hf://{TEACHER}@{hub.head(TEACHER)}")]
    assert_refused(push, hub, "is not published", report=None, teacher="mini")
    assert asked[1][1] == "mini"


def test_a_licence_that_nothing_tells_is_not_assumed(hub: FakeHub, push: Pusher) -> None:
    put_teacher(hub, license=None)
    shutil.rmtree(push.checkpoint)
    checkpoint_of(push.checkpoint, hub.head(TEACHER))
    assert_refused(
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
    assert_refused(
        push, hub, "mini-3d: not the model that this checkpoint is for", teacher="mini-3d", format=format
    )


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
    assert_refused(
        push, hub, r"the teacher was a local file \(unet/config.json.*--teacher SOURCE", UsageError
    )
    assert_refused(push, hub, "the licence is unknown", teacher="mini")


def test_a_checkpoint_that_changed_or_that_linzoo_did_not_make(hub: FakeHub, push: Pusher) -> None:
    config = push.checkpoint / "config.json"
    text = config.read_text()
    config.write_text(text + " ")
    assert_refused(push, hub, "config.json changed since linzoo wrote it")
    config.write_text(text)
    (push.checkpoint / "linzoo.lock.json").unlink()
    assert_refused(push, hub, "has no lock file")


def test_a_plugin_can_stop_it(hub: FakeHub, push: Pusher, tmp_path: Path) -> None:
    plugin = tmp_path / "legal.py"
    plugin.write_text(
        "from linzoo.plugin import Veto, hookimpl\n"
        "@hookimpl\n"
        "def linzoo_before_push(plan):\n"
        "    raise Veto(f'{plan.repo} {plan.license} {plan.private} {len(plan.files)} {plan.variant.id}')\n"
    )
    push.registry = build_registry(entry_points=False, paths=(plugin,))
    assert_refused(
        push,
        hub,
        f"legal stops the push to '{REPO}': {REPO} {LICENSE} True 4 mini",
        PluginError,
        private=True,
    )


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


def test_folders_that_are_often_taken_for_a_checkpoint(hub: FakeHub, push: Pusher, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(push.checkpoint, run / "linfusion")
    checkpoint = push.checkpoint
    push.checkpoint = run
    assert_refused(push, hub, f"run: the folder of a distillation; its checkpoint is {run / 'linfusion'}")
    push.checkpoint = Path("mini")
    assert_refused(
        push, hub, "mini: a model and not a LinFusion checkpoint; 'linzoo convert mini OUT' makes one"
    )
    push.checkpoint, push.report = checkpoint, tmp_path
    assert_refused(push, hub, "holds no report.json; name the folder that 'linzoo validate --report' wrote")
