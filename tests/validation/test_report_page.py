from __future__ import annotations

import base64
import copy
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from report_sample import LAYERS, NASTY, chart, document, measure, pictures, whole

from linzoo.errors import CheckpointError
from linzoo.validation.errors import ValidationError
from linzoo.validation.printable import printable
from linzoo.validation.report.again import command_of
from linzoo.validation.report.page import render, write_report
from linzoo.validation.report.pictures import embed
from linzoo.validation.report.wording import bar_of, figure, miss_of, value_of

VOID = {"meta", "img", "input", "br", "wbr", "link", "path", "circle", "use"}


class Page(HTMLParser):
    """The page as a browser without scripts sees it: every tag, its attributes and the text in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "wbr":
            self.text.append(" ")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag
            self.text.append(" ")

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.text.append(data)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def words(self) -> str:
        return " ".join("".join(self.text).split())


def nasty_everywhere(value: Any, nasty: str) -> Any:
    """The document with a nasty text in place of every text that a user or plugin may choose."""
    fixed = {"verdict", "kind", "better", "teacher_file", "student_file"}
    if isinstance(value, dict):
        return {key: each if key in fixed else nasty_everywhere(each, nasty) for key, each in value.items()}
    if isinstance(value, list):
        return [nasty_everywhere(each, nasty) for each in value]
    return f"{value} {nasty}" if isinstance(value, str) else value


def with_nasty_texts(sample: dict[str, Any], nasty: str) -> dict[str, Any]:
    hostile = nasty_everywhere(copy.deepcopy(sample), nasty)
    for mine, theirs in zip(hostile["measures"], sample["measures"], strict=True):
        for pair, known in zip(mine["pictures"], theirs["pictures"], strict=True):
            pair.update(teacher=known["teacher"], student=known["student"])
    for each in hostile["measures"]:
        for drawn in each["charts"]:
            if drawn["kind"] == "bars":
                drawn["series"] = {nasty: {f"a {nasty}": 1.0, f"b {nasty}": None}}
    hostile["environment"] = {nasty: nasty}
    hostile["lock"] = {nasty: [nasty]}
    return hostile


def test_the_page_stands_alone_and_is_whole(tmp_path: Path) -> None:
    sample = whole(tmp_path)
    assert write_report(sample, tmp_path) == tmp_path / "report.html"
    page = Page((tmp_path / "report.html").read_text())
    assert page.open == []
    sources = [str(each["src"]) for each in page.named("img")]
    assert len(sources) == 12
    for source, file in zip(
        sources,
        [pair[who] for pair in sample["measures"][1]["pictures"] for who in ("teacher", "student")],
        strict=True,
    ):
        assert (
            base64.b64decode(source.removeprefix("data:image/png;base64,")) == (tmp_path / file).read_bytes()
        )
    assert not {"link", "iframe", "object", "form"} & {tag for tag, _ in page.tags}
    policy = next(each["content"] for each in page.named("meta") if "http-equiv" in each)
    assert (
        policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    )
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["report.html"]


def test_what_matters_comes_first(tmp_path: Path) -> None:
    words = Page(render(whole(tmp_path), tmp_path)).words
    order = [
        "Failed", "1 of 2 bars fell: KD.", "1 passed 1 failed 1 without a bar 1 skipped", "What failed",
        "0.0312 where at most 0.02 passes", "1.56 times the bar · bar from variant mini", LAYERS[0], "What to do",
        "--bar kd=VALUE", "Measures", "24.6 dB at least 20 dB variant mini passed", "Pictures", "prompt 0 seed 0",
        "prompt 5 seed 5", "Charts", "Figures (error)", "Skipped", "too few pictures", "Notes", "trained on least",
        "About this run", "Environment", "2.13.0", "linzoo.lock.json", '"schema": 1', "How to run it again",
        "linzoo validate out/mini-linfusion --teacher mini --suite quality --size 128x128 --images 16",
    ]  # fmt: skip
    at = 0
    for text in order:
        assert text in words[at:], f"{text!r} is missing, or stands too early"
        at = words.index(text, at) + len(text)


def test_a_page_without_faults_and_pictures_shows_no_empty_parts(tmp_path: Path) -> None:
    page = Page(render(document(measure("kd", "passed", value=0.01), lock=None), tmp_path))
    ids = {attributes.get("id") for tag, attributes in page.tags if tag == "section"}
    assert ids == {"measures", "about"}
    assert "The one bar was reached." in page.words
    assert "what it was made from is not known" in page.words
    targets = {str(each["href"])[1:] for each in page.named("a")}
    assert targets == ids


def test_every_link_leads_to_a_part_and_ids_are_unique(tmp_path: Path) -> None:
    text = render(whole(tmp_path), tmp_path)
    page = Page(text)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {str(attributes["href"]) for _, attributes in page.tags if "href" in attributes}
    assert len([link for link in links if link.startswith("#chart-")]) >= 4
    assert {link[1:] for link in links} | set(re.findall(r"url\(#([^)]+)\)", text)) <= set(ids)


def test_the_figures_of_a_chart_are_there_in_words_with_whole_names(tmp_path: Path) -> None:
    words = Page(render(document(measure("kd", "measured", charts=[chart()])), tmp_path)).words
    for place, name in enumerate(LAYERS, 1):
        assert f"{name} {round(0.1 * place, 4)}" in words


def test_pictures_that_two_measures_show_are_embedded_once(tmp_path: Path) -> None:
    pairs = pictures(tmp_path, 2)
    other = [{**pair, "detail": "LPIPS 0.2"} for pair in pairs]
    page = Page(
        render(
            document(measure("a", "measured", pictures=pairs), measure("b", "measured", pictures=other)),
            tmp_path,
        )
    )
    assert len(page.named("img")) == 4
    assert "prompt 1 seed 1 · LPIPS 0.2" in page.words


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("../outside.png", "lies outside"),
        ("/etc/hostname", "lies outside"),
        ("link.png", "lies outside"),
        ("missing.png", "is missing"),
        ("damaged.png", "cannot be shown"),
        ("drawing.svg", "cannot be shown"),
    ],
)
def test_a_picture_that_cannot_be_shown_leaves_the_old_page(tmp_path: Path, name: str, says: str) -> None:
    folder = tmp_path / "report"
    good = document(measure("a", "measured", pictures=pictures(folder, 1)))
    page = write_report(good, folder)
    before = page.read_bytes()
    (tmp_path / "outside.png").write_bytes((folder / "pictures/teacher/00000.png").read_bytes())
    (folder / "link.png").symlink_to(tmp_path / "outside.png")
    (folder / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    (folder / "drawing.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    good["measures"][0]["pictures"][0]["student"] = name
    with pytest.raises(ValidationError, match=says):
        write_report(good, folder)
    assert page.read_bytes() == before
    assert [path.name for path in folder.glob(".*")] == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"cannot write .*file/report\.html"):
        write_report(document(measure("kd", "passed", value=0.0)), tmp_path / "file")


def test_nobody_can_inject_html(tmp_path: Path) -> None:
    sample = whole(tmp_path, 2)
    calm, hostile = (Page(render(each, tmp_path)) for each in (sample, with_nasty_texts(sample, NASTY)))
    assert hostile.open == []
    assert {tag for tag, _ in hostile.tags} == {tag for tag, _ in calm.tags}
    for tag in ("script", "style", "img", "input", "section"):
        assert len(hostile.named(tag)) == len(calm.named(tag))
    assert not [name for _, attributes in hostile.tags for name in attributes if name.startswith("on")]
    assert " ".join(printable(NASTY).split()) in hostile.words


@settings(max_examples=25, deadline=None)
@given(nasty=st.text(st.characters(), min_size=1))
def test_any_text_comes_out_as_text(tmp_path_factory: pytest.TempPathFactory, nasty: str) -> None:
    folder = tmp_path_factory.mktemp("report")
    sample = document(
        measure("kd", "failed", title=nasty, detail=nasty, culprits=[nasty], bar_from=nasty, unit=nasty),
        measure("fid", "skipped", skipped=nasty, check=nasty),
        notes=[nasty],
        environment={nasty: nasty},
        lock={nasty: nasty},
        checkpoint={"spec": nasty, "modules": 1},
    )
    text = render(sample, folder)
    text.encode()  # no lone surrogate is left
    page = Page(text)
    assert page.open == []
    calm = Page(render(document(measure("kd", "failed"), measure("fid", "skipped")), folder))
    assert {tag for tag, _ in page.tags} <= {tag for tag, _ in calm.tags} | {
        "li",
        "ol",
        "ul",
        "h4",
        "code",
        "wbr",
        "span",
    }
    assert " ".join(printable(nasty).split()) in page.words


def test_scripts_and_styles_hold_no_data(tmp_path: Path) -> None:
    parts = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)
    calm, hostile = (
        parts.findall(render(each, tmp_path))
        for each in (whole(tmp_path, 1), with_nasty_texts(whole(tmp_path, 1), "zzz"))
    )
    assert [kind for kind, _ in calm] == ["style", "script"]
    assert calm == hostile


def test_the_page_can_be_made_again_from_the_file(tmp_path: Path) -> None:
    sample = whole(tmp_path)
    again = json.loads(json.dumps(sample))
    assert render(sample, tmp_path) == render(again, tmp_path)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (-0.0, "0"), (0.0312, "0.0312"), (24.6149, "24.61"), (1234567, "1,234,567"), (999.96, "1,000"),
        (2.3841858e-07, "2.384e-7"), (1e-5, "1e-5"), (-0.5, "-0.5"), (3.2e12, "3.2e12"), (float("inf"), "inf"),
    ],
)  # fmt: skip
def test_numbers_are_short(value: float, text: str) -> None:
    assert figure(value) == text


def test_a_value_never_looks_like_the_bar_that_it_misses() -> None:
    close = measure("kd", "failed", value=0.020001, unit="dB")
    assert value_of(close) == "0.020001\u00a0dB"
    assert bar_of(close) == "at most 0.02\u00a0dB"
    assert miss_of(close) == "1.0001 times the bar"
    assert bar_of(measure("kd", "passed", value=0.020001, bar=0.020002)) == "at most 0.020002"


def test_large_pictures_are_compressed_and_small_ones_are_as_they_are(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name, side in (("small.png", 128), ("large.png", 512)):
        Image.fromarray(random.integers(0, 255, (side, side, 3), dtype=np.uint8)).save(tmp_path / name)
    small, large = (embed(tmp_path, name) for name in ("small.png", "large.png"))
    data = base64.b64encode((tmp_path / "small.png").read_bytes()).decode()
    assert small.uri == f"data:image/png;base64,{data}"
    assert large.uri.startswith("data:image/webp;base64,")
    assert (large.width, large.height) == (512, 512)
    assert len(large.uri) < (tmp_path / "large.png").stat().st_size


def test_what_is_no_number_is_called_so() -> None:
    assert value_of(measure("kd", "failed", value=None)) == "not a number"
    assert value_of(measure("kd", "skipped")) == "\u2013"
    assert miss_of(measure("kd", "failed", value=None)) == ""


def test_the_command_names_what_the_user_set_and_is_safe_to_paste() -> None:
    sample = document(
        measure("kd", "passed", bar=0.05, bar_from="--bar"),
        checkpoint={"spec": "my folder; rm -rf x", "modules": 1},
        settings={
            "images": 8,
            "seed": 0,
            "real": "photos",
            "steps": None,
            "encoders": ["lpips-alex", "a::b"],
        },
    )
    assert command_of(sample) == (
        "linzoo validate 'my folder; rm -rf x' --teacher mini --suite quality --size 128x128"
        " --images 8 --seed 0 --real photos --encoder lpips-alex --encoder a::b --bar kd=0.05"
    )


def test_the_command_line_knows_what_the_command_says() -> None:
    from linzoo.cli.main import main

    named = dict.fromkeys(("preset", "prompts_file", "images", "steps", "guidance", "seed", "real"), 1) | {
        "encoders": ["a"]
    }
    sample = document(measure("kd", "passed", bar_from="--bar"), settings=named)
    command = main.get_command(click.Context(main), "validate")
    assert command is not None
    known = {option for parameter in command.params for option in parameter.opts}
    said = {word for word in command_of(sample).split() if word.startswith("--")}
    assert len(said) == 12
    assert said <= known
