"""Mounting as such: what it changes, what it leaves, and that it can be undone bit for bit."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from counting import Calls
from diffusers import ControlNetModel, UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from tiny import CONTEXT, SD_SITES, draw, self_attentions, tiny_sd, tiny_unet, write_linfusion

import linzoo
from linzoo.attention import mount as mount_module
from linzoo.attention.errors import MountError, UnsupportedAttentionError
from linzoo.attention.handle import read_linfusion
from linzoo.attention.linfusion import LinFusion
from linzoo.attention.mount import mount, mounted_layers, unmount
from linzoo.attention.mounted import softmax
from linzoo.checkpoints.components import component_config
from linzoo.errors import LinzooError, UsageError


def run(unet: torch.nn.Module, size: int = 8, batch: int = 1) -> torch.Tensor:
    random = torch.Generator().manual_seed(1)
    latents = torch.randn(batch, 4, size, size, generator=random)
    text = torch.randn(batch, 5, CONTEXT, generator=random)
    return unet(latents, torch.tensor(1), text).sample


def state(unet: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in unet.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return list(first) == list(second) and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("of_teacher", [False, True])
def test_disabled_and_unload_give_the_teacher_back_bit_for_bit(
    tmp_path: Path, calls: Calls, of_teacher: bool
) -> None:
    unet = tiny_unet()
    before, teacher = state(unet), run(unet)
    handle = linzoo.load(unet, write_linfusion(unet, tmp_path, of_teacher=of_teacher))
    student, count = calls.during(lambda: run(unet))
    assert count == SD_SITES
    assert (student - teacher).abs().max() > 1e-3
    with handle.disabled():
        again, count = calls.during(lambda: run(unet))
        assert count == 0
        assert torch.equal(again, teacher)
        assert same(state(unet), before)
        with handle.disabled():
            assert handle.modules == {}
    mounted_again, count = calls.during(lambda: run(unet))
    assert count == SD_SITES
    assert torch.equal(mounted_again, student)
    handle.unload()
    assert same(state(unet), before)
    assert torch.equal(run(unet), teacher)
    assert {type(site) for site in self_attentions(unet).values()} == {Attention}
    handle.unload()


def test_weights_that_the_teacher_has_too_are_held_once(tmp_path: Path) -> None:
    unet = tiny_unet()
    bytes_before = sum(parameter.nbytes for parameter in unet.parameters())
    sites = self_attentions(unet)
    leaves = {name: site.to_q for name, site in sites.items()}
    handle = linzoo.load(unet, write_linfusion(unet, tmp_path, of_teacher=True), min_tokens=1)
    branches = sum(p.nbytes for name, p in handle.linfusion.named_parameters() if ".to_q_." in name) * 2
    assert sum(parameter.nbytes for parameter in unet.parameters()) == bytes_before + branches
    for index, (name, layer) in enumerate(handle.modules.items()):
        assert len(layer.teacher) == 0
        assert layer.to_q is leaves[name]
        assert handle.linfusion.layer(index)["to_q"] is leaves[name]


def test_min_tokens_decides_at_each_call(tmp_path: Path, calls: Calls) -> None:
    unet = tiny_unet()
    teacher = {size: run(unet, size) for size in (8, 16)}
    folder = write_linfusion(unet, tmp_path)
    handle = linzoo.load(unet, folder)
    linear = {size: run(unet, size) for size in (8, 16)}
    handle.unload()

    handle = linzoo.load(unet, folder, min_tokens=65)
    small, count = calls.during(lambda: run(unet, 8))
    assert count == 0
    assert torch.equal(small, teacher[8])
    large, count = calls.during(lambda: run(unet, 16))
    assert count == 3  # 256 tokens at the first level; the middle block has 64
    assert (large - teacher[16]).abs().max() > 1e-3
    assert (large - linear[16]).abs().max() > 1e-6
    assert "softmax below 65 tokens" in repr(handle)
    handle.unload()
    assert torch.equal(run(unet), teacher[8])


def test_layers_follow_the_unet_to_another_precision(tmp_path: Path) -> None:
    unet = tiny_unet()
    half_teacher = state(tiny_unet().to(torch.float64))
    for min_tokens in (0, 65):
        handle = linzoo.load(unet.float(), write_linfusion(unet, tmp_path), min_tokens=min_tokens)
        unet.to(torch.float64)
        assert {parameter.dtype for parameter in handle.linfusion.parameters()} == {torch.float64}
        with handle.disabled():
            assert same(state(unet), half_teacher)
        handle.unload()
        assert same(state(unet), half_teacher)


def test_a_second_load_is_refused_with_the_remedy(tmp_path: Path) -> None:
    unet = tiny_unet()
    folder = write_linfusion(unet, tmp_path)
    handle = linzoo.load(unet, folder)
    with pytest.raises(MountError, match=r"already mounted.*unload\(\)"):
        linzoo.load(unet, folder)
    handle.unload()
    linzoo.load(unet, folder)


def test_unloading_inside_disabled_is_for_good(tmp_path: Path) -> None:
    unet = tiny_unet()
    handle = linzoo.load(unet, write_linfusion(unet, tmp_path))
    with pytest.raises(ZeroDivisionError), handle.disabled():
        raise ZeroDivisionError
    assert len(handle.modules) == SD_SITES
    with handle.disabled():
        handle.unload()
    assert handle.modules == mounted_layers(unet) == {}


def test_an_unloaded_handle_leaves_the_next_checkpoint_alone(tmp_path: Path) -> None:
    unet = tiny_unet()
    first = linzoo.load(unet, write_linfusion(unet, tmp_path / "first"))
    first.unload()
    second = linzoo.load(unet, write_linfusion(unet, tmp_path / "second", seed=8))
    student = run(unet)
    with first.disabled():
        assert torch.equal(run(unet), student)
    assert torch.equal(run(unet), student)
    first.unload()
    assert (len(first.modules), len(second.modules)) == (0, SD_SITES)


def test_a_checkpoint_of_another_variant_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    unet = tiny_unet()
    other = tiny_unet(block_out_channels=(32, 64), layers_per_block=2)
    folder = write_linfusion(other, tmp_path)
    before = state(unet)
    with pytest.raises(
        MountError, match=r"another variant: 2 of its 6 modules .*down_blocks\.0\.attentions\.1"
    ):
        linzoo.load(unet, folder)
    assert same(state(unet), before)
    assert mounted_layers(unet) == {}


def test_a_wrong_width_or_number_of_heads_is_refused(tmp_path: Path) -> None:
    folder = write_linfusion(tiny_unet(), tmp_path / "a")
    with pytest.raises(MountError, match=r"to_q is 64 x 64 in this UNet, but 32 x 32 in the checkpoint"):
        linzoo.load(tiny_unet(block_out_channels=(64, 64)), folder)
    with pytest.raises(MountError, match="has 8 heads in this UNet, but 4"):
        linzoo.load(tiny_unet(attention_head_dim=8), folder)


def test_cross_attention_called_attn1_is_refused(tmp_path: Path) -> None:
    folder = write_linfusion(tiny_unet(), tmp_path)
    with pytest.raises(MountError, match="is cross-attention in this UNet"):
        linzoo.load(tiny_unet(only_cross_attention=True), folder)


@pytest.mark.parametrize(
    "more",
    [
        {"norm_num_groups": 4},
        {"spatial_norm_dim": 8},
        {"qk_norm": "layer_norm"},
        {"added_kv_proj_dim": 8},
        {"residual_connection": True},
        {"rescale_output_factor": 2.0},
    ],
)
def test_an_attention_that_does_more_is_refused(tmp_path: Path, more: dict[str, object]) -> None:
    unet = tiny_unet()
    folder = write_linfusion(unet, tmp_path)
    site = Attention(32, heads=4, dim_head=8, **more)
    unet.down_blocks[0].attentions[0].transformer_blocks[0].attn1 = site
    with pytest.raises(MountError, match=r"down_blocks\.0\..*attn1 does more than attend"):
        linzoo.load(unet, folder)
    assert mounted_layers(unet) == {}


def test_what_is_no_spatial_attention_is_refused(tmp_path: Path) -> None:
    unet = torch.nn.Module()
    unet.motion_modules = torch.nn.ModuleDict({"attn1": Attention(32, heads=4, dim_head=8)})
    unet.linear = torch.nn.Linear(32, 32)
    for name, message in (("motion_modules.attn1", "is attention over time"), ("linear", "but a Linear")):
        entry = {"module_name": name, "dim_n": 32, "heads": 4, "projection_mid_dim": None}
        with pytest.raises(MountError, match=message):
            mount(unet, LinFusion([entry]))


def test_what_is_no_unet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="A str has no UNet"):
        linzoo.load("pipe", tmp_path)
    with pytest.raises(UsageError, match="must not be negative"):
        linzoo.load(tiny_unet(), tmp_path, min_tokens=-1)


def test_saving_a_mounted_unet_is_refused_and_the_teacher_can_be_saved(tmp_path: Path) -> None:
    pipe = tiny_sd()
    teacher = draw(pipe)
    handle = linzoo.load(pipe, write_linfusion(pipe.unet, tmp_path / "linfusion"))
    for save in (pipe.save_pretrained, pipe.unet.save_pretrained):
        with pytest.raises(MountError, match=r"handle\.disabled\(\).*handle\.linfusion\.save_pretrained"):
            save(tmp_path / "saved")
    with handle.disabled():
        pipe.unet.save_pretrained(tmp_path / "teacher")
    reloaded, info = UNet2DConditionModel.from_pretrained(tmp_path / "teacher", output_loading_info=True)
    assert not any(info.values())
    pipe.unet = reloaded
    assert torch.equal(draw(pipe), teacher)


def test_copies_are_independent(tmp_path: Path, calls: Calls) -> None:
    unet = tiny_unet()
    teacher = run(unet)
    handle = linzoo.load(unet, write_linfusion(unet, tmp_path), min_tokens=3)
    student = run(unet)
    for clone in (copy.deepcopy(unet), pickle.loads(pickle.dumps(unet))):
        next(iter(mounted_layers(clone).values())).to_q.weight.zero_()
        assert not torch.equal(run(clone), student)
        assert torch.equal(run(unet), student)
        unmount(clone)
        assert torch.equal(run(clone), teacher)
    assert len(handle.modules) == SD_SITES


def test_gradients_with_checkpointing_are_those_without(tmp_path: Path, calls: Calls) -> None:
    unet = tiny_unet().train()
    linzoo.load(unet, write_linfusion(unet, tmp_path))
    gradients = []
    for enable, expected in ((None, SD_SITES), (unet.enable_gradient_checkpointing, 2 * SD_SITES)):
        if enable:
            enable()
        unet.zero_grad()
        with torch.enable_grad():
            calls.during(lambda: run(unet).square().mean().backward() or torch.zeros(0))
        assert calls.linear == expected
        gradients.append({n: p.grad.clone() for n, p in unet.named_parameters() if p.grad is not None})
    assert any("to_q_" in name for name in gradients[0])
    assert same(*gradients)


def test_compiles_as_one_graph_and_recompiles_when_unmounted(tmp_path: Path, calls: Calls) -> None:
    unet = tiny_unet()
    handle = linzoo.load(unet, write_linfusion(unet, tmp_path), min_tokens=10)
    block = unet.mid_block.attentions[0].transformer_blocks[0]
    compiled = torch.compile(block, fullgraph=True, backend="eager")
    text = torch.randn(1, 5, CONTEXT)
    for tokens, expected in ((16, 1), (9, 0)):
        x = torch.randn(1, tokens, 64)
        torch.testing.assert_close(
            compiled(x, encoder_hidden_states=text), block(x, encoder_hidden_states=text)
        )
        with handle.disabled():
            teacher = compiled(x, encoder_hidden_states=text)
            torch.testing.assert_close(teacher, block(x, encoder_hidden_states=text))
        student, count = calls.during(lambda x=x: compiled(x, encoder_hidden_states=text))
        assert count == expected
        assert ((student - teacher).abs().max() > 1e-3) == bool(expected)
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("variant", "sites", "teacher_bytes"),
    [("sd15", 16, 99_148_160), ("sd21", 16, 99_148_160), ("sdxl", 70, 819_366_400)],
)
def test_real_sizes_without_their_weights(calls: Calls, variant: str, sites: int, teacher_bytes: int) -> None:
    """Every self-attention of the real UNets, on torch's meta device; and what the teacher's layers weigh."""
    registry = linzoo.build_registry(entry_points=False, env={})
    config = component_config(registry.variants.get_value(variant), "unet")
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config).eval().to(torch.float16)
        entries = [
            {"module_name": name, "dim_n": site.query_dim, "heads": site.heads, "projection_mid_dim": None}
            for name, site in self_attentions(unet).items()
        ]
        layers = mount(unet, LinFusion(entries))
        conditions = {"text_embeds": torch.zeros(1, 1280), "time_ids": torch.zeros(1, 6)}
        half = {"dtype": torch.float16}
        text = torch.zeros(1, 77, unet.config.cross_attention_dim, **half)
        latents, step = torch.zeros(1, 4, 64, 64, **half), torch.zeros(1)
        _, count = calls.during(lambda: unet(latents, step, text, added_cond_kwargs=conditions).sample)
    assert len(layers) == count == sites
    kept = sum(
        p.nbytes for layer in layers.values() for leaf in layer.teacher.values() for p in leaf.parameters()
    )
    assert kept == teacher_bytes


def test_a_controlnet_is_mounted_like_a_unet(tmp_path: Path, calls: Calls) -> None:
    net = ControlNetModel.from_unet(tiny_unet(), conditioning_embedding_out_channels=(16, 32)).eval()

    def conditioned() -> torch.Tensor:
        return run_control(net)

    teacher = conditioned()
    handle = linzoo.load(net, write_linfusion(net, tmp_path))
    _, count = calls.during(conditioned)
    assert count == len(self_attentions(net)) == 2
    handle.unload()
    assert torch.equal(conditioned(), teacher)


def test_a_controlnet_is_made_of_the_teacher_inside_disabled(tmp_path: Path) -> None:
    """``from_unet`` copies weights by name: of a mounted UNet it would take the linear attention's."""
    unet = tiny_unet()
    stock = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(16, 32))
    handle = linzoo.load(unet, write_linfusion(unet, tmp_path))
    with pytest.raises(RuntimeError, match="Unexpected key"):
        ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(16, 32))
    with handle.disabled():
        net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(16, 32))
    copied = {name: tensor for name, tensor in state(net).items() if not name.startswith("controlnet_")}
    assert same(copied, {name: state(stock)[name] for name in copied})
    assert len(handle.modules) == SD_SITES


