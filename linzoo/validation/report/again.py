"""The line for a shell that does a validation again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from linzoo.validation.suites import draws

_OPTIONS = {
    "preset": "preset",
    "prompts": "prompts_file",
    "images": "images",
    "steps": "steps",
    "guidance": "guidance",
    "seed": "seed",
    "real": "real",
    "batch": "batch",
    "dtype": "dtype",
}
"""Options of ``linzoo validate``, and the settings of ``report.json`` that they come from."""


def command_of(document: Mapping[str, Any]) -> str:
    """The command, with what was decided then, so that later defaults do not change it.

    Args:
        document: what ``report.json`` holds.
    """
    words = ["linzoo", "validate", document["checkpoint"]["spec"], "--teacher", document["teacher"]["spec"]]
    width, height = document["size"]
    words += ["--suite", document["suite"], "--size", f"{width}x{height}"]
    settings = document.get("settings", {})
    for option, name in _OPTIONS.items():
        if settings.get(name) is not None and (option != "images" or draws(document["suite"])):
            words += [f"--{option}", str(settings[name])]
    if document["suite"] in ("speed", "full") and settings.get("speed_sizes"):
        words += ["--speed-sizes", ",".join(f"{factor:g}" for factor in settings["speed_sizes"])]
    for encoder in settings.get("encoders", ()):
        words += ["--encoder", encoder]
    for measure in document["measures"]:
        if measure["bar_from"] == "--bar":
            words += ["--bar", f"{measure['name']}={measure['bar']}"]
    return shlex.join(words)
