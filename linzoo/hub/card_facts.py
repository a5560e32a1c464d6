"""What a model card is written from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from linzoo.checkpoints.license import License
    from linzoo.checkpoints.linfusion import LinFusionConfig
    from linzoo.plugin import Variant


@dataclass(frozen=True)
class CardFacts:
    """All that a model card tells; nothing in it is looked up anywhere else.

    Attributes:
        repo: the Hub id of the repository, ``user/name``.
        format: ``adapter`` for the linear modules alone, ``pipeline`` for all that drawing needs.
        lock: what ``linzoo.lock.json`` holds.
        config: the replaced modules.
        variant: the variant of the teacher.
        base_model: the Hub id of the teacher; None where it is not on the Hub, or known by its hashes alone.
        earlier_base: the base model that an earlier push to the repository named; None where there was no such push, or it named
            none.
        base_commit: the commit of it that the checkpoint was made from; None where that is unknown.
        teacher: how a reader names the teacher.
        license: under which the checkpoint is published.
        report: what ``report.json`` of a validation holds; None where there was none.
        pictures: paths in the repository, of those that :func:`linzoo.hub.card_pictures.card_pictures` names.
        checkpoint: the folder with the LinFusion checkpoint.
    """

    repo: str
    format: Literal["adapter", "pipeline"]
    lock: Mapping[str, Any]
    config: LinFusionConfig
    variant: Variant
    base_model: str | None
    earlier_base: str | None
    base_commit: str | None
    teacher: str
    license: License
    report: Mapping[str, Any] | None
    pictures: tuple[str, ...]
    checkpoint: Path

    @property
    def name(self) -> str:
        """The repository's name without its owner's."""
        return self.repo.rpartition("/")[2]

    @property
    def mixers(self) -> tuple[str, ...]:
        """Ids of the mixers that stand in the replaced modules' place, each once."""
        return tuple(sorted({module.mixer for module in self.config.modules}))
