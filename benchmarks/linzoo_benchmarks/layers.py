"""A self-attention layer in all its forms, on the same weights: x in, out out."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

import torch
from linzoo_kernels.forms import Form as FoldedForm
from linzoo_kernels.fuse import fuse_projections
from torch import Tensor, nn

from linzoo_benchmarks.official import OfficialLayer
from linzoo_benchmarks.shapes import Shape

Weights = Mapping[str, Tensor]
Layer = Callable[[Tensor], Tensor]


class Form:
    """One way to compute a layer.

    Attributes:
        name: what rows and ``--form`` call it.
        function: ``linear``, or ``softmax``: the layer that it replaces, with the projections that both have.
        needs_diffusers: whether the layer is one of diffusers' own, or takes its place.
    """

    name: str
    function = "linear"
    needs_diffusers = False

    def missing(self) -> str | None:
        """Why it cannot be built on this machine; None if it can."""
        absent = self.needs_diffusers and importlib.util.find_spec("diffusers") is None
        return "diffusers is not installed" if absent else None

    def build(self, weights: Weights, shape: Shape) -> nn.Module:
        """The layer with given weights, on the CPU, in float32."""
        raise NotImplementedError

    def ready(self, layer: Any) -> Layer:
        """What is called of the layer, when it is where it runs."""
        called: Layer = layer
        return called

    def on(self, weights: Weights, shape: Shape, device: torch.device, dtype: torch.dtype) -> Layer:
        """What is called, without gradients."""
        layer = self.build(weights, shape).to(device=device, dtype=dtype)
        return self.ready(layer.eval().requires_grad_(False))


class Official(Form):
    """The published code's operations."""

    name = "official"

    def build(self, weights: Weights, shape: Shape) -> nn.Module:
        """See :class:`OfficialLayer`."""
        return OfficialLayer(weights, shape.heads)


class Softmax(Form):
    """The teacher's layer, with diffusers' default processor."""

    name = "softmax"
    function = "softmax"
    needs_diffusers = True

    def build(self, weights: Weights, shape: Shape) -> nn.Module:
        """A plain ``Attention`` with the projections of the linear layer."""
        from diffusers.models.attention_processor import Attention

        layer: nn.Module = Attention(
            query_dim=shape.channels, heads=shape.heads, dim_head=shape.head_dim, bias=False
        )
        layer.load_state_dict({name: weight for name, weight in weights.items() if "_." not in name})
        return layer


class Mounted(Form):
    """The layer as ``linzoo.load`` puts it in the place of the teacher's."""

    name = "mounted"
    needs_diffusers = True

    def build(self, weights: Weights, shape: Shape) -> nn.Module:
        """Mounted in a UNet of one layer, whose own weights are others."""
        from linzoo.attention.linfusion import LinFusion
        from linzoo.attention.mount import mount

        unet = nn.Module()
        teacher = {name: torch.randn_like(weight) for name, weight in weights.items()}
        unet.add_module("attn1", Softmax().build(teacher, shape))
        entry = {
            "module_name": "attn1",
            "dim_n": shape.channels,
            "heads": shape.heads,
            "projection_mid_dim": None,
        }
        linfusion = LinFusion(modules_list=[entry])
        linfusion.load_state_dict({f"0.{name}": weight for name, weight in weights.items()})
        return mount(unet, linfusion)["attn1"]


class Folded(Mounted):
    """A mounted layer after ``handle.fold()``, in the form that linzoo_kernels holds to be the faster one."""

    name = "folded"

    def ready(self, layer: Any) -> Layer:
        """What the handle does to each of its layers."""
        layer.fold()
        return super().ready(layer)


class InForm(Official):
    """The official layer's weights, fused, in one of the two forms."""

    def __init__(self, form: FoldedForm) -> None:
        self.name = f"folded-{form}"
        self.form = form

    def ready(self, layer: Any) -> Layer:
        """The fused child alone."""
        return functools.partial(fuse_projections(layer), form=self.form)


FORMS: tuple[Form, ...] = (
    Official(), Mounted(), Folded(), InForm("merged"), InForm("value-free"), Softmax()
)  # fmt: skip
