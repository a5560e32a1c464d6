"""The Triton kernels on real tensors: how work is split, and what is allocated. Imports triton when first called.

Tensors are [B, L, H*d] with any batch and row stride; results are contiguous. Shapes are the caller's to check.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, lru_cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from linzoo_kernels import configs
from linzoo_kernels.configs import KernelConfig

ONE_PIECE = 128
TWO_PIECES = 160
LARGE_HEAD = 256  # bytes of a row of more than that, padded, make a head large
MAX_CHANNELS = 65_536
FARTHEST_ROW = (2**31 - 1) // configs.MOST_ROWS  # elements: a tile's offsets stay in 32 bits
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_SMALL = ((8, 6), (8, 9), (12, 0), (12, 1))
# The interpreter runs programs one after another; one multiprocessor makes few of them.
_INTERPRETED_SMS = 1


def unsupported(head_dim: int, dtype: torch.dtype, device: torch.device | None = None) -> str | None:
    """Why the Triton kernels cannot run this head dim and dtype (on this device), or None where they can.

    float64 runs in Triton's interpreter only.
    """
    if head_dim > TWO_PIECES:
        return f"the Triton kernels take heads of at most {TWO_PIECES} channels, not {head_dim}"
    if dtype not in _DTYPES:
        return (
            f"the Triton kernels take float16, bfloat16 and float32, not {str(dtype).removeprefix('torch.')}"
        )
    if dtype == torch.float64 and not interpreted():
        return "the Triton kernels take float64 in Triton's interpreter only (TRITON_INTERPRET=1)"
    if head_dim > ONE_PIECE and dtype == torch.float32 and device is not None and _is_small(device):
        return (
            f"float32 heads of more than {ONE_PIECE} channels take 120 KiB of shared memory, and "
            f"{torch.cuda.get_device_name(device)} has 99"
        )
    return None


def state_forward(k: Tensor, v: Tensor, heads: int, num_splits: int = 0) -> Tensor:
    """The sums of `heads` heads, (B, H, d*d + d): phi(K)^T V row by row, then phi(k) summed over tokens.

    The tokens are split over up to `num_splits` programs (0: as many as the device wants). Their partial sums are added in a
    fixed order: the same split gives the same bits.
    """
    return _sums(k, v, heads, num_splits)


def apply_forward(q: Tensor, sums: Tensor, count: int, heads: int, eps: float, num_splits: int = 0) -> Tensor:
    """What the queries read: phi(q) (KV / count) / (phi(q) . K1 / count + eps), like q."""
    q = _rows(q)
    o = _empty_like(q)
    plan = _plan("apply_forward", q, heads, num_splits)
    plan.launch(q, sums.contiguous(), o, *q.stride()[:2], *o.stride()[:2], *plan.sizes, count, eps)
    return o


def apply_backward(
    q: Tensor, sums: Tensor, do: Tensor, count: int, heads: int, eps: float, num_splits: int = 0
) -> tuple[Tensor, Tensor]:
    """The gradients (dq, dsums) of `apply_forward` for the gradient `do` of its result."""
    q, do = _rows(q), _rows(do)
    dq = _empty_like(q)
    (variant,) = variants("apply_backward", q.shape[-1] // heads, q.dtype)
    plan = _plan("apply_backward", q, heads, num_splits, variant)
    strides = *q.stride()[:2], *do.stride()[:2], *dq.stride()[:2]
    sums = sums.contiguous()
    if variant == "SUMS":
        partial = plan.partial_sums(q)
        plan.launch(q, sums, do, dq, partial, q, q, *strides, *plan.sizes, count, eps)
        return dq, _reduced(partial)
    r, dz = torch.empty(2, q.shape[0], heads, q.shape[1], dtype=sums.dtype, device=q.device)
    plan.launch(q, sums, do, dq, sums, r, dz, *strides, *plan.sizes, count, eps)
    return dq, _sums(q, do, heads, num_splits, r, dz, count)


def state_backward(
    k: Tensor, v: Tensor, dsums: Tensor, heads: int, num_splits: int = 0
) -> tuple[Tensor, Tensor]:
    """The gradients (dk, dv) of `state_forward` for the gradient `dsums` of its result."""
    k, v = _rows(k), _rows(v)
    dk, dv = _empty_like(k), _empty_like(v)
    dsums = dsums.contiguous()
    strides = *k.stride()[:2], *v.stride()[:2], *dk.stride()[:2]
    for variant in variants("state_backward", k.shape[-1] // heads, k.dtype):
        plan = _plan("state_backward", k, heads, num_splits, variant)
        plan.launch(k, v, dsums, dk, dv, *strides, *plan.sizes)
    return dk, dv


def ln_leaky_relu(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5, slope: float = 0.01, out: Tensor | None = None
) -> Tensor:
    """LeakyReLU of the LayerNorm of x (..., C) over C, into `out` where that is given.

    `out` may be a slice of a wider buffer, such as columns of the operand of the next matrix product.
    Raises `ValueError` for more channels than a program holds, and for an `out` whose rows are not evenly spaced.
    """
    channels = x.shape[-1]
    if channels > MAX_CHANNELS:
        raise ValueError(f"ln_leaky_relu takes at most {MAX_CHANNELS} channels, and x has {channels}")
    if out is None:
        out = _empty_like(x)
    x_rows = x.reshape(-1, channels)
    try:
        out_rows = out.view(-1, channels)
    except RuntimeError as error:
        raise ValueError(
            f"out has rows that are not evenly spaced: shape {tuple(out.shape)}, strides {out.stride()}"
        ) from error
    kernel, options = _norm(channels, x.dtype, x.device)
    rows = x_rows.shape[0]
    if rows:
        with _on(x.device):
            kernel[(-(-rows // options["ROWS"]),)](
                x_rows,
                weight,
                bias,
                out_rows,
                x_rows.stride(0),
                out_rows.stride(0),
                rows,
                eps,
                slope,
                **options,
            )
    return out


@dataclass(frozen=True)
class _Plan:
    """One kernel cut to a problem: its grid and what is fixed when it is compiled."""

    kernel: Any
    options: dict[str, Any]
    batch: int
    heads: int
    head_dim: int
    sizes: tuple[int, int, int, int]  # tokens, tokens of a chunk, heads, chunks, as the kernels take them
    device: torch.device

    def launch(self, *args: Tensor | float) -> None:
        programs = self.heads * self.sizes[3] * self.batch
        if programs:
            with _on(self.device):
                self.kernel[(programs,)](*args, **self.options)

    def partial_sums(self, like: Tensor) -> Tensor:
        shape = self.sizes[3], self.batch, self.heads, self.head_dim * self.head_dim + self.head_dim
        return torch.empty(shape, dtype=_accumulator(like.dtype), device=like.device)


def _sums(
    k: Tensor, v: Tensor, heads: int, num_splits: int,
    r: Tensor | None = None, dz: Tensor | None = None, count: int = 1,
) -> Tensor:  # fmt: skip
    k, v = _rows(k), _rows(v)
    plan = _plan("state_forward", k, heads, num_splits, "" if r is None else "GRADIENT")
    partial = plan.partial_sums(k)
    plan.launch(
        k, v, partial, k if r is None else r, k if dz is None else dz,
        *k.stride()[:2], *v.stride()[:2], *plan.sizes, count,
    )  # fmt: skip
    return _reduced(partial)


def _reduced(partial: Tensor) -> Tensor:
    return partial[0] if partial.shape[0] == 1 else partial.sum(0)


def _rows(t: Tensor) -> Tensor:
    """The tensor with a last stride of 1 (a gradient may be an expanded scalar), and rows that 32 bits reach in a tile."""
    return t if t.stride(2) == 1 and t.stride(1) <= FARTHEST_ROW else t.contiguous()


def _empty_like(t: Tensor) -> Tensor:
    return torch.empty(t.shape, dtype=t.dtype, device=t.device)


def _accumulator(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _plan(kernel: str, x: Tensor, heads: int, num_splits: int, variant: str = "") -> _Plan:
    batch, length, channels = x.shape
    return _cut(kernel, batch, length, heads, channels // heads, x.dtype, x.device, num_splits, variant)


@lru_cache(maxsize=4096)
def _cut(
    kernel: str, batch: int, length: int, heads: int, head_dim: int, dtype: torch.dtype, device: torch.device,
    num_splits: int, variant: str,
) -> _Plan:  # fmt: skip
    reason = unsupported(head_dim, dtype, device)
    if reason is not None:
        raise ValueError(reason)
    config = _config(kernel, head_dim, dtype, device)
    rows = config.block_rows
    if num_splits < 1:
        slots = _multiprocessors(device) * config.programs_per_sm
        num_splits = choose_splits(batch * heads, slots, max(1, length // (4 * rows)))
    chunk = max(1, math.ceil(math.ceil(length / num_splits) / rows)) * rows
    splits = max(1, math.ceil(length / chunk))
    options = constants(config, head_dim, dtype, variant)
    sizes = length, chunk, heads, splits
    return _Plan(getattr(_attention(), kernel), options, batch, heads, head_dim, sizes, device)


def choose_splits(sequences: int, slots: int, most: int) -> int:
    """Into how many chunks to split each of `sequences` (batch entries times heads), where `slots` programs run at a time.

    The fewest that leave no more than a tenth of the slots idle in the last wave of programs, else the best there is.
    """
    best, least_idle = 1, 1.0
    for splits in range(1, most + 1):
        programs = sequences * splits
        idle = 1 - programs / (math.ceil(programs / slots) * slots) if programs else 0.0
        if idle < least_idle:
            best, least_idle = splits, idle
        if idle <= 0.1:
            break
    return best


def variants(kernel: str, head_dim: int, dtype: torch.dtype) -> tuple[str, ...]:
    """The forms of a kernel that a head needs, by the constant that is true in it; "" where there is only one.

    Of a large head the backward pass does in two launches what does not fit in the registers of one.
    """
    if sum(pieces(head_dim)) * min(dtype.itemsize, 4) <= LARGE_HEAD:
        return ("SUMS",) if kernel == "apply_backward" else ("",)
    return {"state_forward": ("", "GRADIENT"), "state_backward": ("DK", "DV")}.get(kernel, ("",))


def pieces(head_dim: int) -> tuple[int, int]:
    """The columns of a head's one or two pieces."""
    if head_dim > ONE_PIECE:
        return ONE_PIECE, TWO_PIECES - ONE_PIECE
    return max(16, 1 << (head_dim - 1).bit_length()), 0


