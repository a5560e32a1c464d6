"""``linzoo.push``: publish a LinFusion checkpoint on the Hugging Face Hub so that anyone can load it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from linzoo.checkpoints.address import HubAddress
from linzoo.checkpoints.license import License
from linzoo.checkpoints.linfusion import LinFusionConfig
from linzoo.checkpoints.linfusion_folder import open_linfusion
from linzoo.checkpoints.lock import changed_outputs, is_distilled, made_for, read_lock
from linzoo.checkpoints.shipped import named_source
from linzoo.checkpoints.source import Checkpoint
from linzoo.distillation.portable import publishable
from linzoo.distillation.progress import Progress
from linzoo.errors import CheckpointError, UsageError
from linzoo.hub.fresh import check_loads
from linzoo.hub.license import claims, parse_license, require_agreement, settle
from linzoo.hub.publication import Publication
from linzoo.hub.target import Format, Target, open_target
from linzoo.hub.teacher import named_teacher, recorded_teacher
from linzoo.hub.upload import Request, Sent, Upload
from linzoo.hub.validated import has_quick, read_report, require_passed, run_quick

if TYPE_CHECKING:
    from linzoo.registry import Registry

FORMATS: tuple[str, ...] = get_args(Format)
MAX_SHARD = 5_000_000_000
"""Bytes of weights in one file, as is usual on the Hub."""

MESSAGE = "Upload a LinFusion checkpoint with linzoo"


@dataclass(frozen=True)
class PushResult:
    """What a push did, or, of a dry run, would do.

    Attributes:
        repo: the id of the repository.
        license: what the card declares.
        files: size of each file, by its path in the repository.
        deleted: files of an earlier push that are no more.
        requests: what is asked of the Hub after everything is checked.
        sent: the commit; None for a dry run.
    """

    repo: str
    license: License
    files: Mapping[str, int]
    deleted: tuple[str, ...]
    requests: tuple[Request, ...]
    sent: Sent | None


def push(
    checkpoint: str | Path,
    repo: str,
    *,
    teacher: str | Path | None = None,
    report: str | Path | None = None,
    license: str | None = None,
    format: Format = "adapter",
    private: bool = False,
    pr: bool = False,
    revision: str | None = None,
    message: str = MESSAGE,
    max_shard_bytes: int = MAX_SHARD,
    dry_run: bool = False,
    registry: Registry | None = None,
    progress: Progress | None = None,
) -> PushResult:
    """Publish a LinFusion checkpoint: weights, model card, lock file and pictures of the report, in one commit.

    Before anything leaves the machine the checkpoint is validated, its licence settled, and the repository looked at. What
    was interrupted goes on where it was: the same call again. Afterwards a fresh process loads the pushed commit and compares
    a forward pass with that of the local files, bit for bit.

    Args:
        checkpoint: the folder of a LinFusion checkpoint that linzoo made.
        repo: ``user/name``; it is made where there is none.
        teacher: the model that it is for, as a SOURCE, where the lock file cannot say where that is: it was a local file.
        report: folder of a report of ``linzoo validate``, whose numbers and pictures the card shows; None validates with the
            suite ``quick``, as does one without all of that.
        license: the id of a licence, or ``NAME=LINK``, where that of the teacher is unknown or those of several differ.
        format: ``adapter`` for the linear modules alone, ``pipeline`` for all that drawing needs.
        private: make the repository private.
        pr: open a pull request.
        revision: the branch, or ``refs/pr/N``, to commit to; it is made where there is none.
        message: of the commit.
        max_shard_bytes: weights are split into files of at most so many bytes.
        dry_run: check everything, and send nothing.
        registry: where ids are looked up; built from all installed plugins when None.
        progress: what people are told; None tells them nothing.

    Returns:
        What was pushed, and the commit.

    Raises:
        UsageError: options that do not go together.
        CheckpointError: the checkpoint fails validation or has changed, its licence is unknown or conflicting, the repository
            holds another kind of model, or the Hub refuses or cannot be reached; says whether something was pushed.
        PluginError: a plugin stops it.
    """
    if registry is None:
        from linzoo.registry import build_registry

        registry = build_registry()
    progress = progress or Progress()
    _check_options(format, pr, revision, message, max_shard_bytes)
    declared = parse_license(license) if license is not None else None
    opened, config, lock = _open(checkpoint, registry)
    variant = registry.variants[lock["detection"]["variant"]].value
    target = open_target(repo, revision, pull_request=pr)
    target.require_same_kind(format, variant.id, config)
    _check_visible(target, private, pr)
    if note := _replaced(target, lock, registry):
        progress.say(f"note: {note}")
    source = (
        recorded_teacher(lock, registry)
        if teacher is None
        else named_teacher(teacher, lock, variant, registry)
    )
    found = (*claims(lock, registry), *([] if source.claim is None else [source.claim]))
    settled = settle(found, declared)
    require_agreement(settled, target.card, target.repo)
    pictures = None if report is None else Path(report)
    document = _validated(opened, lock, source.spec, pictures, registry, progress)
    if not is_distilled(lock):
        progress.say(
            f"note: {opened.spec} was never distilled, and draws worse than its teacher; the card says so"
        )
    publication = Publication(
        checkpoint=opened,
        lock=publishable(lock),
        variant=variant,
        teacher=source.spec,
        target=target,
        format=format,
        license=settled,
        claims=found,
        report=document,
        pictures=pictures,
        registry=registry,
    )
    with tempfile.TemporaryDirectory(prefix="linzoo-push-") as folder:
        staged = publication.staged(Path(folder), max_shard_bytes)
        registry.before_push(publication.plan(staged, private))
        upload = Upload(target, staged, private, pr, message)
        planned = PushResult(target.repo, settled, staged.sizes, upload.stale, tuple(upload.requests()), None)
        if dry_run:
            return planned
        return replace(planned, sent=_send(upload, publication, Path(folder), progress))


def _send(upload: Upload, publication: Publication, folder: Path, progress: Progress) -> Sent:
    """Commit what is staged in the folder, and have a fresh process load it."""
    with _interruption_told(
        progress, "nothing is committed yet; the same command goes on from what has arrived"
    ):
        sent = upload.send()
    page = sent.pull_request or sent.url
    with (
        _interruption_told(progress, f"{page} is published; the same command checks again that it loads"),
        progress.task("loading it from the Hub in a fresh process", 1) as told,
    ):
        check_loads(publication.question(folder, sent.commit), page)
        told(1, {})
    return sent


@contextmanager
def _interruption_told(progress: Progress, text: str) -> Iterator[None]:
    """Say how things stand where the user interrupts."""
    try:
        yield
    except KeyboardInterrupt:
        progress.say(f"interrupted: {text}")
        raise


def _check_options(format: str, pr: bool, revision: str | None, message: str, max_shard_bytes: int) -> None:
    if format not in FORMATS:
        raise UsageError(f"there is no format '{format}'; there are: {', '.join(FORMATS)}")
    if pr and revision is not None:
        raise UsageError(
            "a pull request is opened against the main branch: leave out --revision, or, to add to one that is open, leave out"
            " --pr and name it with --revision refs/pr/N"
        )
    if not message.strip():
        raise UsageError("--message is empty; a commit has a title")
    if max_shard_bytes <= 0:
        raise UsageError(f"a shard of {max_shard_bytes} bytes holds nothing")


def _open(
    checkpoint: str | Path, registry: Registry
) -> tuple[Checkpoint, LinFusionConfig, Mapping[str, Any]]:
    """The checkpoint, its config and its lock file, which tells what it was made from; both as linzoo wrote them."""
    opened, config = open_linfusion(checkpoint, registry=registry)
    lock = read_lock(opened.path)
    if lock is None:
        raise CheckpointError(
            f"{opened.path}: has no lock file, so that nobody could tell what it was made from; push what 'linzoo convert' or"
            " 'linzoo distill' made"
        )
    if not isinstance(lock.get("detection", {}).get("variant"), str):
        raise CheckpointError(
            f"{opened.path}: its lock file does not say which variant it is for; convert it again"
        )
    if changed := changed_outputs(opened.path, lock, fetched=opened.revision is not None):
        raise CheckpointError(
            f"{opened.path}: {', '.join(changed)} changed since linzoo wrote it; convert or distil it again"
        )
    return opened, config, lock


def _validated(
    opened: Checkpoint,
    lock: Mapping[str, Any],
    teacher: str,
    report: Path | None,
    registry: Registry,
    progress: Progress,
) -> Mapping[str, Any]:
    """The report that the card shows; it and the suite ``quick`` must have passed."""
    document = None if report is None else read_report(report, lock)
    if document is None or not has_quick(document, registry):
        quick = run_quick(opened, teacher, lock, registry=registry, progress=progress)
        require_passed(quick, opened.spec)
        document = document or quick
    require_passed(document, opened.spec)
    return document


def _replaced(target: Target, lock: Mapping[str, Any], registry: Registry) -> str:
    """Say that the repository holds weights for another model, which go; nothing where they are for the same."""
    old, new = made_for(target.lock or {}), made_for(lock)
    hashes = (old.get("base_hash"), new.get("base_hash"))
    if None in hashes or hashes[0] == hashes[1]:
        return ""
    was, becomes = (
        f"{named_source(record, registry)} (base hash {record['base_hash']})" for record in (old, new)
    )
    where = HubAddress(target.repo, target.branch)
    return f"{where} holds weights for {was}; those of this push are for {becomes}"


def _check_visible(target: Target, private: bool, pr: bool) -> None:
    if private and target.private is False:
        raise CheckpointError(
            f"{target.where}: public, and a push does not change that; make it private in its settings, or leave out"
            " --private"
        )
    if pr and not target.exists:
        raise CheckpointError(
            f"{target.where}: there is no such repository to open a pull request in; leave out --pr to make it"
        )
