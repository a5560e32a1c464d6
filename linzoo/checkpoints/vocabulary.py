"""CLIP's vocabulary, which all Stable Diffusion tokenizers share: shipped once, written as the files that they read.

``clip/bpe_simple_vocab_16e6.txt.gz`` is OpenAI's list of merges (licence beside it). The vocabulary follows from it:
256 bytes, the same at the end of a word, one entry a merge, and the two marks, 49,408 in all.
"""

from __future__ import annotations

import functools
import gzip
import json
from pathlib import Path

VOCABULARY_SIZE = 49_408

_MERGES_FILE = Path(__file__).parent / "clip" / "bpe_simple_vocab_16e6.txt.gz"
_MERGES = VOCABULARY_SIZE - 2 * 256 - 2


def write_clip_vocabulary(folder: Path) -> None:
    """Write ``vocab.json`` and ``merges.txt`` as ``transformers.CLIPTokenizer`` reads them."""
    merges = _merges()
    letters = [chr(code) for code in _byte_codes()]
    words = [
        *letters,
        *(f"{letter}</w>" for letter in letters),
        *(merge.replace(" ", "") for merge in merges),
    ]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: index for index, word in enumerate(words)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")


@functools.cache
def _merges() -> tuple[str, ...]:
    with gzip.open(_MERGES_FILE, "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")
    return tuple(lines[1 : _MERGES + 1])


def _byte_codes() -> list[int]:
    """The printable character that stands for each byte: itself where it prints, else one behind Latin-1."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [*printable, *range(256, 256 + 256 - len(printable))]
