"""The model card of a LinFusion checkpoint on the Hugging Face Hub: the metadata and one section of its ``README.md``."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from linzoo.hub.card_facts import CardFacts
from linzoo.hub.card_markdown import code, escape, fenced
from linzoo.hub.card_measures import Measures
from linzoo.hub.card_metadata import changed_metadata
from linzoo.hub.card_readme import BEGIN, END, Readme
from linzoo.hub.card_view import view
from linzoo.plugin import Card

if TYPE_CHECKING:
    from linzoo.registry import Registry

__all__ = ["CardFacts", "render_card"]


def render_card(facts: CardFacts, registry: Registry, existing: str | None = None) -> str:
    """Write a model card, or bring one up to date: of a card that exists all stays but linzoo's keys and linzoo's section.

    The same facts give the same bytes.

    Args:
        facts: all that the card tells.
        registry: whose plugins add sections.
        existing: the ``README.md`` that is in the repository, its line breaks as they are; None where there is none.

    Raises:
        CheckpointError: the metadata of the existing card cannot be read or changed, or the lines around linzoo's section
            are not one pair.
    """
    measures = Measures.of(facts.report, registry)
    title = f"# {escape(facts.name)}\n"
    readme = Readme.parse(existing or title, f"README.md of {facts.repo}")
    metadata = changed_metadata(facts, measures, readme.metadata, registry)
    return str(readme.with_metadata(metadata).with_section(_section(facts, measures, registry)))


def _section(facts: CardFacts, measures: Measures, registry: Registry) -> str:
    blocks = _template().render(view(facts, measures, registry))
    text = re.sub(r"\n{3,}", "\n\n", blocks).strip()
    sections = registry.card_sections(
        Card(checkpoint=facts.checkpoint, variant=facts.variant, lock=facts.lock)
    )
    whole = "\n\n".join([text, *(f"## {escape(each.title)}\n\n{each.markdown.strip()}" for each in sections)])
    return "\n".join(line for line in whole.splitlines() if line.rstrip() not in (BEGIN, END))


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("linzoo.hub", ""),
        undefined=StrictUndefined,
        finalize=escape,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(code=code, fenced=fenced)
    return environment.get_template("card.md.jinja")
