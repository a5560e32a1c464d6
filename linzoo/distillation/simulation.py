"""A training step on the meta device: what a GPU would allocate and compute for it, without one and without weights.

The stages run as they are. Two modes stand between them and torch: :class:`Gpu` lets operations behave as they do on CUDA
under autocast, :class:`Allocations` keeps count of every tensor's memory from its making to its end.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from linzoo_kernels import use_backend
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torch.utils.checkpoint import checkpoint

from linzoo.attention.linfusion import LinFusion
from linzoo.checkpoints.linfusion import LinFusionConfig
from linzoo.distillation.align import AlignStage
from linzoo.distillation.batch import Batch, Conditioning, Draws
from linzoo.distillation.distill import DistillStage
from linzoo.distillation.noise import Noise
from linzoo.distillation.recipe import Recipe
from linzoo.distillation.student import Student

KERNELS = "triton" if find_spec("triton") else "torch"
"""What linear attention runs in on a GPU."""

TOKENS = 77
"""Text states of a caption."""

_HALF = frozenset(
    {F.linear, torch.conv2d, torch.matmul, torch.bmm, torch.baddbmm, F.scaled_dot_product_attention}
)
"""What autocast computes in half precision, of all that an SD UNet does."""

_FULL = frozenset({F.layer_norm, F.group_norm})
"""What it computes in float32."""


class Gpu(TorchFunctionMode):
    """Casts as CUDA's autocast does, and attends without a matrix of scores, as its kernels do.

    Args:
        dtype: autocast's half precision; None computes in the tensors' own.
    """

    def __init__(self, dtype: torch.dtype | None) -> None:
        super().__init__()
        self._dtype = dtype

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        dtype = self._dtype if func in _HALF else torch.float32 if func in _FULL and self._dtype else None
        if dtype is not None:
            args = tuple(_cast(each, dtype) for each in args)
            options = {name: _cast(each, dtype) for name, each in options.items()}
        if func is F.scaled_dot_product_attention:
            fused = torch.ops.aten._scaled_dot_product_efficient_attention
            return fused(*args[:3], None, torch.is_grad_enabled())[0]
        return func(*args, **options)


class Allocations(TorchDispatchMode):
    """Counts the memory of tensors that are made while it is on, and the floating point operations.

    Attributes:
        live: bytes of those that are still there.
        peak: the most that there were at once.
        flops: operations of matrix products, convolutions and attention.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.peak = 0
        self.flops = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()
        from torch.utils.flop_counter import flop_registry  # imports triton

        self._formulas: Mapping[Any, Callable[..., int]] = flop_registry

    def ignore(self, tensors: Iterable[Tensor]) -> None:
        """Leave tensors out that were there before."""
        self._known.update(tensor.untyped_storage() for tensor in tensors)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = self._formulas.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        for tensor in tree_flatten(out)[0]:
            if isinstance(tensor, Tensor) and tensor.device.type == "meta":
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        size = storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._release, size)

    def _release(self, size: int) -> None:
        self.live -= size


