"""Captions of the emoji pictures: names from keys and code points, skin tones and repeated words left out."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

_TONE_SUFFIX = re.compile(r"-(medium-light|medium-dark|light|medium|dark)$")
_TONE_CODES = {"1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"}
_COUNTRY_FLAG = re.compile(r"1f1[ef][0-9a-f]-1f1[ef][0-9a-f]|1f3f4-e00")
_APOSTROPHES = {ord("'"): None, 0x2019: None}
_PUNCTUATION = re.compile(r"[^a-z0-9]+")


def caption(name: str, style: str) -> str:
    """Return the caption of a picture, for example "red apple, 3d emoji"."""
    return f"{name}, {style} emoji"


def clean_name(text: str) -> str:
    """Return `text` in lower case with everything but letters and digits turned to single spaces."""
    return _PUNCTUATION.sub(" ", text.lower().translate(_APOSTROPHES)).strip()


def keyed_names(keys: Iterable[str]) -> dict[str, str]:
    """Return {key: name} for kebab-case keys, without skin-tone variants.

    Noto writes tones out ("-dark-skin-tone"); Fluent appends the bare tone ("-dark"), which counts as one
    only where the key without it exists too ("horizontal-traffic-light" is no light "horizontal-traffic").
    """
    known = set(keys)
    return {
        key: clean_name(re.sub(r"^flag-for-", "", key)) for key in sorted(known) if not _has_tone(key, known)
    }


def _has_tone(key: str, known: set[str]) -> bool:
    base = _TONE_SUFFIX.sub("", key)
    return "skin-tone" in key or (base != key and base in known)


def code_point_names(keys: Iterable[str], emojibase: Sequence[Mapping[str, object]]) -> dict[str, str]:
    """Return {key: name} for keys like "1f9d1-200d-1f680", without skin tones and country flags.

    Names are emojibase's labels; the variation selector fe0f is ignored when code points are compared.
    """
    labels = {_bare(str(entry["hexcode"])): clean_name(str(entry["label"])) for entry in emojibase}
    names = {}
    for key in sorted(set(keys)):
        codes = _bare(key)
        if codes in labels and not _TONE_CODES & set(codes.split("-")) and not _COUNTRY_FLAG.match(codes):
            names[key] = labels[codes]
    return names


def _bare(codes: str) -> str:
    return "-".join(code for code in codes.lower().split("-") if code != "fe0f")


def split_names(keys: Iterable[str], vocabulary_names: Iterable[str]) -> dict[str, str]:
    """Return {key: name} for run-together keys ("redapple"), cut into words of `vocabulary_names`.

    The cut is the most likely one under the words' frequencies; keys that cannot be cut, and single letters
    and numbered second drawings, are left out.
    """
    counts = Counter(word for name in vocabulary_names for word in name.split())
    total = sum(counts.values())
    cost = {word: -math.log(count / total) for word, count in counts.items() if len(word) > 1}
    names = {key: _cut(key, cost) for key in sorted(set(keys))}
    return {key: name for key, name in names.items() if name is not None}


def _cut(text: str, cost: Mapping[str, float]) -> str | None:
    best: list[tuple[float, str] | None] = [(0.0, "")]
    for end in range(1, len(text) + 1):
        options = [
            (before[0] + cost[text[start:end]], f"{before[1]} {text[start:end]}".strip())
            for start in range(max(0, end - 16), end)
            if (before := best[start]) is not None and text[start:end] in cost
        ]
        best.append(min(options, default=None))
    found = best[-1]
    return found[1] if found is not None else None
