"""What is measured of a student: against the definitions, for every kind of UNet, and the same every time."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from distilling import part_of, sample, student_of
from tiny import tiny_scheduler, tiny_sdxl_unet, tiny_unet

from linzoo.distillation.batch import Batch, Conditioning
from linzoo.distillation.evaluation import Evaluator, _row_sum
from linzoo.distillation.noise import Noise
from linzoo.distillation.student import Student

EPSILON = tiny_scheduler()


class Seen:
    """The inputs and outputs of a UNet's forward passes."""

    def __init__(self, student: Student) -> None:
        self.inputs: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.outputs: list[torch.Tensor] = []
        student.unet.register_forward_hook(self._note)

    def _note(self, _: object, inputs: tuple[torch.Tensor, ...], output: tuple[torch.Tensor]) -> None:
        self.inputs.append((inputs[0], inputs[1]))
        self.outputs.append(output[0])


def evaluator_of(student: Student, batches: list[Batch], **changes: object) -> Evaluator:
    return Evaluator(student, Noise(EPSILON), batches, **changes)


def test_kd_is_the_mean_square_difference_of_the_outputs() -> None:
    student = student_of(tiny_unet())
    seen = Seen(student)
    evaluator = evaluator_of(student, [sample(student.unet, 4)])
    kd = evaluator.kd()
    teacher, linear = seen.outputs
    assert kd == pytest.approx(float((linear - teacher).square().mean()), rel=1e-6)
    assert kd > 1e-4


def test_the_teacher_measured_against_itself_is_without_a_fault() -> None:
    student = student_of(tiny_unet())
    evaluator = evaluator_of(student, [sample(student.unet, 4)])
    with student.teacher():
        assert evaluator.kd() == 0
        found = evaluator.evaluate()
    assert found.kd == 0
    assert set(found.guided.values()) == {0}
    assert set(found.features.values()) == {0}


def test_timesteps_are_spread_over_all_deciles() -> None:
    student = student_of(tiny_unet())
    seen = Seen(student)
    evaluator = evaluator_of(student, [sample(student.unet, 20)])
    assert sorted(seen.inputs[0][1].tolist()) == list(range(25, 1000, 50))
    found = evaluator.evaluate()
    assert sum(found.deciles) / 10 == pytest.approx(found.kd)
    assert min(found.deciles) > 0


def test_a_decile_without_a_sample_has_no_figure() -> None:
    student = student_of(tiny_unet())
    found = evaluator_of(student, [sample(student.unet, 2)]).evaluate()
    assert [each is not None for each in found.deciles] == [False, False, True] + [False] * 4 + [
        True,
        False,
        False,
    ]


def test_guided_kd_is_of_the_guided_outputs() -> None:
    student = student_of(tiny_unet())
    seen = Seen(student)
    evaluator = evaluator_of(student, [sample(student.unet, 4)], scales=(1.0, 7.5))
    guided = evaluator.evaluate().guided
    conditional, _, linear, unconditional, linear_without = seen.outputs
    wanted = unconditional + 7.5 * (conditional - unconditional)
    found = linear_without + 7.5 * (linear - linear_without)
    assert guided[7.5] == pytest.approx(float((found - wanted).square().mean()), rel=1e-5)
    assert guided[1.0] == pytest.approx(evaluator.kd())


def test_feature_errors_are_told_by_layer_relative_to_the_teachers() -> None:
    student = student_of(tiny_unet())
    batch = sample(student.unet, 1)
    evaluator = evaluator_of(student, [batch])
    found = evaluator.evaluate().features
    assert list(found) == list(student.layers)
    noisy, timesteps = Seen(student), None
    evaluator.kd()
    (latents, timesteps), *_ = noisy.inputs
    with torch.no_grad():
        with student.teacher(), student.features() as wanted:
            student.predict(latents, timesteps, batch.conditioning)
        with student.features() as captured:
            student.predict(latents, timesteps, batch.conditioning)
    for name, error in found.items():
        ratio = (captured[name] - wanted[name]).square().mean() / wanted[name].square().mean()
        assert error == pytest.approx(float(ratio), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_of_the_attention_sum_to_one_but_for_eps(dtype: torch.dtype) -> None:
    student = student_of(tiny_unet().to(dtype))
    found = evaluator_of(student, [sample(student.unet, 2)]).evaluate()
    assert 0 < found.row_sum_error < 1e-3


def test_the_worst_row_counts() -> None:
    layer = SimpleNamespace(to_v=torch.nn.Identity(), mix=lambda x, _: x * layer.to_v(x))
    worst: dict[str, float] = {}
    _row_sum(worst, "layer", layer, (torch.tensor([1.0, 1.5, 0.25]),), torch.empty(0))
    assert worst == {"layer": 0.75}
    _row_sum(worst, "layer", layer, (torch.tensor([1.0, 1.1]),), torch.empty(0))
    assert worst == {"layer": 0.75}


def test_features_that_eps_drowns_are_told() -> None:
    student = student_of(tiny_unet())
    with torch.no_grad():
        for name, weight in student.parameters.items():
            if name.endswith(("to_q_.3.bias", "to_k_.3.bias")):
                layer = name.partition(".")[0]
                projection = student.parameters[f"{layer}.{name.split('.')[1].rstrip('_')}.weight"]
                weight.copy_(torch.linalg.lstsq(projection, torch.full((len(projection),), -8.0)).solution)
    assert evaluator_of(student, [sample(student.unet, 2)]).evaluate().row_sum_error > 0.5


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_any_prediction_and_conditioning(prediction_type: str) -> None:
    student = student_of(tiny_sdxl_unet())
    noise = Noise(EPSILON.from_config(EPSILON.config, prediction_type=prediction_type))
    evaluator = Evaluator(student, noise, [sample(student.unet, 2)])
    found = evaluator.evaluate()
    assert found.kd == evaluator.kd() > 0
    assert len(found.features) == len(student.layers) == 8
    assert set(found.guided) == {1.0, 4.0, 7.5}


def test_figures_are_the_same_every_time_and_do_not_depend_on_micro_batches() -> None:
    student = student_of(tiny_unet())
    batch = sample(student.unet, 4)
    whole = evaluator_of(student, [batch])
    found = whole.evaluate()
    assert found == whole.evaluate() == evaluator_of(student, [batch]).evaluate()
    parts = evaluator_of(student, [part_of(batch, slice(0, 3)), part_of(batch, slice(3, 4))])
    assert parts.kd() == pytest.approx(found.kd, rel=1e-5)
    assert parts.evaluate().guided[7.5] == pytest.approx(found.guided[7.5], rel=1e-5)


def test_samples_of_several_sizes() -> None:
    student = student_of(tiny_unet())
    batches = [sample(student.unet, 2), sample(student.unet, 2, size=16)]
    assert evaluator_of(student, batches).evaluate().kd > 0


def test_kd_alone_asks_for_conditional_outputs_only() -> None:
    student = student_of(tiny_unet())
    batch = sample(student.unet, 2)
    broken = Batch(batch.latents, batch.conditioning, Conditioning(torch.empty(0)))
    assert evaluator_of(student, [broken]).kd() > 0
