"""What the author of a plugin imports. Nothing in here, and nothing that it imports, is heavy."""

from __future__ import annotations

from linzoo.errors import PluginError
from linzoo.plugin.entries import (
    AttentionPlan,
    AttentionRule,
    Check,
    Conditioning,
    DistillRecipe,
    Encoder,
    Entry,
    Fingerprint,
    InitRecipe,
    Mixer,
    PredictionType,
    Variant,
)
from linzoo.plugin.frozen import FrozenMap, freeze, thaw
from linzoo.plugin.hookspecs import hookimpl
from linzoo.plugin.lazy import LazyRef, Resource
from linzoo.plugin.measures import Chart, CheckRequest, Measure, PicturePair
from linzoo.plugin.requests import (
    Callback,
    Card,
    CardSection,
    DistillRun,
    DistillStep,
    DType,
    LoadedTeacher,
    PushPlan,
    TeacherRequest,
    Veto,
)
from linzoo.plugin.spec import SpecError

__all__ = [
    "AttentionPlan",
    "AttentionRule",
    "Callback",
    "Card",
    "CardSection",
    "Chart",
    "Check",
    "CheckRequest",
    "Conditioning",
    "DType",
    "DistillRecipe",
    "DistillRun",
    "DistillStep",
    "Encoder",
    "Entry",
    "Fingerprint",
    "FrozenMap",
    "InitRecipe",
    "LazyRef",
    "LoadedTeacher",
    "Measure",
    "Mixer",
    "PicturePair",
    "PluginError",
    "PredictionType",
    "PushPlan",
    "Resource",
    "SpecError",
    "TeacherRequest",
    "Variant",
    "Veto",
    "freeze",
    "hookimpl",
    "thaw",
]
