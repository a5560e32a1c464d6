"""The LinFusion checkpoint that a shipped variant's default attention plan leads to, without weights."""

from __future__ import annotations

from linzoo.attention.plan import resolve_plan, sites_of
from linzoo.checkpoints.components import component_config
from linzoo.checkpoints.linfusion import LinFusionConfig
from linzoo.checkpoints.manifest import unet_manifest
from linzoo.init.planning import module_entry
from linzoo.plugin import Variant
from linzoo.registry import Registered, Registry


def default_layout(variant: Registered[Variant], registry: Registry) -> LinFusionConfig:
    """Its config."""
    config = component_config(variant.value, "unet")
    plan = registry.plans.resolve(variant.value.default_plan, variant.plugin)
    placements = resolve_plan(plan, sites_of(config, unet_manifest(config)), registry)
    return LinFusionConfig(tuple(module_entry(each) for each in placements if each.replaced))
