"""Opening a SOURCE: a diffusers folder, a single file, a model on the Hub or a registered name."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from linzoo.checkpoints.address import MODEL_SUFFIXES, HubAddress, no_folder_either, on_hub
from linzoo.checkpoints.digest import changed, stamp_of
from linzoo.checkpoints.files import SafetensorsFiles, TensorStore
from linzoo.checkpoints.folder import PIPELINE_CONFIG, open_component, read_configs
from linzoo.checkpoints.header import DTYPES, TensorInfo
from linzoo.checkpoints.layout import Layout, layout_of
from linzoo.errors import CheckpointError

if TYPE_CHECKING:
    from linzoo.registry import Registry


@dataclass(frozen=True)
class Checkpoint:
    """A model on disk, opened: its headers are read, its tensors are not.

    Attributes:
        spec: what the user called it; of a model on the Hub, its address.
        path: the file or folder; of a file that is on the Hub, its place in the Hub's cache.
        layout: how its UNet is named, and whether it is a folder (see :mod:`linzoo.checkpoints.layout`).
        store: where the tensors are read from.
        configs: JSON configs of a folder by component: ``model_index``, ``unet``, ``scheduler``, ``vae``, …
        revision: commit on the Hub that it was fetched at; None for a local model.
    """

    spec: str
    path: Path
    layout: Layout
    store: TensorStore = field(repr=False)
    configs: Mapping[str, dict[str, Any]] = field(default_factory=dict, repr=False)
    revision: str | None = None

    @property
    def address(self) -> HubAddress | None:
        """Where on the Hub it was read, down to the commit; None for a local model."""
        return None if self.revision is None else replace(HubAddress.parse(self.spec), revision=self.revision)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that hold the tensors; of one that is on the Hub, its place in the Hub's cache."""
        return (*self.store.stamps, *self.store.stated)

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """All tensors under the file's own names; of a pipeline folder, those of its UNet."""
        return self.store.tensors

    @property
    def metadata(self) -> Mapping[str, str]:
        """Free-form metadata of the file."""
        return self.store.metadata

    def read_bytes(self, name: str) -> memoryview:
        """Read one tensor's bytes, little-endian and contiguous.

        Raises:
            KeyError: there is no tensor of this name.
            CheckpointError: the file cannot be read or has become shorter.
        """
        return self.store.read_bytes(name)

    def read(self, name: str) -> np.ndarray:
        """Read one tensor as an array of its own dtype (bfloat16 and float8 come from ``ml_dtypes``).

        Raises:
            KeyError, CheckpointError: as :meth:`read_bytes`.
        """
        info = self.tensors[name]
        array: np.ndarray = np.ndarray(info.shape, DTYPES[info.dtype], self.read_bytes(name))
        return array

    def check_unchanged(self) -> None:
        """Check that the files are still those whose headers were read.

        Raises:
            CheckpointError: one was written to, replaced or removed.
        """
        for path, stamp in self.store.stamps.items():
            if stamp_of(path) != stamp:
                raise changed(path)


def open_source(
    spec: str | Path, *, registry: Registry | None = None, fetch_weights: bool = True
) -> Checkpoint:
    """Open a SOURCE; reads headers and configs only.

    Args:
        spec: a diffusers pipeline or UNet folder, a ``.safetensors``, ``.ckpt``, ``.pt``, ``.pth`` or ``.bin``
            file, a model on the Hub (see :meth:`linzoo.checkpoints.address.HubAddress.parse`; ``hf://`` may be left out
            before ``user/repo``), or the name of a model that an installed plugin ships.
        registry: where names are looked up; built when needed.
        fetch_weights: bring the weights of a Hub repository into the cache; else they stay there, and tensors are read
            over the network, unless they are first brought together by ``store.fetch``.

    Raises:
        CheckpointError: there is no such thing, or it is damaged, hostile or incomplete.
    """
    found = find_source(spec, registry)
    if isinstance(found, HubAddress):
        with no_folder_either(spec):
            return _open_on_hub(found, fetch_weights)
    with _readable(spec):
        return _open_path(str(spec), found, None)


