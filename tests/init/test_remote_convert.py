"""Converting a model that stays on the Hub: the same bytes as of a downloaded one, and nothing fetched but what is needed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from huggingface_hub import snapshot_download
from safetensors.numpy import load_file, save_file

from linzoo.checkpoints.base_hash import hashed_names
from linzoo.checkpoints.header import read_header
from linzoo.checkpoints.remote import ranges_folder
from linzoo.checkpoints.source import open_source
from linzoo.cli.common import State
from linzoo.cli.main import main
from linzoo.errors import CheckpointError
from linzoo.init.convert import convert, execute
from linzoo.init.planning import plan_conversion
from linzoo.registry import build_registry
from linzoo.testing.fake_hub import FakeHub, Fault, Request
from tests.init.toys import contents, toy_registry, toy_unet, tuned, write_folder, write_ldm

WEIGHTS = "diffusion_pytorch_model.safetensors"
BUDGET = 1.02
"""Of the bytes of the tensors that are needed; headers of files come on top."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Repositories as folders: ``base``, a fine-tune ``tune`` and its ``single`` file, ``shards``; ``linear`` weights."""
    place = tmp_path_factory.mktemp("models")
    base = toy_unet()
    write_folder(place / "base", base)
    write_folder(place / "tune", tuned(base))
    (place / "single").mkdir()
    write_ldm(place / "single" / "model.safetensors", tuned(base))
    (place / "single" / "model.yaml").write_text("model: {params: {parameterization: eps}}")
    shutil.copytree(place / "tune", place / "shards")
    shard(place / "shards" / "unet")
    convert(place / "base", place / "linear", registry=toy_registry())
    trained = tuned(load_file(place / "linear" / WEIGHTS), amount=0.3, seed=5)
    save_file(trained, place / "linear" / WEIGHTS, {"format": "pt"})
    (place / "linear" / "linzoo.lock.json").unlink()
    return {each.name: each for each in place.iterdir()}


def shard(folder: Path) -> None:
    """Split the weights of a folder: every other tensor into another file."""
    unet = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(unet)
    parts = {"one-1.safetensors": names[::2], "two-2.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: unet[name] for name in part}, folder / file)
    index = {"metadata": {}, "weight_map": {name: file for file, part in parts.items() for name in part}}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))


@pytest.fixture
def hub(tmp_path: Path, models: Mapping[str, Path]) -> Iterator[FakeHub]:
    with FakeHub() as hub, hub.client(tmp_path / "home"):
        for name, folder in models.items():
            files = {
                each.relative_to(folder).as_posix(): each for each in folder.rglob("*") if each.is_file()
            }
            hub.put(f"tester/{name}", files)
        yield hub


def run(source: str, out: Path, **options: Any) -> dict[str, bytes]:
    convert(f"hf://tester/{source}", out, registry=toy_registry(), **options)
    return contents(out)


def stored(requests: list[Request]) -> int:
    """Bytes that the storage of large files sent."""
    return sum(each.sent for each in requests if each.host == "localhost")


def headers(*paths: Path) -> int:
    """Bytes of the headers of safetensors files as they are read: the beginning, and what its length says."""
    return sum(32 + min(info.start for info in read_header(path).tensors.values()) - 8 for path in paths)


def size_of(path: Path, names: Iterable[str]) -> int:
    tensors = read_header(path).tensors
    return sum(tensors[name].nbytes for name in set(names))


def attention(path: Path) -> list[str]:
    return [name for name in read_header(path).tensors if ".attn1.to_" in name]


