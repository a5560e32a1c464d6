"""``linzoo bench remote-convert`` on mini: what the server sends a conversion in place, and one that downloads first."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from click.testing import CliRunner
from linzoo_benchmarks.remote_convert import FORMAT, RemoteRow, markdown

from linzoo.cli.main import main


@pytest.mark.slow
def test_bytes_of_both_ways(tmp_path: Path) -> None:
    arguments = ["--size", "mini", "--folder", str(tmp_path), "--out", str(tmp_path / "rows.csv"), "--json"]
    result = CliRunner().invoke(main, ["bench", "remote-convert", *arguments])
    assert result.exit_code == 0, result.output
    assert [each.name for each in tmp_path.iterdir()] == ["rows.csv"]
    rows = FORMAT.read(tmp_path / "rows.csv")
    assert json.loads(result.stdout)["rows"] == [asdict(row) for row in rows]
    in_place, downloaded = rows
    assert in_place.repository_mb == downloaded.repository_mb
    assert downloaded.sent_mb == pytest.approx(downloaded.repository_mb, rel=0.01)
    assert in_place.sent_mb < downloaded.sent_mb / 2


def test_the_table_reckons_what_a_line_adds() -> None:
    row = RemoteRow("sdxl", "linzoo convert hf://", 6941.0, 1250.0, 163, 12.34, 9.0, 64.5)
    assert markdown([row]).splitlines()[2] == (
        "| sdxl pipeline, 6,941 MB | linzoo convert hf:// | 1,250.0 MB | 163 | 12.3 s | 9.0 s | 100 s | 64 MB |"
    )
