"""The metadata of a model card: what the Hub searches and shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from linzoo.hub.card_markdown import in_one_line
from linzoo.hub.card_measures import Measured, Measures, conditions
from linzoo.hub.card_pictures import FOLDER, card_pictures
from linzoo.validation.report.wording import bar_of

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

    from linzoo.hub.card_facts import CardFacts
    from linzoo.registry import Registry

_KEYS = (
    "library_name", "pipeline_tag", "license", "license_name", "license_link", "base_model", "base_model_relation", "tags",
    "widget", "model-index",
)  # fmt: skip
"""What linzoo says on a card; every other key is its owner's."""
_RELATIONS = {"adapter": "adapter", "pipeline": "finetune"}
_TASK = "text-to-image"


def changed_metadata(
    facts: CardFacts, measures: Measures, existing: Mapping[str, Any], registry: Registry
) -> dict[str, Any]:
    """The keys that linzoo sets on a card, None for one that goes.

    Tags and example pictures that are not linzoo's stay, and so does the owner's ``base_model`` where the teacher is not on
    the Hub.

    Args:
        facts: what the card is written from.
        measures: those of its report.
        existing: the metadata of the card that is there.
        registry: whose variants and mixers are tags.
    """
    from huggingface_hub import ModelCardData

    tags = ["linfusion", "linear-attention", "linzoo", facts.variant.id, *facts.mixers]
    ours = [*tags, *(entry.value.id for catalog in (registry.variants, registry.mixers) for entry in catalog)]
    card: Any = ModelCardData(  # whose methods have no types
        library_name="diffusers",
        pipeline_tag=_TASK,
        license=facts.license.id,
        license_name=facts.license.name,
        license_link=facts.license.link,
        base_model=facts.base_model or _of_the_owner(existing.get("base_model"), facts),
        base_model_relation=_RELATIONS[facts.format],
        tags=[*(tag for tag in _list(existing.get("tags")) if tag not in ours), *tags],
        widget=[*(each for each in _list(existing.get("widget")) if not _is_ours(each)), *_widget(facts)]
        or None,
        model_name=facts.name,
        eval_results=_eval_results(facts.report, measures.quality) or None,
    )
    said = card.to_dict()
    return {key: said.get(key) for key in _KEYS}


def _of_the_owner(base_model: Any, facts: CardFacts) -> Any:
    """What stands on the card, if it is not what an earlier push has put there."""
    return None if base_model == facts.earlier_base else base_model


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _is_ours(widget: Any) -> bool:
    output = widget.get("output") if isinstance(widget, dict) else None
    return isinstance(output, dict) and str(output.get("url")).startswith(f"{FOLDER}/")


def _widget(facts: CardFacts) -> list[dict[str, Any]]:
    """What the student drew, beside the prompt that it drew."""
    return [
        {"text": in_one_line(each.text), "output": {"url": each.path}}
        for each in (card_pictures(facts.report) if facts.report else [])
        if each.kind == "drawn" and each.path in facts.pictures
    ]


def _eval_results(report: Mapping[str, Any] | None, measures: tuple[Measured, ...]) -> list[EvalResult]:
    """The figures of how good it is, each with what was held against it."""
    from huggingface_hub import EvalResult

    if report is None:
        return []
    return [
        EvalResult(
            task_type=_TASK,
            dataset_type="prompts",
            dataset_name=in_one_line(conditions(report)),
            metric_type=each["name"],
            metric_name=in_one_line(each["title"]),
            metric_value=each["value"],
            metric_args=_circumstances(each),
        )
        for each in measures
        if each["value"] is not None
    ]


def _circumstances(measure: Measured) -> dict[str, str] | None:
    found = {"detail": in_one_line(measure["detail"]), "bar": in_one_line(bar_of(measure))}
    return {name: text for name, text in found.items() if text} or None
