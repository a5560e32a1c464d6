"""Loading what was pushed as a stranger would: in a fresh process, from the Hub, at the pushed commit.

``python -m linzoo.hub.fresh`` reads a question as JSON from its standard input and answers on its standard output.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from linzoo.checkpoints.address import HubAddress
from linzoo.checkpoints.hub_errors import without_signatures
from linzoo.errors import CheckpointError, LinzooError
from linzoo.hub.target import Format

if TYPE_CHECKING:
    from torch import Tensor

_LATENT = 16  # side; the smallest that every SD UNet can halve three times with room to attend in
_SEED = 0


@dataclass(frozen=True)
class Question:
    """What to load and to compare.

    Attributes:
        local: the checkpoint, or the pipeline, on this machine; an absolute path, as all others.
        pushed: its repository, ``user/name``.
        commit: the pushed commit.
        format: of the repository.
        teacher: the SOURCE of the teacher.
        variant: of the teacher.
        prediction_type: of the teacher; None where the lock file does not say.
        plugins: one-file plugins to load as well.
    """

    local: str
    pushed: str
    commit: str
    format: Format
    teacher: str
    variant: str
    prediction_type: str | None
    plugins: tuple[str, ...]


def check_loads(question: Question, page: str) -> None:
    """Load what was pushed in a fresh process, and compare one forward pass with that of the local files, bit for bit.

    The process starts in an empty folder: neither a module nor a folder that lies where the user is takes the place of linzoo's, or
    of the repository.

    Args:
        question: what to load.
        page: of the commit or the pull request, for errors.

    Raises:
        CheckpointError: it does not load, or computes something else.
    """
    with tempfile.TemporaryDirectory(prefix="linzoo-fresh-") as empty:
        done = subprocess.run(
            [sys.executable, "-m", "linzoo.hub.fresh"],
            cwd=empty,
            input=json.dumps(asdict(question)),
            capture_output=True,
            text=True,
            check=False,
        )
    answer = json.loads(done.stdout) if done.returncode == 0 else {"error": _last_words(done.stderr)}
    if "error" in answer:
        raise CheckpointError(
            f"{page}\n  was pushed, but a fresh process cannot load it: {answer['error']}\n"
            "  It is there; correct the cause and push again, or revert it on the Hub."
        )
    if not answer["same"]:
        raise CheckpointError(
            f"{page}\n  was pushed, but computes something else than {question.local} does; push again, and report it"
        )


def _last_words(stderr: str) -> str:
    lines = without_signatures(stderr).strip().splitlines()
    return lines[-1] if lines else "it died"


def main() -> None:
    """Answer one question."""
    question = Question(**json.load(sys.stdin))
    answer: dict[str, Any]
    try:
        answer = {"same": _same(question)}
    except LinzooError as error:
        answer = {"error": str(error)}
    sys.stdout.write(json.dumps(answer))


def _same(question: Question) -> bool:
    from linzoo.validation.checks.behaviour import same_bits

    outputs = []
    for place, commit in ((question.local, None), (question.pushed, question.commit)):
        with _opened(question, place, commit) as pipe:
            outputs.append(_ask(pipe))
    return same_bits(*outputs)


@contextmanager
def _opened(question: Question, place: str, commit: str | None) -> Iterator[Any]:
    """A pipeline that draws with linear attention, in float32 on the CPU, where the same call gives the same bits."""
    import linzoo
    from linzoo.checkpoints.detection import inspect
    from linzoo.generate.teacher import open_pipeline

    if question.format == "pipeline":
        from diffusers import DiffusionPipeline

        yield DiffusionPipeline.from_pretrained(place, revision=commit, trust_remote_code=True)
        return
    registry = linzoo.build_registry(paths=question.plugins)
    found = inspect(
        question.teacher,
        registry=registry,
        variant=question.variant,
        prediction_type=question.prediction_type,
    )
    pipe = open_pipeline(found, registry, device="cpu", dtype="float32")
    address = place if commit is None else str(HubAddress(place, commit))
    linzoo.load(pipe, address, registry=registry)
    yield pipe


def _ask(pipe: Any) -> Tensor:
    """Call the UNet on noise with a caption."""
    import torch

    from linzoo.validation.batches import make_batches

    generator = torch.Generator().manual_seed(_SEED)
    noise = torch.randn(1, pipe.unet.config.in_channels, _LATENT, _LATENT, generator=generator)
    with torch.no_grad():
        batch = make_batches(pipe, noise, ["a lighthouse at dusk"], 1, "cpu")[0]
        conditioning = batch.conditioning.to(pipe.unet.dtype)
        time = torch.tensor([500])
        output: Tensor = pipe.unet(
            noise.to(pipe.unet.dtype), time, **conditioning.kwargs(), return_dict=False
        )[0]
    return output


if __name__ == "__main__":
    main()
