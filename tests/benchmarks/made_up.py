"""Rows as an H200 could have written them."""

from __future__ import annotations

from typing import Any

from linzoo_benchmarks.rows import Row


def row(provider: str, sizes: tuple[int, int, int, int], median: float | None, **changes: Any) -> Row:
    """A row of (batch, tokens, heads, head_dim) that took ``median`` ms forward."""
    batch, tokens, heads, head_dim = sizes
    fields: dict[str, Any] = {
        "kernel": "linear_attention",
        "provider": provider,
        "function": "linear",
        "mode": "forward",
        "shape": f"{batch}x{tokens}x{heads}x{head_dim}",
        "batch": batch,
        "tokens": tokens,
        "heads": heads,
        "head_dim": head_dim,
        "dtype": "bfloat16",
        "median": median,
        "q20": median,
        "q80": median,
        "device": "NVIDIA H200",
    }
    return Row(**(fields | changes))
