"""Under which licence a LinFusion checkpoint is published: inherited from what it was made from, never assumed.

Linear weights are a derivative of the teacher's. Licences are read from the model cards of everything that the lock file names,
at the commits that it names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linzoo.checkpoints.address import HubAddress
from linzoo.checkpoints.hub_errors import hub_errors
from linzoo.checkpoints.license import OTHER, UNKNOWN, License, license_in
from linzoo.checkpoints.lock import address_of, made_from
from linzoo.checkpoints.shipped import shipped_under
from linzoo.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from linzoo.registry import Registry

ROLES = {
    "source": "the teacher",
    "linfusion": "the weights that it started from",
    "base": "their base model",
    "learnt_from": "the teacher of the distillation",
}
"""What a lock file says that a checkpoint was made from, in words."""

_WEB = ("http://", "https://")
_TEXTS = ("LICENSE", "LICENSE.md", "LICENSE.txt")


@dataclass(frozen=True)
class Claim:
    """What is known of the licence of one thing that a checkpoint was made from.

    Attributes:
        about: that thing, in words.
        license: its licence; None where nothing says.
        where: what was asked.
        address: the repository that was asked; None for what is not on the Hub.
        text: the file there that holds the licence's text; None where there is none.
    """

    about: str
    license: License | None
    where: str
    address: HubAddress | None = None
    text: str | None = None

    def fetch_text(self) -> Path | None:
        """The licence's text, fetched; None where there is none.

        Raises:
            CheckpointError: it cannot be had.
        """
        from huggingface_hub import hf_hub_download

        if self.address is None or self.text is None:
            return None
        with hub_errors(str(self.address)):
            return Path(hf_hub_download(self.address.repo, self.text, revision=self.address.revision))


def parse_license(text: str) -> License:
    """Read ``--license``: an id of the Hub's list, or ``NAME=LINK`` for a licence that is not on it.

    Raises:
        UsageError: it is neither.
    """
    origin = "declared by who published this"
    name, equals, link = text.partition("=")
    if equals:
        if not name or not link.startswith(_WEB):
            raise UsageError(f"--license {text}: not of the form NAME=https://where.its/text/is")
        return License(OTHER, name, link, origin)
    if text.lower() in (OTHER, UNKNOWN):
        raise UsageError(f"--license {text} does not say which; write NAME=https://where.its/text/is")
    if not text or not all(letter.isalnum() or letter in "-.+" for letter in text):
        raise UsageError(
            f"--license {text!r} is no id of a licence, such as apache-2.0 or creativeml-openrail-m"
        )
    return License(text.lower(), None, None, origin)


def claims(lock: Mapping[str, Any], registry: Registry) -> list[Claim]:
    """What is known of the licences of all that a lock file names.

    Raises:
        CheckpointError: the Hub cannot be asked.
    """
    return [_claim(role, record, registry) for role, record in made_from(lock).items()]


def settle(found: Sequence[Claim], declared: License | None) -> License:
    """The one licence that all claims come down to.

    Args:
        found: what is known; of claims that agree the first one's origin is told.
        declared: what the user says; it fills what is unknown and chooses where claims differ, and never replaces what all
            claims agree on.

    Raises:
        CheckpointError: it is unknown, or differs and the user has not chosen, or would be replaced by another one.
    """
    known: dict[tuple[str, str | None], License] = {}
    for license in (claim.license for claim in found if claim.license is not None):
        known.setdefault(license.identity, license)
    if declared is not None and known and declared.identity not in known:
        raise CheckpointError(
            f"--license {declared} is not what this was made under:\n{_list(found)}\n"
            "  A checkpoint that was made from a model keeps the model's licence; leave out --license."
        )
    if len(known) > 1:
        if declared is None:
            raise CheckpointError(
                f"what this was made from is under different licences:\n{_list(found)}\n"
                "  Read them; where one of them covers what was made from all, name it with --license."
            )
        return replace(known[declared.identity], origin=f"chosen among those of {_and(found)}")
    if declared is None and (not found or any(claim.license is None for claim in found)):
        raise CheckpointError(
            f"the licence is unknown:\n{_list(found) or '  nothing says what this was made from'}\n"
            "  Find out under which licence you have it, and name that with --license (apache-2.0, or NAME=LINK for one that"
            " is not on the Hub's list)."
        )
    settled = next(iter(known.values()), declared)
    assert settled is not None  # nothing known and nothing declared was refused above
    return settled


def require_agreement(settled: License, card: str | None, repo: str) -> None:
    """Refuse to change the licence that the card of the repository declares already.

    Args:
        settled: the licence that would be published.
        card: the text of the card; None where there is none.
        repo: the id of the repository.

    Raises:
        CheckpointError: the card declares another one, or its metadata is no YAML.
    """
    from huggingface_hub import ModelCard
    from yaml import YAMLError

    if card is None:
        return
    try:
        data = ModelCard(card, ignore_metadata_errors=False).data.to_dict()
    except (ValueError, YAMLError) as error:
        raise CheckpointError(
            f"{HubAddress(repo)}: the metadata of its README.md is damaged ({error}); mend it on the Hub"
        ) from error
    there = license_in(data, "")
    if there is not None and there.identity != settled.identity:
        raise CheckpointError(
            f"{HubAddress(repo)}: its README.md says that it is under {there}, and this would be under {settled}"
            f" ({settled.origin}); if the card is wrong, change it there first"
        )


def _claim(role: str, record: Mapping[str, Any], registry: Registry) -> Claim:
    about = ROLES[role]
    if (address := address_of(record)) is not None:
        return claim_of(address, about)
    shipped = shipped_under(record, registry)
    if shipped is not None and shipped.variant.license:
        where = f"what ships with linzoo as '{shipped.name}'"
        return Claim(about, License(shipped.variant.license, None, None, f"that of {where}"), where)
    return Claim(about, None, "a local file, which carries no licence")


def claim_of(address: HubAddress, about: str) -> Claim:
    """What the model card of a repository declares, at one commit.

    Raises:
        CheckpointError: the Hub cannot be asked.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    with hub_errors(str(address)):
        info = api.model_info(address.repo, revision=address.revision)
    where = f"the card of {address.repo} at commit {str(info.sha)[:7]}"
    license = license_in(info.card_data.to_dict() if info.card_data else {}, f"inherited from {where}")
    names = {each.rfilename for each in info.siblings or ()}
    text = next((name for name in _TEXTS if name in names), None)
    if license is not None and license.link is not None and not license.link.startswith(_WEB):
        # A file of that repository, which means nothing on the card of another one.
        text = license.link if license.link in names else text
        license = replace(license, link=f"{api.endpoint}/{address.repo}/blob/{info.sha}/{license.link}")
    return Claim(about, license, where, HubAddress(address.repo, info.sha), text)


def _list(found: Sequence[Claim]) -> str:
    return "\n".join(f"  {claim.about}: {claim.license or 'unknown'} ({claim.where})" for claim in found)


def _and(found: Sequence[Claim]) -> str:
    return " and ".join(f"{claim.about} ({claim.license or 'unknown'})" for claim in found)
