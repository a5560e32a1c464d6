"""LayerNorm and LeakyReLU in one kernel: values, rows of wider tensors, and what it refuses."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from linzoo_kernels import launch, reference
from triton_cases import DEVICES, HALVES, allowance, error, guarded, randoms, skip_where_it_cannot_run


@pytest.mark.parametrize("channels", [1, 7, 64, 320, 640, 1280, 2049])
@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-6)], ids=["float64", "float32"]
)
@pytest.mark.parametrize("device", DEVICES)
def test_matches_torch(channels: int, dtype: torch.dtype, bound: float, device: str) -> None:
    skip_where_it_cannot_run(device, dtype)
    x, weight, bias = randoms((2, 5, channels), (channels,), (channels,), dtype=dtype, device=device)
    exact = reference.ln_leaky_relu(x.double(), weight.double(), bias.double())
    assert error(launch.ln_leaky_relu(x, weight, bias), exact) < bound


@pytest.mark.parametrize("dtype", HALVES, ids=["float16", "bfloat16"])
@pytest.mark.parametrize("device", DEVICES)
def test_half_precision_is_no_worse_than_torch(dtype: torch.dtype, device: str) -> None:
    skip_where_it_cannot_run(device)
    x, weight, bias = randoms((3, 320), (320,), (320,), dtype=dtype, device=device)
    exact = reference.ln_leaky_relu(x.double(), weight.double(), bias.double())
    plain = error(reference.ln_leaky_relu(x, weight, bias), exact)
    assert error(launch.ln_leaky_relu(x, weight, bias), exact) <= plain * allowance(dtype, device)


@pytest.mark.parametrize("device", DEVICES)
def test_a_large_mean_does_not_cancel_the_variance(device: str) -> None:
    skip_where_it_cannot_run(device)
    x, weight, bias = randoms((4, 320), (320,), (320,), dtype=torch.float32, device=device)
    x = x + 1000
    exact = reference.ln_leaky_relu(x.double(), weight.double(), bias.double())
    assert error(launch.ln_leaky_relu(x, weight, bias), exact) < 1e-4


@pytest.mark.parametrize("device", DEVICES)
def test_into_columns_of_a_wider_tensor(device: str) -> None:
    skip_where_it_cannot_run(device)
    x, weight, bias = randoms((2, 9, 40), (40,), (40,), dtype=torch.float32, device=device)
    wide = torch.full((2, 9, 120), 7.0, device=device)
    out = wide[..., 40:80]
    assert launch.ln_leaky_relu(guarded(x), weight, bias, out=out) is out
    assert torch.equal(out, launch.ln_leaky_relu(x, weight, bias))
    assert (wide[..., :40] == 7).all()
    assert (wide[..., 80:] == 7).all()


@pytest.mark.parametrize("device", DEVICES)
def test_eps_slope_and_no_rows(device: str) -> None:
    skip_where_it_cannot_run(device)
    x, weight, bias = randoms((3, 8), (8,), (8,), dtype=torch.float32, device=device)
    actual = launch.ln_leaky_relu(x, weight, bias, eps=0.5, slope=0.3)
    torch.testing.assert_close(actual, reference.ln_leaky_relu(x, weight, bias, 0.5, 0.3))
    assert launch.ln_leaky_relu(x[:0], weight, bias).shape == (0, 8)


def test_refuses_what_it_cannot_write_to_or_hold() -> None:
    x, weight = torch.zeros(2, 3, 8), torch.zeros(8)
    with pytest.raises(ValueError, match=r"not evenly spaced: shape \(2, 3, 8\), strides \(64, 8, 1\)"):
        launch.ln_leaky_relu(x, weight, weight, out=torch.zeros(2, 8, 8)[:, :3])
    wide = torch.zeros(1, launch.MAX_CHANNELS + 1)
    with pytest.raises(ValueError, match="at most 65536 channels, and x has 65537"):
        launch.ln_leaky_relu(wide, wide[0], wide[0])


FAR = """
import sys, torch
from linzoo_kernels import launch
x = torch.randn(3, 32, device=sys.argv[1])
far = torch.empty(2**31 + 32, dtype=torch.float16, device=sys.argv[1]).as_strided((3, 32), (2**30, 1)).copy_(x)
weight, bias = torch.ones(2, 32, dtype=torch.float16, device=sys.argv[1])
expected = launch.ln_leaky_relu(far.clone(), weight, bias)
assert torch.equal(launch.ln_leaky_relu(far, weight, bias), expected)
launch.ln_leaky_relu(far, weight, bias, out=far)
assert torch.equal(far, expected)
print("equal")
"""


@pytest.mark.parametrize("device", DEVICES)
def test_rows_beyond_the_reach_of_32_bits(device: str) -> None:
    skip_where_it_cannot_run(device)
    done = subprocess.run([sys.executable, "-c", FAR, device], capture_output=True, text=True, timeout=250)
    assert done.stdout == "equal\n", done.stderr