def constants(config: KernelConfig, head_dim: int, dtype: torch.dtype, variant: str = "") -> dict[str, Any]:
    """What an attention kernel is compiled with for a head dim, a dtype and one of its `variants`."""
    import triton.language as tl

    first, second = pieces(head_dim)
    types = {
        torch.float16: tl.float16,
        torch.bfloat16: tl.bfloat16,
        torch.float32: tl.float32,
        torch.float64: tl.float64,
    }
    dot = types[dtype]
    if dtype == torch.bfloat16 and interpreted():
        dot = tl.float32  # the interpreter's arithmetic on bfloat16 is wrong
    options = {
        "D": head_dim,
        "D0": first,
        "D1": second,
        "BL": config.block_rows,
        "ACC": types[_accumulator(dtype)],
        "DOT": dot,
        "PRECISION": config.precision,
        "num_warps": config.num_warps,
        "num_stages": config.num_stages,
    }
    if config.kernel == "state_forward":
        options["GRADIENT"] = variant == "GRADIENT"
    if config.kernel == "apply_backward":
        options["SUMS"] = variant == "SUMS"
    if config.kernel == "state_backward":
        options.update({"DK": variant != "DV", "DV": variant != "DK"})
    return options


@lru_cache(maxsize=256)
def _norm(channels: int, dtype: torch.dtype, device: torch.device) -> tuple[Any, dict[str, Any]]:
    from linzoo_kernels import triton_norm

    config = _config("ln_leaky_relu", channels, dtype, device)
    return triton_norm.ln_leaky_relu, norm_constants(config, channels, dtype)


