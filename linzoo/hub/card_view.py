"""What the template of a model card is filled with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from linzoo.checkpoints.linfusion import GENERALIZED_LINEAR
from linzoo.checkpoints.lock import address_of, is_distilled, made_from
from linzoo.distillation.yaml_text import dump
from linzoo.hub.card_commands import (
    RECIPE_FILE,
    commands,
    generate,
    is_registered,
    snippet,
)
from linzoo.hub.card_markdown import Markdown, bullets, code, escape, fenced, folded, image, link, table
from linzoo.hub.card_measures import Measured, Measures, conditions
from linzoo.hub.card_pictures import card_pictures
from linzoo.hub.license import ROLES
from linzoo.validation.report.wording import bar_of, figure, value_of
from linzoo.validation.suites import draws
from linzoo.validation.verdicts import USER

if TYPE_CHECKING:
    from linzoo.hub.card_facts import CardFacts
    from linzoo.registry import Registry

_NOTHING = Markdown("")


def view(facts: CardFacts, measures: Measures, registry: Registry) -> dict[str, Any]:
    """The values that ``card.md.jinja`` names; what is not :class:`Markdown` is escaped there."""
    report = facts.report
    return {
        "facts": facts,
        "report": report,
        "teacher": _model(facts.base_model, facts.base_commit) if facts.base_model else facts.teacher,
        "replaced": _replaced(facts),
        "mixers": Markdown(", ".join(map(code, facts.mixers))),
        "size": f"{sum(each['bytes'] for each in facts.lock['outputs'].values()) / 1e6:.1f} MB",
        "pictures": _pictures(facts),
        "conditions": conditions(report) if report is not None else "",
        "drawn": report is not None and draws(report["suite"]),
        "distilled": is_distilled(facts.lock),
        "own_bars": sum(each["bar_from"] == "--bar" for each in (report or {"measures": ()})["measures"]),
        "quality": _measured(measures.quality),
        "skipped": _skipped(measures.skipped),
        "soundness": _soundness(measures.soundness),
        "snippet": snippet(facts),
        "generate": generate(facts, registry),
        "steps": bullets(_steps(facts.lock)),
        "commands": "\n".join(commands(facts, registry)),
        "recipe": _recipe(facts.lock, registry),
        "sources": bullets(_sources(facts.lock)),
        "license": _license(facts),
        "limits": bullets(_limits(facts, measures)),
    }


def _model(repo: str, commit: str | None) -> Markdown:
    tree = f"/tree/{commit}" if commit else ""
    return link(repo, f"https://huggingface.co/{repo}{tree}")


def _replaced(facts: CardFacts) -> str:
    """How many modules are replaced; of how many, where that is known. A distillation may have given some back."""
    replaced, plan = len(facts.config.modules), facts.lock.get("plan")
    if plan is None:
        return str(replaced)
    return f"{replaced} of {(plan['document']['expect_replaced'] or replaced) + len(plan['kept_softmax'])}"


def _pictures(facts: CardFacts) -> dict[str, Markdown]:
    known = card_pictures(facts.report) if facts.report is not None else []
    shown = [each for each in known if each.path in facts.pictures]
    sheets, charts = (
        [image(each.text, each.path) for each in shown if each.kind == kind] for kind in ("sheet", "chart")
    )
    return {
        "sheet": Markdown("\n\n".join(sheets)),
        "charts": folded("Charts", *charts) if charts else _NOTHING,
    }


def _measured(measures: Iterable[Measured]) -> Markdown:
    rows = [
        (each["title"], value_of(each), _bar(each), _verdict(each["verdict"]), each["detail"])
        for each in measures
    ]
    return table(("measure", "value", "bar", "verdict", "what was found"), rows) if rows else _NOTHING


def _bar(measure: Measured) -> str:
    if measure["bar"] is None:
        return ""
    whose = "who validated" if measure["bar_from"] == USER else measure["bar_from"]
    return f"{bar_of(measure)} ({whose})"


def _verdict(verdict: str) -> Markdown:
    return Markdown("**failed**") if verdict == "failed" else escape(verdict)


def _soundness(measures: tuple[Measured, ...]) -> Markdown:
    if not measures:
        return _NOTHING
    failed = sum(each["verdict"] == "failed" for each in measures)
    return folded(f"Is it sound? {failed or 'None'} of {len(measures)} checks failed", _measured(measures))


def _skipped(measures: tuple[Measured, ...]) -> Markdown:
    rows = [(each["title"], each["skipped"] or each["detail"]) for each in measures]
    return table(("not measured", "why"), rows) if rows else _NOTHING


def _steps(lock: Mapping[str, Any]) -> Iterator[Markdown]:
    """Attention plan, init recipe and distill recipe: what each does, and its hash."""
    for key, about in (("plan", "attention plan"), ("init", "init recipe")):
        if key in lock:
            yield _step(about, lock[key], lock[key]["document"]["summary"])
    if "distill" in lock:
        kd = lock["distill"]["measures"].get("kd")
        reached = "" if kd is None else f", KD {figure(kd)} on samples kept aside"
        what = f"{lock['distill']['steps']:,} steps{reached}."
        yield _step("distill recipe", lock["distill"]["recipe"], what)


def _step(about: str, entry: Mapping[str, Any], what: str) -> Markdown:
    return Markdown(f"{about} {code(entry['id'])}: {escape(what)} SHA-256 {code(entry['sha256'])}")


def _recipe(lock: Mapping[str, Any], registry: Registry) -> Markdown:
    if "distill" not in lock:
        return _NOTHING
    recipe = lock["distill"]["recipe"]
    summary = "The distill recipe"
    if not is_registered(recipe, registry):
        summary += f" ({RECIPE_FILE})"
    return folded(summary, fenced(dump(recipe["document"]), "yaml"))


def _sources(lock: Mapping[str, Any]) -> Iterator[Markdown]:
    """The files that the checkpoint was made from, with their hashes."""
    for role, record in made_from(lock).items():
        address = address_of(record)
        model = "" if address is None else f", {_model(address.repo, address.revision)}"
        for name, file in record["files"].items():
            size = f", {file['bytes']:,} bytes" if "bytes" in file else ""
            file_name = record.get("file", name)
            yield Markdown(f"{ROLES[role]}{model}: {code(file_name)}{size}, SHA-256 {code(file['sha256'])}")


def _license(facts: CardFacts) -> Markdown:
    license = facts.license
    name = code(license.name or license.id)
    return name if license.link is None else Markdown(f"{name} ({link('text', license.link)})")


def _limits(facts: CardFacts, measures: Measures) -> Iterator[object]:
    yield "It draws what its teacher draws, with the same biases."
    if facts.report is not None and draws(facts.report["suite"]):
        width, height = facts.report["size"]
        if not any(each["check"] == "resolution" for each in measures.quality):
            yield f"Pictures were measured at {width}x{height} only."
    if any("encoder" in each["data"] for each in measures.quality):
        yield "FID, KID, CMMD and CLIP scores compare with those of the same encoder, prompts and number of pictures only."
    others = [mixer for mixer in facts.mixers if mixer != GENERALIZED_LINEAR]
    if others:
        yield f"The official LinFusion code cannot read it, for its mixers: {', '.join(others)}."
    if facts.format == "pipeline":
        yield "diffusers loads its UNet where linzoo is installed, and nowhere else."
    else:
        yield Markdown(
            f"It is made for this teacher. For another fine-tune of {code(facts.variant.id)}, `linzoo convert --init delta` carries"
            " the weights over."
        )
