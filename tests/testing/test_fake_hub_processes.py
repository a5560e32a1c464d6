"""The fake Hub around other processes and threads, and the Xet storage."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tempfile
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest
from huggingface_hub import constants, hf_hub_download

from linzoo.testing.fake_hub import FakeHub

ROUND_TRIP = """
import pathlib
from huggingface_hub import HfApi, constants, snapshot_download
api = HfApi()
api.create_repo("tester/model")
pathlib.Path("model").mkdir()
pathlib.Path("model/w.safetensors").write_bytes(bytes(range(256)) * 8000)
pathlib.Path("model/config.json").write_text("{}")
commit = api.upload_folder(repo_id="tester/model", folder_path="model")
pr = api.upload_folder(repo_id="tester/model", folder_path="model", path_in_repo="again", create_pr=True)
folder = pathlib.Path(snapshot_download("tester/model", revision=pr.pr_revision))
assert folder.is_relative_to(constants.HF_HOME)
assert (folder / "again" / "w.safetensors").read_bytes() == bytes(range(256)) * 8000
print(api.whoami()["name"], commit.oid)
"""


def run(hub: FakeHub, folder: Path) -> list[str]:
    environment = {**os.environ, **hub.environment(folder / "home")}
    done = subprocess.run(
        [sys.executable, "-c", ROUND_TRIP],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_process_needs_the_environment_alone(hub: FakeHub, tmp_path: Path) -> None:
    user, commit = run(hub, tmp_path)
    assert (user, commit) == ("tester", hub.head("tester/model"))
    assert hub.pull_requests("tester/model")[0].status == "open"
    assert hub.read("tester/model", "w.safetensors") == bytes(range(256)) * 8000
    assert sum(request.method == "PUT" for request in hub.requests) == 1
    assert {request.authorization for request in hub.requests if request.host == "localhost"} == {None}


def test_nothing_is_left_of_it() -> None:
    before = threading.enumerate()
    with FakeHub() as hub, ThreadPoolExecutor(4) as pool:
        hub.put("someone/model", {"config.json": b"{}"})
        url = f"{hub.url}/someone/model/resolve/main/config.json"
        answers = list(pool.map(urlopen, [url] * 8))
        assert [answer.read() for answer in answers] == [b"{}"] * 8
    assert threading.enumerate() == before
    with pytest.raises(URLError, match="refused"):
        urlopen(url)


def test_a_hub_that_is_not_entered_holds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FakeHub(tmp_path / "store")
        FakeHub()
        gc.collect()
    assert not any(tmp_path.iterdir())


def test_a_hub_that_cannot_start_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("linzoo.testing.fake_hub.hub.Server", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        FakeHub().__enter__()
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_files_through_xet(tmp_path: Path) -> None:
    pytest.importorskip("hf_xet")
    with FakeHub(tmp_path / "store", xet=True) as hub:
        _, commit = run(hub, tmp_path)
        assert hub.head("tester/model") == commit
        stored = hub.files("tester/model")["w.safetensors"]
        assert (stored.size, len(str(stored.sha256))) == (2_048_000, 64)
        assert not [request for request in hub.requests if request.host == "localhost"]
        assert [request for request in hub.requests if "/xet-write-token/" in request.path]
        assert list((tmp_path / "store" / "xet").rglob("*.mdb"))
        assert {each.name for each in (tmp_path / "store").iterdir()} == {"lfs", "xet"}
        # Whoever does not use Xet has the file from the storage of large files.
        weights = bytes(range(256)) * 8000
        assert hub.read("tester/model", "w.safetensors") == weights
        url = f"{hub.url}/tester/model/resolve/main/w.safetensors"
        with urlopen(Request(url, headers={"Range": "bytes=1000-1999"})) as answer:
            assert (answer.status, answer.read()) == (206, weights[1000:2000])
        with hub.client(tmp_path / "other"), mock.patch.object(constants, "HF_HUB_DISABLE_XET", True):
            path = Path(hf_hub_download("tester/model", "w.safetensors"))
        assert (path.resolve().name, path.read_bytes()) == (stored.sha256, weights)
        assert hub.requests[-1].host == "localhost"
