"""What a published checkpoint says of itself: its lock file, config and model card, at one commit of its repository."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from linzoo.checkpoints.address import HubAddress
from linzoo.checkpoints.folder import PIPELINE_CONFIG
from linzoo.checkpoints.hub_errors import hub_errors
from linzoo.checkpoints.license import license_in
from linzoo.checkpoints.linfusion import CONFIG_NAME, LinFusionConfig
from linzoo.checkpoints.lock import LOCK_NAME, read_lock
from linzoo.plugin.spec import ID
from linzoo.zoo.entry import ZooEntry
from linzoo.zoo.errors import ZooError
from linzoo.zoo.facts import entry_of

if TYPE_CHECKING:
    from linzoo.registry import Registry


def read_published(address: HubAddress, registry: Registry) -> ZooEntry:
    """Read how an index lists a checkpoint; no weights are fetched.

    Args:
        address: the repository, and the revision whose commit the entry pins.
        registry: whose plugins may ship the model that it was made for.

    Raises:
        ZooError: linzoo did not make it, or it does not say what an index needs.
        CheckpointError: the Hub cannot be asked, or a file is damaged.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    with hub_errors(str(address)):
        info = api.model_info(address.repo, revision=address.revision)
        names = {each.rfilename for each in info.siblings or ()}
        if LOCK_NAME not in names:
            raise ZooError(f"{address}: has no {LOCK_NAME}; only what linzoo made can be listed")
        config_name = f"unet/{CONFIG_NAME}" if PIPELINE_CONFIG in names else CONFIG_NAME
        lock_path, config_path = (
            Path(api.hf_hub_download(address.repo, name, revision=info.sha))
            for name in (LOCK_NAME, config_name)
        )
    license = license_in(info.card_data.to_dict() if info.card_data else {}, "declared on its card")
    lock = read_lock(lock_path.parent)
    assert lock is not None  # it was fetched a moment ago
    return entry_of(
        lock,
        LinFusionConfig.from_folder(config_path.parent),
        registry,
        repo=address.repo,
        commit=info.sha,
        license=None if license is None else license.name or license.id,
        measures=_measures(info.card_data),
    )


def _measures(card: Any) -> dict[str, float]:
    """The figures in a card's model-index, as far as they are named as measures are."""
    results = getattr(card, "eval_results", None) or ()
    return {
        each.metric_type: each.metric_value
        for each in results
        if ID.fullmatch(each.metric_type) and type(each.metric_value) in (int, float)
    }
