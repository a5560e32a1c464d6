from __future__ import annotations

from typing import Any

import pytest
from huggingface_hub import constants

from linzoo.errors import UsageError
from linzoo.plugin import Encoder, LazyRef, Variant
from linzoo.registry import Catalog, PluginStatus, Registered, Registry, UnknownIdError, build_registry
from linzoo.registry.candidates import builtin_candidates
from linzoo.validation.encoders import choosing
from linzoo.validation.encoders.choosing import Choice, choose

HOME = PluginStatus(builtin_candidates(["linzoo_fake"])[0])
ABSENT = "no-such-package-of-linzoo"


def yes() -> bool:
    return True


def no() -> bool:
    return False


def encoder(id: str, kind: Any = "image", mb: int = 0, cached: bool = False, **fields: Any) -> Encoder:
    answer = LazyRef(f"{__name__}:{'yes' if cached else 'no'}") if mb else None
    built = LazyRef("linzoo:nothing_here")
    return Encoder(id=id, kind=kind, build=built, license="mit", download_mb=mb, cached=answer, **fields)


@pytest.fixture(scope="module")
def registry() -> Registry:
    return build_registry(entry_points=False)


@pytest.fixture(scope="module")
def lineage(registry: Registry) -> tuple[Registered[Variant], ...]:
    return registry.lineage("sd15-inpaint")


def pick(lineage: Any, *encoders: Encoder, downloads: bool = True, **wishes: Any) -> Choice:
    catalog = Catalog("encoder", [Registered(each, HOME) for each in encoders], [HOME])
    return choose(catalog, lineage, downloads=downloads, **{"kinds": ("image",), **wishes})


def ids(choice: Choice) -> dict[str, str]:
    return {kind: each.value.id for kind, each in choice.encoders.items()}


ORDER = (
    encoder("z-own", variants=("sd15",)),
    encoder("inception-v3", mb=91),
    encoder("y-packaged"),
    encoder("w-own-online", mb=500, variants=("sd15-inpaint",)),
    encoder("u-small-online", mb=10),
    encoder("a-large-online", mb=900),
)


@pytest.mark.parametrize("first", range(len(ORDER)))
def test_the_first_that_can_be_had_is_taken(lineage: Any, first: int) -> None:
    choice = pick(lineage, encoder("other", variants=("sdxl",)), *reversed(ORDER[first:]))
    assert ids(choice) == {"image": ORDER[first].id}
    assert not choice.missing


def test_what_was_downloaded_before_is_here(lineage: Any) -> None:
    known = encoder("known", mb=900, cached=True)
    choice = pick(lineage, encoder("online", mb=10), known, downloads=False)
    assert (ids(choice), choice.notes) == ({"image": "known"}, ())
    assert ids(pick(lineage, encoder("online", mb=10), known)) == {"image": "known"}


def test_a_download_is_announced_with_its_size_and_licence(lineage: Any) -> None:
    choice = pick(lineage, encoder("online", mb=1710))
    assert choice.notes == ("online (FID and KID): 1,710 MB will be downloaded, licence mit",)


def test_without_downloads_it_is_skipped_and_says_why(lineage: Any) -> None:
    choice = pick(lineage, encoder("small", mb=10), encoder("big", mb=1710), downloads=False)
    assert choice.encoders == {}
    assert choice.missing == {"image": "small: its 10 MB are not here, and HF_HUB_OFFLINE is set"}
    assert choice.notes == (f"FID and KID: skipped, {choice.missing['image']}",)


def test_what_is_not_installed_is_skipped_and_says_what_to_install(lineage: Any) -> None:
    choice = pick(
        lineage, encoder("lpips", "distance", mb=9, packages=("torch", ABSENT)), kinds=("distance",)
    )
    assert choice.missing == {"distance": f"lpips: pip install {ABSENT}"}
    assert choice.notes == (f"LPIPS: skipped, lpips: pip install {ABSENT}",)


