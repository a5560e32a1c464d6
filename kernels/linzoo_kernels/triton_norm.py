# ruff: noqa: N803 (constants are upper case, and annotations mean constants, as Triton programs have them)
# mypy: ignore-errors
"""The Triton kernel of LayerNorm followed by LeakyReLU, for inference: one read and one write instead of two of each."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["rows", "eps", "slope"])
def ln_leaky_relu(
    x_ptr, weight_ptr, bias_ptr, y_ptr, stride_x, stride_y, rows, eps, slope,
    C: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """LeakyReLU(LayerNorm(x)) for `ROWS` rows of `C` channels, `COLUMNS` being the power of two that holds them.

    Mean and variance are taken from registers in two passes, so that a large mean does not cancel the variance.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    mask = (row < rows)[:, None] & (column < C)[None, :]
    x = tl.load(x_ptr + row[:, None] * stride_x + column[None, :], mask=mask, other=0.0).to(ACC)
    centred = tl.where(mask, x - tl.sum(x, axis=1)[:, None] / C, 0.0)
    variance = tl.sum(centred * centred, axis=1) / C
    weight = tl.load(weight_ptr + column, mask=column < C, other=0.0).to(ACC)
    bias = tl.load(bias_ptr + column, mask=column < C, other=0.0).to(ACC)
    y = centred * (1.0 / tl.sqrt(variance + eps))[:, None] * weight[None, :] + bias[None, :]
    y = tl.where(y < 0, y * slope, y)
    tl.store(y_ptr + row[:, None] * stride_y + column[None, :], y.to(y_ptr.dtype.element_ty), mask=mask)
