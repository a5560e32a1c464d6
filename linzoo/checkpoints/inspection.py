"""``inspect``: what a checkpoint is, told from its headers, with the evidence, a confidence and an honest "unknown"."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from linzoo.checkpoints.census import Part
from linzoo.checkpoints.evidence import Confidence, Evidence
from linzoo.checkpoints.known import Kind
from linzoo.checkpoints.layout import Layout
from linzoo.checkpoints.source import Checkpoint
from linzoo.errors import CheckpointError, UndecidedError

if TYPE_CHECKING:
    from linzoo.plugin import PredictionType, Variant


@dataclass(frozen=True)
class Inspection:
    """What a checkpoint is.

    Attributes:
        checkpoint: the opened checkpoint.
        kind: UNet, UNet that is linear already, LoRA, VAE, …
        name: what it is called in words; empty where that is undecided.
        variant_entry: the variant; None where it is undecided or where no variant converts this model.
        prediction_type: what the UNet predicts; None where undecided.
        confidence: the weaker of the confidences in variant and prediction type.
        evidence: everything that was seen, in the order of the ladder.
        problems: what a user should know before using the weights.
        components: counts by part of the checkpoint.
    """

    checkpoint: Checkpoint = field(repr=False)
    kind: Kind
    name: str
    variant_entry: Variant | None
    prediction_type: PredictionType | None
    confidence: Confidence
    evidence: tuple[Evidence, ...]
    problems: tuple[str, ...]
    components: dict[str, Part]

    @property
    def variant(self) -> str | None:
        """Id of the variant; None where undecided."""
        return self.variant_entry.id if self.variant_entry else None

    @property
    def layout(self) -> Layout:
        """How the file or folder is laid out."""
        return self.checkpoint.layout

    @property
    def dtype(self) -> str | None:
        """The dtype of most of the UNet's tensors, as a safetensors code."""
        return self.components["unet"].dtype if "unet" in self.components else None

    @property
    def parameters(self) -> int:
        """How many numbers the UNet holds, or the whole file where there is none."""
        parts = self.components
        return (
            parts["unet"].parameters if "unet" in parts else sum(each.parameters for each in parts.values())
        )

    @property
    def native_size(self) -> int | None:
        """Pixels of a side that the model was made for; None where undecided."""
        if self.variant_entry is None or self.prediction_type is None:
            return None
        sizes = self.variant_entry.native_size
        return sizes.get(self.prediction_type, next(iter(sizes.values())))

    @property
    def decided(self) -> bool:
        """Whether it is known what the checkpoint is, and, for a UNet of a variant, what it predicts."""
        if self.kind == "unknown":
            return False
        if self.kind != "unet" or (self.name and self.variant is None):
            return True
        return self.variant is not None and self.prediction_type is not None

    def require(self) -> tuple[Variant, PredictionType]:
        """Return variant and prediction type, for those who go on to use the UNet.

        Raises:
            UndecidedError: one of them is undecided; the message has the evidence and the flag that settles it.
            CheckpointError: the checkpoint is something else than a UNet of a registered variant.
        """
        if not self.decided:
            raise UndecidedError(self.question())
        if self.kind == "linear-unet":
            raise CheckpointError(
                f"{self.checkpoint.spec}: this is {self.name}: it is linear already; name the pipeline of its teacher, which"
                " has softmax attention, or load it with diffusers.DiffusionPipeline.from_pretrained(...,"
                " trust_remote_code=True)"
            )
        if self.kind != "unet":
            raise CheckpointError(f"{self.checkpoint.spec}: this is {self.name}; a UNet is needed here")
        if self.variant_entry is None or self.prediction_type is None:
            raise CheckpointError(
                f"{self.checkpoint.spec}: this is {self.name}, which no installed variant covers;"
                " 'linzoo list variants' shows those that there are"
            )
        return self.variant_entry, self.prediction_type

    def question(self) -> str:
        """What is undecided, what was seen, and which flag settles it; for the error that ends with exit code 3."""
        if self.kind != "unet":
            about, what = "kind", "it is undecided what this is"
            advice = (
                "no flag settles it: linzoo finds a UNet by its tensor names, in the LDM layout (also without"
                " 'model.diffusion_model.') or diffusers'; get the file in one of these"
            )
        elif self.variant_entry is None:
            about, what = "variant", "a UNet, but it is undecided of which variant"
            advice = (
                "settle it with --variant ID, if it has every tensor of that variant ('linzoo list variants')"
            )
        else:
            about, what = "prediction_type", f"this is {self.variant}, but it is undecided what it predicts"
            advice = (
                "settle it with --prediction-type epsilon or --prediction-type v_prediction (its model card says"
                " which)"
            )
        seen = [each.detail for each in self.evidence if each.about == about]
        lines = [
            f"  seen: {detail}" for detail in seen or ["no config, sidecar, metadata or marker says anything"]
        ]
        return "\n".join([f"{self.checkpoint.spec}: {what}", *lines, f"  {advice}"])

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``--json``."""
        return {
            "source": self.checkpoint.spec,
            "path": str(self.checkpoint.path),
            "revision": self.checkpoint.revision,
            "kind": self.kind,
            "name": self.name or None,
            "variant": self.variant,
            "prediction_type": self.prediction_type,
            "confidence": self.confidence,
            "native_size": self.native_size,
            "layout": self.layout,
            "dtype": self.dtype,
            "parameters": self.parameters,
            "components": {part: count.to_json() for part, count in self.components.items()},
            "evidence": [each.to_json() for each in self.evidence],
            "problems": list(self.problems),
        }
