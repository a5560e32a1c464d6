"""Every field that an author can get wrong is refused by name."""

from __future__ import annotations

import copy
import enum
import json
import pickle
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import pytest

from linzoo.plugin import (
    AttentionPlan,
    AttentionRule,
    CardSection,
    Chart,
    Check,
    DistillRecipe,
    Encoder,
    Entry,
    Fingerprint,
    FrozenMap,
    InitRecipe,
    LazyRef,
    Measure,
    Mixer,
    PicturePair,
    Resource,
    SpecError,
    Variant,
    thaw,
)
from linzoo.plugin.spec import Spec

FINGERPRINT = Fingerprint(
    channels=320,
    in_channels=4,
    context_dim=768,
    linear_projection=False,
    depth=(1, 1, 1, 0),
    mid_depth=1,
)
WHOLE = {
    Fingerprint: FINGERPRINT,
    Variant: Variant(
        id="sd15",
        summary="Stable Diffusion 1.5",
        fingerprint=FINGERPRINT,
        refines="base",
        before=("other", "linzoo-a::turbo"),
        components=Resource("linzoo_sd15", "components"),
        component_overrides={"unet": {"in_channels": 9}},
        native_size={"epsilon": 512},
        prediction_types=("epsilon",),
        teachers=("runwayml/stable-diffusion-v1-5",),
        local_teachers={"mini": Resource("linzoo_mini", "weights/teacher")},
        local_linfusion={"mini-linfusion": Resource("linzoo_mini", "weights/linfusion")},
        linfusion={"runwayml/stable-diffusion-v1-5": "Yuanshi/LinFusion-1-5"},
        default_plan="sd15",
        default_distill="quick",
        license="openrail",
        bars={"kd": 0.02},
        tiny={"block_out_channels": [32, 64]},
    ),
    AttentionRule: AttentionRule(match="mid_block.*", mixer="softmax", channels=1280, options={"a": 1}),
    AttentionPlan: AttentionPlan(
        id="sd15", variant="sd15", rules=(AttentionRule(mixer="gla"),), expect_replaced=16
    ),
    Mixer: Mixer(id="gla", module=LazyRef("a.b:C"), tensors=LazyRef("a.b:tensors"), options={"heads": None}),
    InitRecipe: InitRecipe(id="zeros", build=LazyRef("a.b:zeros")),
    DistillRecipe: DistillRecipe(id="quick", variant="sd15", document=Resource("linzoo_sd15", "quick.yaml")),
    Check: Check(id="seams", run=LazyRef("a.b:run"), measures=("seams",)),
    Encoder: Encoder(
        id="dinov2",
        kind="image",
        build=LazyRef("a.b:load"),
        license="apache-2.0",
        packages=("timm",),
        download_mb=330,
        cached=LazyRef("a.b:cached"),
        variants=("sd15",),
    ),
    Chart: Chart(title="T", kind="lines", x="x", y="y", series={"student": {"1": 0.5}}),
    PicturePair: PicturePair(title="a cat", teacher="a.png", student="b.png"),
    Measure: Measure(
        name="kd",
        title="KD",
        value=0.5,
        bar=1,
        charts=(Chart(title="T", kind="bars", x="x", y="y", series={"student": {"a": 1}}),),
        pictures=(PicturePair(title="a cat", teacher="a.png", student="b.png"),),
    ),
    LazyRef: LazyRef("a.b:C", "pip install a"),
    Resource: Resource("linzoo_sd15", "components"),
    CardSection: CardSection(title="T", markdown="M"),
}
WRONG: list[tuple[type, str, Any, str]] = [
    (Variant, "id", "SD 1.5", "Variant.id must be lower-case words joined by '.', '_' or '-', got 'SD 1.5'"),
    (Variant, "id", None, "Variant.id must be lower-case words joined by '.', '_' or '-', got None"),
    (Variant, "summary", 3, "Variant.summary must be a string, got 3"),
    (Variant, "summary", "two\nlines", "Variant.summary must be one line, got 'two\\nlines'"),
    (Variant, "fingerprint", {}, "Variant.fingerprint must be a Fingerprint, got FrozenMap({})"),
    (Variant, "refines", "A B", "Variant.refines must be the id of an entry, got 'A B'"),
    (Variant, "refines", 1, "Variant.refines must be a string or None, got 1"),
    (Variant, "before", "sd21", "Variant.before must be a list, each a string, got 'sd21'"),
    (Variant, "before", (1,), "Variant.before[0] must be a string, got 1"),
    (Variant, "before", ("ok", "-"), "Variant.before must be the id of an entry, got '-'"),
    (Variant, "components", "folder", "Variant.components must be a Resource, got 'folder'"),
    (
        Variant,
        "component_overrides",
        {"unet": 9},
        "Variant.component_overrides['unet'] must be a dict of names, each plain data, got 9",
    ),
    (
        Variant,
        "component_overrides",
        {"unet": {"x": {1}}},
        "Variant.component_overrides['unet']['x'] must be plain data "
        "(None, bool, int, finite float, str, list, dict), got {1}",
    ),
    (
        Variant,
        "native_size",
        512,
        "Variant.native_size must be a dict of names, each a whole number, got 512",
    ),
    (
        Variant,
        "native_size",
        {"epsilon": 51.2},
        "Variant.native_size['epsilon'] must be a whole number, got 51.2",
    ),
    (Variant, "native_size", {"epsilon": 0}, "Variant.native_size must be 1 or more, got 0"),
    (
        Variant,
        "native_size",
        {},
        "Variant.native_size must name exactly the prediction types epsilon, got none",
    ),
    (Variant, "prediction_types", (), "Variant.prediction_types must not be empty"),
    (
        Variant,
        "prediction_types",
        ("eps",),
        "Variant.prediction_types[0] must be one of 'epsilon', 'v_prediction', 'sample', got 'eps'",
    ),
    (
        Variant,
        "conditioning",
        "image",
        "Variant.conditioning must be one of 'text', 'text+pooled+time_ids', got 'image'",
    ),
    (Variant, "teachers", "a/b", "Variant.teachers must be a list, each a string, got 'a/b'"),
    (
        Variant,
        "local_teachers",
        {"mini": "weights"},
        "Variant.local_teachers['mini'] must be a Resource, got 'weights'",
    ),
    (
        Variant,
        "local_teachers",
        {"My Model": Resource("a", "b")},
        "Variant.local_teachers must be lower-case words joined by '.', '_' or '-', got 'My Model'",
    ),
    (Variant, "linfusion", {"a/b": None}, "Variant.linfusion['a/b'] must be a string, got None"),
    (Variant, "linfusion", {1: "a/b"}, "Variant.linfusion must have strings as keys, got 1"),
    (Variant, "default_plan", None, "Variant.default_plan must be a string, got None"),
    (Variant, "default_init", "A", "Variant.default_init must be the id of an entry, got 'A'"),
    (Variant, "default_distill", "A", "Variant.default_distill must be the id of an entry, got 'A'"),
    (Variant, "license", 1, "Variant.license must be a string or None, got 1"),
    (Variant, "tiny", [], "Variant.tiny must be a dict of names, each plain data, got ()"),
    (Fingerprint, "channels", "320", "Fingerprint.channels must be a whole number, got '320'"),
    (Fingerprint, "channels", True, "Fingerprint.channels must be a whole number, got True"),
    (Fingerprint, "in_channels", 0, "Fingerprint.in_channels must be 1 or more, got 0"),
    (Fingerprint, "context_dim", -1, "Fingerprint.context_dim must be 1 or more, got -1"),
    (Fingerprint, "linear_projection", 1, "Fingerprint.linear_projection must be True or False, got 1"),
    (Fingerprint, "depth", 1, "Fingerprint.depth must be a list, each a whole number, got 1"),
    (Fingerprint, "depth", (), "Fingerprint.depth must not be empty"),
    (Fingerprint, "depth", (1, -1), "Fingerprint.depth and Fingerprint.mid_depth must be 0 or more"),
    (Fingerprint, "mid_depth", -1, "Fingerprint.depth and Fingerprint.mid_depth must be 0 or more"),
    (Fingerprint, "vector_dim", 0, "Fingerprint.vector_dim must be 1 or more, got 0"),
    (Fingerprint, "hidden_dim", "x", "Fingerprint.hidden_dim must be a whole number or None, got 'x'"),
    (AttentionRule, "match", "", "AttentionRule.match must not be empty"),
    (AttentionRule, "mixer", "Soft Max", "AttentionRule.mixer must be the id of an entry, got 'Soft Max'"),
    (AttentionRule, "channels", 0, "AttentionRule.channels must be 1 or more, got 0"),
    (
        AttentionRule,
        "options",
        {"dtype": object},
        "AttentionRule.options['dtype'] must be plain data "
        "(None, bool, int, finite float, str, list, dict), got <class 'object'>",
    ),
    (
        AttentionRule,
        "options",
        {"scale": float("nan")},
        "AttentionRule.options['scale'] must be plain data "
        "(None, bool, int, finite float, str, list, dict), got nan",
    ),
    (AttentionRule, "options", {"a": {2: 3}}, "AttentionRule.options['a'] must have strings as keys, got 2"),
    (AttentionPlan, "variant", "", "AttentionPlan.variant must be the id of an entry, got ''"),
    (AttentionPlan, "rules", (), "AttentionPlan.rules must not be empty"),
    (AttentionPlan, "rules", ("*",), "AttentionPlan.rules[0] must be an AttentionRule, got '*'"),
    (AttentionPlan, "expect_replaced", -1, "AttentionPlan.expect_replaced must be 0 or more, got -1"),
    (
        AttentionPlan,
        "expect_replaced",
        None,
        "AttentionPlan.expect_replaced must be a whole number, got None",
    ),
    (Mixer, "module", "a.b:C", "Mixer.module must be a LazyRef or None, got 'a.b:C'"),
    (Mixer, "module", None, "Mixer.module and Mixer.tensors must both be given or both be None"),
    (Mixer, "tensors", None, "Mixer.module and Mixer.tensors must both be given or both be None"),
    (Mixer, "options", None, "Mixer.options must be a dict of names, each plain data, got None"),
    (InitRecipe, "build", None, "InitRecipe.build must be a LazyRef, got None"),
    (
        InitRecipe,
        "needs",
        ("weights",),
        "InitRecipe.needs[0] must be one of 'teacher', 'pipeline', 'linfusion', 'base', got 'weights'",
    ),
    (InitRecipe, "mixers", (), "InitRecipe.mixers must not be empty"),
    (InitRecipe, "mixers", ("A",), "InitRecipe.mixers must be the id of an entry, got 'A'"),
    (DistillRecipe, "variant", "A", "DistillRecipe.variant must be the id of an entry, got 'A'"),
    (DistillRecipe, "document", "q.yaml", "DistillRecipe.document must be a Resource, got 'q.yaml'"),
    (Check, "run", print, f"Check.run must be a LazyRef, got {print!r}"),
    (Check, "suites", (), "Check.suites must not be empty"),
    (
        Check,
        "suites",
        ("all",),
        "Check.suites[0] must be one of 'quick', 'quality', 'speed', 'full', got 'all'",
    ),
    (
        Check,
        "measures",
        ("K D",),
        "Check.measures must be lower-case words joined by '.', '_' or '-', got 'K D'",
    ),
    (Check, "gate", 1, "Check.gate must be True or False, got 1"),
    (Encoder, "kind", "text", "Encoder.kind must be one of 'image', 'image-text', 'distance', got 'text'"),
    (Encoder, "build", "a.b:c", "Encoder.build must be a LazyRef, got 'a.b:c'"),
    (Encoder, "license", "", "Encoder.license must not be empty"),
    (Encoder, "packages", "timm", "Encoder.packages must be a list, each a string, got 'timm'"),
    (Encoder, "download_mb", 0.5, "Encoder.download_mb must be a whole number, got 0.5"),
    (Encoder, "download_mb", 0, "Encoder.cached must be given where download_mb is, and only there"),
    (Encoder, "cached", None, "Encoder.cached must be given where download_mb is, and only there"),
    (Encoder, "variants", ("A",), "Encoder.variants must be the id of an entry, got 'A'"),
    (Variant, "bars", {"kd": "0.1"}, "Variant.bars['kd'] must be a number, got '0.1'"),
    (Variant, "bars", {"kd": True}, "Variant.bars['kd'] must be a number, got True"),
    (
        Variant,
        "local_linfusion",
        {"mini": "weights"},
        "Variant.local_linfusion['mini'] must be a Resource, got 'weights'",
    ),
    (
        Variant,
        "local_linfusion",
        {"My": Resource("a", "b")},
        "Variant.local_linfusion must be lower-case words joined by '.', '_' or '-', got 'My'",
    ),
    (Chart, "title", 1, "Chart.title must be a string, got 1"),
    (Chart, "kind", "pie", "Chart.kind must be one of 'bars', 'lines', got 'pie'"),
    (Chart, "x", None, "Chart.x must be a string, got None"),
    (Chart, "y", None, "Chart.y must be a string, got None"),
    (Chart, "series", {}, "Chart.series must not be empty"),
    (Chart, "series", {"a": {"b": "c"}}, "Chart.series['a']['b'] must be a number, got 'c'"),
    (
        Chart,
        "series",
        {"a": {"b": 1}},
        "Chart.series['a'] must have numbers as names, since it is a line, got 'b'",
    ),
    (Chart, "logarithmic", 1, "Chart.logarithmic must be True or False, got 1"),
    (PicturePair, "title", 1, "PicturePair.title must be a string, got 1"),
    (PicturePair, "detail", None, "PicturePair.detail must be a string, got None"),
    (PicturePair, "teacher", None, "PicturePair.teacher must be a string, got None"),
    (PicturePair, "student", None, "PicturePair.student must be a string, got None"),
    (Measure, "name", "K D", "Measure.name must be lower-case words joined by '.', '_' or '-', got 'K D'"),
    (Measure, "title", "", "Measure.title must not be empty"),
    (Measure, "value", "1", "Measure.value must be a number or None, got '1'"),
    (
        Measure,
        "value",
        None,
        "Measure.skipped of 'kd' must say why there is no value, and be empty where there is one",
    ),
    (
        Measure,
        "skipped",
        "no network",
        "Measure.skipped of 'kd' must say why there is no value, and be empty where there is one",
    ),
    (Measure, "unit", None, "Measure.unit must be a string, got None"),
    (Measure, "better", "up", "Measure.better must be one of 'lower', 'higher', got 'up'"),
    (Measure, "bar", "1", "Measure.bar must be a number or None, got '1'"),
    (Measure, "detail", None, "Measure.detail must be a string, got None"),
    (Measure, "culprits", "mid", "Measure.culprits must be a list, each a string, got 'mid'"),
    (Measure, "charts", (1,), "Measure.charts[0] must be a Chart, got 1"),
    (Measure, "pictures", (1,), "Measure.pictures[0] must be a PicturePair, got 1"),
    (
        Measure,
        "data",
        {"a": {1}},
        "Measure.data['a'] must be plain data (None, bool, int, finite float, str, list, dict), got {1}",
    ),
    (LazyRef, "target", "a.b", "LazyRef.target must be of the form 'package.module:Name', got 'a.b'"),
    (LazyRef, "target", None, "LazyRef.target must be of the form 'package.module:Name', got None"),
    (LazyRef, "hint", None, "LazyRef.hint must be a string, got None"),
    (Resource, "package", "my-package", "Resource.package must be the name of a package, got 'my-package'"),
    (Resource, "package", 1, "Resource.package must be a string, got 1"),
    *(
        (
            Resource,
            "path",
            path,
            f"Resource.path must be a relative path that stays in the package, got {path!r}",
        )
        for path in ("", "/etc/passwd", "../secrets", "a/../../b", "a\\b")
    ),
    (CardSection, "title", "", "CardSection.title must not be empty"),
    (CardSection, "markdown", None, "CardSection.markdown must be a string, got None"),
    (CardSection, "order", "first", "CardSection.order must be a whole number, got 'first'"),
]


