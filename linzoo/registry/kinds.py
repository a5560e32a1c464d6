"""The kinds of entries: the hook that declares them, their dataclass, and their name on the command line."""

from __future__ import annotations

from dataclasses import dataclass

from linzoo.plugin import AttentionPlan, Check, DistillRecipe, Encoder, Entry, InitRecipe, Mixer, Variant


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of entry: ``name`` as in ``linzoo list plans``, ``word`` as in a sentence."""

    name: str
    word: str
    type: type[Entry]
    hook: str


KINDS = (
    Kind("variants", "variant", Variant, "linzoo_variants"),
    Kind("plans", "attention plan", AttentionPlan, "linzoo_attention_plans"),
    Kind("mixers", "mixer", Mixer, "linzoo_mixers"),
    Kind("inits", "init recipe", InitRecipe, "linzoo_init_recipes"),
    Kind("recipes", "distill recipe", DistillRecipe, "linzoo_distill_recipes"),
    Kind("checks", "check", Check, "linzoo_checks"),
    Kind("encoders", "encoder", Encoder, "linzoo_encoders"),
)
DECLARATIONS = {kind.hook: kind for kind in KINDS}
