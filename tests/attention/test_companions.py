"""What people use beside LinFusion goes on working: LoRA, IP-Adapter, ControlNet, PAG, processors, slicing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from counting import Calls
from diffusers import (
    AutoPipelineForImage2Image,
    ControlNetModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionPAGPipeline,
)
from diffusers.hooks import HookRegistry, LayerSkipConfig, apply_layer_skip
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0, SlicedAttnProcessor
from peft import LoHaConfig, LoraConfig, PeftConfig
from tiny import (
    SD_SITES,
    SDXL_SITES,
    draw,
    self_attentions,
    tiny_image_encoder,
    tiny_sd,
    tiny_sdxl,
    tiny_unet,
    write_linfusion,
)

import linzoo
from linzoo.attention.errors import UnsupportedAttentionError
from linzoo.attention.mount import mounted_layers

STEPS = 2
PER_PICTURE = STEPS * SD_SITES


def lora(unet: torch.nn.Module, seed: int = 5) -> dict[str, torch.Tensor]:
    """A LoRA on q, k, v and out of every self-attention, in diffusers' names."""
    random = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, site in self_attentions(unet).items():
        for leaf in ("to_q", "to_k", "to_v", "to_out.0"):
            out_features, in_features = site.get_submodule(leaf).weight.shape
            key = f"unet.{name}.{leaf}"
            tensors[f"{key}.lora_A.weight"] = 0.3 * torch.randn(2, in_features, generator=random)
            tensors[f"{key}.lora_B.weight"] = 0.3 * torch.randn(out_features, 2, generator=random)
    return tensors


def gap(first: torch.Tensor, second: torch.Tensor) -> float:
    return (first - second).abs().max().item()


@pytest.mark.parametrize(("make", "sites"), [(tiny_sd, SD_SITES), (tiny_sdxl, SDXL_SITES)])
def test_pictures(tmp_path: Path, calls: Calls, make: object, sites: int) -> None:
    pipe = make()
    teacher = draw(pipe)
    handle = linzoo.load(pipe, write_linfusion(pipe.unet, tmp_path))
    student, count = calls.during(lambda: draw(pipe))
    assert count == STEPS * sites
    assert gap(student, teacher) > 1e-4
    handle.unload()
    assert torch.equal(draw(pipe), teacher)


def test_a_pipeline_made_from_another_shares_its_mounted_unet(tmp_path: Path, calls: Calls) -> None:
    pipe = tiny_sd()
    linzoo.load(pipe, write_linfusion(pipe.unet, tmp_path))
    redraw = AutoPipelineForImage2Image.from_pipe(pipe)
    redraw.set_progress_bar_config(disable=True)
    start = torch.rand(1, 3, 16, 16)
    _, count = calls.during(lambda: draw(redraw, image=start, strength=1.0, height=None, width=None))
    assert count == PER_PICTURE


@pytest.mark.parametrize("of_teacher", [False, True])
@pytest.mark.parametrize("min_tokens", [0, 65])
def test_a_lora_means_the_same_before_and_after_mounting(
    tmp_path: Path, calls: Calls, of_teacher: bool, min_tokens: int
) -> None:
    before, after, never = tiny_sd(), tiny_sd(), tiny_sd()
    folder = write_linfusion(before.unet, tmp_path, of_teacher=of_teacher)
    weights = lora(before.unet)
    bare = linzoo.load(never, folder, min_tokens=min_tokens)
    without = draw(never)
    bare.unload()
    never.load_lora_weights(dict(weights))
    teacher = draw(never)

    before.load_lora_weights(dict(weights))
    handles = [linzoo.load(before, folder, min_tokens=min_tokens)]
    handles.append(linzoo.load(after, folder, min_tokens=min_tokens))
    after.load_lora_weights(dict(weights))

    pictures = [calls.during(lambda pipe=pipe: draw(pipe)) for pipe in (before, after)]
    expected = 0 if min_tokens else PER_PICTURE
    assert [count for _, count in pictures] == [expected, expected]
    assert torch.equal(pictures[0][0], pictures[1][0])
    assert gap(pictures[0][0], without) > 1e-3
    if min_tokens:
        torch.testing.assert_close(pictures[0][0], teacher, atol=1e-5, rtol=1e-4)
    for handle, pipe in zip(handles, (before, after), strict=True):
        with handle.disabled():
            assert torch.equal(draw(pipe), teacher)
        handle.unload()
        assert torch.equal(draw(pipe), teacher)
        pipe.unload_lora_weights()


