"""mini's own byte-level BPE, in CLIP's format: about two thousand tokens, learned from the captions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

from transformers import CLIPTokenizer

from .errors import MiniError
from .files import replacing, write_json

START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
MERGES = 1534
"""With 256 bytes, 256 bytes that end a word and the two specials this makes 2,048 tokens."""

Pair = tuple[str, str]


def train_tokenizer(
    captions: Iterable[str], folder: Path, length: int, merges: int = MERGES
) -> CLIPTokenizer:
    """Learn a tokenizer from captions, write it to `folder` and return it as transformers loads it.

    The vocabulary is in CLIP's order: bytes, bytes that end a word, merges, start, end.
    Raises MiniError when transformers does not read back what was written.
    """
    learned = learn_merges(Counter(word for text in captions for word in text.lower().split()), merges)
    alphabet = byte_alphabet()
    tokens = [*alphabet, *(letter + WORD_END for letter in alphabet), *map("".join, learned), START, END]
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "vocab.json", {token: number for number, token in enumerate(tokens)})
    with replacing(folder / "merges.txt") as path:
        path.write_text("#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in learned))
    write_json(folder / "tokenizer_config.json", _config(length))
    return load_tokenizer(folder)


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    """Return the tokenizer of `folder`.

    Raises MiniError when it is not whole: transformers gives an empty tokenizer in place of an error.
    """
    tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    if len(tokenizer) < 2 * 256 + 2:
        raise MiniError(f"{folder} holds no usable CLIP tokenizer ({len(tokenizer)} tokens were read).")
    return tokenizer


def learn_merges(words: Counter[str], count: int) -> list[Pair]:
    """Return up to `count` merges of byte-pair encoding, most frequent pair first, ties in text order."""
    alphabet = byte_alphabet()
    spelled = [([alphabet[b] for b in word.encode()], number) for word, number in sorted(words.items())]
    for letters, _ in spelled:
        letters[-1] += WORD_END
    merges: list[Pair] = []
    while len(merges) < count:
        pairs: Counter[Pair] = Counter()
        for letters, number in spelled:
            for pair in pairwise(letters):
                pairs[pair] += number
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for letters, _ in spelled:
            _merge(letters, best)
    return merges


def _merge(letters: list[str], pair: Pair) -> None:
    place = 0
    while place < len(letters) - 1:
        if (letters[place], letters[place + 1]) == pair:
            letters[place : place + 2] = ["".join(pair)]
        place += 1


def byte_alphabet() -> list[str]:
    """Return the printable character that stands for each byte, as in GPT-2 and CLIP, by byte value."""
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(spare)) for byte in range(256)]


def _specials() -> dict[str, str]:
    return {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}


def _config(length: int) -> dict[str, object]:
    return {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": length,
        "add_prefix_space": False,
        "do_lower_case": True,
        "errors": "replace",
        **_specials(),
    }


def token_ids(tokenizer: CLIPTokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Return the ids of `texts`, each padded or cut to the tokenizer's length."""
    ids: list[list[int]] = tokenizer(list(texts), padding="max_length", truncation=True)["input_ids"]
    return ids
