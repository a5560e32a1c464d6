"""The repository that a checkpoint is pushed to, as it is before the push, and whether the checkpoint may go there."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from linzoo.checkpoints.address import HubAddress
from linzoo.checkpoints.digest import digest
from linzoo.checkpoints.folder import PIPELINE_CONFIG, read_json
from linzoo.checkpoints.hub_errors import hub_errors
from linzoo.checkpoints.linfusion import CONFIG_NAME, LinFusionConfig
from linzoo.checkpoints.lock import LOCK_NAME, WEIGHT_SUFFIXES, read_lock
from linzoo.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from huggingface_hub import HfApi, ModelInfo

Format = Literal["adapter", "pipeline"]
CARD_NAME = "README.md"

_PULL_REQUESTS = "refs/pr/"
_BRANCH = re.compile(r"[\w-][\w./-]*")
_COMMIT = re.compile(r"[0-9a-f]{7,40}")
_OFFICIAL = "diffusion_pytorch_model"


@dataclass(frozen=True)
class StoredFile:
    """What the Hub knows of a file without its content.

    Attributes:
        bytes: its size.
        sha256: of a large file (LFS or Xet); None for one that lies in git.
        oid: git's SHA-1 of the blob; of a large file that of its pointer.
    """

    bytes: int
    sha256: str | None
    oid: str

    def holds(self, path: Path) -> bool:
        """Whether a file on this machine has the same content."""
        if path.stat().st_size != self.bytes:
            return False
        if self.sha256 is not None:
            return digest(path).sha256 == self.sha256
        content = path.read_bytes()
        return (
            hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest() == self.oid
        )


@dataclass(frozen=True)
class Target:
    """A model repository before a push.

    Attributes:
        api: the Hub's client.
        user: who is logged in.
        repo: its id, ``user/name``.
        branch: what is committed to; None for the main branch.
        exists: False for one that the push makes.
        private: whether only its owner sees it; None where it does not exist.
        has_branch: False for a branch that the push makes, from the main one.
        head: the commit that is committed on; None where the repository does not exist.
        files: what it holds there.
    """

    api: HfApi
    user: str
    repo: str
    branch: str | None
    exists: bool
    private: bool | None
    has_branch: bool
    head: str | None
    files: Mapping[str, StoredFile]

    @property
    def where(self) -> str:
        """How errors name it."""
        return str(HubAddress(self.repo))

    @cached_property
    def lock(self) -> Mapping[str, Any] | None:
        """The lock file that it holds; None where there is none.

        Raises:
            CheckpointError: it is damaged.
        """
        path = self._fetch(LOCK_NAME)
        if path is None:
            return None
        with self._blamed(LOCK_NAME):
            return read_lock(path.parent)

    @cached_property
    def card(self) -> str | None:
        """The model card that it holds; None where there is none.

        Raises:
            CheckpointError: it is no text.
        """
        path = self._fetch(CARD_NAME)
        if path is None:
            return None
        with self._blamed(CARD_NAME), path.open(encoding="utf-8", newline="") as file:
            return file.read()  # with its own line ends: what surrounds linzoo's section stays byte for byte

    def stale(self, names: Collection[str]) -> tuple[str, ...]:
        """Files of an earlier push that a new one, with these files, has no more; foreign files are never among them."""
        return tuple(sorted((self.own_files & set(self.files)) - set(names)))

    @cached_property
    def own_files(self) -> frozenset[str]:
        """What an earlier push of linzoo, or the official code, has put there."""
        if self.lock is not None:
            return frozenset(self.lock["outputs"])
        return frozenset(
            name for name in self.files if name.startswith(_OFFICIAL) and self._official is not None
        )

    def require_same_kind(self, format: Format, variant: str, config: LinFusionConfig) -> None:
        """Refuse to push onto something else.

        Args:
            format: of what is pushed.
            variant: which it was made for.
            config: its modules.

        Raises:
            CheckpointError: the repository holds another kind of model, or weights of another variant.
        """
        if self.lock is not None:
            self._require_same_result(format, variant, self.lock)
        elif self._official is not None:
            ours, theirs = ({each.module_name for each in one.modules} for one in (config, self._official))
            if not (ours <= theirs or theirs <= ours):
                raise CheckpointError(
                    f"{self.repo} holds LinFusion weights for another UNet: {len(theirs)} modules, among them"
                    f" '{min(theirs - ours)}', which this checkpoint does not have; choose another repository"
                )
        elif what := self._foreign():
            raise CheckpointError(
                f"{self.repo} holds another kind of model ({what}), which the push would mix with a LinFusion checkpoint;"
                " choose another repository"
            )

    def _require_same_result(self, format: Format, variant: str, lock: Mapping[str, Any]) -> None:
        made_for = lock.get("detection", {}).get("variant")
        if made_for != variant:
            raise CheckpointError(
                f"{self.repo} holds a LinFusion checkpoint for variant '{made_for}', and this one is for '{variant}'; choose"
                " another repository"
            )
        holds: Format = "pipeline" if PIPELINE_CONFIG in self.files else "adapter"
        if holds != format:
            raise CheckpointError(
                f"{self.repo} holds linzoo's format '{holds}', and this is '{format}'; choose another repository, or push with"
                f" --format {holds}"
            )

    @cached_property
    def _official(self) -> LinFusionConfig | None:
        """The config of LinFusion weights as the official code writes them, which linzoo may replace; None for none."""
        document = self._read_json(CONFIG_NAME)
        if document is None or PIPELINE_CONFIG in self.files or document.get("_class_name") != "LinFusion":
            return None
        weights = [name for name in self.files if name.endswith(WEIGHT_SUFFIXES)]
        if not all(name.startswith(_OFFICIAL) for name in weights):
            return None
        return LinFusionConfig.from_json(document, f"{self.where}: {CONFIG_NAME}")

    def _foreign(self) -> str:
        """What a repository without a lock file holds of a model; empty where there is none, or an official one."""
        for name in (PIPELINE_CONFIG, CONFIG_NAME):
            if (document := self._read_json(name)) is not None:
                kind = document.get("_class_name") or document.get("model_type")
                return f"{name} of class {kind!r}"
        return next((name for name in sorted(self.files) if name.endswith(WEIGHT_SUFFIXES)), "")

    def _read_json(self, name: str) -> dict[str, Any] | None:
        path = self._fetch(name)
        if path is None:
            return None
        with self._blamed(name):
            return read_json(path)

    @contextmanager
    def _blamed(self, name: str) -> Iterator[None]:
        """Name the repository, and not its copy in the cache, where a file is damaged."""
        try:
            yield
        except (CheckpointError, UnicodeDecodeError) as error:
            raise CheckpointError(
                f"{self.where}: its {name} is damaged; mend or delete it on the Hub ({error})"
            ) from error

    def _fetch(self, name: str) -> Path | None:
        if name not in self.files:
            return None
        with hub_errors(str(HubAddress(self.repo, self.head))):
            return Path(self.api.hf_hub_download(self.repo, name, revision=self.head))


def open_target(repo: str, branch: str | None, *, pull_request: bool) -> Target:
    """Look at a repository before a push, and at whether the user may write to it; nothing is changed.

    Args:
        repo: its id, its address or its page's; without a name before the slash, one of the user's own.
        branch: what will be committed to; None for the main branch.
        pull_request: a pull request will be opened, which needs no right to write to the repository.

    Raises:
        UsageError: it is no id of a repository, or no name of a branch.
        CheckpointError: the Hub cannot be asked, nobody is logged in, or the user may not write there.
    """
    from huggingface_hub import HfApi, constants

    api = HfApi()
    if constants.HF_HUB_OFFLINE:
        raise CheckpointError(f"{repo}: nothing can be pushed offline; unset HF_HUB_OFFLINE")
    if branch is not None and not _BRANCH.fullmatch(branch):
        raise UsageError(f"--revision {branch!r} is no name of a branch")
    name = _name(repo)
    with hub_errors(str(HubAddress(name)), cached=False):
        me = api.whoami()
    repo = name if "/" in name else f"{me['name']}/{name}"
    _require_writing_token(repo, me)
    with hub_errors(str(HubAddress(repo, branch)), cached=False):
        info, has_branch = _look(api, repo, branch)
        if info is not None and not pull_request and not (branch or "").startswith(_PULL_REQUESTS):
            _require_right_to_write(api, repo, me["name"])
    if info is None:
        _require_namespace(repo, me)
        return Target(api, me["name"], repo, branch, False, None, branch is None, None, {})
    files = stored_files(info)
    return Target(api, me["name"], repo, branch, True, bool(info.private), has_branch, info.sha, files)


def stored_files(info: ModelInfo) -> dict[str, StoredFile]:
    """The files of a repository, from what the Hub says of it with ``files_metadata``."""
    return {
        each.rfilename: StoredFile(each.size or 0, each.lfs.sha256 if each.lfs else None, each.blob_id or "")
        for each in info.siblings or ()
    }


def _name(repo: str) -> str:
    """The id of a repository, whichever way the user writes it; without the user's name, as that was left out."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    own = "me/" if "/" not in repo else ""  # stands for the user, who is not known yet
    try:
        address = HubAddress.parse(own + repo)
        validate_repo_id(address.repo)
    except (CheckpointError, HFValidationError) as error:
        raise UsageError(f"{repo!r}: no id of a repository, such as me/my-linfusion") from error
    if address != HubAddress(address.repo):
        raise UsageError(f"{repo}: a push goes to a repository; name a branch of it with --revision")
    return address.repo.removeprefix(own)


