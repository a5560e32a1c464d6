"""A self-attention layer in all its forms, on the same weights: x in, out out."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from linzoo_kernels.forms import Form as FoldedForm
from linzoo_kernels.fuse import fuse_projections
from torch import Tensor, nn

from linzoo_benchmarks.official import OfficialLayer
from linzoo_benchmarks.shapes import Shape

Weights = Mapping[str, Tensor]
Layer = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Form:
    """One way to compute a layer.

    Attributes:
        name: what rows and ``--form`` call it.
        build: makes the layer of given weights for a shape; on the CPU, in float32.
        function: ``linear``, or ``softmax``: the layer that it replaces, with the projections that both have.
        needs_diffusers: whether the layer is one of diffusers' own, or takes its place.
    """

    name: str
    build: Callable[[Weights, Shape], nn.Module]
    function: str = "linear"
    needs_diffusers: bool = False

    def missing(self) -> str | None:
        """Why it cannot be built on this machine; None if it can."""
        absent = self.needs_diffusers and importlib.util.find_spec("diffusers") is None
        return "diffusers is not installed" if absent else None

    def on(self, weights: Weights, shape: Shape, device: torch.device, dtype: torch.dtype) -> Layer:
        """The layer, ready to be called without gradients."""
        return self.build(weights, shape).to(device=device, dtype=dtype).eval().requires_grad_(False)


class Folded(nn.Module):
    """A layer whose projections are fused when it is first called, on the device and in the dtype it has by then."""

    def __init__(self, layer: nn.Module, form: FoldedForm | None) -> None:
        super().__init__()
        self.layer, self.form = layer, form
        self.fused: Any = None

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output."""
        if self.fused is None:
            self.fused = fuse_projections(self.layer)
        out: Tensor = self.fused(x, form=self.form)
        return out


def _official(weights: Weights, shape: Shape) -> nn.Module:
    return OfficialLayer(weights, shape.heads)


def _folded(form: FoldedForm | None) -> Callable[[Weights, Shape], nn.Module]:
    return lambda weights, shape: Folded(_official(weights, shape), form)


def _softmax(weights: Weights, shape: Shape) -> nn.Module:
    """The layer of the teacher, with diffusers' default processor."""
    from diffusers.models.attention_processor import Attention

    layer: nn.Module = Attention(
        query_dim=shape.channels, heads=shape.heads, dim_head=shape.head_dim, bias=False
    )
    layer.load_state_dict({name: weight for name, weight in weights.items() if "_." not in name})
    return layer


def _mounted(weights: Weights, shape: Shape) -> nn.Module:
    """The layer as ``linzoo.load`` puts it in the place of the teacher's."""
    from linzoo.attention.linfusion import LinFusion
    from linzoo.attention.mount import mount

    unet = nn.Module()
    unet.add_module("attn1", _softmax(random_like(weights), shape))
    entry = {
        "module_name": "attn1",
        "dim_n": shape.channels,
        "heads": shape.heads,
        "projection_mid_dim": None,
    }
    linfusion = LinFusion(modules_list=[entry])
    linfusion.load_state_dict({f"0.{name}": weight for name, weight in weights.items()})
    return mount(unet, linfusion)["attn1"]


def random_like(weights: Weights) -> dict[str, Tensor]:
    """Other weights of the same shapes: a teacher's."""
    return {name: torch.randn_like(weight) for name, weight in weights.items()}


FORMS: tuple[Form, ...] = (
    Form("official", _official),
    Form("mounted", _mounted, needs_diffusers=True),
    Form("folded", _folded(None)),
    Form("folded-merged", _folded("merged")),
    Form("folded-value-free", _folded("value-free")),
    Form("softmax", _softmax, function="softmax", needs_diffusers=True),
)
"""``folded`` takes whichever of the two folded forms linzoo_kernels holds to be faster."""
