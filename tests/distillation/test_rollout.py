"""On-policy noisy latents against diffusers' own DDIM sampler, and the steps that train on them."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler
from distilling import draws_of, gradients, recipe_of, sample, student_of
from tiny import tiny_scheduler, tiny_unet

from linzoo.distillation.distill import DistillStage
from linzoo.distillation.noise import Noise, Noised
from linzoo.distillation.rollout import roll_out

PREDICTIONS = ["epsilon", "v_prediction", "sample"]


def scheduler(prediction: str, **changes: object) -> DDIMScheduler:
    return DDIMScheduler.from_config(tiny_scheduler().config, prediction_type=prediction, **changes)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_rollout_is_ddim_sampling_with_the_student(prediction: str) -> None:
    student = student_of(tiny_unet())
    batch, noise = sample(student.unet), Noise(scheduler(prediction))
    start = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    timesteps = torch.tensor([199, 199])
    rolled = roll_out(student, noise, Noised(start, start, timesteps), batch.conditioning, 10)

    sampler = scheduler(prediction, timestep_spacing="trailing", steps_offset=0)
    sampler.set_timesteps(10)  # 999, 899, …: down to 199 in 8 steps
    expected = start
    with torch.no_grad():
        for step in sampler.timesteps[:8]:
            output = student.unet(expected, step, **batch.conditioning.kwargs()).sample
            expected = sampler.step(output, step, expected).prev_sample
    assert sampler.timesteps[8] == 199
    torch.testing.assert_close(rolled, expected, rtol=1e-3, atol=1e-4)
    assert not rolled.requires_grad


def test_each_sample_comes_to_its_own_timestep() -> None:
    student = student_of(tiny_unet())
    batch, noise = sample(student.unet), Noise(scheduler("epsilon"))
    start = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    timesteps = torch.tensor([199, 999])
    passes: list[int] = []
    student.unet.register_forward_pre_hook(lambda module, inputs: passes.append(len(inputs[0])))
    rolled = roll_out(student, noise, Noised(start, start, timesteps), batch.conditioning, 5)
    assert passes == [2, 1, 1, 1]
    torch.testing.assert_close(rolled[1], start[1], rtol=1e-3, atol=1e-4)
    both = roll_out(student, noise, Noised(start, start, torch.tensor([199, 199])), batch.conditioning, 5)
    torch.testing.assert_close(rolled[0], both[0], rtol=1e-4, atol=1e-4)
    swapped = roll_out(student, noise, Noised(start, start, timesteps.flip(0)), batch.conditioning, 5)
    torch.testing.assert_close(swapped[1], both[1], rtol=1e-4, atol=1e-4)


def test_a_schedule_that_ends_in_pure_noise_rolls_out() -> None:
    student = student_of(tiny_unet())
    batch = sample(student.unet)
    noise = Noise(scheduler("v_prediction", rescale_betas_zero_snr=True))
    noised = noise.draw(batch.latents, draws_of(2))
    assert roll_out(student, noise, noised, batch.conditioning, 3).isfinite().all()


def test_an_on_policy_step_trains_on_the_students_own_latents() -> None:
    loss = {"noise": {"start": 1.0}, "features": None, "guided": None}
    recipe = recipe_of(
        distill={"steps": 100, "batch": 2, "loss": loss, "on_policy": {"share": 0.5, "steps": 3}}
    )
    student, noise = student_of(tiny_unet().double()), Noise(scheduler("epsilon"))
    batch, stage = sample(student.unet), DistillStage(student, noise, recipe)
    steps = {draws_of(1, step=step).shared("on-policy") < 0.5: step for step in range(20)}
    assert "noise" in stage.backward(batch, draws_of(2, step=steps[False]), 1.0)
    student.unet.zero_grad()

    draws = draws_of(2, step=steps[True])
    noised = noise.draw(batch.latents, draws)
    noisy = roll_out(student, noise, noised, batch.conditioning, 3)
    terms = stage.backward(batch, draws, 1.0)
    assert set(terms) == {"loss", "kd"}
    found = {name: gradient.clone() for name, gradient in gradients(student).items()}
    student.unet.zero_grad()
    with torch.no_grad(), student.teacher():
        teacher = student.predict(noisy, noised.timesteps, batch.conditioning)
    expected = (student.predict(noisy, noised.timesteps, batch.conditioning) - teacher).square().mean()
    expected.backward()
    torch.testing.assert_close(terms["kd"], expected.detach())
    for name, gradient in gradients(student).items():
        torch.testing.assert_close(found[name], gradient)
