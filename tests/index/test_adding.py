"""``zoo add``: what is read of a published checkpoint, and how it gets into an index in a file or on the Hub."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from entries import HASH, make_entry, write_index

import linzoo
from linzoo.checkpoints.address import HubAddress
from linzoo.errors import CheckpointError, UsageError
from linzoo.registry import Registry
from linzoo.testing.fake_hub import FakeHub, Fault
from linzoo.zoo.adding import Addition, add
from linzoo.zoo.entry import ZooEntry
from linzoo.zoo.errors import ZooError
from linzoo.zoo.index import INDEX_NAME, Index, encode_index, open_index
from linzoo.zoo.listing import Query, list_checkpoints
from linzoo.zoo.published import read_published

REPO = "tester/tiny-linfusion"
DATASET = "someone/zoo"  # the user may propose to it, and not write to it
INDEX = f"hf://datasets/{DATASET}"
BASE_COMMIT = "89abcdef" * 5
CARD = """---
license: openrail++
model-index:
- name: tiny-linfusion
  results:
  - task: {type: text-to-image}
    dataset: {type: prompts, name: 32 prompts}
    metrics:
    - {type: kd, value: 0.0125, name: KD}
    - {type: psnr, value: 31, name: PSNR}
    - {type: Fréchet, value: 7.0}
    - {type: speed, value: fast}
---
# Tiny
"""


@pytest.fixture(scope="module")
def converted(zoo: Registry, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny teacher's LinFusion checkpoint as linzoo writes it."""
    out = tmp_path_factory.mktemp("converted") / "linfusion"
    linzoo.convert("tiny", out, registry=zoo)
    return out


Publish = Callable[..., str]


@pytest.fixture
def publish(hub: FakeHub, converted: Path) -> Publish:
    """Put the checkpoint on the Hub, made from ``artist/base``; changes are of its lock file. Returns the commit."""

    def publish(card: str = CARD, **changes: Any) -> str:
        files: dict[str, Any] = {each.name: each for each in converted.iterdir()}
        lock = json.loads((converted / "linzoo.lock.json").read_text())
        lock["source"] |= {"repo": "hf://artist/base", "commit": BASE_COMMIT, "base_hash": HASH}
        files["linzoo.lock.json"] = json.dumps({**lock, **changes}).encode()
        return hub.put(REPO, {**files, "README.md": card.encode()})

    return publish


@pytest.fixture
def expected(publish: Publish, converted: Path) -> ZooEntry:
    """The entry of the checkpoint, which is published."""
    return make_entry(
        REPO,
        commit=publish(),
        base_commit=BASE_COMMIT,
        recipe=None,
        bytes=(converted / "diffusion_pytorch_model.safetensors").stat().st_size,
        measures={"kd": 0.0125, "psnr": 31},
    )


def distilled(converted: Path, **changes: Any) -> dict[str, Any]:
    files = json.loads((converted / "linzoo.lock.json").read_text())["source"]["files"]
    teacher = {name: each["sha256"] for name, each in files.items()}
    return {"recipe": {"id": "sd15"}, "teacher": teacher, "measures": {"kd": 0.5, "deciles": [1]}, **changes}