def find_source(spec: str | Path, registry: Registry | None = None) -> HubAddress | Path:
    """Tell where a SOURCE is, without opening it or asking the Hub.

    Args:
        spec: as of :func:`open_source`.
        registry: where names are looked up; built when needed.

    Raises:
        CheckpointError: there is no such thing on this machine, and it is not written as one on the Hub is.
    """
    if (address := on_hub(spec)) is not None:
        return address
    path = Path(spec)
    with _readable(spec):
        if path.exists():
            return path
        if path.is_symlink():
            raise CheckpointError(f"{spec}: a link whose target is not there")
    return _registered(str(spec), registry)


@contextlib.contextmanager
def _readable(spec: str | Path) -> Iterator[None]:
    """Name what the system does not let us read: a folder that may not be listed, a name that is too long."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{spec}: cannot be read: {error.strerror or error}") from error


def _registered(name: str, registry: Registry | None) -> Path:
    """The teacher or LinFusion checkpoint that a plugin ships under this name."""
    if registry is None:
        from linzoo.registry import build_registry

        registry = build_registry()
    shipped = {
        each: resource
        for entry in registry.variants
        for local in (entry.value.local_teachers, entry.value.local_linfusion)
        for each, resource in local.items()
    }
    if name in shipped:
        return shipped[name].locate()
    close = difflib.get_close_matches(name, shipped, n=1)
    raise CheckpointError(
        f"{name}: no such file or folder, and no registered name"
        + (
            f"; did you mean '{close[0]}'?"
            if close
            else f" (registered: {', '.join(sorted(shipped)) or 'none'})"
        )
        + "\n  "
        + _on_the_hub(name)
    )


def _on_the_hub(name: str) -> str:
    """How what may be meant is written, if it is on the Hub."""
    with contextlib.suppress(CheckpointError):
        address = HubAddress.parse(name)
        if address.file is not None:
            return f"If it is on the Hugging Face Hub, write {address}."
    return (
        "A model on the Hugging Face Hub is written hf://user/repo, hf://user/repo@revision or"
        " hf://user/repo@revision/model.safetensors."
    )


def _open_on_hub(address: HubAddress, fetch_weights: bool) -> Checkpoint:
    from linzoo.checkpoints import hub

    model = hub.locate(address)
    if not fetch_weights and (found := model.open()):
        return _open_remote(str(model.address), *found, model.commit)
    return _open_path(str(model.address), model.fetch(), model.commit)


def _open_remote(spec: str, path: Path, store: TensorStore, revision: str) -> Checkpoint:
    """A Hub repository of which only the configs are here."""
    if not path.is_dir():
        return Checkpoint(spec, path, layout_of(store.tensors), store, {}, revision)
    configs = read_configs(path)
    layout: Layout = "diffusers-folder" if "model_index" in configs else "diffusers-component"
    return Checkpoint(spec, path, layout, store, configs, revision)


def _open_path(spec: str, path: Path, revision: str | None) -> Checkpoint:
    if path.is_dir():
        return _open_folder(spec, path, revision)
    if not path.is_file():
        raise CheckpointError(f"{path}: neither a file nor a folder")
    suffix = path.suffix.lower()
    if suffix not in MODEL_SUFFIXES:
        raise CheckpointError(
            f"{path}: linzoo reads {', '.join(MODEL_SUFFIXES)} files, not '{path.suffix or path.name}'"
        )
    store: TensorStore
    if suffix == ".safetensors":
        store = SafetensorsFiles({path: None})
    else:
        from linzoo.checkpoints.ckpt import PickledTensors

        store = PickledTensors(path)
    return Checkpoint(spec, path, layout_of(store.tensors), store, {}, revision)


def _open_folder(spec: str, path: Path, revision: str | None) -> Checkpoint:
    configs = read_configs(path)
    if "model_index" not in configs:
        if (path.parent / PIPELINE_CONFIG).is_file():  # a component inside its pipeline
            configs = {**read_configs(path.parent), **configs}
        return Checkpoint(spec, path, "diffusers-component", open_component(path), configs, revision)
    if not (path / "unet").is_dir():
        kind = configs["model_index"].get("_class_name")
        raise CheckpointError(
            f"{path}: a pipeline of class {kind!r} without a 'unet' folder; linzoo converts UNets only"
        )
    return Checkpoint(spec, path, "diffusers-folder", open_component(path / "unet"), configs, revision)
