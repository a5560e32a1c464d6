"""Everything that a run trains on, encoded and on disk before its first step."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from linzoo.distillation.data.cache import Cache
from linzoo.distillation.data.draw import TeacherDraws
from linzoo.distillation.data.encode import text_identity
from linzoo.distillation.data.fill import LatentFill, fill_texts
from linzoo.distillation.data.items import Progress, Size, Source, fingerprint
from linzoo.distillation.data.latents import LatentData
from linzoo.distillation.data.maker import Maker
from linzoo.distillation.data.manifest import Manifest, Part, join_parts, read_manifest, write_part
from linzoo.distillation.data.pictures import PictureLatents
from linzoo.distillation.data.sources import locate, open_source
from linzoo.distillation.errors import DataError
from linzoo.distillation.recipe import Recipe
from linzoo.plugin import Variant


def prepare_data(
    recipe: Recipe,
    pipe: Any,
    *,
    variant: Variant,
    device: torch.device | str,
    rank: int = 0,
    world: int = 1,
    barrier: Callable[[], None] = lambda: None,
    progress: Progress = lambda done, total, name: None,
    limit: int | None = None,
) -> LatentData:
    """Encode what a recipe trains on, as far as the caches lack it, and open it.

    What is in the caches is checked first: a damaged file is removed and what it held made again. A run that is
    killed goes on where it was; a second run with the same data reads neither pictures nor encoders.

    Args:
        recipe: says what the data is, at which sizes, and where the caches are.
        pipe: the teacher's pipeline, with its own attention.
        variant: of the teacher; its native size counts where the recipe names none.
        device: where encoders and teacher run.
        rank: number of this process; it encodes every ``world``-th item.
        world: number of processes, which share the cache's folder.
        barrier: returns when all processes have called it.
        progress: told of this process's part: files of the caches as they are checked, items, captions.
        limit: take so many items at most, and at the first size alone: enough to calibrate with.

    Raises:
        DataError: the data cannot be read or is too little.
        CheckpointError: the caches cannot be written, or the disk has too little room.
    """
    most = min((each for each in (recipe.data.max_items, limit) if each is not None), default=None)
    source = open_source(recipe.data, most)
    _require_items(recipe, _countable(recipe, source))
    maker = _maker(recipe, _sizes(recipe, pipe, variant, finish=limit is None), pipe, device)
    place = (
        {} if recipe.data.kind == "prompts" else {"source": [_place(recipe.data.source), recipe.data.split]}
    )
    latents = _cache(recipe, "latents", {**maker.about, **place})
    about_texts = text_identity(pipe)
    texts = _cache(recipe, "texts", about_texts)
    notes = [note for cache in (latents, texts) for note in cache.verify(progress, rank, world)]
    barrier()
    latents.open()
    texts.open()
    path = latents.folder / f"set-{fingerprint(source.stamp, maker.choice)[:16]}.json"
    manifest = read_manifest(path)
    barrier()  # all have seen the same files before one writes
    if manifest is None or not _has_all(latents, manifest):
        part = LatentFill(source, maker, latents, progress).run(rank, world)
        manifest = _joined(path, part, source, rank, world, barrier)
        latents.open()
        if not _has_all(latents, manifest):
            raise DataError(
                f"{latents.folder}: lacks what was just written; do all processes share this folder?"
            )
    _require_items(recipe, len({row.item for row in manifest.rows}))
    fill_texts(pipe, [row.caption for row in manifest.rows], texts, device, progress, rank, world)
    barrier()
    texts.open()
    data = LatentData(manifest, latents, texts, recipe.data.held_out, [maker.about, about_texts], notes)
    data.notes += _small(recipe, len(data))
    return data


def cache_folder(named: str | None) -> Path:
    """Where the caches are: the recipe's folder, ``$LINZOO_CACHE``, or the user's cache folder on this system."""
    if named is not None:
        return Path(named).expanduser()
    if told := os.environ.get("LINZOO_CACHE"):
        return Path(told).expanduser() / "distillation"
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "linzoo" / "distillation"


def _sizes(recipe: Recipe, pipe: Any, variant: Variant, *, finish: bool) -> list[Size]:
    """The size that is trained at, and those of the finish."""
    native = variant.native_size[pipe.scheduler.config.prediction_type]
    sizes = [recipe.data.size or (native, native)]
    if finish and recipe.distill is not None and recipe.distill.finish is not None:
        sizes += recipe.distill.finish.sizes
    return list(dict.fromkeys(sizes))


def _maker(recipe: Recipe, sizes: Sequence[Size], pipe: Any, device: torch.device | str) -> Maker:
    if recipe.data.kind == "prompts":
        return TeacherDraws(pipe, sizes, recipe.data.sampling)
    return PictureLatents(pipe, sizes, recipe.data, device)


def _cache(recipe: Recipe, what: str, about: Mapping[str, Any]) -> Cache:
    return Cache(cache_folder(recipe.data.cache) / f"{what}-{fingerprint(about)[:16]}", about)


def _joined(
    path: Path, part: Part, source: Source, rank: int, world: int, barrier: Callable[[], None]
) -> Manifest:
    """The manifest of all processes' parts, in all of them."""
    if rank > 0:
        write_part(path, rank, world, part)
    barrier()
    if rank == 0:
        join_parts(path, part, world, source.notes)
    barrier()
    manifest = read_manifest(path)
    if manifest is None:
        raise DataError(
            f"{path}: cannot be read though it was just written; do all processes share this folder?"
        )
    return manifest


def _has_all(latents: Cache, manifest: Manifest) -> bool:
    return all(key in latents for row in manifest.rows for _, key in row.views)


def _place(source: str) -> str:
    """A source's name, the same in every working directory where it is a file or folder."""
    path = locate(source)
    return str(path.resolve()) if path.exists() else source


def _countable(recipe: Recipe, source: Source) -> int | None:
    """How many pictures or prompts there are at most; None where only reading the source tells."""
    if recipe.data.kind == "prompts":
        return len({item.caption for _, item in source.items(0, 1)})
    return source.count


def _require_items(recipe: Recipe, items: int | None) -> None:
    if items is not None and items <= recipe.data.held_out:
        raise DataError(
            f"{recipe.data.source}: {items} {_noun(recipe)} are too few: {recipe.data.held_out} are kept from training "
            "(data.held_out) and at least one more must be left; add some or lower held_out"
        )


def _noun(recipe: Recipe) -> str:
    return "prompts" if recipe.data.kind == "prompts" else "pictures"


def _small(recipe: Recipe, samples: int) -> tuple[str, ...]:
    """A note where a step takes a sample more than once."""
    batch = max((stage.batch for stage in (recipe.align, recipe.distill) if stage is not None), default=0)
    if samples >= batch:
        return ()
    return (
        f"{samples} samples are trained on, fewer than a batch of {batch}: some come twice or more in a step",
    )
