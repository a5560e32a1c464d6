from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from report_sample import LAYERS, NASTY, chart, document, measure, pictures

from linzoo.plugin.spec import SpecError
from linzoo.validation.report.card import write_card_pictures
from linzoo.validation.report.charts import _drawn, to_png, to_svg
from linzoo.validation.report.labels import short_names

SVG = "{http://www.w3.org/2000/svg}"
SDXL = [
    f"{block}.attentions.{attention}.transformer_blocks.{depth}.attn1"
    for block, attentions, depths in (
        ("down_blocks.1", 2, 2), ("down_blocks.2", 2, 10), ("mid_block", 1, 10), ("up_blocks.0", 3, 10), ("up_blocks.1", 3, 2)
    )
    for attention in range(attentions)
    for depth in range(depths)
]  # fmt: skip


def texts(svg: str) -> list[str]:
    return [str(each.text) for each in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def bars(svg: str, variable: str = "--series-1") -> list[tuple[float, float]]:
    """Width and height of each bar of a colour."""
    found = []
    for path in ElementTree.fromstring(svg).iter(f"{SVG}path"):
        if path.get("style") == f"fill: var({variable})":
            corners = np.array(re.findall(r"[ML] (\S+) (\S+)", path.attrib["d"]), dtype=float)
            found.append(tuple(np.ptp(corners, axis=0)))
    return found


def places(svg: str, variable: str = "--series-1") -> np.ndarray:
    """The points of the line of a colour."""
    for path in ElementTree.fromstring(svg).iter(f"{SVG}path"):
        style = path.get("style", "")
        if "fill: none" in style and f"stroke: var({variable})" in style:
            return np.array(re.findall(r"[ML] (\S+) (\S+)", path.attrib["d"]), dtype=float)
    raise AssertionError("no such line")


def test_bars_are_as_long_as_their_values() -> None:
    widths = [width for width, _ in bars(to_svg(chart(), "a-"))]
    assert np.array(widths) / widths[0] == pytest.approx([1, 2, 3, 4], rel=1e-4)


def test_figures_of_bars_to_the_left_have_room_before_the_names() -> None:
    layers = {"layer number 0": -0.4, "layer number 1": 1.0}
    (axes,) = _drawn(chart(series={"student": layers}), "").axes
    low, high = axes.get_xlim()
    assert (-0.4 - low) / (high - low) > 0.2
    (axes,) = _drawn(chart(series={"student": {name: abs(each) for name, each in layers.items()}}), "").axes
    assert axes.get_xlim()[0] == 0


def test_few_short_names_stand_and_the_others_lie() -> None:
    standing = bars(to_svg(chart(series={"student": {"a": 1.0, "b": 3.0}}), "a-"))
    assert standing[1][1] / standing[0][1] == pytest.approx(3, rel=1e-4)
    assert standing[1][0] == pytest.approx(standing[0][0])
    lying = bars(to_svg(chart(series={"student": {"a long name": 1.0, "b": 3.0}}), "a-"))
    assert lying[1][0] / lying[0][0] == pytest.approx(3, rel=1e-4)


def test_seventy_layers_have_room_and_names_of_their_own() -> None:
    svg = to_svg(chart(series={"student": {name: 1.0 + place for place, name in enumerate(SDXL)}}), "a-")
    wanted = short_names(SDXL)
    assert len(set(wanted)) == 70
    assert [text for text in texts(svg) if text in wanted] == wanted
    heights = [height for _, height in bars(svg)]
    assert len(heights) == 70
    _, _, width, height = map(float, ElementTree.fromstring(svg).attrib["viewBox"].split())
    assert height / 70 > 12  # points a layer, for letters of 9
    assert width < 310


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (LAYERS, ["down_blocks.0.0", "mid_block.0", "up_blocks.0.0", "up_blocks.0.1"]),
        (["mean over layers", *LAYERS[:2]], ["mean over layers", "down_blocks.0", "mid_block"]),
        (["up_blocks.0.attn1", "up_blocks.1.attn1"], ["up_blocks.0", "up_blocks.1"]),
        (["teacher", "student"], ["teacher", "student"]),
        (["mid_block.attn1"], ["mid_block.attn1"]),
        (["a.b.1", "a.c.1"], ["b", "c"]),
        (["x", "x.y"], ["x", "x.y"]),
        (["word " * 20, "b"], ["word word word…word word word", "b"]),
        (["", "."], ["", "."]),
    ],
)
def test_short_names(names: list[str], short: list[str]) -> None:
    assert short_names(names) == short


