"""Headers: what the safetensors library writes is read as it is; every lie has its own clear error."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import write_sparse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from linzoo.checkpoints.header import DTYPES, MAX_HEADER, read_header
from linzoo.checkpoints.source import open_source
from linzoo.errors import CheckpointError

TWO = {
    "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
    "b": {"dtype": "F16", "shape": [2, 2], "data_offsets": [8, 16]},
}


def write(path: Path, header: bytes | dict[str, Any], *, data: int = 16, length: int | None = None) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    stated = len(raw) if length is None else length
    path.write_bytes(stated.to_bytes(8, "little") + raw + bytes(data))
    return path


def changed(name: str, **fields: Any) -> dict[str, Any]:
    return {**TWO, name: {**TWO[name], **fields}}


def test_a_good_header(tmp_path: Path) -> None:
    header = read_header(write(tmp_path / "x.safetensors", {**TWO, "__metadata__": {"format": "pt"}}))
    assert header.metadata == {"format": "pt"}
    assert list(header.tensors) == ["a", "b"]
    info = header.tensors["b"]
    assert (info.dtype, info.shape, info.nbytes, info.elements) == ("F16", (2, 2), 8, 4)
    assert info.end == (tmp_path / "x.safetensors").stat().st_size


HOSTILE = {
    "empty file": (b"", "only 0 bytes, too short for a safetensors file"),
    "seven bytes": (b"\1" * 7, "only 7 bytes"),
    "length lies high": ({"header": TWO, "length": 2**62}, "its first eight bytes promise a header of"),
    "length over the limit": ({"header": TWO, "length": MAX_HEADER + 1}, "more than the 100,000,000 that the format"),
    "length behind the end": ({"header": TWO, "length": 5000}, "truncated inside the header"),
    "length lies low": ({"header": TWO, "length": 20}, "the header is not valid JSON"),
    "not JSON": ({"header": b"{hello"}, "the header is not valid JSON"),
    "not UTF-8": ({"header": b'{"\xff\xfe": 1}'}, "the header is not valid JSON"),
    "a JSON list": ({"header": b"[]"}, "the header is a JSON list and not an object"),
    "nested too deep": ({"header": b"[" * 100_000}, "the header is not valid JSON"),
    "one name twice": (
        {"header": b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'},
        "names 'a' twice",
    ),
    "one field twice": (
        {"header": b'{"a":{"dtype":"U8","dtype":"F32","shape":[1],"data_offsets":[0,1]}}'},
        "names 'dtype' twice",
    ),
    "metadata not strings": (
        {"header": {**TWO, "__metadata__": {"step": 3}}}, "'__metadata__' must hold strings only, but 'step' is int"
    ),
    "metadata no object": ({"header": {**TWO, "__metadata__": "x"}}, "'__metadata__' must be an object"),
    "tensor no object": ({"header": {**TWO, "b": 7}}, "tensor 'b' is not described by exactly"),
    "field missing": ({"header": {**TWO, "b": {"dtype": "F16", "shape": [4]}}}, "tensor 'b' is not described by"),
    "field too many": ({"header": changed("b", offset=0)}, "tensor 'b' is not described by exactly"),
    "unknown dtype": ({"header": changed("a", dtype="F4")}, "tensor 'a' has dtype 'F4', which linzoo does not know"),
    "dtype no string": ({"header": changed("a", dtype=["F32"])}, "tensor 'a' has dtype ['F32']"),
    "negative size": ({"header": changed("a", shape=[-2])}, "tensor 'a' has shape [-2]"),
    "fractional size": ({"header": changed("a", shape=[2.0])}, "tensor 'a' has shape [2.0]"),
    "boolean size": ({"header": changed("a", shape=[True, 2])}, "tensor 'a' has shape [True, 2]"),
    "endless shape": ({"header": changed("a", shape=[1] * 40)}, "which is not a short list of sizes"),
    "huge shape": ({"header": changed("a", shape=[2**40, 2**40])}, "larger than any file"),
    "huge shape of size 0": ({"header": changed("a", shape=[0, 2**60])}, "larger than any file"),
    "terminal escapes in a name": (
        {"header": {"\x1b[2Ja": TWO["a"], "b": TWO["b"]}},
        r"tensor '\x1b[2Ja' has a name with control characters",
    ),
    "offset of 300 digits": ({"header": changed("a", data_offsets=[0, 10**300])}, "not a begin and an end"),
    "three offsets": ({"header": changed("a", data_offsets=[0, 4, 8])}, "tensor 'a' has data_offsets [0, 4, 8]"),
    "offsets swapped": ({"header": changed("a", data_offsets=[8, 0])}, "which are not a begin and an end"),
    "offset negative": ({"header": changed("a", data_offsets=[-8, 0])}, "which are not a begin and an end"),
    "shape against size": ({"header": changed("a", shape=[3])}, "needs 12 bytes, but its offsets give 8"),
    "dtype against size": ({"header": changed("a", dtype="F64")}, "needs 16 bytes, but its offsets give 8"),
    "overlap": ({"header": changed("b", data_offsets=[4, 12])}, "tensor 'b' overlaps 'a'"),
    "same place": ({"header": changed("b", data_offsets=[0, 8])}, "overlaps"),
    "hole": ({"header": changed("b", data_offsets=[12, 20]), "data": 20}, "4 bytes between 'a' and 'b' belong to no tensor"),
    "hole at the start": (
        {"header": {"b": TWO["b"]}}, "8 bytes between the header and 'b' belong to no tensor"
    ),
    "data behind the last": ({"header": TWO, "data": 17}, "1 bytes behind 'b' belong to no tensor"),
    "truncated": ({"header": TWO, "data": 15}, "truncated: 'b' ends 1 bytes behind the end of the file"),
    "no data at all": ({"header": TWO, "data": 0}, "truncated: 'b' ends 16 bytes behind"),
    "git lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a Git LFS pointer"),
    "web page": (b"<!DOCTYPE html><html><body>404</body></html>", "an HTML or XML page"),
    "zip": (b"PK\x03\x04" + bytes(60), "a zip archive, probably a torch .ckpt"),
    "gguf": (b"GGUF" + b"\3\0\0\0" + b"\xff" * 60, "a GGUF file"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_and_damaged_headers(case: str, tmp_path: Path) -> None:
    content, message = HOSTILE[case]
    path = tmp_path / "x.safetensors"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        write(path, **content)
    with pytest.raises(CheckpointError) as error:
        open_source(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)


def test_long_names_do_not_flood_the_message(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as error:
        read_header(write(tmp_path / "x.safetensors", {"n" * 5000: {"dtype": "?"}}))
    assert len(str(error.value)) < 500


@given(raw=st.binary(max_size=200))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_noise_is_refused_or_read_but_never_crashes(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "noise.safetensors"
    path.write_bytes(raw)
    try:
        header = read_header(path)
    except CheckpointError:
        return
    assert all(info.end <= len(raw) for info in header.tensors.values())


@given(place=st.integers(0, 10_000), value=st.integers(0, 255))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_one_flipped_byte_never_crashes(tmp_path: Path, place: int, value: int) -> None:
    raw = bytearray(write(tmp_path / "x.safetensors", {**TWO, "__metadata__": {"a": "b"}}).read_bytes())
    raw[place % len(raw)] = value
    path = tmp_path / "flipped.safetensors"
    path.write_bytes(raw)
    try:
        tensors = read_header(path).tensors
    except CheckpointError:
        return
    assert sum(info.nbytes for info in tensors.values()) == len(raw) - 8 - int.from_bytes(raw[:8], "little")


def test_every_dtype_is_read_as_the_library_wrote_it(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    dtypes = {
        "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "F8_E4M3": torch.float8_e4m3fn,
        "F8_E5M2": torch.float8_e5m2, "I16": torch.int16, "F16": torch.float16, "BF16": torch.bfloat16,
        "I32": torch.int32, "F32": torch.float32, "I64": torch.int64, "F64": torch.float64,
    }  # fmt: skip
    tensors = {
        code: torch.tensor([[0.0, 1.0, 2.0], [4.0, 0.5, 1.5]]).to(dtype) for code, dtype in dtypes.items()
    }
    save_file(tensors, tmp_path / "all.safetensors", metadata={"made": "here"})
    opened = open_source(tmp_path / "all.safetensors")
    assert opened.metadata == {"made": "here"}
    for code, tensor in tensors.items():
        read = opened.read(code)
        assert opened.tensors[code].dtype == code
        assert read.dtype == DTYPES[code]
        np.testing.assert_array_equal(read.astype(np.float64), tensor.to(torch.float64).numpy())
        assert bytes(opened.read_bytes(code)) == tensor.contiguous().view(torch.uint8).numpy().tobytes()


def test_scalars_and_empty_tensors(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write(path, {"s": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]},
                 "v_pred": {"dtype": "F32", "shape": [0], "data_offsets": [4, 4]}}, data=4)  # fmt: skip
    opened = open_source(path)
    assert opened.read("s").shape == ()
    assert opened.read("v_pred").shape == (0,)
    assert math.prod(opened.tensors["v_pred"].shape) == 0


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    path = write_sparse(tmp_path / "x.safetensors", {"a": (4, 4), "b": (4, 4)})
    opened = open_source(path)
    with path.open("r+b") as file:
        file.truncate(opened.tensors["b"].end - 1)
    assert opened.read("a").shape == (4, 4)
    with pytest.raises(CheckpointError, match="ended while 'b' was read"):
        opened.read("b")
    path.unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        opened.read("a")