@pytest.mark.parametrize(("cls", "field", "value", "says"), WRONG)
def test_a_malformed_field_is_refused_by_name(cls: type, field: str, value: Any, says: str) -> None:
    with pytest.raises(SpecError) as caught:
        replace(WHOLE[cls], **{field: value})
    assert str(caught.value) == says
    assert caught.value.code in {"LZP303", "LZP305", "LZP306", "LZP307"}


def test_every_field_of_every_dataclass_is_tried() -> None:
    specs = {
        cls for cls in _subclasses(Spec) if cls is not Entry and cls.__module__.startswith("linzoo.plugin.")
    }
    assert specs == set(WHOLE)
    tried = {(cls, field) for cls, field, _, _ in WRONG}
    shared = {"id", "summary"}  # checked once, for all entries, on Variant
    missing = {
        (cls.__name__, each.name)
        for cls in specs
        for each in fields(cls)
        if (cls, each.name) not in tried and each.name not in shared
    }
    assert missing == set()


@pytest.mark.parametrize("cls", WHOLE, ids=lambda cls: cls.__name__)
def test_specs_are_frozen_hashable_and_survive_copies(cls: type) -> None:
    whole = WHOLE[cls]
    with pytest.raises(FrozenInstanceError):
        setattr(whole, fields(cls)[0].name, "x")
    assert len({whole, copy.deepcopy(whole), pickle.loads(pickle.dumps(whole)), replace(whole)}) == 1
    json.dumps(thaw(whole))


