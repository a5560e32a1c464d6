"""What a plugin declares: frozen dataclasses that name heavy things by reference and import nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from linzoo.plugin.frozen import FrozenMap
from linzoo.plugin.lazy import LazyRef, Resource
from linzoo.plugin.spec import Spec, SpecError, check_filled, check_id, check_positive, check_reference, shown

PredictionType = Literal["epsilon", "v_prediction", "sample"]
Conditioning = Literal["text", "text+pooled+time_ids"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry(Spec):
    """Anything that a plugin adds to the registry.

    Attributes:
        id: what it is called on the command line; unique among its kind.
        summary: one line that says what it is, for lists.

    Raises:
        SpecError: the id is not lower-case words joined by ``.``, ``_`` or ``-``, or a field is malformed.
    """

    id: str
    summary: str = ""

    def __post_init__(self) -> None:
        check_id(f"{type(self).__name__}.id", self.id)
        Spec.__post_init__(self)
        if len(self.summary.splitlines()) > 1:
            raise SpecError(f"{type(self).__name__}.summary must be one line, got {shown(self.summary)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint(Spec):
    """The eight features of a UNet's tensor shapes that tell SD families apart (docs: how detection works).

    Attributes:
        channels: width of the first convolution (320 for SD 1.5).
        in_channels: its input channels: 4 text to image, 9 inpaint, 8 instruct-pix2pix.
        context_dim: width of the text states that cross-attention reads.
        linear_projection: ``proj_in`` is a matrix (True) or a 1x1 convolution (False).
        depth: transformer blocks behind each residual block on the way down.
        mid_depth: transformer blocks in the middle; 0 where the middle has no attention.
        vector_dim: width of the added vector conditioning (SDXL: 2816); None without one.
        hidden_dim: width of an ``encoder_hid_proj`` input (Kolors: 4096); None without one.
    """

    channels: int
    in_channels: int
    context_dim: int
    linear_projection: bool
    depth: tuple[int, ...]
    mid_depth: int
    vector_dim: int | None = None
    hidden_dim: int | None = None

    def __post_init__(self) -> None:
        Spec.__post_init__(self)
        for name in ("channels", "in_channels", "context_dim", "vector_dim", "hidden_dim"):
            check_positive(f"Fingerprint.{name}", getattr(self, name))
        check_filled("Fingerprint.depth", self.depth)
        if self.mid_depth < 0 or min(self.depth) < 0:
            raise SpecError("Fingerprint.depth and Fingerprint.mid_depth must be 0 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant(Entry):
    """A family of SD UNets that share one structure; fine-tunes are checkpoints of a variant.

    Attributes:
        fingerprint: the header features that a checkpoint of this variant shows.
        refines: id of the more general variant that this one is a special case of; its plans apply here too.
        before: ids of variants that this one wins against when both fingerprints match.
        components: folder with diffusers component configs (``unet/config.json``, ``scheduler/…``, tokenizers)
            so that a single file works offline.
        component_overrides: per component, config values that differ from ``components``,
            for example ``{"unet": {"in_channels": 9}}``.
        native_size: pixels of a side that the variant was trained at, by prediction type.
        prediction_types: what the UNet may predict; more than one means that shapes cannot tell.
        conditioning: what the UNet call needs besides the latents and the timestep.
        teachers: Hub ids of models that are known to be of this variant.
        local_teachers: models that ship inside an installed package, by the name that SOURCE may give.
        local_linfusion: LinFusion checkpoints that ship inside an installed package, by the name that CHECKPOINT may give.
        linfusion: Hub ids of published LinFusion weights, by the teacher that they were distilled from.
        default_plan: id of the attention plan used when none is named.
        default_init: id of the init recipe used when none is named.
        default_distill: id of the distill recipe used when none is named; None while there is none.
        license: licence id that the original weights carry.
        bars: what ``linzoo validate`` holds a checkpoint of this variant against, by name of the measure, for example
            ``{"kd": 0.02}``.
        tiny: a UNet config of this structure that is small enough for tests.
    """

    fingerprint: Fingerprint
    refines: str | None = None
    before: tuple[str, ...] = ()
    components: Resource
    component_overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=FrozenMap)
    native_size: Mapping[str, int]
    prediction_types: tuple[PredictionType, ...]
    conditioning: Conditioning = "text"
    teachers: tuple[str, ...] = ()
    local_teachers: Mapping[str, Resource] = field(default_factory=FrozenMap)
    local_linfusion: Mapping[str, Resource] = field(default_factory=FrozenMap)
    linfusion: Mapping[str, str] = field(default_factory=FrozenMap)
    default_plan: str
    default_init: str = "teacher"
    default_distill: str | None = None
    license: str | None = None
    bars: Mapping[str, float] = field(default_factory=FrozenMap)
    tiny: Mapping[str, Any] = field(default_factory=FrozenMap)

    def __post_init__(self) -> None:
        Entry.__post_init__(self)
        for name in ("refines", "default_plan", "default_init", "default_distill"):
            check_reference(f"Variant.{name}", getattr(self, name))
        check_reference("Variant.before", *self.before)
        check_filled("Variant.prediction_types", self.prediction_types)
        if set(self.native_size) != set(self.prediction_types):
            raise SpecError(
                f"Variant.native_size must name exactly the prediction types {', '.join(self.prediction_types)}, "
                f"got {', '.join(self.native_size) or 'none'}"
            )
        check_positive("Variant.native_size", *self.native_size.values())
        for field_name in ("local_teachers", "local_linfusion"):
            for name in getattr(self, field_name):
                check_id(f"Variant.{field_name}", name)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionRule(Spec):
    """One line of an attention plan: which self-attention modules get which mixer.

    Attributes:
        match: a glob over the module's dotted name, for example ``"mid_block.*"``.
        mixer: id of the mixer; ``"softmax"`` keeps the teacher's own attention.
        channels: only modules of this width; None for any.
        options: passed to the mixer, for example ``{"projection_mid_divisor": 16}``.
    """

    match: str = "*"
    mixer: str
    channels: int | None = None
    options: Mapping[str, Any] = field(default_factory=FrozenMap)

    def __post_init__(self) -> None:
        Spec.__post_init__(self)
        check_filled("AttentionRule.match", self.match)
        check_reference("AttentionRule.mixer", self.mixer)
        check_positive("AttentionRule.channels", self.channels)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionPlan(Entry):
    """Named, ordered rules of a variant. The first rule that matches wins; every self-attention must match one.

    Cross-attention and temporal attention are never offered to a rule.

    Attributes:
        variant: id of the variant (and of all that refine it).
        rules: the rules, in order.
        expect_replaced: how many modules a mixer other than softmax must end up in; checked.
    """

    variant: str
    rules: tuple[AttentionRule, ...]
    expect_replaced: int

    def __post_init__(self) -> None:
        Entry.__post_init__(self)
        check_reference("AttentionPlan.variant", self.variant)
        check_filled("AttentionPlan.rules", self.rules)
        if self.expect_replaced < 0:
            raise SpecError(f"AttentionPlan.expect_replaced must be 0 or more, got {self.expect_replaced!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixer(Entry):
    """A token mixer that can stand in a self-attention's place.

    Attributes:
        module: the ``torch.nn.Module`` class; None for ``softmax``, which is the teacher's own attention.
        tensors: a function ``(dim, heads, options) -> {name: shape}`` that names the module's weights without
            importing torch.
        options: the options that the mixer takes, with their defaults.
    """

    module: LazyRef | None
    tensors: LazyRef | None
    options: Mapping[str, Any] = field(default_factory=FrozenMap)

    def __post_init__(self) -> None:
        Entry.__post_init__(self)
        if (self.module is None) != (self.tensors is None):
            raise SpecError("Mixer.module and Mixer.tensors must both be given or both be None")


@dataclass(frozen=True, slots=True, kw_only=True)
class InitRecipe(Entry):
    """How a fresh mixer gets its weights from a teacher.

    Attributes:
        build: a function ``(InitRequest) -> InitPlan`` that plans every tensor of a checkpoint, and makes none yet
            (see ``linzoo.init.recipe``).
        needs: what it reads besides the plan: ``teacher``, ``pipeline`` (all of the teacher's, not its attention alone),
            ``linfusion`` (published weights), ``base`` (model).
        mixers: ids of the mixers that it can start.
    """

    build: LazyRef
    needs: tuple[Literal["teacher", "pipeline", "linfusion", "base"], ...] = ("teacher",)
    mixers: tuple[str, ...] = ("generalized-linear",)

    def __post_init__(self) -> None:
        Entry.__post_init__(self)
        check_filled("InitRecipe.mixers", self.mixers)
        check_reference("InitRecipe.mixers", *self.mixers)


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillRecipe(Entry):
    """A YAML document that says how to distil: data, stages, losses, optimiser, precision, validation.

    Attributes:
        variant: id of the variant that it distils.
        document: the YAML file.
    """

    variant: str
    document: Resource

    def __post_init__(self) -> None:
        Entry.__post_init__(self)
        check_reference("DistillRecipe.variant", self.variant)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check(Entry):
    """A check of ``linzoo validate``.

    Attributes:
        run: a function ``(CheckRequest) -> iterable of Measure``.
        measures: the names of the measures that it gives, every one each time; empty for one of the check's own id.
        suites: the suites that it is part of. ``quick`` is part of every suite, and ``full`` has all checks.
        gate: nothing after it makes sense where one of its bars falls: the validation ends there. Gates come first.
    """

    run: LazyRef
    measures: tuple[str, ...] = ()
    suites: tuple[Literal["quick", "quality", "speed", "full"], ...] = ("quick",)
    gate: bool = False

    def __post_init__(self) -> None:
        Entry.__post_init__(self)
        check_filled("Check.suites", self.suites)
        for name in self.measures:
            check_id("Check.measures", name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder(Entry):
    """A network that validation looks at pictures with.

    Attributes:
        kind: ``image`` gives features of pictures (FID, KID), ``image-text`` embeddings of pictures and of texts (CLIP
            score, CMMD), ``distance`` how far two pictures are apart (LPIPS).
        build: a function ``(device) -> object``; what the object must have is told in docs/validate.md.
        license: licence id of the weights.
        packages: what must be installed, by the name that pip knows.
        download_mb: megabytes that are downloaded when it is first used; 0 where the weights come in a package.
        cached: a function ``() -> bool`` that tells whether they were downloaded already.
        variants: ids of the variants whose pictures it was made for; empty for all.
    """

    kind: Literal["image", "image-text", "distance"]
    build: LazyRef
    license: str
    packages: tuple[str, ...] = ()
    download_mb: int = 0
    cached: LazyRef | None = None
    variants: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        Entry.__post_init__(self)
        check_filled("Encoder.license", self.license)
        check_reference("Encoder.variants", *self.variants)
        if bool(self.download_mb) != (self.cached is not None):
            raise SpecError("Encoder.cached must be given where download_mb is, and only there")
