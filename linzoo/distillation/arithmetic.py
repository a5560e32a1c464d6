"""What a run takes of memory, disk and operations, by arithmetic on the meta device: no weights, no GPU.

Memory is that of the dearest step at the largest size, in decimal gigabytes, as the tensors add up; for what CUDA itself
takes there is an allowance. It is an upper bound: real allocators may reuse what is counted twice here.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import torch
from torch import nn

from linzoo.checkpoints.components import component_config
from linzoo.checkpoints.linfusion import LinFusionConfig
from linzoo.distillation.estimates import Estimate, Line, StageEstimate
from linzoo.distillation.recipe import Distill, Recipe, Stage
from linzoo.distillation.simulation import TOKENS, Simulation, Step, count_parameters
from linzoo.plugin import PredictionType, Variant

ALLOWANCE = 10**9
"""Bytes for CUDA's context, the libraries' workspaces and fragmentation."""

_MOMENTS = {"adamw": 8.0, "adamw8bit": 2.0 + 2 * 4 / 256}
"""Bytes of a number's two moments; in 8 bits every 256 share a float32 scale."""


class Arithmetic:
    """Estimates for one checkpoint, and for a recipe and its relatives that differ in what is memory's alone.

    Args:
        variant: of the teacher.
        linfusion: config of the LinFusion checkpoint.
        recipe: the settings.
        prediction_type: of the teacher, where the variant has several.
        world: how many processes share the batch.
        items: how many items the data has; None where that is not known.
    """

    def __init__(
        self,
        variant: Variant,
        linfusion: LinFusionConfig,
        recipe: Recipe,
        *,
        prediction_type: PredictionType | None = None,
        world: int = 1,
        items: int | None = None,
    ) -> None:
        self.recipe = recipe
        self._variant = variant
        self._world = world
        self._items = items
        self._config = component_config(variant, "unet")
        self._native = variant.native_size[prediction_type or variant.prediction_types[0]]
        self._simulation = Simulation(self._config, linfusion, recipe)
        self._run = cache(self._simulation.run)

    def estimate(self, recipe: Recipe | None = None) -> Estimate:
        """What a run takes; ``recipe`` may differ in size, micro-batch, checkpointing, optimiser and average."""
        recipe = recipe or self.recipe
        return Estimate(
            recipe=recipe.name,
            variant=self._variant.id,
            stages=self._stages(recipe),
            official=self._official(recipe),
            disk=self._disk(recipe),
        )

    def memory(self, recipe: Recipe) -> int:
        """Bytes of the stage that takes most; see :meth:`estimate`."""
        return max((stage.nbytes for stage in self._stages(recipe)), default=0)

    def _stages(self, recipe: Recipe) -> tuple[StageEstimate, ...]:
        trained = {"align": recipe.align, "distill": recipe.distill}
        return tuple(self._stage(recipe, name, stage) for name, stage in trained.items() if stage is not None)

    def _stage(self, recipe: Recipe, name: str, stage: Stage) -> StageEstimate:
        sizes = self._sizes(recipe) if name == "distill" else self._sizes(recipe)[:1]
        rows = self._rows(stage)
        steps = {size: self._step(recipe, name, size, rows) for size in sizes}
        size, largest = max(steps.items(), key=lambda each: each[1].activations)
        return StageEstimate(
            name=name,
            micro_batch=rows,
            size=size,
            lines=self._lines(recipe, name, stage, largest),
            flops=stage.steps * stage.batch / rows * self._mean_flops(recipe, name, steps),
            steps=stage.steps,
        )

    def _lines(self, recipe: Recipe, name: str, stage: Stage, step: Step) -> tuple[Line, ...]:
        trained = self._simulation.trained_parameters
        ema = recipe.distill.ema if recipe.distill and name == "distill" else None
        lines = [
            Line(f"UNet, {recipe.precision}, teacher's and student's", self._unet_bytes(recipe)),
            Line("linear attentions, float32", 4 * trained),
            Line("their gradients, float32", 4 * trained),
            Line(f"moments of {stage.optimizer.name}", int(_MOMENTS[stage.optimizer.name] * trained)),
            Line("average (EMA), float32", 4 * trained if ema and ema.device == "train" else 0),
            Line("the teacher's features, held for the student's", step.features),
            Line(
                "activations" + ", in part computed again" * self._checkpoints(recipe, name),
                step.activations - step.features,
            ),
            Line("allowance for CUDA itself", ALLOWANCE),
        ]
        return tuple(line for line in lines if line.nbytes)

    def _official(self, recipe: Recipe) -> tuple[Line, ...]:
        """The published code: a second UNet, encoders in the loop, moments in float32, activations kept."""
        if recipe.distill is None:
            return ()
        simulation = self._simulation
        rows, size = self._rows(recipe.distill), max(self._sizes(recipe), key=lambda size: size[0] * size[1])
        step = self._run("distill", size, rows, checkpointing=False, guided=False)
        return (
            Line("student UNet, float32", 4 * (simulation.unet_parameters + simulation.new_parameters)),
            Line("teacher UNet, half precision", 2 * simulation.unet_parameters),
            Line("gradients, float32", 4 * simulation.trained_parameters),
            Line("moments of adamw", 8 * simulation.trained_parameters),
            Line("VAE and text encoders, half precision", 2 * _encoder_parameters(self._variant)),
            Line("activations and both UNets' features", step.activations),
            Line("allowance for CUDA itself", ALLOWANCE),
        )

    def _disk(self, recipe: Recipe) -> tuple[Line, ...]:
        trained, lines = self._simulation.trained_parameters, []
        if self._items is not None:
            latents = sum(2 * 4 * (width // 8) * (height // 8) for width, height in self._sizes(recipe))
            lines.append(Line(f"latents of {self._items:,} items, float16", self._items * latents))
            width = self._config["cross_attention_dim"] * TOKENS
            if self._config.get("addition_embed_type") == "text_time":
                pooled = self._config["projection_class_embeddings_input_dim"]
                width += pooled - 6 * self._config["addition_time_embed_dim"]
            captions = self._items // (
                recipe.data.sampling.per_prompt if recipe.data.kind == "prompts" else 1
            )
            lines.append(Line(f"text states of {captions:,} captions, float16", captions * 2 * width))
        return (*lines, *run_folder(recipe, trained))

    def _sizes(self, recipe: Recipe) -> list[tuple[int, int]]:
        """The size of the data, then those that a run ends on."""
        finish = recipe.distill.finish if recipe.distill else None
        return [recipe.data.size or (self._native, self._native), *(finish.sizes if finish else ())]

    def _rows(self, stage: Stage) -> int:
        return stage.micro_batch or max(1, stage.batch // self._world)

    def _step(self, recipe: Recipe, stage: str, size: tuple[int, int], rows: int) -> Step:
        return self._run(stage, size, rows, checkpointing=self._checkpoints(recipe, stage), guided=True)

    @staticmethod
    def _checkpoints(recipe: Recipe, stage: str) -> bool:
        """Whether activations are computed twice: aligning keeps none that could be."""
        return recipe.gradient_checkpointing and stage == "distill"

    def _mean_flops(self, recipe: Recipe, name: str, steps: Mapping[tuple[int, int], Step]) -> float:
        """Operations of a micro-batch, over all kinds of steps."""
        flops = [step.flops for step in steps.values()]
        if name != "distill" or recipe.distill is None:
            return float(flops[0])
        finish, guided = recipe.distill.finish, recipe.distill.loss.guided
        fraction = finish.fraction if finish else 0.0
        dearest = (1 - fraction) * flops[0] + fraction * sum(flops) / len(flops)
        # A guided step has twice the rows of another one.
        return dearest if guided is None else dearest / 2 * (1 + guided.share)

    def _unet_bytes(self, recipe: Recipe) -> int:
        return (2 if recipe.precision == "bfloat16" else 4) * self._simulation.unet_parameters


def run_folder(recipe: Recipe, trained: int) -> tuple[Line, ...]:
    """What a run that trains so many numbers writes to its own folder at most, pictures and figures aside."""
    states = [
        4 + _MOMENTS[stage.optimizer.name] + 4 * (isinstance(stage, Distill) and stage.ema is not None)
        for stage in (recipe.align, recipe.distill)
        if stage is not None
    ]
    count = recipe.saving.keep_last + 1
    return (
        Line(f"{count} saved states (one is being written)", int(count * trained * max(states, default=4))),
        Line(
            "the result" + " and the best so far" * recipe.saving.keep_best,
            4 * trained * (1 + recipe.saving.keep_best),
        ),
    )


def _encoder_parameters(variant: Variant) -> int:
    """Numbers of the VAE and the text encoders that a variant bundles the configs of."""
    import transformers
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        modules: list[nn.Module] = [AutoencoderKL.from_config(component_config(variant, "vae"))]
        for name in ("text_encoder", "text_encoder_2"):
            if (variant.components.locate() / name).is_dir():
                config = component_config(variant, name)
                kind = getattr(transformers, config["architectures"][0])
                modules.append(kind(kind.config_class.from_dict(config)))
    return sum(count_parameters(module) for module in modules)