class TestReading:
    def test_lock_card_and_commit_and_no_weights(
        self, hub: FakeHub, expected: ZooEntry, zoo: Registry
    ) -> None:
        assert read_published(HubAddress(REPO), zoo) == expected
        assert not [
            each.path for each in hub.requests if "/storage/" in each.path or "safetensors" in each.path
        ]

    def test_a_revision_is_pinned_to_its_commit(
        self, hub: FakeHub, expected: ZooEntry, zoo: Registry
    ) -> None:
        assert hub.put(REPO, {"README.md": b"# Later"}) != expected.commit
        assert read_published(HubAddress(REPO, str(expected.commit)), zoo) == expected

    def test_the_kd_of_the_distillation_where_nothing_was_validated(
        self, publish: Publish, converted: Path, zoo: Registry
    ) -> None:
        publish(distill=distilled(converted))
        assert read_published(HubAddress(REPO), zoo).measures == {
            "distillation-kd": 0.5,
            "kd": 0.0125,
            "psnr": 31,
        }
        publish("# Tiny", distill=distilled(converted))
        entry = read_published(HubAddress(REPO), zoo)
        assert (entry.measures, entry.recipe, entry.license) == ({"distillation-kd": 0.5}, "sd15", None)

    @pytest.mark.parametrize(
        ("said", "license"),
        [
            ("license: Apache-2.0", "apache-2.0"),
            ("license: [mit]", "mit"),
            ("license: [mit, apache-2.0]", None),
            ("license: unknown", None),
            ("license: other", None),
            ("license: other\nlicense_name: Fair AI Public License 1.0-SD", "Fair AI Public License 1.0-SD"),
            ("license: other\nlicense_link: LICENSE.md", "other"),
        ],
    )
    def test_the_licence_however_a_card_writes_it(
        self, publish: Publish, tmp_path: Path, zoo: Registry, said: str, license: str | None
    ) -> None:
        publish(f"---\n{said}\n---\n# Tiny")
        path = tmp_path / "zoo.json"
        assert add(REPO, [path], zoo).entry.license == license
        (listed,) = [each for each in list_checkpoints([str(path)], zoo) if each.entry.repo == REPO]
        assert listed.entry.license == license
        assert Query(license=(license or "mit").upper()).matches(listed.entry) == (license is not None)

    def test_the_base_is_unknown_where_another_teacher_distilled_it(
        self, publish: Publish, converted: Path, zoo: Registry
    ) -> None:
        publish(distill=distilled(converted, teacher={"other.safetensors": "00"}))
        entry = read_published(HubAddress(REPO), zoo)
        assert (entry.base, entry.base_commit, entry.base_hash) == (None, None, None)

    def test_another_teacher_that_ships_with_a_plugin_is_the_base(
        self, publish: Publish, converted: Path, zoo: Registry
    ) -> None:
        source = {"layout": "ldm", "repo": "hf://artist/base", "commit": BASE_COMMIT, "base_hash": HASH}
        files = {"other.safetensors": {"bytes": 1, "sha256": "00"}}
        publish(distill=distilled(converted), source={**source, "files": files})
        entry = read_published(HubAddress(REPO), zoo)
        assert (entry.base, entry.base_commit, entry.base_hash) == ("tiny", None, None)

    def test_what_was_made_from_a_shipped_model_names_it(
        self, hub: FakeHub, converted: Path, zoo: Registry
    ) -> None:
        hub.put(REPO, {each.name: each for each in converted.iterdir()})
        entry = read_published(HubAddress(REPO), zoo)
        assert (entry.base, entry.base_commit) == ("tiny", None)
        assert entry.base_hash is not None

    def test_a_pipeline_has_its_config_below_the_unet(
        self, hub: FakeHub, publish: Publish, converted: Path, zoo: Registry
    ) -> None:
        outputs = {"model_index.json": {"bytes": 2, "sha256": "00"}}
        publish(outputs=outputs)
        hub.put(
            REPO,
            {"model_index.json": b"{}", "unet/config.json": converted / "config.json", "config.json": b"{}"},
        )
        assert read_published(HubAddress(REPO), zoo).format == "pipeline"

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            (
                {"detection": {}},
                "cannot be listed as its lock file and card describe it: ZooEntry.variant must be a string",
            ),
            ({"source": {"files": {}, "base_hash": "x"}}, "base_hash must be 16 hexadecimal digits, got 'x'"),
            ({"plan": {"id": ["a"]}}, "ZooEntry.plan must be a string or None"),
        ],
    )
    def test_what_a_damaged_lock_file_says_is_refused(
        self, publish: Publish, zoo: Registry, changes: dict[str, Any], message: str
    ) -> None:
        publish(**changes)
        with pytest.raises(ZooError, match=message):
            read_published(HubAddress(REPO), zoo)

    def test_what_linzoo_did_not_make_cannot_be_listed(
        self, hub: FakeHub, linfusion: Path, zoo: Registry
    ) -> None:
        hub.put("yuan/official", {each.name: each for each in linfusion.iterdir()})
        with pytest.raises(ZooError, match=r"hf://yuan/official: has no linzoo\.lock\.json"):
            read_published(HubAddress("yuan/official"), zoo)
        with pytest.raises(CheckpointError, match="no such repository"):
            read_published(HubAddress("yuan/none"), zoo)


