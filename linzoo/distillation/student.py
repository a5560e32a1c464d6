"""One UNet with two attentions: the teacher's softmax and the linear one that is trained, all else shared."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Collection, Iterator
from functools import partial
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from linzoo.attention.leaves import LEAVES
from linzoo.attention.linfusion import LinFusion
from linzoo.attention.mount import mount, unmount
from linzoo.attention.mounted import MountedAttention, softmax
from linzoo.checkpoints.linfusion import LinFusionConfig, ModuleEntry, tensor_name
from linzoo.distillation.batch import Conditioning
from linzoo.distillation.errors import DistillationError


class Student:
    """A UNet whose self-attentions are linear, and in a ``with student.teacher():`` block the teacher's again.

    Teacher and student share every weight but the replaced attentions', so there is never a second UNet in memory. The
    weights of the linear attentions are copies of their own, float32 at least, and the only ones that take gradients;
    the rest stays in the UNet's dtype. Where that is a half precision, the forward pass runs under autocast.

    Args:
        unet: the teacher's; it is frozen and set to ``eval`` (Stable Diffusion has no dropout).
        linfusion: the linear attentions to start from; copied.

    Attributes:
        unet: with the linear attentions mounted.
        entries: the layers that are linear, as the checkpoint's config lists them.

    Raises:
        MountError: the checkpoint does not fit the UNet.
    """

    def __init__(self, unet: UNet2DConditionModel, linfusion: LinFusion) -> None:
        self.unet = unet.requires_grad_(False).eval()
        self._dtype: torch.dtype = unet.dtype
        trained = copy.deepcopy(linfusion).requires_grad_(True)
        self.entries: tuple[ModuleEntry, ...] = trained.entries
        self._weights = [trained.layer(index) for index in range(len(self.entries))]
        for weights in self._weights:
            weights.to(torch.promote_types(self._dtype, torch.float32))
        mount(unet, trained, own_weights=True)

    @property
    def layers(self) -> dict[str, MountedAttention]:
        """The linear attentions by module name, in the order of the checkpoint."""
        return {entry.module_name: self.unet.get_submodule(entry.module_name) for entry in self.entries}

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The trained weights by the names that they have in the checkpoint's file, such as ``0.to_q.weight``."""
        return {
            tensor_name(index, name): parameter
            for index, weights in enumerate(self._weights)
            for name, parameter in weights.named_parameters()
        }

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """The trained weights: ``inherited``, those of q, k, v and out, and ``new``, which the teacher does not have."""
        groups: dict[str, list[nn.Parameter]] = {"new": [], "inherited": []}
        inherited = tuple(f"{path}." for path in LEAVES.values())
        for weights in self._weights:
            for name, parameter in weights.named_parameters():
                groups["inherited" if name.startswith(inherited) else "new"].append(parameter)
        return groups

    def predict(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """The UNet's output, float32 at least.

        Args:
            noisy: noisy latents, (B, 4, height / 8, width / 8).
            timesteps: (B,), or one for all.
            conditioning: of the same B samples.
        """
        with self.autocast():
            outputs = self.unet(noisy, timesteps.to(noisy.device), **conditioning.kwargs(), return_dict=False)
        output: Tensor = outputs[0]
        return output.to(torch.promote_types(output.dtype, torch.float32))

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Compute in the UNet's half precision inside the block; float32 weights are cast at each use."""
        if self._dtype not in (torch.bfloat16, torch.float16):
            return contextlib.nullcontext()
        # No weight is used twice in a forward pass: autocast's cache would only hold the casts longer.
        return torch.autocast(self.unet.device.type, self._dtype, cache_enabled=False)

    def teacher(self) -> contextlib.AbstractContextManager[None]:
        """Make the UNet the teacher inside the block: operation by operation what the stock UNet computes."""
        return self.softmax(self.layers)

    def softmax(self, names: Collection[str]) -> contextlib.AbstractContextManager[None]:
        """Give these layers the teacher's attention inside the block."""
        layers = self.layers
        return softmax([layers[name] for name in names])

    @contextlib.contextmanager
    def features(self) -> Iterator[dict[str, Tensor]]:
        """Capture the output of each replaced attention, teacher's or student's, in the forward pass in the block.

        What gradient checkpointing computes again in the backward pass is not captured.
        """
        captured: dict[str, Tensor] = {}
        hooks = [
            layer.register_forward_hook(partial(_capture, captured, name))
            for name, layer in self.layers.items()
        ]
        try:
            yield captured
        finally:
            for hook in hooks:
                hook.remove()

    def keep_softmax(self, names: Collection[str]) -> None:
        """Give these layers back to the teacher for good; the others are numbered anew, in ``parameters`` too.

        Raises:
            DistillationError: no such layer is linear, or none would be left.
        """
        known = [entry.module_name for entry in self.entries]
        unknown = sorted(set(names) - set(known))
        if unknown:
            raise DistillationError(
                f"{unknown[0]} is no linear attention of this student, so it cannot be kept softmax; its layers are "
                f"{', '.join(known)}."
            )
        left = [index for index, name in enumerate(known) if name not in names]
        if not left:
            raise DistillationError(
                f"All {len(known)} layers would stay softmax and nothing would be left to train: lower keep_softmax."
            )
        unmount(self.unet, names)
        self.entries = tuple(self.entries[index] for index in left)
        self._weights = [self._weights[index] for index in left]

    def enable_gradient_checkpointing(self) -> None:
        """Keep the activations at the borders of the UNet's blocks alone, and compute the others again for gradients."""
        self.unet.enable_gradient_checkpointing()

    def export(self, dtype: torch.dtype | None = None) -> tuple[LinFusionConfig, dict[str, Tensor]]:
        """Copy the trained weights to host memory in the official layout; in ``dtype``, or as they are."""
        tensors = {
            tensor_name(index, name): tensor.to("cpu", dtype, copy=True).contiguous()
            for index, weights in enumerate(self._weights)
            for name, tensor in weights.state_dict().items()
        }
        return LinFusionConfig(self.entries), tensors

    def close(self) -> None:
        """Take the linear attentions out: the UNet is the teacher's, bit for bit, and frozen."""
        unmount(self.unet)
        self.unet.disable_gradient_checkpointing()


def _capture(captured: dict[str, Tensor], name: str, *call: Any) -> None:
    """A forward hook: the output is the last of what it is called with."""
    captured.setdefault(name, call[-1])