RECIPES: dict[str, dict[str, Any]] = {
    "teacher": {},
    "narrow": {"plan": "toy-narrow", "dtype": "float32"},
    "random": {"init": "random"},
    "pretrained": {"init": "pretrained", "linfusion": "hf://tester/linear"},
    "delta": {"init": "delta", "linfusion": "hf://tester/linear", "base": "hf://tester/base@main"},
}


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("source", ["tune", "single", "shards"])
def test_the_result_is_that_of_the_downloaded_snapshot(
    hub: FakeHub, tmp_path: Path, source: str, recipe: str
) -> None:
    remote = run(source, tmp_path / "remote", **RECIPES[recipe])
    assert not list(tmp_path.glob("home/hub/**/*.safetensors"))
    for name in (source, "linear", "base"):
        snapshot_download(f"tester/{name}")
    before = stored(hub.requests)
    assert run(source, tmp_path / "downloaded", **RECIPES[recipe]) == remote
    assert stored(hub.requests) == before
    lock = json.loads(remote["linzoo.lock.json"])
    assert (lock["source"]["repo"], lock["source"]["commit"]) == (
        f"hf://tester/{source}",
        hub.head(f"tester/{source}"),
    )


@pytest.fixture
def unet(models: Mapping[str, Path]) -> Path:
    return models["tune"] / "unet" / WEIGHTS


def test_only_the_tensors_that_are_needed_come_over_the_line(
    hub: FakeHub, tmp_path: Path, unet: Path
) -> None:
    wanted = size_of(unet, [*attention(unet), *hashed_names(toy_unet())])
    assert 10 * wanted < unet.stat().st_size
    run("tune", tmp_path / "out")
    assert stored(hub.requests) == wanted + headers(unet)
    assert not ranges_folder().exists() or not list(ranges_folder().iterdir())


def test_nothing_is_asked_for_twice_even_if_it_is_read_twice(
    hub: FakeHub, tmp_path: Path, models: Mapping[str, Path], unet: Path
) -> None:
    base, linear = models["base"] / "unet" / WEIGHTS, models["linear"] / WEIGHTS
    wanted = size_of(unet, [*attention(unet), *hashed_names(toy_unet())])
    wanted += size_of(base, attention(base)) + size_of(linear, read_header(linear).tensors)
    run("tune", tmp_path / "out", **RECIPES["delta"])
    assert stored(hub.requests) == wanted + headers(unet, base, linear)


def test_a_recipe_that_reads_no_weights_fetches_those_of_the_base_hash(
    hub: FakeHub, tmp_path: Path, unet: Path
) -> None:
    run("tune", tmp_path / "out", init="random")
    assert stored(hub.requests) == size_of(unet, hashed_names(toy_unet())) + headers(unet)


@pytest.mark.parametrize("cuts", [1, 4, 12])
def test_cuts_cost_next_to_nothing(hub: FakeHub, tmp_path: Path, unet: Path, cuts: int) -> None:
    expected = run("tune", tmp_path / "undisturbed")
    before = len(hub.requests)
    hub.inject(Fault("cut-body", path="/storage/", at=1, times=cuts))
    assert run("tune", tmp_path / "out") == expected
    wanted = size_of(unet, [*attention(unet), *hashed_names(toy_unet())])
    assert sum(each.fault == "cut-body" for each in hub.requests) == cuts
    assert stored(hub.requests[before:]) <= BUDGET * wanted + headers(unet)


def test_one_content_one_commit(hub: FakeHub, tmp_path: Path, models: Mapping[str, Path]) -> None:
    """What is committed after the headers were read changes nothing."""
    expected = run("tune", tmp_path / "before")
    plan = plan_conversion("hf://tester/tune", registry=toy_registry())
    hub.put("tester/tune", {f"unet/{WEIGHTS}": (models["base"] / "unet" / WEIGHTS).read_bytes()})
    execute(plan, tmp_path / "out")
    assert contents(tmp_path / "out") == expected
    assert run("tune", tmp_path / "after")["linzoo.lock.json"] != expected["linzoo.lock.json"]


