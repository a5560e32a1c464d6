"""A mixer as diffusers sees it: a guarded subclass of its ``Attention``."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from diffusers.models.attention_processor import (
    Attention,
    AttnProcessor,
    AttnProcessor2_0,
    AttnProcessorNPU,
    FusedAttnProcessor2_0,
    PAGCFGIdentitySelfAttnProcessor2_0,
    PAGIdentitySelfAttnProcessor2_0,
    SlicedAttnProcessor,
    XFormersAttnProcessor,
    XLAFlashAttnProcessor2_0,
)
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.overrides import has_torch_function

from linzoo.attention.errors import UnsupportedAttentionError
from linzoo.attention.leaves import LEAVES, project

SOFTMAX_PROCESSORS = frozenset(
    {
        AttnProcessor,
        AttnProcessor2_0,
        AttnProcessorNPU,
        FusedAttnProcessor2_0,
        SlicedAttnProcessor,
        XFormersAttnProcessor,
        XLAFlashAttnProcessor2_0,
    }
)
"""Processors that only choose how softmax attention is computed; a mounted layer has no use for the choice."""

_unknown_processors: set[type] = set()


class MountedAttention(Attention):  # type: ignore[misc]
    """A linear mixer in the place of a UNet's self-attention, with the attributes that diffusers relies on.

    An instance is made by :func:`linzoo.attention.mount.mount` out of a stock ``Attention``, whose linear layers
    it goes on using, adapters (LoRA) included. A subclass is one mixer: it says which weights it has
    (:meth:`weights`) and what it does with them (:meth:`mix`).

    The attention processor, which IP-Adapter, attention slicing, ``set_attn_processor`` and
    ``fuse_qkv_projections`` replace as they like, does not decide what is computed. Exceptions: PAG's processors do
    what they are for; one that needs attention maps (SAG) is refused; an unknown one is ignored with a warning.

    Attributes:
        teacher: the teacher's linear layers that the mounted ones replaced, by name in ``LEAVES``; a layer whose
            weights the teacher and the checkpoint have in common is not here, both use one copy. A plain ``dict``
            (held where it was at mounting, out of the way of ``.to()``), or with ``min_tokens`` or ``own_weights``
            an ``nn.ModuleDict`` that moves with the UNet.
        min_tokens: with fewer tokens than this, the layer computes the teacher's own softmax attention.
        for_good: there is no teacher to give back (see :class:`~linzoo.attention.unet.LinearUNet`).
        own_children: names of the mixer's children that the teacher's attention does not have.
    """

    teacher: Mapping[str, nn.Module]
    min_tokens: int
    for_good: bool = False
    own_children: tuple[str, ...]

    @classmethod
    def weights(cls, dim: int, heads: int, **options: Any) -> nn.ModuleDict:
        """Make the mixer's weights, with the four of ``LEAVES`` among them, under the names of its checkpoints."""
        raise NotImplementedError

    def mix(self, hidden_states: torch.Tensor, key_weights: torch.Tensor | None) -> torch.Tensor:
        """Mix the tokens, (B, N, C) to (B, N, C), up to but without ``to_out``.

        ``key_weights``, (B or 1, N), says how much each token counts as a key; None for all alike.
        """
        raise NotImplementedError

    def mix_and_project(self, hidden_states: torch.Tensor, key_weights: torch.Tensor | None) -> torch.Tensor:
        """:meth:`mix`, then ``to_out``; a mixer that can do both faster in one does so here."""
        projected: torch.Tensor = self.to_out[0](self.mix(hidden_states, key_weights))
        return projected

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        **_: Any,
    ) -> torch.Tensor:
        """Self-attention over ``hidden_states``, (B, N, C).

        ``attention_mask`` is a bias on the keys, (B or 1, 1, N), as ``UNet2DConditionModel`` makes it. Other
        keyword arguments are for attention processors, and ignored as diffusers' own self-attention ignores them.

        Raises:
            UnsupportedAttentionError: another sequence to attend to, a mask that differs between queries, or a
                processor that needs attention maps.
        """
        if encoder_hidden_states is not None:
            raise UnsupportedAttentionError(
                "This layer is a linear self-attention and cannot attend to another sequence "
                "(encoder_hidden_states); unload LinFusion for this use."
            )
        bias = _key_bias(attention_mask, hidden_states)
        plain = hidden_states.shape[0] - self._perturbed(hidden_states)
        if bias is not None and bias.shape[0] != 1:
            bias = bias[:plain]
        outputs = []
        if plain:
            outputs.append(self._attend(hidden_states[:plain], bias))
        if plain < hidden_states.shape[0]:
            outputs.append(self._look_at_itself(hidden_states[plain:]))
        return torch.cat(outputs) if len(outputs) > 1 else outputs[0]

    def fuse_projections(self, fuse: bool = True) -> None:
        """Do nothing: q, k and v of a mixer are not projections of one input."""

    def _perturbed(self, hidden_states: torch.Tensor) -> int:
        """How many of the batch, from its end, perturbed attention guidance wants to attend to themselves alone."""
        batch = hidden_states.shape[0]
        kind = type(self.processor)
        if kind is PAGIdentitySelfAttnProcessor2_0:
            return batch // 2
        if kind is PAGCFGIdentitySelfAttnProcessor2_0:
            return batch // 3
        if kind not in SOFTMAX_PROCESSORS:
            _judge(kind)
        return batch if _attention_is_skipped(hidden_states) else 0

    def _attend(self, hidden_states: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if hidden_states.shape[1] < self.min_tokens:
            return self._softmax(hidden_states, bias)
        key_weights = None if bias is None else (bias - bias.amax(dim=-1, keepdim=True)).exp()
        return self._finish(self.mix_and_project(hidden_states, key_weights))

    def _softmax(self, hidden_states: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """The teacher's attention, operation by operation as diffusers' ``AttnProcessor2_0``."""
        q, k, v = (
            self._project(name, hidden_states).view(*hidden_states.shape[:2], self.heads, -1).transpose(1, 2)
            for name in ("q", "k", "v")
        )
        mask = None if bias is None else bias[:, None, None, :]
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self._finish(self._project("out", attended.transpose(1, 2).flatten(2)))

    def _look_at_itself(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Perturbed attention guidance: each token attends to itself alone."""
        if hidden_states.shape[1] < self.min_tokens:
            return self._finish(self._project("out", self._project("v", hidden_states)))
        return self._finish(self.to_out[0](self.to_v(hidden_states)))

    def _finish(self, output: torch.Tensor) -> torch.Tensor:
        """The dropout behind the last linear layer."""
        dropped: torch.Tensor = self.to_out[1](output)
        return dropped

    def _project(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """One of the teacher's linear layers, under the adapters that are on the mounted one."""
        teacher = self.teacher[name] if name in self.teacher else None  # noqa: SIM401 (nn.ModuleDict has no get)
        return project(self.get_submodule(LEAVES[name]), teacher, x)


@contextlib.contextmanager
def softmax(layers: Iterable[MountedAttention]) -> Iterator[None]:
    """Let layers compute the teacher's own softmax attention at every size, for the length of a ``with`` block.

    They must have been mounted with ``own_weights`` or ``min_tokens``, so that the teacher's weights are at hand.
    """
    before = [(layer, layer.min_tokens) for layer in layers]
    for layer, _ in before:
        layer.min_tokens = sys.maxsize
    try:
        yield
    finally:
        for layer, min_tokens in before:
            layer.min_tokens = min_tokens


def _key_bias(attention_mask: torch.Tensor | None, hidden_states: torch.Tensor) -> torch.Tensor | None:
    """The mask as a bias for each key, (B or 1, N)."""
    if attention_mask is None:
        return None
    batch, tokens, _ = hidden_states.shape
    over_keys = tuple(attention_mask.shape) in {(batch, 1, tokens), (1, 1, tokens)}
    if not over_keys or not attention_mask.is_floating_point():
        raise UnsupportedAttentionError(
            f"An attention mask of shape {tuple(attention_mask.shape)} and type {attention_mask.dtype} cannot be used "
            f"by linear attention over {batch} x {tokens} tokens: only a mask over keys, (batch, 1, tokens), of numbers "
            "that are added to the scores, can. Leave attention_mask out."
        )
    return attention_mask[:, 0]


def _attention_is_skipped(like: torch.Tensor) -> bool:
    """Whether a guider has softmax attention return its values (``PerturbedAttentionGuidance`` does it this way)."""
    if torch.compiler.is_compiling():
        return False
    if not has_torch_function((like,)):  # none is entered: no launch for the answer
        return False
    probe = like.new_empty(1, 1, 1, 1)
    return F.scaled_dot_product_attention(probe, probe, probe) is probe


def _judge(processor: type) -> None:
    """Refuse a processor that needs attention maps; warn once of one that is not known."""
    if processor.__name__ == "CrossAttnStoreProcessor":
        raise UnsupportedAttentionError(
            "Self-attention guidance (SAG) needs the attention maps of the middle block, which linear attention "
            "does not have; unload LinFusion, or mount a plan that keeps mid_block softmax."
        )
    if processor not in _unknown_processors:
        _unknown_processors.add(processor)
        warnings.warn(
            f"The attention processor {processor.__module__}.{processor.__qualname__} is ignored by the layers that "
            "LinFusion replaced: they compute linear attention.",
            stacklevel=4,
        )
