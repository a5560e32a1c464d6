"""``linzoo.verify``: every hash of a lock file is checked again, here and on the Hub, and every lie is found."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from pushing import Pusher, put_teacher
from safetensors.numpy import load_file, save_file

import linzoo
from linzoo.checkpoints.address import HubAddress
from linzoo.checkpoints.digest import digest
from linzoo.checkpoints.lock import LOCK_NAME
from linzoo.checkpoints.source import open_source
from linzoo.errors import CheckpointError
from linzoo.hub.verification import Verification
from linzoo.hub.verify import verify
from linzoo.registry import Registry
from linzoo.testing.fake_hub import FakeHub, Fault
from linzoo.zoo.published import read_published

WEIGHTS = "diffusion_pytorch_model.safetensors"
TEACHER_WEIGHTS = f"source: unet/{WEIGHTS}"
REPO = "tester/mini-linfusion"


def recorded(path: Path) -> dict[str, Any]:
    """What a lock file records of a file."""
    return asdict(digest(path))


def verdicts(found: Verification) -> dict[str, str]:
    return {each.subject: each.verdict for each in found.findings}


def wrong(found: Verification) -> dict[str, str]:
    return {each.subject: each.verdict for each in found.wrong}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A copy of the distilled checkpoint that ships with linzoo."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(open_source("mini-linfusion").path, folder)
    return folder


def edit_lock(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    lock = json.loads((folder / LOCK_NAME).read_text())
    change(lock)
    (folder / LOCK_NAME).write_text(json.dumps(lock))


def put(hub: FakeHub, folder: Path) -> str:
    return hub.put(
        REPO, {each.relative_to(folder).as_posix(): each for each in folder.rglob("*") if each.is_file()}
    )


class TestAFolder:
    def test_what_ships_is_as_its_lock_file_says(self, registry: Registry) -> None:
        found = verify("mini-linfusion", registry=registry)
        assert verdicts(found) == {
            "config.json": "same",
            WEIGHTS: "same",
            "plan mini-full": "same",
            "init recipe teacher": "same",
            "distill recipe mini": "same",
            "source: unet/config.json": "same",
            TEACHER_WEIGHTS: "same",
            "source: base hash": "same",
            "checkpoint before the distillation": "unchecked",
            "data of the distillation": "unchecked",
        }
        assert not found.wrong

    def test_the_document(self, checkpoint: Path, registry: Registry) -> None:
        (checkpoint / WEIGHTS).unlink()
        document = verify(checkpoint, registry=registry).to_json()
        assert {key: value for key, value in document.items() if key != "findings"} == {
            "schema": 1,
            "checkpoint": str(checkpoint),
            "verdict": "differs",
            "counts": {"same": 7, "differs": 0, "missing": 1, "extra": 0, "unchecked": 2},
        }
        assert document["findings"][1] == {
            "subject": WEIGHTS,
            "verdict": "missing",
            "detail": "recorded, and not there",
        }

    @pytest.mark.parametrize("at", [0, 8, 500_000, -1])
    def test_one_bit_of_the_weights(self, checkpoint: Path, registry: Registry, at: int) -> None:
        data = bytearray((checkpoint / WEIGHTS).read_bytes())
        data[at] ^= 1
        (checkpoint / WEIGHTS).write_bytes(data)
        found = verify(checkpoint, registry=registry)
        assert wrong(found) == {WEIGHTS: "differs"}
        assert "recorded as c5f966abe85f…" in found.wrong[0].detail

    def test_weights_and_pictures_that_were_added(self, checkpoint: Path, registry: Registry) -> None:
        for name in ("report/model.bin", "more.safetensors", "README.md", "picture.png"):
            (checkpoint / name).parent.mkdir(exist_ok=True)
            (checkpoint / name).write_bytes(b"x")
        assert wrong(verify(checkpoint, registry=registry)) == {
            "more.safetensors": "extra",
            "report/model.bin": "extra",
        }

    @pytest.mark.parametrize(
        ("change", "found"),
        [
            (lambda lock: lock["plan"]["document"].update(variant="sd15"), {"plan mini-full": "differs"}),
            (lambda lock: lock["init"]["document"].update(id="x"), {"init recipe teacher": "differs"}),
            (lambda lock: lock["distill"]["recipe"]["document"].update(seed=1), {"distill recipe mini": "differs"}),
            (lambda lock: lock["source"].update(base_hash="0" * 16), {"source: base hash": "differs"}),
            (lambda lock: lock["outputs"][WEIGHTS].update(bytes=7), {WEIGHTS: "differs"}),
            (lambda lock: lock["outputs"].update({"../x": {"sha256": "0"}}), {"../x": "missing"}),
            (lambda lock: lock["source"].pop("base_hash"), {}),
        ],
    )  # fmt: skip
    def test_a_lock_file_that_was_edited(
        self,
        checkpoint: Path,
        registry: Registry,
        change: Callable[[dict[str, Any]], None],
        found: dict[str, str],
    ) -> None:
        edit_lock(checkpoint, change)
        assert wrong(verify(checkpoint, registry=registry)) == found

    def test_the_order_and_spacing_of_a_lock_file_do_not_count(
        self, checkpoint: Path, registry: Registry
    ) -> None:
        edit_lock(
            checkpoint, lambda lock: lock.update({key: lock.pop(key) for key in sorted(lock, reverse=True)})
        )
        assert not verify(checkpoint, registry=registry).wrong

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda lock: lock["outputs"].update({WEIGHTS: "abc"}), f"records no sha256 of {WEIGHTS}"),
            (lambda lock: lock["plan"].pop("sha256"), "records no sha256 of plan"),
            (lambda lock: lock["distill"].update(recipe=5), "records no sha256 of distill recipe"),
            (lambda lock: lock["source"].pop("files"), "records no files of the source"),
            (lambda lock: lock["source"]["files"].update(x=None), "records no sha256 of source: x"),
            (lambda lock: lock.update(source=3), "no lock file of linzoo, or a damaged one"),
        ],
    )
    def test_a_lock_file_that_is_damaged(
        self, checkpoint: Path, registry: Registry, change: Callable[[dict[str, Any]], None], message: str
    ) -> None:
        edit_lock(checkpoint, change)
        with pytest.raises(CheckpointError, match=message):
            verify(checkpoint, registry=registry)

    def test_what_is_no_result_of_linzoo(self, tmp_path: Path, registry: Registry) -> None:
        with pytest.raises(CheckpointError, match=r"has no linzoo\.lock\.json"):
            verify(tmp_path, registry=registry)
        with pytest.raises(CheckpointError, match="a file, and no result of linzoo"):
            verify("mini-v1", registry=registry)
        with pytest.raises(CheckpointError, match="no such file or folder, and no registered name"):
            verify("nothing", registry=registry)

    def test_reading_is_followed_in_bytes(self, checkpoint: Path, registry: Registry) -> None:
        told: list[tuple[str, int, list[int]]] = []

        @contextmanager
        def follow(title: str, total: int) -> Iterator[Callable[[int], None]]:
            told.append((title, total, []))
            yield told[-1][2].append

        verify(checkpoint, registry=registry, follow=follow)
        assert [title for title, _, _ in told] == ["Hashing", "Hashing"]
        assert [sum(steps) for _, _, steps in told] == [total for _, total, _ in told]
        assert told[0][1] == 766_304 + 1_651


class TestTheTeacher:
    @pytest.fixture
    def local(self, checkpoint: Path) -> Path:
        """The checkpoint, as if it had been made from one file, ``dream.safetensors`` beside it."""
        teacher = checkpoint.parent / "dream.safetensors"
        save_file(load_file(open_source("mini-v1").path), teacher, metadata={"title": "a dream"})

        def change(lock: dict[str, Any]) -> None:
            del lock["distill"]
            lock["source"] |= {"layout": "ldm", "files": {teacher.name: recorded(teacher)}}

        edit_lock(checkpoint, change)
        return checkpoint

    def test_a_local_file_is_found_once_it_is_named(self, local: Path, registry: Registry) -> None:
        unnamed = verify(local, registry=registry)
        assert verdicts(unnamed)["source"] == "unchecked"
        assert "--teacher" in unnamed.findings[-1].detail
        renamed = (local.parent / "dream.safetensors").rename(local.parent / "renamed.safetensors")
        named = verify(local, teacher=renamed, registry=registry)
        assert verdicts(named)["source: dream.safetensors"] == verdicts(named)["source: base hash"] == "same"

    def test_the_same_weights_in_another_file_have_the_base_hash(
        self, local: Path, registry: Registry
    ) -> None:
        tensors = load_file(open_source("mini-v1").path)
        again = local.parent / "again.safetensors"
        save_file({name: each.astype("float32") for name, each in tensors.items()}, again)
        found = verify(local, teacher=again, registry=registry)
        assert wrong(found) == {"source: dream.safetensors": "differs"}
        assert verdicts(found)["source: base hash"] == "same"

    def test_another_model_differs_in_both(self, local: Path, registry: Registry) -> None:
        assert wrong(verify(local, teacher="mini-3d", registry=registry)) == {
            "source: dream.safetensors": "differs",
            "source: base hash": "differs",
        }

    def test_one_that_is_not_there_is_an_error(self, local: Path, registry: Registry) -> None:
        with pytest.raises(CheckpointError, match="no such file"):
            verify(local, teacher="none.safetensors", registry=registry)

    def test_a_distillation_by_another_teacher_is_held_against_that(
        self, checkpoint: Path, registry: Registry
    ) -> None:
        files = {"mini-3d.safetensors": recorded(open_source("mini-3d").path)["sha256"]}
        edit_lock(checkpoint, lambda lock: lock["distill"].update(teacher=files))
        subject = "teacher of the distillation: mini-3d.safetensors"
        assert verdicts(verify(checkpoint, teacher="mini-3d", registry=registry))[subject] == "same"
        assert wrong(verify(checkpoint, teacher="mini-v1", registry=registry)) == {subject: "differs"}
        assert verdicts(verify(checkpoint, registry=registry))[subject] == "same"

    def test_a_variant_that_is_not_installed_leaves_the_base_hash_open(
        self, checkpoint: Path, registry: Registry
    ) -> None:
        edit_lock(checkpoint, lambda lock: lock["detection"].update(variant="gone"))
        found = verify(checkpoint, registry=registry)
        assert not found.wrong
        assert verdicts(found)["source: base hash"] == "unchecked"


class TestARepository:
    def test_no_weights_are_fetched(self, hub: FakeHub, checkpoint: Path, registry: Registry) -> None:
        commit = put(hub, checkpoint)
        found = verify(REPO, registry=registry)
        assert (found.checkpoint, found.wrong) == (f"hf://{REPO}@{commit}", ())
        assert Counter(verdicts(found).values()) == {"same": 8, "unchecked": 2}
        assert not [each.path for each in hub.requests if "/storage/" in each.path]
        assert sum(each.sent for each in hub.requests) < 100_000

    def test_a_revision(self, hub: FakeHub, checkpoint: Path, registry: Registry) -> None:
        commit = put(hub, checkpoint)
        hub.put(REPO, {"config.json": b"{}"})
        assert not verify(f"hf://{REPO}@{commit}", registry=registry).wrong
        assert wrong(verify(REPO, registry=registry)) == {"config.json": "differs"}

    def test_weights_that_were_replaced_or_added(
        self, hub: FakeHub, checkpoint: Path, registry: Registry
    ) -> None:
        put(hub, checkpoint)
        hub.put(REPO, {WEIGHTS: os.urandom(999), "stale-00001-of-00002.safetensors": b"x" * 99})
        assert wrong(verify(REPO, registry=registry)) == {
            WEIGHTS: "differs",
            "stale-00001-of-00002.safetensors": "extra",
        }

    def test_a_source_on_the_hub_is_found_at_its_commit(
        self, hub: FakeHub, tmp_path: Path, registry: Registry
    ) -> None:
        put_teacher(hub)
        linzoo.convert("hf://artist/emoji", tmp_path / "out", registry=registry)
        put(hub, tmp_path / "out")
        hub.put("artist/emoji", {f"unet/{WEIGHTS}": b"newer"})
        begun = len(hub.requests)
        found = verify(REPO, registry=registry)
        assert Counter(verdicts(found).values()) == {"same": len(found.findings)}
        assert {TEACHER_WEIGHTS, "source: base hash"} <= verdicts(found).keys()
        sent = sum(each.sent for each in hub.requests[begun:])
        assert sent < 5_226_736 / 5

    def test_a_source_that_lies_is_found_out(self, hub: FakeHub, tmp_path: Path, registry: Registry) -> None:
        put_teacher(hub)
        linzoo.convert("hf://artist/emoji", tmp_path / "out", registry=registry)
        edit_lock(
            tmp_path / "out", lambda lock: lock["source"]["files"][f"unet/{WEIGHTS}"].update(sha256="0" * 64)
        )
        assert wrong(verify(tmp_path / "out", registry=registry)) == {TEACHER_WEIGHTS: "differs"}

    @pytest.mark.parametrize("reason", ["offline", "gone", "unavailable"])
    def test_a_source_that_cannot_be_had_is_said_and_no_failure(
        self, hub: FakeHub, checkpoint: Path, registry: Registry, reason: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        repo = "artist/emoji" if reason != "gone" else "artist/gone"
        commit = put_teacher(hub)
        edit_lock(checkpoint, lambda lock: lock["source"].update(repo=f"hf://{repo}", commit=commit))
        if reason == "offline":
            monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        if reason == "unavailable":
            hub.inject(Fault("status", status=503, path="artist/emoji", times=99))
        found = verify(checkpoint, registry=registry)
        assert not found.wrong
        assert verdicts(found)["source"] == "unchecked"
        (detail,) = (each.detail for each in found.findings if each.subject == "source")
        assert {
            "offline": "cannot be reached",
            "gone": "no such repository",
            "unavailable": "trouble of its own",
        }[reason] in detail

    def test_a_repository_that_cannot_be_had_is_an_error(
        self, hub: FakeHub, registry: Registry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(CheckpointError, match=r"(?s)no such repository.*Nor is there a file or folder"):
            verify("tester/none", registry=registry)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(
            CheckpointError, match=r"cannot be asked offline; unset HF_HUB_OFFLINE, or name a folder"
        ):
            verify(REPO, registry=registry)


@pytest.mark.parametrize("format", ["adapter", "pipeline"])
def test_what_was_pushed_is_as_its_lock_file_says_and_can_be_listed(
    push: Pusher, hub: FakeHub, registry: Registry, format: str
) -> None:
    push(format=format)
    found = verify(REPO, registry=registry)
    assert not found.wrong
    assert len([each for each in found.findings if each.verdict == "same"]) >= 8
    entry = read_published(HubAddress(REPO), registry)
    assert (entry.commit, entry.format, entry.base) == (hub.head(REPO), format, "artist/emoji")
    assert (entry.base_hash, entry.license) == ("cff95565d8ee50dc", "cc-by-4.0")
    assert entry.kd_in_words == "0.006283 in its distillation"