def run_control(net: torch.nn.Module) -> torch.Tensor:
    random = torch.Generator().manual_seed(1)
    latents, text = torch.randn(1, 4, 8, 8, generator=random), torch.randn(1, 5, CONTEXT, generator=random)
    picture = torch.randn(1, 3, 16, 16, generator=random)
    return net(latents, torch.tensor(1), text, picture, return_dict=False)[1]


def test_a_key_mask_is_applied_and_another_mask_is_refused(tmp_path: Path) -> None:
    unet = tiny_unet()
    handle = linzoo.load(unet, write_linfusion(unet, tmp_path), min_tokens=8)
    layer = next(iter(handle.modules.values()))
    x = torch.randn(2, 12, layer.to_q.in_features)
    bias = torch.zeros(2, 1, 12)
    bias[:, :, 9:] = -10000.0
    torch.testing.assert_close(layer(x, attention_mask=bias)[:, :9], layer(x[:, :9]), atol=1e-6, rtol=1e-5)
    nothing_left = torch.full_like(bias, -10000.0)  # then, as with softmax, the mask says nothing
    torch.testing.assert_close(layer(x, attention_mask=nothing_left), layer(x), atol=1e-6, rtol=1e-5)
    few = layer(x[:, :7], attention_mask=bias[:, :, 5:])  # softmax: fewer tokens than min_tokens
    torch.testing.assert_close(few[:, :4], layer(x[:, :4]), atol=1e-6, rtol=1e-5)
    for shape, dtype in (
        ((2, 12, 12), None),
        ((2, 1, 7), None),
        ((3, 1, 12), None),
        ((2, 1, 12), torch.bool),
    ):
        with pytest.raises(UnsupportedAttentionError, match="only a mask over keys"):
            layer(x, attention_mask=torch.zeros(shape, dtype=dtype))
    with pytest.raises(UnsupportedAttentionError, match="another sequence"):
        layer(x, encoder_hidden_states=x)
    assert issubclass(UnsupportedAttentionError, LinzooError | NotImplementedError)


