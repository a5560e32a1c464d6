"""The small BPE: CLIP's format, learned deterministically, read back by transformers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from linzoo_recipes.mini import tokenizer as bpe
from linzoo_recipes.mini.errors import MiniError
from transformers import CLIPTokenizer

TEXTS = ["red apple, 3d emoji", "green apple, flat emoji", "red heart, noto emoji"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    bpe.train_tokenizer(TEXTS, path, length=16, merges=20)
    return path


def test_the_most_frequent_pair_is_merged_first_and_ties_in_text_order() -> None:
    assert bpe.learn_merges(Counter({"aab": 2, "ab": 1}), 1) == [("a", "b</w>")]
    assert bpe.learn_merges(Counter({"cd": 1, "ab": 1}), 1) == [("a", "b</w>")]


def test_learning_stops_when_every_word_is_one_token() -> None:
    assert bpe.learn_merges(Counter({"ab": 1}), 10) == [("a", "b</w>")]


def test_vocabulary_is_bytes_word_ends_merges_and_specials(folder: Path) -> None:
    tokenizer = bpe.load_tokenizer(folder)
    assert len(tokenizer) == 2 * 256 + 20 + 2
    assert tokenizer.convert_tokens_to_ids([bpe.START, bpe.END]) == [532, 533]
    assert tokenizer.model_max_length == 16


def test_ids_begin_and_end_and_are_padded_to_the_length(folder: Path) -> None:
    ids = bpe.token_ids(bpe.load_tokenizer(folder), ["red apple", ""])
    assert [len(row) for row in ids] == [16, 16]
    assert ids[0][0] == ids[1][0] == 532
    assert ids[1][1:] == [533] * 15


def test_frequent_words_are_single_tokens(folder: Path) -> None:
    tokens = bpe.load_tokenizer(folder).tokenize("emoji ox")
    assert tokens == ["emoji</w>", "o", "x</w>"]


@given(text=st.text(min_size=1, max_size=20))
def test_any_text_survives_the_round_trip_but_for_case_and_spaces(folder: Path, text: str) -> None:
    tokenizer: CLIPTokenizer = bpe.load_tokenizer(folder)
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.unk_token_id not in ids[1:-1]


def test_training_twice_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    bpe.train_tokenizer(TEXTS, tmp_path, length=16, merges=20)
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_a_folder_without_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises((MiniError, OSError)):
        bpe.load_tokenizer(tmp_path)


def test_the_byte_alphabet_has_256_different_printable_letters() -> None:
    alphabet = bpe.byte_alphabet()
    assert len(set(alphabet)) == 256
    assert alphabet[ord("a")] == "a"
    assert alphabet[ord(" ")] == "Ġ"
