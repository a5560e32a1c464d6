"""Weights in one file, or in shards with an index where they are larger than a file should be."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from linzoo.checkpoints.lock import encode_json
from linzoo.checkpoints.writer import Data, SafetensorsWriter, TensorSpec, file_order, write_file


def write_weights(
    path: Path, specs: Iterable[TensorSpec], read: Callable[[str], Data], max_shard_bytes: int
) -> list[Path]:
    """Write tensors one at a time, under the names that diffusers and the Hub look for.

    Args:
        path: the file, where one is enough; else shards and their index lie beside it, and no file of that name.
        specs: the tensors.
        read: gives the numbers of a tensor by its name.
        max_shard_bytes: of tensors in a file; a tensor that is larger has a file of its own.

    Returns:
        What was written, the index last.

    Raises:
        OSError: the disk refuses.
    """
    shards = _grouped(file_order(specs), max_shard_bytes)
    if len(shards) == 1:
        return [_write(path, shards[0], read)]
    written = []
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"{path.stem}-{number:05}-of-{len(shards):05}{path.suffix}"
        written.append(_write(path.with_name(name), shard, read))
        weight_map |= dict.fromkeys((spec.name for spec in shard), name)
    index = path.with_name(f"{path.name}.index.json")
    total = sum(spec.nbytes for shard in shards for spec in shard)
    write_file(index, encode_json({"metadata": {"total_size": total}, "weight_map": weight_map}))
    return [*written, index]


def _write(path: Path, specs: list[TensorSpec], read: Callable[[str], Data]) -> Path:
    with SafetensorsWriter(path, specs, {"format": "pt"}) as writer:
        for spec in writer.order:
            writer.write(spec.name, read(spec.name))
    return path


def _grouped(specs: list[TensorSpec], most: int) -> list[list[TensorSpec]]:
    """Fill one shard after the other."""
    shards: list[list[TensorSpec]] = []
    filled = 0
    for spec in specs:
        if not shards or filled + spec.nbytes > most:
            shards.append([])
            filled = 0
        shards[-1].append(spec)
        filled += spec.nbytes
    return shards
