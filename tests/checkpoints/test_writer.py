"""The streaming safetensors writer: what it writes is what the safetensors library writes and reads."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from linzoo.checkpoints.header import DTYPES, read_header
from linzoo.checkpoints.writer import SafetensorsWriter, TensorSpec, encode_header
from linzoo.errors import CheckpointError

CODES = [code for code in DTYPES if code not in ("C64", "F8_E8M0")]


def write(
    path: Path, arrays: dict[str, tuple[str, np.ndarray]], metadata: dict[str, str] | None = None
) -> str:
    specs = [TensorSpec(name, code, array.shape) for name, (code, array) in arrays.items()]
    with SafetensorsWriter(path, specs, metadata or {}) as writer:
        for spec in writer.order:
            writer.write(spec.name, arrays[spec.name][1])
    return writer.sha256


@st.composite
def tensors(draw: st.DrawFn) -> dict[str, tuple[str, np.ndarray]]:
    names = draw(st.lists(st.text(min_size=1, max_size=12).filter(_readable), unique=True, max_size=6))
    found = {}
    for name in names:
        code = draw(st.sampled_from(CODES))
        shape = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
        size = int(np.prod(shape)) * DTYPES[code].itemsize
        raw = draw(st.binary(min_size=size, max_size=size))
        if code == "BOOL":
            raw = bytes(byte & 1 for byte in raw)
        found[name] = (code, np.frombuffer(raw, dtype=DTYPES[code]).reshape(shape))
    return found


def _readable(name: str) -> bool:
    return name != "__metadata__" and name.isprintable()


@settings(max_examples=60, deadline=None)
@given(arrays=tensors(), metadata=st.dictionaries(st.text("abc", min_size=1), st.text("xyz é"), max_size=3))
def test_round_trip_through_the_safetensors_library(
    tmp_path_factory: pytest.TempPathFactory,
    arrays: dict[str, tuple[str, np.ndarray]],
    metadata: dict[str, str],
) -> None:
    path = tmp_path_factory.mktemp("writer") / "some.safetensors"
    sha256 = write(path, arrays, metadata)

    content = path.read_bytes()
    assert hashlib.sha256(content).hexdigest() == sha256
    found = dict(safetensors.deserialize(content))
    assert set(found) == set(arrays)
    for name, (_, array) in arrays.items():
        assert bytes(found[name]["data"]) == array.tobytes()
        assert tuple(found[name]["shape"]) == array.shape
    header = read_header(path)
    assert header.metadata == metadata
    for name, info in header.tensors.items():
        assert info.start % DTYPES[info.dtype].itemsize == 0, f"{name} is not aligned"


def test_bytes_are_those_of_the_library_and_do_not_depend_on_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {f"{i}.to_q.weight": rng.random((3, i + 1), dtype=np.float32) for i in range(12)}
    expected = save(arrays, {"format": "pt"})
    for order in (list(arrays), sorted(arrays, reverse=True)):
        path = tmp_path / "out.safetensors"
        write(path, {name: ("F32", arrays[name]) for name in order}, {"format": "pt"})
        assert path.read_bytes() == expected


def test_reads_back_with_numpy_bfloat16(tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3).astype(ml_dtypes.bfloat16)
    write(tmp_path / "a.safetensors", {"x": ("BF16", array)})
    with safetensors.safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert file.get_tensor("x").float().numpy().tolist() == array.astype(np.float32).tolist()


def test_non_contiguous_arrays_are_written_in_order(tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    write(tmp_path / "a.safetensors", {"x": ("F32", array)})
    with safetensors.safe_open(tmp_path / "a.safetensors", "numpy") as file:
        assert file.get_tensor("x").tolist() == array.tolist()


SPECS = [TensorSpec("a", "F32", (2,)), TensorSpec("b", "F32", (2,))]
GOOD = np.zeros(2, np.float32)


@pytest.mark.parametrize(
    ("writes", "message"),
    [
        ([("b", GOOD)], "the next one is 'a'"),
        ([("a", GOOD)], "b … were not written"),
        ([("a", GOOD), ("b", GOOD), ("b", GOOD)], "all are written"),
        ([("a", np.zeros(3, np.float32))], r"announced as F32 \(2,\), got float32 \(3,\)"),
        ([("a", np.zeros(2, np.float64))], "got float64"),
        ([("a", b"\0" * 7)], "needs 8 bytes, got 7"),
    ],
)
def test_what_does_not_fit_leaves_no_file(tmp_path: Path, writes: list, message: str) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"as it was")

    def run() -> None:
        with SafetensorsWriter(path, SPECS, {}) as writer:
            for name, data in writes:
                writer.write(name, data)

    with pytest.raises(CheckpointError, match=message):
        run()
    assert path.read_bytes() == b"as it was"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("names", [["a", "a"], ["__metadata__"]])
def test_names_that_cannot_be_are_refused(names: list[str]) -> None:
    with pytest.raises(CheckpointError, match="it is taken"):
        encode_header([TensorSpec(name, "F32", (1,)) for name in names], {"format": "pt"})


def test_header_is_aligned_and_plain_json() -> None:
    header = encode_header(SPECS, {"b": "2", "a": "1"})
    length = int.from_bytes(header[:8], "little")
    assert len(header) == 8 + length
    assert length % 8 == 0
    assert list(json.loads(header[8:])) == ["__metadata__", "a", "b"]
