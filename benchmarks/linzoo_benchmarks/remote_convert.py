"""Bytes and time of converting a model where it is, on the Hub, beside downloading it and converting that.

``linzoo bench remote-convert`` serves a pipeline of the size of a variant, in half precision and full of noise, from a Hub
on loopback. Bytes are the server's own count of what it sent. Loopback is faster than any line, so the seconds are those of
the work alone, the server's too; what a line adds follows from the bytes.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from linzoo.registry import build_registry
from linzoo.testing.fake_hub import FakeHub
from linzoo_benchmarks.convert import LINZOO, measure, write_pipeline
from linzoo_benchmarks.csvfile import CsvFile, Format

_REPO = "tester/model"
_LINE = 100e6 / 8
"""Bytes a second of the line that the table reckons with."""

_DOWNLOAD = f"""
from huggingface_hub import snapshot_download
snapshot_download("{_REPO}")
{LINZOO}
"""


@dataclass(frozen=True)
class RemoteRow:
    """One program on one model: megabytes of the repository, and what the server and the system counted."""

    size: str
    program: str
    repository_mb: float
    sent_mb: float
    requests: int
    seconds: float
    cpu_seconds: float
    anonymous_mb: float


FORMAT = Format(RemoteRow, ("linzoo bench remote-convert",))


def run(sizes: Sequence[str], folder: Path | None, out: Path, say: Callable[[str], None]) -> list[RemoteRow]:
    """Measure every size; the files lie in ``folder`` meanwhile, or in the temporary folder."""
    file = CsvFile(out, FORMAT)
    rows = []
    for size in sizes:
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            for row in _measured(size, Path(temporary)):
                say(f"{row.size}  {row.program}: {row.sent_mb:,.1f} MB, {row.seconds:.1f} s")
                rows.append(file.append(row))
    return rows


def _measured(size: str, place: Path) -> Iterator[RemoteRow]:
    variant = build_registry(entry_points=False).variants.get_value(size)
    source = write_pipeline(place / "model", variant)
    files = {each.relative_to(source).as_posix(): each for each in source.rglob("*") if each.is_file()}
    whole = sum(each.stat().st_size for each in files.values())
    arguments = ["convert", f"hf://{_REPO}", str(place / "out"), "-q"]
    programs = {"linzoo convert hf://": LINZOO, "snapshot_download + linzoo convert": _DOWNLOAD}
    with FakeHub(place / "store") as hub:
        hub.put(_REPO, files)
        for program, code in programs.items():
            before = len(hub.requests)
            run = measure(
                [sys.executable, "-c", code, *arguments], os.environ | hub.environment(place / "home")
            )
            asked = hub.requests[before:]
            yield RemoteRow(
                size=size,
                program=program,
                repository_mb=whole / 1e6,
                sent_mb=sum(each.sent for each in asked) / 1e6,
                requests=len(asked),
                seconds=run.seconds,
                cpu_seconds=run.cpu,
                anonymous_mb=run.anonymous / 1e6,
            )
            shutil.rmtree(place / "out")
            shutil.rmtree(place / "home")


def markdown(rows: Sequence[RemoteRow]) -> str:
    """The table as it stands in docs/convert.md."""
    lines = [
        "| source | program | sent by the Hub | requests | time on loopback | CPU time | a line of 100 Mbit/s adds | peak anonymous memory |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        line = row.sent_mb * 1e6 / _LINE
        lines.append(
            f"| {row.size} pipeline, {row.repository_mb:,.0f} MB | {row.program} | {row.sent_mb:,.1f} MB | {row.requests}"
            f" | {row.seconds:.1f} s | {row.cpu_seconds:.1f} s | {line:,.0f} s | {row.anonymous_mb:,.0f} MB |"
        )
    return "\n".join(lines)