@given(
    st.lists(
        st.lists(st.sampled_from(["up_blocks", "mid", "attn1", "0", "1", "2"]), min_size=1, max_size=3),
        unique_by=tuple,
    )
)
def test_short_names_stay_apart(parts: list[list[str]]) -> None:
    names = [".".join(each) for each in parts]
    short = short_names(names)
    assert len(set(short)) == len(names)
    assert all(len(mine) <= len(whole) for mine, whole in zip(short, names, strict=True))


def test_log_log_lines_of_a_power_are_straight() -> None:
    values = {str(2.0**place): 0.01 * 4.0**place for place in range(6, 12)}
    svg = to_svg(chart("lines", series={"student": values}, logarithmic=True), "a-")
    line = places(svg)
    slopes = np.diff(line[:, 1]) / np.diff(line[:, 0])
    assert len(line) == 6
    assert slopes == pytest.approx([slopes[0]] * 5, rel=1e-3)
    assert {"64", "128", "2,048"} <= set(texts(svg))  # the measured places are the ticks


def test_a_line_has_a_gap_where_a_value_is_missing() -> None:
    values = {"0": 1.0, "1": 2.0, "2": None, "3": 4.0, "4": float("inf")}
    assert len(places(to_svg(chart("lines", series={"student": values}), "a-"))) == 3


def test_lines_are_sorted_by_number_not_by_name() -> None:
    line = places(to_svg(chart("lines", series={"student": {"100": 3.0, "20": 2.0, "3": 1.0}}), "a-"))
    assert (np.diff(line[:, 0]) > 0).all()
    assert (np.diff(line[:, 1]) < 0).all()  # up is a smaller y


def test_colours_are_the_pages_and_the_same_for_teacher_and_student() -> None:
    both = {"teacher": {"a": 1.0, "b": 2.0}, "student": {"a": 2.0, "b": 4.0}, "_other": {"a": 1.0}}
    svg = to_svg(chart(series=both), "a-")
    assert not re.search(r"#[0-9a-f]{6}|rgb|black|font-family", svg)
    assert {"var(--ink)", "var(--faint)", "var(--rule)"} <= set(re.findall(r"var\([^)]+\)", svg))
    teacher, student = bars(svg, "--series-2"), bars(svg, "--series-1")
    assert student[1][1] / teacher[0][1] == pytest.approx(4, rel=1e-3)
    assert {"\u200bteacher", "\u200bstudent", "\u200b_other"} <= set(texts(svg))


def test_the_same_chart_has_the_same_bytes_and_its_own_ids() -> None:
    before = dict(matplotlib.rcParams)
    first, again, other = (to_svg(chart("lines"), prefix) for prefix in ("a-", "a-", "b-"))
    assert first == again
    assert first.replace("a-", "b-") == other.replace("a-", "b-")
    ids = set(re.findall(r'\bid="([^"]+)"', first))
    assert ids
    assert all(name.startswith("a-") for name in ids)
    assert set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', first)) <= {(name, "") for name in ids} | {
        ("", name) for name in ids
    }
    assert to_png(chart()) == to_png(chart())
    assert dict(matplotlib.rcParams) == before


def test_a_drawing_brings_no_style_sheet_and_says_what_it_is() -> None:
    root = ElementTree.fromstring(to_svg(chart(title="a <title>"), "a-"))
    assert not {f"{SVG}style", f"{SVG}metadata", f"{SVG}script"} & {each.tag for each in root.iter()}
    assert (root.get("role"), root.get("aria-label")) == ("img", "a <title>")