def test_a_layer_under_a_hook_is_refused_until_the_hook_is_gone(tmp_path: Path, calls: Calls) -> None:
    from diffusers.hooks import HookRegistry, ModelHook

    unet = tiny_unet()
    folder = write_linfusion(unet, tmp_path)
    teacher = run(unet)
    site = next(iter(self_attentions(unet).values()))
    registry = HookRegistry.check_if_exists_or_initialize(site)

    registry.register_hook(ModelHook(), "probe")
    with pytest.raises(MountError, match="under an offloading, casting or caching hook"):
        linzoo.load(unet, folder)
    registry.remove_hook("probe")
    handle = linzoo.load(unet, folder)
    assert calls.during(lambda: run(unet))[1] == SD_SITES

    registry.register_hook(ModelHook(), "probe")
    with pytest.raises(MountError, match="under an offloading"):
        handle.unload()
    assert len(handle.modules) == SD_SITES
    registry.remove_hook("probe")
    handle.unload()
    assert torch.equal(calls.during(lambda: run(unet))[0], teacher)
    assert calls.linear == 0


def test_group_offloading_around_a_layer_is_refused(tmp_path: Path) -> None:
    unet = tiny_unet()
    folder = write_linfusion(unet, tmp_path)
    cpu = torch.device("cpu")
    unet.enable_group_offload(cpu, cpu, offload_type="block_level", num_blocks_per_group=1)
    with pytest.raises(MountError, match="under an offloading"):
        linzoo.load(unet, folder)
    handle = linzoo.load(other := tiny_unet(), folder)
    other.enable_group_offload(cpu, cpu, offload_type="block_level", num_blocks_per_group=1)
    with pytest.raises(MountError, match="under an offloading"):
        handle.unload()
    assert len(handle.modules) == SD_SITES


