"""What somebody wrote on a card stays, and what others wrote in a prompt means nothing."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from typing import Any

import pytest
import yaml
from cards import PROMPTS, render, report
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from linzoo.errors import CheckpointError
from linzoo.hub.card_markdown import code, escape, fenced, in_one_line, link, table
from linzoo.hub.card_readme import BEGIN, END, Readme

OURS = {"license": "mit", "tags": ["linzoo"], "widget": None}
NASTY = (
    "a|b `code` ``` *b* _i_ ~~s~~ [x](javascript:1) ![y](z) <b>&lt; $$e^x$$ # 1. - > \\| \\\\` --- :\n---\n<!-- linzoo:end -->"
    "\n<script>alert(1)</script>\r\n\tkey: 'v' \"w\" {{ 7*7 }} {% x %} \x00\x1b\x85\u2028\ufeff%&*!@ \ud800 \U0001f34e"
)

MARKUP = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
texts = st.text(st.sampled_from("|`*_~[]()<>!-#+=:.\\&;$'\"{}%@\n\r\t \x85ab1😀")) | st.text()
lines = st.text(st.sampled_from("ab:# -'\"|>&*!%@`")).map(str.strip)


def card(front_matter: str = "", body: str = "") -> str:
    return f"---\n{front_matter}---\n{body}"


def changed(text: str, changes: dict[str, Any] | None = None) -> str:
    return str(Readme.parse(text, "README.md").with_metadata(OURS if changes is None else changes))


class TestMetadata:
    def test_keys_of_others_keep_their_bytes_comments_and_places(self) -> None:
        head = "# Written by hand.\nlanguage:   [en,  fr]   # both\n"
        middle = "\n# What it is for.\n"
        tail = "\ninference: 'no'\n"
        before = (
            f"{head}license:  apache-2.0\n{middle}tags:\n  - anime   # mine\n  - linzoo\n{tail}"
            "widget:\n- text: old\n# The last word.\n"
        )
        after = f"{head}license: mit\n{middle}tags:\n- linzoo\n{tail}# The last word.\n"
        assert changed(card(before, "\n# Title\n")) == card(after, "\n# Title\n")

    def test_a_key_that_says_it_already_keeps_its_bytes(self) -> None:
        before = card("license: 'mit'   # as the teacher\ntags: [linzoo]\n")
        assert changed(before) == before

    @pytest.mark.parametrize("text", ["", "# Title\n", "Text\n\n---\n\nmore\n", "---\n---\n"])
    def test_a_card_without_metadata_is_given_some(self, text: str) -> None:
        assert changed(text) == f"---\nlicense: mit\ntags:\n- linzoo\n---\n\n{text}"

    def test_line_breaks_of_windows_and_a_byte_order_mark_stay(self) -> None:
        before = "\ufeff---\r\nlanguage: en\r\nlicense: x\r\n---\r\nHello\r\n"
        after = str(Readme.parse(before, "").with_metadata(OURS).with_section("ours\nend"))
        assert after == (
            "\ufeff---\r\nlanguage: en\r\nlicense: mit\r\ntags:\r\n- linzoo\r\n---\r\nHello\r\n"
            f"\r\n{BEGIN}\r\nours\r\nend\r\n{END}\r\n"
        )

    @pytest.mark.parametrize(
        ("front_matter", "says"),
        [
            ("license: [mit\n", "is no YAML: while parsing a flow sequence"),
            ("when: 2024-99-99\n", "is no YAML: month must be in 1..12"),
            ("- license\n", "is no mapping of keys to values"),
            ("just words\n", "is no mapping of keys to values"),
            ("license: a\nlicense: b\n", "names a key twice"),
            ("{license: a, language: en}\n", "cannot be changed key by key|is no YAML"),
            ("license: &l a\nother: *l\n", "is no YAML|cannot be changed key by key"),
            ("  license: a\n  language: en\n", "is no YAML|cannot be changed key by key"),
        ],
    )
    def test_what_cannot_be_read_or_changed_is_refused(self, front_matter: str, says: str) -> None:
        with pytest.raises(CheckpointError, match=rf"^README\.md: the metadata .*({says})") as raised:
            changed(card(front_matter))
        assert str(raised.value).endswith("repair it, one 'key: value' a line")

    @given(
        st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), lines | st.lists(lines) | st.none())
    )
    @settings(deadline=None, max_examples=50)
    def test_whatever_others_wrote_stays(self, data: dict[str, Any]) -> None:
        before = card(yaml.safe_dump(data, sort_keys=False) if data else "", "body")
        after = changed(before)
        assert Readme.parse(after, "").metadata == {
            key: value for key, value in (data | OURS).items() if key != "widget"
        }
        for key in data.keys() - OURS.keys():
            assert yaml.safe_dump({key: data[key]}) in after
        assert after.endswith("---\nbody")

    def test_tags_pictures_and_a_base_model_of_others_stay(self) -> None:
        theirs = {"text": "mine", "output": {"url": "images/mine.png"}}
        before = card(
            yaml.safe_dump({
                "tags": ["anime", "sdxl", "linzoo"], "base_model": ["a/b"], "thumbnail": "x.png",
                "widget": [theirs, {"text": "old", "output": {"url": "report/student-9.png"}}, "odd"],
                "model-index": [{"name": "old", "results": []}],
            })
        )  # fmt: skip
        found = ModelCard(render(before, base_model=None, report=None)).data
        assert found.tags == [
            "anime",
            "linfusion",
            "linear-attention",
            "linzoo",
            "mini",
            "generalized-linear",
        ]
        assert (found.base_model, found["thumbnail"]) == (["a/b"], "x.png")
        assert found["widget"] == [theirs, "odd"]
        assert found.eval_results is None
        assert ModelCard(render(before)).data.base_model == "artist/emoji"

    def test_the_base_model_of_an_earlier_push_goes_with_it(self) -> None:
        before = render()
        unknown = {"base_model": None, "base_commit": None, "teacher": "a local file"}
        assert ModelCard(render(before, **unknown)).data.base_model == "artist/emoji"
        assert ModelCard(render(before, earlier_base="artist/emoji", **unknown)).data.base_model is None
        assert ModelCard(render(before, earlier_base="artist/emoji")).data.base_model == "artist/emoji"


class TestSection:
    def test_it_is_put_at_the_end_and_then_stays_where_it_is_moved(self) -> None:
        first = str(Readme.parse("# Mine\n\nText", "").with_section("one"))
        assert first == f"---\n---\n\n# Mine\n\nText\n\n{BEGIN}\none\n{END}\n"
        moved = card("a: 1\n", f"Before  \n{BEGIN} \nold\nold\n{END}\nAfter\n\n")
        assert str(Readme.parse(moved, "").with_section("new")) == card(
            "a: 1\n", f"Before  \n{BEGIN}\nnew\n{END}\nAfter\n\n"
        )

    @pytest.mark.parametrize(
        ("body", "counts"),
        [
            (f"{BEGIN}\n", "1 and 0"),
            (f"{END}\n{BEGIN}\n", "1 and 1"),
            (f"{BEGIN}\n{END}\n{BEGIN}\n{END}\n", "2 and 2"),
        ],
    )
    def test_lines_that_are_no_pair_are_refused(self, body: str, counts: str) -> None:
        with pytest.raises(
            CheckpointError, match=rf"^README\.md of tester/mini-linfusion: .* {counts}; repair"
        ):
            render(card(body=body))

    @given(texts, texts)
    @settings(deadline=None)
    def test_all_around_it_keeps_its_bytes(self, before: str, after: str) -> None:
        body = f"{before}\n{BEGIN}\nold\n{END}\n{after}"
        made = str(Readme.parse(card("a: 1\n", body), "").with_section("new"))
        middle = (BEGIN + "\r\nnew\r\n" + END) if "\r\n" in body else f"{BEGIN}\nnew\n{END}"
        assert made == card("a: 1\n", f"{before}\n{middle}\n{after}")


@pytest.mark.parametrize(
    "existing", [None, "", "# Mine\n", card("language: en\n", "# Mine\r\n"), "---\r\na: 1\r\n---\r\n"]
)
def test_a_card_that_is_rendered_again_is_the_same(existing: str | None) -> None:
    once = render(existing)
    assert render(once) == once
    assert render(once, report=None, pictures=()) != once
    assert render(render(once, report=None, pictures=())).count(BEGIN) == 1


def shape(text: str) -> list[tuple[str, str]]:
    """The elements of a card, without what they say."""
    tokens = MARKUP.parse(ModelCard(text, ignore_metadata_errors=True).text)
    inline = [child for token in tokens for child in [token, *(token.children or [])]]
    return [(token.type, token.tag) for token in inline if token.type not in ("text", "text_special")]


@pytest.mark.parametrize("prompt", [NASTY, "", "---", "# x", "1. x", "-", "`", "```", "|", "\\"])
def test_a_prompt_adds_nothing_to_a_card(prompt: str) -> None:
    check_harmless(prompt)


@given(texts)
@settings(deadline=None, max_examples=30)
def test_no_text_adds_anything_to_a_card(text: str) -> None:
    check_harmless(text)


def check_harmless(text: str) -> None:
    """A card with a text of others in every place has the elements, and the metadata, of one with a plain word there."""
    made = render(**with_text(text))
    assert shape(made) == shape(render(**with_text("word")))
    assert made.splitlines().count(END) == made.splitlines().count(BEGIN) == 1
    data = ModelCard(made).data
    assert data["widget"][0]["text"] == in_one_line(text)
    assert data.eval_results[0].metric_name == in_one_line(text)
    (fid,) = [each for each in data.eval_results if each.metric_type == "fid"]
    assert (fid.metric_args or {}).get("detail", "") == in_one_line(text)
    (python,) = re.findall(r"^(`{3,})python\n(.*?)\n\1$", made, re.MULTILINE | re.DOTALL)
    strings = [
        token.string
        for token in tokenize.generate_tokens(io.StringIO(python[1]).readline)
        if token.type == tokenize.STRING
    ]
    assert in_one_line(text) in [ast.literal_eval(each) for each in strings]


def with_text(text: str) -> dict[str, Any]:
    found = report(text, *PROMPTS)
    found["measures"][2] |= {"title": text, "culprits": [text], "detail": text}
    found["measures"][4] |= {"detail": text}
    found["measures"][5] |= {"title": text, "skipped": text}
    return {"report": found, "teacher": text, "base_model": None, "base_commit": None}


@given(texts)
def test_escaped_text_says_what_it_said(text: str) -> None:
    wanted = in_one_line(text)
    (inline,) = [token for token in MARKUP.parse(f"x{escape(text)}x") if token.type == "inline"]
    assert "".join(child.content for child in inline.children or []) == f"x{wanted}x"
    rows = MARKUP.render(table(("a", "b"), [(text, "last")]))
    assert rows.count("<td>") == 2
    assert "<td>last</td>" in rows


@given(texts)
def test_code_says_what_it_said(text: str) -> None:
    wanted = in_one_line(text)
    found = MARKUP.parse(f"x {code(text)} x")[1].children or []
    assert "".join(child.content for child in found if child.type != "html_inline") == f"x {wanted} x"
    block, *rest = MARKUP.parse(fenced(text, "sh"))
    assert (block.type, block.info, rest) == ("fence", "sh", [])


def test_links_are_pages_or_files() -> None:
    assert link("a", "javascript:alert(1)") == "a"
    assert link("a", "LICENSE.md") == "[a](LICENSE.md)"
    assert link("[a]", "https://x.org/a)b <c>") == "[\\[a\\]](https://x.org/a%29b%20%3Cc%3E)"
