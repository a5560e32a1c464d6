"""One LinFusion checkpoint as an index lists it."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from linzoo.checkpoints.address import HubAddress
from linzoo.plugin import FrozenMap, thaw
from linzoo.plugin.spec import (
    ID,
    Spec,
    SpecError,
    check_filled,
    check_id,
    check_positive,
    check_reference,
    shown,
)

KD = "kd"
"""The measure of a validation."""

DISTILLATION_KD = "distillation-kd"
"""The same of a distillation's own held-out samples."""

_MODEL = re.compile(rf"[\w-][\w.-]*/[\w-][\w.-]*|{ID.pattern}", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_BASE_HASH = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ZooEntry(Spec):
    """A LinFusion checkpoint on the Hub, or of an installed plugin. None stands for what is not known.

    Attributes:
        repo: its Hub id, ``user/name``; of one that a plugin ships, its name.
        commit: the commit that the rest was read at. The built-in index alone names repositories without one.
        format: ``adapter`` is the replaced modules alone, ``pipeline`` a whole pipeline with them in it.
        variant: id of the variant that it was made for.
        base: Hub id of the model that it was made for; of one that a plugin ships, its name.
        base_commit: the commit of that model.
        base_hash: which weights that model has, see :mod:`linzoo.checkpoints.base_hash`.
        mixers: ids of the mixers in it.
        plan: id of the attention plan.
        recipe: id of the distill recipe; None also where it is not distilled.
        license: id of its licence, or the name of one that is not on the Hub's list.
        bytes: of its weights.
        measures: what it was measured to have, by name of the measure.
    """

    repo: str
    commit: str | None
    format: Literal["adapter", "pipeline"] = "adapter"
    variant: str
    base: str | None = None
    base_commit: str | None = None
    base_hash: str | None = None
    mixers: tuple[str, ...]
    plan: str | None = None
    recipe: str | None = None
    license: str | None = None
    bytes: int | None = None
    measures: Mapping[str, float] = field(default_factory=FrozenMap)

    def __post_init__(self) -> None:
        Spec.__post_init__(self)
        for name in ("repo", "base"):
            _check_form(
                name, getattr(self, name), _MODEL, "of the form user/name, or a name that a plugin gives"
            )
        for name in ("commit", "base_commit"):
            _check_form(name, getattr(self, name), _COMMIT, "the 40 digits of a commit")
        _check_form("base_hash", self.base_hash, _BASE_HASH, "16 hexadecimal digits")
        if self.license is not None and not _is_name(self.license):
            raise SpecError(
                f"ZooEntry.license must be the id or name of a licence, got {shown(self.license)}"
            )
        check_filled("ZooEntry.mixers", self.mixers)
        check_reference("ZooEntry.mixers", *self.mixers)
        for name in ("variant", "plan", "recipe"):
            check_reference(f"ZooEntry.{name}", getattr(self, name))
        check_positive("ZooEntry.bytes", self.bytes)
        for name, value in self.measures.items():
            check_id("ZooEntry.measures", name)
            if not abs(value) <= sys.float_info.max:  # nor is NaN
                raise SpecError(f"ZooEntry.measures[{name!r}] must be a finite number, got {value}")

    @property
    def checkpoint(self) -> str:
        """What ``linzoo.load`` calls it, down to the commit."""
        return str(HubAddress(self.repo, self.commit)) if "/" in self.repo else self.repo

    @property
    def closeness(self) -> tuple[int, float]:
        """Sorts by how far predictions are from the teacher's: by KD as validated, else as its distillation measured it.

        The two are of other samples at other timesteps, and are not compared with one another.
        """
        for rank, name in enumerate((KD, DISTILLATION_KD)):
            if name in self.measures:
                return rank, self.measures[name]
        return 2, 0.0

    @property
    def kd_in_words(self) -> str:
        """Its KD, and what measured it."""
        if KD in self.measures:
            return f"{self.measures[KD]:.4g}"
        if DISTILLATION_KD in self.measures:
            return f"{self.measures[DISTILLATION_KD]:.4g} in its distillation"
        return "not measured"

    def to_json(self) -> dict[str, Any]:
        """Plain data for an index."""
        document: dict[str, Any] = thaw(self)
        return document


def parse_entry(document: Any, where: str) -> ZooEntry:
    """Read an entry of an index; every field is there, and no other.

    Args:
        document: the parsed JSON.
        where: how errors name it.

    Raises:
        SpecError: it is malformed; the message says where.
    """
    if not isinstance(document, dict):
        raise SpecError(f"{where} must be an object, got {shown(document)}")
    known = [each.name for each in fields(ZooEntry)]
    if missing := [name for name in known if name not in document]:
        raise SpecError(f"{where} lacks '{missing[0]}' (null where it is not known)")
    if unknown := sorted(document.keys() - set(known)):
        raise SpecError(f"{where} has '{unknown[0]}', which no entry has; entries have {', '.join(known)}")
    try:
        entry = ZooEntry(**document)
    except SpecError as error:
        raise SpecError(f"{where}: {str(error).removeprefix('ZooEntry.')}") from None
    if entry.commit is None or "/" not in entry.repo:
        raise SpecError(
            f"{where} names no commit of a repository on the Hub; an index pins every checkpoint to one"
        )
    return entry


def _is_name(text: str) -> bool:
    return bool(text) and text.isprintable() and text == text.strip()


def _check_form(name: str, value: str | None, form: re.Pattern[str], words: str) -> None:
    if value is not None and not form.fullmatch(value):
        raise SpecError(f"ZooEntry.{name} must be {words}, got {shown(value)}")