@pytest.mark.parametrize("min_tokens", [0, 65])
def test_a_lora_is_scaled_fused_unfused_and_unloaded(tmp_path: Path, calls: Calls, min_tokens: int) -> None:
    pipe, never = tiny_sd(), tiny_sd()
    weights = lora(pipe.unet)
    never.load_lora_weights(dict(weights))
    handle = linzoo.load(pipe, write_linfusion(pipe.unet, tmp_path), min_tokens=min_tokens)
    without = draw(pipe)
    pipe.load_lora_weights(dict(weights), adapter_name="a")
    loaded = draw(pipe)
    pipe.set_adapters(["a"], [0.5])
    assert gap(draw(pipe), loaded) > 1e-3
    pipe.set_adapters(["a"], [1.0])
    pipe.fuse_lora()
    fused, count = calls.during(lambda: draw(pipe))
    assert count == (0 if min_tokens else PER_PICTURE)
    assert gap(fused, loaded) < 1e-5
    with handle.disabled():  # a fused LoRA moves to the teacher's weights and back
        never.fuse_lora()
        assert gap(draw(pipe), draw(never)) < 1e-5
    assert gap(draw(pipe), loaded) < 1e-5
    pipe.unfuse_lora()
    assert gap(draw(pipe), loaded) < 1e-5
    pipe.disable_lora()
    assert gap(draw(pipe), without) < 1e-5
    pipe.enable_lora()
    pipe.unload_lora_weights()
    assert gap(draw(pipe), without) < 1e-5


def test_a_lora_in_kohyas_names_reaches_the_mounted_layers(tmp_path: Path, calls: Calls) -> None:
    pipe = tiny_sd()
    weights = {}
    for name, tensor in lora(pipe.unet).items():
        module, kind = name.removeprefix("unet.").rsplit(".lora_", 1)
        key = f"lora_unet_{module.replace('.', '_')}"
        weights[f"{key}.lora_{'down' if kind.startswith('A') else 'up'}.weight"] = tensor
        weights[f"{key}.alpha"] = torch.tensor(2.0)
    reference = tiny_sd()
    folder = write_linfusion(pipe.unet, tmp_path)
    linzoo.load(reference, folder)
    reference.load_lora_weights(lora(pipe.unet))
    linzoo.load(pipe, folder)
    pipe.load_lora_weights(weights)
    picture, count = calls.during(lambda: draw(pipe))
    assert count == PER_PICTURE
    assert torch.equal(picture, draw(reference))


@pytest.mark.parametrize("min_tokens", [0, 17])
def test_a_lora_on_q_and_v_touches_neither_the_branches_nor_the_teachers_layers(
    tmp_path: Path, min_tokens: int
) -> None:
    unet = tiny_unet()
    handle = linzoo.load(unet, write_linfusion(unet, tmp_path), min_tokens=min_tokens)
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    wrapped = [name for name, module in unet.named_modules() if hasattr(module, "lora_A")]
    assert not any(".to_q_" in name or ".teacher" in name for name in wrapped)
    assert len([name for name in wrapped if ".attn1." in name]) == 2 * SD_SITES
    handle.unload()
    assert not any("to_q_" in name or "base_layer.base" in name for name, _ in unet.named_modules())


