"""Write the pages of docs/ that come from the code: hooks, error codes, commands, the fields of recipes.

``python docs/generate.py`` writes them; with ``--check`` it says which are out of date and exits 1.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

import linzoo.plugin
from linzoo.cli.main import main as command_line
from linzoo.distillation.recipe import SCHEMA_VERSION, Recipe
from linzoo.registry.hooks import Hook, all_hooks
from linzoo.registry.problems import CODES, Code

DOCS = Path(__file__).parent
NOTE = "<!-- Written by docs/generate.py from the code; `make docs` writes it anew. -->"


def hooks_page() -> str:
    """Every hook, then every dataclass that a plugin makes or is given."""
    hooks = all_hooks()
    parts = [
        "# Hooks",
        NOTE,
        "A plugin is a module whose functions are marked with `@hookimpl`. The [tutorial](tutorial.md) builds one.",
        "```\n"
        "metadata -> switches -> import -> declarations -> checks -> registry -> your command -> other hooks\n"
        "```",
        "Plugins are found by the metadata of installed packages and filtered by the `LINZOO_…PLUGINS` switches before "
        "anything is imported. Then each is imported, its hooks are looked over, and its declarations are asked for and "
        "checked. A plugin that fails anywhere on the way is left out as a whole ([codes](errors.md)); nothing else is.",
        "## Declarations",
        *(_hook(hook) for hook in hooks if hook.declares),
        "## Taking part",
        *(_hook(hook) for hook in hooks if not hook.declares),
        "## Dataclasses",
        "All are imported from `linzoo.plugin`, frozen, and take their fields by name (`LazyRef` and `Resource` also by "
        "place). Lists and dicts are frozen on the way in. A malformed field raises `SpecError`, which names it.",
        *(_dataclass(getattr(linzoo.plugin, name)) for name in _dataclasses()),
    ]
    return _join(parts)


def errors_page() -> str:
    """Every LZP code."""
    parts = [
        "# Error codes of plugins",
        NOTE,
        "A plugin with an **error** is left out as a whole, with one line on stderr; everything else works. A plugin "
        "with a **warning** works. `linzoo plugins show NAME` says what is wrong, where, and what to do; with `-v` it "
        "adds the traceback. `LINZOO_STRICT_PLUGINS=1` turns the first of them into a failure.",
        *(_code(code) for code in CODES.values()),
    ]
    return _join(parts)


def cli_page() -> str:
    """The help of every command of linzoo's own."""
    return _join(["# Commands", NOTE, *_commands(command_line, "linzoo")])


def recipe_page() -> str:
    """Every field of a distill recipe, section by section."""
    schema = Recipe.model_json_schema()
    parts = [
        "# Fields of a distill recipe",
        NOTE,
        f"Version {SCHEMA_VERSION} of the schema; [recipes](recipes.md) explains how to use them. A key that is not here is an "
        "error. A section that may be null is left out by null, and a section that is given takes the defaults of the "
        "keys that it does not name.",
        *_sections(schema, schema, ""),
    ]
    return _join(parts)


PAGES = {
    "plugins/hooks.md": hooks_page,
    "plugins/errors.md": errors_page,
    "cli.md": cli_page,
    "recipe-fields.md": recipe_page,
}


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; exit 1 where a page is out of date.")
def main(check: bool) -> None:
    """Write the generated pages of docs/."""
    stale = []
    for name, page in PAGES.items():
        path, text = DOCS / name, page()
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(f"docs/{name}")
            if not check:
                path.write_text(text, encoding="utf-8")
    if check and stale:
        click.echo(f"out of date: {', '.join(stale)} (make docs)", err=True)
        sys.exit(1)


def _hook(hook: Hook) -> str:
    signature = f"```python\n{hook.signature}\n```"
    return _join([f"### {hook.name}({', '.join(hook.arguments)})", signature, _markdown(hook.text)]).strip()


def _code(code: Code) -> str:
    remedy = "" if re.fullmatch(r"\{\w+\}", code.remedy) else f"\n  {code.remedy}"
    shape = f"```\n{code.severity}[{code.code}] NAME VERSION: {code.message}{remedy}\n```"
    return _join([f"## {code.code}: {code.title}", shape, code.explanation]).strip()


def _dataclasses() -> list[str]:
    names = linzoo.plugin.__all__
    return [name for name in names if dataclasses.is_dataclass(getattr(linzoo.plugin, name))]


def _dataclass(cls: type) -> str:
    """A dataclass with its fields; what its docstring says of a field stands beside it."""
    text, said = _split_fields(inspect.getdoc(cls) or "")
    for base in cls.__mro__[1:]:
        said = _split_fields(inspect.cleandoc(base.__doc__ or ""))[1] | said
    rows = []
    for field in dataclasses.fields(cls):
        needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        default = "" if needed else f" = {_default(field)}"
        kind = str(field.type).replace("|", "\\|")
        rows.append(f"| `{field.name}` | `{kind}{default}` | {said.get(field.name, '')} |")
    table = "\n".join(["| field | type | |", "|---|---|---|", *rows])
    return _join([f"### {cls.__name__}", _markdown(text), table]).strip()


