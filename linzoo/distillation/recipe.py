"""The distill recipe: what a YAML document may say, and what holds where it says nothing.

Sizes are (width, height) in pixels. ``batch`` is samples an optimiser step over all processes; how many of them one
process computes at once is ``micro_batch``, a matter of memory alone: it changes no result beyond rounding.

What stands below a field is its documentation: ``linzoo recipes validate`` and ``docs/recipe-fields.md`` show it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

SCHEMA_VERSION = 1


def _ascending(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] > ends[1]:
        raise ValueError(f"a range goes from low to high, not from {ends[0]:g} to {ends[1]:g}")
    return ends


Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Guidance = Annotated[float, Field(ge=1)]
GuidanceRange = Annotated[tuple[Guidance, Guidance], AfterValidator(_ascending)]
Side = Annotated[int, Field(ge=8, multiple_of=8)]
Size = tuple[Side, Side]


class Section(BaseModel):
    """A part of a recipe: immutable, and a key that it does not know is an error."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        validate_default=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


class Weight(Section):
    """A loss weight that goes from ``start`` to ``end`` over the stage, along half a cosine."""

    start: NotNegative
    """The weight at the first step."""
    end: NotNegative | None = None
    """The weight at the last step; null stays at ``start``."""


class Buckets(Section):
    """Aspect-ratio buckets: sizes of about the area of ``data.size``, with sides in steps."""

    step: Side = 64
    """Sides are multiples of this, in pixels."""
    max_aspect_ratio: Annotated[float, Field(ge=1)] = 2.0
    """The longer side is at most this many times the shorter one."""


class Sampling(Section):
    """How a teacher draws the latents that ``kind: prompts`` trains on: its own sampler, with stored seeds."""

    steps: Count = 25
    """Steps of the sampler."""
    guidance: GuidanceRange = (1.0, 9.0)
    """Each item's guidance scale is drawn from this range."""
    per_prompt: Count = 1
    """Items that are drawn of each prompt, each with a seed and a guidance scale of its own."""


class Data(Section):
    """What is trained on."""

    kind: Literal["prompts", "folder", "huggingface", "webdataset"] = "prompts"
    """``prompts``: the teacher draws what it is trained on; the others read pictures with captions."""
    source: Annotated[str, Field(min_length=1)]
    """A text file with one prompt a line (``prompts``), a folder (``folder``), a data set's name or folder
    (``huggingface``), a pattern of tar files (``webdataset``); files also as ``package:path`` inside a package."""
    split: str = "train"
    """Which split of a Hugging Face data set."""
    image_column: str = "image"
    """Where a data set has its pictures."""
    caption_column: str = "text"
    """Where a data set has its captions."""
    streaming: bool = False
    """Read a Hugging Face data set as it comes, without a copy of it on disk."""
    max_items: Count | None = None
    """Take at most this many items; null takes all."""
    held_out: Count = 64
    """This many pictures or prompts are measured on and never trained on, whatever is made of them."""
    size: Size | None = None
    """Width and height; null is the variant's own."""
    buckets: Buckets | None = None
    """Sort pictures by aspect ratio instead of cropping all of them to ``size``."""
    crop: Literal["center", "random"] = "center"
    """Which part of a picture is taken where it does not have the aspect ratio."""
    flip: bool = False
    """Train on every picture and on its mirror image."""
    caption_dropout: Share = 0.1
    """Share of samples that are trained without their caption, as guidance needs it."""
    sampling: Sampling = Sampling()
    """How the teacher draws; of ``kind: prompts`` alone."""
    cache: str | None = None
    """Folder for latents and text states; null is the user's cache folder."""

    @field_validator("streaming")
    @classmethod
    def _streams(cls, streaming: bool, info: ValidationInfo) -> bool:
        if streaming and info.data.get("kind") not in ("huggingface", None):
            raise ValueError("only data of kind huggingface can be streamed")
        return streaming

    @field_validator("buckets", "flip")
    @classmethod
    def _is_for_pictures(cls, value: Any, info: ValidationInfo) -> Any:
        if value and info.data.get("kind") == "prompts":
            raise ValueError(
                "is for pictures, but with kind prompts the teacher draws every item at data.size"
            )
        return value