def test_a_lora_with_bias_is_whole_on_the_teachers_softmax(tmp_path: Path) -> None:
    unet = tiny_unet()
    site = next(iter(self_attentions(unet).values()))
    unet.add_adapter(LoraConfig(r=2, target_modules=["attn1.to_out.0"], lora_bias=True))
    up = site.to_out[0].lora_B["default"]
    up.weight.normal_()
    up.bias.normal_()
    x = torch.randn(1, 4, site.query_dim)
    teacher = site(x)
    linzoo.load(unet, write_linfusion(unet, tmp_path), min_tokens=5)
    torch.testing.assert_close(site(x), teacher)


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(r=2, target_modules=["attn1.to_q"], use_dora=True),
        LoHaConfig(r=2, target_modules=["attn1.to_q"]),
    ],
)
def test_other_adapters_are_refused_only_where_the_teachers_softmax_would_need_them(
    tmp_path: Path, config: PeftConfig
) -> None:
    unet = tiny_unet()
    handle = linzoo.load(unet, write_linfusion(unet, tmp_path), min_tokens=5)
    unet.add_adapter(config)
    layer = next(iter(handle.modules.values()))
    layer(torch.zeros(1, 5, layer.query_dim))
    with pytest.raises(UnsupportedAttentionError, match="DoRA, LoHa"):
        layer(torch.zeros(1, 4, layer.query_dim))


@pytest.mark.filterwarnings("ignore:Already found a .peft_config. attribute")
def test_adapters_come_and_go_while_mounted(tmp_path: Path) -> None:
    unet = tiny_unet()
    before = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    handle = linzoo.load(unet, write_linfusion(unet, tmp_path), min_tokens=17)
    for name in ("a", "b"):
        unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_out.0"], init_lora_weights=False), name)
    unet.set_adapters(["a", "b"], [0.5, 0.7])
    unet.delete_adapters("a")
    with handle.disabled():
        unet.delete_adapters("b")
    assert not any("lora" in name for name in unet.state_dict())
    unet.unload_lora()
    handle.unload()
    after = unet.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def ip_adapter(unet: torch.nn.Module) -> dict[str, dict[str, torch.Tensor]]:
    width = unet.config.cross_attention_dim
    random = torch.Generator().manual_seed(3)
    projection = {"proj.weight": 0.1 * torch.randn(4 * width, width, generator=random)}
    projection |= {"proj.bias": torch.zeros(4 * width)}
    projection |= {"norm.weight": torch.ones(width), "norm.bias": torch.zeros(width)}
    layers, number = {}, 1
    for name in unet.attn_processors:
        if name.endswith("attn2.processor"):
            hidden = unet.get_submodule(name.removesuffix(".processor")).to_q.out_features
            for key in ("to_k_ip", "to_v_ip"):
                layers[f"{number}.{key}.weight"] = torch.randn(hidden, width, generator=random)
            number += 2
    return {"image_proj": projection, "ip_adapter": layers}


@pytest.mark.parametrize("mount_first", [True, False])
def test_ip_adapter(tmp_path: Path, calls: Calls, mount_first: bool) -> None:
    pipe = tiny_sd(**tiny_image_encoder())
    folder = write_linfusion(pipe.unet, tmp_path)
    bare = linzoo.load(pipe, folder)
    without = draw(pipe)
    if not mount_first:
        bare.unload()
    pipe.load_ip_adapter(ip_adapter(pipe.unet), subfolder=None, weight_name=None)
    if not mount_first:
        linzoo.load(pipe, folder)
    picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    pipe.set_ip_adapter_scale(0.8)
    adapted, count = calls.during(lambda: draw(pipe, ip_adapter_image=picture))
    assert count == PER_PICTURE
    assert gap(adapted, without) > 1e-3
    pipe.set_ip_adapter_scale(0.0)
    torch.testing.assert_close(draw(pipe, ip_adapter_image=picture), without, atol=1e-5, rtol=1e-4)
    pipe.unload_ip_adapter()
    plain, count = calls.during(lambda: draw(pipe))
    assert count == PER_PICTURE
    torch.testing.assert_close(plain, without, atol=1e-5, rtol=1e-4)


