"""Torch pickles: tensors come out, code stays in and is named."""

from __future__ import annotations

import collections
import datetime
import os
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from fakes import write_sparse

from linzoo.checkpoints.source import open_source
from linzoo.errors import CheckpointError

TENSORS = {
    "model.diffusion_model.out.2.weight": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "model.diffusion_model.out.2.bias": torch.tensor([1.5, -2], dtype=torch.bfloat16),
}


class Evil:
    """Runs a command when it is unpickled by anything less careful."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".pth", ".bin"])
def test_tensors_are_read(suffix: str, zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    torch.save({"state_dict": TENSORS, "global_step": 470000}, path, _use_new_zipfile_serialization=zipped)
    opened = open_source(path)
    assert opened.layout == "ldm"
    assert opened.metadata == {"global_step": "470000"}
    assert opened.files == (path,)
    weight, bias = opened.tensors
    assert (opened.tensors[bias].dtype, opened.tensors[bias].shape, opened.tensors[bias].nbytes) == (
        "BF16",
        (2,),
        4,
    )
    np.testing.assert_array_equal(opened.read(weight), TENSORS[weight].numpy())
    assert opened.read(bias).dtype == ml_dtypes.bfloat16
    assert opened.read(bias).tolist() == [1.5, -2]


def test_views_scalars_and_nested_state_dicts(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {
        "t": base.T,
        "row": base[1],
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, dtype=torch.float16),
    }
    torch.save(
        {"state_dict": {"state_dict": collections.OrderedDict(tensors, note="text")}}, tmp_path / "x.ckpt"
    )
    opened = open_source(tmp_path / "x.ckpt")
    assert set(opened.tensors) == set(tensors)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(opened.read(name), tensor.numpy())


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_code_is_named_and_never_run(zipped: bool, tmp_path: Path) -> None:
    mark, path = tmp_path / "was-here", tmp_path / "evil.ckpt"
    torch.save({"state_dict": TENSORS, "hook": Evil(mark)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        CheckpointError, match=r"(?s)posix.system.*linzoo does not run code from a checkpoint"
    ):
        open_source(path)
    assert not mark.exists()


def test_all_offending_globals_are_listed(tmp_path: Path) -> None:
    torch.save(
        {"state_dict": TENSORS, "a": Evil(tmp_path / "x"), "b": datetime.date(2024, 1, 1)},
        tmp_path / "evil.ckpt",
    )
    with pytest.raises(CheckpointError, match=r"wants more than tensors: datetime\.date, posix\.system"):
        open_source(tmp_path / "evil.ckpt")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_what_trainers_leave_behind_is_passed_over(
    zipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("pytorch_lightning.callbacks.model_checkpoint")

    class ModelCheckpoint:
        pass

    ModelCheckpoint.__module__, ModelCheckpoint.__qualname__ = module.__name__, "ModelCheckpoint"
    module.ModelCheckpoint = ModelCheckpoint  # type: ignore[attr-defined]
    for name in ("pytorch_lightning", "pytorch_lightning.callbacks", module.__name__):
        monkeypatch.setitem(sys.modules, name, module)
    callback = ModelCheckpoint()
    callback.best = np.float64(0.25)  # type: ignore[attr-defined]
    contents = {"state_dict": TENSORS, "callbacks": {ModelCheckpoint: callback}, "loss": np.float64(0.5)}
    torch.save(contents, tmp_path / "x.ckpt", _use_new_zipfile_serialization=zipped)
    monkeypatch.undo()
    assert set(open_source(tmp_path / "x.ckpt").tensors) == set(TENSORS)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ([1, 2], "holds a list and not a dict"),
        ({"state_dict": {}}, "holds no tensors"),
        ({"epoch": 3}, "holds no tensors"),
        ({"\x1b[2J": torch.zeros(1)}, r"the name '\\x1b\[2J' has control characters"),
        ({"a": torch.zeros(2, dtype=torch.complex128)}, "tensor 'a' is torch.complex128"),
        ({"a": torch.zeros(2, 2).to_sparse()}, "tensor 'a' is torch.float32, torch.sparse_coo"),
    ],
)
def test_pickles_without_usable_tensors(contents: Any, message: str, tmp_path: Path) -> None:
    torch.save(contents, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match=message):
        open_source(tmp_path / "x.ckpt")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("keep", [0, 1, 40, 0.5, 0.95])
def test_truncated_pickles(zipped: bool, keep: float, tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    torch.save({"state_dict": TENSORS}, path, _use_new_zipfile_serialization=zipped)
    raw = path.read_bytes()
    path.write_bytes(raw[: int(keep * len(raw)) if isinstance(keep, float) else keep])
    with pytest.raises(CheckpointError, match=r"no readable torch checkpoint|cannot be unpickled safely"):
        open_source(path)


@pytest.mark.parametrize(
    "content", [b"not a pickle at all", b"\x80\x04N.", b"\x80\x02}q\x00.", b"<html></html>"]
)
def test_other_files_with_a_ckpt_name(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.ckpt").write_bytes(content)
    with pytest.raises(CheckpointError):
        open_source(tmp_path / "x.ckpt")


def test_a_state_dict_that_holds_itself_has_an_end(tmp_path: Path) -> None:
    contents: dict[str, Any] = {}
    contents["state_dict"] = contents
    torch.save(contents, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match="holds no tensors"):
        open_source(tmp_path / "x.ckpt")


def test_an_archive_that_unpacks_to_more_than_its_size(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    torch.save({"state_dict": TENSORS}, tmp_path / "plain.ckpt")
    with zipfile.ZipFile(tmp_path / "plain.ckpt") as plain, zipfile.ZipFile(path, "w") as packed:
        for each in plain.infolist():
            packed.writestr(each.filename, plain.read(each), zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match=r"a compressed zip archive \('.*data\.pkl'\)"):
        open_source(path)


def test_a_safetensors_file_with_a_ckpt_name(tmp_path: Path) -> None:
    write_sparse(tmp_path / "x.ckpt", {"down_blocks.0.weight": (2,)})
    with pytest.raises(CheckpointError, match="a safetensors file with a wrong name; rename it"):
        open_source(tmp_path / "x.ckpt")