def _look(api: HfApi, repo: str, branch: str | None) -> tuple[ModelInfo | None, bool]:
    """What the Hub says of a repository, None where there is none, and whether it has the branch."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        if branch is None or branch.startswith(_PULL_REQUESTS):
            return api.model_info(repo, revision=branch, files_metadata=True), True
        has_branch = _has_branch(api, repo, branch)
        return api.model_info(repo, revision=branch if has_branch else None, files_metadata=True), has_branch
    except GatedRepoError:
        raise
    except RepositoryNotFoundError:
        return None, branch is None


def _has_branch(api: HfApi, repo: str, name: str) -> bool:
    refs = api.list_repo_refs(repo)
    if any(each.name == name for each in refs.branches):
        return True
    if any(each.name == name for each in refs.tags):
        raise CheckpointError(f"{HubAddress(repo)}: {name} is a tag, and a push goes to a branch")
    if _COMMIT.fullmatch(name):
        raise CheckpointError(f"{HubAddress(repo)}: {name} is a commit, and a push goes to a branch")
    return False


def _require_writing_token(repo: str, me: Mapping[str, Any]) -> None:
    if me.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise CheckpointError(
            f"{HubAddress(repo)}: your token may only read; make one that may write, at"
            " https://huggingface.co/settings/tokens"
        )


def _require_right_to_write(api: HfApi, repo: str, user: str) -> None:
    from huggingface_hub.errors import HfHubHTTPError

    try:
        api.auth_check(repo, write=True)
    except HfHubHTTPError as error:
        if error.response.status_code != 403:
            raise
        raise CheckpointError(
            f"{HubAddress(repo)}: you ({user}) may not write there; open a pull request with --pr, push to a repository of"
            " yours, or use a token that may write to this one"
        ) from error


def _require_namespace(repo: str, me: Mapping[str, Any]) -> None:
    """A repository can be made in one's own namespace and in those of one's organizations."""
    mine = [me["name"], *(each["name"] for each in me.get("orgs", ()))]
    if repo.partition("/")[0] not in mine:
        raise CheckpointError(
            f"{HubAddress(repo)}: there is no such repository, and you ({me['name']}) cannot make one there; yours begin"
            f" with {' or '.join(f'{name}/' for name in mine)}"
        )