def test_controlnet_steers_a_mounted_unet(tmp_path: Path, calls: Calls) -> None:
    torch.manual_seed(2)
    net = ControlNetModel.from_unet(tiny_unet(), conditioning_embedding_out_channels=(16, 32)).eval()
    for convolution in (*net.controlnet_down_blocks, net.controlnet_cond_embedding.conv_out):
        convolution.weight.normal_(0, 0.1)
    pipe = tiny_sd(StableDiffusionControlNetPipeline, controlnet=net)
    linzoo.load(pipe, write_linfusion(pipe.unet, tmp_path))
    random = torch.Generator().manual_seed(0)
    pictures = [torch.rand(1, 3, 16, 16, generator=random) for _ in range(2)]
    steered = [calls.during(lambda picture=picture: draw(pipe, image=picture)) for picture in pictures]
    assert [count for _, count in steered] == [PER_PICTURE, PER_PICTURE]
    assert gap(steered[0][0], steered[1][0]) > 1e-5


def test_processors_slicing_and_fused_projections_do_not_bring_softmax_back(
    tmp_path: Path, calls: Calls
) -> None:
    pipe = tiny_sd()
    teacher = draw(pipe)
    handle = linzoo.load(pipe, write_linfusion(pipe.unet, tmp_path))
    student = draw(pipe)
    unet = pipe.unet

    def check(what: str) -> None:
        picture, count = calls.during(lambda: draw(pipe))
        assert count == PER_PICTURE, what
        torch.testing.assert_close(picture, student, atol=1e-5, rtol=1e-4, msg=what)

    for processor in (AttnProcessor(), AttnProcessor2_0(), SlicedAttnProcessor(2)):
        unet.set_attn_processor(processor)
        check(type(processor).__name__)
    unet.set_default_attn_processor()
    check("default")
    pipe.enable_attention_slicing("auto")
    check("slicing")
    pipe.disable_attention_slicing()
    check("slicing off")
    keys = set(unet.state_dict())
    pipe.fuse_qkv_projections(vae=False)
    assert not any("attn1.to_qkv" in key for key in set(unet.state_dict()) - keys)
    check("fused")
    handle.unload()
    torch.testing.assert_close(draw(pipe), teacher, atol=1e-5, rtol=1e-4)
    pipe.unfuse_qkv_projections(vae=False)
    torch.testing.assert_close(draw(pipe), teacher, atol=1e-5, rtol=1e-4)


def test_an_unknown_processor_is_ignored_with_one_warning(tmp_path: Path, calls: Calls) -> None:
    class Custom:
        def __call__(self, attn: object, hidden_states: torch.Tensor, **_: object) -> torch.Tensor:
            return hidden_states

    unet = tiny_unet()
    handle = linzoo.load(unet, write_linfusion(unet, tmp_path))
    for layer in handle.modules.values():
        layer.set_processor(Custom())
    layer = next(iter(handle.modules.values()))
    x = torch.randn(1, 4, layer.query_dim)
    with pytest.warns(UserWarning, match=r"Custom is ignored") as warned:
        counts = [calls.during(lambda: layer(x))[1] for _ in range(2)]
    assert counts == [1, 1]
    assert len(warned) == 1


@pytest.mark.parametrize("guidance", [5.0, 0.0])
@pytest.mark.parametrize("min_tokens", [0, 65])
def test_perturbed_attention_guidance(tmp_path: Path, calls: Calls, guidance: float, min_tokens: int) -> None:
    pipe = tiny_sd(StableDiffusionPAGPipeline, pag_applied_layers=["attn1"])

    def guided(scale: float) -> torch.Tensor:
        return draw(pipe, pag_scale=scale, guidance_scale=guidance)

    teacher = {scale: guided(scale) for scale in (0.0, 3.0)}
    handle = linzoo.load(pipe, write_linfusion(pipe.unet, tmp_path), min_tokens=min_tokens)
    student = {}
    for scale in (0.0, 3.0):
        student[scale], count = calls.during(lambda scale=scale: guided(scale))
        assert count == (0 if min_tokens else PER_PICTURE)
    assert gap(student[3.0], student[0.0]) > 1e-3
    if min_tokens:
        for scale in (0.0, 3.0):
            torch.testing.assert_close(student[scale], teacher[scale], atol=1e-5, rtol=1e-4)
    handle.unload()
    assert torch.equal(guided(0.0), teacher[0.0])


