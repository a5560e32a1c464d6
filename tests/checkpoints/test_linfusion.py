"""``config.json`` of a LinFusion checkpoint, in the official layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from linzoo.checkpoints.linfusion import LinFusionConfig, ModuleEntry, tensor_name
from linzoo.errors import CheckpointError

OFFICIAL = {
    "_class_name": "LinFusion",
    "_diffusers_version": "0.30.0",
    "modules_list": [
        {"module_name": "down_blocks.0.attentions.0.transformer_blocks.0.attn1", "dim_n": 320, "heads": 8,
         "projection_mid_dim": None},
        {"module_name": "mid_block.attentions.0.transformer_blocks.0.attn1", "dim_n": 1280, "heads": 8,
         "projection_mid_dim": 80},
    ],
}  # fmt: skip


def test_reads_what_the_official_code_writes(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(OFFICIAL))
    config = LinFusionConfig.from_folder(tmp_path)
    assert config.modules[1] == ModuleEntry("mid_block.attentions.0.transformer_blocks.0.attn1", 1280, 8, 80)
    assert config.modules[1].mixer_options == {"projection_mid_dim": 80}
    assert tensor_name(1, "to_q.weight") == "1.to_q.weight"


def test_writes_what_the_official_code_reads() -> None:
    document = LinFusionConfig.from_json(OFFICIAL, "x").to_json()
    assert document == {key: value for key, value in OFFICIAL.items() if key != "_diffusers_version"}


def test_other_mixers_add_their_id_and_options() -> None:
    entry = ModuleEntry("mid_block.attn1", 64, 4, mixer="mamba2", options={"expand": 2})
    document = LinFusionConfig((entry,)).to_json()
    assert document["modules_list"][0]["mixer"] == "mamba2"
    assert LinFusionConfig.from_json(document, "x").modules[0].mixer_options == {"expand": 2}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"module_name": ""}, "module_name ''"),
        ({"module_name": "../../etc"}, "module_name"),
        ({"module_name": 7}, "module_name 7"),
        ({"dim_n": 0}, "dim_n 0"),
        ({"dim_n": True}, "dim_n True"),
        ({"dim_n": 1 << 40}, "dim_n"),
        ({"heads": 7}, "heads 7"),
        ({"heads": "8"}, "heads '8'"),
        ({"projection_mid_dim": -2}, "projection_mid_dim -2"),
        ({"projection_mid_dim": 1.5}, "projection_mid_dim 1.5"),
        ({"mixer": ""}, "mixer ''"),
        ({"options": []}, "options"),
    ],
)
def test_damaged_entries_are_named(change: dict[str, Any], message: str) -> None:
    entry = {**OFFICIAL["modules_list"][0], **change}  # type: ignore[dict-item]
    with pytest.raises(CheckpointError, match=rf"x: modules_list\[0\] has {message}"):
        LinFusionConfig.from_json({"modules_list": [entry]}, "x")


@pytest.mark.parametrize("modules", [None, [], {}, "attn1"])
def test_configs_of_something_else(modules: Any) -> None:
    with pytest.raises(CheckpointError, match="no LinFusion checkpoint"):
        LinFusionConfig.from_json({"_class_name": "UNet2DConditionModel", "modules_list": modules}, "x")


def test_a_module_named_twice() -> None:
    twice = [OFFICIAL["modules_list"][0]] * 2
    with pytest.raises(CheckpointError, match="twice"):
        LinFusionConfig.from_json({"modules_list": twice}, "x")
    with pytest.raises(CheckpointError, match="a list and not an object"):
        LinFusionConfig.from_json({"modules_list": [[]]}, "x")
