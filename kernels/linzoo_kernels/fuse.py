"""Fusing a linear attention layer for inference: products of its weights, made once, and the layer computed with them.

With ``f(x) = W2 a(x) + b2`` and ``a(x) = LeakyReLU(LayerNorm(W1 x + b1))``, the query ``Wq (x + f(x))`` is
``Wq x + (Wq W2) a(x) + Wq b2``, and the key likewise. So one matrix product makes all that the state is made of,
``[W1k; Wk; Wv] x``, one more what the queries are made of, ``[W1q; Wq] x``, and two add the branches to q and k in place. It
saves no multiplications (Wq W2 costs what W2 does), but the sums ``x + f(x)``, reading x over and over, and two of the seven
products' round trips to memory. (One product of all five would read x once less, and hold 5 x's of memory where this holds 3.)

The layer's own weights stay as they are, and its ``state_dict`` with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from linzoo_kernels.dispatch import requested
from linzoo_kernels.forms import Form, apply_state_and_project, choose_form, value_free_state
from linzoo_kernels.functional import apply_state, linear_attention, linear_attention_state, ln_leaky_relu
from linzoo_kernels.leaves import FuseError, child, official_weights
from linzoo_kernels.torch_ops import accumulation_dtype, without_autocast

FUSED = "fused"
"""Name of the child that a fused layer has."""

QUERIES, KEYS, KEYS_AND_VALUES = slice(0, 2), slice(2, 4), slice(2, 5)
"""Blocks of ``w_in``."""


def fuse_projections(attn: nn.Module) -> FusedProjections:
    """Fuse a layer: it gets the child ``fused``, which its forward (not touched here) can call in place of its own leaves.

    Products are computed in float32, or in float64 for weights of that, and cast once. A layer that is fused already
    is fused anew, of its present weights.

    Args:
        attn: a layer of the official layout, with ``heads``; see :func:`linzoo_kernels.leaves.official_weights`.

    Returns:
        The child: ``fused(x)`` is the layer's output, ``to_out`` included and dropout not.

    Raises:
        FuseError: the layer has another layout, adapters, quantised weights, or weights that are not in memory.
    """
    fused = FusedProjections(attn)
    setattr(attn, FUSED, fused)
    return fused


def unfuse(attn: nn.Module) -> None:
    """Take the products out of a layer again. Its weights were never changed; a layer that is not fused is left alone."""
    if FUSED in attn._modules:
        delattr(attn, FUSED)


class FusedProjections(nn.Module):
    """A linear attention layer of the official layout, on products of its weights; for inference.

    The products are buffers that no ``state_dict`` has. They follow the layer to another device and to half precision.
    Copies (deepcopy, pickle) of a layer stay fused.

    Attributes:
        heads: number of heads.
        weights: the layer's own weights by name, which the products are made of. Not this module's parameters.
        w_in: ``[W1q; Wq; W1k; Wk; Wv]``, (2m + 3C, C), m the width of the branches f and g; without them
            ``[2 Wq; 2 Wk; Wv]``, as the published code has it.
        b_in: ``[b1q; Wq b2q; b1k; Wk b2k; 0]``.
        w_q: ``Wq W2q``, (C, m).
        w_k: ``Wk W2k``, (C, m).
        rows: rows of each block in ``w_in``.
    """

    w_in: Tensor
    b_in: Tensor
    w_q: Tensor
    w_k: Tensor

    def __init__(self, attn: nn.Module) -> None:
        super().__init__()
        self.heads = int(attn.heads)  # type: ignore[arg-type]
        self.weights = official_weights(attn)
        like = self.weights["to_q.weight"]
        with torch.no_grad(), without_autocast(like.device.type):
            for name, product in _products(self.weights).items():
                self.register_buffer(name, product.to(like.dtype), persistent=False)
        width, mid_dim = self.w_q.shape
        self.rows: tuple[int, ...] = (mid_dim, width, mid_dim, width, width)
        self.norms = tuple(_norm(attn, branch) for branch in ("to_q_", "to_k_")) if mid_dim else ()
        self._itemsize = like.dtype.itemsize
        self._paths = [(parents, key) for *parents, key in (name.split(".") for name in self.weights)]
        self._versions = _versions(self.weights)
        self._outdated = False
        self.train(attn.training)

    def forward(self, x: Tensor, key_weights: Tensor | None = None, form: Form | None = None) -> Tensor:
        """The layer's output.

        Gradients with respect to ``x`` and ``key_weights`` flow, in the merged form.

        Args:
            x: tokens, (B, L, C).
            key_weights: (B or 1, L), see :func:`linzoo_kernels.linear_attention`; in the merged form.
            form: ``merged`` or ``value-free``, see :mod:`linzoo_kernels.forms`; None for the faster one.

        Returns:
            (B, L, C), ``to_out`` included. Inside autocast, too, in the precision of the weights.

        Raises:
            FuseError: a gradient of the layer's weights would be recorded; or the value-free form was asked for with key
                weights, where gradients are recorded or under torch.compile.
        """
        if torch.is_grad_enabled() and any(weight.requires_grad for weight in self.weights.values()):
            raise FuseError(
                "Gradients of the layer's weights are wanted, which its products do not give. Freeze the weights "
                "(requires_grad_(False)), or run under torch.no_grad()."
            )
        functional = torch.is_grad_enabled() or torch.compiler.is_compiling()
        form = self._form(x, functional or key_weights is not None, form)
        w_out, b_out = self.weights["to_out.0.weight"], self.weights["to_out.0.bias"]
        with without_autocast(x.device.type):
            x = x.to(self.w_in.dtype)
            if form == "merged":
                return F.linear(self._attend(x, key_weights, functional), w_out, b_out)
            w_v = self.weights["to_v.weight"]
            sums = value_free_state(x, lambda piece: self._project(piece, KEYS)[0], w_v, self.heads)
            return apply_state_and_project(
                x, lambda piece: self._project(piece, QUERIES)[0], sums, w_out, b_out
            )

    def check(self, attn: nn.Module) -> None:
        """Make sure that the products can stand for the layer's weights as they are now.

        Notices replaced leaves and weights, and changes in place that PyTorch counts; not changes through ``.data``, for
        which there is :meth:`expire`. While torch.compile traces, what PyTorch counts is not looked at.

        Raises:
            FuseError: the layer is in training mode, carries adapters, or its weights have changed or were brought
                to a wider precision, such as float32 after float16.
        """
        if attn.training:
            raise FuseError(
                "The layer is in training mode, and the products of its weights cannot be trained."
            )
        if not self.is_current(attn):
            official_weights(attn)  # says more, if there is more to say
            raise FuseError(
                "Its weights have changed since it was fused, or were brought to a wider precision."
            )

    def is_current(self, attn: nn.Module) -> bool:
        """Whether the products are those of the layer's weights, as precise as they would be made now; see :meth:`check`."""
        widened = self.w_in.dtype.itemsize > self._itemsize
        return not (self._outdated or widened or self._changed()) and self._are_in_place(attn)

    def expire(self) -> None:
        """Declare that the layer's weights have changed, or may have: :meth:`check` refuses from now on."""
        self._outdated = True

    def _form(self, x: Tensor, merged_only: bool, form: Form | None) -> Form:
        if form == "value-free" and merged_only:
            raise FuseError(
                "The value-free form has no key weights, no gradients and no torch.compile; take form='merged'."
            )
        if form is None:
            free = not merged_only and requested("auto") == "auto"
            form = choose_form(x.device.type, self.w_in.dtype, x.shape[1], x.shape[2]) if free else "merged"
        return form

    def _attend(self, x: Tensor, key_weights: Tensor | None, functional: bool) -> Tensor:
        """The operator's output. Keys and values are gone before queries are made: 3 x's of memory, 5 if made together."""
        k, v = self._project(x, KEYS_AND_VALUES, functional)
        if key_weights is not None:
            (q,) = self._project(x, QUERIES, functional)
            return linear_attention(q, k, v, heads=self.heads, key_weights=key_weights)
        state = linear_attention_state(k, v, heads=self.heads)
        del k, v
        return apply_state(self._project(x, QUERIES, functional)[0], state)

    def _project(self, x: Tensor, blocks: slice, functional: bool = False) -> list[Tensor]:
        """What ``blocks`` of ``w_in`` are for, each (B, L, C); slices of one tensor, unless it has to be ``functional``."""
        rows, start = self.rows[blocks], sum(self.rows[: blocks.start])
        these = slice(start, start + sum(rows))
        h = torch.addmm(self.b_in[these], x.flatten(0, 1), self.w_in[these].t())
        hidden, projected, *values = h.split(rows, dim=1)
        projected = self._add_branch(blocks.start // 2, hidden, projected, functional)
        return [each.unflatten(0, x.shape[:2]) for each in (projected, *values)]

    def _add_branch(self, branch: int, hidden: Tensor, projected: Tensor, functional: bool) -> Tensor:
        """Add ``w_q`` or ``w_k`` times the activation of what the branch has ``hidden`` to what is ``projected``."""
        if not self.norms:
            return projected
        name, eps, slope = self.norms[branch]
        w, norm = (
            (self.w_q, self.w_k)[branch],
            (self.weights[f"{name}.1.weight"], self.weights[f"{name}.1.bias"]),
        )
        if functional:
            return torch.addmm(projected, ln_leaky_relu(hidden, *norm, eps, slope, backend="torch"), w.t())
        return torch.addmm(
            projected, ln_leaky_relu(hidden, *norm, eps, slope, out=hidden), w.t(), out=projected
        )

    def _are_in_place(self, attn: nn.Module) -> bool:
        """Whether the weights are those that the layer has."""
        for (path, key), weight in zip(self._paths, self.weights.values(), strict=True):
            leaf = child(attn, path)
            if leaf is None or leaf._parameters.get(key) is not weight:
                return False
        return True

    def _changed(self) -> bool:
        """Whether a weight was changed in place, as far as PyTorch counts that."""
        return not torch.compiler.is_compiling() and self._versions != _versions(self.weights)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_outdated": self._outdated or self._changed()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._versions = _versions(self.weights)  # PyTorch counts the changes of copies from 0


def _products(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The buffers of :class:`FusedProjections`, in float32 or float64."""
    w = {name: weight.to(accumulation_dtype(weight)) for name, weight in weights.items()}
    q, k, v = (w[f"to_{name}.weight"] for name in "qkv")
    if "to_q_.0.weight" not in w:
        none = q.new_empty(len(q), 0)
        return {
            "w_in": torch.cat([2 * q, 2 * k, v]),
            "b_in": q.new_zeros(3 * len(q)),
            "w_q": none,
            "w_k": none,
        }
    return {
        "w_in": torch.cat([w["to_q_.0.weight"], q, w["to_k_.0.weight"], k, v]),
        "b_in": torch.cat(
            [
                w["to_q_.0.bias"],
                q @ w["to_q_.3.bias"],
                w["to_k_.0.bias"],
                k @ w["to_k_.3.bias"],
                v.new_zeros(len(v)),
            ]
        ),
        "w_q": q @ w["to_q_.3.weight"],
        "w_k": k @ w["to_k_.3.weight"],
    }


def _norm(attn: nn.Module, branch: str) -> tuple[str, float, float]:
    """What :func:`ln_leaky_relu` needs to know of a branch's LayerNorm and LeakyReLU."""
    norm, activation = attn.get_submodule(f"{branch}.1"), attn.get_submodule(f"{branch}.2")
    return branch, norm.eps, activation.negative_slope  # type: ignore[return-value]


def _versions(weights: Mapping[str, Tensor]) -> list[int]:
    """How often each weight was changed in place; tensors of inference mode do not count that."""
    return [0 if weight.is_inference() else weight._version for weight in weights.values()]