@pytest.mark.parametrize("name", ["linfusion", "./linfusion", f"hf://{REPO}/weights.safetensors"])
def test_only_what_is_published_can_be_added(name: str, tmp_path: Path, zoo: Registry) -> None:
    with pytest.raises(
        UsageError, match="An index lists what is published; 'linzoo push' publishes a folder"
    ):
        add(name, [tmp_path / "zoo.json"], zoo)


class TestAFile:
    def test_it_is_made_and_then_has_it(self, tmp_path: Path, expected: ZooEntry, zoo: Registry) -> None:
        path = tmp_path / "new" / "zoo.json"
        assert add(REPO, [path], zoo) == Addition(expected, str(path), "written")
        assert open_index(path).entries == (expected,)
        written = path.read_bytes()
        assert add(f"hf://{REPO}", [path], zoo) == Addition(expected, str(path), "present")
        assert path.read_bytes() == written

    def test_a_newer_commit_takes_the_older_ones_place(
        self, tmp_path: Path, expected: ZooEntry, publish: Publish, zoo: Registry
    ) -> None:
        path = write_index(tmp_path / "zoo.json", make_entry("user/a"), expected)
        newer = publish("# Tiny")
        assert add(REPO, [path], zoo).outcome == "written"
        first, second = open_index(path).entries
        assert (first.commit, first.license, second) == (newer, None, make_entry("user/a"))

    def test_a_malformed_file_stays_as_it_is(self, tmp_path: Path, expected: ZooEntry, zoo: Registry) -> None:
        path = tmp_path / "zoo.json"
        path.write_text('{"schema": 2, "entries": []}')
        with pytest.raises(ZooError, match="of schema 2"):
            add(REPO, [path], zoo)
        assert path.read_text() == '{"schema": 2, "entries": []}'

    def test_a_write_that_fails_leaves_the_old_index(
        self, tmp_path: Path, expected: ZooEntry, zoo: Registry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = write_index(tmp_path / "zoo.json", make_entry("user/a"))
        before = path.read_bytes()

        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.fsync", full)
        with pytest.raises(CheckpointError, match="No space left on device; make room"):
            add(REPO, [path], zoo)
        assert path.read_bytes() == before
        assert [each.name for each in tmp_path.iterdir() if each.is_file()] == ["zoo.json"]

    @pytest.mark.parametrize(
        ("named", "variable", "message"),
        [
            ([], "", "none is named"),
            (["a.json", "b.json"], "", "2 are named"),
            ([], "a.json,b.json", "2 are named"),
            (["user/zoo"], "", "write hf://datasets/user/zoo for an index on the Hub"),
        ],
    )
    def test_one_index_has_to_be_named(
        self, zoo: Registry, monkeypatch: pytest.MonkeyPatch, named: list[str], variable: str, message: str
    ) -> None:
        monkeypatch.setenv("LINZOO_ZOO", variable)
        with pytest.raises(UsageError, match=message):
            add(REPO, named, zoo)

    def test_the_variable_may_name_it(
        self, tmp_path: Path, expected: ZooEntry, zoo: Registry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("LINZOO_ZOO", str(tmp_path / "zoo.json"))
        assert add(REPO, [], zoo).index == str(tmp_path / "zoo.json")


class TestADataset:
    @pytest.fixture(autouse=True)
    def dataset(self, hub: FakeHub) -> str:
        """An index on the Hub with one entry; its commit."""
        index = encode_index(Index("", (make_entry("user/a"),)))
        return hub.put(DATASET, {INDEX_NAME: index, "README.md": b"# Zoo"}, repo_type="dataset")

    def proposed(self, hub: FakeHub) -> list[ZooEntry]:
        (pull_request,) = hub.pull_requests(DATASET, "dataset")
        return list(open_index(f"{INDEX}@{pull_request.revision}").entries)

    def statuses(self, hub: FakeHub) -> list[str]:
        return [each.status for each in hub.pull_requests(DATASET, "dataset")]

    def overtake(self, hub: FakeHub) -> tuple[ZooEntry, ...]:
        """Change the index at the place of an open proposal; returns what it holds then."""
        entries = make_entry("user/a"), make_entry("user/zzz")
        hub.put(DATASET, {INDEX_NAME: encode_index(Index("", entries))}, repo_type="dataset")
        return entries

    def test_a_pull_request_is_opened_and_main_stays(
        self, hub: FakeHub, dataset: str, expected: ZooEntry, zoo: Registry
    ) -> None:
        done = add(REPO, [INDEX], zoo)
        assert (done.entry, done.outcome) == (expected, "proposed")
        assert done.pull_request == f"{hub.url}/datasets/{DATASET}/discussions/1"
        assert hub.head(DATASET, repo_type="dataset") == dataset
        (pull_request,) = hub.pull_requests(DATASET, "dataset")
        assert pull_request.title == f"Add {REPO} at {str(expected.commit)[:7]}"
        assert self.proposed(hub) == [expected, make_entry("user/a")]

    def test_the_open_pull_request_is_found_again(
        self, hub: FakeHub, expected: ZooEntry, zoo: Registry
    ) -> None:
        first = add(REPO, [INDEX], zoo)
        again = add(REPO, [INDEX], zoo)
        assert (again.outcome, again.pull_request) == ("pending", first.pull_request)
        assert len(hub.pull_requests(DATASET, "dataset")) == 1

    @pytest.mark.parametrize("mine", [True, False])
    def test_a_pull_request_that_nobody_can_merge_is_made_anew(
        self, hub: FakeHub, expected: ZooEntry, zoo: Registry, monkeypatch: pytest.MonkeyPatch, mine: bool
    ) -> None:
        from huggingface_hub import HfApi

        first = add(REPO, [INDEX], zoo)
        if not mine:
            monkeypatch.setattr(HfApi, "whoami", lambda _: {"name": "friend"})
        overtaking = self.overtake(hub)
        again = add(REPO, [INDEX], zoo)
        assert again.outcome == "proposed"
        assert again.pull_request != first.pull_request
        old, new = hub.pull_requests(DATASET, "dataset")
        assert (old.status, new.status) == ("closed" if mine else "open", "open")
        entries = open_index(f"{INDEX}@{new.revision}").entries
        assert entries == (expected, *overtaking)
        assert add(REPO, [INDEX], zoo).pull_request == again.pull_request

    def test_an_overtaken_pull_request_stays_open_until_there_is_another(
        self, hub: FakeHub, expected: ZooEntry, zoo: Registry
    ) -> None:
        add(REPO, [INDEX], zoo)
        self.overtake(hub)
        hub.inject(Fault("status", method="POST", path="/commit/", status=500, times=99))
        with pytest.raises(CheckpointError, match="the Hub has trouble of its own"):
            add(REPO, [INDEX], zoo)
        hub.clear_faults()
        assert self.statuses(hub) == ["open"]
        assert add(REPO, [INDEX], zoo).outcome == "proposed"
        assert self.statuses(hub) == ["closed", "open"]

    def test_what_could_not_be_closed_is_closed_by_the_next_run(
        self, hub: FakeHub, expected: ZooEntry, zoo: Registry
    ) -> None:
        add(REPO, [INDEX], zoo)
        self.overtake(hub)
        hub.inject(Fault("status", method="POST", path="/status", status=403, times=99))
        second = add(REPO, [INDEX], zoo)
        assert second.outcome == "proposed"
        assert self.statuses(hub) == ["open", "open"]
        hub.clear_faults()
        third = add(REPO, [INDEX], zoo)
        assert (third.outcome, third.pull_request) == ("pending", second.pull_request)
        assert self.statuses(hub) == ["closed", "open"]

    def test_a_private_repository_is_kept_out_of_a_public_index(
        self, hub: FakeHub, expected: ZooEntry, zoo: Registry
    ) -> None:
        secret = "tester/secret"
        hub.put(secret, {name: hub.read(REPO, name) for name in hub.files(REPO)}, private=True)
        with pytest.raises(ZooError, match=rf"{secret}: private, and {INDEX} is for everybody to read"):
            add(secret, [INDEX], zoo)
        assert hub.pull_requests(DATASET, "dataset") == []
        hub.put("tester/own-zoo", {"README.md": b"# Ours"}, repo_type="dataset", private=True)
        assert add(secret, ["hf://datasets/tester/own-zoo"], zoo).outcome == "proposed"

    def test_what_main_has_is_not_proposed(self, hub: FakeHub, expected: ZooEntry, zoo: Registry) -> None:
        hub.put(DATASET, {INDEX_NAME: encode_index(Index("", (expected,)))}, repo_type="dataset")
        assert add(REPO, [INDEX], zoo) == Addition(expected, INDEX, "present")
        assert hub.pull_requests(DATASET, "dataset") == []

    def test_a_dataset_without_an_index_is_offered_its_first(
        self, hub: FakeHub, expected: ZooEntry, zoo: Registry
    ) -> None:
        hub.put("someone/empty", {"README.md": b"# Zoo"}, repo_type="dataset")
        assert add(REPO, ["hf://datasets/someone/empty"], zoo).outcome == "proposed"
        (pull_request,) = hub.pull_requests("someone/empty", "dataset")
        index = open_index(f"hf://datasets/someone/empty@{pull_request.revision}")
        assert index.entries == (expected,)

    def test_somebody_elses_damaged_proposal_is_passed_over(
        self, hub: FakeHub, expected: ZooEntry, zoo: Registry
    ) -> None:
        from huggingface_hub import CommitOperationAdd, HfApi

        HfApi().create_commit(
            DATASET,
            [CommitOperationAdd(INDEX_NAME, b"{}")],
            commit_message=f"Add {REPO} at {str(expected.commit)[:7]}",
            repo_type="dataset",
            create_pr=True,
        )
        assert add(REPO, [INDEX], zoo).outcome == "proposed"
        assert len(hub.pull_requests(DATASET, "dataset")) == 2

    @pytest.mark.parametrize("kind", ["drop-before", "drop-after", "status"])
    def test_whatever_request_fails_the_second_run_ends_with_one_proposal(
        self, hub: FakeHub, expected: ZooEntry, zoo: Registry, kind: str
    ) -> None:
        def fresh(name: str) -> str:
            hub.put(
                f"someone/{name}",
                {INDEX_NAME: hub.read(DATASET, INDEX_NAME, repo_type="dataset")},
                repo_type="dataset",
            )
            return f"hf://datasets/someone/{name}"

        add(REPO, [INDEX], zoo)  # what is read of the checkpoint is in the cache from here on
        begun = len(hub.requests)
        add(REPO, [fresh("counted")], zoo)
        requests = len(hub.requests) - begun
        assert requests >= 6
        for at in range(requests):
            where, begun = fresh(f"zoo-{at}"), len(hub.requests)
            hub.inject(Fault(kind, at=at, status=503))
            with contextlib.suppress(CheckpointError):
                add(REPO, [where], zoo)
            assert [each.fault for each in hub.requests[begun:]].count(kind) == 1
            assert add(REPO, [where], zoo).pull_request is not None
            assert len(hub.pull_requests(f"someone/zoo-{at}", "dataset")) == 1, at

    def test_nobody_who_is_logged_in(
        self, hub: FakeHub, expected: ZooEntry, zoo: Registry, tmp_path: Path
    ) -> None:
        with (
            hub.client(tmp_path / "nobody", token=None),
            pytest.raises(CheckpointError, match="hf auth login"),
        ):
            add(REPO, [INDEX], zoo)
        assert hub.pull_requests(DATASET, "dataset") == []

    def test_no_such_dataset(self, expected: ZooEntry, zoo: Registry) -> None:
        with pytest.raises(CheckpointError, match=r"hf://datasets/someone/none: no such repository"):
            add(REPO, ["hf://datasets/someone/none"], zoo)
