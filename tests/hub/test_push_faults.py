"""Every fault at every request of a push: the repository holds the old state or the new one, and a second push succeeds.

``python tests/hub/test_push_faults.py`` writes the table of it in docs/results anew, and the tests hold it against new pushes.
"""

from __future__ import annotations

import dataclasses
import re
import tempfile
import traceback
from collections.abc import Mapping
from pathlib import Path
from unittest import mock

import pytest
from pushing import CHECK, Pusher, make_pusher, validate_quickly

from linzoo.errors import CheckpointError
from linzoo.registry import build_registry
from linzoo.testing.fake_hub import FakeHub, Fault

TABLE = Path(__file__).parents[2] / "docs" / "results" / "push-faults.md"
INTRODUCTION = """# Faults at every request of a push

Written by `python tests/hub/test_push_faults.py`; the tests of the same file hold it against new pushes. The server is
`linzoo.testing.fake_hub`, the client is the Hub's own. A fault strikes the request of its row, once, or that and all that follow. Then the
repository is looked at, and the push is made again without a fault, which succeeded each time.

`pushed`: the push went through in spite of it. `old`: it said that it failed, and the repository is as it was. `new`: it said that it
failed, but the whole commit had arrived: the same push again says that nothing is left to do.

"""
FOR_GOOD = 1000
FAULTS: dict[str, Fault] = {
    **{
        f"{code}": Fault("status", status=code) for code in (401, 403, 404, 409, 412, 429, 500, 502, 503, 504)
    },
    "closed before": Fault("drop-before"),
    "closed after": Fault("drop-after"),
    "cut answer": Fault("cut-body"),
    "slow answer": Fault("slow-body"),
    "other host": Fault("redirect"),
}
SCENARIOS = ("first push", "second push")


def state(hub: FakeHub, repo: str) -> Mapping[str, str] | None:
    """What a repository holds; None where there is none, or nothing was committed to it yet."""
    if hub.head(repo) is None:
        return None
    files = {name: stored.oid for name, stored in hub.files(repo).items() if name != ".gitattributes"}
    return files or None


def failure(push: Pusher, repo: str) -> CheckpointError | None:
    """What a push says that went wrong: an error of linzoo's own, whatever it was."""
    try:
        push(repo)
    except CheckpointError as error:
        return error
    return None


def requests_of(hub: FakeHub, push: Pusher, scenario: str, repo: str) -> list[str]:
    """The requests of a push to which nothing happens."""
    prepare(push, scenario, repo)
    start = len(hub.requests)
    push(repo)
    return [f"{each.method} {shown(each.path, repo)}" for each in hub.requests[start:]]


def shown(path: str, repo: str) -> str:
    """A path without what differs from push to push."""
    if path.startswith("/storage/"):
        return "<storage>"
    return re.sub(r"\b[0-9a-f]{40,64}\b", "…", path.replace(repo, "REPO"))


def prepare(push: Pusher, scenario: str, repo: str) -> None:
    """Have something new to push; for a second push the repository holds an earlier one, in shards."""
    push.renew(repo)
    if scenario == "second push":
        push(repo, max_shard_bytes=300_000)


def outcome(hub: FakeHub, push: Pusher, scenario: str, repo: str, fault: Fault) -> str:
    prepare(push, scenario, repo)
    old = state(hub, repo)
    hub.inject(fault)
    error = failure(push, repo)
    hub.clear_faults()
    if error is not None:
        assert str(error).startswith("hf://")
        assert hub.token not in "".join(traceback.format_exception(error))
    after = state(hub, repo)
    push(repo)
    new = state(hub, repo)
    assert new is not None
    assert new != old
    assert after in (old, new), "half a push"
    assert error is not None or after == new, "it said that it had pushed"
    return "pushed" if error is None else "new" if after == new else "old"


Row = tuple[str, str, str]
"""Which push, which request of it, and whether the fault comes once or for good."""


def outcomes(hub: FakeHub, push: Pusher, name: str) -> dict[Row, str]:
    found = {}
    for scenario in SCENARIOS:
        clean = f"tester/{name.replace(' ', '-')}-{scenario[0]}"
        for at, request in enumerate(requests_of(hub, push, scenario, clean)):
            for times, lasting in ((1, "once"), (FOR_GOOD, "for good")):
                fault = dataclasses.replace(FAULTS[name], at=at, times=times)
                row = scenario, f"{at + 1}. `{request}`", lasting
                found[row] = outcome(hub, push, scenario, f"{clean}-{at}-{times}", fault)
    return found


FEW = ("412", "500", "closed after")
"""Tried always, the others with ``-m slow``."""


@pytest.mark.parametrize(
    "name", [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in FAULTS]
)
def test_a_fault_at_every_request(hub: FakeHub, push: Pusher, name: str) -> None:
    found = outcomes(hub, push, name)
    assert len(found) > 40
    assert found == read_table()[name]


def read_table() -> dict[str, dict[Row, str]]:
    rows = [
        [cell.strip() for cell in line.strip("|\n").split("|")]
        for line in TABLE.read_text().splitlines()
        if line.startswith("|")
    ]
    heads, body = rows[0], rows[2:]
    return {
        name: {(row[0], row[1], row[2]): row[column] for row in body}
        for column, name in enumerate(heads)
        if column > 2
    }


def write_table() -> None:
    with (
        tempfile.TemporaryDirectory() as temporary,
        FakeHub() as hub,
        hub.client(Path(temporary) / "home"),
        mock.patch(CHECK),
    ):
        registry = build_registry(entry_points=False)
        report = validate_quickly(Path(temporary) / "first", registry)
        push = make_pusher(Path(temporary), hub, registry, report)
        found = {name: outcomes(hub, push, name) for name in FAULTS}
    heads = ["push", "request", "the fault comes", *found]
    rows = [[*row, *(found[name][row] for name in found)] for row in next(iter(found.values()))]
    lines = [f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows)]
    TABLE.write_text(INTRODUCTION + "\n".join(lines) + "\n")


if __name__ == "__main__":
    write_table()
