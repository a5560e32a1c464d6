"""What the tests of pushes share: a checkpoint with a teacher on the fake Hub, and pushes without the slow ends."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi
from safetensors.numpy import load_file, save_file

import linzoo
from linzoo.checkpoints.digest import digest
from linzoo.checkpoints.lock import encode_json
from linzoo.checkpoints.source import open_source
from linzoo.distillation.progress import Progress
from linzoo.errors import CheckpointError
from linzoo.hub.push import PushResult
from linzoo.registry import Registry, build_registry
from linzoo.testing.fake_hub import FakeHub

REPO = "tester/mini-linfusion"
TEACHER = "artist/emoji"
LICENSE = "cc-by-4.0"
MESSAGE = "Upload a LinFusion checkpoint with linzoo"
WEIGHTS = "diffusion_pytorch_model.safetensors"
CHECK = "linzoo.hub.push.check_loads"
ADAPTER = {
    "config.json",
    "diffusion_pytorch_model.safetensors",
    "linzoo.lock.json",
    "README.md",
    ".gitattributes",
}
"""The files of a repository with a pushed adapter."""
WRITES = ("POST", "PUT", "DELETE")


@pytest.fixture(name="registry", scope="session")
def _registry() -> Registry:
    return build_registry(entry_points=False)


@pytest.fixture(name="hub")
def _hub(tmp_path: Path) -> Iterator[FakeHub]:
    with FakeHub() as hub, hub.client(tmp_path / "home"):
        yield hub


@pytest.fixture(name="quick_report", scope="session")
def _quick_report(tmp_path_factory: pytest.TempPathFactory, registry: Registry) -> dict[str, Any]:
    return validate_quickly(tmp_path_factory.mktemp("report"), registry)


def validate_quickly(folder: Path, registry: Registry) -> dict[str, Any]:
    """What ``linzoo validate mini-linfusion --teacher mini`` says."""
    linzoo.validate("mini-linfusion", "mini", report=folder, device="cpu", registry=registry)
    document: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return document


def put_teacher(hub: FakeHub, *, repo: str = TEACHER, license: str | None = LICENSE) -> str:
    """The shipped teacher as somebody's repository; returns its commit."""
    root = open_source("mini").path
    files: dict[str, bytes | Path] = {
        path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*")) if path.is_file()
    }
    said = f"license: {license}\n" if license else "tags: [emoji]\n"
    return hub.put(repo, {**files, "README.md": f"---\n{said}---\n# Emoji\n".encode()})


def checkpoint_of(folder: Path, commit: str | None, repo: str = TEACHER) -> Path:
    """The shipped LinFusion checkpoint, as if it had been made from a repository (or, without a commit, a local file)."""
    shutil.copytree(open_source("mini-linfusion").path, folder)
    lock = json.loads((folder / "linzoo.lock.json").read_text())
    if commit is None:
        for record in lock["source"]["files"].values():
            record["sha256"] = "0" * 64
        lock["distill"]["teacher"] = dict.fromkeys(lock["source"]["files"], "0" * 64)
    else:
        lock["source"] |= {"repo": f"hf://{repo}", "commit": commit}
    (folder / "linzoo.lock.json").write_bytes(encode_json(lock))
    return folder


def write_report(folder: Path, checkpoint: Path, document: dict[str, Any], **changes: Any) -> Path:
    """A report on a checkpoint."""
    folder.mkdir()
    lock = json.loads((checkpoint / "linzoo.lock.json").read_text())
    (folder / "report.json").write_text(json.dumps({**document, "lock": lock, **changes}))
    return folder


class Pusher:
    """Pushes one checkpoint again and again."""

    def __init__(self, checkpoint: Path, report: Path, registry: Registry) -> None:
        self.checkpoint = checkpoint
        self.report = report
        self.registry = registry

    def renew(self, mark: str) -> None:
        """Give the weights' file another hash, so that the Hub has not seen it yet; the numbers stay."""
        path = self.checkpoint / WEIGHTS
        save_file(load_file(path), path, metadata={"format": "pt", "mark": mark})
        lock = json.loads((self.checkpoint / "linzoo.lock.json").read_text())
        lock["outputs"][WEIGHTS] = asdict(digest(path))
        (self.checkpoint / "linzoo.lock.json").write_bytes(encode_json(lock))
        report = json.loads((self.report / "report.json").read_text())
        (self.report / "report.json").write_text(json.dumps({**report, "lock": lock}))

    def __call__(self, repo: str = REPO, **options: Any) -> PushResult:
        options = {"report": self.report, **options}
        return linzoo.push(self.checkpoint, repo, registry=self.registry, **options)


def make_pusher(folder: Path, hub: FakeHub, registry: Registry, report: dict[str, Any]) -> Pusher:
    """Pushes of a checkpoint whose teacher lies on the Hub."""
    checkpoint = checkpoint_of(folder / "checkpoint", put_teacher(hub))
    return Pusher(checkpoint, write_report(folder / "report", checkpoint, report), registry)


@pytest.fixture(name="push")
def _push(
    tmp_path: Path,
    hub: FakeHub,
    registry: Registry,
    quick_report: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> Pusher:
    """Pushes without the fresh process behind it, whose own tests are in ``test_fresh.py``."""
    monkeypatch.setattr(CHECK, lambda question, page: None)
    return make_pusher(tmp_path, hub, registry, quick_report)


def writes(hub: FakeHub, start: int = 0) -> list[str]:
    return [f"{each.method} {each.path}" for each in hub.requests[start:] if each.method in WRITES]


def commits(repo: str = REPO, revision: str | None = None) -> list[str]:
    return [each.title for each in HfApi().list_repo_commits(repo, revision=revision)]


def assert_refused(
    push: Pusher, hub: FakeHub, match: str, kind: type[Exception] = CheckpointError, **options: Any
) -> None:
    """Whatever is refused sends nothing."""
    start = len(hub.requests)
    with pytest.raises(kind, match=match):
        push(**options)
    assert writes(hub, start) == []
    assert hub.head(REPO) is None


class Told(Progress):
    """Progress that is kept."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)
