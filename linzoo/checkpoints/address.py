"""How a model on the Hugging Face Hub is written: ``hf://user/repo``, ``hf://user/repo@revision``, or one file of it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from linzoo.errors import CheckpointError

SCHEME = "hf://"

_REPO = r"(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)"
_NAME = re.compile(rf"{_REPO}(?:@(?P<revision>[\w./-]+))?")
_REVISION = r"(?P<revision>refs/\w+/\w+|[^/@]+)"  # one that a file may follow
_FILE = r"(?P<file>.+\.[a-zA-Z]+)"  # release/1.0 is a branch
_INSIDE = re.compile(rf"{_REPO}(?:@{_REVISION})?/{_FILE}")
_PAGE = re.compile(rf"{_REPO}(?:/(?:tree|blob|resolve)/{_REVISION}(?:/{_FILE})?)?/?")


@dataclass(frozen=True)
class HubAddress:
    """A model repository, and what of it is meant.

    Attributes:
        repo: its id, ``user/name``.
        revision: branch, tag or commit; None for the main branch.
        file: the weights file that is the model, with ``/`` between its folders; None where the repository is.
    """

    repo: str
    revision: str | None = None
    file: str | None = None

    @classmethod
    def parse(cls, text: str) -> HubAddress:
        """Read an address, with or without ``hf://``, or the address of its page on the Hub.

        Raises:
            CheckpointError: it is malformed.
        """
        if (page := _page(text)) is not None:
            return page
        name = text.removeprefix(SCHEME)
        match = _INSIDE.fullmatch(name) or _NAME.fullmatch(name)
        if match is None:
            raise CheckpointError(
                f"{text}: not of the form {SCHEME}user/repo, {SCHEME}user/repo@revision or"
                f" {SCHEME}user/repo@revision/model.safetensors"
            )
        return cls(**match.groupdict())

    def whole(self) -> HubAddress:
        """The address itself, where a whole repository is meant.

        Raises:
            CheckpointError: it is that of a file.
        """
        if self.file is not None:
            raise CheckpointError(f"{self}: one file, where a whole repository is meant")
        return self

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"{SCHEME}{self.repo}{revision}" + (f"/{self.file}" if self.file else "")


def on_hub(text: str | Path) -> HubAddress | None:
    """The address that a SOURCE or CHECKPOINT names; None for what is on this machine.

    ``hf://`` may be left out before a whole repository, as long as there is no such file or folder.

    Raises:
        CheckpointError: it begins with ``hf://`` or as a page on the Hub does, and is malformed.
    """
    if not isinstance(text, str):
        return None
    if _says_so(text) or (_NAME.fullmatch(text) and not _is_here(text)):
        return HubAddress.parse(text)
    return None


def name_of(text: str | Path) -> str:
    """What is named after a SOURCE or CHECKPOINT is called so: after the repository, or the file or folder."""
    address = on_hub(text)
    return Path(text).resolve().name if address is None else address.repo.rpartition("/")[2]


@contextlib.contextmanager
def no_folder_either(text: str | Path) -> Iterator[None]:
    """Let errors of the Hub say that there is no such folder too, where a name leaves out ``hf://`` and may mean one.

    Raises:
        CheckpointError: what the block raises, with that.
    """
    try:
        yield
    except CheckpointError as error:
        if _says_so(str(text)) or on_hub(text) is None:
            raise
        raise CheckpointError(f"{error}\n  Nor is there a file or folder {text} on this machine.") from error


def _is_here(text: str) -> bool:
    with contextlib.suppress(OSError):  # a name that no file can have
        return Path(text).exists()
    return False


def _says_so(text: str) -> bool:
    return text.startswith((SCHEME, "https://", "http://"))


def _page(text: str) -> HubAddress | None:
    """The model whose page in the browser this is; None for what is no web address.

    Raises:
        CheckpointError: it is a page of something else.
    """
    if not text.startswith(("https://", "http://")):
        return None
    from huggingface_hub import constants

    match = None
    with contextlib.suppress(ValueError):
        parts = urlsplit(text)
        if parts.netloc in {"huggingface.co", "hf.co", urlsplit(constants.ENDPOINT).netloc}:
            match = _PAGE.fullmatch(unquote(parts.path).removeprefix("/"))
    if match is None:
        raise CheckpointError(
            f"{text}: not the page of a model on the Hugging Face Hub, or of a weights file in one; download the file and"
            " name that"
        )
    return HubAddress(**match.groupdict())
