"""A checkpoint with everything that publishing it needs, and the files that come of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linzoo.checkpoints.license import License
from linzoo.checkpoints.linfusion import LinFusionConfig
from linzoo.checkpoints.lock import address_of, made_for, made_from
from linzoo.checkpoints.shipped import shipped_under
from linzoo.checkpoints.source import Checkpoint
from linzoo.hub.card import CardFacts, render_card
from linzoo.hub.card_pictures import files_of
from linzoo.hub.fresh import Question
from linzoo.hub.license import Claim
from linzoo.hub.staging import Staged, stage_adapter
from linzoo.hub.target import Format, Target
from linzoo.plugin import PushPlan

if TYPE_CHECKING:
    from linzoo.plugin import Variant
    from linzoo.registry import Registry

_PIPELINE = "pipeline"


@dataclass(frozen=True)
class Publication:
    """A checkpoint that may be published.

    Attributes:
        checkpoint: the LinFusion checkpoint.
        lock: its lock file.
        variant: of the teacher.
        teacher: the SOURCE of the teacher.
        target: the repository.
        format: of the repository.
        license: which the card declares.
        claims: what that was settled from.
        report: what a validation said; the document of ``report.json``.
        pictures: the folder of a report with pictures; None for none.
        registry: where ids are looked up.
    """

    checkpoint: Checkpoint
    lock: Mapping[str, Any]
    variant: Variant
    teacher: str
    target: Target
    format: Format
    license: License
    claims: tuple[Claim, ...]
    report: Mapping[str, Any]
    pictures: Path | None
    registry: Registry

    def staged(self, folder: Path, max_shard_bytes: int) -> Staged:
        """Lay out all files, in ``folder`` where they do not lie on this machine yet.

        Raises:
            CheckpointError: one cannot be written or read.
        """
        files = self._weights(folder, max_shard_bytes) | self._license_text()
        pictures = {} if self.pictures is None else files_of(self.report, self.pictures)
        card = render_card(self._facts(tuple(pictures)), self.registry, self.target.card)
        return Staged({**files, **pictures}).with_lock(self.lock, folder).with_card(card, folder)

    def plan(self, staged: Staged, private: bool) -> PushPlan:
        """What plugins are asked about."""
        return PushPlan(
            repo=self.target.repo,
            checkpoint=self.checkpoint.path,
            files=tuple(sorted(staged.files)),
            variant=self.variant,
            private=self.target.private if self.target.private is not None else private,
            license=self.license.id,
        )

    def question(self, folder: Path, commit: str) -> Question:
        """What a fresh process is asked after the push."""
        plugins = [each.candidate for each in self.registry.plugins if each.origin == "file"]
        local = self.checkpoint.path if self.format == "adapter" else folder / _PIPELINE
        return Question(
            local=str(local.resolve()),
            pushed=self.target.repo,
            commit=commit,
            format=self.format,
            teacher=str(Path(self.teacher).resolve()) if Path(self.teacher).exists() else self.teacher,
            variant=self.variant.id,
            prediction_type=self.lock["detection"].get("prediction_type"),
            plugins=tuple(str(Path(each.target).resolve()) for each in plugins),
        )

    def _weights(self, folder: Path, max_shard_bytes: int) -> dict[str, Path]:
        if self.format == "adapter":
            return stage_adapter(self.checkpoint, folder, max_shard_bytes)
        from linzoo.checkpoints.detection import inspect
        from linzoo.hub.pipeline import write_pipeline

        found = inspect(
            self.teacher,
            registry=self.registry,
            variant=self.variant.id,
            prediction_type=self.lock["detection"].get("prediction_type"),
        )
        out = folder / _PIPELINE
        write_pipeline(
            found, self.checkpoint.path, out, registry=self.registry, max_shard_bytes=max_shard_bytes
        )
        return {path.relative_to(out).as_posix(): path for path in sorted(out.rglob("*")) if path.is_file()}

    def _license_text(self) -> dict[str, Path]:
        """The text of the licence, where what this was made from carries one and the repository has none of its own."""
        for claim in self.claims:
            if claim.license is None or claim.license.identity != self.license.identity or claim.text is None:
                continue
            if claim.text in self.target.files and claim.text not in self.target.own_files:
                continue
            path = claim.fetch_text()
            return {} if path is None else {claim.text: path}
        return {}

    def _facts(self, pictures: tuple[str, ...]) -> CardFacts:
        base = address_of(made_for(self.lock))
        earlier = address_of(made_for(self.target.lock or {}))
        return CardFacts(
            repo=self.target.repo,
            format=self.format,
            lock=self.lock,
            config=LinFusionConfig.from_folder(self.checkpoint.path),
            variant=self.variant,
            base_model=base.repo if base else None,
            earlier_base=earlier.repo if earlier else None,
            base_commit=base.revision if base else None,
            teacher=base.repo if base else _in_words(self.lock, self.registry),
            license=self.license,
            report=self.report,
            pictures=pictures,
            checkpoint=self.checkpoint.path,
        )


def _in_words(lock: Mapping[str, Any], registry: Registry) -> str:
    shipped = shipped_under(made_for(lock), registry)
    if shipped is not None:
        return f"{shipped.name}, which ships with linzoo"
    if "learnt_from" in made_from(lock):
        return "a model that is known by its hashes alone"
    return "a local file"
