"""Stage 2 against the same losses computed the plain way, with two UNets."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from distilling import draws_of, gradients, linfusion_of, part_of, recipe_of, sample, student_of
from tiny import tiny_scheduler, tiny_sdxl_unet, tiny_unet
from torch.nn import functional as F

from linzoo.attention.mount import mount
from linzoo.distillation.batch import Batch, Conditioning
from linzoo.distillation.distill import DistillStage
from linzoo.distillation.errors import DistillationError
from linzoo.distillation.noise import Noise
from linzoo.distillation.recipe import Recipe
from linzoo.distillation.student import Student

OFFICIAL = {
    "noise": {"start": 1.0},
    "kd": {"start": 0.5},
    "features": {"weight": {"start": 0.5}, "normalize": False},
    "guided": None,
}
KD = {"features": None, "guided": None}
FULL = {
    "noise": {"start": 0.1},
    "features": {"weight": {"start": 0.2, "end": 0.0}},
    "guided": {"share": 0.5, "scale": [1.0, 9.0]},
}
UNETS = {"sd": tiny_unet, "sdxl": tiny_sdxl_unet}


def distill_recipe(loss: dict[str, object], *, caption_dropout: float = 0.0, **changes: object) -> Recipe:
    settings = {"steps": 100, "batch": 8, "loss": loss} | changes
    return recipe_of(distill=settings, caption_dropout=caption_dropout)


def stage_of(student: Student, recipe: Recipe, prediction: str = "epsilon") -> DistillStage:
    assert recipe.distill is not None
    return DistillStage(student, noise_of(recipe, prediction), recipe)


def noise_of(recipe: Recipe, prediction: str = "epsilon") -> Noise:
    assert recipe.distill is not None
    scheduler = DDIMScheduler.from_config(tiny_scheduler().config, prediction_type=prediction)
    return Noise(scheduler, recipe.distill.timesteps)


class TwoUNets:
    """The published layout: a teacher and a student that have nothing in common, with hooks on their attentions."""

    def __init__(self, make: Callable[[], UNet2DConditionModel]) -> None:
        self.teacher, self.student = make().double(), make().double()
        self.linfusion = linfusion_of(self.student).double()
        self.names = list(mount(self.student, self.linfusion))
        self.outputs: dict[str, list[torch.Tensor]] = {"teacher": [], "student": []}
        for whose, unet in (("teacher", self.teacher), ("student", self.student)):
            for name in self.names:
                unet.get_submodule(name).register_forward_hook(
                    lambda module, inputs, output, whose=whose: self.outputs[whose].append(output)
                )

    def run(
        self, noisy: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning
    ) -> tuple[torch.Tensor, torch.Tensor]:
        for outputs in self.outputs.values():
            outputs.clear()
        with torch.no_grad():
            teacher = self.teacher(noisy, timesteps, **conditioning.kwargs()).sample
        return self.student(noisy, timesteps, **conditioning.kwargs()).sample, teacher

    def published_features(self) -> torch.Tensor:
        pairs = list(zip(self.outputs["student"], self.outputs["teacher"], strict=True))
        return sum(F.mse_loss(*pair) for pair in pairs) / len(pairs)

    def normalized_features(self) -> torch.Tensor:
        errors = [
            F.mse_loss(student, teacher) / teacher.square().mean()
            for pair in zip(self.outputs["student"], self.outputs["teacher"], strict=True)
            for student, teacher in zip(*pair, strict=True)
        ]
        return torch.stack(errors).mean()


def double_student(make: Callable[[], UNet2DConditionModel]) -> Student:
    return student_of(make().double())


def assert_gradients(student: Student, two: TwoUNets) -> None:
    expected = {name: each.grad for name, each in two.linfusion.named_parameters()}
    found = gradients(student)
    assert list(found) == list(expected)
    for name, gradient in expected.items():
        assert gradient is not None
        torch.testing.assert_close(found[name], gradient, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("name", UNETS)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_the_official_recipe_is_the_published_loss(name: str, prediction: str) -> None:
    recipe = distill_recipe(OFFICIAL)
    student, two = double_student(UNETS[name]), TwoUNets(UNETS[name])
    batch, draws = sample(student.unet, 3), draws_of(3)
    terms = stage_of(student, recipe, prediction).backward(batch, draws, 1.0)

    noise = noise_of(recipe, prediction)
    noised = noise.draw(batch.latents, draws)
    output, teacher = two.run(noised.latents, noised.timesteps, batch.conditioning)
    target = noise.target(batch.latents, noised.noise, noised.timesteps)
    expected = {
        "noise": F.mse_loss(output, target),
        "kd": F.mse_loss(output, teacher),
        "features": two.published_features(),
    }
    expected["loss"] = expected["noise"] + 0.5 * expected["kd"] + 0.5 * expected["features"]
    expected["loss"].backward()
    assert set(terms) == set(expected)
    for term, value in expected.items():
        torch.testing.assert_close(terms[term], value.detach(), rtol=1e-9, atol=0)
        assert not terms[term].requires_grad
    assert_gradients(student, two)


@pytest.mark.parametrize("name", UNETS)
def test_gradients_of_one_unet_are_those_of_two(name: str) -> None:
    recipe = distill_recipe(KD)
    student, two = double_student(UNETS[name]), TwoUNets(UNETS[name])
    batch, draws = sample(student.unet), draws_of(2)
    terms = stage_of(student, recipe).backward(batch, draws, 1.0)
    noised = noise_of(recipe).draw(batch.latents, draws)
    output, teacher = two.run(noised.latents, noised.timesteps, batch.conditioning)
    F.mse_loss(output, teacher).backward()
    assert_gradients(student, two)
    assert set(terms) == {"loss", "kd"}
    assert not any(each.grad is not None for each in student.unet.parameters() if not each.requires_grad)


def guided_step(recipe: Recipe, guided: bool = True) -> int:
    assert recipe.distill is not None
    assert recipe.distill.loss.guided is not None
    share = recipe.distill.loss.guided.share
    return next(step for step in range(50) if (draws_of(1, step=step).shared("guided") < share) is guided)


@pytest.mark.parametrize("name", UNETS)
def test_a_guided_step_learns_the_guided_output(name: str) -> None:
    recipe = distill_recipe(FULL, caption_dropout=0.5)
    student, two = double_student(UNETS[name]), TwoUNets(UNETS[name])
    step = guided_step(recipe)
    batch, draws = sample(student.unet, 3), draws_of(3, step=step)
    terms = stage_of(student, recipe).backward(batch, draws, 1.0)

    noise = noise_of(recipe)
    noised = noise.draw(batch.latents, draws)
    scale = 1 + 8 * draws.shared("scale")
    outputs, features = [], []
    for conditioning in (batch.conditioning, batch.unconditional):
        outputs.append(two.run(noised.latents, noised.timesteps, conditioning))
        features.append(two.normalized_features())
    (conditional, its_conditional), (unconditional, its_unconditional) = outputs
    guided = unconditional + scale * (conditional - unconditional)
    its_guided = its_unconditional + scale * (its_conditional - its_unconditional)
    expected = {
        "kd": (F.mse_loss(conditional, its_conditional) + F.mse_loss(unconditional, its_unconditional)) / 2,
        "guided": F.mse_loss(guided, its_guided) / (1 + scale**2),
        "noise": F.mse_loss(conditional, noised.noise),
        "features": torch.stack(features).mean(),
    }
    weight = 0.1 * (1 + torch.cos(torch.tensor(torch.pi * step / 99, dtype=torch.float64)))
    loss = (expected["kd"] + expected["guided"]) / 2 + 0.1 * expected["noise"] + weight * expected["features"]
    loss.backward()
    for term, value in (expected | {"loss": loss}).items():
        torch.testing.assert_close(terms.pop(term), value.detach(), rtol=1e-8, atol=0)
    assert not terms
    assert_gradients(student, two)


def test_features_are_not_captured_once_they_count_no_more() -> None:
    recipe = distill_recipe({"features": {"weight": {"start": 0.2, "end": 0.0}}, "guided": None})
    student = student_of(tiny_unet())
    batch, stage = sample(student.unet), stage_of(student, recipe)
    assert "features" in stage.backward(batch, draws_of(2, step=98), 1.0)
    assert set(stage.backward(batch, draws_of(2, step=99), 1.0)) == {"loss", "kd"}


def test_min_snr_weighs_the_samples() -> None:
    recipe = distill_recipe(KD, timesteps={"weighting": "min_snr", "gamma": 2.0})
    student, two = double_student(tiny_unet), TwoUNets(tiny_unet)
    batch, draws = sample(student.unet, 4), draws_of(4)
    terms = stage_of(student, recipe, "v_prediction").backward(batch, draws, 1.0)
    noised = noise_of(recipe, "v_prediction").draw(batch.latents, draws)
    output, teacher = two.run(noised.latents, noised.timesteps, batch.conditioning)
    share = tiny_scheduler().alphas_cumprod[noised.timesteps].double()
    snr = share / (1 - share)
    weights = snr.clamp(max=2) / (snr + 1)
    loss = (weights * (output - teacher).square().mean((1, 2, 3))).mean()
    torch.testing.assert_close(terms["kd"], loss.detach(), rtol=1e-5, atol=0)


def whole_and_parts(recipe: Recipe, step: int, parts: int) -> tuple[dict[str, torch.Tensor], ...]:
    """Losses and gradients of a batch of 8 at once, and in parts."""
    results: list[dict[str, torch.Tensor]] = []
    for size in (8, 8 // parts):
        student = double_student(tiny_unet)
        batch, stage = sample(student.unet, 8), stage_of(student, recipe)
        share = size / 8
        losses: dict[str, torch.Tensor] = {}
        for first in range(0, 8, size):
            part = part_of(batch, slice(first, first + size))
            for name, loss in stage.backward(part, draws_of(size, step=step, first=first), share).items():
                losses[name] = losses.get(name, torch.zeros(())) + share * loss
        results.append(losses | gradients(student))
    return tuple(results)


@pytest.mark.parametrize("guided", [False, True])
def test_micro_batches_add_up_to_the_batch(guided: bool) -> None:
    recipe = distill_recipe(FULL, caption_dropout=0.5, timesteps={"weighting": "min_snr"})
    whole, parts = whole_and_parts(recipe, guided_step(recipe, guided), 4)
    assert list(whole) == list(parts)
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-6, atol=1e-12)


def test_checkpointing_changes_no_gradient() -> None:
    recipe = distill_recipe(FULL)
    found = []
    for checkpointing in (False, True):
        student = double_student(tiny_unet)
        if checkpointing:
            student.enable_gradient_checkpointing()
        stage_of(student, recipe).backward(sample(student.unet), draws_of(2), 1.0)
        found.append(gradients(student))
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-9, atol=1e-14)


def test_captions_are_dropped_by_sample_for_teacher_and_student() -> None:
    student = student_of(tiny_unet())
    seen: list[torch.Tensor] = []
    student.unet.register_forward_pre_hook(
        lambda module, inputs, kwargs: seen.append(kwargs["encoder_hidden_states"]), with_kwargs=True
    )
    batch, draws = sample(student.unet, 8), draws_of(8)
    stage_of(student, distill_recipe(KD, caption_dropout=0.5)).backward(batch, draws, 1.0)
    dropped = draws.uniform("caption") < 0.5
    assert 0 < dropped.sum() < 8
    assert len(seen) == 2
    for text in seen:
        assert torch.equal(text[dropped], batch.unconditional.text[dropped])
        assert torch.equal(text[~dropped], batch.conditioning.text[~dropped])


@pytest.mark.parametrize("size", [4, 8, 16])
def test_sizes_are_no_matter(size: int) -> None:
    student = student_of(tiny_unet())
    batch = sample(student.unet, size=size)
    wide = Batch(batch.latents.repeat(1, 1, 1, 2), batch.conditioning, batch.unconditional)
    terms = stage_of(student, distill_recipe(FULL)).backward(wide, draws_of(2), 1.0)
    assert all(term.isfinite() for term in terms.values())


def test_a_stage_that_the_recipe_does_not_have_is_refused() -> None:
    student = student_of(tiny_unet())
    with pytest.raises(DistillationError, match="no stage 'distill'"):
        DistillStage(student, Noise(tiny_scheduler()), recipe_of(align={"steps": 1, "batch": 1}))


def test_training_comes_closer_to_the_teacher() -> None:
    student = student_of(tiny_unet(), of_teacher=True)
    stage = stage_of(student, distill_recipe({}))
    optimizer = torch.optim.Adam(student.parameters.values(), lr=3e-3)
    batch, losses = sample(student.unet, 4), []
    for step in range(20):
        optimizer.zero_grad()
        losses.append(stage.backward(batch, draws_of(4, step=step), 1.0)["kd"])
        optimizer.step()
    assert torch.stack(losses[-5:]).mean() < 0.5 * torch.stack(losses[:5]).mean()
