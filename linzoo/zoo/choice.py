"""Choosing weights for a UNet in memory: what ``linzoo.load(pipe, "auto")`` mounts, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linzoo.errors import UndecidedError
from linzoo.zoo.builtin import BUILT_IN
from linzoo.zoo.entry import ZooEntry
from linzoo.zoo.errors import ZooError
from linzoo.zoo.listing import VARIABLE, Listed, list_checkpoints, named_indexes
from linzoo.zoo.live import LiveUNet, look_at

if TYPE_CHECKING:
    from torch import nn

    from linzoo.registry import Registry

AUTO = "auto"
"""What stands for the weights that fit best."""

_OTHERS = "but these weights are others (of another commit, or a LoRA is fused)"


class Kinship(IntEnum):
    """What the model that weights were made for is to a UNet; the closest first."""

    SAME_WEIGHTS = 0
    SAME_NAME = 1
    SAME_VARIANT = 2


@dataclass(frozen=True)
class Choice:
    """A checkpoint that was chosen.

    Attributes:
        entry: the checkpoint.
        why: in a sentence.
        doubtful: it was made for other weights than the UNet's, or for a model of another name.
    """

    entry: ZooEntry
    why: str
    doubtful: bool


def choose(pipe: Any, unet: nn.Module, index: str | Path | None, registry: Registry) -> Choice:
    """Choose a checkpoint for a UNet: of the closest base, and of these the one with the lowest measured KD.

    Nothing is fetched but indexes.

    Args:
        pipe: the pipeline that the UNet is part of, or the UNet itself.
        unet: the UNet.
        index: an index to look in before the built-in one; None for those that ``LINZOO_ZOO`` names.
        registry: the variants and mixers to know.

    Raises:
        ZooError: the UNet is of no one variant, or nothing is known that would do.
        UndecidedError: several checkpoints would do as well; the message lists them.
        CheckpointError: an index cannot be read.
    """
    live = look_at(pipe, unet, registry)
    indexes = named_indexes([] if index is None else [index])
    usable = [each for each in list_checkpoints(indexes, registry) if _is_usable(each.entry, live, registry)]
    if not usable:
        raise ZooError(
            f"no LinFusion checkpoint is known for variant '{live.variants[0]}' (looked in: "
            f"{', '.join([*indexes, BUILT_IN])}); make one with 'linzoo convert', or name an index that has one"
            f" (index=…, or {VARIABLE})"
        )
    return _best(usable, live)


def _is_usable(entry: ZooEntry, live: LiveUNet, registry: Registry) -> bool:
    known = {name for each in registry.mixers for name in (each.value.id, each.full_id)}
    return entry.format == "adapter" and entry.variant in live.variants and known.issuperset(entry.mixers)


def _best(usable: Sequence[Listed], live: LiveUNet) -> Choice:
    rank = min(_rank(each.entry, live) for each in usable)
    closest = [each for each in usable if _rank(each.entry, live) == rank]
    lowest = min(each.entry.closeness for each in closest)
    best = [each for each in closest if each.entry.closeness == lowest]
    if len(best) > 1:
        lines = (
            f"  {each.entry.checkpoint}: for {_base(each.entry)}, kd {each.entry.kd_in_words}"
            for each in best
        )
        raise UndecidedError(
            "\n".join(["several LinFusion checkpoints would do as well:", *lines, "name one of them"])
        )
    (chosen,) = best
    why = (
        f"{chosen.entry.checkpoint} ({chosen.index}): {_relation(chosen.entry, live)}; kd {chosen.entry.kd_in_words}"
        f"{_among(chosen.entry, closest)}"
    )
    sure = Kinship.SAME_NAME if _unknown(chosen.entry, live) else Kinship.SAME_WEIGHTS
    return Choice(chosen.entry, why, doubtful=rank[0] > sure)


def _among(chosen: ZooEntry, closest: Sequence[Listed]) -> str:
    """What its KD is among those that it can be compared with."""
    measured = chosen.closeness[0]
    count = sum(each.entry.closeness[0] == measured for each in closest)
    if count > 1:
        return f", the lowest of {count}"
    who = "a distillation" if measured else "a validation"
    return f", the only one that {who} measured" if len(closest) > 1 else ""


def _rank(entry: ZooEntry, live: LiveUNet) -> tuple[Kinship, int]:
    return _kinship(entry, live), live.variants.index(entry.variant)


def _kinship(entry: ZooEntry, live: LiveUNet) -> Kinship:
    if entry.base_hash is not None and entry.base_hash == live.base_hash:
        return Kinship.SAME_WEIGHTS
    if entry.base is not None and entry.base == live.repo:
        return Kinship.SAME_NAME
    return Kinship.SAME_VARIANT


def _relation(entry: ZooEntry, live: LiveUNet) -> str:
    kinship, unknown = _kinship(entry, live), _unknown(entry, live)
    if kinship == Kinship.SAME_WEIGHTS:
        return f"made for exactly these weights (base hash {entry.base_hash})"
    if kinship == Kinship.SAME_NAME:
        same = f"whether for these weights cannot be told, since {unknown}" if unknown else _OTHERS
        return f"made for {entry.base}, which this UNet was loaded from, {same}"
    if unknown:
        return f"made for {_base(entry)} ({entry.variant}); whether for these weights cannot be told, since {unknown}"
    return f"made for another model of variant {entry.variant}, {_base(entry)}"


def _unknown(entry: ZooEntry, live: LiveUNet) -> str:
    """Why base hashes do not tell whether the weights are the same; empty where they tell."""
    if entry.base_hash is None:
        return "the index has no base hash of it"
    if live.base_hash is None:
        return "the UNet's weights are quantised or not in memory"
    return "" if live.exact else "the UNet's weights are bfloat16"


def _base(entry: ZooEntry) -> str:
    return entry.base or "an unnamed model"
