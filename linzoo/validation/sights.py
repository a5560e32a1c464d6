"""What the encoders see in the drawn pictures, in real ones and in the prompts; kept on disk as it is computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from linzoo.distillation.data.items import file_stamp, fingerprint
from linzoo.errors import UsageError
from linzoo.generate.output import FORMATS
from linzoo.plugin import Encoder
from linzoo.validation.chunks import Chunks
from linzoo.validation.drawings import BOTH, read_pixels
from linzoo.validation.encoders.choosing import Choice, choose, downloads_allowed
from linzoo.validation.encoders.pixels import square

if TYPE_CHECKING:
    from linzoo.validation.subject import Subject

_ROWS = "rows"


@dataclass(frozen=True)
class _Look:
    """Something that an encoder looks at.

    Attributes:
        chunks: where what it sees is kept.
        see: what it sees in some of the items: given the encoder and their numbers, a row an item.
    """

    chunks: Chunks
    see: Callable[[Any, range], Tensor]


@dataclass(frozen=True)
class Sights:
    """The chosen encoders, one of a kind at most, and what they see.

    Attributes:
        subject: whose pictures they look at.
        choice: the encoders, and why there is none of the other kinds.
        real: the files of the real pictures; none where none are given.
    """

    subject: Subject
    choice: Choice
    real: tuple[Path, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """What is downloaded, and what is skipped."""
        return self.choice.notes

    def announce(self) -> None:
        """Tell people what will be downloaded and what is skipped, before it starts."""
        for note in self.notes:
            self.subject.progress.say(f"note: {note}")

    def has(self, kind: str) -> bool:
        """Whether there is an encoder of this kind."""
        return kind in self.choice.encoders

    def name(self, kind: str) -> str:
        """Its id."""
        return self.choice.encoders[kind].value.id

    def why(self, kind: str) -> str:
        """Why there is none of this kind."""
        return self.choice.missing[kind]

    def look(self) -> None:
        """Let every encoder look at what it has not looked at, every process its part."""
        processes = self.subject.processes
        for kind in self.choice.encoders:
            looks = self._looks[kind]
            build = cache(partial(_build, self.choice.encoders[kind].value, self.subject.device))
            if processes.main and not all(map(_is_done, looks.values())):
                build()  # the others would download the same at the same time
            processes.wait()
            for name, look in looks.items():
                look.chunks.fill(
                    partial(_rows, look, build),
                    f"{self.name(kind)}, {name}",
                    self.subject.progress,
                    processes,
                )

    def features(self, kind: str, who: str) -> Tensor:
        """What the encoder of this kind sees in somebody's pictures, float32 (N, D)."""
        return self._looks[kind][who].chunks.read(_ROWS)

    def texts(self) -> Tensor | None:
        """What the image-text encoder makes of the prompts, float32 (N, D); None where there is none."""
        return self.features("image-text", "prompts") if self.has("image-text") else None

    def distances(self) -> Tensor | None:
        """How far the student's pictures are from the teacher's, (N,); None where there is no encoder for it."""
        return self.features("distance", "pairs") if self.has("distance") else None

    @cached_property
    def _looks(self) -> dict[str, dict[str, _Look]]:
        return {kind: self._looks_of(kind) for kind in self.choice.encoders}

    def _looks_of(self, kind: str) -> dict[str, _Look]:
        """Everything that the encoder of a kind looks at, by name."""
        prompts = self.subject.settings.prompts
        if kind == "distance":
            key = fingerprint(*(self.subject.drawings(who).key for who in BOTH))
            return {"pairs": _Look(self._chunks(kind, "pairs", key, len(prompts)), self._distance)}
        looks: dict[str, _Look] = {
            who: _Look(
                self._chunks(kind, who, self.subject.drawings(who).key, len(prompts)),
                partial(self._features, self.subject.pictures(who)),
            )
            for who in BOTH
        }
        if self.real:
            key = fingerprint([file_stamp(path) for path in self.real])
            chunks = self._chunks(kind, "real", key, len(self.real))
            looks["real"] = _Look(chunks, partial(self._features, self.real))
        if kind == "image-text":
            key = fingerprint(list(prompts), self.subject.settings.prefix)
            looks["prompts"] = _Look(self._chunks(kind, "prompts", key, len(prompts)), self._texts)
        return looks

    def _chunks(self, kind: str, name: str, key: str, count: int) -> Chunks:
        encoder = self.choice.encoders[kind]
        whole = fingerprint(key, self.subject.settings.resize, encoder.full_id, encoder.plugin.version)
        place = self.subject.folder / "seen" / f"{self.name(kind)}-{name}-{whole[:12]}"
        return Chunks(place, count, [_ROWS])

    def _features(self, files: Sequence[Path], built: Any, items: range) -> Tensor:
        """Pictures of several sizes are looked at one by one."""
        pixels = [self._resized(read_pixels(files[index])) for index in items]
        if len({each.shape for each in pixels}) == 1:
            together: Tensor = built.features(torch.stack(pixels).to(self.subject.device))
            return together
        return torch.cat([built.features(each[None].to(self.subject.device)) for each in pixels])

    def _texts(self, built: Any, items: range) -> Tensor:
        prompts = self.subject.settings.prompts[items.start : items.stop]
        seen: Tensor = built.texts([self.subject.settings.prefix + prompt for prompt in prompts])
        return seen

    def _distance(self, built: Any, items: range) -> Tensor:
        student, teacher = (
            self.subject.drawings(who).pixels(items).to(self.subject.device) for who in ("student", "teacher")
        )
        apart: Tensor = built.distance(student, teacher)
        return apart

    def _resized(self, pixels: Tensor) -> Tensor:
        """Scaled to the protocol's side, as its published code does before pictures are compared as sets."""
        side = self.subject.settings.resize
        return pixels if side is None else square(pixels, side)


def _is_done(look: _Look) -> bool:
    """Whether nothing is left to look at."""
    return all(map(look.chunks.has, look.chunks.all()))


def _build(encoder: Encoder, device: str) -> Any:
    return encoder.build.load()(device)


def _rows(look: _Look, build: Callable[[], Any], items: range) -> dict[str, Tensor]:
    with torch.no_grad():
        return {_ROWS: look.see(build(), items).float()}


def choose_sights(subject: Subject) -> Sights:
    """Choose the encoders for a validation, and find the real pictures.

    Raises:
        UsageError: an encoder that the user names is not to be had, or there are no real pictures where they should be.
    """
    registry = subject.registry
    choice = choose(
        registry.encoders,
        registry.lineage(subject.registered.full_id),
        named=subject.settings.encoders,
        downloads=downloads_allowed(),
    )
    return Sights(subject, choice, _real(subject.settings.real))


def _real(folder: Path | None) -> tuple[Path, ...]:
    if folder is None:
        return ()
    files = tuple(sorted(path for path in folder.rglob("*") if path.suffix.lower() in FORMATS))
    if len(files) < 2:
        count = "one picture" if files else "no pictures"
        raise UsageError(
            f"--real {folder}: holds {count} ({', '.join(FORMATS)}); distributions are compared from two on"
        )
    return files
