"""Putting mixers in the place of a UNet's self-attentions, and giving the teacher's attentions back.

A layer is mounted by turning the ``Attention`` that stands in the UNet into a
:class:`~linzoo.attention.mounted.MountedAttention`: the object stays, and with it its place, its hooks and the adapters
(LoRA) on its linear layers; its class changes, the linear layers below the adapters are replaced by the checkpoint's,
and the mixer's own children (``to_q_``, ``to_k_``) are added. Unmounting undoes exactly that on what is there by
then, so that a LoRA which was loaded meanwhile stays too.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from typing import Any, NoReturn

import torch
from diffusers.models.attention_processor import Attention, FusedAttnProcessor2_0
from linzoo_kernels.leaves import is_hooked
from torch import nn

from linzoo.attention.errors import MountError
from linzoo.attention.leaves import LEAVES, base_of, replace_base
from linzoo.attention.linfusion import LinFusion
from linzoo.attention.mounted import MountedAttention

_SHOWN = 3


def mount(
    unet: nn.Module, linfusion: LinFusion, *, min_tokens: int = 0, own_weights: bool = False
) -> dict[str, MountedAttention]:
    """Replace the self-attentions that ``linfusion`` names; all of them, or none if anything does not fit.

    Weights that checkpoint and teacher have in common, bit for bit, exist once afterwards (the teacher's). Of the
    others the teacher's are kept for :func:`unmount`: up to four matrices a layer, 99 MB for SD 1.5 and 819 MB for
    SD-XL in half precision. With ``min_tokens`` they are part of the UNet and move with it; without, they stay on
    the device that they are on now (mount before ``.to("cuda")`` to keep them in host memory) until unmounted.

    Args:
        unet: a UNet or ControlNet of diffusers.
        linfusion: the checkpoint; its modules become part of the UNet, of this one alone, and take its device and
            dtype.
        min_tokens: a layer that is given fewer tokens than this computes the teacher's softmax attention.
        own_weights: for training. No weight is the teacher's, also where the numbers are the same, and each stays in
            the dtype that it has in ``linfusion``; the teacher's are part of the UNet beside them, so that
            :func:`~linzoo.attention.mounted.softmax` switches between the two.

    Returns:
        The mounted layers by name.

    Raises:
        MountError: a module does not exist, is no plain self-attention, has another width or number of heads, is
            already mounted, or is under an offloading, casting or caching hook.
    """
    sites = [unet.get_submodule(name) for name in _checked_names(unet, linfusion)]
    dtype = getattr(unet, "dtype", torch.float32)
    for index, site in enumerate(sites):
        _fit(linfusion.layer(index), site, None if own_weights else dtype)
    try:
        for index, site in enumerate(sites):
            moving = bool(min_tokens) or own_weights
            _mount_layer(site, linfusion.mixers[index], linfusion.layer(index), min_tokens, moving)
    except BaseException:
        unmount(unet)
        raise
    vars(unet)["save_pretrained"] = functools.partial(_refuse_to_save, len(sites))
    return mounted_layers(unet)


def mount_for_good(unet: nn.Module, linfusion: LinFusion) -> None:
    """Mount a checkpoint in a UNet that is made to have it: there is no teacher to give back, and it may be saved.

    Raises:
        MountError: as :func:`mount`.
    """
    for layer in mount(unet, linfusion).values():
        layer.teacher = {}
        layer.for_good = True
    del vars(unet)["save_pretrained"]


def unmount(unet: nn.Module, names: Collection[str] | None = None) -> None:
    """Give back the teacher's softmax attentions, bit for bit (cast, if the UNet was cast meanwhile).

    Adapters stay as they are now, those that were loaded while mounted among them. A UNet without mounted layers
    is left as it is. With ``names`` only these layers go.

    Raises:
        MountError: an offloading, casting or caching hook was put on a mounted layer and is still there; or the UNet
            is linear for good.
    """
    mounted = mounted_layers(unet)
    _refuse_for_good(mounted)
    layers = {name: layer for name, layer in mounted.items() if names is None or name in names}
    refuse_hooks(unet, layers)
    for layer in layers.values():  # before anything changes: it may run out of memory
        _move_teacher(layer)
    for layer in layers.values():
        _unmount_layer(layer)
    if len(layers) == len(mounted):
        vars(unet).pop("save_pretrained", None)


def mounted_layers(unet: nn.Module) -> dict[str, MountedAttention]:
    """The mounted layers of a UNet by name."""
    return {name: module for name, module in unet.named_modules() if isinstance(module, MountedAttention)}


def _checked_names(unet: nn.Module, linfusion: LinFusion) -> list[str]:
    refuse_mounted(unet)
    modules = dict(unet.named_modules())
    names = [entry.module_name for entry in linfusion.entries]
    missing = [name for name in names if name not in modules]
    if missing:
        raise MountError(
            f"The checkpoint is for another variant: {len(missing)} of its {len(names)} modules are not in this "
            f"{type(unet).__name__} ({_some(missing)}). 'linzoo inspect' tells which variant a model is."
        )
    for index, entry in enumerate(linfusion.entries):
        site = modules[entry.module_name]
        _check_site(entry.module_name, site, entry.heads, linfusion.layer(index))
    refuse_hooks(unet, {name: modules[name] for name in names})
    return names


def refuse_mounted(unet: nn.Module) -> None:
    """Say that a UNet has its linear attention already.

    Raises:
        MountError: it has; the message says how to take it out, or that it stays.
    """
    mounted = mounted_layers(unet)
    _refuse_for_good(mounted)
    if mounted:
        raise MountError(
            "LinFusion is already mounted in this UNet; call unload() on the handle that load returned, or "
            "linzoo.attention.mount.unmount(unet), first."
        )


def _refuse_for_good(mounted: Mapping[str, MountedAttention]) -> None:
    if any(layer.for_good for layer in mounted.values()):
        raise MountError(
            f"This UNet is linear already, and for good: LinFusion is merged into {len(mounted)} of its self-attentions, "
            "and the teacher's are not in it. Load the teacher's own pipeline to mount another checkpoint, or none."
        )


def _check_site(name: str, site: nn.Module, heads: int, weights: nn.ModuleDict) -> None:
    if type(site) is not Attention:
        raise MountError(
            f"{name} is no diffusers Attention but a {type(site).__name__}; it cannot be replaced."
        )
    if site.is_cross_attention or "motion_modules" in name.split("."):
        kind = "cross-attention" if site.is_cross_attention else "attention over time"
        raise MountError(f"{name} is {kind} in this UNet; only spatial self-attention can be replaced.")
    plain = (
        site.group_norm is None
        and site.spatial_norm is None
        and site.norm_q is None
        and site.added_kv_proj_dim is None
        and not site.residual_connection
        and site.rescale_output_factor == 1.0
    )
    if not plain:
        raise MountError(
            f"{name} does more than attend (a norm, added keys or a residual); it cannot be replaced."
        )
    if site.heads != heads:
        raise MountError(
            f"{name} has {site.heads} heads in this UNet, but {heads} in the checkpoint: the checkpoint is for "
            "another variant."
        )
    for path in LEAVES.values():
        new, old = base_of(weights.get_submodule(path)), base_of(site.get_submodule(path))
        shapes = [(each.out_features, each.in_features) for each in (new, old)]
        if shapes[0] != shapes[1]:
            raise MountError(
                f"{name}.{path} is {shapes[1][0]} x {shapes[1][1]} in this UNet, but {shapes[0][0]} x "
                f"{shapes[0][1]} in the checkpoint: the checkpoint is for another variant."
            )


def _fit(weights: nn.ModuleDict, site: Attention, dtype: torch.dtype | None) -> None:
    """Bring a layer's weights where the UNet's are; take the teacher's own layers where the numbers are the same.

    With no dtype the weights keep theirs, and are their own.
    """
    weights.to(device=base_of(site.to_q).weight.device, dtype=dtype).train(site.training)
    if dtype is None:
        return
    for path in LEAVES.values():
        old = base_of(site.get_submodule(path))
        if _equal(old, weights.get_submodule(path)):
            weights.set_submodule(path, old)


def _mount_layer(
    site: Attention,
    mixer: type[MountedAttention],
    weights: nn.ModuleDict,
    min_tokens: int,
    moving: bool,
) -> None:
    """Every step leaves what :func:`_unmount_layer` can undo. A ``moving`` teacher is part of the UNet."""
    _forget_removed_hooks(site)
    site.teacher = nn.ModuleDict() if moving else {}
    site.min_tokens = min_tokens
    site.own_children = ()
    site.__class__ = mixer
    for leaf, path in LEAVES.items():
        old, new = base_of(site.get_submodule(path)), weights.get_submodule(path)
        if old is not new:
            site.teacher[leaf] = old
            replace_base(site, path, new)
    common = {path.partition(".")[0] for path in LEAVES.values()}
    for name, child in weights.named_children():
        if name not in common:
            site.add_module(name, child)
            site.own_children += (name,)


def _move_teacher(layer: MountedAttention) -> None:
    """Bring the teacher's leaves where the layer is by now; in a module they have moved with it."""
    if isinstance(layer.teacher, nn.ModuleDict):
        return
    like = base_of(layer.to_q).weight
    for base in layer.teacher.values():
        base.to(device=like.device, dtype=like.dtype)


def _unmount_layer(layer: MountedAttention) -> None:
    _forget_removed_hooks(layer)
    for leaf, base in layer.teacher.items():
        replace_base(layer, LEAVES[leaf], base)
    for name in ("teacher", "min_tokens", "own_children", *layer.own_children):
        delattr(layer, name)
    layer.__class__ = Attention
    if isinstance(layer.processor, FusedAttnProcessor2_0) and not hasattr(layer, "to_qkv"):
        layer.fuse_projections()


def _equal(old: Any, new: Any) -> bool:
    """Whether two layers are plain linear layers with the same numbers."""
    if type(old) is not nn.Linear or type(old.weight) is not nn.Parameter or old.weight.is_meta:
        return False
    if (old.bias is None) != (new.bias is None) or old.weight.dtype != new.weight.dtype:
        return False
    return torch.equal(old.weight, new.weight) and (old.bias is None or torch.equal(old.bias, new.bias))


def refuse_hooks(
    unet: nn.Module, sites: Mapping[str, nn.Module], what: str = "Load or unload LinFusion"
) -> None:
    """Hooks of offloading, layer-wise casting and caches are made for the layers that they were put on."""
    hooked = [name for name, site in sites.items() if any(map(is_hooked, site.modules()))]
    hooked += [name or "The UNet" for name, module in unet.named_modules() if _is_offloaded_as_group(module)]
    if hooked:
        raise MountError(
            f"{hooked[0]} is under an offloading, casting or caching hook. {what} before you "
            "enable offloading, layer-wise casting or caches (or remove those first)."
        )


def _is_offloaded_as_group(module: nn.Module) -> bool:
    """Group offloading keeps a list of the parameters below the module that it was enabled on."""
    registry = getattr(module, "_diffusers_hook", None)
    return registry is not None and registry.get_hook("group_offloading") is not None


def _forget_removed_hooks(site: nn.Module) -> None:
    """A hook that was removed leaves the forward of the class it found, which is about to change."""
    vars(site).pop("forward", None)


def _refuse_to_save(layers: int, *_: object, **__: object) -> NoReturn:
    raise MountError(
        f"This UNet has {layers} self-attentions replaced by LinFusion. Saved as it is, it would load again as a "
        "softmax UNet with the linear attention's weights, without any error. Save the teacher inside 'with "
        "handle.disabled():', and the linear attention with handle.linfusion.save_pretrained(folder)."
    )


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return f"{shown}, ..." if len(names) > _SHOWN else shown
