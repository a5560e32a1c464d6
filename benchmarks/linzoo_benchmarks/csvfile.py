"""Rows of one kind, a dataclass of plain fields, in a CSV file that grows while a benchmark runs."""

from __future__ import annotations

import csv
import io
import os
import typing
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from linzoo_benchmarks.errors import BenchmarkError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

RowT = TypeVar("RowT", bound="DataclassInstance")


@dataclass(frozen=True)
class Format(Generic[RowT]):
    """How rows of a kind stand in a file: a column for each field; a field may be text, a number, or a number or None.

    Attributes:
        kind: the dataclass.
        commands: what writes such files, for messages.
    """

    kind: type[RowT]
    commands: tuple[str, ...]

    @property
    def columns(self) -> list[str]:
        """The head line."""
        return [field.name for field in fields(self.kind)]

    def cells(self, row: RowT) -> dict[str, str]:
        """A row as text; numbers are rounded to six digits."""
        return {name: _text(value) for name, value in asdict(row).items()}

    def row(self, cells: Mapping[str, str | None]) -> RowT:
        """A row out of its text.

        Raises:
            ValueError: a cell is not what its column holds.
        """
        kinds = typing.get_type_hints(self.kind)
        return self.kind(**{name: _value(name, kinds[name], cells[name] or "") for name in self.columns})

    def read(self, path: Path) -> list[RowT]:
        """All rows of a file.

        Raises:
            BenchmarkError: it is no such CSV.
        """
        try:
            return list(self._rows(path))
        except UnicodeDecodeError as error:
            raise self._foreign(path, "it is not a text file") from error
        except (OSError, csv.Error, ValueError) as error:
            raise self._foreign(path, str(error)) from error

    def _rows(self, path: Path) -> Iterator[RowT]:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            missing = [name for name in self.columns if name not in (reader.fieldnames or self.columns)]
            if missing:
                raise ValueError(f"it has no column {missing[0]!r}")
            for cells in reader:
                yield self.row(cells)

    def _foreign(self, path: Path, reason: str) -> BenchmarkError:
        commands = " or ".join(f"`{command}`" for command in self.commands)
        return BenchmarkError(f"{path} is no CSV file of {commands}: {reason}.")


class CsvFile(Generic[RowT]):
    """A CSV file, appended to one row at a time: what is written stays, whatever happens to the run."""

    def __init__(self, path: Path, form: Format[RowT]) -> None:
        """Open or make the file; half a line, left by a run that was killed, is cut off.

        Raises:
            BenchmarkError: the file holds other columns.
        """
        self.path, self.form = path, form
        head = ",".join(form.columns)
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = path.read_bytes() if path.exists() else b""
        kept = whole[: whole.rfind(b"\n") + 1]
        if kept and kept.split(b"\n", 1)[0].decode(errors="replace") != head:
            raise BenchmarkError(
                f"{path} holds other columns than this version of linzoo writes. Nothing was changed; give another "
                "file with --out."
            )
        if len(kept) != len(whole):
            os.truncate(path, len(kept))
        if not kept:
            self._write(head + "\n")

    def rows(self) -> list[RowT]:
        """The rows that are there already.

        Raises:
            BenchmarkError: a row cannot be read.
        """
        return self.form.read(self.path)

    def append(self, row: RowT) -> RowT:
        """Add a row, on the disk before this returns; returns it as it will be read, with numbers rounded."""
        cells = self.form.cells(row)
        text = io.StringIO()
        csv.DictWriter(text, self.form.columns, lineterminator="\n").writerow(cells)
        self._write(text.getvalue())
        return self.form.row(cells)

    def _write(self, text: str) -> None:
        with self.path.open("a", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else " ".join(str(value).split())


def _value(name: str, hint: Any, text: str) -> str | int | float | None:
    kinds = typing.get_args(hint) or (hint,)
    if str in kinds:
        return text
    if not text:
        if type(None) not in kinds:
            raise ValueError(f"{name} is empty")
        return None
    return int(text) if int in kinds else float(text)
