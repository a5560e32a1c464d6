"""What the author of a plugin imports. Nothing in here, and nothing that it imports, is heavy."""

from __future__ import annotations

from linzoo.errors import PluginError
from linzoo.plugin.entries import (
    AttentionPlan,
    AttentionRule,
    Check,
    Conditioning,
    DistillRecipe,
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
    "Check",
    "Conditioning",
    "DType",
    "DistillRecipe",
    "DistillRun",
    "DistillStep",
    "Entry",
    "Fingerprint",
    "FrozenMap",
    "InitRecipe",
    "LazyRef",
    "LoadedTeacher",
    "Mixer",
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
