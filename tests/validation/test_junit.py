from __future__ import annotations

from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st
from report_sample import LAYERS, NASTY, document, measure

from linzoo.validation.junit import to_junit
from linzoo.validation.printable import printable


def test_counts_verdicts_and_names() -> None:
    sample = document(
        measure("kd", "failed", detail="Mean squared error.", culprits=LAYERS, unit="dB"),
        measure("tensors", "failed", check="integrity", value=None),
        measure("psnr", "passed", check="pictures"),
        measure("lpips", "measured", check="pictures", value=0.25, title="LPIPS"),
        measure("fid", "skipped", check="pictures"),
    )
    root = ElementTree.fromstring(to_junit(sample))
    for level in (root, root.find("testsuite")):
        assert level is not None
        totals = {name: level.attrib[name] for name in ("tests", "failures", "errors", "skipped")}
        assert totals == {"tests": "5", "failures": "2", "errors": "0", "skipped": "1"}
    cases = {case.attrib["name"]: case for case in root.iter("testcase")}
    assert [case.attrib["classname"] for case in cases.values()] == [
        "linzoo.validate.quality.kd",
        "linzoo.validate.quality.integrity",
        *["linzoo.validate.quality.pictures"] * 3,
    ]
    assert {name: [child.tag for child in case] for name, case in cases.items()} == {
        "kd": ["failure"], "tensors": ["failure"], "psnr": [], "lpips": ["system-out"], "fid": ["skipped"],
    }  # fmt: skip
    failure = cases["kd"][0]
    assert failure.attrib["message"] == "KD: 0.0312\u00a0dB, where at most 0.02\u00a0dB passes"
    assert str(failure.text).splitlines()[1:4] == [
        "bar from variant mini",
        "Mean squared error.",
        "culprits, the worst first:",
    ]
    assert [line.strip() for line in str(failure.text).splitlines()[4:]] == LAYERS
    assert cases["tensors"][0].attrib["message"].startswith("TENSORS: not a number")
    assert cases["lpips"][0].text == "LPIPS: 0.25"
    assert cases["fid"][0].attrib["message"] == "too few pictures"
    assert {each.attrib["name"]: each.attrib["value"] for each in root.iter("property")} == {
        "checkpoint": "out/mini-linfusion",
        "teacher": "mini",
    }


def test_nothing_measured_is_still_a_suite() -> None:
    root = ElementTree.fromstring(to_junit(document()))
    assert root.attrib["tests"] == "0"
    assert len(root) == 1


@given(st.one_of(st.text(st.characters()), st.just(NASTY)))
def test_any_text_survives_but_for_what_xml_cannot_hold(nasty: str) -> None:
    sample = document(
        measure("kd", "failed", detail=nasty, culprits=[nasty], title=nasty, bar_from=nasty),
        measure("fid", "skipped", skipped=nasty, check=nasty),
        measure("lpips", "measured", title=nasty),
        suite=nasty,
        checkpoint={"spec": nasty, "modules": 1},
    )
    root = ElementTree.fromstring(to_junit(sample))
    assert [len(list(root.iter(tag))) for tag in ("testcase", "failure", "skipped", "system-out")] == [
        3,
        1,
        1,
        1,
    ]
    wanted = printable(nasty)
    skipped = next(root.iter("skipped"))
    assert skipped.attrib["message"] == wanted
    text = str(next(root.iter("failure")).text)
    assert printable(nasty).replace("\r\n", "\n").replace("\r", "\n") in text


@given(st.text(st.characters()))
def test_printable_keeps_what_can_be_kept(text: str) -> None:
    out = printable(text)
    assert len(out) == len(text)
    out.encode()
    assert printable(out) == out
    for before, after in zip(text, out, strict=True):
        kept = before in "\t\n\r" or (
            before >= " " and not "\ud800" <= before <= "\udfff" and before not in "\ufffe\uffff"
        )
        assert after == (before if kept else "\ufffd")