def test_a_kind_without_any_encoder_is_skipped(lineage: Any) -> None:
    choice = pick(lineage, encoder("x", variants=("sdxl",)))
    assert choice.missing == {"image": "no plugin has an encoder for it (linzoo list encoders)"}


def test_it_says_so_where_another_network_stands_in_for_inception(lineage: Any) -> None:
    standard = encoder("inception-v3", mb=91, packages=(ABSENT,))
    choice = pick(lineage, encoder("packaged"), standard)
    assert ids(choice) == {"image": "packaged"}
    assert choice.notes == (
        f"FID and KID: by packaged in place of inception-v3 (pip install {ABSENT});"
        " do not compare them with published figures",
    )


def test_a_named_one_is_taken_whatever_else_there_is(lineage: Any) -> None:
    others = (encoder("packaged"), encoder("foreign", variants=("sdxl",)))
    choice = pick(lineage, *others, named=("foreign",))
    assert ids(choice) == {"image": "foreign"}
    assert choice.notes == ("foreign was made for pictures of sdxl alone",)


def test_a_named_one_is_taken_though_its_kind_is_not_asked_for(lineage: Any) -> None:
    choice = pick(lineage, encoder("packaged"), encoder("lpips", "distance"), named=("lpips",))
    assert ids(choice) == {"distance": "lpips", "image": "packaged"}


@pytest.mark.parametrize(
    ("named", "words"),
    [
        (("online",), "encoder 'online' cannot be used: its 10 MB are not here, and HF_HUB_OFFLINE is set"),
        (("lacking",), f"encoder 'lacking' cannot be used: pip install {ABSENT}"),
        (("packaged", "other"), "encoders 'packaged' and 'other' are both of kind image; name one of a kind"),
    ],
)
def test_a_named_one_that_cannot_be_had_is_an_error(lineage: Any, named: tuple[str, ...], words: str) -> None:
    lacking = encoder("lacking", packages=(ABSENT,))
    everything = (encoder("online", mb=10), lacking, encoder("packaged"), encoder("other"))
    with pytest.raises(UsageError) as raised:
        pick(lineage, *everything, named=named, downloads=False)
    assert str(raised.value) == words


def test_a_named_one_that_nobody_has_is_an_error(lineage: Any) -> None:
    with pytest.raises(UnknownIdError, match=r"(?s)unknown encoder 'packged'.*did you mean 'packaged'"):
        pick(lineage, encoder("packaged"), named=("packged",))


def test_a_broken_cache_question_takes_only_that_encoder_away(lineage: Any) -> None:
    broken = Encoder(
        id="broken",
        kind="image",
        build=LazyRef("linzoo:x"),
        license="mit",
        download_mb=1,
        cached=LazyRef("linzoo:nothing_here"),
    )
    assert ids(pick(lineage, broken, encoder("packaged", mb=5))) == {"image": "packaged"}
    assert "LZP501" in pick(lineage, broken).missing["image"]


def test_mini_is_looked_at_with_its_own_clip_and_others_are_not(registry: Registry) -> None:
    mini = choose(registry.encoders, registry.lineage("mini"), downloads=False)
    assert mini.encoders["image-text"].value.id == "mini-clip"
    sd15 = choose(registry.encoders, registry.lineage("sd15"), downloads=False, kinds=("image-text",))
    assert "image-text" not in ids(sd15) or ids(sd15)["image-text"].startswith("clip-vit-")


def test_the_smallest_published_clip_is_what_would_be_downloaded(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    choice = choose(registry.encoders, registry.lineage("sd15"), downloads=True, kinds=("image-text",))
    assert ids(choice) == {"image-text": "clip-vit-large-patch14"}


@pytest.mark.parametrize("offline", [True, False])
def test_downloads_are_off_where_the_hub_is(monkeypatch: pytest.MonkeyPatch, offline: bool) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    assert choosing.downloads_allowed() is not offline
