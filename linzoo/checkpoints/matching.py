"""Which registered variant a UNet is: the same fingerprint, and every tensor of the variant there in its shape."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from linzoo.checkpoints.components import component_config
from linzoo.checkpoints.ldm import UNetKeyMap
from linzoo.checkpoints.manifest import Shape, unet_manifest
from linzoo.errors import LinzooError, PluginError
from linzoo.plugin import Fingerprint, Variant

if TYPE_CHECKING:
    from linzoo.registry import Registry
    from linzoo.registry.catalog import Registered

_SHOWN = 3


@dataclass(frozen=True)
class Fit:
    """How a UNet's tensors compare with those of a variant, in the names of the file's layout."""

    entry: Registered[Variant]
    total: int
    missing: tuple[str, ...]
    resized: tuple[tuple[str, Shape, Shape], ...]
    extra: tuple[str, ...]

    @property
    def variant(self) -> Variant:
        """The variant compared with."""
        return self.entry.value

    @property
    def matched(self) -> int:
        """How many of the variant's tensors are there in the right shape."""
        return self.total - len(self.missing) - len(self.resized)

    @property
    def complete(self) -> bool:
        """Whether all of the variant's tensors are there in the right shape."""
        return self.matched == self.total

    def explain(self) -> str:
        """One line: how many tensors fit, and the first few that do not."""
        parts = [f"{self.matched} of {self.total} tensors of {self.variant.id}"]
        if self.missing:
            parts.append(f"missing: {_some(self.missing)}")
        if self.resized:
            texts = [f"{name} is {list(got)} instead of {list(want)}" for name, got, want in self.resized]
            parts.append(f"other shape: {_some(texts)}")
        if self.extra:
            parts.append(f"besides: {_some(self.extra)}")
        return "; ".join(parts)


def fit(entry: Registered[Variant], shapes: Mapping[str, Shape], *, ldm: bool) -> Fit:
    """Compare a UNet's shapes (by name inside the UNet) with a variant's manifest.

    Raises:
        PluginError: the variant's bundled UNet config cannot be used.
    """
    try:
        wanted = dict(_in_layout(component_config(entry.value, "unet"), ldm))
    except (LinzooError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise PluginError(
            f"variant '{entry.full_id}' bundles no UNet config that can be used ({type(error).__name__}: {error})"
        ) from error
    missing = tuple(name for name in wanted if name not in shapes)
    resized = tuple(
        (name, shapes[name], shape) for name, shape in wanted.items() if shapes.get(name, shape) != shape
    )
    extra = tuple(name for name in shapes if name not in wanted)
    return Fit(entry, len(wanted), missing, resized, extra)


def matches(
    registry: Registry, fingerprint: Fingerprint, shapes: Mapping[str, Shape], *, ldm: bool
) -> list[Fit]:
    """The variants that fit completely; a special case goes before what it refines, and ``before`` decides the rest."""
    entries = [entry for entry in registry.variants if entry.value.fingerprint == fingerprint]
    complete = [each for each in fits(entries, shapes, ldm=ldm) if each.complete]
    beaten = {id(loser) for each in complete for loser in _loses_to(registry, each.entry)}
    return [each for each in complete if id(each.entry) not in beaten]


def closest(registry: Registry, shapes: Mapping[str, Shape], *, ldm: bool) -> Fit | None:
    """The variant of which most tensors fit; None when not even half of any variant's do."""
    compared = fits(registry.variants, shapes, ldm=ldm)
    best = max(compared, key=lambda each: (each.matched / each.total, -len(each.extra)), default=None)
    return best if best and best.matched * 2 >= best.total else None


def fits(entries: Iterable[Registered[Variant]], shapes: Mapping[str, Shape], *, ldm: bool) -> Iterator[Fit]:
    """Compare with several variants; one whose configs cannot be used is left out."""
    for entry in entries:
        with contextlib.suppress(PluginError):  # a plugin with broken configs must not hide the others
            yield fit(entry, shapes, ldm=ldm)


def _loses_to(registry: Registry, entry: Registered[Variant]) -> Iterator[Registered[Variant]]:
    """The variants that this one goes before: those it names, what it refines, and what that goes before.

    The registry has no circles of these.
    """
    for reference in entry.value.before:
        yield from _resolve(registry, reference, entry)
    if entry.value.refines:
        for general in _resolve(registry, entry.value.refines, entry):
            yield general
            yield from _loses_to(registry, general)


def _resolve(registry: Registry, reference: str, entry: Registered[Variant]) -> Iterator[Registered[Variant]]:
    """The entry that a reference means; nothing where two plugins provide that id."""
    with contextlib.suppress(PluginError):
        yield registry.variants.resolve(reference, entry.plugin)


def _in_layout(config: Mapping[str, Any], ldm: bool) -> Iterator[tuple[str, Shape]]:
    keys = UNetKeyMap(config) if ldm else None
    for name, shape in unet_manifest(config).items():
        try:
            yield (keys.to_ldm(name) if keys else name), shape
        except KeyError:
            continue  # the LDM layout has no such tensor


def _some(texts: Iterable[str]) -> str:
    texts = list(texts)
    more = f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return ", ".join(texts[:_SHOWN]) + more