@pytest.mark.parametrize("kind", ["bars", "lines"])
def test_nasty_texts_are_drawn_as_they_are(kind: str) -> None:
    points = {NASTY: 1.0, "$x$": 2.0} if kind == "bars" else {"1": 1.0, "2": 2.0}
    drawn = chart(kind, title=NASTY, x=NASTY, y="$y$", series={NASTY: points, "_b $\\": points})
    svg = to_svg(drawn, "a-")
    assert "$y$" in texts(svg)
    assert "\u200b_b $\\" in texts(svg)
    assert Image.open(io.BytesIO(to_png(drawn))).width == 840


@pytest.mark.parametrize("kind", ["bars", "lines"])
@pytest.mark.parametrize("logarithmic", [False, True])
@pytest.mark.parametrize(
    "values",
    [[None, None], [0.0, 0.0], [-1.0, 2.0], [1e-300, 1e99], [1e300, 1.0], [5.0, 5.0], [float("nan"), 1.0], [5e-324, 1e-310]],
)  # fmt: skip
def test_any_values_can_be_drawn(kind: str, logarithmic: bool, values: list[Any]) -> None:
    drawn = chart(
        kind, series={"student": dict(zip(("1", "2"), values, strict=True))}, logarithmic=logarithmic
    )
    assert to_svg(drawn, "a-").startswith("<svg")


@settings(max_examples=15, deadline=None)
@given(
    points=st.dictionaries(
        st.floats(allow_nan=False).map(str), st.none() | st.floats(), min_size=1, max_size=6
    ),
    logarithmic=st.booleans(),
)
def test_any_line_can_be_drawn(points: dict[str, float | None], logarithmic: bool) -> None:
    assert to_svg(chart("lines", series={"a": points}, logarithmic=logarithmic), "a-").startswith("<svg")


def test_pictures_of_a_model_card(tmp_path: Path) -> None:
    pairs = pictures(tmp_path, 10)
    sample = document(
        measure("kd", "passed", charts=[chart(), chart("lines")], pictures=pairs),
        measure("psnr", "measured", charts=[chart()], pictures=pairs),
    )
    written = write_card_pictures(sample, tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in written] == [
        "card/kd-1.png", "card/kd-2.png", "card/psnr-1.png", "card/pictures.png",
    ]  # fmt: skip
    for path in written[:3]:
        with Image.open(path) as image:
            assert image.size[0] == 840
            assert image.convert("RGB").getpixel((2, image.size[1] - 3)) == (255, 255, 255)
    sheet = np.asarray(Image.open(written[3]))
    for colour in ((220, 30, 30), (30, 30, 220)):
        assert (sheet == colour).all(axis=-1).sum() == 8 * 64 * 64


def test_large_pictures_of_different_sizes_become_one_small_sheet(tmp_path: Path) -> None:
    pairs = pictures(tmp_path, 2)
    Image.new("RGB", (1024, 512), (220, 30, 30)).save(tmp_path / pairs[0]["teacher"])
    (path,) = write_card_pictures(document(measure("psnr", "measured", pictures=pairs)), tmp_path)
    sheet = np.asarray(Image.open(path))
    assert (sheet == (30, 30, 220)).all(axis=-1).sum() == 2 * 512 * 256


def test_the_folders_above_a_local_model_are_not_published(tmp_path: Path) -> None:
    pairs = pictures(tmp_path, 1)
    drawn = []
    for folder in ("", "/home/anna/secret/", "../"):
        specs = {"checkpoint": {"spec": f"{folder}tuned-linfusion"}, "teacher": {"spec": f"{folder}tuned"}}
        (path,) = write_card_pictures(
            document(measure("psnr", "measured", pictures=pairs), **specs), tmp_path
        )
        drawn.append(path.read_bytes())
    assert drawn[0] == drawn[1] == drawn[2]


def test_without_charts_and_pictures_there_is_no_card(tmp_path: Path) -> None:
    assert write_card_pictures(document(measure("kd", "passed")), tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_name_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"Measure\.name"):
        write_card_pictures(document(measure("../kd", "passed", charts=[chart()])), tmp_path)
