"""What the tests of model cards are written from: the shipped checkpoint, and a small report on it."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from linzoo.checkpoints.license import License
from linzoo.checkpoints.linfusion import LinFusionConfig
from linzoo.checkpoints.lock import read_lock
from linzoo.checkpoints.source import open_source
from linzoo.hub.card import render_card
from linzoo.hub.card_facts import CardFacts
from linzoo.hub.card_pictures import card_pictures
from linzoo.registry import Registry, build_registry
from tests.validation.report_sample import chart, document, measure

REGISTRY = build_registry(entry_points=False)
COMMIT = "0123456789abcdef0123456789abcdef01234567"
PROMPTS = ("red apple, 3d emoji", "fire", "carrot", "laptop", "snowflake")
SETTINGS = {
    "preset": None, "prompts_file": None, "size": [128, 128], "steps": 25, "guidance": 4.0, "seed": 3, "batch": 8,
    "real": None, "encoders": [], "images": 5, "dtype": "float32",
}  # fmt: skip


def report(*prompts: str, **changes: Any) -> dict[str, Any]:
    """A report of the suite ``quality``: two checks of soundness, two figures with bars, one without, one skipped."""
    pictures = [
        {
            "title": prompt,
            "detail": f"seed {place}",
            "teacher": f"pictures/t/{place}.png",
            "student": f"pictures/s/{place}.png",
        }
        for place, prompt in enumerate(prompts or PROMPTS)
    ]
    made = document(
        measure("tensors", "passed", check="structure", value=0.0, bar=0.0, bar_from="linzoo"),
        measure("not-finite", "passed", check="structure", value=0.0, bar=0.0, bar_from="linzoo"),
        measure("kd", "passed", check="distance", title="KD", value=0.0123, charts=[chart(), chart("lines")]),
        measure("psnr", "passed", check="pictures", title="PSNR", value=24.6, unit="dB", better="higher", bar=20.0,
                bar_from="--bar", pictures=pictures),
        measure("fid", "measured", check="distribution", title="FID", value=44.77, detail="by efficientnet-lite0",
                data={"encoder": "efficientnet-lite0"}),
        measure("lpips", "skipped", check="pictures", title="LPIPS", skipped="not installed"),
    )  # fmt: skip
    made |= {"settings": SETTINGS, "environment": {"device": "a CPU", "timestamp": "2020-02-02T02:02:02"}}
    return {**made, **changes}


def facts(**changes: Any) -> CardFacts:
    """The shipped checkpoint, with its teacher on the Hub, validated."""
    folder = open_source("mini-linfusion", registry=REGISTRY).path
    made = report()
    found = CardFacts(
        repo="tester/mini-linfusion",
        format="adapter",
        lock=lock_of(repo="hf://artist/emoji", commit=COMMIT),
        config=LinFusionConfig.from_folder(folder),
        variant=REGISTRY.variants.get_value("mini"),
        base_model="artist/emoji",
        earlier_base=None,
        base_commit=COMMIT,
        teacher="artist/emoji",
        license=License("cc-by-4.0", None, None, "inherited from the card of artist/emoji at commit 0123456"),
        report=made,
        pictures=tuple(each.path for each in card_pictures(made)),
        checkpoint=folder,
    )
    return replace(found, **changes)


def lock_of(**source: Any) -> dict[str, Any]:
    """The shipped checkpoint's lock file, as if the teacher came from somewhere."""
    lock = copy.deepcopy(read_lock(open_source("mini-linfusion", registry=REGISTRY).path))
    assert lock is not None
    lock["source"] |= source
    lock["distill"]["teacher"] = {name: each["sha256"] for name, each in lock["source"]["files"].items()}
    return lock


def render(existing: str | None = None, registry: Registry = REGISTRY, **changes: Any) -> str:
    """The card of :func:`facts`."""
    return render_card(facts(**changes), registry, existing)