def test_forward_hooks_stay_through_mounting(tmp_path: Path) -> None:
    unet = tiny_unet()
    seen: list[str] = []
    site = next(iter(self_attentions(unet).values()))
    removable = site.register_forward_hook(lambda module, args, out: seen.append(type(module).__name__))
    run(unet)
    handle = linzoo.load(unet, write_linfusion(unet, tmp_path))
    run(unet)
    removable.remove()
    run(unet)
    handle.unload()
    assert seen == ["Attention", "GeneralizedLinearAttention"]


@pytest.mark.parametrize(
    ("step", "call"), [("_equal", 10), ("replace_base", 6), ("_mount_layer", 3), ("is_hooked", 8)]
)
def test_mount_is_all_or_nothing_when_it_fails_in_the_middle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, call: int
) -> None:
    unet = tiny_unet()
    before, teacher = state(unet), run(unet)
    linfusion = read_linfusion(write_linfusion(unet, tmp_path))
    original, count = getattr(mount_module, step), 0

    def fail_late(*args: object) -> object:
        nonlocal count
        count += 1
        if count == call:
            raise MemoryError
        return original(*args)

    monkeypatch.setattr(mount_module, step, fail_late)
    with pytest.raises(MemoryError):
        mount(unet, linfusion)
    monkeypatch.undo()
    assert same(state(unet), before)
    assert torch.equal(run(unet), teacher)
    assert mounted_layers(unet) == {}
    mount(unet, linfusion)


