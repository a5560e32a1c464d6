"""The CSV file of results: complete after every row, whatever happens to the run."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from linzoo_benchmarks.errors import BenchmarkError
from linzoo_benchmarks.rows import COLUMNS, Row, RowFile, differing, pairs, read_rows
from made_up import row

SIZES = (2, 4096, 10, 64)
FULL = row(
    "triton", SIZES, 0.0213, gbps=1968.5, error=1.9e-3, launches=3, note='a "quoted", note\nof two lines'
)


def test_rows_come_back_with_their_types(tmp_path: Path) -> None:
    file = RowFile(tmp_path / "deep" / "rows.csv")
    file.append(FULL)
    file.append(row("eager", SIZES, None, note="out of memory"))
    first, second = read_rows([file.path])
    assert first == dataclasses.replace(FULL, note='a "quoted", note of two lines')
    assert second.median is None
    assert second.note == "out of memory"


@settings(max_examples=30)
@given(
    note=st.text(st.characters(codec="utf-8", exclude_categories=["Cs"])),
    median=st.none() | st.floats(1e-6, 1e6),
    launches=st.none() | st.integers(0, 1000),
)
def test_any_row_survives(
    tmp_path_factory: pytest.TempPathFactory, note: str, median: float | None, launches: int | None
) -> None:
    file = RowFile(tmp_path_factory.mktemp("rows") / "rows.csv")
    file.append(row("triton", SIZES, median, note=note, launches=launches))
    (found,) = read_rows([file.path])
    assert found.median == (None if median is None else pytest.approx(median, rel=1e-5))
    assert found.launches == launches
    assert found.note == " ".join(note.split())


def test_a_file_is_continued_and_the_last_row_of_a_measurement_counts(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    RowFile(path).append(row("triton", SIZES, 2.0))
    RowFile(path).append(row("triton", SIZES, 1.0))
    assert path.read_text().count("kernel,") == 1
    assert [each.median for each in read_rows([path])] == [1.0]


@pytest.mark.parametrize("cut", [1, 40, 10**6])
def test_half_a_line_of_a_killed_run_is_cut_off(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "rows.csv"
    file = RowFile(path)
    file.append(row("triton", SIZES, 2.0))
    whole = path.read_bytes()
    file.append(row("eager", SIZES, 8.0))
    second = path.read_bytes()[len(whole) :]
    path.write_bytes(whole + second[: min(cut, len(second) - 1)])
    RowFile(path).append(row("torch", SIZES, 4.0))
    assert [(each.provider, each.median) for each in read_rows([path])] == [("triton", 2.0), ("torch", 4.0)]


def test_half_a_head_line_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(",".join(COLUMNS)[:30])
    RowFile(path).append(FULL)
    assert len(read_rows([path])) == 1


def test_a_file_of_something_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.csv"
    path.write_text("my,own\nimportant,notes")
    with pytest.raises(BenchmarkError, match="other columns"):
        RowFile(path)
    assert path.read_text() == "my,own\nimportant,notes"


def test_every_row_is_on_the_disk_before_the_next_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda file: sizes.append(os.fstat(file).st_size))
    file = RowFile(tmp_path / "rows.csv")
    for _ in range(2):
        file.append(FULL)
        assert sizes[-1] == file.path.stat().st_size
    assert len(sizes) == 3


def test_pairs_are_of_one_kernel_mode_and_shape() -> None:
    rows = [
        row("triton", SIZES, 1.0, **changes) for changes in ({}, {"mode": "backward"}, {"kernel": "layer"})
    ]
    other = row("eager", SIZES, 2.0, mode="backward")
    rows += [other, row("eager", (1, *SIZES[1:]), 2.0)]
    assert pairs(rows, "triton", "eager") == [(rows[1], other)]


def test_another_csv_is_no_result(tmp_path: Path) -> None:
    path = tmp_path / "notes.csv"
    path.write_text("my,own\nimportant,notes\n")
    with pytest.raises(BenchmarkError, match=r"notes\.csv is no CSV file of .*no column 'kernel'"):
        read_rows([path])


def test_a_picture_is_no_result(tmp_path: Path) -> None:
    path = tmp_path / "rows.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    with pytest.raises(BenchmarkError, match="it is not a text file"):
        read_rows([path])


@pytest.mark.parametrize("text", ["", ",".join(COLUMNS) + "\n"])
def test_no_rows_are_no_result(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(text)
    with pytest.raises(BenchmarkError, match=r"rows\.csv has no rows"):
        read_rows([path])


def test_what_rows_differ_in(tmp_path: Path) -> None:
    rows = [row("triton", SIZES, 1.0), row("torch", SIZES, 1.0, dtype="float16", mode="backward")]
    assert differing(rows) == ["dtype"]
    assert differing(rows[:1]) == []


def test_a_row_without_its_sizes_is_no_result(tmp_path: Path) -> None:
    file = RowFile(tmp_path / "rows.csv")
    file.append(FULL)
    file.path.write_text(file.path.read_text().replace(",4096,", ",,"))
    with pytest.raises(BenchmarkError, match="tokens is empty"):
        read_rows([file.path])


def test_every_column_of_the_issue_is_there() -> None:
    wanted = {"kernel", "provider", "mode", "shape", "dtype", "median", "q20", "q80", "gbps", "copy_fraction"}
    wanted |= {"error", "peak_mb", "device", "torch", "triton", "linzoo", "commit", "timestamp", "copy_gbps"}
    assert wanted <= {field.name for field in dataclasses.fields(Row)}
