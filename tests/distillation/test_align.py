"""Stage 1 against a plain regression of each layer, and what it keeps in memory."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import pytest
import torch
from diffusers import UNet2DConditionModel
from distilling import draws_of, gradients, linfusion_of, part_of, recipe_of, sample, student_of
from tiny import tiny_scheduler, tiny_sdxl_unet, tiny_unet
from torch.nn import functional as F

from linzoo.attention.mount import mount
from linzoo.distillation.align import AlignStage
from linzoo.distillation.errors import DistillationError
from linzoo.distillation.noise import Noise
from linzoo.distillation.recipe import Recipe
from linzoo.distillation.student import Student


def align_recipe(loss: str = "relative_mse", caption_dropout: float = 0.0) -> Recipe:
    return recipe_of(align={"steps": 10, "batch": 8, "loss": loss}, caption_dropout=caption_dropout)


def stage_of(student: Student, recipe: Recipe) -> AlignStage:
    return AlignStage(student, Noise(tiny_scheduler()), recipe)


def error(loss: str, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """By sample, in plain words."""
    rms = teacher.square().mean().sqrt()
    if loss == "huber":
        return 2 * F.huber_loss(student / rms, teacher / rms)
    return F.mse_loss(student, teacher) / rms.square()


@pytest.mark.parametrize("loss", ["relative_mse", "huber"])
@pytest.mark.parametrize("make", [tiny_unet, tiny_sdxl_unet])
def test_each_layer_learns_from_the_teachers_input(
    make: Callable[[], UNet2DConditionModel], loss: str
) -> None:
    student = student_of(make().double())
    batch, draws = sample(student.unet, 3), draws_of(3, stage="align")
    found = stage_of(student, align_recipe(loss)).backward(batch, draws, 1.0)

    teacher, other = make().double(), make().double()
    linfusion = linfusion_of(other).double()
    layers = mount(other, linfusion)
    losses: list[torch.Tensor] = []
    for name, layer in layers.items():
        teacher.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, layer=layer: losses.extend(
                error(loss, mine, its)
                for mine, its in zip(layer(inputs[0].detach()), output.detach(), strict=True)
            )
        )
    noised = Noise(tiny_scheduler()).draw(batch.latents, draws)
    teacher(noised.latents, noised.timesteps, **batch.conditioning.kwargs())
    expected = torch.stack(losses).mean()
    expected.backward()
    torch.testing.assert_close(found["loss"], expected.detach())
    assert set(found) == {"loss"}
    for name, parameter in linfusion.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(gradients(student)[name], parameter.grad, rtol=1e-8, atol=1e-12)


def test_micro_batches_add_up_to_the_batch() -> None:
    results = []
    for size in (8, 2):
        student = student_of(tiny_unet().double())
        batch, stage = sample(student.unet, 8), stage_of(student, align_recipe(caption_dropout=0.5))
        total = torch.zeros((), dtype=torch.float64)
        for first in range(0, 8, size):
            draws = draws_of(size, stage="align", first=first)
            part = part_of(batch, slice(first, first + size))
            total += stage.backward(part, draws, size / 8)["loss"] * size / 8
        results.append({"loss": total} | gradients(student))
    whole, parts = results
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-6, atol=1e-12)


def deep_unet(blocks: int) -> UNet2DConditionModel:
    return tiny_unet(transformer_layers_per_block=blocks)


def most_saved(student: Student) -> tuple[int, int]:
    """The most bytes that wait for a backward pass at once, and how many tensors were kept in all."""
    alive, most, count = 0, 0, 0

    class Saved:
        def __init__(self, tensor: torch.Tensor) -> None:
            self.tensor = tensor

    def forget(size: int) -> None:
        nonlocal alive
        alive -= size

    def pack(tensor: torch.Tensor) -> Saved:
        nonlocal alive, most, count
        saved, size = Saved(tensor), tensor.numel() * tensor.element_size()
        weakref.finalize(saved, forget, size)
        alive, count = alive + size, count + 1
        most = max(most, alive)
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved.tensor):
        stage_of(student, align_recipe()).backward(sample(student.unet), draws_of(2, stage="align"), 1.0)
    assert alive == 0
    return most, count


def test_the_peak_of_memory_does_not_grow_with_depth() -> None:
    shallow, few = most_saved(student_of(deep_unet(1)))
    deep, many = most_saved(student_of(deep_unet(4)))
    assert shallow == deep
    assert many == 4 * few
    assert shallow > 0


def test_in_half_precision_gradients_are_float32() -> None:
    student = student_of(tiny_unet().to(torch.bfloat16))
    loss = stage_of(student, align_recipe()).backward(sample(student.unet), draws_of(2), 1.0)["loss"]
    assert loss.dtype == torch.float32
    assert len(gradients(student)) == len(student.parameters)
    assert {gradient.dtype for gradient in gradients(student).values()} == {torch.float32}
    exact = student_of(tiny_unet())
    expected = stage_of(exact, align_recipe()).backward(sample(exact.unet), draws_of(2), 1.0)["loss"]
    torch.testing.assert_close(loss, expected, rtol=0.05, atol=0)


def test_no_hook_stays_even_after_an_error() -> None:
    student = student_of(tiny_unet())
    batch = sample(student.unet)
    broken = sample(tiny_sdxl_unet())
    with pytest.raises(RuntimeError):
        stage_of(student, align_recipe()).backward(broken, draws_of(2), 1.0)
    assert not any(layer._forward_hooks for layer in student.layers.values())
    stage_of(student, align_recipe()).backward(batch, draws_of(2), 1.0)
    assert not any(layer._forward_hooks for layer in student.layers.values())


def test_a_stage_that_the_recipe_does_not_have_is_refused() -> None:
    with pytest.raises(DistillationError, match="no stage 'align'"):
        stage_of(student_of(tiny_unet()), recipe_of(distill={"steps": 1, "batch": 1}))
