"""How a model on the Hugging Face Hub is written: ``hf://user/repo``, ``hf://user/repo@revision``, or one file of it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from linzoo.errors import CheckpointError

SCHEME = "hf://"
_WEB = ("https://", "http://")

MODEL_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
"""How single files end that linzoo reads."""

_REPO = r"(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)"
_NAME = re.compile(rf"{_REPO}(?:@(?P<revision>[\w.%~-]+(?:/[\w.%~-]+)*))?")
_PULL_REQUEST = r"refs/\w+/\w+"
_REVISION = rf"(?P<revision>{_PULL_REQUEST}|[^/@]+)"  # before a file its slashes are quoted
_FILE = rf"(?P<file>.+(?i:{'|'.join(map(re.escape, MODEL_SUFFIXES))}))"
_INSIDE = re.compile(rf"{_REPO}(?:@{_REVISION})?/{_FILE}")
_PAGE = re.compile(rf"/{_REPO}(?:/(?:tree|blob|resolve)/{_REVISION}(?:/{_FILE})?)?/?")


@dataclass(frozen=True)
class HubAddress:
    """A model repository, and what of it is meant.

    Attributes:
        repo: its id, ``user/name``.
        revision: branch, tag or commit; None for the main branch.
        file: the single file that is the model, with ``/`` between its folders; None where the repository is.
    """

    repo: str
    revision: str | None = None
    file: str | None = None

    @classmethod
    def parse(cls, text: str) -> HubAddress:
        """Read an address, with or without ``hf://``, or that of a repository's or file's page on the Hub's web site.

        Raises:
            CheckpointError: it is malformed.
        """
        if text.startswith(_WEB):
            return _of_page(text)
        name = text.removeprefix(SCHEME)
        match = _INSIDE.fullmatch(name) or _NAME.fullmatch(name)
        if match is None:
            raise CheckpointError(
                f"{text}: not of the form {SCHEME}user/repo, {SCHEME}user/repo@revision or"
                f" {SCHEME}user/repo@revision/model.safetensors (files: {', '.join(MODEL_SUFFIXES)})"
            )
        found = match.groupdict()
        revision = found["revision"]
        return cls(found["repo"], revision and unquote(revision), found.get("file"))

    @property
    def repository(self) -> HubAddress:
        """The repository at that revision, whatever of it is meant."""
        return HubAddress(self.repo, self.revision)

    def whole(self) -> HubAddress:
        """The address itself, where a whole repository is meant.

        Raises:
            CheckpointError: it is that of a file.
        """
        if self.file is not None:
            raise CheckpointError(
                f"{self}: one file, where a whole repository is meant; name {self.repository}"
            )
        return self

    def __str__(self) -> str:
        revision, file = self.revision or "", self.file
        plain = file is None or re.fullmatch(_PULL_REQUEST, revision)
        revision = quote(revision, safe="/" if plain else "")
        return SCHEME + self.repo + (f"@{revision}" if revision else "") + (f"/{file}" if file else "")


def is_address(text: str) -> bool:
    """Whether a text is by its beginning an address, well-formed or not, and nothing on this machine."""
    return text.startswith((SCHEME, *_WEB))


def on_hub(text: str | Path) -> HubAddress | None:
    """The address that a SOURCE or CHECKPOINT names; None for what is on this machine.

    ``hf://`` may be left out before a repository, as long as there is no such file or folder; ``folder/model.safetensors`` is
    a file.

    Raises:
        CheckpointError: it begins with ``hf://`` or as a web address does, and is malformed.
    """
    if not isinstance(text, str):
        return None
    bare = _NAME.fullmatch(text) and not text.lower().endswith(MODEL_SUFFIXES) and not _is_here(text)
    return HubAddress.parse(text) if bare or is_address(text) else None


def name_of(text: str | Path) -> str:
    """The name for what is made from a SOURCE or CHECKPOINT: that of the repository, file or folder."""
    address = on_hub(text)
    return Path(text).resolve().name if address is None else address.repo.rpartition("/")[2]


@contextlib.contextmanager
def no_folder_either(text: str | Path) -> Iterator[None]:
    """Let the Hub's "no" say that there is no such folder too, where a name leaves out ``hf://`` and may mean one.

    Raises:
        CheckpointError: what the block raises, with that.
    """
    try:
        yield
    except CheckpointError as error:
        if is_address(str(text)) or on_hub(text) is None or not _is_no(error.__cause__):
            raise
        raise CheckpointError(f"{error}\n  Nor is there a file or folder {text} on this machine.") from error


def _is_here(text: str) -> bool:
    with contextlib.suppress(OSError):  # a name that no file can have
        return Path(text).exists()
    return False


def _is_no(error: BaseException | None) -> bool:
    """Whether the Hub knows no such repository, or cannot be asked; else the name is no mistake."""
    from huggingface_hub import errors

    if isinstance(error, errors.RepositoryNotFoundError):
        return not isinstance(error, errors.GatedRepoError)
    if isinstance(
        error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled | errors.HFValidationError
    ):
        return True
    of_network = hasattr(type(error), "request")  # as all errors of the client's network layer have it
    return of_network and getattr(error, "response", None) is None


def _of_page(text: str) -> HubAddress:
    """The model whose page in the browser this is.

    Raises:
        CheckpointError: it is a page of something else.
    """
    from huggingface_hub import constants

    match = None
    with contextlib.suppress(ValueError):
        parts = urlsplit(text)
        if parts.netloc.lower() in {"huggingface.co", "hf.co", urlsplit(constants.ENDPOINT).netloc}:
            match = _PAGE.fullmatch(parts.path)
    if match is None:
        raise CheckpointError(
            f"{text}: not the page of a model on the Hugging Face Hub, or of a file in one that linzoo reads"
            f" ({', '.join(MODEL_SUFFIXES)}); name one of these, or download the file and name that"
        )
    return HubAddress(*(part and unquote(part) for part in match.group("repo", "revision", "file")))
