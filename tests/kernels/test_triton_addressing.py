"""Tensors of more than 2^31 elements: memory that is reserved and hardly touched, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from linzoo_kernels import launch
from triton_cases import DEVICES, backward, forward, randoms, skip_where_it_cannot_run

ADDRESSES = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from triton_cases import backward, forward, randoms
shape, strides = {shape}, {strides}
reach = sum((n - 1) * stride for n, stride in zip(shape, strides))
assert reach > 2**31
far = torch.empty(reach + 1, dtype=torch.float16, device=sys.argv[2])
inputs = randoms(*[shape] * 4, dtype=torch.float16, device=sys.argv[2])
expected = forward(*inputs[:3], 1, splits=4), *backward(*inputs, 1, splits=4)
for place in range(4):
    moved = list(inputs)
    moved[place] = far.as_strided(shape, strides).copy_(inputs[place])
    actual = forward(*moved[:3], 1, splits=4), *backward(*moved, 1, splits=4)
    assert all(torch.equal(a, b) for a, b in zip(actual, expected)), place
print("equal")
"""


@pytest.mark.parametrize(
    ("shape", "strides"),
    [
        ((2, 3, 32), (2**31 + 64, 32, 1)),
        ((3, 3, 32), (2**30 + 64, 32, 1)),
        ((1, 194, 32), (0, 2**24 - 64, 1)),
    ],
    ids=["batch stride", "batch times stride", "first row of a chunk times stride"],
)
@pytest.mark.parametrize("device", DEVICES)
def test_more_than_two_to_the_31_elements(
    shape: tuple[int, ...], strides: tuple[int, ...], device: str
) -> None:
    skip_where_it_cannot_run(device)
    script = ADDRESSES.format(shape=shape, strides=strides)
    command = [sys.executable, "-c", script, str(Path(__file__).parent), device]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert done.stdout == "equal\n", done.stderr


@pytest.mark.parametrize("device", DEVICES)
def test_rows_farther_apart_than_offsets_reach_are_copied(device: str) -> None:
    skip_where_it_cannot_run(device)
    q, k, v, do = randoms(*[(1, 5, 32)] * 4, dtype=torch.float32, device=device)
    far = torch.empty(5 * 2**25, device=device).as_strided((1, 5, 32), (0, 2**25, 1)).copy_(k)
    assert far.stride(1) > launch.FARTHEST_ROW
    assert launch._rows(far).stride(1) == 32
    assert torch.equal(forward(q, far, v, 1), forward(q, k, v, 1))
    for moved, plain in zip(backward(q, far, v, do, 1), backward(q, k, v, do, 1), strict=True):
        assert torch.equal(moved, plain)
