"""docs/zoo.md says what the code does."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import fields
from pathlib import Path

import click

from linzoo.cli.main import main
from linzoo.registry import build_registry
from linzoo.zoo.entry import ZooEntry
from linzoo.zoo.index import encode_index, parse_index
from linzoo.zoo.listing import find_checkpoint, list_checkpoints

PAGE = (Path(__file__).parents[2] / "docs" / "zoo.md").read_text()


def test_the_index_that_it_shows_is_one() -> None:
    (example,) = re.findall(r"^```json\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    index = parse_index(json.loads(example), "docs/zoo.md")
    assert len(index.entries) == 1
    assert json.loads(encode_index(index)) == json.loads(example)


def test_every_field_is_in_its_table() -> None:
    (table,) = re.findall(r"^\| field \|.*?(?=\n\n)", PAGE, re.MULTILINE | re.DOTALL)
    named = [name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(named) == sorted(each.name for each in fields(ZooEntry))


def test_the_commands_that_it_shows_take_what_they_are_given() -> None:
    shown = [shlex.split(line, comments=True) for line in re.findall(r"^linzoo (.*)$", PAGE, re.MULTILINE)]
    assert len(shown) == 5
    for words in shown:
        command: click.Command = main
        while isinstance(command, click.Group):
            command = command.commands[words.pop(0)]
        command.make_context("linzoo", words)


def test_why_mini_is_given_its_own_weights() -> None:
    mini = find_checkpoint("mini-linfusion", list_checkpoints([], build_registry(entry_points=False, env={})))
    (why,) = re.findall(r"handle\.why  # '(.*)'", PAGE)
    assert why == (
        f"{mini.entry.checkpoint} ({mini.index}): made for exactly these weights (base hash {mini.entry.base_hash});"
        f" kd {mini.entry.kd_in_words}"
    )
