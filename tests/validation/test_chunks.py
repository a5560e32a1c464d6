"""Items are kept a chunk at a time; what is whole is never made again, and what is not never counts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from linzoo.validation.chunks import CHUNK, Chunks


def rows(items: range) -> dict[str, torch.Tensor]:
    return {"rows": torch.arange(items.start, items.stop, dtype=torch.float32)[:, None]}


@given(count=st.integers(1, 5 * CHUNK))
def test_every_item_is_in_exactly_one_chunk(count: int) -> None:
    chunks = Chunks(Path("nowhere"), count, ["rows"])
    assert [index for items in chunks.all() for index in items] == list(range(count))
    assert all(0 < len(items) <= CHUNK for items in chunks.all())


def test_what_was_written_is_read_in_order_whatever_the_order_of_writing(tmp_path: Path) -> None:
    chunks = Chunks(tmp_path / "new", 40, ["rows"])
    for items in reversed(chunks.all()):
        assert not chunks.has(items)
        chunks.write(items, rows(items))
        assert chunks.has(items)
    assert chunks.read("rows").flatten().tolist() == list(range(40))
    assert chunks.read("rows", 20).flatten().tolist() == list(range(20))


@pytest.mark.parametrize("damage", [b"", b"{", b"\x08" + bytes(7) + b"{}      "])
def test_a_damaged_file_is_not_there(tmp_path: Path, damage: bytes) -> None:
    chunks = Chunks(tmp_path, 20, ["rows"])
    for items in chunks.all():
        chunks.write(items, rows(items))
    (tmp_path / "items-000016.safetensors").write_bytes(damage)
    assert [chunks.has(items) for items in chunks.all()] == [True, False]
    with pytest.raises(KeyError, match="items-000016"):
        chunks.read("rows")
    assert len(chunks.read("rows", 16)) == 16


def test_a_file_of_another_number_of_items_is_not_there(tmp_path: Path) -> None:
    few = Chunks(tmp_path, 3, ["rows"])
    few.write(range(3), rows(range(3)))
    assert not Chunks(tmp_path, 4, ["rows"]).has(range(4))
    assert not Chunks(tmp_path, 3, ["rows", "more"]).has(range(3))
