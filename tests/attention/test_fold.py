"""Folded layers: what they compute, what they leave as it was, and what they refuse, with the remedy."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from counting import Calls
from diffusers import StableDiffusionPAGPipeline, StableDiffusionPipeline, UNet2DConditionModel
from linzoo_benchmarks.traffic import Traffic
from peft import LoraConfig
from test_companions import gap, lora
from test_mounting import run, same, state
from tiny import (
    CONTEXT,
    SD_SITES,
    SDXL_SITES,
    draw,
    self_attentions,
    tiny_sd,
    tiny_sdxl,
    tiny_unet,
    write_linfusion,
)

import linzoo
from linzoo.attention.errors import FoldError, MountError
from linzoo.attention.handle import Handle, read_linfusion
from linzoo.attention.linfusion import LinFusion
from linzoo.attention.mount import mount, mounted_layers, unmount
from linzoo.checkpoints.components import component_config


def relative(got: torch.Tensor, want: torch.Tensor) -> float:
    return ((got - want).norm() / want.norm()).item()


def folded(tmp_path: Path) -> tuple[torch.nn.Module, Handle]:
    unet = tiny_unet()
    handle = linzoo.load(unet, write_linfusion(unet, tmp_path))
    unet.requires_grad_(False)
    handle.fold()
    return unet, handle


def first(handle: Handle) -> torch.nn.Module:
    return next(iter(handle.modules.values()))


@pytest.mark.parametrize(("make", "sites"), [(tiny_sd, SD_SITES), (tiny_sdxl, SDXL_SITES)])
@pytest.mark.parametrize("mid_dim", [None, 4, -1])
def test_folded_pictures_are_the_same_with_fewer_products(
    tmp_path: Path, calls: Calls, make: Callable[[], StableDiffusionPipeline], sites: int, mid_dim: int | None
) -> None:
    pipe = make()
    handle = linzoo.load(pipe, write_linfusion(pipe.unet, tmp_path, mid_dim=mid_dim))
    pictures, counts, products = [], [], []
    for fold in (lambda: None, handle.fold):
        fold()
        with Traffic() as traffic:
            picture, count = calls.during(lambda: draw(pipe))
        pictures.append(picture)
        counts.append(count)
        products.append(traffic.ops["addmm"] + traffic.ops["mm"])
    # a folded layer is itself counted beside the operator in it, unless that is the value-free form's
    assert counts[0] == 2 * sites
    assert 2 * sites <= counts[1] <= 4 * sites
    saved = (products[0] - products[1]) / (2 * sites)
    assert saved >= (1 if mid_dim == -1 else 3)
    assert relative(*pictures) < 1e-5


def test_folded_mini_draws_the_same(tmp_path: Path) -> None:
    folder = files("linzoo_mini") / "weights" / "teacher"
    pipe = StableDiffusionPipeline.from_pretrained(str(folder))
    pipe.set_progress_bar_config(disable=True)
    handle = linzoo.load(pipe, write_linfusion(pipe.unet, tmp_path, of_teacher=True))
    student = draw(pipe, height=64, width=64)
    handle.fold()
    assert 0 < relative(draw(pipe, height=64, width=64), student) < 1e-5


def test_to_fold_changes_no_weight_and_to_unfold_leaves_nothing(tmp_path: Path) -> None:
    unet = tiny_unet()
    handle = linzoo.load(unet, write_linfusion(unet, tmp_path / "a"))
    student, before, own = run(unet), state(unet), state(handle.linfusion)
    modules = [name for name, _ in unet.named_modules()]
    assert "folded" not in repr(handle)
    handle.fold()
    products = [layer.folded for layer in handle.modules.values()]
    handle.fold()
    assert [layer.folded for layer in handle.modules.values()] == products
    assert "4 layers linear in UNet2DConditionModel, folded" in repr(handle)
    assert handle.folded
    assert 0 < relative(run(unet), student) < 1e-6
    assert same(state(unet), before)
    assert same(state(handle.linfusion), own)
    handle.linfusion.save_pretrained(tmp_path / "b")
    assert same(*(state(read_linfusion(tmp_path / folder)) for folder in "ab"))
    for _ in range(2):
        handle.unfold()
        assert not handle.folded
        assert [name for name, _ in unet.named_modules()] == modules
        assert same(state(unet), before)
        assert torch.equal(run(unet), student)


def test_disabled_and_unload_while_folded(tmp_path: Path) -> None:
    unet = tiny_unet()
    stock, teacher = state(unet), run(unet)
    handle = linzoo.load(unet, write_linfusion(unet, tmp_path / "linfusion"))
    handle.fold()
    student = run(unet)
    with handle.disabled():
        assert same(state(unet), stock)
        assert torch.equal(run(unet), teacher)
        assert not handle.folded
        assert "disabled" in repr(handle)
        with pytest.raises(MountError, match=r"leave the 'with handle\.disabled\(\):' block"):
            handle.fold()
        handle.unfold()
    assert handle.folded
    assert torch.equal(run(unet), student)
    with pytest.raises(MountError, match=r"handle\.disabled\(\)"):
        unet.save_pretrained(tmp_path / "saved")
    with handle.disabled():
        unet.save_pretrained(tmp_path / "saved")
    assert same(state(UNet2DConditionModel.from_pretrained(tmp_path / "saved")), stock)
    handle.unload()
    assert same(state(unet), stock)
    assert not any("fused" in name for name, _ in unet.named_modules())
    assert repr(handle).endswith("unloaded in UNet2DConditionModel>")
    with pytest.raises(MountError, match="nothing to fold; load it again"):
        handle.fold()


def test_small_sizes_keep_the_teachers_softmax(tmp_path: Path, calls: Calls) -> None:
    unet = tiny_unet()
    teacher = run(unet)
    handle = linzoo.load(unet, write_linfusion(unet, tmp_path), min_tokens=65)
    large = run(unet, 16)
    handle.fold()
    small, count = calls.during(lambda: run(unet))
    assert count == 0
    assert torch.equal(small, teacher)
    assert relative(run(unet, 16), large) < 1e-6


@pytest.mark.parametrize("min_tokens", [0, 17])
def test_masks_and_perturbed_attention_guidance_while_folded(tmp_path: Path, min_tokens: int) -> None:
    pipe = tiny_sd(StableDiffusionPAGPipeline, pag_applied_layers=["attn1"])
    handle = linzoo.load(pipe, write_linfusion(pipe.unet, tmp_path), min_tokens=min_tokens)
    layer = first(handle)
    x = torch.randn(2, 20, layer.query_dim)
    bias = torch.zeros(2, 1, 20)
    bias[:, :, 11:] = -10000.0

    def results() -> list[torch.Tensor]:
        guided = draw(pipe, pag_scale=3.0, guidance_scale=5.0)
        return [guided, layer(x), layer(x, attention_mask=bias), layer(x, attention_mask=bias[:1])]

    plain = results()
    handle.fold()
    assert all(relative(a, b) < 1e-5 for a, b in zip(results(), plain, strict=True))
    assert relative(plain[1], plain[2]) > 1e-3


def test_a_lora_loaded_before_is_refused_and_no_layer_is_folded(tmp_path: Path) -> None:
    unet = tiny_unet()
    handle = linzoo.load(unet, write_linfusion(unet, tmp_path))
    last = list(handle.modules)[-1]
    unet.add_adapter(LoraConfig(r=2, target_modules=[f"{last}.to_out.0"]))
    with pytest.raises(FoldError, match=rf"{last} cannot be folded: to_out.0 carries an adapter \(LoRA\)"):
        handle.fold()
    assert not handle.folded
    run(unet)


def test_a_lora_loaded_afterwards_is_refused_when_the_layer_is_used(tmp_path: Path) -> None:
    pipe = tiny_sd()
    handle = linzoo.load(pipe, write_linfusion(pipe.unet, tmp_path))
    handle.fold()
    pipe.load_lora_weights(lora(pipe.unet))
    with pytest.raises(FoldError, match=r"to_q carries an adapter \(LoRA\).*handle\.unfold\(\)"):
        draw(pipe)
    with pytest.raises(FoldError, match="cannot be folded"):
        handle.fold()
    handle.unfold()
    with_lora = draw(pipe)
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    handle.fold()
    assert gap(draw(pipe), with_lora) < 1e-5


@pytest.mark.parametrize("leaf", ["to_q", "to_v"])
def test_a_lora_fused_into_the_weights_and_unloaded_is_noticed(tmp_path: Path, leaf: str) -> None:
    """peft adds to ``weight.data``, which PyTorch does not count as a change of the weight."""
    pipe = tiny_sd()
    handle = linzoo.load(pipe, write_linfusion(pipe.unet, tmp_path))
    without = draw(pipe)
    handle.fold()
    pipe.load_lora_weights({key: value for key, value in lora(pipe.unet).items() if f".{leaf}." in key})
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    with pytest.raises(FoldError, match=r"weights have changed.*handle\.unfold\(\).*handle\.fold\(\)"):
        draw(pipe)
    handle.fold()
    fused = draw(pipe)
    assert gap(fused, without) > 1e-3
    handle.unfold()
    assert gap(draw(pipe), fused) < 1e-5


@pytest.mark.parametrize("leaf", ["to_q_.0", "to_k_.3"])
def test_a_lora_fused_into_a_branch_and_unloaded_is_noticed_also_in_copies(tmp_path: Path, leaf: str) -> None:
    original, _ = folded(tmp_path)
    for unet in (copy.deepcopy(original), pickle.loads(pickle.dumps(original)), original):
        run(unet)
        unet.add_adapter(LoraConfig(r=2, target_modules=[leaf], init_lora_weights=False))
        unet.fuse_lora()
        unet.unload_lora()
        with pytest.raises(FoldError, match="weights have changed"):
            run(unet)
        if unet is not original:
            run(original)


def test_a_lora_fused_into_the_last_layer_and_unloaded_is_in_no_product(tmp_path: Path) -> None:
    unet, handle = folded(tmp_path)
    student = run(unet)
    unet.add_adapter(LoraConfig(r=2, target_modules=["attn1.to_out.0"], init_lora_weights=False))
    unet.fuse_lora()
    unet.unload_lora()
    changed = run(unet)
    assert relative(changed, student) > 1e-3
    handle.unfold()
    assert relative(changed, run(unet)) < 1e-5


def test_a_lora_that_came_in_disabled_is_refused_at_its_end_and_the_layers_are_mounted(
    tmp_path: Path,
) -> None:
    unet, handle = folded(tmp_path)
    with pytest.raises(FoldError, match="carries an adapter"), handle.disabled():
        unet.add_adapter(LoraConfig(r=2, target_modules=["to_v"]))
    assert len(handle.modules) == SD_SITES
    assert not handle.folded


def test_changed_weights_training_and_gradients_of_weights_are_refused(tmp_path: Path) -> None:
    _, handle = folded(tmp_path)
    layer = first(handle)
    x = torch.randn(1, 9, layer.query_dim)
    layer.to_k.weight.mul_(1.5)
    with pytest.raises(FoldError, match="weights have changed"):
        layer(x)
    handle.fold()
    got = layer(x)
    handle.unfold()
    assert relative(got, layer(x)) < 1e-6
    handle.fold()
    with pytest.raises(FoldError, match=r"training mode.*handle\.unfold\(\)"):
        layer.train()(x)
    layer.eval()
    with torch.enable_grad():
        layer(x)
        handle.linfusion.requires_grad_(True)
        with pytest.raises(FoldError, match=r"Freeze the weights.*handle\.unfold\(\)"):
            layer(x)


def test_gradients_of_the_tokens_flow(tmp_path: Path) -> None:
    unet, handle = folded(tmp_path)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
    gradients = []
    for change in (lambda: None, handle.unfold):
        change()
        with torch.enable_grad():
            loss = unet(latents, torch.tensor(1), torch.ones(1, 5, CONTEXT)).sample.square().sum()
        gradients.append(torch.autograd.grad(loss, latents)[0])
    assert 0 < relative(*gradients) < 1e-5


def test_what_was_folded_in_inference_mode_has_gradients(tmp_path: Path) -> None:
    unet = tiny_unet()
    handle = linzoo.load(unet, write_linfusion(unet, tmp_path))
    unet.requires_grad_(False)
    with torch.inference_mode():
        handle.fold()
    layer = first(handle)
    with torch.enable_grad():
        x = torch.randn(1, 9, layer.query_dim, requires_grad=True)
        assert torch.autograd.grad(layer(x).sum(), x)[0].isfinite().all()


def test_folded_layers_follow_the_unet_to_another_precision(tmp_path: Path) -> None:
    unet, handle = folded(tmp_path)
    layer = first(handle)
    x = torch.randn(1, 9, layer.query_dim)
    exact = layer(x)
    unet.bfloat16()
    assert {buffer.dtype for buffer in layer.folded.buffers()} == {torch.bfloat16}
    before = layer(x.bfloat16())
    assert 0 < relative(before.float(), exact) < 0.02
    handle.fold()  # stays: what was folded in float32 is at least as precise
    assert torch.equal(layer(x.bfloat16()), before)
    handle.unfold()
    handle.fold()
    unet.float()
    with pytest.raises(FoldError, match=r"brought to a wider precision.*handle\.fold\(\)"):
        layer(x)
    handle.fold()
    assert relative(layer(x), exact) < 0.02


def test_copies_are_folded_and_independent(tmp_path: Path) -> None:
    unet, handle = folded(tmp_path)
    handle.linfusion.layer(0)["to_q"].weight.add_(1)
    handle.fold()
    student = run(unet)
    for clone in (copy.deepcopy(unet), pickle.loads(pickle.dumps(unet))):
        assert torch.equal(run(clone), student)
        layer = next(iter(mounted_layers(clone).values()))
        layer.to_q.weight.zero_()
        with pytest.raises(FoldError, match="weights have changed"):
            run(clone)
        assert torch.equal(run(unet), student)
        unmount(clone)
        assert list(state(clone)) == list(state(tiny_unet()))


def test_quantised_layers_are_refused(tmp_path: Path) -> None:
    unet = tiny_unet()
    handle = linzoo.load(unet, write_linfusion(unet, tmp_path))
    list(handle.modules.values())[-1].to_v.to(torch.float8_e4m3fn)
    with pytest.raises(FoldError, match=r"attn1 cannot be folded: to_v\.weight is quantised"):
        handle.fold()
    assert not handle.folded


def test_fold_before_offloading(tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    unet, _ = folded(tmp_path)
    student = run(unet)
    offload = {"offload_type": "block_level", "num_blocks_per_group": 1}
    unet.enable_group_offload(cpu, cpu, **offload)
    assert torch.equal(run(unet), student)
    other = tiny_unet()
    late = linzoo.load(other, tmp_path)
    other.enable_group_offload(cpu, cpu, **offload)
    with pytest.raises(MountError, match="Fold before you enable offloading"):
        late.fold()


def by_layer(unet: torch.nn.Module) -> None:
    from accelerate import cpu_offload

    cpu_offload(unet, torch.device("cpu"), offload_buffers=True)


@pytest.mark.parametrize(
    "hook",
    [
        by_layer,
        lambda unet: unet.enable_group_offload(*[torch.device("cpu")] * 2, offload_type="leaf_level"),
        lambda unet: unet.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32),
    ],
)
def test_hooks_on_the_leaves_of_a_folded_layer_are_refused(
    tmp_path: Path, hook: Callable[[torch.nn.Module], None]
) -> None:
    unet, _ = folded(tmp_path)
    hook(unet)
    with pytest.raises(FoldError, match=r"under a hook \(sequential.*enable_model_cpu_offload"):
        run(unet)


def test_other_mixers_are_left_as_they_are(tmp_path: Path) -> None:
    from linzoo.attention.mounted import MountedAttention

    class Identity(MountedAttention):
        def mix(self, hidden_states: torch.Tensor, key_weights: torch.Tensor | None) -> torch.Tensor:
            return hidden_states

    unet = tiny_unet()
    handle = linzoo.load(unet, write_linfusion(unet, tmp_path))
    other = first(handle)
    other.__class__ = Identity
    x = torch.randn(1, 9, other.query_dim)
    before = other(x)
    handle.fold()
    assert [hasattr(layer, "fused") for layer in handle.modules.values()] == [False, True, True, True]
    assert torch.equal(other(x), before)


def test_to_fold_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from linzoo.attention import generalized_linear

    unet = tiny_unet()
    handle = linzoo.load(unet, write_linfusion(unet, tmp_path))
    last = list(handle.modules.values())[-1]
    fuse = generalized_linear.fuse_projections

    def no_room(layer: torch.nn.Module) -> object:
        if layer is last:
            raise MemoryError
        return fuse(layer)

    monkeypatch.setattr(generalized_linear, "fuse_projections", no_room)
    with pytest.raises(MemoryError):
        handle.fold()
    assert not handle.folded
    assert not any("fused" in name for name, _ in unet.named_modules())
    monkeypatch.undo()
    handle.fold()
    last.folded.expire()
    monkeypatch.setattr(generalized_linear, "fuse_projections", no_room)
    with pytest.raises(MemoryError):
        handle.fold()
    assert [layer.folded is None for layer in handle.modules.values()] == [False] * (SD_SITES - 1) + [True]


def test_a_folded_layer_compiles_as_one_graph(tmp_path: Path) -> None:
    unet, handle = folded(tmp_path)
    layer = first(handle)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = torch.randn(1, 65, layer.query_dim)
    want = layer(x)
    torch.testing.assert_close(compiled(x), want)
    handle.unfold()
    torch.testing.assert_close(compiled(x), want)
    handle.fold()
    torch.testing.assert_close(compiled(x), want)
    for leaf, message in (("to_k_.0", "weights have changed"), ("to_v", "carries an adapter")):
        unet.add_adapter(LoraConfig(r=2, target_modules=[leaf], init_lora_weights=False))
        if message == "weights have changed":
            unet.fuse_lora()
            unet.unload_lora()
        with pytest.raises(Exception, match=message):
            compiled(x)
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("variant", "mid_divisor", "megabytes"),
    [("sd15", 1, 174), ("sd21", 1, 174), ("sdxl", 1, 1434), ("sdxl", 16, 666)],
)
def test_what_folding_real_sizes_costs_in_half_precision(
    variant: str, mid_divisor: int, megabytes: int
) -> None:
    registry = linzoo.build_registry(entry_points=False, env={})
    config = component_config(registry.variants.get_value(variant), "unet")
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config).eval().to(torch.float16)
        sites = self_attentions(unet)
        entries = [
            {
                "module_name": name,
                "dim_n": site.query_dim,
                "heads": site.heads,
                "projection_mid_dim": site.query_dim // mid_divisor,
            }
            for name, site in sites.items()
        ]
        layers = mount(unet, LinFusion(entries))
        for layer in layers.values():
            layer.fold()
    products = sum(buffer.nbytes for layer in layers.values() for buffer in layer.folded.buffers())
    assert round(products / 1e6) == megabytes
