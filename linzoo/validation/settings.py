"""How a validation is done: what is drawn, at which size, and what it is compared with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError as FieldError

from linzoo.distillation.errors import DataError
from linzoo.distillation.lookup import find_recipe
from linzoo.distillation.recipe import Data, Recipe, Validation
from linzoo.errors import UsageError
from linzoo.generate.compare import Settings as DrawSettings
from linzoo.plugin.lazy import Resource
from linzoo.validation.prompts import least_trained_on, read_prompts
from linzoo.validation.suites import unknown_bars
from linzoo.validation.verdicts import USER

if TYPE_CHECKING:
    from linzoo.plugin import Variant
    from linzoo.registry import Registered, Registry

_LEAST = 2
_GENERAL = Resource("linzoo_recipes", "prompts/general.txt")
_LEAST = 2

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "coco-30k": {
        "images": 30_000,
        "steps": 25,
        "guidance": 7.5,
        "resize": 256,
        "encoders": ("inception-v3", "clip-vit-g-14"),
        "prefix": "A photo depicts ",
    }
}
"""Published protocols, by name. ``coco-30k`` is that of the LinFusion paper (arXiv 2409.02097, its ``examples/eval``): 30,000
captions of COCO's val2014, pictures scaled to 256 px for FID, and CLIP ViT-g-14 with a prefix to each caption."""


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What the user asks for; None, or empty, leaves it to the preset, the recipe and the variant.

    Attributes:
        preset: a published protocol, a key of :data:`PRESETS`.
        prompts: a text file with one prompt a line, or a JSON file; see :func:`linzoo.validation.prompts.read_prompts`.
        images: how many of the prompts are drawn.
        size: width and height in pixels.
        steps: denoising steps.
        guidance: scale of classifier-free guidance.
        seed: of every random number; picture ``i`` is drawn from ``seed + i``.
        batch: pictures drawn at once.
        real: a folder of real pictures to compare both with.
        encoders: ids of the encoders to use, one of a kind.
        speed_sizes: what the sides of the measured sizes are, in multiples of ``size``.
        bars: values to hold measures against, by name.
    """

    preset: str | None = None
    prompts: str | Path | None = None
    images: int | None = None
    size: tuple[int, int] | None = None
    steps: int | None = None
    guidance: float | None = None
    seed: int = 0
    batch: int = 8
    real: str | Path | None = None
    encoders: tuple[str, ...] = ()
    speed_sizes: tuple[float, ...] = (0.5, 1, 2, 4)
    bars: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a validation does, with nothing left open; see :class:`Wishes`.

    Attributes:
        preset, prompts_file: as the user named them.
        prompts: what is drawn, in order.
        trained: the sizes that the checkpoint was distilled at, or its variant's own.
        resize: pixels of a side that pictures are scaled to before they are compared as sets; None leaves them.
        prefix: what is put before each prompt when it is compared with its picture.
        samples: how many of the drawn latents KD is measured on.
        scales: guidance scales that guided KD is measured at; the pictures' own among them.
        bars: what a bar is and who named it, by name of the measure; the strongest has been chosen.
        notes: what the user should know of it.
    """

    preset: str | None
    prompts_file: Path | None
    prompts: tuple[str, ...]
    size: tuple[int, int]
    trained: tuple[tuple[int, int], ...]
    steps: int
    guidance: float
    seed: int
    batch: int
    resize: int | None
    prefix: str
    samples: int
    scales: tuple[float, ...]
    real: Path | None
    encoders: tuple[str, ...]
    speed_sizes: tuple[float, ...]
    bars: Mapping[str, tuple[float, str]]
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain data for the report."""
        document = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        document["bars"] = {name: value for name, (value, _) in self.bars.items()}
        for name in ("real", "prompts_file"):
            document[name] = None if document[name] is None else str(document[name])
        document["images"] = len(document.pop("prompts"))
        del document["notes"]
        return document


def settle(
    wishes: Wishes,
    variant: Registered[Variant],
    native_size: int,
    lock: Mapping[str, Any] | None,
    registry: Registry,
    *,
    drawing: bool = True,
) -> Settings:
    """Decide what the user left open: by the preset, the recipe that the checkpoint was distilled with, the variant.

    Without ``drawing`` no prompts are read, since nothing is drawn.

    Raises:
        UsageError: there is no such preset, it wants prompts, there are too few of them, or nothing can be drawn at the size.
        LinzooError: the prompts cannot be read.
    """
    DrawSettings(size=wishes.size)  # refuses a size that cannot be drawn before anything is loaded
    preset = _preset(wishes)
    recipe = _recipe(variant, lock, registry)
    data = recipe.data if recipe else Data(source=f"{_GENERAL.package}:{_GENERAL.path}")
    validation = recipe.validation if recipe else Validation()
    native = (native_size, native_size)
    trained = _trained_sizes(recipe, native) if lock and "distill" in lock else (native,)
    guidance = _first(wishes.guidance, preset.get("guidance"), validation.guidance)
    bars = _bars(variant.value, validation, wishes)
    return Settings(
        preset=wishes.preset,
        prompts_file=None if wishes.prompts is None else Path(wishes.prompts),
        prompts=_prompts(wishes, preset, data) if drawing else (),
        size=wishes.size or trained[0],
        trained=trained,
        steps=_first(wishes.steps, preset.get("steps"), validation.image_steps),
        guidance=guidance,
        seed=wishes.seed,
        batch=wishes.batch,
        resize=preset.get("resize"),
        prefix=preset.get("prefix", ""),
        samples=validation.samples,
        scales=tuple(sorted({*validation.scales, guidance})),
        real=None if wishes.real is None else Path(wishes.real),
        encoders=wishes.encoders or tuple(preset.get("encoders", ())),
        speed_sizes=wishes.speed_sizes,
        bars=bars,
        notes=tuple(unknown_bars(bars, registry)),
    )


def _preset(wishes: Wishes) -> Mapping[str, Any]:
    if wishes.preset is None:
        return {}
    if wishes.preset not in PRESETS:
        raise UsageError(f"there is no preset '{wishes.preset}'; there are: {', '.join(PRESETS)}")
    if wishes.prompts is None:
        raise UsageError(
            f"--preset {wishes.preset} needs its captions, which do not ship with linzoo: give COCO's"
            " captions_val2014.json, or a text file with one caption a line, with --prompts"
        )
    return PRESETS[wishes.preset]


def _recipe(
    variant: Registered[Variant], lock: Mapping[str, Any] | None, registry: Registry
) -> Recipe | None:
    """The recipe that the checkpoint was distilled with; else the variant's own; None where it has none."""
    document = ((lock or {}).get("distill") or {}).get("recipe", {}).get("document")
    if document is not None:
        try:
            return Recipe.model_validate(document)
        except FieldError:  # it was written by another version of linzoo, for another schema
            pass
    if variant.value.default_distill is None:
        return None
    return find_recipe(None, registry, variant=variant).recipe


