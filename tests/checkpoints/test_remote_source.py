"""Opening a model on the Hub: which of its files are fetched, which are read in place, and how often the Hub is asked."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.hf_api import BlobLfsInfo
from safetensors.numpy import save

from linzoo.checkpoints.digest import Digest
from linzoo.checkpoints.source import open_source
from linzoo.errors import CheckpointError
from linzoo.testing.fake_hub import FakeHub

REPO = "tester/model"
WEIGHTS = "diffusion_pytorch_model"
NUMBERS = np.arange(4, dtype=np.float32)
CONFIGS = ["model_index.json", "scheduler/scheduler_config.json", "unet/config.json", "vae/config.json"]
SHARDS = [f"{WEIGHTS}-0000{number}-of-00002.safetensors" for number in (1, 2)]
SHARDED = {
    "config.json": b"{}",
    f"{WEIGHTS}.safetensors.index.json": (
        f'{{"weight_map": {{"down_blocks.0.weight": "{SHARDS[0]}", "down_blocks.1.weight": "{SHARDS[1]}"}}}}'.encode()
    ),
    **{shard: save({f"down_blocks.{place}.weight": NUMBERS + place}) for place, shard in enumerate(SHARDS)},
}


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    with FakeHub() as hub, hub.client(tmp_path / "home"):
        yield hub


@pytest.fixture
def pipeline(hub: FakeHub) -> str:
    """The commit of a small pipeline with more in it than linzoo needs."""
    weights = save({"conv_in.weight": NUMBERS})
    folders = ("unet/{}.safetensors", "unet/{}.fp16.safetensors", "vae/{}.safetensors", "pruned.safetensors")
    return hub.put(
        REPO,
        {
            "README.md": b"",
            "model_index.json": b'{"_class_name": "StableDiffusionPipeline"}',
            "scheduler/scheduler_config.json": b'{"prediction_type": "epsilon"}',
            "unet/config.json": b'{"in_channels": 4}',
            "vae/config.json": b'{"latent_channels": 4}',
            **{name.format(WEIGHTS): weights for name in folders},
        },
    )


def asked(hub: FakeHub) -> set[str]:
    """The files that were asked for, by name."""
    return {
        each.path.partition("/resolve/")[2].partition("/")[2]
        for each in hub.requests
        if "/resolve/" in each.path
    }


def stored(hub: FakeHub) -> int:
    """Bytes that the storage of large files sent."""
    return sum(each.sent for each in hub.requests if each.host == "localhost")


def test_only_what_is_needed_is_fetched(hub: FakeHub, pipeline: str) -> None:
    opened = open_source(f"hf://{REPO}")
    assert (opened.revision, opened.layout) == (pipeline, "diffusers-folder")
    assert asked(hub) == {*CONFIGS, f"unet/{WEIGHTS}.safetensors"}
    assert opened.files == (opened.path / "unet" / f"{WEIGHTS}.safetensors",)
    assert opened.files[0].is_file()
    assert not opened.store.stated


def test_headers_are_read_where_they_are(hub: FakeHub, pipeline: str) -> None:
    opened = open_source(f"hf://{REPO}", fetch_weights=False)
    assert (opened.revision, opened.layout) == (pipeline, "diffusers-folder")
    weights = f"unet/{WEIGHTS}.safetensors"
    assert asked(hub) == {*CONFIGS, weights}
    content = save({"conv_in.weight": NUMBERS})
    assert stored(hub) == 32 + len(content) - 8 - 16  # the beginning, and the header behind its length
    assert opened.files == (opened.path / weights,)
    assert not opened.files[0].exists()
    sha256 = hub.files(REPO)[weights].sha256
    assert opened.store.stated == {opened.files[0]: Digest(len(content), sha256 or "")}
    opened.check_unchanged()


def test_a_tensor_is_read_when_it_is_needed_and_fetched_ones_stay(hub: FakeHub, pipeline: str) -> None:
    opened = open_source(f"hf://{REPO}", fetch_weights=False)
    before = stored(hub)
    assert opened.read("conv_in.weight").tolist() == [0, 1, 2, 3]
    assert stored(hub) == before + 16
    assert opened.store.to_fetch(["conv_in.weight", "conv_in.weight"]) == 16
    seen: list[int] = []
    opened.store.fetch(["conv_in.weight", "conv_in.weight"], seen.append)
    assert (seen, stored(hub), opened.store.to_fetch(["conv_in.weight"])) == ([16], before + 32, 0)
    assert opened.read("conv_in.weight").tolist() == [0, 1, 2, 3]
    again = open_source(f"hf://{REPO}", fetch_weights=False)
    assert again.store.to_fetch(["conv_in.weight"]) == 0
    opened.store.forget()
    assert again.store.to_fetch(["conv_in.weight"]) == 16


def test_the_hub_is_asked_as_little_as_can_be(hub: FakeHub, pipeline: str) -> None:
    open_source(f"hf://{REPO}@{pipeline}", fetch_weights=False)
    weights = 2 * 2  # the beginning and the header, each of them from the Hub and from its storage
    assert len(hub.requests) == 2 + 2 * len(CONFIGS) + weights
    before = len(hub.requests)
    open_source(f"hf://{REPO}@{pipeline}", fetch_weights=False)
    assert len(hub.requests) - before == 1 + weights


def test_what_the_cache_has_is_read_there(hub: FakeHub, pipeline: str) -> None:
    snapshot_download(REPO)
    before = stored(hub)
    opened = open_source(f"hf://{REPO}", fetch_weights=False)
    assert opened.read("conv_in.weight").tolist() == [0, 1, 2, 3]
    assert stored(hub) == before
    assert opened.files[0].is_file()
    assert opened.store.to_fetch(["conv_in.weight"]) == 0


def test_another_commit_in_the_cache_is_of_no_use(hub: FakeHub, pipeline: str) -> None:
    snapshot_download(REPO)
    weights = f"unet/{WEIGHTS}.safetensors"
    commit = hub.put(REPO, {weights: save({"conv_in.weight": NUMBERS + 1})})
    opened = open_source(f"hf://{REPO}", fetch_weights=False)
    assert opened.revision == commit
    assert opened.read("conv_in.weight").tolist() == [1, 2, 3, 4]
    old = open_source(f"hf://{REPO}@{pipeline}", fetch_weights=False)
    assert old.read("conv_in.weight").tolist() == [0, 1, 2, 3]
    assert len(old.store.stamps) == 1


def test_weights_that_came_with_an_earlier_commit_are_not_fetched_again(hub: FakeHub, pipeline: str) -> None:
    snapshot_download(REPO)
    commit = hub.put(REPO, {"README.md": b"A new card."})
    before = stored(hub)
    opened = open_source(f"hf://{REPO}", fetch_weights=False)
    assert (opened.revision, opened.store.stated) == (commit, {})
    assert opened.files[0].is_relative_to(opened.path)
    assert opened.read("conv_in.weight").tolist() == [0, 1, 2, 3]
    assert stored(hub) == before


def test_a_content_in_the_cache_that_is_not_whole_is_of_no_use(hub: FakeHub, pipeline: str) -> None:
    weights = f"unet/{WEIGHTS}.safetensors"
    blobs = Path(snapshot_download(REPO, allow_patterns=["README.md"])).parents[1] / "blobs"
    (blobs / str(hub.files(REPO)[weights].sha256)).write_bytes(b"part")
    opened = open_source(f"hf://{REPO}", fetch_weights=False)
    assert opened.read("conv_in.weight").tolist() == [0, 1, 2, 3]
    assert len(opened.store.stated) == 1


@pytest.mark.parametrize("fetch_weights", [True, False])
def test_a_commit_that_comes_in_between(
    hub: FakeHub, pipeline: str, monkeypatch: pytest.MonkeyPatch, fetch_weights: bool
) -> None:
    import huggingface_hub

    def late(*arguments: Any, **options: Any) -> str:
        hub.put(REPO, {"unet/config.json": b'{"sample_size": 1}'})
        return snapshot_download(*arguments, **options)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", late)
    opened = open_source(f"hf://{REPO}", fetch_weights=fetch_weights)
    assert (opened.revision, opened.configs["unet"]) == (pipeline, {"in_channels": 4})
    assert hub.head(REPO) != pipeline


def test_the_lock_file_of_published_weights_is_fetched_too(hub: FakeHub) -> None:
    files = {f"{WEIGHTS}.safetensors": save({"0.to_q.weight": NUMBERS})}
    hub.put(REPO, {"config.json": b"{}", "linzoo.lock.json": b"{}", **files})
    opened = open_source(f"hf://{REPO}", fetch_weights=False)
    assert (opened.layout, (opened.path / "linzoo.lock.json").is_file()) == ("diffusers-component", True)


def test_shards(hub: FakeHub) -> None:
    hub.put(REPO, SHARDED)
    opened = open_source(f"hf://{REPO}@main", fetch_weights=False)
    assert opened.layout == "diffusers-component"
    assert [path.name for path in opened.files] == SHARDS
    before = stored(hub)
    opened.store.fetch(opened.tensors, lambda count: None)
    assert stored(hub) == before + 32
    assert opened.read("down_blocks.1.weight").tolist() == [1, 2, 3, 4]
    assert set(open_source(f"hf://{REPO}").tensors) == set(opened.tensors)


def test_one_shard_in_the_cache_and_one_on_the_hub(hub: FakeHub) -> None:
    hub.put(REPO, SHARDED)
    snapshot_download(REPO, allow_patterns=[SHARDS[1]])
    opened = open_source(f"hf://{REPO}", fetch_weights=False)
    assert [path.name for path in opened.store.stated] == SHARDS[:1]
    assert [path.name for path in opened.store.stamps] == SHARDS[1:]
    assert opened.store.to_fetch(opened.tensors) == 16
    assert [opened.read(name).tolist()[0] for name in sorted(opened.tensors)] == [0, 1]


def test_a_repository_with_one_file_and_the_yaml_beside_it(hub: FakeHub) -> None:
    name = "model.diffusion_model.out.2.bias"
    hub.put(
        REPO,
        {"model.safetensors": save({name: NUMBERS}), "model.yaml": b"model: {params: {}}", "notes.yaml": b""},
    )
    opened = open_source(f"hf://{REPO}", fetch_weights=False)
    assert (opened.layout, opened.path.name, opened.files) == ("ldm", "model.safetensors", (opened.path,))
    assert opened.spec == f"hf://{REPO}/model.safetensors"
    assert sorted(each.name for each in opened.path.parent.iterdir()) == ["model.yaml"]
    assert opened.read(name).tolist() == [0, 1, 2, 3]
    assert open_source(f"hf://{REPO}").path == opened.path
    assert opened.path.is_file()


def test_weights_without_a_config_are_a_file_and_not_a_model(hub: FakeHub) -> None:
    hub.put(REPO, {f"{WEIGHTS}.safetensors": save({"down_blocks.0.weight": NUMBERS})})
    opened = [open_source(f"hf://{REPO}", fetch_weights=fetch_weights) for fetch_weights in (False, True)]
    assert [each.layout for each in opened] == ["diffusers", "diffusers"]
    assert opened[0].path == opened[1].path
    assert opened[1].path.name == f"{WEIGHTS}.safetensors"
    hub.put(REPO, {"other.safetensors": save({"down_blocks.0.weight": NUMBERS})})
    for fetch_weights in (False, True):
        with pytest.raises(CheckpointError, match="holds several models"):
            open_source(f"hf://{REPO}", fetch_weights=fetch_weights)


def test_one_file_of_several_may_be_named(hub: FakeHub, pipeline: str) -> None:
    content = save({"model.diffusion_model.out.2.bias": NUMBERS})
    commit = hub.put(REPO, {"v2/dream shaper.safetensors": content, "v2/dream shaper.yaml": b""})
    address = f"hf://{REPO}@{commit}/v2/dream shaper.safetensors"
    for fetch_weights in (False, True):
        opened = open_source(address, fetch_weights=fetch_weights)
        assert (str(opened.address), opened.spec, opened.layout) == (address, address, "ldm")
        assert opened.read("model.diffusion_model.out.2.bias").tolist() == [0, 1, 2, 3]
        assert opened.path.relative_to(opened.path.parents[1]).as_posix() == "v2/dream shaper.safetensors"
        assert asked(hub) == {"v2/dream shaper.safetensors", "v2/dream shaper.yaml"}
        for name, message in (
            ("v2/dreamshaper.safetensors", "has no such file; did you mean 'v2/dream shaper.safetensors'"),
            ("v2/notes.txt", "not of the form hf://user/repo"),
            ("../../model.safetensors", "has no such file"),
        ):
            with pytest.raises(CheckpointError, match=message):
                open_source(f"hf://{REPO}/{name}", fetch_weights=fetch_weights)


def test_files_in_folders_alone_must_be_named(hub: FakeHub) -> None:
    hub.put(REPO, {"v2/model.safetensors": save({"conv_in.weight": NUMBERS})})
    with pytest.raises(CheckpointError, match=rf"is named so: hf://{REPO}/v2/model.safetensors"):
        open_source(REPO, fetch_weights=False)


def test_a_torch_pickle_is_fetched(hub: FakeHub) -> None:
    import torch

    buffer = io.BytesIO()
    torch.save({"model.diffusion_model.out.2.bias": torch.ones(4)}, buffer)
    hub.put(REPO, {"model.ckpt": buffer.getvalue()})
    opened = open_source(f"hf://{REPO}", fetch_weights=False)
    assert (opened.layout, opened.path.is_file(), opened.store.stated) == ("ldm", True, {})
    assert opened.store.to_fetch(opened.tensors) == 0
    opened.store.fetch(opened.tensors, pytest.fail)
    opened.store.forget()
    assert opened.path.is_file()


@pytest.mark.parametrize("sha256", [None, "../../../evil", "0" * 63, "\u0660" * 64])
def test_weights_whose_hash_nobody_states_are_fetched(
    hub: FakeHub, pipeline: str, monkeypatch: pytest.MonkeyPatch, sha256: str | None
) -> None:
    listed = HfApi.model_info

    def otherwise(*arguments: Any, **options: Any) -> Any:
        info = listed(*arguments, **options)
        for each in info.siblings or ():
            each.lfs = BlobLfsInfo(size=1, sha256=sha256, pointer_size=1) if sha256 else None
        return info

    monkeypatch.setattr(HfApi, "model_info", otherwise)
    opened = open_source(f"hf://{REPO}", fetch_weights=False)
    assert (opened.files[0].is_file(), opened.store.stated) == (True, {})


def test_a_damaged_header_is_refused(hub: FakeHub) -> None:
    weights = bytearray(save({"conv_in.weight": NUMBERS}))
    weights[20] = 0
    hub.put(REPO, {"config.json": b"{}", f"{WEIGHTS}.safetensors": bytes(weights)})
    with pytest.raises(
        CheckpointError, match=rf"hf://{REPO}@\w+/{WEIGHTS}.safetensors: the header is not valid JSON"
    ):
        open_source(f"hf://{REPO}", fetch_weights=False)


def test_errors_of_the_hub(hub: FakeHub, tmp_path: Path) -> None:
    for fetch_weights in (True, False):
        with pytest.raises(CheckpointError, match="hf://tester/absent: no such repository, or a private one"):
            open_source("hf://tester/absent", fetch_weights=fetch_weights)
        hub.put(REPO, {"config.json": b"{}"})
        with pytest.raises(CheckpointError, match=f"hf://{REPO}@other: the repository has no such branch"):
            open_source(f"hf://{REPO}@other", fetch_weights=fetch_weights)
        with pytest.raises(CheckpointError, match=f"hf://{REPO}: the repository holds no UNet weights"):
            open_source(f"hf://{REPO}", fetch_weights=fetch_weights)


def test_offline_the_cache_is_all_there_is(
    hub: FakeHub, pipeline: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_source(f"hf://{REPO}")
    before = len(hub.requests)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    opened = open_source(f"hf://{REPO}", fetch_weights=False)
    assert (opened.revision, opened.store.stated, len(hub.requests)) == (pipeline, {}, before)


def test_without_a_network_the_cache_is_pointed_to(tmp_path: Path) -> None:
    with FakeHub() as hub:
        hub.put(REPO, SHARDED)
        with hub.client(tmp_path / "home"):
            open_source(f"hf://{REPO}")
    with hub.client(tmp_path / "home"), pytest.raises(CheckpointError) as caught:
        open_source(f"hf://{REPO}")
    assert str(caught.value).endswith("or set HF_HUB_OFFLINE=1 to use what is in the cache")
