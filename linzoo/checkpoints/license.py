"""A licence as the metadata of a model card declares it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

OTHER = "other"
"""The Hub's word for a licence that is not on its list; name or link say which."""

UNKNOWN = "unknown"
"""The Hub's word for not knowing."""


@dataclass(frozen=True)
class License:
    """A licence as a model card declares it.

    Attributes:
        id: of the Hub's list, ``"other"`` for one that is not on it.
        name: of a licence that is not on the list; None else.
        link: where its text is; None where the card has none.
        origin: where that is known from, in a sentence.
    """

    id: str
    name: str | None
    link: str | None
    origin: str

    @property
    def identity(self) -> tuple[str, str | None]:
        """What makes two licences the same one."""
        return self.id, self.name or (self.link if self.id == OTHER else None)

    def __str__(self) -> str:
        return f"{self.id} ({self.identity[1]})" if self.identity[1] else self.id


def license_in(card: Mapping[str, Any], origin: str) -> License | None:
    """The licence that the metadata of a model card declares; None where it does not say which.

    Args:
        card: the metadata.
        origin: for :attr:`License.origin`.
    """
    declared = card.get("license")
    if isinstance(declared, list):  # the Hub takes lists of one
        declared = declared[0] if len(declared) == 1 else None
    if not isinstance(declared, str) or not declared or declared.lower() == UNKNOWN:
        return None
    name, link = card.get("license_name"), card.get("license_link")
    if declared.lower() == OTHER and not name and not link:
        return None
    return License(declared.lower(), str(name) if name else None, str(link) if link else None, origin)
