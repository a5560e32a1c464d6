"""A small document as ``report.json`` holds it, with pictures, for the tests of what is made from it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from PIL import Image

LAYERS = [
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1",
    "mid_block.attentions.0.transformer_blocks.0.attn1",
    "up_blocks.0.attentions.0.transformer_blocks.0.attn1",
    "up_blocks.0.attentions.1.transformer_blocks.0.attn1",
]
NASTY = "</script></style><img src=x onerror=alert(1)>\"'&{{ 7*7 }}{% x %}]]>--><!-- $\\frac{ \x00\x1b\ud800 \U0001f34e"


def measure(name: str, verdict: str, **fields: Any) -> dict[str, Any]:
    """A measure as ``report.json`` holds it."""
    return {
        "check": "kd", "name": name, "title": name.upper(), "value": None if verdict == "skipped" else 0.0312,
        "unit": "", "better": "lower", "bar": None if verdict in ("measured", "skipped") else 0.02,
        "bar_from": "" if verdict in ("measured", "skipped") else "variant mini", "verdict": verdict, "detail": "",
        "culprits": [], "skipped": "too few pictures" if verdict == "skipped" else "", "charts": [], "pictures": [],
        "data": {}, **fields,
    }  # fmt: skip


def chart(kind: str = "bars", **fields: Any) -> dict[str, Any]:
    """A chart as ``report.json`` holds it."""
    values = {name: 0.1 * place for place, name in enumerate(LAYERS, 1)}
    if kind == "lines":
        values = {"64": 1.5, "128": 4.0, "256": 15.0}
    return {"title": "Error of each layer", "kind": kind, "x": "layer", "y": "error", "series": {"student": values},
            "logarithmic": False, **fields}  # fmt: skip


def document(*measures: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A whole document."""
    counts = Counter(each["verdict"] for each in measures)
    return {
        "schema": 1, "linzoo": "0.1.0", "suite": "quality", "verdict": "failed" if counts["failed"] else "passed",
        "checkpoint": {"spec": "out/mini-linfusion", "modules": 10},
        "teacher": {"spec": "mini", "variant": "mini", "prediction_type": "epsilon"}, "size": [128, 128],
        "counts": {verdict: counts[verdict] for verdict in ("passed", "failed", "measured", "skipped")},
        "measures": list(measures), "notes": [], "environment": {"torch": "2.13.0"}, "lock": {"schema": 1}, **fields,
    }  # fmt: skip


def pictures(folder: Path, count: int) -> list[dict[str, str]]:
    """Pairs whose teacher is red and whose student is blue, written into a folder."""
    pairs = []
    for place in range(count):
        files = {who: f"pictures/{who}/{place:05d}.png" for who in ("teacher", "student")}
        for who, colour in (("teacher", (220, 30, 30)), ("student", (30, 30, 220))):
            path = folder / files[who]
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (64, 64), colour).save(path)
        pairs.append({"title": f"prompt {place}", "detail": f"seed {place}", **files})
    return pairs


def whole(folder: Path, count: int = 6) -> dict[str, Any]:
    """A document with everything that a page shows."""
    detail = "Mean squared error against the teacher's noise."
    charts = [chart(), chart("lines", logarithmic=True), chart()]
    return document(
        measure("kd", "failed", culprits=LAYERS * 2, detail=detail, charts=charts),
        measure("psnr", "passed", value=24.6, unit="dB", better="higher", bar=20.0, pictures=pictures(folder, count)),
        measure("lpips", "measured", check="pictures", charts=[chart("lines")]),
        measure("fid", "skipped", check="pictures"),
        notes=["The prompts are those that were trained on least."],
        settings={"images": 16, "steps": 25, "guidance": 7.5, "seed": 3, "sizes": [[128, 128]]},
    )  # fmt: skip
