"""Calibration: it lowers KD a long way on a really trained teacher, never raises it, and does the same every time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from distilling import sample, student_of
from tiny import tiny_scheduler, tiny_sdxl_unet, tiny_unet, write_linfusion

from linzoo.attention.handle import read_linfusion
from linzoo.checkpoints.detection import inspect
from linzoo.checkpoints.lock import encode_json, plain
from linzoo.distillation.batch import Batch, Conditioning
from linzoo.distillation.calibrate import calibrate
from linzoo.distillation.errors import DistillationError
from linzoo.distillation.evaluation import Evaluator
from linzoo.distillation.noise import Noise
from linzoo.distillation.progress import Progress
from linzoo.distillation.recipe import Calibrate
from linzoo.distillation.student import Student
from linzoo.generate.teacher import open_pipeline
from linzoo.init.convert import convert
from linzoo.registry import build_registry

FEW = Calibrate(samples=4, timesteps=2, sharpness=(1, 2, 4), shift=(2, 4), ridge=(0.1, 0.01))
NOTHING = Calibrate(sharpness=(1,), shift=(), ridge=())


def weights(student: Student) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in student.parameters.items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def evaluator_of(student: Student) -> Evaluator:
    return Evaluator(student, Noise(tiny_scheduler()), [sample(student.unet, 4, seed=2)])


@pytest.mark.parametrize("make", [tiny_unet, tiny_sdxl_unet])
def test_kd_falls_and_is_told_after_each_part(make) -> None:
    student = student_of(make(), of_teacher=True)
    evaluator = evaluator_of(student)
    before = evaluator.kd()
    found = calibrate(student, [sample(student.unet, 4)], evaluator, FEW)
    assert list(found.kd) == ["start", "sharpness", "ridge"]
    assert found.kd["start"] == found.tried["start"] == before
    assert found.kd["ridge"] == evaluator.kd() == min(found.tried.values()) < before
    assert found.sharpness.keys() == student.layers.keys()
    assert encode_json(plain(found))


def test_the_same_input_gives_the_same_weights() -> None:
    results = []
    for _ in range(2):
        student = student_of(tiny_unet(), of_teacher=True)
        found = calibrate(student, [sample(student.unet, 4)], evaluator_of(student), FEW, seed=3)
        results.append((found, weights(student)))
    assert results[0][0] == results[1][0]
    assert same(results[0][1], results[1][1])


def test_what_only_harms_is_taken_back() -> None:
    student = student_of(tiny_unet(), of_teacher=True)
    evaluator = evaluator_of(student)
    calibrate(student, [sample(student.unet, 4)], evaluator, FEW)
    before, kd = weights(student), evaluator.kd()
    harmful = Calibrate(timesteps=1, sharpness=(0.01,), shift=(), ridge=(1e-9,))
    found = calibrate(student, [sample(student.unet, 1, seed=8)], evaluator, harmful)
    assert found.kd == {"start": kd, "sharpness": kd, "ridge": kd}
    assert min(found.tried["sharpness own"], found.tried["ridge 1e-09"]) > kd
    assert found.sharpness == {}
    assert found.ridge is None
    assert same(before, weights(student))


def test_every_option_is_tried_on_the_weights_as_they_were(tmp_path: Path) -> None:
    unet = tiny_unet()
    without_branches = write_linfusion(unet, tmp_path / "linfusion", of_teacher=True, mid_dim=-1)
    student = Student(unet, read_linfusion(without_branches))
    settings = FEW.model_copy(update={"sharpness": (2,), "ridge": ()})
    found = calibrate(student, [sample(student.unet, 2)], evaluator_of(student), settings)
    assert found.tried["sharpness own"] == found.tried["sharpness paired"] != found.tried["start"]


def test_nothing_to_try_is_nothing_done() -> None:
    student = student_of(tiny_unet())
    before = weights(student)
    found = calibrate(student, [sample(student.unet, 2)], evaluator_of(student), NOTHING)
    assert list(found.kd) == list(found.tried) == ["start"]
    assert same(before, weights(student))


def test_one_part_alone() -> None:
    student = student_of(tiny_unet(), of_teacher=True)
    evaluator, batches = evaluator_of(student), [sample(student.unet, 4)]
    sharpened = calibrate(student, batches, evaluator, FEW.model_copy(update={"ridge": ()}))
    assert list(sharpened.kd) == ["start", "sharpness"]
    fitted = calibrate(student, batches, evaluator, FEW.model_copy(update={"sharpness": (1,), "shift": ()}))
    assert list(fitted.kd) == ["start", "ridge"]


def test_outputs_that_are_not_finite_are_refused() -> None:
    student = student_of(tiny_unet(), of_teacher=True)
    evaluator = evaluator_of(student)
    with torch.no_grad():
        student.parameters["0.to_v.weight"][0, 0] = torch.nan
    with pytest.raises(DistillationError, match="differ by nan"):
        calibrate(student, [sample(student.unet, 2)], evaluator, FEW)


def test_no_gradient_is_left_and_the_teacher_is_what_it_was() -> None:
    student = student_of(tiny_unet(), of_teacher=True)
    batch = sample(student.unet, 2)
    times = torch.tensor([10, 500])
    with torch.no_grad(), student.teacher():
        before = student.predict(batch.latents, times, batch.conditioning)
    calibrate(student, [batch], evaluator_of(student), FEW)
    with torch.no_grad(), student.teacher():
        assert torch.equal(before, student.predict(batch.latents, times, batch.conditioning))
    assert all(weight.grad is None and weight.requires_grad for weight in student.parameters.values())
    assert not any(layer._forward_hooks for layer in student.layers.values())


@pytest.mark.parametrize(
    ("changes", "shown"), [({}, 2 + 2), ({"shift": ()}, 1 + 2), ({"shift": (), "sharpness": (1,)}, 2)]
)
def test_progress_counts_the_teachers_forward_passes(changes: dict, shown: int) -> None:
    class Counting(Progress):
        def task(self, title, total, done=0):
            self.total = total
            return super().task(title, total, done)

    student = student_of(tiny_unet(), of_teacher=True)
    passes = []
    student.unet.register_forward_hook(lambda *_: passes.append(1))
    progress = Counting()
    evaluator = evaluator_of(student)
    passes.clear()
    settings = FEW.model_copy(update=changes)
    found = calibrate(student, [sample(student.unet, 2)] * 3, evaluator, settings, progress=progress)
    assert progress.total == 3 * shown
    assert progress.total + len(found.tried) == len(passes)


class Mini:
    """The teacher that ships, with samples that it drew in a few steps, and a plain copy of its attention."""

    def __init__(self, folder: Path) -> None:
        registry = build_registry(entry_points=False, env={})
        pipe = open_pipeline(inspect("mini", registry=registry), registry, device="cpu", dtype="float32")
        pipe.set_progress_bar_config(disable=True)
        names = ("red apple", "pizza", "ghost", "robot", "panda", "sunflower", "star", "rocket")
        styles = ("3d emoji", "flat emoji", "noto emoji", "gradient emoji")
        prompts = [f"{name}, {style}" for style in styles for name in names]
        drawn = pipe(
            prompts,
            num_inference_steps=8,
            guidance_scale=3.0,
            generator=torch.Generator().manual_seed(0),
            output_type="latent",
        ).images
        texts, empty = pipe.encode_prompt(prompts, "cpu", 1, True)
        self.batches = [
            Batch(drawn[rows], Conditioning(texts[rows]), Conditioning(empty[rows]))
            for rows in (slice(0, 12), slice(12, 20), slice(20, 32))
        ]
        convert("mini", folder, registry=registry)
        self.student = Student(pipe.unet, read_linfusion(folder, registry=registry))
        self.noise = Noise(pipe.scheduler)


def test_on_mini_untrained_kd_is_a_quarter_of_a_plain_copys(tmp_path: Path) -> None:
    mini = Mini(tmp_path / "linfusion")
    training, selecting, measuring = mini.batches
    final = Evaluator(mini.student, mini.noise, [measuring], seed=1)
    before = final.kd()
    settings = Calibrate(timesteps=4, sharpness=(1, 2, 3, 4, 6), ridge=(0.1, 0.01, 0.001))
    found = calibrate(mini.student, [training], Evaluator(mini.student, mini.noise, [selecting]), settings)
    assert found.kd["sharpness"] < 0.5 * found.kd["start"]
    assert found.kd["ridge"] < found.kd["sharpness"]
    assert final.kd() <= 0.25 * before
    assert final.evaluate().row_sum_error < 0.1