def norm_constants(config: KernelConfig, channels: int, dtype: torch.dtype) -> dict[str, Any]:
    """What `ln_leaky_relu` is compiled with for a number of channels and a dtype."""
    import triton.language as tl

    return {
        "C": channels,
        "COLUMNS": 1 << (channels - 1).bit_length(),
        "ROWS": config.block_rows,
        "ACC": tl.float64 if dtype == torch.float64 else tl.float32,
        "num_warps": config.num_warps,
        "num_stages": config.num_stages,
    }


@contextmanager
def substituted(config: KernelConfig) -> Iterator[None]:
    """Within the block a kernel runs with this config, whatever the tables say: for tuning, in one thread."""
    _substitutes[config.kernel] = config
    _forget_plans()
    try:
        yield
    finally:
        del _substitutes[config.kernel]
        _forget_plans()


_substitutes: dict[str, KernelConfig] = {}


def _forget_plans() -> None:
    _cut.cache_clear()
    _norm.cache_clear()


def _config(kernel: str, width: int, dtype: torch.dtype, device: torch.device) -> KernelConfig:
    if kernel in _substitutes:
        return _substitutes[kernel]
    # float64, which only the interpreter runs, is cut as float32 is.
    name = "float32" if dtype == torch.float64 else str(dtype).removeprefix("torch.")
    return configs.find(kernel, width, name, *tables(device))


@cache
def tables(device: torch.device) -> tuple[str, str]:
    """Which tables of configs serve a device: its target and its name."""
    if device.type != "cuda":
        return "sm_90", ""
    # Compute capability 9 to 11 has 227 KiB of shared memory for a program; 8 and 12 have 99 to 163.
    large = 9 <= torch.cuda.get_device_capability(device)[0] <= 11
    return "sm_90" if large else "sm_80", torch.cuda.get_device_name(device)


@cache
def _is_small(device: torch.device) -> bool:
    """Whether a program has 99 KiB of shared memory, as on GeForce, RTX and L cards; all configs but one kind fit."""
    on_gpu = device.type == "cuda" and torch.cuda.is_available()  # not where tensors are fake
    return on_gpu and torch.cuda.get_device_capability(device) in _SMALL


@cache
def _multiprocessors(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).multi_processor_count
    return _INTERPRETED_SMS


def _on(device: torch.device) -> AbstractContextManager[Any]:
    """Triton launches on the current device, which need not be the tensor's."""
    if device.type == "cuda" and device.index != torch.cuda.current_device():
        return torch.cuda.device(device)
    return nullcontext()


def interpreted() -> bool:
    """Whether Triton runs in its interpreter, which is fixed when triton is first imported."""
    return type(_attention().state_forward).__name__ == "InterpretedFunction"


def _attention() -> ModuleType:
    from linzoo_kernels import triton_attention

    return triton_attention
