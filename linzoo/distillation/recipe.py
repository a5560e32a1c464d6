"""The distill recipe: what a YAML document may say, and what holds where it says nothing.

Sizes are (width, height) in pixels. ``batch`` is samples an optimiser step over all processes; how many of them one
process computes at once is ``micro_batch``, a matter of memory alone: it changes no result beyond rounding.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

SCHEMA_VERSION = 1

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Side = Annotated[int, Field(ge=8, multiple_of=8)]
Size = tuple[Side, Side]


class Section(BaseModel):
    """A part of a recipe: immutable, and a key that it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class Weight(Section):
    """A loss weight that goes from ``start`` to ``end`` over the stage, along half a cosine; ``end`` None stays."""

    start: NotNegative
    end: NotNegative | None = None


class Buckets(Section):
    """Aspect-ratio buckets: sizes of about the area of ``size``, with sides in steps."""

    step: Side = 64
    max_aspect_ratio: Annotated[float, Field(ge=1)] = 2.0


class Sampling(Section):
    """How a teacher draws the latents that ``kind: prompts`` trains on: its own sampler, with stored seeds."""

    steps: Count = 25
    guidance: tuple[Annotated[float, Field(ge=1)], Annotated[float, Field(ge=1)]] = (1.0, 9.0)


class Data(Section):
    """What is trained on.

    ``source`` is a folder (``folder``), a data set's name or folder (``huggingface``), a pattern of tar files
    (``webdataset``), or a text file with one prompt a line (``prompts``), also as ``package:path`` inside a package.
    """

    kind: Literal["prompts", "folder", "huggingface", "webdataset"] = "prompts"
    source: str
    split: str = "train"
    image_column: str = "image"
    caption_column: str = "text"
    streaming: bool = False
    max_items: Count | None = None
    held_out: Count = 64
    size: Size | None = None
    buckets: Buckets | None = None
    crop: Literal["center", "random"] = "center"
    flip: bool = False
    caption_dropout: Share = 0.1
    sampling: Sampling = Sampling()
    cache: str | None = None


class Calibrate(Section):
    """Stage 0: sharpness of q and k by search, then ``to_out`` by ridge regression; always chosen by held-out KD."""

    samples: Count = 64
    timesteps: Count = 10
    micro_batch: Count = 8
    sharpness: tuple[Positive, ...] = (1, 1.5, 2, 3, 4, 6, 8)
    ridge: tuple[Positive, ...] = (0.3, 0.1, 0.03, 0.01)


class Optimizer(Section):
    """AdamW. ``new`` is the rate of f and g, which the teacher does not have; ``inherited`` that of q, k, v and out."""

    name: Literal["adamw", "adamw8bit"] = "adamw"
    new: Positive = 1e-4
    inherited: Positive = 1e-4
    betas: tuple[Share, Share] = (0.9, 0.999)
    weight_decay: NotNegative = 0.0
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    warmup: Annotated[int, Field(ge=0)] = 0
    clip: Positive | None = 1.0


class Stage(Section):
    """What both trained stages have."""

    steps: Count
    batch: Count
    micro_batch: Count | None = None
    optimizer: Optimizer = Optimizer()


class Align(Stage):
    """Stage 1: each layer by itself on the teacher's inputs; no gradient passes through the UNet."""

    loss: Literal["relative_mse", "huber"] = "relative_mse"


class FeatureLoss(Section):
    """How far the replaced layers' outputs are from the teacher's, end to end."""

    weight: Weight = Weight(start=0.2, end=0.0)
    normalize: bool = True


class GuidedLoss(Section):
    """KD of the guided output: this share of the steps, at a scale drawn from the range."""

    share: Share = 0.25
    scale: tuple[Annotated[float, Field(ge=1)], Annotated[float, Field(ge=1)]] = (1.0, 9.0)


class Losses(Section):
    """What is minimised: the weighted sum of the terms. ``noise`` is the diffusion loss itself."""

    noise: Weight = Weight(start=0.0)
    kd: Weight = Weight(start=1.0)
    features: FeatureLoss | None = FeatureLoss()
    guided: GuidedLoss | None = GuidedLoss()


class Timesteps(Section):
    """Which timesteps are trained on, and how much each counts. ``trajectory``: those that 25 sampling steps visit."""

    sampling: Literal["uniform", "trajectory", "logit_normal"] = "uniform"
    weighting: Literal["none", "min_snr"] = "none"
    gamma: Positive = 5.0


class OnPolicy(Section):
    """On-policy steps, this share of all, train on noisy latents that the student itself has come to in ``steps`` steps."""

    share: Share = 0.25
    steps: Count = 12


class Finish(Section):
    """The last part of the stage trains on these sizes in turn, the first one's among them."""

    sizes: tuple[Size, ...]
    fraction: Share = 0.1


class Ema(Section):
    """The running average of the trained weights that is saved."""

    decay: Annotated[float, Field(gt=0, lt=1)] = 0.9999
    device: Literal["train", "cpu"] = "train"


class Distill(Stage):
    """Stage 2: end to end."""

    loss: Losses = Losses()
    timesteps: Timesteps = Timesteps()
    on_policy: OnPolicy | None = None
    finish: Finish | None = None
    ema: Ema | None = Ema()


class Validation(Section):
    """What is measured on held-out samples on the way, and what is drawn. ``every`` counts steps of a stage."""

    every: Count = 1000
    samples: Count = 64
    scales: tuple[Annotated[float, Field(ge=1)], ...] = (1.0, 4.0, 7.5)
    images: Annotated[int, Field(ge=0)] = 4
    image_steps: Count = 25
    guidance: Annotated[float, Field(ge=1)] = 7.5


class Saving(Section):
    """How often the state of the run is saved, and what is kept of it."""

    every: Count = 500
    keep_last: Count = 2
    keep_best: bool = True


class Logging(Section):
    """Where figures go besides ``metrics.jsonl``, which is always written."""

    every: Count = 10
    tensorboard: bool = False
    wandb: str | None = None


class Guards(Section):
    """When a run stops of itself. ``max_skips`` counts steps with a loss or gradient that is not finite."""

    max_skips: Annotated[int, Field(ge=0)] = 20
    min_free_disk_gb: NotNegative = 2.0


class Recipe(Section):
    """A distill recipe.

    Attributes:
        variant: id of the variant whose checkpoints it distils.
        start: the init recipe that the checkpoint must come from; None for any.
        keep_softmax: this many layers, those whose restoring lowers KD most, stay the teacher's.
        precision: of the UNet; the trained weights are float32 always.
        gradient_checkpointing: less memory, about a third more time.
        presets: changes by card, chosen with ``--preset``; what they may say is what the recipe may say.
    """

    schema_version: Literal[1]
    name: str
    summary: str = ""
    variant: str
    start: str | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    gradient_checkpointing: bool = False
    keep_softmax: Annotated[int, Field(ge=0)] = 0
    data: Data
    calibrate: Calibrate | None = None
    align: Align | None = None
    distill: Distill | None = None
    validation: Validation = Validation()
    saving: Saving = Saving()
    logging: Logging = Logging()
    guards: Guards = Guards()
    presets: dict[str, dict[str, Any]] = {}

    @model_validator(mode="after")
    def _does_something(self) -> Recipe:
        if self.calibrate is None and self.align is None and self.distill is None:
            raise ValueError("a recipe needs at least one stage: calibrate, align or distill")
        return self