def _default(field: dataclasses.Field[object]) -> str:
    value = field.default_factory() if field.default is dataclasses.MISSING else field.default  # type: ignore[misc]
    return "{}" if value == {} else repr(value)


def _split_fields(text: str) -> tuple[str, dict[str, str]]:
    """Take the section on fields (``Attributes:`` or ``Args:``) out of a docstring."""
    section = re.search(r"^(?:Attributes|Args):\n((?:[ ]+.*\n?|\n(?=[ ]))+)", text, re.MULTILINE)
    said = {}
    if section:
        for item in re.split(r"\n(?=\S)", textwrap.dedent(section[1]).strip()):
            name, _, words = item.partition(":")
            said[name] = _markdown(" ".join(words.split()))
        text = text.replace(section[0], "")
    return re.sub(r"^Raises:\n(?:[ ]+.*\n?)+", "", text, flags=re.MULTILINE).strip(), said


def _markdown(text: str) -> str:
    """From the marks of docstrings to those of Markdown."""
    block = re.compile(r"::\n\n((?:[ ]{4}.*\n?|\n(?=[ ]{4}))+)")
    text = block.sub(lambda found: f":\n\n```python\n{textwrap.dedent(found[1]).rstrip()}\n```\n", text)
    text = re.sub(r":class:`~?([^`]+)`", r"`\1`", text)
    return re.sub(r"(?<!`)``(?!`)", "`", text)


def _sections(schema: dict[str, Any], section: dict[str, Any], path: str) -> Iterator[str]:
    """A section with its fields, then the sections in it."""
    rows, below = [], []
    for name, field in section["properties"].items():
        inner = _inner(schema, field)
        if inner is not None:
            below.append((inner, f"{path}.{name}".lstrip(".")))
        needed = name in section.get("required", ())
        default = "(needed)" if needed else f"`{_yaml(field.get('default'), inner)}`"
        rows.append(
            f"| `{name}` | {_kind(schema, field)} | {default} | {_markdown(' '.join(field['description'].split()))} |"
        )
    text = " ".join(section.get("description", "").split())
    table = "\n".join(["| key | value | default | |", "|---|---|---|---|", *rows])
    yield _join([f"## {path or 'The recipe'}", _markdown(text), table]).strip()
    for inner, where in below:
        yield from _sections(schema, inner, where)


def _inner(schema: dict[str, Any], field: dict[str, Any]) -> dict[str, Any] | None:
    """The section that a field holds."""
    found = next((each["$ref"] for each in [field, *field.get("anyOf", ())] if "$ref" in each), None)
    return schema["$defs"][found.rpartition("/")[2]] if found else None


def _kind(schema: dict[str, Any], field: dict[str, Any]) -> str:
    """What a field takes, in words."""
    if "anyOf" in field:
        return " or ".join(_kind(schema, each) for each in field["anyOf"])
    if "$ref" in field:
        return "section"
    if "enum" in field:
        return ", ".join(f"`{each}`" for each in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    if field["type"] == "array":
        items = field.get("prefixItems") or [field["items"]]
        return (
            f"[{', '.join(_kind(schema, each) for each in items)}{'' if 'prefixItems' in field else ', …'}]"
        )
    words = {
        "integer": "whole number",
        "number": "number",
        "string": "text",
        "boolean": "true or false",
        "object": "section",
    }
    limits = {"minimum": "≥ {}", "exclusiveMinimum": "> {}", "maximum": "≤ {}", "exclusiveMaximum": "< {}"}
    limits["multipleOf"] = "(multiple of {})"
    if field.get("minimum") == field.get("multipleOf"):
        limits.pop("minimum")
    said = [form.format(field[name]) for name, form in limits.items() if name in field]
    return " ".join([words.get(field["type"], field["type"]), ", ".join(said)]).strip()


def _yaml(default: Any, inner: dict[str, Any] | None) -> str:
    """A default as a recipe would say it; that of a section stands in its own table."""
    if inner is not None and default is not None and default == _defaults(inner):
        return "{}"
    return json.dumps(default, ensure_ascii=False)


def _defaults(section: dict[str, Any]) -> dict[str, Any]:
    return {name: field.get("default") for name, field in section["properties"].items()}


def _commands(command: click.Command, path: str) -> Iterator[str]:
    context = click.Context(
        command,
        info_name=path,
        terminal_width=100,
        max_content_width=100,
        help_option_names=["-h", "--help"],
    )
    yield (
        f"## {path}\n\n```\n{command.get_help(context).rstrip()}\n```"
        if path != "linzoo"
        else _overview(context)
    )
    if isinstance(command, click.Group):
        for name, below in sorted(command.commands.items()):
            yield from _commands(below, f"{path} {name}")


def _overview(context: click.Context) -> str:
    return f"{inspect.cleandoc(context.command.help or '').split(chr(8))[0].strip()}\n"


def _join(parts: list[str]) -> str:
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


if __name__ == "__main__":
    main()
