"""What calibration is shown: the teacher's own attentions, at timesteps over the whole range, with and without captions."""

from __future__ import annotations

import torch
from distilling import part_of, sample, student_of
from tiny import tiny_scheduler, tiny_unet

from linzoo.distillation.noise import Noise
from linzoo.distillation.observation import Observation


def test_every_layer_is_shown_with_what_the_teacher_makes_of_it() -> None:
    student = student_of(tiny_unet())
    shown = []

    def visit(name, layer, hidden_states, output) -> None:
        with student.softmax([name]):
            shown.append((name, torch.equal(layer._softmax(hidden_states, None), output)))

    steps: list[int] = []
    batches = [sample(student.unet, 2), sample(student.unet, 1)]
    observation = Observation(student, Noise(tiny_scheduler()), batches, 0)
    observation.show(visit, 2, lambda: steps.append(1))
    assert len(steps) == 4
    assert sorted(shown) == sorted([(name, True) for name in student.layers] * 4)


def test_timesteps_cover_the_range_each_time_through_and_every_other_time_has_no_captions() -> None:
    student = student_of(tiny_unet())
    batch = sample(student.unet, 4)
    times, captions = [], []

    def note(_, inputs, named) -> None:
        times.append(inputs[1].tolist())
        captions.append(named["encoder_hidden_states"])

    student.unet.register_forward_pre_hook(note, with_kwargs=True)
    Observation(student, Noise(tiny_scheduler()), [batch], 0).show(lambda *_: None, 4, lambda: None)
    for each in times:
        assert sorted(time // 250 for time in each) == [0, 1, 2, 3]
    for column in zip(*times, strict=True):
        assert sorted(time // 250 for time in column) == [0, 1, 2, 3]
    assert [torch.equal(each, batch.unconditional.text) for each in captions] == [False, True, False, True]


def test_micro_batches_see_the_same_noise_at_the_same_timesteps_as_the_whole() -> None:
    student = student_of(tiny_unet())
    batch, seen = sample(student.unet, 4), []
    student.unet.register_forward_pre_hook(lambda _, inputs: seen.append((inputs[0], inputs[1])))
    parts = [part_of(batch, slice(0, 3)), part_of(batch, slice(3, 4))]
    for batches in ([batch], parts):
        Observation(student, Noise(tiny_scheduler()), batches, 0).show(lambda *_: None, 1, lambda: None)
    whole, *cut = seen
    for wanted, found in zip(whole, zip(*cut, strict=True), strict=True):
        torch.testing.assert_close(torch.cat(found), wanted)
