"""The code of a model card: what a reader runs to use a checkpoint, to make it again, and to check it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from linzoo.checkpoints.address import HubAddress
from linzoo.checkpoints.lock import made_for
from linzoo.checkpoints.shipped import source_of
from linzoo.distillation.portable import describe_recipe
from linzoo.errors import LinzooError
from linzoo.hub.card_markdown import in_one_line
from linzoo.validation.report.again import command_of
from linzoo.validation.report.pictures import pairs_of

if TYPE_CHECKING:
    from linzoo.hub.card_facts import CardFacts
    from linzoo.registry import Registry

RECIPE_FILE = "recipe.yaml"
"""The file that a reader copies a distill recipe to which is none of linzoo's own."""

_PROMPT = "a lighthouse at dusk"
_TEACHER = "path/to/teacher"
_ELSEWHERE = {"source": "path/to/source", "linfusion": "path/to/linfusion", "base": "path/to/base-model"}


def snippet(facts: CardFacts) -> str:
    """Python that draws a picture."""
    drawing = [f"image = pipe({_literal(_prompt(facts))}).images[0]", 'image.save("picture.png")']
    if facts.format == "pipeline":
        opened = _call("diffusers.DiffusionPipeline.from_pretrained", facts.repo, trust_remote_code=True)
        return "\n".join(["import diffusers", "", f"pipe = {opened}", *drawing])
    imports, opening = _teacher(facts)
    mounting = f"linzoo.load(pipe, {_literal(facts.repo)})"
    return "\n".join(
        [*sorted(["import diffusers", "import linzoo", *imports]), "", *opening, mounting, *drawing]
    )


def generate(facts: CardFacts, registry: Registry) -> str:
    """The command that draws with teacher and student, side by side."""
    teacher = _named(made_for(facts.lock), registry, _TEACHER)
    return _command(
        "generate", teacher, _prompt(facts), "--linfusion", str(HubAddress(facts.repo)), "--compare"
    )


def commands(facts: CardFacts, registry: Registry) -> list[str]:
    """The commands that made the checkpoint, that measure it and that check its hashes."""
    lock, made = facts.lock, facts.name
    teacher = _named(made_for(lock), registry, _TEACHER)
    found = []
    if "init" in lock:
        found.append(
            _command("convert", _origin("source", lock, registry), made, *_convert_options(lock, registry))
        )
    if "distill" in lock:
        recipe = lock["distill"]["recipe"]
        named = recipe["id"] if is_registered(recipe, registry) else RECIPE_FILE
        found.append(_command("distill", made, "--teacher", teacher, "--recipe", named))
        made = f"{made}-distilled/linfusion"
    published = str(HubAddress(facts.repo))
    validated = published if facts.format == "adapter" else made
    if facts.report is None:
        found.append(_command("validate", validated, "--teacher", teacher, "--suite", "quality"))
    else:
        found.append(in_one_line(command_of(_of_a_reader(facts.report, validated, teacher))))
    return [*found, _command("verify", published)]


def is_registered(recipe: Mapping[str, Any], registry: Registry) -> bool:
    """Whether a plugin's distill recipe says what the one in a lock file does."""
    from linzoo.distillation.document import read_recipe

    try:
        path = registry.distill_recipes.get_value(recipe["id"]).document.locate()
        found = read_recipe(path)
    except LinzooError:
        return False
    return bool(describe_recipe(found.name, found.document)["sha256"] == recipe["sha256"])


def _origin(role: str, lock: Mapping[str, Any], registry: Registry) -> str:
    """The SOURCE of what a conversion read in a role: ``source``, ``linfusion`` or ``base``."""
    record = lock.get(role, {})
    return _named(record, registry, _TEACHER if record == made_for(lock) else _ELSEWHERE[role])


def _named(record: Mapping[str, Any], registry: Registry, elsewhere: str) -> str:
    """The SOURCE of a model as a reader may have it; ``elsewhere`` stands for one that nobody can name."""
    return source_of(record, registry) or _single_file(record) or elsewhere


def _prompt(facts: CardFacts) -> str:
    """A prompt that the checkpoint was measured with, where it was."""
    pairs = pairs_of(facts.report) if facts.report is not None else []
    return pairs[0].title if pairs else _PROMPT


def _command(*words: str) -> str:
    return shlex.join(map(in_one_line, ("linzoo", *words)))


def _convert_options(lock: Mapping[str, Any], registry: Registry) -> Iterator[str]:
    init = lock["init"]
    yield from ("--init", init["id"], "--plan", lock["plan"]["id"], "--seed", str(init["seed"]))
    for option, role in (("--from", "linfusion"), ("--base", "base")):
        if role in lock:
            yield from (option, _origin(role, lock, registry))
    if init["dtype"] is not None:
        yield from ("--dtype", init["dtype"])
    for seen in lock["detection"]["evidence"]:
        if seen["source"] == "flag":
            yield from (f"--{seen['about'].replace('_', '-')}", seen["says"])


def _of_a_reader(report: Mapping[str, Any], checkpoint: str, teacher: str) -> dict[str, Any]:
    """A report that names models as a reader has them, and files without the folders that they lay in."""
    settings = dict(report["settings"])
    for name in ("prompts_file", "real"):
        if settings[name] is not None:
            settings[name] = PurePath(settings[name]).name
    return {**report, "settings": settings, "checkpoint": {"spec": checkpoint}, "teacher": {"spec": teacher}}


def _teacher(facts: CardFacts) -> tuple[list[str], list[str]]:
    """Python that opens the teacher's pipeline: more imports, and lines."""
    record = made_for(facts.lock)
    file = _single_file(record)
    revision = {} if facts.base_commit is None else {"revision": facts.base_commit}
    if file is None:
        opened = _call(
            "diffusers.DiffusionPipeline.from_pretrained", facts.base_model or _TEACHER, **revision
        )
        return [], [f"pipe = {opened}"]
    pooled = facts.variant.conditioning == "text+pooled+time_ids"
    made = (
        f"diffusers.{'StableDiffusionXLPipeline' if pooled else 'StableDiffusionPipeline'}.from_single_file"
    )
    if facts.base_model is None:
        return [], [f"pipe = {_call(made, file)}"]
    # Its own way to fetch a file looks for the revision in the repository of the configs too.
    fetched = _call("huggingface_hub.hf_hub_download", facts.base_model, record.get("file", file), **revision)
    return ["import huggingface_hub"], [f"teacher = {fetched}", f"pipe = {made}(teacher)"]


def _single_file(record: Mapping[str, Any]) -> str | None:
    """The name of the one file that a model is; None for a folder."""
    files = record.get("files", {})
    return next(iter(files)) if len(files) == 1 and "/" not in next(iter(files)) else None


def _call(function: str, *arguments: str, **named: Any) -> str:
    given = [*map(_literal, arguments), *(f"{name}={_literal(value)}" for name, value in named.items())]
    return f"{function}({', '.join(given)})"


def _literal(value: Any) -> str:
    """A value as Python writes it, text in double quotes."""
    return json.dumps(in_one_line(value), ensure_ascii=False) if isinstance(value, str) else repr(value)