def _trained_sizes(recipe: Recipe | None, native: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    if recipe is None:
        return (native,)
    finish = recipe.distill.finish if recipe.distill else None
    return tuple(dict.fromkeys([recipe.data.size or native, *(finish.sizes if finish else ())]))


def _prompts(wishes: Wishes, preset: Mapping[str, Any], data: Data) -> tuple[str, ...]:
    """The named prompts in their order; else those of the recipe that were trained on least."""
    wanted = wishes.images or preset.get("images")
    if wishes.prompts is not None:
        found: Sequence[str] = read_prompts(Path(wishes.prompts))
        where = str(wishes.prompts)
    else:
        where = data.source if data.kind == "prompts" else f"{_GENERAL.package}:{_GENERAL.path}"
        try:
            found = least_trained_on(where)
        except DataError as error:
            raise UsageError(f"{error}; give prompts with --prompts FILE") from error
        wanted = wanted or max(data.held_out, _LEAST)
    if len(found[:wanted]) < _LEAST:
        raise UsageError(
            f"{where}: at least {_LEAST} prompts must be drawn, so that sets of pictures can be compared"
        )
    if wanted is not None and len(found) < wanted:
        raise UsageError(
            f"{where}: {len(found)} prompts are fewer than the {wanted} that are to be drawn; add some or lower --images"
        )
    if len(found[:wanted]) < _LEAST:
        raise UsageError(
            f"{where}: at least {_LEAST} prompts must be drawn, to compare them as sets; add some"
        )
    return tuple(found[:wanted])


def _bars(variant: Variant, validation: Validation, wishes: Wishes) -> dict[str, tuple[float, str]]:
    """The user's bars go before the recipe's, and those before the variant's."""
    named = (
        (variant.bars, f"variant {variant.id}"),
        (validation.bars, "distill recipe"),
        (wishes.bars, USER),
    )
    return {name: (value, whose) for bars, whose in named for name, value in bars.items()}


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)
