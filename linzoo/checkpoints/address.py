"""How a repository on the Hugging Face Hub is written: ``hf://user/repo``, ``hf://user/repo@revision``."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
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


@contextlib.contextmanager
def no_folder_either(text: str | Path) -> Iterator[None]:
    """Let errors of the Hub say that there is no such folder too, where a CHECKPOINT leaves out ``hf://`` and may mean one.

    Raises:
        CheckpointError: what the block raises, with that.
    """
    try:
        yield
    except CheckpointError as error:
        if str(text).startswith(SCHEME) or on_hub(text) is None:
            raise
        raise CheckpointError(f"{error}\n  Nor is there a file or folder {text} on this machine.") from error
