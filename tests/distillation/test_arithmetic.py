"""Memory, disk and operations of a run, computed on the meta device and held against a real step on the CPU."""

from __future__ import annotations

import gc
import json
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from distilling import draws_of, recipe_of, sample, student_of
from layouts import default_layout
from linzoo_kernels import use_backend
from tiny import tiny_scheduler, tiny_unet
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from linzoo.attention.linfusion import LinFusion
from linzoo.attention.plan import sites_of
from linzoo.checkpoints.components import component_config
from linzoo.checkpoints.linfusion import LinFusionConfig, ModuleEntry
from linzoo.checkpoints.manifest import unet_manifest
from linzoo.distillation import simulation
from linzoo.distillation.align import AlignStage
from linzoo.distillation.arithmetic import ALLOWANCE, Arithmetic
from linzoo.distillation.distill import DistillStage
from linzoo.distillation.estimates import Estimate, render
from linzoo.distillation.lookup import find_recipe
from linzoo.distillation.noise import Noise
from linzoo.distillation.recipe import Recipe
from linzoo.distillation.remedies import ladder, render_ladder
from linzoo.distillation.simulation import Allocations, Gpu, Simulation, count_parameters
from linzoo.registry import build_registry

ZOO = build_registry(entry_points=False, env={})
PIXELS, ROWS = 256, 4
STAGES: dict[str, Any] = {
    "align": {"steps": 10, "batch": ROWS},
    "distill": {"steps": 10, "batch": ROWS, "loss": {"guided": None}},
}


def test_the_most_memory_at_once_is_counted_and_what_is_freed_is_not() -> None:
    before = torch.empty(1000, device="meta")
    with Allocations() as counted:
        counted.ignore([before])
        first = before * 2  # 4000
        second = first.view(10, 100).sum(1)  # a view takes nothing; 40
        del first
        third = torch.cat([before, before])  # 8000
        before.add_(1)
    assert (counted.peak, counted.live) == (8040, 8040)
    del second, third
    gc.collect()
    assert counted.live == 0


def test_operations_are_counted_forward_and_backward() -> None:
    x, weight = torch.empty(7, 10, device="meta"), torch.empty(3, 10, device="meta", requires_grad=True)
    with Allocations() as counted:
        F.linear(x, weight).sum().backward()
    assert counted.flops == 2 * (2 * 7 * 10 * 3)  # the product, and the weight's gradient


def test_autocast_of_a_gpu() -> None:
    x = torch.empty(2, 4, 16, 16, device="meta")
    with Gpu(torch.bfloat16):
        assert F.linear(x, torch.empty(8, 16, device="meta")).dtype == torch.bfloat16
        assert F.conv2d(x, torch.empty(8, 4, 1, 1, device="meta")).dtype == torch.bfloat16
        assert F.layer_norm(x.bfloat16(), (16,)).dtype == torch.float32
        assert F.group_norm(x.bfloat16(), 2).dtype == torch.float32
        assert F.silu(x.bfloat16()).dtype == torch.bfloat16
        assert F.scaled_dot_product_attention(x, x, x).dtype == torch.bfloat16
    with Gpu(None):
        assert F.linear(x.double(), torch.empty(8, 16, device="meta").double()).dtype == torch.float64


