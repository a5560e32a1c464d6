"""``linzoo zoo`` on the command line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from linzoo.checkpoints.source import open_source
from linzoo.cli.main import main
from linzoo.testing.fake_hub import FakeHub
from linzoo.zoo.entry import ZooEntry
from linzoo.zoo.index import Index, encode_index

REPO = "tester/mini-linfusion"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    with FakeHub() as hub, hub.client(tmp_path / "home"):
        yield hub


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """An index with one SDXL checkpoint."""
    entry = ZooEntry(
        repo="user/dream",
        commit="01" * 20,
        variant="sdxl",
        base="artist/dreams",
        mixers=("generalized-linear", "mamba2"),
        license="openrail++",
        bytes=821_000_000,
    )
    path = tmp_path / "zoo.json"
    path.write_bytes(encode_index(Index("", (entry,))))
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["zoo", *map(str, arguments)])


def repos(result: Result) -> list[str]:
    assert result.exit_code == 0, result.output
    return [each["repo"] for each in json.loads(result.stdout)["checkpoints"]]


def test_listing_prints_one_row_each(index: Path) -> None:
    result = run("list", "--index", index)
    assert result.exit_code == 0, result.output
    head, *rows = result.stdout.splitlines()
    assert head.split() == ["CHECKPOINT", "VARIANT", "BASE", "MIXERS", "KD", "LICENCE", "SIZE", "FROM"]
    cells = {row.split()[0]: row for row in rows}
    assert len(cells) == 5
    assert re.split(" {2,}", cells["mini-linfusion"]) == [
        "mini-linfusion", "mini", "mini", "generalized-linear", "0.006283 in its distillation", "apache-2.0", "0.8 MB",
        "built-in",
    ]  # fmt: skip
    assert cells["Yuanshi/LinFusion-XL"].split()[-5:] == ["not", "measured", "-", "-", "built-in"]
    assert "821.0 MB" in cells["user/dream"]
    assert cells["user/dream"].endswith(str(index))


def test_the_variable_names_indexes(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINZOO_ZOO", str(index))
    assert "user/dream" in repos(run("list", "--json"))


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (("dream",), ["user/dream"]),
        (("--variant", "sdxl"), ["Yuanshi/LinFusion-XL", "user/dream"]),
        (("--variant", "sdxl", "--mixer", "mamba2"), ["user/dream"]),
        (("--base", "xl-base"), ["Yuanshi/LinFusion-XL"]),
        (("--base", "cff95565d8ee50dc"), ["mini-linfusion"]),
        (("--license", "apache-2.0"), ["mini-linfusion"]),
        (("user", "dreams", "openrail"), ["user/dream"]),
        (("nothing",), []),
    ],
)
def test_searching(index: Path, arguments: tuple[str, ...], found: list[str]) -> None:
    assert repos(run("search", *arguments, "--index", index, "--json")) == found


def test_nothing_found_and_nothing_asked(index: Path) -> None:
    result = run("search", "nothing", "--index", index)
    assert (result.exit_code, result.stdout) == (0, "no such checkpoint\n")
    empty = run("search", "--index", index)
    assert empty.exit_code == 2
    assert "'linzoo zoo list' lists all" in empty.stderr


def test_showing_one(index: Path) -> None:
    shown = run("show", "user/dream", "--index", index)
    assert shown.exit_code == 0, shown.output
    assert f"checkpoint: hf://user/dream@{'01' * 20}\nindex: {index}\n" in shown.stdout
    assert "base_hash: null\n" in shown.stdout
    for written in ("hf://user/dream", "https://huggingface.co/user/dream", f"user/dream@{'01' * 20}"):
        assert run("show", written, "--index", index).stdout == shown.stdout
    other = run("show", "user/dream@v2", "--index", index)
    assert (
        other.exit_code,
        "hf://user/dream@v2 is in no index; user/dream is listed at 0101" in other.stderr,
    ) == (1, True)
    document = json.loads(run("show", "mini-linfusion", "--json").stdout)
    assert (document["schema"], document["base_hash"]) == (1, "cff95565d8ee50dc")
    assert document["measures"] == {"distillation-kd": pytest.approx(0.00628, abs=1e-5)}
    missing = run("show", "user/dreem", "--index", index)
    assert missing.exit_code == 1
    assert "did you mean 'user/dream'?" in missing.stderr


def test_a_malformed_index_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "zoo.json").write_text("{}")
    result = run("list", "--index", tmp_path / "zoo.json")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "no index of LinFusion checkpoints" in result.stderr


class TestAdding:
    @pytest.fixture(autouse=True)
    def commit(self, hub: FakeHub) -> str:
        files: dict[str, Any] = {each.name: each for each in open_source("mini-linfusion").path.iterdir()}
        return hub.put(REPO, {**files, "README.md": b"---\nlicense: apache-2.0\n---\n"})

    def test_to_a_file(self, tmp_path: Path, commit: str) -> None:
        path = tmp_path / "mine.json"
        first = run("add", REPO, "--index", path)
        assert (first.exit_code, first.stdout) == (0, f"hf://{REPO}@{commit}: written to {path}\n")
        again = run("add", f"{REPO}@{commit}", "--index", path)
        assert again.stdout == f"hf://{REPO}@{commit}: {path} has it already, as it is\n"
        assert repos(run("search", "tester", "--index", path, "--json")) == [REPO]

    def test_to_a_dataset(self, hub: FakeHub, commit: str) -> None:
        hub.put("someone/zoo", {"README.md": b"# Zoo"}, repo_type="dataset")
        where = "hf://datasets/someone/zoo"
        first = run("add", REPO, "--index", where)
        url = f"{hub.url}/datasets/someone/zoo/discussions/1"
        assert first.stdout == f"hf://{REPO}@{commit}: proposed to {where}\n{url}\n"
        document = json.loads(run("add", REPO, "--index", where, "--json").stdout)
        assert (document["outcome"], document["pull_request"]) == ("pending", url)
        assert (document["entry"]["repo"], document["entry"]["base"]) == (REPO, "mini")
        assert hub.token not in first.output

    def test_an_index_has_to_be_named(self) -> None:
        result = run("add", REPO)
        assert result.exit_code == 2
        assert "name one index to add to (none is named)" in result.stderr
