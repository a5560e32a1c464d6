"""The hooks that a plugin can implement. This text is also the hook reference (``linzoo plugins hooks``)."""

# ruff: noqa: ARG001 (a specification uses none of its arguments)
from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from linzoo.plugin.entries import AttentionPlan, Check, DistillRecipe, Encoder, InitRecipe, Mixer, Variant
    from linzoo.plugin.requests import (
        Callback,
        Card,
        CardSection,
        DistillRun,
        LoadedTeacher,
        PushPlan,
        TeacherRequest,
    )

hookspec = pluggy.HookspecMarker("linzoo")
hookimpl = pluggy.HookimplMarker("linzoo")


@hookspec
def linzoo_variants() -> Iterable[Variant]:
    """Declare variants: families of SD UNets that share one structure.

    Asked once, when the registry is built. Returns any iterable of ``Variant``::

        @hookimpl
        def linzoo_variants():
            yield Variant(id="tiny-sd", fingerprint=Fingerprint(...), ...)

    A variant that is a special case of another names it in ``refines`` and gets its plans too.
    """
    return ()


@hookspec
def linzoo_attention_plans() -> Iterable[AttentionPlan]:
    """Declare attention plans: which self-attention of a variant gets which mixer.

    Asked once, when the registry is built. Returns any iterable of ``AttentionPlan``::

        @hookimpl
        def linzoo_attention_plans():
            yield AttentionPlan(
                id="tiny-sd", variant="tiny-sd", rules=(AttentionRule(mixer="generalized-linear"),), expect_replaced=6
            )

    The first rule that matches wins; a self-attention that no rule matches is an error.
    """
    return ()


@hookspec
def linzoo_mixers() -> Iterable[Mixer]:
    """Declare mixers: modules that can stand in a self-attention's place.

    Asked once, when the registry is built. Returns any iterable of ``Mixer``. The module and the function that
    names its tensors are given by ``LazyRef`` and imported when first used::

        @hookimpl
        def linzoo_mixers():
            yield Mixer(id="gla", module=LazyRef("my_gla.nn:GLA"), tensors=LazyRef("my_gla.layout:tensors"))
    """
    return ()


@hookspec
def linzoo_init_recipes() -> Iterable[InitRecipe]:
    """Declare init recipes: how a fresh mixer gets its weights from a teacher.

    Asked once, when the registry is built. Returns any iterable of ``InitRecipe``::

        @hookimpl
        def linzoo_init_recipes():
            yield InitRecipe(id="zeros", build=LazyRef("my_gla.init:zeros"), mixers=("gla",))
    """
    return ()


@hookspec
def linzoo_distill_recipes() -> Iterable[DistillRecipe]:
    """Declare distill recipes: YAML documents that ship inside the plugin's package.

    Asked once, when the registry is built. Returns any iterable of ``DistillRecipe``::

        @hookimpl
        def linzoo_distill_recipes():
            yield DistillRecipe(
                id="tiny-quick", variant="tiny-sd", document=Resource("linzoo_tiny", "recipes/quick.yaml")
            )
    """
    return ()


@hookspec
def linzoo_checks() -> Iterable[Check]:
    """Declare checks that validation runs besides its own.

    Asked once, when the registry is built. Returns any iterable of ``Check``::

        @hookimpl
        def linzoo_checks():
            yield Check(id="no-seams", run=LazyRef("my_checks.seams:run"), suites=("quality",))

    ``run`` is a function that is given a ``CheckRequest`` and gives measures::

        def run(request):
            found = seams(request.pictures("student"))
            yield Measure(name="no-seams", title="Seams", value=found, bar=0.1)
    """
    return ()


@hookspec
def linzoo_encoders() -> Iterable[Encoder]:
    """Declare encoders: networks that validation looks at pictures with.

    Asked once, when the registry is built. Returns any iterable of ``Encoder``::

        @hookimpl
        def linzoo_encoders():
            yield Encoder(id="dinov2", kind="image", build=LazyRef("my_dino:load"), license="apache-2.0")
    """
    return ()


@hookspec(firstresult=True)
def linzoo_load_teacher(request: TeacherRequest) -> LoadedTeacher | None:
    """Build the teacher's pipeline, or return None to leave it to the next plugin.

    Asked when a teacher is loaded; the first plugin that returns a ``LoadedTeacher`` wins, and linzoo's own
    loader comes last. A plugin that raises ends the command, and the error names it::

        @hookimpl
        def linzoo_load_teacher(request):
            if request.variant.id != "tiny-sd":
                return None
            return LoadedTeacher(pipeline=TinyPipeline.from_pretrained(request.path))

    This is the one hook that may be wrapped (``@hookimpl(wrapper=True)``) or ordered (``tryfirst``, ``trylast``).
    """


@hookspec
def linzoo_card_sections(card: Card) -> Iterable[CardSection]:
    """Add sections to the model card of a checkpoint.

    Asked when a card is written. Returns any iterable of ``CardSection``; they are sorted by ``order``, then by
    plugin. A plugin that raises loses its sections, with a warning; the card is written all the same::

        @hookimpl
        def linzoo_card_sections(card):
            yield CardSection(title="Licence of the weights", markdown="The weights carry OpenRAIL-M.", order=10)
    """
    return ()


@hookspec
def linzoo_distill_callbacks(run: DistillRun) -> Iterable[Callback]:
    """Watch a distillation: return functions that are called after every step.

    Asked once, before the first step, in the main process. Returns any iterable of functions that take a
    ``DistillStep``. A plugin that raises here ends the command, and the error names it; one whose function raises later
    ends the run after that step, whose state is saved::

        @hookimpl
        def linzoo_distill_callbacks(run):
            log = (run.output / "my.log").open("a")
            yield lambda step: print(step.step, step.losses, file=log)
    """
    return ()


@hookspec
def linzoo_before_push(plan: PushPlan) -> None:
    """Look at a push to the Hub before anything leaves the machine; raise ``Veto`` to stop it.

    Asked once a push. Whatever else a plugin raises stops the push as well::

        @hookimpl
        def linzoo_before_push(plan):
            if plan.license is None and not plan.private:
                raise Veto("no licence; pass --license")
    """