def test_perturbed_tokens_look_at_themselves(tmp_path: Path) -> None:
    """PAG's perturbed part is the checkpoint's out(v(x)), beside the others' linear attention."""
    from diffusers.models.attention_processor import (
        PAGCFGIdentitySelfAttnProcessor2_0,
        PAGIdentitySelfAttnProcessor2_0,
    )

    unet = tiny_unet()
    layer = next(iter(linzoo.load(unet, write_linfusion(unet, tmp_path)).modules.values()))
    x = torch.randn(6, 9, layer.query_dim)
    linear, alone = layer(x), layer.to_out[0](layer.to_v(x))
    for processor, perturbed in (
        (PAGIdentitySelfAttnProcessor2_0(), 3),
        (PAGCFGIdentitySelfAttnProcessor2_0(), 2),
    ):
        layer.processor = processor
        got = layer(x)
        torch.testing.assert_close(got[:-perturbed], linear[:-perturbed])
        torch.testing.assert_close(got[-perturbed:], alone[-perturbed:])


def test_a_guiders_perturbed_attention_reaches_the_mounted_layers(tmp_path: Path, calls: Calls) -> None:
    """``PerturbedAttentionGuidance`` has softmax attention return its values for the length of one call."""
    unet = tiny_unet()
    name, layer = next(iter(self_attentions(unet).items()))
    transformer = unet.get_submodule(name.split(".transformer_blocks")[0])
    linzoo.load(unet, write_linfusion(unet, tmp_path))
    x = torch.randn(2, 9, layer.query_dim)
    plain, count = calls.during(lambda: layer(x))
    assert count == 1
    skip = LayerSkipConfig(
        indices=[0], fqn="transformer_blocks", skip_attention=False, skip_attention_scores=True, skip_ff=False
    )
    apply_layer_skip(transformer, skip)
    perturbed, count = calls.during(lambda: layer(x))
    assert count == 0
    torch.testing.assert_close(perturbed, layer.to_out[0](layer.to_v(x)))
    HookRegistry.check_if_exists_or_initialize(transformer).remove_hook("layer_skip_hook", recurse=True)
    again, count = calls.during(lambda: layer(x))
    assert count == 1
    assert torch.equal(again, plain)


def test_softmax_attention_is_not_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some put another in its place, for half precision on a GPU alone."""
    unet = tiny_unet()
    layer = next(iter(linzoo.load(unet, write_linfusion(unet, tmp_path)).modules.values()))
    x = torch.randn(2, 9, layer.query_dim)
    before = layer(x)
    monkeypatch.delattr(torch.nn.functional, "scaled_dot_product_attention")
    assert torch.equal(layer(x), before)


def test_self_attention_guidance_is_refused(tmp_path: Path) -> None:
    from diffusers import StableDiffusionSAGPipeline

    pipe = tiny_sd(StableDiffusionSAGPipeline)
    linzoo.load(pipe, write_linfusion(pipe.unet, tmp_path))
    with pytest.raises(UnsupportedAttentionError, match=r"SAG.*attention maps"):
        draw(pipe, sag_scale=0.75)


def test_a_unet_with_time_has_only_its_pictures_mounted(tmp_path: Path, calls: Calls) -> None:
    from diffusers import MotionAdapter, UNetMotionModel

    adapter = MotionAdapter(
        block_out_channels=(32, 64),
        motion_layers_per_block=1,
        motion_norm_num_groups=2,
        motion_num_attention_heads=4,
        motion_mid_block_layers_per_block=1,
    )
    stock = tiny_unet()
    unet = UNetMotionModel.from_unet2d(stock, adapter).eval()
    linzoo.load(unet, write_linfusion(stock, tmp_path))
    assert len(mounted_layers(unet)) == SD_SITES
    assert not any("motion_modules" in name for name in mounted_layers(unet))
    text = torch.randn(2, 5, 32)
    _, count = calls.during(lambda: unet(torch.randn(1, 4, 2, 8, 8), 1, text).sample)
    assert count == SD_SITES