class Calibrate(Section):
    """Stage 0: sharpness of q and k by search, then ``to_out`` by ridge regression; always chosen by held-out KD."""

    samples: Count = 64
    """Training items that are looked at."""
    timesteps: Count = 10
    """Timesteps that each of them is looked at."""
    micro_batch: Count = 8
    """Samples that are computed at once."""
    sharpness: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1, 1.5, 2, 3, 4, 6, 8)
    """Scales of q and k that are tried for each head; ``[1]`` without ``shift`` leaves q and k as they are."""
    shift: tuple[NotNegative, ...] = (2, 4, 6)
    """Shifts that are tried with pairs of opposed directions in place of a head's own; ``[]`` keeps to its own."""
    ridge: tuple[Positive, ...] = (0.1, 0.03, 0.01, 0.003, 0.001)
    """Strengths of the regression that are tried; ``[]`` leaves ``to_out`` as it is."""


class Optimizer(Section):
    """AdamW. ``new`` is the rate of f and g, which the teacher does not have; ``inherited`` that of q, k, v and out."""

    name: Literal["adamw", "adamw8bit"] = "adamw"
    """``adamw8bit`` keeps its moments in 8 bits (bitsandbytes: ``pip install linzoo[8bit]``)."""
    new: Positive = 1e-4
    """Learning rate of the two small networks f and g."""
    inherited: Positive = 1e-4
    """Learning rate of q, k, v and out."""
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    """Decay of the first and second moment."""
    weight_decay: NotNegative = 0.0
    """Decoupled weight decay."""
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """How both rates go on after the warm-up: as they are, or down to 0."""
    warmup: Whole = 0
    """Steps over which the rates rise from 0."""
    clip: Positive | None = 1.0
    """Largest norm of the gradient; null does not clip."""


class Stage(Section):
    """What both trained stages have."""

    steps: Count
    """Optimiser steps."""
    batch: Count
    """Samples of one step, over all processes."""
    micro_batch: Count | None = None
    """Samples that one process computes at once; null is all of its share. Less takes less memory and more time."""
    optimizer: Optimizer = Optimizer()
    """The optimiser of the stage."""

    @field_validator("micro_batch")
    @classmethod
    def _divides(cls, micro_batch: int | None, info: ValidationInfo) -> int | None:
        batch = info.data.get("batch")
        if micro_batch and batch and batch % micro_batch:
            near = max(count for count in range(1, min(micro_batch, batch) + 1) if batch % count == 0)
            raise ValueError(f"{micro_batch} does not divide the batch of {batch}; {near} does")
        return micro_batch


class Align(Stage):
    """Stage 1: each layer by itself on the teacher's inputs; no gradient passes through the UNet."""

    loss: Literal["relative_mse", "huber"] = "relative_mse"
    """Of each layer's output, relative to the teacher's mean square."""


class FeatureLoss(Section):
    """How far the replaced layers' outputs are from the teacher's, end to end."""

    weight: Weight = Weight(start=0.2, end=0.0)
    """Its weight over the stage."""
    normalize: bool = True
    """Divide each layer's error by the teacher's mean square, so that no layer outweighs the others by its scale."""


class GuidedLoss(Section):
    """KD of the guided output: this share of the steps, at a scale drawn from the range."""

    share: Share = 0.25
    """Share of the steps that train it; they take about twice the time."""
    scale: GuidanceRange = (1.0, 9.0)
    """Guidance scales."""


class Losses(Section):
    """What is minimised: the weighted sum of the terms."""

    noise: Weight = Weight(start=0.0)
    """The diffusion loss itself: the student's output against the noise (or velocity) that was added."""
    kd: Weight = Weight(start=1.0)
    """The student's output against the teacher's."""
    features: FeatureLoss | None = FeatureLoss()
    """The replaced layers' outputs against the teacher's; null leaves them out."""
    guided: GuidedLoss | None = GuidedLoss()
    """The guided output against the teacher's; null leaves it out."""


class Timesteps(Section):
    """Which timesteps are trained on, and how much each counts."""

    sampling: Literal["uniform", "trajectory", "logit_normal"] = "uniform"
    """``trajectory``: those that 25 sampling steps visit; ``logit_normal``: the middle ones more often."""
    weighting: Literal["none", "min_snr"] = "none"
    """Weight of the noise and KD terms by timestep; ``min_snr`` is of arXiv 2303.09556."""
    gamma: Positive = 5.0
    """The bound of ``min_snr``."""


class OnPolicy(Section):
    """On-policy steps train on noisy latents that the student itself has come to."""

    share: Share = 0.25
    """Share of the steps."""
    steps: Count = 12
    """Sampling steps of a whole trajectory of the student."""


