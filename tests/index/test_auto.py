"""``linzoo.load(pipe, "auto")``: which checkpoint it mounts, why, and when it refuses to choose."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from entries import make_entry, write_index
from peft import LoraConfig
from tiny import tiny_sd, tiny_unet

import linzoo
from linzoo.checkpoints.base_hash import base_hash
from linzoo.checkpoints.components import component_config
from linzoo.checkpoints.source import open_source
from linzoo.checkpoints.unet import open_unet
from linzoo.errors import UndecidedError, UsageError
from linzoo.registry import Registry, build_registry
from linzoo.testing.fake_hub import FakeHub
from linzoo.zoo.choice import Choice, choose
from linzoo.zoo.entry import ZooEntry
from linzoo.zoo.errors import ZooError
from linzoo.zoo.index import INDEX_NAME, Index, encode_index
from linzoo.zoo.live import look_at

BASE = "artist/base"
LORA = LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v", "to_out.0"], init_lora_weights=False)


@pytest.fixture
def unet() -> UNet2DConditionModel:
    """The shipped teacher of the variant ``tiny``, from no place in particular."""
    return tiny_unet()


@pytest.fixture(scope="session")
def hash_on_disk(zoo: Registry) -> str:
    """The base hash of the same UNet, read from its file."""
    found = base_hash(open_unet(open_source("tiny", registry=zoo), zoo.variants.get_value("tiny")))
    assert found is not None
    return found


def from_repo(unet: UNet2DConditionModel, place: str = BASE) -> UNet2DConditionModel:
    unet.register_to_config(_name_or_path=place)
    return unet


Chooser = Callable[..., Choice]


@pytest.fixture
def pick(unet: UNet2DConditionModel, zoo: Registry, tmp_path: Path) -> Chooser:
    """Choose among some entries."""

    def pick(*entries: ZooEntry) -> Choice:
        return choose(unet, unet, write_index(tmp_path / "zoo.json", *entries), zoo)

    return pick


class TestWhatAUNetIs:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
    def test_it_has_the_hash_of_its_file_in_any_precision(
        self, unet: UNet2DConditionModel, zoo: Registry, hash_on_disk: str, dtype: torch.dtype
    ) -> None:
        live = look_at(unet, unet.to(dtype), zoo)
        assert (live.variants, live.base_hash, live.exact, live.repo) == (("tiny",), hash_on_disk, True, None)

    def test_bfloat16_cannot_be_compared(
        self, unet: UNet2DConditionModel, zoo: Registry, hash_on_disk: str
    ) -> None:
        live = look_at(unet, unet.to(torch.bfloat16), zoo)
        assert live.base_hash not in (None, hash_on_disk)
        assert not live.exact

    def test_weights_that_are_elsewhere_have_none(self, unet: UNet2DConditionModel, zoo: Registry) -> None:
        assert look_at(unet, unet.to("meta"), zoo).base_hash is None

    def test_a_lora_counts_once_it_is_fused(
        self, unet: UNet2DConditionModel, zoo: Registry, hash_on_disk: str
    ) -> None:
        unet.add_adapter(LORA)
        assert look_at(unet, unet, zoo).base_hash == hash_on_disk
        unet.fuse_lora()
        assert look_at(unet, unet, zoo).base_hash != hash_on_disk
        unet.unfuse_lora()

    @pytest.mark.parametrize(
        ("place", "repo"),
        [
            ("artist/base", "artist/base"),
            ("/home/me/.cache/huggingface/hub/models--artist--ba--se/snapshots/0123/unet", "artist/ba--se"),
            (r"C:\hub\models--artist--base\snapshots\0123\unet", "artist/base"),
            ("/home/me/models/base", None),
            ("tests/index", None),
        ],
    )
    def test_where_it_was_loaded_from(
        self, unet: UNet2DConditionModel, zoo: Registry, place: str, repo: str | None
    ) -> None:
        assert look_at(unet, from_repo(unet, place), zoo).repo == repo

    def test_the_unet_goes_before_the_pipeline_that_it_was_put_into(self, zoo: Registry) -> None:
        pipe = tiny_sd()
        pipe.register_to_config(_name_or_path="artist/pipeline")
        assert look_at(pipe, pipe.unet, zoo).repo == "artist/pipeline"
        assert look_at(pipe, from_repo(pipe.unet), zoo).repo == BASE
        for page in ("https://civitai.com/models/4384", "hf://malformed"):  # what others write into configs
            assert look_at(pipe, from_repo(pipe.unet, page), zoo).repo is None

    def test_no_variant_of_ours(self, zoo: Registry) -> None:
        with pytest.raises(
            ZooError, match=r"'auto' needs a UNet of one installed variant \(it is not near any\)"
        ):
            look_at(None, torch.nn.Linear(2, 2), zoo)
        other = tiny_unet(cross_attention_dim=16)
        with pytest.raises(ZooError, match=r"closest variant: \d+ of \d+ tensors of tiny; other shape"):
            look_at(other, other, zoo)


class TestChoosing:
    def test_the_same_weights_go_before_the_same_name_and_a_lower_kd(
        self, unet: UNet2DConditionModel, pick: Chooser, hash_on_disk: str
    ) -> None:
        from_repo(unet)
        exact = make_entry("user/exact", base="else/where", base_hash=hash_on_disk, measures={})
        choice = pick(exact, make_entry("user/named", measures={"kd": 0.001}))
        assert choice.entry == exact
        assert not choice.doubtful
        assert choice.why.endswith(
            f"zoo.json): made for exactly these weights (base hash {hash_on_disk}); kd not measured"
        )

    def test_the_same_name_goes_before_another_model(self, unet: UNet2DConditionModel, pick: Chooser) -> None:
        from_repo(unet)
        choice = pick(make_entry("user/other", base="else/where"), make_entry("user/named"))
        assert (choice.entry.repo, choice.doubtful) == ("user/named", True)
        assert f"made for {BASE}, which this UNet was loaded from, but these weights are others" in choice.why

    @pytest.mark.parametrize("reason", ["the index has no base hash of it", "the UNet's weights are bfloat16",
                                        "the UNet's weights are quantised or not in memory"])  # fmt: skip
    def test_the_same_name_will_do_where_weights_cannot_be_compared(
        self, unet: UNet2DConditionModel, pick: Chooser, reason: str
    ) -> None:
        from_repo(unet).to({"bfloat16": torch.bfloat16}.get(reason.split()[-1]))
        if "memory" in reason:
            unet.to("meta")
        entry = make_entry("user/named", **({"base_hash": None} if "index" in reason else {}))
        choice = pick(entry)
        assert f"whether for these weights cannot be told, since {reason}" in choice.why
        assert not choice.doubtful

    def test_another_model_of_the_variant_is_said_to_be_one(self, pick: Chooser) -> None:
        choice = pick(make_entry("user/other"))
        assert choice.doubtful
        assert "made for another model of variant tiny, artist/base; kd 0.02" in choice.why
        unknown = pick(make_entry("user/other", base=None, base_hash=None))
        assert unknown.doubtful
        assert "made for an unnamed model (tiny); whether for these weights cannot be told" in unknown.why

    def test_the_lowest_measured_kd_decides_among_equals(self, pick: Chooser) -> None:
        entries = [
            make_entry("user/a", measures={}),
            make_entry("user/b", measures={"kd": 0.03}),
            make_entry("user/c", measures={"kd": 0.01, "psnr": 20.0}),
        ]
        choice = pick(*entries)
        assert choice.entry.repo == "user/c"
        assert choice.why.endswith("kd 0.01, the lowest of 2")
        entries += [make_entry("user/d", measures={"distillation-kd": 0.001})]
        same = pick(*entries)  # what a distillation measured is of other samples
        assert same.entry.repo == "user/c"
        assert same.why.endswith("kd 0.01, the lowest of 2")
        assert pick(entries[0], entries[1], entries[3]).why.endswith(
            "kd 0.03, the only one that a validation measured"
        )
        distilled = pick(entries[0], entries[3], make_entry("user/e", measures={"distillation-kd": 0.002}))
        assert distilled.entry.repo == "user/d"
        assert distilled.why.endswith("kd 0.001 in its distillation, the lowest of 2")

    @pytest.mark.parametrize("measures", [{}, {"kd": 0.02}, {"distillation-kd": 0.02}])
    def test_it_refuses_to_choose_among_equals_that_nothing_tells_apart(
        self, pick: Chooser, measures: dict[str, float]
    ) -> None:
        with pytest.raises(UndecidedError) as caught:
            pick(make_entry("user/a", measures=measures), make_entry("user/b", measures=measures))
        first, *lines, last = str(caught.value).splitlines()
        assert first == "several LinFusion checkpoints would do as well:"
        assert [line.split("@")[0].strip() for line in lines] == ["hf://user/a", "hf://user/b"]
        assert last.startswith("name one of them")

    def test_nothing_that_cannot_be_mounted_here(self, pick: Chooser) -> None:
        useless = [
            make_entry("user/pipeline", format="pipeline"),
            make_entry("user/mixer", mixers=("generalized-linear", "not-installed")),
            make_entry("user/variant", variant="sdxl"),
        ]
        with pytest.raises(
            ZooError,
            match=r"no LinFusion checkpoint is known for variant 'tiny' \(looked in: .*zoo\.json, built-in\)",
        ):
            pick(*useless)
        assert pick(*useless, make_entry("user/good")).entry.repo == "user/good"

    def test_weights_of_a_more_general_variant_come_last(self, tmp_path: Path) -> None:
        """Inpainting UNets have the self-attention of the variant that they refine."""
        registry = build_registry(entry_points=False, env={})
        config = component_config(registry.variants.get_value("sd15-inpaint"), "unet")
        with torch.device("meta"):
            unet = UNet2DConditionModel.from_config(config)
        general = make_entry("user/general", variant="sd15")
        own = make_entry("user/own", variant="sd15-inpaint", measures={})
        assert choose(unet, unet, write_index(tmp_path / "1.json", general), registry).entry == general
        assert choose(unet, unet, write_index(tmp_path / "2.json", general, own), registry).entry == own


class TestLoading:
    @pytest.fixture
    def published(self, hub: FakeHub, linfusion: Path, hash_on_disk: str) -> ZooEntry:
        """A LinFusion checkpoint for exactly this UNet, on the Hub, and a newer commit of the same repository."""
        files: dict[str, Any] = {each.name: each for each in linfusion.iterdir()}
        commit = hub.put("user/tiny-linfusion", files)
        hub.put("user/tiny-linfusion", {"config.json": b"{}"})
        return make_entry("user/tiny-linfusion", commit=commit, base_hash=hash_on_disk)

    def test_it_mounts_the_pinned_commit_and_says_why(
        self, unet: UNet2DConditionModel, zoo: Registry, published: ZooEntry, tmp_path: Path, caplog: Any
    ) -> None:
        caplog.set_level(logging.INFO, "linzoo")
        handle = linzoo.load(unet, "auto", index=write_index(tmp_path / "zoo.json", published), registry=zoo)
        assert len(handle.modules) == 4
        assert handle.source == published.checkpoint
        assert "made for exactly these weights" in handle.why
        assert f"4 layers linear in UNet2DConditionModel; chosen: {handle.why}>" in repr(handle)
        assert [(each.name, each.levelname, each.getMessage()) for each in caplog.records] == [
            ("linzoo", "INFO", handle.why)
        ]

    def test_it_warns_of_weights_for_another_model(
        self, unet: UNet2DConditionModel, zoo: Registry, published: ZooEntry, tmp_path: Path, caplog: Any
    ) -> None:
        other = make_entry(published.repo, commit=published.commit)
        handle = linzoo.load(unet, "auto", index=write_index(tmp_path / "zoo.json", other), registry=zoo)
        assert [(each.levelname, each.getMessage()) for each in caplog.records] == [("WARNING", handle.why)]

    def test_only_the_index_and_what_it_chose_are_fetched_and_once(
        self,
        unet: UNet2DConditionModel,
        zoo: Registry,
        hub: FakeHub,
        published: ZooEntry,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        index = Index("", (make_entry("user/other"), published))
        hub.put("user/zoo", {INDEX_NAME: encode_index(index)}, repo_type="dataset")
        monkeypatch.setenv("LINZOO_ZOO", "hf://datasets/user/zoo")
        linzoo.load(unet, "auto", registry=zoo).unload()
        assert not [each.path for each in hub.requests if "user/other" in each.path]
        asked = len(hub.requests)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        assert len(linzoo.load(unet, "auto", registry=zoo).modules) == 4
        assert len(hub.requests) == asked

    def test_a_mounted_unet_is_no_case_for_it(
        self, unet: UNet2DConditionModel, zoo: Registry, linfusion: Path, tmp_path: Path
    ) -> None:
        linzoo.load(unet, linfusion, registry=zoo)
        with pytest.raises(linzoo.LinzooError, match="already"):
            linzoo.load(unet, "auto", index=write_index(tmp_path / "zoo.json", make_entry()), registry=zoo)

    def test_a_named_checkpoint_has_no_index_and_no_why(
        self, unet: UNet2DConditionModel, zoo: Registry, linfusion: Path
    ) -> None:
        with pytest.raises(UsageError, match="index is where 'auto' chooses from"):
            linzoo.load(unet, linfusion, index="zoo.json", registry=zoo)
        assert linzoo.load(unet, linfusion, registry=zoo).why == ""

    def test_a_folder_of_that_name_can_be_named(
        self,
        unet: UNet2DConditionModel,
        zoo: Registry,
        linfusion: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        (tmp_path / "auto").symlink_to(linfusion)
        monkeypatch.chdir(tmp_path)
        assert linzoo.load(unet, Path("auto"), registry=zoo).why == ""

    @pytest.mark.parametrize(("folder", "doubtful"), [("teacher", False), ("other", True)])
    def test_mini_gets_what_ships_with_it(self, folder: str, doubtful: bool, caplog: Any) -> None:
        registry = build_registry(entry_points=False, env={})
        place = registry.variants.get_value("mini").components.locate() / "unet"
        unet = UNet2DConditionModel.from_pretrained(place)
        if folder == "other":
            unet.conv_in.weight.data[0] += 1e-3
        handle = linzoo.load(unet, "auto", registry=registry)
        assert (handle.source, len(handle.modules)) == ("mini-linfusion", 10)
        assert [each.levelname for each in caplog.records if each.name == "linzoo"] == ["WARNING"] * doubtful
        assert json.dumps(handle.why) in (
            '"mini-linfusion (built-in): made for exactly these weights (base hash cff95565d8ee50dc); kd 0.006283 in its distillation"',
            '"mini-linfusion (built-in): made for another model of variant mini, mini; kd 0.006283 in its distillation"',
        )
