"""Does a LinFusion checkpoint fit a UNet? Told from headers alone."""

from __future__ import annotations

from collections.abc import Iterable

from linzoo.attention.plan import AttentionSite
from linzoo.checkpoints.linfusion import LinFusionConfig


def misfits(config: LinFusionConfig, sites: Iterable[AttentionSite]) -> dict[str, str]:
    """The modules of a checkpoint that a UNet has no place for, by name, and why.

    Args:
        config: of the checkpoint.
        sites: the UNet's self-attentions, as :func:`linzoo.attention.plan.sites_of` finds them.
    """
    there = {site.name: (site.dim, site.heads) for site in sites}
    found = {}
    for module in config.modules:
        place = there.get(module.module_name)
        if place != (module.dim_n, module.heads):
            here = (
                "no such self-attention"
                if place is None
                else f"one of width {place[0]} with {place[1]} heads"
            )
            found[module.module_name] = (
                f"of width {module.dim_n} with {module.heads} heads, and the teacher has {here}"
            )
    return found
