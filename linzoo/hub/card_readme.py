"""A model card that may exist already: linzoo changes its own keys of the metadata and its own section, nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from linzoo.errors import CheckpointError

BEGIN = "<!-- linzoo:begin -->"
END = "<!-- linzoo:end -->"
"""The lines that linzoo's section stands between."""

_BYTE_ORDER_MARK = "\ufeff"
_REMARKS = re.compile(r"(?<=\n)(?:(?:#[^\n]*)?\r?\n)*\Z")
"""Blank lines and comments at the end of a key's text: they are about the next key."""
_ABSENT = object()


@dataclass(frozen=True)
class Readme:
    """A ``README.md`` in its parts, which put together are the same text again.

    Attributes:
        where: how errors name it.
        opening: what stands before the metadata, the line ``---`` with it.
        front_matter: the metadata as YAML, with the line break at its end.
        closing: the line ``---`` after it.
        body: the Markdown.
        newline: how its lines end.
    """

    where: str
    opening: str
    front_matter: str
    closing: str
    body: str
    newline: str

    @classmethod
    def parse(cls, text: str, where: str) -> Readme:
        """Take a card apart where the Hub would; one without metadata is given an empty block of it."""
        from huggingface_hub.repocard import REGEX_YAML_BLOCK

        newline = "\r\n" if "\r\n" in text else "\n"
        mark = _BYTE_ORDER_MARK if text.startswith(_BYTE_ORDER_MARK) else ""
        text = text.removeprefix(mark)
        found = REGEX_YAML_BLOCK.match(text)
        if found is None:
            line = f"---{newline}"
            return cls(where, mark + line, "", line + newline, text, newline)
        opening, front_matter, closing = found.group(1, 2, 3)
        line_break = closing[: closing.index("---")]
        return cls(
            where,
            mark + opening,
            front_matter + line_break,
            closing.removeprefix(line_break),
            text[found.end() :],
            newline,
        )

    def __str__(self) -> str:
        return self.opening + self.front_matter + self.closing + self.body

    @property
    def metadata(self) -> dict[str, Any]:
        """The metadata.

        Raises:
            CheckpointError: it is no YAML, or no mapping.
        """
        import yaml

        try:
            data = yaml.safe_load(self.front_matter)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise self._error(f"is no YAML: {' '.join(str(error).split())}") from error
        if not isinstance(data, dict | None):
            raise self._error("is no mapping of keys to values")
        return data or {}

    def with_metadata(self, changes: Mapping[str, Any]) -> Readme:
        """Set keys of the metadata, or remove them (None); the text of all others stays.

        Raises:
            CheckpointError: as :attr:`metadata`; or it is written so that a key cannot be changed by itself.
        """
        before = self.metadata
        removed = {key for key, value in changes.items() if value is None}
        after = {key: value for key, value in {**before, **changes}.items() if key not in removed}
        changed = {key for key in changes if before.get(key, _ABSENT) != after.get(key, _ABSENT)}
        head, texts = self._by_key()
        parts = [head]
        for key, text in texts.items():
            parts.append(self._dump(key, after) + _remarks(text) if key in changed else text)
        parts += [self._dump(key, after) for key in changes if key in changed and key not in texts]
        made = replace(self, front_matter="".join(parts))
        if made.metadata != after:
            raise self._error("cannot be changed key by key")
        return made

    def with_section(self, section: str) -> Readme:
        """Put linzoo's section in its place, or at the end where there is none yet.

        Raises:
            CheckpointError: its first or last line is missing, or stands there more than once.
        """
        made = self.newline.join([BEGIN, *section.split("\n"), END])
        lines = self.body.split("\n")
        begins, ends = (
            [place for place, line in enumerate(lines) if line.rstrip() == mark] for mark in (BEGIN, END)
        )
        if not begins and not ends:
            gap = "" if self.body.endswith("\n") or not self.body else self.newline
            return replace(self, body=f"{self.body}{gap}{self.newline}{made}{self.newline}")
        if len(begins) != 1 or len(ends) != 1 or begins > ends:
            raise CheckpointError(
                f"{self.where}: linzoo's section begins with one line '{BEGIN}' and ends with one line '{END}', and there"
                f" are {len(begins)} and {len(ends)}; repair that, or remove both"
            )
        carriage = "\r" if lines[ends[0]].endswith("\r") else ""
        lines[begins[0] : ends[0] + 1] = [made + carriage]
        return replace(self, body="\n".join(lines))

    def _by_key(self) -> tuple[str, dict[str, str]]:
        """What stands before the first key, and the text of each, up to the next."""
        import yaml

        node = yaml.compose(self.front_matter, Loader=yaml.SafeLoader)
        if node is None:
            return self.front_matter, {}
        starts = [key.start_mark.index for key, _ in node.value]
        spans = zip(starts, [*starts[1:], len(self.front_matter)], strict=True)
        texts = [self.front_matter[start:end] for start, end in spans]
        keys = [key.value for key, _ in node.value]
        if len(set(keys)) < len(keys):
            raise self._error("names a key twice")
        return self.front_matter[: starts[0]], dict(zip(keys, texts, strict=True))

    def _dump(self, key: str, data: Mapping[str, Any]) -> str:
        """A key with its value as YAML; nothing where the data has none."""
        from huggingface_hub import CardData

        if key not in data:
            return ""
        return CardData(**{key: data[key]}).to_yaml(line_break=self.newline) + self.newline

    def _error(self, problem: str) -> CheckpointError:
        return CheckpointError(
            f"{self.where}: the metadata between its first two lines '---' {problem}; repair it, one 'key: value' a line"
        )


def _remarks(text: str) -> str:
    found = _REMARKS.search(text)
    return found[0] if found else ""
