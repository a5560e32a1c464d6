"""Which files go to large file storage: by the repository's ``.gitattributes``, by size, and binary ones."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

from linzoo.testing.fake_hub.contents import StoredFile
from linzoo.testing.fake_hub.repository import Tree
from linzoo.testing.fake_hub.storage import Storage

NAME = ".gitattributes"
REGULAR_MAX = 10 * 1024 * 1024
"""Bytes of the largest file that the Hub keeps in git itself."""

_LARGE = [
    "*.7z",
    "*.arrow",
    "*.bin",
    "*.bz2",
    "*.ckpt",
    "*.ftz",
    "*.gz",
    "*.h5",
    "*.joblib",
    "*.lfs.*",
    "*.mlmodel",
    "*.model",
    "*.msgpack",
    "*.npy",
    "*.npz",
    "*.onnx",
    "*.ot",
    "*.parquet",
    "*.pb",
    "*.pickle",
    "*.pkl",
    "*.pt",
    "*.pth",
    "*.rar",
    "*.safetensors",
    "saved_model/**/*",
    "*.tar.*",
    "*.tar",
    "*.tflite",
    "*.tgz",
    "*.wasm",
    "*.xz",
    "*.zip",
    "*.zst",
    "*tfevents*",
]
_LARGE_IN_DATASETS = [
    "*.lz4",
    "*.mds",
    "*.pcm",
    "*.sam",
    "*.raw",
    "*.aac",
    "*.flac",
    "*.mp3",
    "*.ogg",
    "*.wav",
    "*.bmp",
    "*.gif",
    "*.png",
    "*.tiff",
    "*.jpg",
    "*.jpeg",
    "*.webp",
    "*.mp4",
    "*.webm",
]
_FILTER = "filter=lfs diff=lfs merge=lfs -text"
_SPACE = "[[:space:]]"


def default_attributes(kind: str) -> bytes:
    """The ``.gitattributes`` that a new repository gets; datasets have media in large file storage too."""
    patterns = _LARGE + (_LARGE_IN_DATASETS if kind == "dataset" else [])
    return "".join(f"{pattern} {_FILTER}\n" for pattern in patterns).encode()


def _is_tracked(attributes: bytes, path: str) -> bool:
    """Whether ``.gitattributes`` sends a file to large file storage."""
    name = path.rpartition("/")[2]
    return any(fnmatchcase(path if "/" in pattern else name, pattern) for pattern in _patterns(attributes))


def _patterns(attributes: bytes) -> Iterator[str]:
    for line in attributes.decode(errors="replace").splitlines():
        pattern, _, rest = line.partition(" ")
        if "filter=lfs" in rest:
            yield pattern.replace(_SPACE, " ").replace("**/", "")


def goes_to_lfs(attributes: bytes, path: str, size: int, sample: bytes) -> bool:
    """Whether a file that is about to be uploaded must go to large file storage.

    Args:
        attributes: of the revision that it goes to.
        path: in the repository.
        size: bytes.
        sample: its first bytes; a zero byte among them makes it binary.
    """
    return size > 0 and (_is_tracked(attributes, path) or size > REGULAR_MAX or b"\0" in sample)


def attributes_of(storage: Storage, tree: Tree) -> bytes:
    """The ``.gitattributes`` of a commit; empty where it was deleted."""
    return storage.read(tree[NAME]) if NAME in tree else b""


def track(storage: Storage, tree: dict[str, StoredFile], path: str) -> None:
    """Have ``.gitattributes`` name a file of large file storage, as the Hub does by itself."""
    attributes = attributes_of(storage, tree)
    if not _is_tracked(attributes, path):
        line = f"{path.replace(' ', _SPACE)} {_FILTER}\n"
        tree[NAME] = storage.add(attributes + line.encode(), lfs=False)
