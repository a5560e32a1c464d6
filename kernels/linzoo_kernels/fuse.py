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

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from linzoo_kernels.dispatch import requested
from linzoo_kernels.forms import Form, apply_state_and_project, choose_form, value_free_state
from linzoo_kernels.functional import apply_state, linear_attention, linear_attention_state, ln_leaky_relu
from linzoo_kernels.leaves import FuseError, official_weights
from linzoo_kernels.origin import Origin
from linzoo_kernels.torch_ops import accumulation_dtype, without_autocast

FUSED = "fused"
"""Name of the child that a fused layer has."""


def fuse_projections(attn: nn.Module) -> FusedProjections:
    """Fuse a layer: it gets the child ``fused``, which its forward (not touched here) can call in place of its own leaves.

    Products are computed in float32, or in float64 for weights of that, and cast once. A layer that is fused already
    is fused anew, of its present weights.

    Args:
        attn: a layer of the official layout, with ``heads``; see :func:`linzoo_kernels.leaves.official_weights`.

    Returns:
        The child: ``fused(x)`` is the layer's output, ``to_out`` included and dropout not.

    Raises:
        FuseError: the layer has another layout, adapters, hooks, or quantised weights.
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
        queries: what makes the queries of the tokens.
        keys_and_values: what makes the keys and values.
    """

    def __init__(self, attn: nn.Module) -> None:
        super().__init__()
        self.heads = int(attn.heads)  # type: ignore[arg-type]
        self._origin = Origin(attn)
        self.weights = self._origin.weights
        self.queries = Projection(attn, self.weights, "to_q")
        self.keys_and_values = Projection(attn, self.weights, "to_k", "to_v")
        self._itemsize = self._dtype().itemsize
        self.train(attn.training)

    def forward(self, x: Tensor, key_weights: Tensor | None = None, form: Form | None = None) -> Tensor:
        """The layer's output.

        Gradients with respect to ``x`` and ``key_weights`` flow, in the merged form.

        Args:
            x: tokens, (B, L, C).
            key_weights: (B or 1, L), see :func:`linzoo_kernels.linear_attention`; in the merged form.
            form: ``merged`` or ``value-free``, see :mod:`linzoo_kernels.forms`; None for the one to be preferred.

        Returns:
            (B, L, C), ``to_out`` included. Inside autocast, too, in the precision of the weights.

        Raises:
            FuseError: a gradient of the layer's weights would be recorded; or the value-free form was asked for with key
                weights, where gradients are recorded, under torch.compile or under transforms such as vmap.
        """
        if torch.is_grad_enabled() and any(weight.requires_grad for weight in self.weights.values()):
            raise FuseError(
                "Gradients of the layer's weights are wanted, which its products do not give. Freeze the weights "
                "(requires_grad_(False)), or run under torch.no_grad()."
            )
        functional = _is_followed(x)
        form = self._form(x, functional or key_weights is not None, form)
        w_out, b_out = self.weights["to_out.0.weight"], self.weights["to_out.0.bias"]
        with without_autocast(x.device.type):
            x = x.to(w_out.dtype)
            if form == "merged":
                return F.linear(self._attend(x, key_weights, functional), w_out, b_out)
            keys, queries = self.keys_and_values.first, self.queries.first
            sums = value_free_state(x, keys, self.weights["to_v.weight"], self.heads)
            return apply_state_and_project(x, queries, sums, w_out, b_out)

    def check(self, attn: nn.Module) -> None:
        """Make sure that the products can stand for the layer's weights as they are now.

        Notices replaced leaves and weights, hooks on leaves, and changes in place that PyTorch counts; not changes through
        ``.data``, for which there is :meth:`expire`. While torch.compile traces, what PyTorch counts is not looked at.

        Raises:
            FuseError: the layer is in training mode, carries adapters or hooks, or its weights have changed or were brought
                to a wider precision, such as float32 after float16.
        """
        if attn.training:
            raise FuseError(
                "The layer is in training mode, and products of weights cannot be trained: call eval() on the model, or "
                "train without them."
            )
        if not self.is_current(attn):
            official_weights(attn)  # says more, if there is more to say
            raise FuseError(
                "The weights have changed since the products were made of them, or were brought to a wider precision: make "
                "the products anew."
            )

    def is_current(self, attn: nn.Module) -> bool:
        """Whether the products are those of the layer's weights, as precise as they would be made now; see :meth:`check`."""
        return self._dtype().itemsize <= self._itemsize and self._origin.is_that_of(attn)

    def expire(self) -> None:
        """Declare that the layer's weights have changed, or may have: :meth:`check` refuses from now on."""
        self._origin.expire()

    def _dtype(self) -> torch.dtype:
        return self.weights["to_q.weight"].dtype

    def _form(self, x: Tensor, merged_only: bool, form: Form | None) -> Form:
        if form == "value-free" and merged_only:
            raise FuseError(
                "The value-free form has no key weights, no gradients and no torch.compile; take form='merged'."
            )
        if form is not None:
            return form
        preferred = choose_form(x.device.type, self._dtype(), x.shape[1], x.shape[2])
        return "merged" if merged_only or requested("auto") != "auto" else preferred

    def _attend(self, x: Tensor, key_weights: Tensor | None, functional: bool) -> Tensor:
        """The operator's output. Keys and values are gone before queries are made: 3 x's of memory, 5 if made together."""
        k, v = self.keys_and_values.all(x, functional)
        if key_weights is not None:
            (q,) = self.queries.all(x, functional)
            return linear_attention(q, k, v, heads=self.heads, key_weights=key_weights)
        state = linear_attention_state(k, v, heads=self.heads)
        del k, v
        (q,) = self.queries.all(x, functional)
        return apply_state(q, state)


