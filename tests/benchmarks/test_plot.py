"""The picture of a CSV file."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from linzoo_benchmarks.errors import BenchmarkError
from linzoo_benchmarks.plot import draw_plot
from linzoo_benchmarks.rows import Row
from made_up import row


@pytest.fixture
def rows() -> list[Row]:
    return [
        row(provider, (batch, tokens, *width), factor * tokens * batch, mode=mode)
        for provider, factor in (("triton", 1e-5), ("eager", 5e-5))
        for mode in ("forward", "backward")
        for width in ((10, 64), (8, 40))
        for batch in (1, 2)
        for tokens in (1024, 4096)
    ]


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was drawn."""
    from matplotlib import figure as figure_module

    figures: list[Any] = []
    save = figure_module.Figure.savefig
    monkeypatch.setattr(
        figure_module.Figure,
        "savefig",
        lambda self, *args, **kwargs: (figures.append(self), save(self, *args, **kwargs))[1],
    )
    return figures


def test_png_has_a_panel_for_each_mode_and_width(figures: list[Any], tmp_path: Path, rows: list[Row]) -> None:
    path = draw_plot([*rows, row("triton", (2, 65536, 10, 64), None)], tmp_path / "times.png")
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", head[16:24])
    assert (width, height) == (90 * 8, 504)
    axes = figures[0].axes
    assert [each.get_title() for each in axes] == [
        f"{mode}, {width}"
        for mode in ("forward", "backward")
        for width in ("8 heads of 40", "10 heads of 64")
    ]
    assert {(each.get_xscale(), each.get_yscale()) for each in axes} == {("log", "log")}
    lines = axes[0].get_lines()
    assert [list(line.get_xdata()) for line in lines] == [[1024, 4096]] * 2
    assert list(lines[0].get_ydata()) == pytest.approx([2048e-5, 8192e-5])


def test_nothing_to_draw_is_said(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="no row has a time"):
        draw_plot([row("triton", (2, 65536, 10, 64), None)], tmp_path / "times.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("changes", [{"device": "NVIDIA A100"}, {"dtype": "float16"}, {"kernel": "layer"}])
def test_times_that_do_not_compare_have_panels_of_their_own(
    figures: list[Any], tmp_path: Path, rows: list[Row], changes: dict[str, str]
) -> None:
    (other,) = changes.values()
    draw_plot([*rows, row("triton", (1, 64, 10, 64), 1.0, **changes)], tmp_path / "times.png")
    axes = figures[0].axes
    assert [each.get_visible() for each in axes] == [True] * 4 + [False, True]
    assert axes[-1].get_title() == f"{other}\nforward, 10 heads of 64"
    assert [list(line.get_xdata()) for line in axes[-1].get_lines()] == [[64]]
    assert other not in figures[0].get_suptitle()


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path, rows: list[Row]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BenchmarkError, match="cannot be written"):
        draw_plot(rows, tmp_path / "file" / "times.png")