class Finish(Section):
    """The last part of the stage trains on several sizes in turn."""

    sizes: Annotated[tuple[Size, ...], Field(min_length=1)]
    """The sizes that are added to ``data.size``."""
    fraction: Share = 0.1
    """The last part of the steps that this is."""


class Ema(Section):
    """The running average of the trained weights; it is what is saved."""

    decay: Annotated[float, Field(gt=0, lt=1)] = 0.9999
    """Its decay, once it has warmed up."""
    device: Literal["train", "cpu"] = "train"
    """Where it is kept: beside the weights that are trained, or in host memory."""


class Distill(Stage):
    """Stage 2: end to end."""

    loss: Losses = Losses()
    """What is minimised."""
    timesteps: Timesteps = Timesteps()
    """Which timesteps are trained on."""
    on_policy: OnPolicy | None = None
    """Steps on the student's own trajectories; null takes none."""
    finish: Finish | None = None
    """Several sizes at the end; null stays at ``data.size``."""
    ema: Ema | None = Ema()
    """The running average of the weights; null saves the weights as they are."""


class Validation(Section):
    """What is measured on held-out samples on the way, and what is drawn."""

    every: Count = 1000
    """Steps of a stage from one time to the next."""
    samples: Count = 64
    """Held-out samples that are measured on."""
    scales: tuple[Guidance, ...] = (1.0, 4.0, 7.5)
    """Guidance scales at which the guided KD is measured."""
    images: Whole = 4
    """Pictures drawn by teacher and student; 0 draws none."""
    image_steps: Count = 25
    """Sampling steps of those pictures."""
    guidance: Guidance = 7.5
    """Their guidance scale."""
    bars: dict[str, float] = {}
    """What ``linzoo validate`` holds the result against, by name of the measure; stronger than the variant's own."""


class Saving(Section):
    """How often the state of the run is saved, and what is kept of it."""

    every: Count = 500
    """Steps from one saved state to the next."""
    keep_last: Count = 2
    """How many states are kept."""
    keep_best: bool = True
    """Keep the weights with the lowest held-out KD too."""


class Logging(Section):
    """Where figures go besides ``metrics.jsonl``, which is always written."""

    every: Count = 10
    """Steps from one point to the next in TensorBoard and wandb; ``metrics.jsonl`` has every step."""
    tensorboard: bool = False
    """Write TensorBoard files too (``pip install linzoo[train]``)."""
    wandb: str | None = None
    """The wandb project to log to (``pip install linzoo[wandb]``); null logs to none."""


class Guards(Section):
    """When a run stops of itself."""

    max_skips: Whole = 20
    """Stop after this many steps with a loss or gradient that is not finite."""
    min_free_disk_gb: NotNegative = 2.0
    """Stop, with everything saved, before the disk has less room than this."""


class Recipe(Section):
    """A distill recipe."""

    schema_version: Literal[1]
    """The version of this schema."""
    name: Annotated[str, Field(min_length=1)]
    """What it is called."""
    summary: str = ""
    """What it is for, in one line."""
    variant: Annotated[str, Field(min_length=1)]
    """Id of the variant whose checkpoints it distils (``linzoo list variants``)."""
    start: str | None = None
    """Id of the init recipe that the checkpoint must come from; null takes any."""
    seed: Whole = 0
    """Of every random number of the run."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """Of the UNet; the trained weights are float32 always."""
    gradient_checkpointing: bool = False
    """Compute activations twice instead of keeping them: far less memory, about a third more time."""
    keep_softmax: Whole = 0
    """This many layers, those whose restoring lowers KD most, stay the teacher's."""
    data: Data
    """What is trained on, and at which sizes."""
    calibrate: Calibrate | None = None
    """Stage 0; null leaves it out."""
    align: Align | None = None
    """Stage 1; null leaves it out."""
    distill: Distill | None = None
    """Stage 2; null leaves it out."""
    validation: Validation = Validation()
    """What is measured on the way."""
    saving: Saving = Saving()
    """What is saved on the way."""
    logging: Logging = Logging()
    """Where figures go."""
    guards: Guards = Guards()
    """When the run stops of itself."""
    presets: dict[str, dict[str, Any]] = {}
    """Changes by name, mostly one for each size of card, chosen with ``--preset``: what they may say is what the recipe may."""

    @model_validator(mode="after")
    def _does_something(self) -> Recipe:
        if self.calibrate is None and self.align is None and self.distill is None:
            raise ValueError("a recipe needs at least one stage: calibrate, align or distill")
        return self
