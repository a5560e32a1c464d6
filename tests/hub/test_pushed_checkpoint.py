"""What others read of a pushed checkpoint: that it is whole, for which model it is, and nothing of the machine it came from."""

from __future__ import annotations

import copy
import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from pushing import LICENSE, REPO, TEACHER, Pusher, checkpoint_of, put_teacher

import linzoo
from linzoo.checkpoints.digest import digest, hash_document
from linzoo.checkpoints.lock import encode_json
from linzoo.checkpoints.source import open_source
from linzoo.errors import UsageError
from linzoo.registry import Registry
from linzoo.testing.fake_hub import FakeHub
from tests.validation.report_sample import chart


def change_lock(push: Pusher, **sections: Any) -> None:
    """Change the lock file of the checkpoint, and that in its report."""
    lock = json.loads((push.checkpoint / "linzoo.lock.json").read_text()) | sections
    (push.checkpoint / "linzoo.lock.json").write_bytes(encode_json(lock))
    report = json.loads((push.report / "report.json").read_text())
    (push.report / "report.json").write_text(json.dumps({**report, "lock": lock}))


def distilled(push: Pusher, **changes: Any) -> dict[str, Any]:
    lock = json.loads((push.checkpoint / "linzoo.lock.json").read_text())
    return {**lock["distill"], **changes}


def add_chart(report: Path) -> str:
    """Give the report a picture; returns its path in the repository."""
    document = json.loads((report / "report.json").read_text())
    measure = document["measures"][0]
    measure["charts"] = [chart()]
    (report / "report.json").write_text(json.dumps(document))
    (report / "card").mkdir()
    (report / "card" / f"{measure['name']}-1.png").write_bytes(b"\x89PNG")
    return f"report/{measure['name']}-1.png"


def verdicts(checkpoint: str, registry: Registry) -> dict[str, str]:
    result = linzoo.validate(checkpoint, "mini", suite="quick", device="cpu", registry=registry)
    return {each["name"]: each["verdict"] for each in result.to_json()["measures"]}


def test_with_pictures_and_a_licence_it_is_whole_for_everybody_else(
    hub: FakeHub, push: Pusher, registry: Registry
) -> None:
    commit = hub.put(TEACHER, {"LICENSE": b"The terms.\n"})
    shutil.rmtree(push.checkpoint)
    checkpoint_of(push.checkpoint, commit)
    picture = add_chart(push.report)
    push()
    assert set(json.loads(hub.read(REPO, "linzoo.lock.json"))["outputs"]) >= {"LICENSE", picture}
    found = verdicts(f"hf://{REPO}", registry)
    assert found["files"] == "passed"
    assert "failed" not in found.values()
    hub.put(REPO, {"config.json": hub.read(REPO, "config.json") + b"\n"})
    assert verdicts(f"hf://{REPO}", registry) == {**found, "files": "failed"}


def test_it_is_pushed_on_from_the_hub_with_a_validation_of_its_own(hub: FakeHub, push: Pusher) -> None:
    picture = add_chart(push.report)
    push()
    push.checkpoint = f"hf://{REPO}"  # type: ignore[assignment]
    push("tester/second", report=None)
    outputs = json.loads(hub.read("tester/second", "linzoo.lock.json"))["outputs"]
    assert picture in json.loads(hub.read(REPO, "linzoo.lock.json"))["outputs"]
    assert set(outputs) == {"config.json", "diffusion_pytorch_model.safetensors"}


def test_it_is_for_the_teacher_that_distilled_it_and_not_for_what_it_was_converted_from(
    hub: FakeHub, push: Pusher
) -> None:
    file = open_source("mini-3d").path
    change_lock(push, distill=distilled(push, teacher={file.name: digest(file).sha256}))
    push(license=LICENSE)
    text = hub.read(REPO, "README.md").decode()
    assert ModelCard(text).data.base_model is None
    assert "for mini-3d, which ships with linzoo: 10 of 10" in text
    assert f"linzoo convert hf://{TEACHER}@" in text
    assert len(re.findall(r"--teacher mini-3d\b", text)) == 2, "of distill and of validate"
    assert "linzoo generate mini-3d " in text


def test_of_another_teacher_that_does_not_ship_the_card_knows_the_hashes_alone(
    hub: FakeHub, push: Pusher
) -> None:
    put_teacher(hub, repo="artist/dream")
    config = open_source("mini").path / "unet" / "config.json"
    hub.put("artist/dream", {"unet/config.json": config.read_bytes() + b"\n"})
    sums = {
        **distilled(push)["teacher"],
        "unet/config.json": hashlib.sha256(config.read_bytes() + b"\n").hexdigest(),
    }
    change_lock(push, distill=distilled(push, teacher=sums))
    with pytest.raises(UsageError, match="name it with --teacher"):
        push()
    push(teacher="hf://artist/dream", license=LICENSE)
    text = hub.read(REPO, "README.md").decode()
    assert ModelCard(text).data.base_model is None
    assert "No base model is named, for the teacher is a model that is known by its hashes alone." in text
    assert (
        f"* the teacher of the distillation: `unet/config.json`, SHA-256 `{sums['unet/config.json']}`" in text
    )
    assert f"linzoo convert hf://{TEACHER}@" in text
    assert len(re.findall("--teacher path/to/teacher", text)) == 2
    assert 'from_pretrained("path/to/teacher")' in text


@pytest.fixture(name="secrets")
def _secrets(push: Pusher) -> dict[str, Any]:
    """The recipe of a lock file as an earlier linzoo wrote it, with paths of a machine in it."""
    recipe = copy.deepcopy(distilled(push)["recipe"])
    recipe["document"]["data"] |= {"source": "/home/me/secret/mine.txt", "cache": "/home/me/cache"}
    recipe["sha256"] = hash_document(recipe["document"])
    change_lock(push, distill=distilled(push, recipe=recipe))
    return recipe


def test_paths_of_the_machine_are_not_published(
    hub: FakeHub, push: Pusher, registry: Registry, secrets: dict[str, Any]
) -> None:
    push()
    for name in ("linzoo.lock.json", "README.md"):
        assert "/home/me" not in hub.read(REPO, name).decode()
    recipe = json.loads(hub.read(REPO, "linzoo.lock.json"))["distill"]["recipe"]
    assert (recipe["document"]["data"]["source"], recipe["document"]["data"]["cache"]) == ("mine.txt", None)
    assert recipe["sha256"] != secrets["sha256"]
    assert linzoo.verify(f"hf://{REPO}", registry=registry).wrong == ()
    assert "source: mine.txt" in hub.read(REPO, "README.md").decode()
