"""A drawing of matplotlib's made to live inside a page: its colours follow the page, its ids are its own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from xml.etree import ElementTree

_SVG = "{http://www.w3.org/2000/svg}"
_LINK = "{http://www.w3.org/1999/xlink}href"
_LEFT_OUT = (f"{_SVG}metadata", f"{_SVG}style")  # a style sheet in a drawing would be one for the whole page
_FAMILY = re.compile(r"font-family:[^;]*;?\s*")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")


def inlined(svg: bytes, *, prefix: str, variables: Mapping[str, str], label: str) -> str:
    """An SVG element for an HTML page.

    Args:
        svg: the file that matplotlib wrote, with text as text.
        prefix: what ids begin with, one for each drawing of a page.
        variables: names of the page's CSS variables, by the colour that each stands for.
        label: what a screen reader says.
    """
    ElementTree.register_namespace("", _SVG[1:-1])
    root = ElementTree.fromstring(svg)
    _leave_out(root)
    wanted = set(_references(root))
    for element in root.iter():
        _rename(element, prefix, wanted)
        if "style" in element.attrib:
            element.set("style", _themed(element.attrib["style"], variables))
    for size in ("width", "height"):  # the page gives it room; viewBox keeps the proportions
        root.attrib.pop(size, None)
    root.set("role", "img")
    root.set("aria-label", label)
    return ElementTree.tostring(root, encoding="unicode")


def _leave_out(element: ElementTree.Element) -> None:
    for child in list(element):
        if child.tag in _LEFT_OUT:
            element.remove(child)
        else:
            _leave_out(child)


def _references(root: ElementTree.Element) -> list[str]:
    links = [element.attrib[_LINK][1:] for element in root.iter() if _LINK in element.attrib]
    return links + [
        name
        for element in root.iter()
        for text in element.attrib.values()
        for name in _REFERENCE.findall(text)
    ]


def _rename(element: ElementTree.Element, prefix: str, wanted: set[str]) -> None:
    """Give an element's id the prefix, and what it points at; ids that nothing points at go."""
    name = element.attrib.pop("id", None)
    if name in wanted:
        element.set("id", f"{prefix}{name}")
    if _LINK in element.attrib:
        element.set("href", f"#{prefix}{element.attrib.pop(_LINK)[1:]}")
    for key, text in element.attrib.items():
        element.set(key, _REFERENCE.sub(rf"url(#{prefix}\1)", text))


def _themed(style: str, variables: Mapping[str, str]) -> str:
    style = _FAMILY.sub("", style)
    for colour, variable in variables.items():
        style = style.replace(colour, f"var({variable})")
    return style
