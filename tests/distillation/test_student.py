"""One UNet, two attentions: what is shared, what is trained, and that each side computes what it should."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from distilling import linfusion_of, sample, student_of
from peft import LoraConfig
from safetensors.torch import save_file
from tiny import SD_SITES, SDXL_SITES, tiny_sdxl_unet, tiny_unet
from torch import nn

import linzoo
from linzoo.attention.errors import MountError
from linzoo.attention.leaves import LEAVES
from linzoo.distillation.errors import DistillationError
from linzoo.distillation.student import Student

UNETS = {"sd": (tiny_unet, SD_SITES), "sdxl": (tiny_sdxl_unet, SDXL_SITES)}


def predict(student: Student, **changes: object) -> torch.Tensor:
    batch = sample(student.unet, **changes)
    return student.predict(batch.latents, torch.tensor([7, 801]), batch.conditioning)


@pytest.mark.parametrize("name", UNETS)
def test_the_teacher_is_the_stock_unet_bit_for_bit(name: str) -> None:
    unet = UNETS[name][0]()
    batch = sample(unet)
    with torch.no_grad():
        stock = copy.deepcopy(unet)(batch.latents, torch.tensor([7, 801]), **batch.conditioning.kwargs())
        student = student_of(unet)
        before = predict(student)
        with student.teacher():
            teacher = predict(student)
        after = predict(student)
    assert (teacher - stock.sample).abs().max() == 0
    assert torch.equal(before, after)
    assert (before - teacher).abs().max() > 1e-3


def test_a_block_within_a_block_leaves_the_outer_one_as_it_was() -> None:
    student = student_of(tiny_unet())
    with torch.no_grad(), student.teacher():
        expected = predict(student)
        with student.softmax(list(student.layers)[:1]):
            pass
        assert torch.equal(predict(student), expected)


@pytest.mark.parametrize("name", UNETS)
def test_training_changes_the_student_and_not_the_teacher(name: str) -> None:
    student = student_of(UNETS[name][0](), of_teacher=True)
    with torch.no_grad(), student.teacher():
        before = predict(student)
    predict(student).square().mean().backward()
    with torch.no_grad():
        for parameter in student.parameters.values():
            assert parameter.grad is not None
            assert parameter.grad.abs().sum() > 0
            parameter.sub_(parameter.grad)
        with student.teacher():
            assert torch.equal(predict(student), before)


@pytest.mark.parametrize("name", UNETS)
def test_there_is_one_unet(name: str) -> None:
    unet, sites = UNETS[name][0](), UNETS[name][1]
    count = sum(parameter.numel() for parameter in unet.parameters())
    linfusion = linfusion_of(unet, of_teacher=True)
    trained = sum(parameter.numel() for parameter in linfusion.parameters())
    student = student_of(unet, of_teacher=True)
    storages = {each.untyped_storage().data_ptr() for each in (*unet.parameters(), *unet.buffers())}
    assert len(student.layers) == sites
    assert sum(parameter.numel() for parameter in unet.parameters()) == count + trained
    assert len(storages) == len([*unet.parameters(), *unet.buffers()])
    assert sum(parameter.numel() for parameter in unet.parameters() if parameter.requires_grad) == trained
    own = {each.untyped_storage().data_ptr() for each in linfusion.parameters()}
    assert not own & storages


def test_the_groups_tell_new_from_inherited_weights() -> None:
    student = student_of(tiny_unet())
    groups = student.groups()
    assert len(groups["inherited"]) == SD_SITES * 5
    assert len(groups["new"]) == SD_SITES * 12
    assert {id(each) for group in groups.values() for each in group} == {
        id(each) for each in student.parameters.values()
    }


def test_in_half_precision_the_trained_weights_are_float32() -> None:
    unet = tiny_unet().to(torch.bfloat16)
    before = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    student = student_of(unet)
    assert {each.dtype for each in student.parameters.values()} == {torch.float32}
    output = predict(student)
    assert output.dtype == torch.float32
    output.square().mean().backward()
    assert {each.grad.dtype for each in student.parameters.values() if each.grad is not None} == {
        torch.float32
    }
    batch, stock = sample(unet), tiny_unet().to(torch.bfloat16)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = stock(batch.latents, torch.tensor([7, 801]), **batch.conditioning.kwargs()).sample
    with torch.no_grad(), student.teacher():
        assert torch.equal(predict(student), expected.float())
    student.close()
    after = unet.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all(after[name].dtype == tensor.dtype for name, tensor in before.items())


def test_the_teachers_leaves_move_with_the_unet() -> None:
    student = student_of(tiny_unet(), of_teacher=True)
    for layer in student.layers.values():
        assert set(layer.teacher) == set(LEAVES)
    student.unet.to("meta")
    assert all(parameter.is_meta for parameter in student.unet.parameters())


@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_what_is_exported_loads_and_computes_the_same(tmp_path: Path, dtype: torch.dtype | None) -> None:
    student = student_of(tiny_unet())
    student.keep_softmax([next(iter(student.layers))])
    config, tensors = student.export(dtype)
    with torch.no_grad():
        expected = predict(student)
    assert {tensor.dtype for tensor in tensors.values()} == {dtype or torch.float32}
    (tmp_path / "config.json").write_text(json.dumps(config.to_json()))
    save_file(tensors, tmp_path / "diffusion_pytorch_model.safetensors")
    unet = tiny_unet()
    handle = linzoo.load(unet, tmp_path)
    batch = sample(unet)
    with torch.no_grad():
        output = unet(batch.latents, torch.tensor([7, 801]), **batch.conditioning.kwargs()).sample
    assert len(handle.modules) == SD_SITES - 1
    torch.testing.assert_close(output, expected, rtol=0, atol=0 if dtype is None else 2e-3)


def test_layers_that_stay_softmax_leave_no_weights_behind() -> None:
    student = student_of(tiny_unet(), of_teacher=True)
    first, *others = student.layers
    weights = student.parameters
    with torch.no_grad():
        with student.softmax([first]):
            expected = predict(student)
        student.keep_softmax([first])
        assert torch.equal(predict(student), expected)
    assert list(student.layers) == others
    assert student.parameters["0.to_q.weight"] is weights["1.to_q.weight"]
    assert len(student.parameters) == len(weights) * len(others) // SD_SITES
    trained = {id(each) for each in student.unet.parameters() if each.requires_grad}
    assert trained == {id(each) for each in student.parameters.values()}
    with pytest.raises(MountError, match="replaced by LinFusion"):
        student.unet.save_pretrained("nowhere")
    with pytest.raises(DistillationError, match="nothing would be left"):
        student.keep_softmax(others)
    with pytest.raises(DistillationError, match=first):
        student.keep_softmax([first])


def test_a_lora_is_part_of_teacher_and_student_and_is_not_exported() -> None:
    unet = tiny_unet()
    unet.add_adapter(LoraConfig(r=2, init_lora_weights=False, target_modules=["to_q", "to_v", "to_out.0"]))
    unet.eval()
    batch = sample(unet)
    with torch.no_grad():
        stock = unet(batch.latents, torch.tensor([7, 801]), **batch.conditioning.kwargs()).sample
    student = Student(unet, linfusion_of(tiny_unet()))
    plain = student_of(tiny_unet())
    with torch.no_grad():
        with student.teacher():
            assert torch.equal(predict(student), stock)
        assert (predict(student) - predict(plain)).abs().max() > 1e-4
    predict(student).square().mean().backward()
    trained = {id(each) for each in unet.parameters() if each.grad is not None}
    assert trained == {id(each) for each in student.parameters.values()}
    exported, expected = student.export()[1], plain.export()[1]
    assert list(exported) == list(expected)
    assert all(torch.equal(exported[name], expected[name]) for name in expected)


def features_and_gradients(checkpointing: bool) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
    student = student_of(tiny_unet())
    if checkpointing:
        student.enable_gradient_checkpointing()
    calls: list[nn.Module] = []
    for layer in student.layers.values():
        layer.register_forward_hook(lambda module, *_: calls.append(module))
    with student.features() as captured:
        output = predict(student)
        features = dict(captured)
        loss = output.square().mean() + sum(each.square().mean() for each in captured.values())
        loss.backward()
        assert all(captured[name] is each for name, each in features.items())
    assert len(calls) == (2 if checkpointing else 1) * SD_SITES
    predict(student)
    assert len(captured) == SD_SITES
    return features, [each.grad for each in student.parameters.values() if each.grad is not None]


def test_checkpointing_changes_neither_features_nor_gradients() -> None:
    plain, plain_gradients = features_and_gradients(checkpointing=False)
    checkpointed, gradients = features_and_gradients(checkpointing=True)
    assert list(plain) == list(checkpointed)
    assert len(plain) == SD_SITES
    assert all(torch.equal(plain[name], checkpointed[name]) for name in plain)
    torch.testing.assert_close(gradients, plain_gradients, rtol=1e-6, atol=1e-9)


def test_features_are_what_the_attentions_put_out() -> None:
    unet = tiny_unet()
    expected: dict[str, torch.Tensor] = {}
    student = student_of(unet)
    stock = tiny_unet()
    for name in student.layers:
        stock.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: expected.__setitem__(name, output)
        )
    batch = sample(unet)
    with torch.no_grad():
        stock(batch.latents, torch.tensor([7, 801]), **batch.conditioning.kwargs())
        with student.teacher(), student.features() as captured:
            predict(student)
    assert list(captured) == list(expected)
    assert all(torch.equal(captured[name], expected[name]) for name in expected)
