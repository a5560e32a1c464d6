"""Pictures of a validation: each of its own seed, kept with its latents, and drawn once however often a run is stopped."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sabotage import copy_of, put, rewrite, rewrite_json
from tiny import tiny_sd
from validating import Watched, subject_of

from linzoo.attention.handle import load
from linzoo.distillation.processes import Processes
from linzoo.distillation.progress import Progress
from linzoo.errors import CheckpointError, LinzooError
from linzoo.generate.compare import Settings, draw_each
from linzoo.plugin import Resource
from linzoo.registry import Registry
from linzoo.validation.drawings import Drawings, Who, read_pixels
from linzoo.validation.subject import Subject

COUNT = 34
PROMPTS = tuple(f"thing {index}" for index in range(COUNT))
SETTINGS = Settings(size=(16, 16), steps=1, guidance=1.0, seed=5, batch=8)


@pytest.fixture(scope="module")
def pipe() -> Any:
    return tiny_sd()


def drawings(folder: Path, who: Who = "teacher", **changes: Any) -> Drawings:
    return Drawings(who, "0123456789abcdef", folder, PROMPTS, replace(SETTINGS, **changes))


def draw(found: Drawings, pipe: Any) -> None:
    found.draw(pipe, Progress(), Processes("cpu"))


def drawn(folder: Path, pipe: Any, **changes: Any) -> Drawings:
    found = drawings(folder, **changes)
    draw(found, pipe)
    return found


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, pipe: Any) -> Drawings:
    """All pictures drawn in one go."""
    return drawn(tmp_path_factory.mktemp("straight"), pipe)


def files(found: Drawings) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (found.folder / found.picture(0)).parent.iterdir()}


# What is drawn


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_a_picture_depends_on_its_seed_and_prompt_and_not_on_the_batch(
    straight: Drawings, tmp_path: Path, pipe: Any, batch: int
) -> None:
    found = drawn(tmp_path, pipe, batch=batch)
    torch.testing.assert_close(found.latents(), straight.latents(), rtol=0, atol=1e-5)
    everything = range(COUNT)
    apart = found.pixels(everything).int() - straight.pixels(everything).int()
    assert apart.abs().max() <= 1  # a rounding that falls to the other side


@pytest.mark.parametrize("index", [0, 15, 16, 33])
def test_picture_i_is_of_seed_plus_i(straight: Drawings, pipe: Any, index: int) -> None:
    [(image, latents)] = draw_each(pipe, [PROMPTS[index]], replace(SETTINGS, seed=5 + index))
    torch.testing.assert_close(straight.latents()[index], latents, rtol=0, atol=1e-5)
    pixels = read_pixels(straight.folder / straight.picture(index)).int()
    assert (pixels - torch.tensor(np.array(image)).permute(2, 0, 1)).abs().max() <= 1


def test_latents_are_those_that_the_pictures_were_decoded_from(straight: Drawings, pipe: Any) -> None:
    latents = straight.latents()
    assert (latents.shape, latents.dtype) == ((COUNT, 4, 8, 8), torch.float32)
    assert torch.equal(straight.latents(20), latents[:20])
    with torch.no_grad():
        decoded = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
    levels = ((decoded / 2 + 0.5).clamp(0, 1) * 255).round().int()
    assert (levels - straight.pixels(range(COUNT)).int()).abs().max() <= 1
    assert levels.float().std() > 5  # they are no plain surfaces, which would all be alike


def test_the_student_draws_the_same_noise_with_the_checkpoint(
    straight: Drawings, tmp_path: Path, linfusion: Path
) -> None:
    pipe = tiny_sd()
    handle = load(pipe, linfusion)
    student = drawings(tmp_path, "student")
    draw(student, pipe)
    handle.unload()
    [(_, latents)] = draw_each(pipe, [PROMPTS[20]], replace(SETTINGS, seed=25))
    torch.testing.assert_close(straight.latents()[20], latents, rtol=0, atol=1e-5)
    apart = (student.latents() - straight.latents()).flatten(1).norm(dim=1)
    assert apart.min() > 0.01
    assert student.picture(3) == "pictures/student-0123456789ab/000003.png"


# What is there is not drawn again


def test_what_is_there_is_not_drawn_again(straight: Drawings, pipe: Any) -> None:
    before = files(straight)
    watched = Watched(pipe)
    draw(straight, watched)
    assert watched.asked == []
    assert files(straight) == before


def test_an_interrupted_run_goes_on_after_the_last_whole_file(
    straight: Drawings, tmp_path: Path, pipe: Any
) -> None:
    found = drawings(tmp_path)
    stopped = Watched(pipe, most=28)
    with pytest.raises(KeyboardInterrupt):
        draw(found, stopped)
    assert stopped.asked == list(PROMPTS[:24])
    resumed = Watched(pipe)
    draw(found, resumed)
    assert resumed.asked == list(PROMPTS[16:])
    assert files(found) == files(straight)


def test_a_run_may_go_on_with_another_batch(straight: Drawings, tmp_path: Path, pipe: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        draw(drawings(tmp_path), Watched(pipe, most=16))
    resumed = Watched(pipe)
    found = drawings(tmp_path, batch=5)
    draw(found, resumed)
    assert resumed.asked == list(PROMPTS[16:])
    torch.testing.assert_close(found.latents(), straight.latents(), rtol=0, atol=1e-5)


def test_a_run_that_is_killed_amid_a_write_goes_on(straight: Drawings, tmp_path: Path, pipe: Any) -> None:
    """The process really dies, by SIGKILL, at its fiftieth write to the disk, which is of a picture of the second file."""
    script = (
        "import os, signal, sys; from pathlib import Path; sys.path[:0] = sys.argv[1:3]\n"
        "from tiny import tiny_sd; import test_drawings\n"
        "real, left = os.fsync, [50]\n"
        "def fsync(descriptor):\n"
        "    left[0] -= 1\n"
        "    if not left[0]: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return real(descriptor)\n"
        "os.fsync = fsync\n"
        "test_drawings.drawn(Path(sys.argv[3]), tiny_sd())\n"
    )
    here = Path(__file__).parent
    arguments = [sys.executable, "-c", script, str(here), str(here.parent), str(tmp_path)]
    died = subprocess.run(arguments, capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    left = list((tmp_path / drawings(tmp_path).picture(0)).parent.glob("[0-9]*.png"))
    assert 16 < len(left) < COUNT
    watched = Watched(pipe)
    found = drawings(tmp_path)
    draw(found, watched)
    assert watched.asked == list(PROMPTS[16:])
    torch.testing.assert_close(found.latents(), straight.latents(), rtol=0, atol=1e-5)


def remove(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [remove, cut, empty])
@pytest.mark.parametrize("name", ["000020.png", "items-000016.safetensors"])
def test_what_is_damaged_is_drawn_anew_and_nothing_else(
    straight: Drawings, tmp_path: Path, pipe: Any, name: str, damage: Callable[[Path], None]
) -> None:
    copy_of(straight.folder, tmp_path / "copy")
    found = drawings(tmp_path / "copy")
    damage((found.folder / found.picture(0)).with_name(name))
    watched = Watched(pipe)
    draw(found, watched)
    assert watched.asked == list(PROMPTS[16:32])
    assert files(found) == files(straight)


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n"])
def test_a_picture_that_cannot_be_read_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(LinzooError, match=r"a\.png: "):
        read_pixels(path)
    with pytest.raises(LinzooError, match=r"b\.png: cannot be read: No such file"):
        read_pixels(tmp_path / "b.png")


def test_too_little_room_is_seen_before_anything_is_drawn(
    tmp_path: Path, pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    watched = Watched(pipe)
    with pytest.raises(CheckpointError, match=r"28,723 bytes are needed and 1,000 are free; make room"):
        draw(drawings(tmp_path / "new"), watched)
    assert watched.asked == []
    assert not (tmp_path / "new").exists()


def test_what_is_there_takes_no_more_room(
    straight: Drawings, pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=0))
    watched = Watched(pipe)
    draw(straight, watched)  # and raises nothing
    assert watched.asked == []


# Nothing is mixed

ASKED: dict[str, Any] = {"images": 4, "steps": 2, "guidance": 2.0}


def keys(subject: Subject) -> tuple[str, str]:
    return subject.drawings("teacher").key, subject.drawings("student").key


@pytest.fixture
def subject(zoo: Registry, linfusion: Path, tmp_path: Path) -> Callable[..., Subject]:
    def make(checkpoint: Path = linfusion, teacher: str | Path = "tiny", **changes: Any) -> Subject:
        return subject_of(zoo, checkpoint, tmp_path, teacher, **(ASKED | changes))

    return make


def test_the_same_is_found_again_whatever_the_batch(subject: Callable[..., Subject]) -> None:
    teacher, student = keys(subject())
    assert teacher != student
    assert keys(subject(batch=3)) == (teacher, student)


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"size": (24, 16)}, {"images": 5}, {"steps": 3}, {"guidance": 3.0}],
    ids=["seed", "size", "images", "steps", "guidance"],
)
def test_another_way_of_drawing_is_another_folder(
    subject: Callable[..., Subject], change: dict[str, Any]
) -> None:
    before, after = keys(subject()), keys(subject(**change))
    assert len({*before, *after}) == 4


def test_other_prompts_are_another_folder(subject: Callable[..., Subject], tmp_path: Path) -> None:
    found = []
    for text in ("a\nb\n", "b\na\n"):
        (tmp_path / "prompts.txt").write_text(text)
        found += keys(subject(prompts=tmp_path / "prompts.txt", images=2))
    assert len(set(found)) == 4


def test_another_precision_is_another_folder(subject: Callable[..., Subject]) -> None:
    """On a CPU float32 is taken where nothing is named: it is the same, however one came to it."""
    before = keys(subject())
    assert keys(replace(subject(), dtype="float32")) == before
    assert len({*before, *keys(replace(subject(), dtype="bfloat16"))}) == 4


def test_another_checkpoint_is_drawn_beside_the_same_teacher(
    subject: Callable[..., Subject], linfusion: Path, tmp_path: Path
) -> None:
    other = copy_of(linfusion, tmp_path / "other")
    assert keys(subject(other)) == keys(subject())
    rewrite(other, put("0.to_q.weight", 1.0))
    (teacher, student), (again, changed) = keys(subject()), keys(subject(other))
    assert teacher == again
    assert student != changed


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "scheduler"])
def test_another_teacher_is_another_folder(
    subject: Callable[..., Subject], tmp_path: Path, part: str
) -> None:
    model = copy_of(Resource("linzoo_tiny", "model").locate(), tmp_path / "model")
    assert keys(subject(teacher=model)) == keys(subject())
    if part == "scheduler":
        rewrite_json(
            model / part / "scheduler_config.json", lambda config: config.update(timestep_spacing="trailing")
        )
    else:
        [weights] = (model / part).glob("*.safetensors")
        content = bytearray(weights.read_bytes())
        content[-2] ^= 1
        weights.write_bytes(content)
    assert len({*keys(subject()), *keys(subject(teacher=model))}) == 4


def test_the_teachers_pictures_are_taken_for_the_next_checkpoint(
    zoo: Registry, subject: Callable[..., Subject], linfusion: Path, tmp_path: Path
) -> None:
    other = copy_of(linfusion, tmp_path / "other")
    rewrite(other, put("0.to_q.weight", 1.0))
    asked = []
    for checkpoint in (linfusion, other):
        found = subject(checkpoint)
        for who in ("teacher", "student"):
            watched = Watched(found.pipe)
            found.drawings(who).draw(watched, found.progress, found.processes)
            asked.append(len(watched.asked))
    assert asked == [4, 4, 0, 4]
    assert len(list((tmp_path / "pictures").iterdir())) == 3
