"""How a repository on the Hugging Face Hub is written: ``hf://user/repo``, ``hf://user/repo@revision``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from linzoo.errors import CheckpointError

SCHEME = "hf://"

_NAME = re.compile(r"([\w-][\w.-]*/[\w-][\w.-]*)(?:@([\w./-]+))?")


@dataclass(frozen=True)
class HubAddress:
    """A model repository, and a branch, tag or commit of it.

    Attributes:
        repo: its id, ``user/name``.
        revision: branch, tag or commit; None for the main branch.
    """

    repo: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> HubAddress:
        """Read an address, with or without ``hf://``.

        Raises:
            CheckpointError: it is malformed.
        """
        match = _NAME.fullmatch(text.removeprefix(SCHEME))
        if match is None:
            raise CheckpointError(f"{text}: not of the form hf://user/repo or hf://user/repo@revision")
        return cls(match[1], match[2])

    def __str__(self) -> str:
        return f"{SCHEME}{self.repo}" + (f"@{self.revision}" if self.revision else "")


def on_hub(text: str | Path) -> HubAddress | None:
    """The address that a CHECKPOINT names, which may leave out ``hf://``; None for what is on this machine.

    Raises:
        CheckpointError: it begins with ``hf://`` and is malformed.
    """
    if not isinstance(text, str):
        return None
    if text.startswith(SCHEME):
        return HubAddress.parse(text)
    if _NAME.fullmatch(text) and not Path(text).exists():
        return HubAddress.parse(text)
    return None