def test_lists_and_dicts_of_an_author_are_frozen() -> None:
    rules = [AttentionRule(mixer="gla", options={"widths": [1, {"a": [2]}]})]
    plan = AttentionPlan(id="p", variant="v", rules=rules, expect_replaced=1)  # type: ignore[arg-type]
    rules.clear()
    assert plan.rules[0].options == FrozenMap({"widths": (1, FrozenMap({"a": (2,)}))})
    assert thaw(plan)["rules"][0]["options"] == {"widths": [1, {"a": [2]}]}


def test_long_values_are_shown_in_part_and_on_one_line() -> None:
    with pytest.raises(SpecError) as caught:
        Check(id="c", run=["x\n" * 200])  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 130


class Prediction(str, enum.Enum):
    """A text to Python, and to YAML an object that it cannot write."""

    EPSILON = "epsilon"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"summary": Prediction.EPSILON}, "Mixer.summary must be a string"),
        ({"options": {"target": Prediction.EPSILON}}, r"Mixer.options\['target'\] must be plain data"),
    ],
)
def test_what_only_looks_like_plain_data_is_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError, match=says):
        Mixer(id="gla", module=None, tensors=None, **fields)


def test_what_cannot_be_printed_is_shown_all_the_same() -> None:
    class Mute:
        def __repr__(self) -> str:
            raise RuntimeError

    with pytest.raises(SpecError, match=r"Mixer.summary must be a string, got <test_entries.*Mute"):
        Mixer(id="gla", module=None, tensors=None, summary=Mute())  # type: ignore[arg-type]


def test_a_misspelled_field_is_named_by_python() -> None:
    with pytest.raises(TypeError, match="modul"):
        Mixer(id="m", modul=None, tensors=None)  # type: ignore[call-arg]


def _subclasses(cls: type) -> set[type]:
    # With slots=True the decorator makes each class anew; the first making lives on as a subclass of nothing used.
    found = {each for each in cls.__subclasses__() if "__slots__" in vars(each) and each is _public(each)}
    return found | {below for each in found for below in _subclasses(each)}


def _public(cls: type) -> object:
    import sys

    return getattr(sys.modules[cls.__module__], cls.__name__, None)
