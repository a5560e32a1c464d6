"""Validations of the tiny pipeline: throw-away plugins with checks and encoders, and what they were asked for."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import linzoo
from linzoo.checkpoints.detection import inspect
from linzoo.checkpoints.linfusion import LinFusionConfig
from linzoo.checkpoints.lock import read_lock
from linzoo.checkpoints.source import open_source
from linzoo.distillation.processes import Processes
from linzoo.distillation.progress import Progress
from linzoo.generate.teacher import open_pipeline
from linzoo.plugin import CheckRequest, Measure
from linzoo.registry import Registry, build_registry
from linzoo.validation import subject as subject_module
from linzoo.validation.result import ValidationResult
from linzoo.validation.settings import Wishes, settle
from linzoo.validation.subject import Subject
from linzoo.validation.verdicts import Judged

TINY = ("linzoo_tiny", "linzoo_mixers", "linzoo.checkpoints.teacher")
"""The plugins that a validation of the tiny variant takes, without a check; the fixture ``zoo`` makes the first."""

_numbers = itertools.count()  # a plugin file is a module, and there is one of a name

BUILT_IN = (*TINY, "linzoo_checks")

SMALL: dict[str, Any] = {"images": 4, "steps": 2, "device": "cpu"}

ENCODERS = ("fake-image", "fake-image-text", "fake-distance")

Validate = Callable[..., ValidationResult]
Extend = Callable[[dict[str, Any]], Registry]

_PLUGIN = """
from linzoo.plugin import Check, Encoder, LazyRef, hookimpl

@hookimpl
def linzoo_checks():
    for id, options in {checks!r}.items():
        yield Check(id=id, run=LazyRef("validating:" + options.pop("run")), **options)

@hookimpl
def linzoo_encoders():
    for kind in ("image", "image-text", "distance"):
        yield Encoder(id="fake-" + kind, kind=kind, build=LazyRef("validating:Fake"), license="mit")
"""


def registry_with(
    folder: Path, checks: dict[str, Any], builtins: Sequence[str] = TINY, paths: Sequence[Path] = ()
) -> Registry:
    """A registry with checks of a one-file plugin, each a function of this module, and the encoder :class:`Fake`."""
    file = folder / f"extra{next(_numbers)}.py"
    file.write_text(_PLUGIN.format(checks=checks))
    return build_registry(builtins=builtins, entry_points=False, env={}, paths=(file, *paths))


def reported(folder: Path) -> Any:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads((folder / "report.json").read_text(encoding="utf-8"), parse_constant=refuse)


def measures(result: ValidationResult) -> dict[str, Judged]:
    return {each.measure.name: each for each in result.judged}


def subject_of(
    registry: Registry, checkpoint: Path, folder: Path, teacher: str | Path = "tiny", **wishes: Any
) -> Subject:
    """What ``linzoo.validate`` gives to its checks."""
    found = inspect(teacher, registry=registry)
    registered = registry.variants["tiny"]
    lock = read_lock(checkpoint)
    settings = settle(Wishes(**wishes), registered, found.native_size or 0, lock, registry)
    opened, config = open_source(checkpoint, registry=registry), LinFusionConfig.from_folder(checkpoint)
    return Subject(
        opened,
        config,
        lock,
        found,
        registered,
        settings,
        folder,
        None,
        Processes("cpu"),
        registry,
        Progress(),
    )


class Watched:
    """A pipeline that notes what it draws, and fails when it is asked for more pictures than it is to draw."""

    def __init__(self, pipe: Any, most: int = 1000) -> None:
        self._pipe = pipe
        self._most = most
        self.asked: list[str] = []

    def __call__(self, prompt: Sequence[str], **options: Any) -> Any:
        prompts = [prompt] if isinstance(prompt, str) else prompt
        if len(self.asked) + len(prompts) > self._most:
            raise KeyboardInterrupt
        self.asked += prompts
        return self._pipe(prompt=prompt, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipe, name)


Watched.__name__ = "StableDiffusionPipeline"  # drawings are told apart by the kind of pipeline


def watch_pipelines(patch: pytest.MonkeyPatch) -> list[Watched]:
    """The pipelines that validations open from now on."""
    found: list[Watched] = []

    def watch(*arguments: Any, **options: Any) -> Watched:
        found.append(Watched(open_pipeline(*arguments, **options)))
        return found[-1]

    patch.setattr(subject_module, "open_pipeline", watch)
    return found


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Watched]:
    """The pipelines that a validation opens."""
    return watch_pipelines(monkeypatch)


@pytest.fixture
def extend(zoo: Registry, tmp_path: Path) -> Extend:
    """A registry with checks of a plugin, and with no others."""
    return lambda checks: registry_with(tmp_path, checks)


@pytest.fixture
def check(linfusion: Path) -> Validate:
    """Run the checks of a plugin."""

    def run(registry: Registry, **wishes: Any) -> ValidationResult:
        return linzoo.validate(linfusion, "tiny", device="cpu", registry=registry, **wishes)

    return run


class Fake:
    """An encoder of every kind. What it sees is the mean colour of each quarter."""

    seen: ClassVar[Counter[str]] = Counter()
    """How many pictures, texts and pairs, since a test has cleared it."""
    sizes: ClassVar[set[tuple[int, ...]]] = set()

    def __init__(self, device: str) -> None:
        assert device.startswith("cpu")
        self.seen["built"] += 1

    def features(self, pixels: Tensor) -> Tensor:
        self.seen["pictures"] += len(pixels)
        self.sizes.add(tuple(pixels.shape[-2:]))
        return _quarters(pixels)

    def texts(self, texts: Sequence[str]) -> Tensor:
        self.seen.update(texts)
        return torch.stack([torch.linspace(0, 1, 12).roll(len(text)) for text in texts])

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        self.seen["pairs"] += len(a)
        return (_quarters(a) - _quarters(b)).square().mean(-1)


def _quarters(pixels: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(pixels.float() / 255, 2).flatten(1)


def half(_: CheckRequest) -> Iterator[Measure]:
    """A check whose measure is 0.5, which its own bar of 1 lets pass."""
    yield Measure(name="half", title="Half", value=0.5, bar=1.0)


def not_a_number(_: CheckRequest) -> Iterator[Measure]:
    yield Measure(name="not-a-number", title="Not a number", value=float("nan"))


def out_of_reach(_: CheckRequest) -> Iterator[Measure]:
    yield Measure(name="out-of-reach", title="Out of reach", value=2.0, bar=1.0, culprits=("down.0", "up.1"))


def raises(_: CheckRequest) -> Iterator[Measure]:
    yield Measure(name="half", title="Half", value=0.5)
    raise OSError("the moon is in the way")


def gives_numbers(_: CheckRequest) -> list[float]:
    return [0.5]


def gives_nothing(_: CheckRequest) -> list[Measure]:
    return []


def forgets_to_unload(request: CheckRequest) -> list[Measure]:
    linzoo.load(request.pipe, request.checkpoint)
    raise RuntimeError("and gone")


def draws(request: CheckRequest) -> Iterator[Measure]:
    """What a plugin is given: the teacher's own pipeline, and where to write."""
    random = torch.Generator().manual_seed(request.seed)
    pixels = request.pipe(
        "a cat", height=16, width=16, num_inference_steps=1, output_type="np", generator=random
    ).images
    (request.folder / "cat.txt").write_text(f"{request.variant.id} {request.size} {request.seed}")
    yield Measure(name="draws", title="Mean", value=float(pixels.mean()), better="higher", bar=0.0)
