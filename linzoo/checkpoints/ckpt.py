"""Torch checkpoints (``.ckpt``, ``.pt``, ``.pth``, ``.bin``): pickles, so read through ``weights_only`` and nothing else."""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linzoo.checkpoints.digest import stamp_of
from linzoo.checkpoints.files import TensorStore
from linzoo.checkpoints.header import DTYPES, TensorInfo
from linzoo.errors import CheckpointError

if TYPE_CHECKING:
    import torch

_HARMLESS = (
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "lightning.pytorch.callbacks.model_checkpoint.ModelCheckpoint",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "numpy.dtypes.Float64DType",
    "numpy.dtypes.Float32DType",
    "numpy.dtypes.Int64DType",
    "_codecs.encode",
)
"""What training scripts leave beside the weights; each is replaced by :class:`_Ignored`, so none of it ever runs."""

_MOST_NESTED = 4
"""How deep a ``state_dict`` may lie; a dict that holds itself has no bottom."""

_UNSUPPORTED = re.compile(r"nsupported (?:global: )?GLOBAL ([\w.]+)")
"""How torch names, one at a time, what an older file wants beyond tensors."""

_TORCH_CODES = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
    "int16": "I16", "float16": "F16", "bfloat16": "BF16", "int32": "I32", "float32": "F32", "int64": "I64",
    "float64": "F64", "complex64": "C64",
}  # fmt: skip


class _Ignored:
    """Stands for an object of the training script that the weights do not need."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


class PickledTensors(TensorStore):
    """The tensors of a torch checkpoint; a zip file is mapped into memory, an older file is read whole.

    Only torch's restricted unpickler is used: it makes tensors and plain containers, and runs nothing else.

    Raises:
        CheckpointError: the file is damaged, holds no tensors, or needs anything beyond that; the message lists what.
    """

    def __init__(self, path: Path) -> None:
        self.stamps = {path: stamp_of(path)}
        contents = _load(path)
        self.metadata: dict[str, str] = {}
        self._torch: dict[str, torch.Tensor] = {}
        for _ in range(_MOST_NESTED):
            if not isinstance(contents, Mapping) or not isinstance(contents.get("state_dict"), Mapping):
                break
            step = contents.get("global_step")
            if isinstance(step, int):
                self.metadata["global_step"] = str(step)
            contents = contents["state_dict"]
        if not isinstance(contents, Mapping):
            raise CheckpointError(f"{path}: holds a {type(contents).__name__} and not a dict of tensors")
        self.tensors = self._collect(contents, path)

    def _collect(self, contents: Mapping[Any, Any], path: Path) -> dict[str, TensorInfo]:
        import torch

        infos = {}
        for name, value in contents.items():
            if not isinstance(name, str) or not isinstance(value, torch.Tensor):
                continue
            if not name.isprintable():
                raise CheckpointError(
                    f"{path}: the name {name!r} has control characters; the file is damaged"
                )
            code = _TORCH_CODES.get(str(value.dtype).removeprefix("torch."))
            if code is None or value.layout is not torch.strided:
                raise CheckpointError(
                    f"{path}: tensor '{name}' is {value.dtype}, {value.layout}, which linzoo does not read"
                )
            self._torch[name] = value.detach()
            nbytes = value.numel() * DTYPES[code].itemsize
            infos[name] = TensorInfo(name, code, tuple(value.shape), 0, nbytes)
        if not infos:
            raise CheckpointError(f"{path}: holds no tensors")
        return infos

    def read_bytes(self, name: str) -> memoryview:
        """Return the bytes of one tensor."""
        import torch

        return self._torch[name].contiguous().reshape(-1).view(torch.uint8).clone().numpy().data


def _load(path: Path) -> Any:
    import pickle

    import torch

    is_zip = zipfile.is_zipfile(path)
    if is_zip:
        _check_uncompressed(path)
    elif _is_safetensors(path):
        raise CheckpointError(f"{path}: a safetensors file with a wrong name; rename it to .safetensors")
    allowed: list[Any] = [(_Ignored, name) for name in _HARMLESS]
    try:
        if is_zip and (unsafe := _unsafe_globals(path)):
            raise CheckpointError(_refusal(path, ", ".join(unsafe)))
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols that torch did not write
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        if offending := _UNSUPPORTED.search(str(error)):
            raise CheckpointError(_refusal(path, offending[1])) from error
        raise CheckpointError(_damaged(path, error)) from error
    except CheckpointError:
        raise
    except Exception as error:  # torch's unpickler meets damage with whatever it trips over
        raise CheckpointError(_damaged(path, error)) from error


def _check_uncompressed(path: Path) -> None:
    """Torch stores what it writes as it is, so that no file unpacks to more than its own size."""
    try:
        with zipfile.ZipFile(path) as archive:
            packed = [
                each.filename for each in archive.infolist() if each.compress_type != zipfile.ZIP_STORED
            ]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise CheckpointError(_damaged(path, error)) from error
    if packed:
        raise CheckpointError(
            f"{path}: a compressed zip archive ({packed[0]!r}), which torch does not write; unpack it first, and name"
            " the checkpoint in it"
        )


def _is_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(9)
        size = file.seek(0, 2)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") <= size - 8


def _refusal(path: Path, wanted: str) -> str:
    return (
        f"{path}: a pickle that wants more than tensors: {wanted}.\n"
        "  linzoo does not run code from a checkpoint. Get the .safetensors file of this model, or convert it to"
        " one on a machine that you can throw away."
    )


def _damaged(path: Path, error: Exception) -> str:
    text = " ".join(str(error).split())
    what = f"{type(error).__name__}: {text if len(text) <= 200 else text[:197] + '...'}"
    return f"{path}: no readable torch checkpoint ({what}); download it again"


def _unsafe_globals(path: Path) -> list[str]:
    """What a zip checkpoint refers to beyond tensors and the harmless names; found without running any of it."""
    import torch

    found = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    return sorted(set(found) - set(_HARMLESS))
