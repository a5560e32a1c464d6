"""Which encoders a validation looks with: what is here goes before what must be downloaded, and nothing comes unannounced."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING

from huggingface_hub import constants

from linzoo.errors import PluginError, UsageError
from linzoo.plugin import Encoder, Variant

if TYPE_CHECKING:
    from linzoo.registry import Catalog, Registered

KINDS: Mapping[str, str] = {
    "image": "FID and KID",
    "image-text": "CLIP score and CMMD",
    "distance": "LPIPS",
}
"""The kinds of encoders, and what each is for."""

_STANDARD = "inception-v3"
"""It goes before other networks for pictures of any variant even if it must be downloaded: published FID is of it."""


@dataclass(frozen=True)
class Choice:
    """The encoders that a validation looks with.

    Attributes:
        encoders: by kind.
        missing: by kind, why there is none.
        notes: what people should know before it starts: what will be downloaded, what is skipped, and what to do about it.
    """

    encoders: Mapping[str, Registered[Encoder]]
    missing: Mapping[str, str]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Offer:
    """An encoder, and how it is to be had.

    Attributes:
        entry: the encoder.
        own: it was made for this variant.
        here: it can be used without a download.
        obstacle: why it cannot be used; empty if it can.
    """

    entry: Registered[Encoder]
    own: bool
    here: bool
    obstacle: str

    @property
    def rank(self) -> tuple[bool, bool, bool, bool, int, str]:
        """Of several that can be used, the one with the least is taken."""
        encoder = self.entry.value
        return (
            not (self.own and self.here),
            encoder.id != _STANDARD,
            not self.here,
            not self.own,
            encoder.download_mb,
            encoder.id,
        )


def downloads_allowed() -> bool:
    """Whether networks may be downloaded: not if ``HF_HUB_OFFLINE`` is set, wherever they would come from."""
    return not constants.HF_HUB_OFFLINE


def choose(
    catalog: Catalog[Encoder],
    lineage: Sequence[Registered[Variant]],
    *,
    named: Iterable[str] = (),
    kinds: Iterable[str] = tuple(KINDS),
    downloads: bool,
) -> Choice:
    """Choose one encoder of each kind. None is built or downloaded yet; what is not installed is not imported.

    A named one is taken. Else it is the first of: made for this variant and here; for any variant and here; made for
    this variant and to be downloaded; for any and to be downloaded. Among equals the smallest download goes first.
    ``inception-v3`` goes before all others that are made for any variant.

    Args:
        catalog: what plugins provide.
        lineage: the variant, and those that it refines (``Registry.lineage``).
        named: ids that the user names, one of a kind at most.
        kinds: the kinds that are wanted besides those named.
        downloads: whether they may be downloaded.

    Raises:
        UsageError: a named one cannot be used, or two are of one kind.
        PluginError: a named one is not there.
    """
    variants = {name for each in lineage for name in (each.value.id, each.full_id)}
    chosen = _named([_offer(catalog[name], variants, downloads) for name in named])
    missing: dict[str, str] = {}
    notes: list[str] = []
    for kind in kinds:
        if kind in chosen:
            continue
        offers = [_offer(entry, variants, downloads) for entry in catalog if entry.value.kind == kind]
        offers = sorted((each for each in offers if _fits(each)), key=lambda each: each.rank)
        usable = [each for each in offers if not each.obstacle]
        if usable:
            chosen[kind] = usable[0]
            notes += _not_standard(usable[0], offers)
        else:
            missing[kind] = _why(offers)
            notes.append(f"{KINDS[kind]}: skipped, {missing[kind]}")
    for each in chosen.values():
        notes += _notes(each)
    return Choice({kind: each.entry for kind, each in chosen.items()}, missing, tuple(notes))


def _named(offers: Sequence[_Offer]) -> dict[str, _Offer]:
    chosen: dict[str, _Offer] = {}
    for offer in offers:
        encoder = offer.entry.value
        other = chosen.setdefault(encoder.kind, offer)
        if other is not offer:
            raise UsageError(
                f"encoders '{other.entry.value.id}' and '{encoder.id}' are both of kind {encoder.kind}; name one of a kind"
            )
        if offer.obstacle:
            raise UsageError(f"encoder '{encoder.id}' cannot be used: {offer.obstacle}")
    return chosen


def _offer(entry: Registered[Encoder], variants: set[str], downloads: bool) -> _Offer:
    encoder = entry.value
    here, obstacle = _availability(encoder, downloads)
    return _Offer(entry, not variants.isdisjoint(encoder.variants), here, obstacle)


def _fits(offer: _Offer) -> bool:
    return offer.own or not offer.entry.value.variants


def _availability(encoder: Encoder, downloads: bool) -> tuple[bool, str]:
    """Whether it can be used without a download, and why it cannot be used at all."""
    lacking = [name for name in encoder.packages if not _is_installed(name)]
    if lacking:
        return False, f"pip install {' '.join(lacking)}"
    if encoder.cached is None:
        return True, ""
    try:
        cached = encoder.cached.load()()
    except PluginError as error:
        return False, str(error)
    if cached or downloads:
        return bool(cached), ""
    return False, f"its {encoder.download_mb:,} MB are not here, and HF_HUB_OFFLINE is set"


def _is_installed(package: str) -> bool:
    try:
        metadata.distribution(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def _why(offers: Sequence[_Offer]) -> str:
    """Why none of these can be used: what is in the way of the one that takes the smallest download."""
    if not offers:
        return "no plugin has an encoder for it (linzoo list encoders)"
    easiest = min(offers, key=lambda each: each.entry.value.download_mb)
    return f"{easiest.entry.value.id}: {easiest.obstacle}"


def _not_standard(chosen: _Offer, offers: Sequence[_Offer]) -> list[str]:
    """What to say where the standard network gave way to another one for want of something."""
    return [
        f"{KINDS[each.entry.value.kind]}: by {chosen.entry.value.id} in place of {_STANDARD} ({each.obstacle});"
        " do not compare them with published figures"
        for each in offers
        if each.entry.value.id == _STANDARD and each.obstacle
    ]


def _notes(chosen: _Offer) -> list[str]:
    encoder = chosen.entry.value
    notes = []
    if not chosen.here:
        notes.append(
            f"{encoder.id} ({KINDS[encoder.kind]}): {encoder.download_mb:,} MB will be downloaded,"
            f" licence {encoder.license}"
        )
    if not _fits(chosen):
        notes.append(f"{encoder.id} was made for pictures of {', '.join(encoder.variants)} alone")
    return notes
