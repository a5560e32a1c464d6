"""Every published SD-like UNet is recognised in both layouts; nothing else is ever taken for one of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fakes import LAYOUTS, unet_shapes, write_json, write_sparse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from linzoo.checkpoints.detection import inspect
from linzoo.checkpoints.features import fingerprint_of
from linzoo.checkpoints.lock import LOCK_NAME
from linzoo.checkpoints.matching import closest, fit, matches
from linzoo.errors import CheckpointError, PluginError, UndecidedError, UsageError
from linzoo.plugin import Resource
from linzoo.registry import Registry

VARIANTS = (
    "sd15",
    "sd15-inpaint",
    "sd15-instruct-pix2pix",
    "sd21-inpaint",
    "sdxl",
    "sdxl-inpaint",
    "sdxl-instruct-pix2pix",
)
KNOWN = {
    "sd2-depth": "Stable Diffusion 2 depth",
    "sd21-unclip-l": "Stable Diffusion 2.1 unCLIP-L",
    "sd21-unclip-h": "Stable Diffusion 2.1 unCLIP-H",
    "sd-x4-upscaler": "Stable Diffusion x4 upscaler",
    "sdxl-refiner": "SDXL refiner",
    "ssd-1b": "SSD-1B",
    "segmind-vega": "Segmind Vega",
    "koala-1b": "KOALA-1B",
    "koala-700m": "KOALA-700M",
    "kolors": "Kolors",
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", VARIANTS)
def test_variants_are_recognised(name: str, layout: str, registry: Registry, tmp_path: Path) -> None:
    file = write_sparse(tmp_path / "unet.safetensors", unet_shapes(name, layout))
    found = inspect(file, registry=registry)
    assert (found.kind, found.variant, found.prediction_type, found.layout) == (
        "unet",
        name,
        "epsilon",
        layout,
    )
    assert found.confidence == "medium"  # shapes are sure, epsilon is an assumption that says so
    assert found.evidence[-1].source == "default"
    assert found.decided
    assert found.problems == ()
    assert found.native_size == registry.variants.get_value(name).native_size["epsilon"]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", KNOWN)
def test_known_unets_are_named_and_not_converted(
    name: str, layout: str, registry: Registry, tmp_path: Path
) -> None:
    found = inspect(write_sparse(tmp_path / "unet.safetensors", unet_shapes(name, layout)), registry=registry)
    assert (found.kind, found.name, found.variant, found.prediction_type) == ("unet", KNOWN[name], None, None)
    assert found.decided
    with pytest.raises(CheckpointError, match=f"this is {KNOWN[name]}, which no installed variant covers"):
        found.require()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_sd21_without_evidence_is_undecided(layout: str, registry: Registry, tmp_path: Path) -> None:
    found = inspect(write_sparse(tmp_path / "v2.safetensors", unet_shapes("sd21", layout)), registry=registry)
    assert (found.variant, found.prediction_type, found.native_size, found.confidence) == (
        "sd21",
        None,
        None,
        "none",
    )
    assert not found.decided
    with pytest.raises(
        UndecidedError, match=r"(?s)undecided what it predicts.*--prediction-type epsilon"
    ) as error:
        found.require()
    assert error.value.exit_code == 3


@pytest.mark.parametrize("name", ["sd15-lcm", "sdxl-lcm"])
def test_embedded_guidance_is_noted(name: str, registry: Registry, tmp_path: Path) -> None:
    found = inspect(
        write_sparse(tmp_path / "lcm.safetensors", unet_shapes(name, "diffusers")), registry=registry
    )
    assert found.variant == name.removesuffix("-lcm")
    assert "guidance is embedded" in found.problems[0]


def test_the_eight_features_of_each_family() -> None:
    kolors = fingerprint_of(unet_shapes("kolors", "diffusers"), ldm=False)
    assert (kolors.vector_dim, kolors.hidden_dim, kolors.depth) == (5632, 4096, (0, 0, 2, 2, 10, 10))
    ssd = fingerprint_of(unet_shapes("ssd-1b", "ldm-bare"), ldm=True)
    assert (ssd.channels, ssd.context_dim, ssd.mid_depth, ssd.linear_projection) == (320, 2048, 0, True)
    assert fingerprint_of(unet_shapes("sd15", "ldm-bare"), ldm=True).linear_projection is False
    assert fingerprint_of({}, ldm=True) is None


KEY = st.integers(min_value=0, max_value=685)


@pytest.mark.parametrize("layout", LAYOUTS)
@given(place=KEY, change=st.sampled_from(["drop", "rename", "grow", "transpose"]))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_near_miss_is_never_taken_for_the_variant(
    layout: str, registry: Registry, tmp_path: Path, place: int, change: str
) -> None:
    shapes = unet_shapes("sd15", layout)
    name = list(shapes)[place]
    if change == "drop":
        del shapes[name]
    elif change == "rename":
        shapes[name + "_old"] = shapes.pop(name)
    elif change == "grow":
        shapes[name] = (shapes[name][0] + 1, *shapes[name][1:])
    else:
        shapes[name] = (*shapes[name], 1)
    found = inspect(write_sparse(tmp_path / "unet.safetensors", shapes), registry=registry)
    assert found.variant is None
    assert found.prediction_type is None
    assert not found.decided
    question = found.question()
    assert "closest variant: 685 of 686 tensors of sd15" in question
    assert name.removeprefix("model.diffusion_model.") in question
    with pytest.raises(UndecidedError):
        found.require()


@pytest.mark.parametrize("layout", LAYOUTS)
@given(data=st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_absurd_shapes_are_undecided_and_no_crash(
    layout: str, registry: Registry, tmp_path: Path, data: st.DataObject
) -> None:
    shapes = unet_shapes("kolors" if layout == "diffusers" else "sdxl", layout)
    telling = [name for name in shapes if name.endswith((
        "blocks.0.0.weight", "conv_in.weight", "attn2.to_k.weight", "proj_in.weight", "emb.0.0.weight", "linear_1.weight",
        "hid_proj.weight",
    ))]  # fmt: skip
    for name in data.draw(st.lists(st.sampled_from(telling), min_size=1, max_size=3)):
        shapes[name] = tuple(data.draw(st.lists(st.integers(0, 3), max_size=5)))
    found = inspect(write_sparse(tmp_path / "x.safetensors", shapes), registry=registry)
    assert (found.variant, found.prediction_type) == (None, None)


def test_the_near_miss_of_an_xl_file_names_what_is_missing(registry: Registry, tmp_path: Path) -> None:
    shapes = unet_shapes("sdxl", "ldm")
    gone = [name for name in shapes if ".middle_block.1.transformer_blocks.9.attn1." in name][:4]
    for name in gone:
        del shapes[name]
    found = inspect(write_sparse(tmp_path / "xl.safetensors", shapes), registry=registry)
    assert "closest variant: 1676 of 1680 tensors of sdxl; missing: middle_block.1" in found.question()
    assert "and 1 more" in found.question()


def test_named_by_flag(registry: Registry, tmp_path: Path) -> None:
    file = write_sparse(tmp_path / "unet.safetensors", unet_shapes("sd15", "ldm"))
    found = inspect(file, registry=registry, variant="sd15", prediction_type="v_prediction")
    assert (found.variant, found.prediction_type, found.confidence) == ("sd15", "v_prediction", "certain")
    assert found.native_size == 512
    with pytest.raises(CheckpointError, match="not the 'sdxl' that --variant says"):
        inspect(file, registry=registry, variant="sdxl")
    with pytest.raises(PluginError, match="unknown variant 'sd51'"):
        inspect(file, registry=registry, variant="sd51")
    with pytest.raises(UsageError, match="no prediction type 'noise'"):
        inspect(file, registry=registry, prediction_type="noise")


def test_extra_tensors_are_noted_and_linear_attention_is_recognised(
    registry: Registry, tmp_path: Path
) -> None:
    shapes = unet_shapes("sd15", "diffusers") | {"conv_in.lokr": (1,), "down_blocks.0.extra.weight": (2, 2)}
    found = inspect(write_sparse(tmp_path / "a.safetensors", shapes), registry=registry)
    assert found.variant == "sd15"
    assert found.problems == (
        "2 tensors that sd15 does not have are ignored: conv_in.lokr, down_blocks.0.extra.weight",
    )
    shapes |= {"down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q_.0.weight": (320, 320)}
    file = write_sparse(tmp_path / "b.safetensors", shapes)
    merged = inspect(file, registry=registry)
    assert (merged.kind, merged.variant, merged.confidence) == ("linear-unet", None, "high")
    assert merged.name == "a UNet with LinFusion attention merged into it"
    assert merged.evidence[-1].detail == "linear attention is already in it ('to_q_' tensors)"
    with pytest.raises(CheckpointError, match="linear already; name the pipeline of its teacher"):
        merged.require()
    with pytest.raises(
        CheckpointError, match="not the 'sd15' that --variant says: linear attention is already"
    ):
        inspect(file, registry=registry, variant="sd15")


def test_linear_attention_is_recognised_beside_the_config_of_a_stock_unet(
    registry: Registry, tmp_path: Path
) -> None:
    shapes = unet_shapes("sd15", "diffusers")
    shapes |= {"down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q_.0.weight": (320, 320)}
    write_sparse(tmp_path / "diffusion_pytorch_model.safetensors", shapes)
    write_json(tmp_path / "config.json", {"_class_name": "UNet2DConditionModel"})
    assert inspect(tmp_path, registry=registry).kind == "linear-unet"
    with pytest.raises(CheckpointError, match="linear attention is already in it"):
        inspect(tmp_path, registry=registry, variant="sd15")


OTHERS = {
    "lora": ["lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight", "lora_te_text_model.alpha"],
    "lora-peft": ["unet.down_blocks.0.attentions.0.to_q.lora_A.weight"],
    "lora-old": ["down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.down.weight"],
    "lora-lycoris": ["lycoris_unet_down_blocks_0.hada_w1_a"],
    "controlnet": ["control_model.input_blocks.0.0.weight", "control_model.zero_convs.0.0.weight"],
    "controlnet-diffusers": ["controlnet_cond_embedding.conv_in.weight", "conv_in.weight", "down_blocks.0.resnets.0.conv1.weight", "time_embedding.linear_1.weight"],
    "vae": ["first_stage_model.encoder.conv_in.weight", "first_stage_model.decoder.conv_in.weight"],
    "vae-diffusers": ["encoder.down_blocks.0.resnets.0.conv1.weight", "decoder.up_blocks.0.resnets.0.conv1.weight"],
    "text-encoder": ["text_model.embeddings.token_embedding.weight"],
    "text-encoder-openclip": ["cond_stage_model.model.token_embedding.weight"],
    "linfusion": ["0.to_q.weight", "0.to_out.0.weight", "0.to_q_.0.weight"],
}  # fmt: skip


@pytest.mark.parametrize("case", OTHERS)
def test_what_is_no_unet_is_named(case: str, registry: Registry, tmp_path: Path) -> None:
    kind = next(
        each for each in ("lora", "controlnet", "vae", "text-encoder", "linfusion") if case.startswith(each)
    )
    found = inspect(
        write_sparse(tmp_path / "x.safetensors", dict.fromkeys(OTHERS[case], (2, 2))), registry=registry
    )
    assert (found.kind, found.variant, found.prediction_type, found.decided) == (kind, None, None, True)
    with pytest.raises(CheckpointError, match=r"this is an? .*; a UNet is needed here"):
        found.require()
    with pytest.raises(CheckpointError, match=r"not the 'sd15' that --variant says: .* named as"):
        inspect(tmp_path / "x.safetensors", registry=registry, variant="sd15")


@pytest.mark.parametrize("class_name", ["LinFusion", "ControlNetModel", "AutoencoderKL"])
def test_component_folders_are_told_by_their_class(
    class_name: str, registry: Registry, tmp_path: Path
) -> None:
    write_json(tmp_path / "config.json", {"_class_name": class_name})
    write_sparse(tmp_path / "diffusion_pytorch_model.safetensors", {"conv_in.weight": (4, 4, 3, 3)})
    found = inspect(tmp_path, registry=registry)
    assert (
        found.kind
        == {"LinFusion": "linfusion", "ControlNetModel": "controlnet", "AutoencoderKL": "vae"}[class_name]
    )


@pytest.mark.parametrize(
    ("variant", "prediction_type", "says", "size"),
    [
        ("sdxl", "v_prediction", ["sdxl", "v_prediction"], 1024),
        ("theirs", "epsilon", [None, "epsilon"], None),
        ("sd15", "x0", ["sd15"], None),
        ("sd15", None, ["sd15"], None),
        (None, 3, [], None),
    ],
)
def test_a_linfusion_checkpoint_is_for_what_its_lock_file_says(
    variant: Any,
    prediction_type: Any,
    says: list[str | None],
    size: int | None,
    registry: Registry,
    tmp_path: Path,
) -> None:
    write_json(tmp_path / "config.json", {"_class_name": "LinFusion"})
    write_sparse(tmp_path / "diffusion_pytorch_model.safetensors", {"0.to_q_.0.weight": (4, 4)})
    detection = {"variant": variant, "prediction_type": prediction_type}
    made = {"source": {"repo": "hf://user/tune", "commit": "abc"}, "init": {"id": "teacher"}}
    write_json(tmp_path / LOCK_NAME, {"lock_version": 1, "outputs": {}, "detection": detection, **made})
    found = inspect(tmp_path, registry=registry)
    assert [each.says for each in found.evidence if each.source == "lock"] == says
    if variant in says:
        told = next(each.detail for each in found.evidence if each.says == variant)
        assert told == f"{LOCK_NAME}: made from hf://user/tune@abc by init recipe 'teacher', never distilled"
    assert (found.kind, found.decided) == ("linfusion", True)
    assert found.variant == (variant if variant in says else None)
    assert found.prediction_type == (prediction_type if prediction_type in says else None)
    assert found.native_size == size
    assert found.confidence == ("none" if None in says else "high")
    with pytest.raises(CheckpointError, match=r"a UNet is needed here"):
        found.require()
    with pytest.raises(CheckpointError, match=r"not the 'sd15' that --variant says"):
        inspect(tmp_path, registry=registry, variant="sd15")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"init": {"id": "delta"}, "linfusion": {"repo": "hf://user/linear", "commit": "def"}},
         "by init recipe 'delta' out of the weights of hf://user/linear@def"),
        ({"init": {"id": "teacher"}, "distill": {"recipe": {"id": "sd15"}}},
         "by init recipe 'teacher', distilled by recipe 'sd15'"),
        ({"distill": {"recipe": None}}, ""),
        ({"source": {"repo": "nonsense", "commit": "abc"}, "init": {"id": 3}}, None),
    ],
)  # fmt: skip
def test_the_history_of_a_linfusion_checkpoint(
    changes: dict[str, Any], says: str | None, registry: Registry, tmp_path: Path
) -> None:
    write_json(tmp_path / "config.json", {"_class_name": "LinFusion"})
    write_sparse(tmp_path / "diffusion_pytorch_model.safetensors", {"0.to_q_.0.weight": (4, 4)})
    lock = {"lock_version": 1, "outputs": {}, "detection": {"variant": "sd15"}}
    write_json(
        tmp_path / LOCK_NAME, {**lock, "source": {"repo": "hf://user/tune", "commit": "abc"}, **changes}
    )
    detail = inspect(tmp_path, registry=registry).evidence[-1].detail
    if says is None:
        assert detail.startswith(f"{LOCK_NAME}: made from a model that is not named")
    else:
        assert detail == f"{LOCK_NAME}: made from hf://user/tune@abc {says}".rstrip()


@pytest.mark.parametrize(
    ("text", "problem"),
    [("{", "not valid JSON"), ('{"lock_version": 99, "outputs": {}}', "written by a newer linzoo")],
)
def test_a_lock_file_that_cannot_be_read_is_a_problem_of_the_checkpoint(
    text: str, problem: str, registry: Registry, tmp_path: Path
) -> None:
    write_json(tmp_path / "config.json", {"_class_name": "LinFusion"})
    write_sparse(tmp_path / "diffusion_pytorch_model.safetensors", {"0.to_q_.0.weight": (4, 4)})
    (tmp_path / LOCK_NAME).write_text(text)
    found = inspect(tmp_path, registry=registry)
    assert (found.kind, found.variant) == ("linfusion", None)
    assert problem in found.problems[-1]


def test_what_is_nothing_known_is_unknown(registry: Registry, tmp_path: Path) -> None:
    found = inspect(write_sparse(tmp_path / "x.safetensors", {"foo": (2, 2)}), registry=registry)
    assert (found.kind, found.decided, found.confidence) == ("unknown", False, "none")
    with pytest.raises(
        UndecidedError,
        match=r"(?s)1 of 1 tensors are named as nothing that linzoo knows: foo.*no flag settles it",
    ):
        found.require()


@pytest.mark.parametrize("beside", ["vae", "vae-diffusers", "text-encoder", "text-encoder-openclip"])
def test_a_unet_of_unknown_names_is_not_taken_for_what_lies_beside_it(
    beside: str, registry: Registry, tmp_path: Path
) -> None:
    names = [*OTHERS[beside], "diffusion_model.input_blocks.0.0.weight"]
    found = inspect(write_sparse(tmp_path / "x.safetensors", dict.fromkeys(names, (2, 2))), registry=registry)
    assert (found.kind, found.decided) == ("unknown", False)
    assert "diffusion_model.input_blocks.0.0.weight" in found.question()


def test_another_kind_of_network_behind_the_prefix_is_no_unet(registry: Registry, tmp_path: Path) -> None:
    names = (
        "model.diffusion_model.double_blocks.0.img_attn.qkv.weight",
        "model.diffusion_model.img_in.weight",
    )
    found = inspect(write_sparse(tmp_path / "x.safetensors", dict.fromkeys(names, (2, 2))), registry=registry)
    assert (found.kind, found.decided) == ("unknown", False)


def _with_variants(registry: Registry, *extra) -> SimpleNamespace:
    """A registry of the built-in variants and more, which resolves references by id."""
    plugin = SimpleNamespace(name="third-party", origin="installed")
    entries = [
        *registry.variants,
        *(SimpleNamespace(value=each, plugin=plugin, full_id=f"third-party::{each.id}") for each in extra),
    ]

    class Variants(list):
        def resolve(self, name, home=None):
            return next(entry for entry in self if entry.value.id == name)

    return SimpleNamespace(variants=Variants(entries))


def test_of_two_matches_the_refining_one_wins_and_strangers_stay_undecided(
    registry: Registry, tmp_path: Path
) -> None:
    sd15 = registry.variants.get_value("sd15")
    fingerprint = sd15.fingerprint

    shapes = unet_shapes("sd15", "diffusers")

    def found(*extra) -> list[str]:
        return [
            each.variant.id
            for each in matches(_with_variants(registry, *extra), fingerprint, shapes, ldm=False)
        ]

    anime = replace(sd15, id="anime", refines="sd15")
    assert found() == ["sd15"]
    assert found(anime) == ["anime"]
    assert found(anime, replace(sd15, id="chibi", refines="anime")) == ["chibi"]
    assert found(replace(sd15, id="turbo", before=("sd15",))) == ["turbo"]
    broken = replace(anime, components=Resource("linzoo_sd15", "nowhere"))
    assert found(broken) == ["sd15"]
    assert found(replace(sd15, id="other")) == ["sd15", "other"]
    both = inspect(
        write_sparse(tmp_path / "x.safetensors", unet_shapes("sd15", "ldm")),
        registry=_with_variants(registry, replace(sd15, id="other")),
    )
    assert both.variant is None
    assert "linzoo_sd15::sd15, third-party::other" in both.question()


def test_a_variant_with_broken_configs_hides_no_other(registry: Registry) -> None:
    broken = replace(
        registry.variants.get_value("sd15"), id="broken", components=Resource("linzoo_sd15", "nowhere")
    )
    shapes = unet_shapes("sd15", "diffusers")
    del shapes["conv_in.bias"]
    assert closest(_with_variants(registry, broken), shapes, ldm=False).variant.id == "sd15"


@pytest.mark.parametrize(
    "config", [{}, {"block_out_channels": 3}, {"down_block_types": [], "up_block_types": []}]
)
def test_a_broken_unet_config_names_its_plugin(
    config: dict, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_json(tmp_path / "toys_broken" / "unet" / "config.json", config)
    (tmp_path / "toys_broken" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    broken = replace(
        registry.variants.get_value("sd15"), id="broken", components=Resource("toys_broken", ".")
    )
    entry = _with_variants(registry, broken).variants[-1]
    with pytest.raises(PluginError, match=r"'third-party::broken' bundles no UNet config that can be used"):
        fit(entry, {}, ldm=True)