def test_attention_keeps_no_matrix_of_scores() -> None:
    q = torch.empty(1, 2, 4096, 32, device="meta", requires_grad=True)
    with Gpu(None), Allocations() as counted:
        counted.ignore([q])
        F.scaled_dot_product_attention(q, q, q).sum().backward()
    assert counted.peak < 10 * q.nbytes < 2 * 4096 * 4096 * 4


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("stage", ["align", "distill"])
def test_the_simulated_step_takes_what_a_real_one_takes(
    stage: str, checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the CPU's allocator as the profiler sees it; in float32 and the operators that a CPU runs."""
    monkeypatch.setattr(simulation, "KERNELS", "torch")
    unet, recipe = tiny_unet(), recipe_of(**STAGES, precision="float32")
    student = student_of(unet)
    simulated = Simulation(dict(unet.config), LinFusionConfig(student.entries), recipe).run(
        stage, (PIXELS, PIXELS), ROWS, checkpointing=checkpointing
    )
    if checkpointing:
        student.enable_gradient_checkpointing()
    running = (AlignStage if stage == "align" else DistillStage)(student, Noise(tiny_scheduler()), recipe)
    batch = sample(unet, ROWS, size=PIXELS // 8)
    draws = draws_of(ROWS, stage=stage)
    with use_backend("torch"):
        running.backward(batch, draws, 1.0)  # the gradients are there from the second time on
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            running.backward(batch, draws, 1.0)
    assert simulated.activations == pytest.approx(_peak(profiled), rel=0.1)


def test_activations_hold_at_least_what_autograd_saves() -> None:
    unet, recipe = tiny_unet(), recipe_of(**STAGES, precision="float32")
    student = student_of(unet)
    weights = {each.untyped_storage().data_ptr() for each in unet.parameters()}
    saved: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    batch, draws = sample(unet, ROWS, size=PIXELS // 8), draws_of(ROWS)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        DistillStage(student, Noise(tiny_scheduler()), recipe).backward(batch, draws, 1.0)
    step = Simulation(dict(unet.config), LinFusionConfig(student.entries), recipe).run(
        "distill", (PIXELS, PIXELS), ROWS, checkpointing=False
    )
    assert 0.7 * sum(saved.values()) < step.activations < 2 * sum(saved.values())


SMALL = replace(
    ZOO.variants.get_value("mini"),
    component_overrides={
        "unet": {
            "block_out_channels": (32, 64),
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            "layers_per_block": 1,
            "attention_head_dim": 4,
        }
    },
)
"""A variant with four self-attentions, since every operation of a simulated step costs time."""


@cache
def layout() -> LinFusionConfig:
    config = component_config(SMALL, "unet")
    sites = sites_of(config, unet_manifest(config))
    return LinFusionConfig(tuple(ModuleEntry(site.name, site.dim, site.heads) for site in sites))


def settings(*overrides: str) -> Recipe:
    return find_recipe("mini", ZOO, overrides=overrides).recipe


@cache
def arithmetic(**options: Any) -> Arithmetic:
    """For the recipe of mini and its relatives; the steps that it has simulated are not simulated again."""
    return Arithmetic(SMALL, layout(), settings(), **options)


def estimate_of(*overrides: str, **options: Any) -> Estimate:
    return arithmetic(**options).estimate(settings(*overrides))


def test_memory_grows_with_rows_and_tokens_and_falls_with_checkpoints() -> None:
    run = Simulation(component_config(SMALL, "unet"), layout(), settings()).run
    one = run("distill", (128, 128), 1, checkpointing=False)
    four = run("distill", (128, 128), 4, checkpointing=False)
    wide = run("distill", (256, 256), 1, checkpointing=False)
    again = run("distill", (128, 128), 4, checkpointing=True)
    plain = run("distill", (128, 128), 4, checkpointing=False, guided=False)
    assert four.activations == pytest.approx(4 * one.activations, rel=0.1)
    assert wide.activations == pytest.approx(4 * one.activations, rel=0.1)  # linear in tokens
    assert again.activations < 0.6 * four.activations
    assert again.flops > 1.15 * four.flops
    assert four.flops == pytest.approx(2 * plain.flops, rel=0.01)
    assert four.features == 2 * plain.features
    aligned = run("align", (128, 128), 4, checkpointing=False)
    assert aligned.activations < 0.5 * plain.activations
    assert aligned.features == 0


def test_the_sum_of_a_stage() -> None:
    found = estimate_of(items=2048)
    align, distill = found.stages
    assert (align.name, distill.name) == ("align", "distill")
    with torch.device("meta"):
        unet = count_parameters(UNet2DConditionModel.from_config(component_config(SMALL, "unet")))
        trained = count_parameters(LinFusion([each.to_json() for each in layout().modules]))
    lines = {line.what: line.nbytes for line in distill.lines}
    assert lines.pop("activations") > 10e6
    assert lines == {
        "UNet, float32, teacher's and student's": 4 * unet,
        "linear attentions, float32": 4 * trained,
        "their gradients, float32": 4 * trained,
        "moments of adamw": 8 * trained,
        "average (EMA), float32": 4 * trained,
        # 256 tokens of 32 channels, in all four places; conditional and unconditional rows
        "the teacher's features, held for the student's": 4 * 2 * 16 * 256 * 32 * 3 + 4 * 2 * 16 * 64 * 64,
        "allowance for CUDA itself": ALLOWANCE,
    }
    assert found.nbytes == max(align.nbytes, distill.nbytes) == distill.nbytes
    assert not any("average" in line.what for line in align.lines)
    official = {line.what: line.nbytes for line in found.official}
    assert official["teacher UNet, half precision"] == 2 * unet
    assert 4 * unet < official["student UNet, float32"] < 4 * (unet + trained)
    disk = {line.what: line.nbytes for line in found.disk}
    assert disk["latents of 2,048 items, float16"] == 2048 * 4 * 16 * 16 * 2
    assert disk["text states of 2,048 captions, float16"] == 2048 * 77 * 128 * 2
    assert disk["3 saved states (one is being written)"] == 3 * (4 + 8 + 4) * trained
    assert disk["the result and the best so far"] == 2 * 4 * trained


def test_processes_share_the_batch_where_the_recipe_does_not_say_how() -> None:
    stages = arithmetic(world=4).estimate(settings("align=null", "distill.batch=8")).stages
    assert [stage.micro_batch for stage in stages] == [2]
    told = arithmetic(world=4).estimate(settings("align=null", "distill.batch=8", "distill.micro_batch=1"))
    assert [stage.micro_batch for stage in told.stages] == [1]


def test_operations_are_those_of_the_whole_stage() -> None:
    def flops(*overrides: str) -> float:
        return estimate_of("align=null", *overrides).stages[0].flops

    once = flops("distill.loss.guided={share: 0}")
    assert flops("distill.loss.guided={share: 0.5}") == pytest.approx(1.5 * once)
    assert (
        flops("distill.loss.guided={share: 0}", f"distill.steps={2 * settings().distill.steps}") == 2 * once
    )  # type: ignore[union-attr]
    assert flops("distill.loss.guided={share: 0}", "distill.micro_batch=2") == pytest.approx(once, rel=0.01)
    ending = ("distill.loss.guided={share: 0}", "distill.finish={sizes: [[256, 256]], fraction: 0.5}")
    assert flops(*ending) == pytest.approx(1.75 * once, rel=0.1)  # half of the steps, by turns of both sizes


def test_the_largest_size_is_what_counts() -> None:
    (stage,) = estimate_of("align=null", "distill.finish={sizes: [[256, 256], [64, 64]]}").stages
    assert stage.size == (256, 256)


def test_the_ladder_goes_down_to_what_is_set_already() -> None:
    first = Arithmetic(SMALL, layout(), settings("distill.finish={sizes: [[256, 256]]}"))
    now = first.memory(first.recipe)
    rungs = ladder(first)
    sums = [now, *(each.nbytes for each in rungs)]
    assert sums == sorted(set(sums), reverse=True)
    assert [each.settings for each in rungs] == [
        ("distill.ema.device=cpu",),
        ("gradient_checkpointing=true",),
        ("align.micro_batch=1", "distill.micro_batch=1"),
        ("align.optimizer.name=adamw8bit", "distill.optimizer.name=adamw8bit"),
        ("distill.finish=null",),
    ]
    text = render_ladder(rungs, now)
    assert f"{now / 1e9:.1f} GB. What lowers it" in text
    assert "--set align.micro_batch=1 --set distill.micro_batch=1  (more time, the same result)" in text

    taken = settings(*(setting for each in rungs for setting in each.settings))
    assert first.memory(taken) == rungs[-1].nbytes
    first.recipe = taken
    assert ladder(first) == []
    assert "a larger card is needed" in render_ladder([], now)


def test_as_text_and_as_json() -> None:
    found = estimate_of(items=2048)
    text = render(found, 24)
    assert "memory of distill (micro-batch 16, 128 x 128 px):" in text
    assert text.endswith(f"{found.nbytes / 1e9:.1f} GB: fits a card of 24 GB")
    assert render(found, 0.5).endswith("does not fit a card of 0.5 GB")
    data = json.loads(json.dumps(found.to_json()))
    assert data["memory_bytes"] == max(stage["bytes"] for stage in data["stages"])
    for stage in data["stages"]:
        assert stage["bytes"] == sum(line["bytes"] for line in stage["lines"])


def test_recipes_with_one_stage_or_none_that_trains() -> None:
    aligned = estimate_of("distill=null")
    assert [stage.name for stage in aligned.stages] == ["align"]
    assert aligned.official == ()
    nothing = settings("distill=null", "align=null")
    assert arithmetic().estimate(nothing).nbytes == 0
    assert ladder(Arithmetic(SMALL, layout(), nothing)) == []


def test_numbers_of_the_published_models() -> None:
    for name, unet, trained in (("sd15", 859.52, 99.24), ("sdxl", 2567.46, 435.48)):
        variant, recipe = ZOO.variants[name], find_recipe(name, ZOO).recipe
        found = Simulation(component_config(variant.value, "unet"), default_layout(variant, ZOO), recipe)
        assert found.unet_parameters / 1e6 == pytest.approx(unet, abs=0.01)
        assert found.trained_parameters / 1e6 == pytest.approx(trained, abs=0.01)


@pytest.mark.slow
def test_sdxl_fits_24_gb_in_one_unet_and_not_in_two() -> None:
    variant, recipe = ZOO.variants["sdxl"], find_recipe("sdxl", ZOO, preset="24gb").recipe
    found = Arithmetic(variant.value, default_layout(variant, ZOO), recipe).estimate()
    assert found.fits(24)
    assert found.stages[1].size == (1024, 1024)
    official = {line.what: line.nbytes for line in found.official}
    weights = [
        nbytes
        for what, nbytes in official.items()
        if "UNet, " in what or "gradients" in what or "moments" in what
    ]
    assert sum(weights) == pytest.approx(20.7e9, rel=0.005)
    assert sum(official.values()) > 24e9


def _peak(profiled: profile) -> int:
    """The most bytes above those at the start."""
    assert profiled.profiler is not None
    events = [each for each in profiled.profiler.kineto_results.events() if each.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda each: each.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak
