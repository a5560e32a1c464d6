"""The component configs that a variant bundles, so that a single file works without a network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from linzoo.checkpoints.folder import read_json
from linzoo.plugin import thaw

if TYPE_CHECKING:
    from linzoo.plugin import Variant


def component_config(variant: Variant, component: str) -> dict[str, Any]:
    """Return the bundled config of one component (``unet``, ``vae``, ``scheduler``, …) with the variant's overrides.

    Raises:
        CheckpointError: the variant bundles no such component.
    """
    folder = variant.components.locate() / component
    name = "scheduler_config.json" if component == "scheduler" else "config.json"
    return {**read_json(folder / name), **thaw(variant.component_overrides.get(component, {}))}