def test_a_teacher_that_cannot_be_moved_back_leaves_all_mounted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unet = tiny_unet()
    handle = linzoo.load(unet, write_linfusion(unet, tmp_path))
    student = run(unet)

    def no_room(*_: object, **__: object) -> None:
        raise MemoryError

    last = list(handle.modules.values())[-1]
    monkeypatch.setattr(last.teacher["out"], "to", no_room)
    with pytest.raises(MemoryError), handle.disabled():
        pytest.fail("the teacher does not stand yet")
    assert torch.equal(run(unet), student)
    assert len(handle.modules) == SD_SITES


@pytest.mark.parametrize("of_teacher", [False, True])
def test_own_weights_are_shared_with_nothing_and_keep_their_dtype(tmp_path: Path, of_teacher: bool) -> None:
    unet = tiny_unet().to(torch.bfloat16)
    before = state(unet)
    linfusion = read_linfusion(write_linfusion(unet, tmp_path, of_teacher=of_teacher))
    linfusion.float()
    layers = mount(unet, linfusion, own_weights=True)
    assert {parameter.dtype for parameter in linfusion.parameters()} == {torch.float32}
    for layer in layers.values():
        assert set(layer.teacher) == {"q", "k", "v", "out"}
        assert {parameter.dtype for parameter in layer.teacher.parameters()} == {torch.bfloat16}
    unmount(unet)
    assert same(state(unet), before)


def test_softmax_makes_a_mounted_unet_the_stock_unet(tmp_path: Path) -> None:
    unet = tiny_unet()
    stock = run(unet)
    layers = mount(unet, read_linfusion(write_linfusion(unet, tmp_path)), own_weights=True)
    linear = run(unet)
    with softmax(layers.values()):
        assert torch.equal(run(unet), stock)
    assert torch.equal(run(unet), linear)
    with pytest.raises(RuntimeError, match="stop"), softmax(layers.values()):
        raise RuntimeError("stop")
    assert torch.equal(run(unet), linear)


def test_some_layers_alone_are_unmounted(tmp_path: Path) -> None:
    unet = tiny_unet()
    stock = run(unet)
    layers = mount(unet, read_linfusion(write_linfusion(unet, tmp_path)), own_weights=True)
    first, *others = layers
    with softmax([layers[first]]):
        expected = run(unet)
    unmount(unet, [first])
    assert list(mounted_layers(unet)) == others
    assert torch.equal(run(unet), expected)
    with pytest.raises(MountError, match="would load again"):
        unet.save_pretrained(tmp_path / "unet")
    unmount(unet, others)
    assert torch.equal(run(unet), stock)
    unet.save_pretrained(tmp_path / "unet")