KILLED = """
import signal
import sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background does not have
from linzoo.init.convert import convert, execute
from tests.init.toys import toy_registry
convert("hf://tester/tune", sys.argv[1], registry=toy_registry())
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_is_gone_on_with(hub: FakeHub, tmp_path: Path, unet: Path, end: signal.Signals) -> None:
    held = Fault(
        "slow-body", path="/storage/", at=2 + 5, times=99, release=threading.Event()
    )  # behind the header's two
    hub.inject(held)
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path / "out")],
        cwd=Path(__file__).parents[2],
        env=os.environ | hub.environment(tmp_path / "home"),
        stderr=subprocess.PIPE,
    ) as killed:
        try:
            assert held.struck.wait(60)  # four come at once: when the sixth is asked for, two are there
            killed.send_signal(end)
            _, said = killed.communicate(timeout=60)  # while the others wait for their bytes
        finally:
            killed.kill()
    assert (b"KeyboardInterrupt" in said) == (end == signal.SIGINT), said
    hub.clear_faults()
    (folder,) = ranges_folder().iterdir()
    kept = [each.stat().st_size for each in folder.iterdir() if each.suffix != ".part"]
    assert len(kept) >= 2
    assert not (tmp_path / "out").exists()
    before = len(hub.requests)
    result = run("tune", tmp_path / "out")
    wanted = size_of(unet, [*attention(unet), *hashed_names(toy_unet())])
    assert stored(hub.requests[before:]) == wanted - sum(kept) + headers(unet)
    assert not list(ranges_folder().iterdir())
    assert run("tune", tmp_path / "undisturbed") == result


def test_a_failure_leaves_what_arrived_and_no_result(hub: FakeHub, tmp_path: Path) -> None:
    hub.inject(Fault("status", path="/resolve/.*safetensors", status=403, at=4, times=99))
    with pytest.raises(
        CheckpointError, match=r"(?s)hf://tester/tune@\w+/unet/diffusion_pytorch_model.safetensors: .*403"
    ):
        run("tune", tmp_path / "out")
    assert [each.name for each in tmp_path.iterdir()] == ["home"]
    assert list(ranges_folder().glob("*/*"))


@pytest.mark.parametrize("refused", ["before", "while"])
def test_a_refusal_leaves_nothing_and_names_what_the_user_named(
    hub: FakeHub, tmp_path: Path, refused: str
) -> None:
    other = toy_unet(seed=7)
    if refused == "while":
        other = {name: array * np.float16("nan") for name, array in other.items()}
    write_folder(tmp_path / "other", other)
    hub.put("tester/other", {f"unet/{WEIGHTS}": tmp_path / "other" / "unet" / WEIGHTS,
                             "unet/config.json": tmp_path / "other" / "unet" / "config.json",
                             "model_index.json": tmp_path / "other" / "model_index.json"})  # fmt: skip
    if refused == "before":
        message, options = "^hf://tester/other is no fine-tune of hf://tester/base@main: ", RECIPES["delta"]
    else:
        message, options = "^hf://tester/other: tensor '.*' holds .* NaN", {}
    with pytest.raises(CheckpointError, match=message):
        run("other", tmp_path / "out", prediction_type="epsilon", **options)
    assert stored(hub.requests) > size_of(
        tmp_path / "other" / "unet" / WEIGHTS, attention(tmp_path / "other" / "unet" / WEIGHTS)
    )
    assert not list(ranges_folder().iterdir())
    assert not (tmp_path / "out").exists()


def test_room_is_looked_for_first(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_conversion("hf://tester/tune", registry=toy_registry())
    before = stored(hub.requests)
    usage = shutil.disk_usage(tmp_path)
    for needed in (plan.to_fetch, plan.to_fetch + plan.disk):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=needed - 1: usage._replace(free=free))
        for dry_run in (True, False):
            with pytest.raises(
                CheckpointError, match=f"{needed:,} bytes are needed and {needed - 1:,} are free"
            ):
                execute(plan, tmp_path / "out", dry_run=dry_run)
    assert stored(hub.requests) == before
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=plan.to_fetch + plan.disk))
    execute(plan, tmp_path / "out")


def test_a_recipe_that_opens_the_pipeline_has_it_whole_but_not_in_a_dry_run(
    hub: FakeHub, tmp_path: Path
) -> None:
    registry = build_registry(entry_points=False, env={})
    mini = open_source("mini", registry=registry).path
    files = {each.relative_to(mini).as_posix(): each for each in mini.rglob("*") if each.is_file()}
    hub.put("tester/mini", files)
    (whole,) = (each for name, each in files.items() if name.startswith("unet/") and each.suffix != ".json")
    options: dict[str, Any] = {"init": "calibrated", "registry": registry}
    planned = convert("hf://tester/mini", tmp_path / "out", dry_run=True, **options).plan
    assert (planned.to_fetch, planned.unprepared) == (whole.stat().st_size, True)
    assert stored(hub.requests) == headers(whole)
    hub.put("tester/mini", {"README.md": b"A new commit."})
    fetched = replace(planned, init=replace(planned.init, prepare=None)).prepared()
    assert (fetched.to_fetch, fetched.unprepared) == (0, False)
    assert all(each.is_file() for each in planned.source.files)
    assert stored(hub.requests) == headers(whole) + whole.stat().st_size
    name = planned.read["source"][0]
    assert planned.source.read(name).tobytes() == open_source("mini", registry=registry).read(name).tobytes()
    assert stored(hub.requests) == headers(whole) + whole.stat().st_size


# --- on the command line


def command(*arguments: object) -> Result:
    state = State()
    state.__dict__["registry"] = toy_registry()
    result = CliRunner().invoke(main, ["convert", *map(str, arguments)], obj=state)
    assert result.exit_code == 0, result.output
    return result


@pytest.mark.parametrize(
    "recipe", [(), ("--init", "delta", "--from", "hf://tester/linear", "--base", "hf://tester/base")]
)
def test_a_dry_run_says_what_would_be_fetched(
    hub: FakeHub, tmp_path: Path, models: Mapping[str, Path], unet: Path, recipe: tuple[str, ...]
) -> None:
    files = [unet]
    if recipe:
        files += [models["linear"] / WEIGHTS, models["base"] / "unet" / WEIGHTS]
    planned = json.loads(command("hf://tester/tune", tmp_path / "out", "--dry-run", "--json", *recipe).stdout)
    assert stored(hub.requests) == headers(*files)
    text = command("hf://tester/tune", tmp_path / "out", "--dry-run", *recipe).stdout
    whole = sum(each.stat().st_size for each in files)
    assert (
        f"  to fetch: {planned['bytes_to_fetch'] / 1e6:,.1f} MB of {whole / 1e6:,.1f} MB on the Hub" in text
    )
    before = stored(hub.requests)
    done = json.loads(command("hf://tester/tune", tmp_path / "out", "--json", *recipe).stdout)
    assert stored(hub.requests) - before == planned["bytes_to_fetch"] + headers(*files)
    assert (done["bytes_to_fetch"], done["written"]) == (0, True)


def test_a_local_model_says_nothing_of_fetching(tmp_path: Path, models: Mapping[str, Path]) -> None:
    assert "fetch" not in command(models["tune"], tmp_path / "out", "--dry-run").stdout


def test_fetching_is_followed(hub: FakeHub) -> None:
    seen: list[tuple[str, int]] = []
    arrived: list[int] = []

    @contextmanager
    def follow(title: str, total: int) -> Iterator[Callable[[int], None]]:
        seen.append((title, total))
        yield arrived.append

    plan = plan_conversion("hf://tester/tune", registry=toy_registry())
    prepared = plan.prepared(follow)
    assert seen == [("Fetching", plan.to_fetch)]
    assert (sum(arrived), prepared.to_fetch, prepared.unprepared) == (plan.to_fetch, 0, False)
