"""The npm packages the pictures come from: pinned versions, fetched once, checked by digest."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .errors import MiniError


@dataclass(frozen=True)
class Package:
    """One npm package at one version, with the sha256 of its tarball."""

    name: str
    version: str
    sha256: str

    @property
    def filename(self) -> str:
        """The name `npm pack` gives the tarball."""
        return f"{self.name.lstrip('@').replace('/', '-')}-{self.version}.tgz"


NOTO = Package(
    "@iconify-json/noto", "1.2.9", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad"
)
NOTO_V1 = Package(
    "@iconify-json/noto-v1", "1.2.5", "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37"
)
FLUENT_FLAT = Package(
    "@iconify-json/fluent-emoji-flat",
    "1.2.6",
    "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
)
FLUENT_GRADIENT = Package(
    "@iconify-json/fluent-emoji", "1.2.7", "8044210dbf11e016d4de85f15d01a243423bd832457e7e2491df1b751c0e272b"
)
FLUENT_3D = Package(
    "@lobehub/fluent-emoji-3d", "1.1.0", "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58"
)
FXEMOJI = Package(
    "@iconify-json/fxemoji", "1.2.2", "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef"
)
EMOJIBASE = Package(
    "emojibase-data", "17.0.0", "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a"
)
PACKAGES = (NOTO, NOTO_V1, FLUENT_FLAT, FLUENT_GRADIENT, FLUENT_3D, FXEMOJI, EMOJIBASE)


def fetch(package: Package, cache: Path) -> Path:
    """Return the tarball of `package` in `cache`, downloading it with npm if it is not there yet.

    Raises MiniError when npm is missing or fails, or when the digest is not the pinned one.
    """
    tarball = cache / package.filename
    if not tarball.exists():
        _npm_pack(package, cache)
    digest = hashlib.sha256(tarball.read_bytes()).hexdigest()
    if digest != package.sha256:
        raise MiniError(
            f"{tarball} has sha256 {digest}, expected {package.sha256} "
            f"({package.name}@{package.version}). Delete the file and fetch again."
        )
    return tarball


def _npm_pack(package: Package, cache: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise MiniError(
            "npm is not on PATH; the emoji sets come as npm packages. Install Node.js (any version with npm)."
        )
    cache.mkdir(parents=True, exist_ok=True)
    partial = cache / f".{package.filename}.partial"
    partial.mkdir(exist_ok=True)
    spec = f"{package.name}@{package.version}"
    done = subprocess.run(
        [npm, "pack", "--silent", "--ignore-scripts", "--pack-destination", str(partial), spec],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise MiniError(f"`npm pack {spec}` failed: {done.stderr.strip() or done.stdout.strip()}")
    (partial / package.filename).replace(cache / package.filename)
    partial.rmdir()


def read_member(tarball: Path, member: str) -> bytes:
    """Return one file of an npm tarball; `member` is its path inside the package.

    Raises MiniError when the package has no such file.
    """
    with tarfile.open(tarball) as archive:
        try:
            handle = archive.extractfile(f"package/{member}")
        except KeyError:
            handle = None
        if handle is None:
            raise MiniError(f"{tarball} holds no file {member}")
        return handle.read()


def iter_members(tarball: Path, suffix: str) -> Iterator[tuple[str, bytes]]:
    """Yield (file name without folder and suffix, bytes) of every file whose name ends in `suffix`."""
    with tarfile.open(tarball) as archive:
        for info in archive:
            handle = archive.extractfile(info) if info.name.endswith(suffix) else None
            if handle is not None:
                yield Path(info.name).name[: -len(suffix)], handle.read()