def _cast(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


class _MetaStudent(Student):
    """A student whose autocast is :class:`Gpu`'s, which stays on in the backward pass as CUDA's does in checkpoints."""

    def autocast(self, *_: Any) -> contextlib.AbstractContextManager[object]:
        """Nothing: torch has no autocast for the meta device."""
        return contextlib.nullcontext()


class _Dearest(Draws):
    """Random numbers by which a step is of its dearest kind: guided, where the recipe has such steps."""

    def shared(self, purpose: str) -> float:  # noqa: ARG002
        """The least number, which is below every share."""
        return 0.0


@dataclass(frozen=True)
class Step:
    """What one step of one micro-batch takes.

    Attributes:
        activations: the most bytes at once beyond weights, gradients and the optimiser's state.
        features: how many of them are the teacher's features, which wait for the student's.
        flops: floating point operations.
    """

    activations: int
    features: int
    flops: int


class Simulation:
    """A UNet and a student on the meta device.

    Args:
        unet_config: the UNet's diffusers config.
        linfusion: config of the LinFusion checkpoint.
        recipe: the settings.

    Attributes:
        unet_parameters: numbers of the teacher's UNet.
        trained_parameters: numbers of the linear attentions.
        new_parameters: how many of them the teacher does not have.
    """

    def __init__(self, unet_config: Mapping[str, Any], linfusion: LinFusionConfig, recipe: Recipe) -> None:
        self._recipe = recipe
        self._dtype = torch.bfloat16 if recipe.precision == "bfloat16" else torch.float32
        with torch.device("meta"):
            unet = UNet2DConditionModel.from_config(dict(unet_config))
            weights = LinFusion([module.to_json() for module in linfusion.modules])
        nn.Module.to(unet, self._dtype)  # diffusers' own ``to`` warns of models that are loaded in part
        self.unet_parameters = count_parameters(unet)
        self._student = _MetaStudent(unet, weights)
        self.trained_parameters = sum(each.numel() for each in self._student.parameters.values())
        self.new_parameters = sum(each.numel() for each in self._student.groups()["new"])

    def run(
        self, stage: str, size: tuple[int, int], rows: int, *, checkpointing: bool, guided: bool = True
    ) -> Step:
        """Take a step.

        Args:
            stage: ``align`` or ``distill``.
            size: width and height in pixels.
            rows: samples of the micro-batch.
            checkpointing: compute activations twice instead of keeping them.
            guided: take a guided step, which has twice the rows, where the recipe has such steps.
        """
        unet, settings = self._student.unet, _plain(self._recipe, guided=guided)
        running = (AlignStage if stage == "align" else DistillStage)(
            self._student, Noise(DDIMScheduler()), settings
        )
        gpu = Gpu(self._half)
        unet.disable_gradient_checkpointing()
        if checkpointing:
            unet.enable_gradient_checkpointing(partial(_checkpoint, gpu))
        batch = self._batch(size, rows)
        parameters = self._student.parameters.values()
        for parameter in parameters:  # as they are from the second micro-batch on
            parameter.grad = torch.empty_like(parameter)
        allocations = Allocations()
        allocations.ignore(
            [
                *unet.parameters(),
                *unet.buffers(),
                *(each.grad for each in parameters if each.grad is not None),
            ]
        )
        with self._features() as features, use_backend(KERNELS), gpu, allocations:
            running.backward(batch, _Dearest(0, stage, 0, range(rows)), 1.0)
        wanted = (
            stage == "distill" and settings.distill is not None and settings.distill.loss.features is not None
        )
        return Step(allocations.peak, sum(features.values()) if wanted else 0, allocations.flops)

    @property
    def _half(self) -> torch.dtype | None:
        return None if self._dtype == torch.float32 else self._dtype

    def _batch(self, size: tuple[int, int], rows: int) -> Batch:
        config = self._student.unet.config
        latents = torch.empty(rows, config.in_channels, size[1] // 8, size[0] // 8, device="meta")
        conditioning = Conditioning(torch.empty(rows, TOKENS, config.cross_attention_dim, device="meta"))
        if config.addition_embed_type == "text_time":
            pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
            conditioning = replace(
                conditioning,
                pooled=torch.empty(rows, pooled, device="meta"),
                time_ids=torch.empty(rows, 6, device="meta"),
            )
        return Batch(latents, conditioning, conditioning)

    @contextlib.contextmanager
    def _features(self) -> Iterator[dict[str, int]]:
        """Bytes of the replaced attentions' outputs by name."""
        sizes: dict[str, int] = {}

        def measure(name: str, *call: Any) -> None:
            sizes[name] = call[-1].nbytes

        hooks = [
            layer.register_forward_hook(partial(measure, name))
            for name, layer in self._student.layers.items()
        ]
        try:
            yield sizes
        finally:
            for hook in hooks:
                hook.remove()


def _checkpoint(gpu: Gpu, module: nn.Module, *inputs: Any) -> Any:
    """What diffusers does; a mode is off while ``Tensor.backward`` runs, and what is computed again there needs it."""
    contexts = (contextlib.nullcontext(), gpu)
    return checkpoint(module.__call__, *inputs, use_reentrant=False, context_fn=lambda: contexts)


def _plain(recipe: Recipe, *, guided: bool) -> Recipe:
    """The recipe without on-policy steps, whose additional passes keep nothing; all of its steps guided, or none."""
    distill = recipe.distill
    if distill is None:
        return recipe
    loss = distill.loss.guided
    always = loss.model_copy(update={"share": 1.0}) if guided and loss is not None else None
    losses = distill.loss.model_copy(update={"guided": always})
    return recipe.model_copy(
        update={"distill": distill.model_copy(update={"on_policy": None, "loss": losses})}
    )


def count_parameters(module: nn.Module) -> int:
    """How many numbers a module's weights are."""
    return sum(parameter.numel() for parameter in module.parameters())