class Projection(nn.Module):
    """One or more projections of the tokens by one matrix product, and the branch of the first of them by another.

    Attributes:
        w_in: ``[W1; Wq]`` for the queries, ``[W1; Wk; Wv]`` for keys and values, W1 that of their branch, m wide; without
            branches (m = 0) ``2 Wq`` and ``[2 Wk; Wv]``, as the published code has it. (m + n C, C).
        b_in: ``[b1; Wq b2]`` or ``[b1; Wk b2; 0]``.
        w_branch: ``Wq W2`` or ``Wk W2``, (C, m).
        rows: rows of each block in ``w_in``.
    """

    w_in: Tensor
    b_in: Tensor
    w_branch: Tensor

    def __init__(self, attn: nn.Module, weights: Mapping[str, Tensor], *names: str) -> None:
        super().__init__()
        like = weights["to_q.weight"]
        with torch.inference_mode(False), torch.no_grad(), without_autocast(like.device.type):
            for name, product in _products(weights, *names).items():
                self.register_buffer(name, product.to(like.dtype), persistent=False)
        width, mid_dim = self.w_branch.shape
        self.rows = (mid_dim,) + (width,) * len(names)
        branch = f"{names[0]}_"
        if mid_dim:
            self._norm = weights[f"{branch}.1.weight"], weights[f"{branch}.1.bias"]
            norm, activation = attn.get_submodule(f"{branch}.1"), attn.get_submodule(f"{branch}.2")
            self._constants: tuple[float, float] = norm.eps, activation.negative_slope  # type: ignore[assignment]

    def all(self, x: Tensor, functional: bool) -> list[Tensor]:
        """Every projection of the tokens, (B, L, C) each; slices of one tensor, unless it has to be ``functional``."""
        return self._project(x, self.w_in, self.b_in, self.rows, functional)

    def first(self, x: Tensor) -> Tensor:
        """The first projection alone."""
        rows = self.rows[:2]
        return self._project(x, self.w_in[: sum(rows)], self.b_in[: sum(rows)], rows, functional=False)[0]

    def _project(
        self, x: Tensor, w_in: Tensor, b_in: Tensor, rows: tuple[int, ...], functional: bool
    ) -> list[Tensor]:
        h = F.linear(x.flatten(0, 1), w_in, b_in)
        hidden, projected, *others = h.split_with_sizes(rows, dim=1)
        if rows[0]:
            projected = self._add_branch(hidden, projected, functional)
        return [each.view(x.shape) for each in (projected, *others)]

    def _add_branch(self, hidden: Tensor, projected: Tensor, functional: bool) -> Tensor:
        """Add ``w_branch`` times the activation of what is ``hidden`` to what is ``projected``."""
        w = self.w_branch.t()
        if functional:
            activation = ln_leaky_relu(hidden, *self._norm, *self._constants, backend="torch")
            return torch.addmm(projected, activation, w)
        activation = ln_leaky_relu(hidden, *self._norm, *self._constants, out=hidden)
        return torch.addmm(projected, activation, w, out=projected)


def _products(weights: Mapping[str, Tensor], first: str, *others: str) -> dict[str, Tensor]:
    """The buffers of :class:`Projection`, in float32 or float64."""
    w = {name: weight.to(accumulation_dtype(weight)) for name, weight in weights.items()}
    w_first, w_others = w[f"{first}.weight"], [w[f"{name}.weight"] for name in others]
    zeros = [each.new_zeros(len(each)) for each in w_others]
    if f"{first}_.0.weight" not in w:
        return {
            "w_in": torch.cat([2 * w_first, *w_others]),
            "b_in": torch.cat([w_first.new_zeros(len(w_first)), *zeros]),
            "w_branch": w_first.new_empty(len(w_first), 0),
        }
    w1, b1, w2, b2 = (w[f"{first}_.{part}"] for part in ("0.weight", "0.bias", "3.weight", "3.bias"))
    return {
        "w_in": torch.cat([w1, w_first, *w_others]),
        "b_in": torch.cat([b1, w_first @ b2, *zeros]),
        "w_branch": w_first @ w2,
    }


def _is_followed(x: Tensor) -> bool:
    """Whether operations may be recorded, traced or transformed, which writing into what is there would break."""
    return (
        torch.is_grad_enabled()
        or torch.compiler.is_compiling()
        or torch._C._functorch.is_functorch_wrapped_tensor(x)
    )
