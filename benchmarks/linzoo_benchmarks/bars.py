"""The bars that the kernels are held to on an H200 in bfloat16, and what rows say about them.

All of them in one place: :data:`BARS`. Each is judged on the worst row that it is about; one that no row is about is
not measured, neither met nor missed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from linzoo_benchmarks.rows import Row, pairs
from linzoo_benchmarks.shapes import MODELS, model_shape

DTYPE, DEVICE = "bfloat16", "H200"
NARROW = (32, 40, 64, 80, 128)
Where = Callable[[Row], bool]
Values = Callable[[Sequence[Row]], list[float]]


@dataclass(frozen=True)
class Bar:
    """A figure that has to be reached.

    Attributes:
        text: what it is about.
        limit: the least value, or the most where ``at_most``.
        unit: how values are printed: ``%`` for shares, ``x`` for ratios, ``us`` for microseconds.
        values: the figures in rows that it is about.
    """

    text: str
    limit: float
    unit: str
    values: Values
    at_most: bool = False


@dataclass(frozen=True)
class Verdict:
    """What rows say about a bar: the worst figure, and whether that is enough; None where nothing was measured."""

    bar: Bar
    worst: float | None
    met: bool | None

    def cells(self) -> tuple[str, str, str, str]:
        """For a table: bar, limit, measured, verdict."""
        sign = "≤" if self.bar.at_most else "≥"
        measured = "" if self.worst is None else _shown(self.worst, self.bar.unit)
        word = {True: "met", False: "MISSED", None: "not measured"}[self.met]
        return self.bar.text, f"{sign} {_shown(self.bar.limit, self.bar.unit)}", measured, word

    def facts(self) -> dict[str, str | float | bool | None]:
        """For JSON; shares are parts of 1."""
        bar = self.bar
        return {
            "bar": bar.text, "limit": bar.limit, "unit": bar.unit, "at_most": bar.at_most, "worst": self.worst,
            "met": self.met,
        }  # fmt: skip


BAR_HEADS = ("bar", "limit", "worst", "verdict")


def judged(rows: Iterable[Row]) -> list[Row]:
    """The rows that the bars are about."""
    return [row for row in rows if row.dtype == DTYPE and DEVICE in row.device and row.median is not None]


def judge(rows: Iterable[Row]) -> list[Verdict]:
    """A verdict on every bar."""
    about = judged(rows)
    return [_judge(bar, about) for bar in BARS]


def _judge(bar: Bar, rows: Sequence[Row]) -> Verdict:
    values = bar.values(rows)
    if not values:
        return Verdict(bar, None, None)
    worst = max(values) if bar.at_most else min(values)
    return Verdict(bar, worst, worst <= bar.limit if bar.at_most else worst >= bar.limit)


def _shown(value: float, unit: str) -> str:
    if unit == "%":
        return f"{value:.0%}"
    return f"{value:.2f}x" if unit == "x" else f"{value:.1f} us"


def _kernel(mode: str, tokens: int, *head_dims: int) -> Where:
    return lambda row: (
        row.kernel == "linear_attention"
        and row.mode == mode
        and row.tokens >= tokens
        and (not head_dims or row.head_dim in head_dims)
    )


def _sizes(batch: int, tokens: int, heads: int, head_dim: int, mode: str = "forward") -> Where:
    return lambda row: (
        row.sizes == (batch, tokens, heads, head_dim)
        and row.kernel == "linear_attention"
        and row.mode == mode
    )


def _share_of_copy(where: Where, units: float = 1.0) -> Values:
    """``units``: what the bar takes the call to move, as a multiple of what rows count."""

    def values(rows: Sequence[Row]) -> list[float]:
        found = (row.copy_fraction for row in rows if row.provider == "triton" and where(row))
        return [units * value for value in found if value is not None]

    return values


def _microseconds(where: Where) -> Values:
    return lambda rows: [1000 * (row.median or 0) for row in rows if row.provider == "triton" and where(row)]


def _speedup(slow: str, fast: str, where: Where, field: str = "median") -> Values:
    """``slow`` over ``fast``, shape by shape."""

    def values(rows: Sequence[Row]) -> list[float]:
        found = pairs(filter(where, rows), slow, fast)
        figures = [(getattr(before, field), getattr(after, field)) for before, after in found]
        return [before / after for before, after in figures if before and after]

    return values


def _all_layers(model: str, batch: int = 2, pixels: int = 4096) -> Values:
    """The self-attentions of one UNet call together: official over folded."""
    wanted = {
        model_shape(model, index, pixels, batch).sizes: level.layers
        for index, level in enumerate(MODELS[model])
    }

    def values(rows: Sequence[Row]) -> list[float]:
        layers = (row for row in rows if row.kernel == "layer" and row.sizes in wanted)
        found = {before.sizes: (before, after) for before, after in pairs(layers, "official", "folded")}
        if found.keys() != wanted.keys():
            return []
        before, after = (
            sum(wanted[sizes] * (found[sizes][side].median or 0) for sizes in wanted) for side in (0, 1)
        )
        return [before / after]

    return values


def _layer(*, channels: int | None = None, tokens: int = 0) -> Where:
    return lambda row: (
        row.kernel == "layer" and row.tokens >= tokens and channels in (None, row.heads * row.head_dim)
    )


BARS: tuple[Bar, ...] = (
    Bar("forward, d = 64, L >= 65,536", 0.80, "%", _share_of_copy(_kernel("forward", 65536, 64))),
    Bar("forward, d = 64, L >= 262,144", 0.85, "%", _share_of_copy(_kernel("forward", 262144, 64))),
    Bar("forward, d = 80, L >= 65,536", 0.75, "%", _share_of_copy(_kernel("forward", 65536, 80))),
    Bar("forward, d = 40, L >= 65,536", 0.70, "%", _share_of_copy(_kernel("forward", 65536, 40))),
    Bar("forward, d = 160, L >= 65,536", 0.65, "%", _share_of_copy(_kernel("forward", 65536, 160))),
    Bar("backward, d < 160, L >= 65,536", 0.70, "%", _share_of_copy(_kernel("backward", 65536, *NARROW))),
    Bar("backward, d < 160, L >= 262,144", 0.75, "%", _share_of_copy(_kernel("backward", 262144, *NARROW))),
    Bar("backward, d = 160, L >= 65,536, as 9 units", 0.70, "%",
        _share_of_copy(_kernel("backward", 65536, 160), 9 / 7)),
    Bar("backward, d = 160, L >= 262,144, as 9 units", 0.75, "%",
        _share_of_copy(_kernel("backward", 262144, 160), 9 / 7)),
    Bar(
        "forward against fbi_la at its best, B8 L16384 H16 d64",
        1.3, "x", _speedup("fbi_la-ready", "triton", _sizes(8, 16384, 16, 64)),
    ),
    Bar(
        "forward against fbi_la at its best, B2 L65536 H10 d64",
        2.0, "x", _speedup("fbi_la-ready", "triton", _sizes(2, 65536, 10, 64)),
    ),
    Bar("forward against the official order, L >= 65,536", 4.0, "x",
        _speedup("eager", "triton", _kernel("forward", 65536))),
    Bar("forward against torch.compile of it, L >= 65,536", 1.8, "x",
        _speedup("eager-compiled", "triton", _kernel("forward", 65536))),
    Bar("forward, B2 L4096 H10 d64", 25.0, "us", _microseconds(_sizes(2, 4096, 10, 64)), at_most=True),
    Bar("the same in a CUDA graph", 15.0, "us", _microseconds(_sizes(2, 4096, 10, 64, "graph")), at_most=True),
    Bar("layers of SD 1.5, folded against official, 4096 px", 1.8, "x", _all_layers("sd15")),
    Bar("layers of SD 2.1, folded against official, 4096 px", 1.8, "x", _all_layers("sd21")),
    Bar("layers of SD-XL, folded against official, 4096 px", 1.4, "x", _all_layers("sdxl")),
    Bar(
        "peak memory of a layer, folded over official, L >= 16,384",
        0.5, "%", _speedup("folded", "official", _layer(tokens=16384), "peak_mb"), at_most=True,
    ),
    Bar("layer, folded against softmax, C = 640, L >= 4096", 1.0, "x",
        _speedup("softmax", "folded", _layer(channels=640, tokens=4096))),
)  # fmt: skip
"""The bars of the issue that the kernels were built for."""
