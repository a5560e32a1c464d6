"""What continuous integration reads: a validation as JUnit's XML, one test case a measure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from linzoo.validation.printable import printable
from linzoo.validation.report.wording import bar_of, value_of


def to_junit(document: Mapping[str, Any]) -> bytes:
    """A validation as JUnit's XML, UTF-8.

    A measure whose bar fell is a failure that names value, bar and culprits; one that could not be measured is skipped with
    the reason; one without a bar passes and says its value.

    Args:
        document: what ``report.json`` holds.
    """
    measures = document["measures"]
    totals = {
        "name": f"linzoo.validate.{document['suite']}",
        "tests": len(measures),
        "failures": sum(measure["verdict"] == "failed" for measure in measures),
        "errors": 0,
        "skipped": sum(measure["verdict"] == "skipped" for measure in measures),
    }
    root = _add(None, "testsuites", **totals)
    suite = _add(root, "testsuite", **totals)
    properties = _add(suite, "properties")
    for name in ("checkpoint", "teacher"):
        _add(properties, "property", name=name, value=document[name]["spec"])
    for measure in measures:
        _case(suite, f"{totals['name']}.{measure['check']}", measure)
    indent(root)
    written: bytes = tostring(root, encoding="utf-8", xml_declaration=True)
    return written


def _case(suite: Element, classname: str, measure: Mapping[str, Any]) -> None:
    case = _add(suite, "testcase", classname=classname, name=measure["name"])
    match measure["verdict"]:
        case "failed":
            bar = bar_of(measure)
            short = f"{measure['title']}: {value_of(measure)}" + (f", where {bar} passes" if bar else "")
            failure = _add(case, "failure", message=short, type="bar")
            failure.text = printable("\n".join(_long(short, measure)))
        case "skipped":
            _add(case, "skipped", message=measure["skipped"])
        case "measured":
            _add(case, "system-out").text = printable(f"{measure['title']}: {value_of(measure)}")


def _long(short: str, measure: Mapping[str, Any]) -> list[str]:
    lines = [short]
    if measure["bar_from"]:
        lines.append(f"bar from {measure['bar_from']}")
    if measure["detail"]:
        lines.append(measure["detail"])
    if measure["culprits"]:
        lines += ["culprits, the worst first:", *(f"  {name}" for name in measure["culprits"])]
    return lines


def _add(parent: Element | None, tag: str, /, **attributes: Any) -> Element:
    texts = {name: printable(str(value)) for name, value in attributes.items()}
    return Element(tag, texts) if parent is None else SubElement(parent, tag, texts)
