"""Tables of kernel configs: what ships is complete, the nearest is found, and a bad table is refused by entry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from linzoo_kernels import configs
from linzoo_kernels.configs import ConfigError, KernelConfig

GOOD = {
    "kernel": "state_forward", "width": 64, "dtypes": ["float16", "bfloat16"],
    "block_rows": 64, "num_warps": 4, "num_stages": 3, "programs_per_sm": 2,
}  # fmt: skip


def written(tmp_path: Path, *entries: Any) -> Path:
    path = tmp_path / "table.json"
    path.write_text(json.dumps({"configs": entries}))
    return path


@pytest.mark.parametrize("target", configs.TARGETS)
@pytest.mark.parametrize("dtype", configs.DTYPES)
@pytest.mark.parametrize("kernel", configs.KERNELS)
def test_every_target_has_every_kernel_in_every_dtype(target: str, dtype: str, kernel: str) -> None:
    largest = 160 if kernel in configs.ATTENTION else 65_536
    assert configs.find(kernel, largest, dtype, target).width == largest


def test_nearest_width_that_is_not_smaller() -> None:
    widths = {
        d: configs.find("apply_forward", d, "float16", "sm_90").width for d in (8, 40, 64, 80, 128, 160, 999)
    }
    assert widths == {8: 64, 40: 64, 64: 64, 80: 128, 128: 128, 160: 160, 999: 160}


def test_a_table_of_the_device_itself_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = {**GOOD, "width": 40, "block_rows": 128}
    (tmp_path / "NVIDIA_H200.json").write_text(json.dumps({"configs": [own]}))
    (tmp_path / "sm_90.json").write_text(json.dumps({"configs": [GOOD]}))
    monkeypatch.setattr(configs, "DIRECTORY", tmp_path)
    configs.table.cache_clear()
    try:
        assert configs.find("state_forward", 40, "float16", "sm_90", "NVIDIA H200").block_rows == 128
        assert configs.find("state_forward", 64, "float16", "sm_90", "NVIDIA H200").block_rows == 64
        assert configs.find("state_forward", 40, "float16", "sm_90", "NVIDIA L4").block_rows == 64
        with pytest.raises(ConfigError, match="no config for apply_forward in float16 for sm_90"):
            configs.find("apply_forward", 64, "float16", "sm_90")
    finally:
        configs.table.cache_clear()


def test_dtypes_of_an_entry_share_it(tmp_path: Path) -> None:
    half, bfloat = configs.load(written(tmp_path, GOOD))
    assert half == KernelConfig("state_forward", 64, "float16", 64, 4, 3, 2, "ieee")
    assert bfloat.dtype == "bfloat16"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kernel": "forward"}, "kernel is 'forward'; it must be one of state_forward, "),
        ({"dtypes": ["float8"]}, "dtype is 'float8'"),
        ({"precision": "tf32"}, "precision is 'tf32'; it must be one of ieee, tf32x3"),
        ({"block_rows": 48}, "block_rows is 48; it must be a power of two"),
        ({"block_rows": 8}, "block_rows is 8; attention takes 16 to 128"),
        ({"block_rows": 256}, "block_rows is 256; attention takes 16 to 128"),
        ({"num_warps": 3}, "num_warps is 3; it must be a power of two"),
        ({"num_stages": 0}, "num_stages is 0; it must be a positive integer"),
        ({"width": "64"}, "width is '64'; it must be a positive integer"),
        ({"speed": 11}, "speed"),
    ],
)
def test_a_bad_entry_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=r"table\.json: entry 1 ") as refused:
        configs.load(written(tmp_path, {**GOOD, "width": 32}, {**GOOD, **change}))
    assert message in str(refused.value)


def test_missing_fields_and_repetitions_are_refused(tmp_path: Path) -> None:
    without = {name: value for name, value in GOOD.items() if name != "width"}
    with pytest.raises(ConfigError, match=r"entry 0 .*missing 1 required positional argument: 'width'"):
        configs.load(written(tmp_path, without))
    with pytest.raises(ConfigError, match=r"entry 1 .*state_forward, width 64, float16 occurs twice"):
        configs.load(written(tmp_path, GOOD, GOOD))


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"configs": 3}', None])
def test_what_is_no_table_is_refused(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "table.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(
        ConfigError, match=r"table\.json: (not a table of kernel configs|'configs' must be a list)"
    ):
        configs.load(path)
