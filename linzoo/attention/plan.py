"""Which self-attention of a UNet gets which mixer: the sites of a UNet, and an attention plan applied to them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from linzoo.errors import CheckpointError, LinzooError, PluginError, UsageError
from linzoo.plugin import AttentionPlan, AttentionRule, FrozenMap, Mixer

if TYPE_CHECKING:
    from linzoo.registry import Registered, Registry

# Modules that diffusers calls ``attn1`` but that look along time, not over the picture.
_TEMPORAL = ("motion_modules", "temp_attentions", "temporal_transformer_blocks")
_SITE = re.compile(r"(?P<name>(?P<block>(?:down|up)_blocks\.\d+|mid_block)\.(?:.+\.)?attn1)\.to_q\.weight")
_BLOCKS = ("down_blocks", "up_blocks", "mid_block")  # the order of ``UNet2DConditionModel.named_modules()``


@dataclass(frozen=True)
class AttentionSite:
    """One self-attention of a UNet.

    Attributes:
        name: dotted module name, for example ``down_blocks.0.attentions.0.transformer_blocks.0.attn1``.
        dim: width C of its tokens.
        heads: number of heads.
    """

    name: str
    dim: int
    heads: int


@dataclass(frozen=True)
class Placement:
    """What an attention plan puts at a site.

    Attributes:
        site: where.
        mixer: the mixer; ``softmax`` keeps the teacher's attention.
        options: the mixer's options that the plan sets.
    """

    site: AttentionSite
    mixer: Mixer
    options: Mapping[str, Any] = field(default_factory=FrozenMap)

    @property
    def replaced(self) -> bool:
        """Whether the teacher's attention goes."""
        return self.mixer.module is not None

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor of the mixer at this site, by the name inside the module; empty for softmax.

        Raises:
            UsageError: the mixer refuses these options.
            PluginError: the mixer fails.
        """
        if self.mixer.tensors is None:
            return {}
        tensors = self.mixer.tensors.load()
        try:
            shapes = tensors(self.site.dim, self.site.heads, {**self.mixer.options, **self.options})
            return {name: tuple(shape) for name, shape in shapes.items()}
        except LinzooError:
            raise
        except Exception as error:
            raise PluginError(
                f"mixer '{self.mixer.id}' cannot tell its tensors at '{self.site.name}':"
                f" {type(error).__name__}: {error}"
            ) from error


def sites_of(config: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]) -> list[AttentionSite]:
    """Find the self-attention modules of a UNet in the order of diffusers' ``named_modules()``.

    Only true self-attention counts: ``attn1`` is cross-attention where the config says ``only_cross_attention``,
    and looks along time inside a motion module.

    Args:
        config: a diffusers ``UNet2DConditionModel`` config.
        shapes: shape of each tensor by diffusers name.

    Raises:
        CheckpointError: the config is incomplete, or does not fit the shapes.
    """
    levels = _levels(config)
    heads = _per_level(
        config.get("num_attention_heads") or config.get("attention_head_dim") or 8, levels, int
    )
    cross = _per_level(config.get("only_cross_attention") or False, levels, bool)
    per_block = {f"down_blocks.{level}": (heads[level], cross[level]) for level in range(levels)}
    per_block |= {f"up_blocks.{levels - 1 - level}": (heads[level], cross[level]) for level in range(levels)}
    per_block["mid_block"] = (heads[-1], False)  # diffusers gives it self-attention whatever the config says

    sites = []
    for match in filter(None, map(_SITE.fullmatch, shapes)):
        name, block = match["name"], match["block"]
        if block not in per_block:
            raise CheckpointError(
                f"the UNet holds '{name}', but its config has {levels} levels: config and weights do not belong"
                " together"
            )
        block_heads, is_cross = per_block[block]
        if not is_cross and not any(part in _TEMPORAL for part in name.split(".")):
            sites.append(_site(name, block_heads, shapes[f"{name}.to_q.weight"]))
    return sorted(sites, key=_module_order)


def _levels(config: Mapping[str, Any]) -> int:
    types = config.get("down_block_types")
    if not isinstance(types, list | tuple) or not types:
        raise CheckpointError(
            "the UNet config has no 'down_block_types'; it is no config of a diffusers UNet"
        )
    return len(types)


def _per_level(value: Any, levels: int, kind: type) -> list[Any]:
    """Spread a config value over the levels as diffusers does.

    (``attention_head_dim`` is, by an old mistake that diffusers keeps, the *number* of heads.)
    """
    values = list(value) if isinstance(value, list | tuple) else [value] * levels
    fit = all(type(each) is kind for each in values) and (kind is bool or min(values) > 0)
    if len(values) != levels or not fit:
        raise CheckpointError(
            f"the UNet config has {levels} levels, and {value!r} where it should give heads or flags for them"
        )
    return values


def _site(name: str, heads: int, shape: Sequence[int]) -> AttentionSite:
    if len(shape) != 2:
        raise CheckpointError(f"'{name}.to_q.weight' has shape {list(shape)} and is no matrix")
    inner, dim = shape
    if inner != dim or dim % heads:
        raise CheckpointError(
            f"'{name}' has a {inner}x{dim} query matrix and {heads} heads: a linear attention needs a square one"
            " whose width the heads divide; is this the right variant?"
        )
    return AttentionSite(name, dim, heads)


def _module_order(site: AttentionSite) -> tuple[int, list[int]]:
    return (
        _BLOCKS.index(site.name.split(".", 1)[0]),
        [int(part) for part in site.name.split(".") if part.isdigit()],
    )


def resolve_plan(
    plan: Registered[AttentionPlan], sites: Iterable[AttentionSite], registry: Registry
) -> list[Placement]:
    """Apply a plan to the sites of a UNet: the first rule that matches a site decides.

    Args:
        plan: the plan, with the plugin that it came from.
        sites: as :func:`sites_of` gives them.
        registry: where the mixers that the plan names are looked up.

    Raises:
        UsageError: a site matches no rule, another number of sites is replaced than the plan expects, or a mixer
            does not take one of the options.
        UnknownIdError: no plugin provides a mixer that the plan names.
    """
    rules = plan.value.rules
    mixers = {rule.mixer: registry.mixers.resolve(rule.mixer, plan.plugin).value for rule in rules}
    for rule in rules:
        _check_options(plan.value, rule, mixers[rule.mixer])
    placements: list[Placement] = []
    unmatched: list[str] = []
    for site in sites:
        first = next((rule for rule in rules if _matches(rule, site)), None)
        if first is None:
            unmatched.append(f"{site.name} ({site.dim} channels)")
        else:
            placements.append(Placement(site, mixers[first.mixer], first.options))
    if unmatched:
        raise UsageError(
            f"attention plan '{plan.value.id}' has no rule for {len(unmatched)} of the UNet's self-attention modules:"
            f"\n  {_some(unmatched)}\n  add a rule with match='*' at its end"
        )
    replaced = sum(placement.replaced for placement in placements)
    if replaced != plan.value.expect_replaced:
        raise UsageError(
            f"attention plan '{plan.value.id}' expects to replace {plan.value.expect_replaced} self-attention modules, but"
            f" replaces {replaced} of this UNet's {len(placements)}: the plan is for another structure, or weights"
            " are missing from the checkpoint"
        )
    return placements


def _matches(rule: AttentionRule, site: AttentionSite) -> bool:
    return fnmatchcase(site.name, rule.match) and rule.channels in (None, site.dim)


def _check_options(plan: AttentionPlan, rule: AttentionRule, mixer: Mixer) -> None:
    for name in rule.options:
        if name not in mixer.options:
            close = get_close_matches(name, mixer.options, n=1)
            known = ", ".join(sorted(mixer.options)) or "none"
            hint = f"did you mean '{close[0]}'?" if close else f"it takes: {known}"
            raise UsageError(
                f"attention plan '{plan.id}': mixer '{rule.mixer}' takes no option '{name}'; {hint}"
            )


def _some(names: list[str], most: int = 5) -> str:
    shown = names[:most] + ([f"… and {len(names) - most} more"] if len(names) > most else [])
    return "\n  ".join(shown)
