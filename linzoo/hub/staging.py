"""What a push puts into a repository, laid out on this machine first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from linzoo.checkpoints.atomic import explain_os_errors, require_space
from linzoo.checkpoints.digest import digest
from linzoo.checkpoints.linfusion import CONFIG_NAME, WEIGHTS_NAME
from linzoo.checkpoints.lock import LOCK_NAME, describe_files, encode_json
from linzoo.checkpoints.shards import write_weights
from linzoo.checkpoints.source import Checkpoint
from linzoo.checkpoints.writer import TensorSpec
from linzoo.hub.target import CARD_NAME


@dataclass(frozen=True)
class Staged:
    """The files of a push.

    Attributes:
        files: where each lies on this machine, by its path in the repository.
    """

    files: Mapping[str, Path]

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each file."""
        return {name: path.stat().st_size for name, path in self.files.items()}

    def with_lock(self, lock: Mapping[str, Any], folder: Path) -> Staged:
        """Add the lock file, which names every other file with its hash."""
        outputs = {name: digest(path) for name, path in self.files.items()}
        document = {**lock, "outputs": describe_files(outputs)}
        return self._with(LOCK_NAME, encode_json(document), folder)

    def with_card(self, card: str, folder: Path) -> Staged:
        """Add the model card."""
        return self._with(CARD_NAME, card.encode(), folder)

    def _with(self, name: str, content: bytes, folder: Path) -> Staged:
        path = folder / name
        with explain_os_errors(path):
            path.write_bytes(content)
        return Staged({**self.files, name: path})


def stage_adapter(checkpoint: Checkpoint, folder: Path, max_shard_bytes: int) -> dict[str, Path]:
    """The config and the weights of a LinFusion checkpoint, in shards where the weights are larger than one.

    Args:
        checkpoint: the LinFusion checkpoint; its files are used where they lie.
        folder: for the shards.
        max_shard_bytes: of tensors in a file.

    Raises:
        CheckpointError: there is no room for the shards.
    """
    files = {CONFIG_NAME: checkpoint.path / CONFIG_NAME}
    nbytes = sum(info.nbytes for info in checkpoint.tensors.values())
    if nbytes <= max_shard_bytes and len(checkpoint.files) == 1:
        return {**files, WEIGHTS_NAME: checkpoint.files[0]}
    require_space(folder, nbytes)
    specs = [TensorSpec(info.name, info.dtype, info.shape) for info in checkpoint.tensors.values()]
    with explain_os_errors(folder):
        written = write_weights(folder / WEIGHTS_NAME, specs, checkpoint.read_bytes, max_shard_bytes)
    return files | {path.name: path for path in written}
