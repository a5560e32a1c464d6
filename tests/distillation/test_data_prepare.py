"""Preparing data from end to end: what is encoded, what is not encoded twice, and what a run then loads."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from PIL import Image

import linzoo
from linzoo.distillation.batch import Batch
from linzoo.distillation.data import cache as cache_module
from linzoo.distillation.data.draw import TeacherDraws
from linzoo.distillation.data.latents import LatentData
from linzoo.distillation.data.prepare import cache_folder, prepare_data
from linzoo.distillation.errors import DataError
from linzoo.distillation.recipe import Recipe
from linzoo.errors import CheckpointError
from linzoo.plugin import TeacherRequest
from linzoo.registry import Registry, build_registry

COUNT, HELD_OUT = 12, 3


@pytest.fixture(scope="module", name="zoo")
def _zoo() -> Registry:
    return build_registry(entry_points=False, env={})


@pytest.fixture(scope="module", name="mini")
def _mini(zoo: Registry) -> Any:
    found = linzoo.inspect("mini", registry=zoo)
    variant, prediction_type = found.require()
    request = TeacherRequest(
        source="mini", path=found.checkpoint.path, variant=variant, prediction_type=prediction_type
    )
    return zoo.load_teacher(request).pipeline


@pytest.fixture(scope="module", name="sd")
def _sd() -> Any:
    return tiny.tiny_sd()


@pytest.fixture(name="prompts")
def _prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(f"prompt {number}" for number in range(COUNT)))
    return path


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(COUNT):
        shape = [(32, 32), (48, 24), (24, 48)][number % 3]
        Image.new("RGB", shape, (20 * number, 0, 0)).save(folder / f"{number:02}.png")
        (folder / f"{number:02}.txt").write_text(f"caption {number % 4}")
    return folder


@pytest.fixture(name="prepare")
def _prepare(zoo: Registry, tmp_path: Path) -> Callable[..., LatentData]:
    def prepare(
        pipe: Any, source: Path, *, options: Any = (), finish: Any = None, batch: int = 1, **arguments: Any
    ) -> LatentData:
        kind = "folder" if source.is_dir() else "prompts"
        data = {"kind": kind, "source": str(source), "held_out": HELD_OUT, "cache": str(tmp_path / "cache")}
        data |= {"size": [16, 16], "sampling": {"steps": 2}, **dict(options)}
        distill = {"steps": 1, "batch": batch, "finish": finish}
        recipe = {"schema_version": 1, "name": "x", "variant": "sd15", "data": data, "distill": distill}
        arguments = {"variant": zoo.variants.get_value("sd15"), "device": "cpu"} | arguments
        return prepare_data(Recipe.model_validate(recipe), pipe, **arguments)

    return prepare


Prepare = Callable[..., LatentData]


class Counting:
    """Counts what is made, and can end the process's life at one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, pipe: Any) -> None:
        self.drawn = self.encoded = self.texts = 0
        self.die_at: int | None = None
        draw, encode, texts = TeacherDraws.make, pipe.vae.encode, pipe.encode_prompt

        def make(maker: TeacherDraws, views: Any) -> Any:
            self.drawn += len(views)
            if self.die_at is not None and self.drawn > self.die_at:
                raise Died
            return draw(maker, views)

        def encode_pictures(pictures: torch.Tensor) -> Any:
            self.encoded += len(pictures)
            return encode(pictures)

        def encode_prompt(prompt: list[str], *arguments: Any, **options: Any) -> Any:
            self.texts += len(prompt)
            return texts(prompt, *arguments, **options)

        monkeypatch.setattr(TeacherDraws, "make", make)
        monkeypatch.setattr(pipe.vae, "encode", encode_pictures)
        monkeypatch.setattr(pipe, "encode_prompt", encode_prompt)

    @property
    def all(self) -> tuple[int, int, int]:
        made = self.drawn, self.encoded, self.texts
        self.drawn = self.encoded = self.texts = 0
        return made


class Died(BaseException):
    """The end of a process."""


@pytest.fixture(name="count")
def _count(monkeypatch: pytest.MonkeyPatch, sd: Any) -> Counting:
    return Counting(monkeypatch, sd)


def everything(data: LatentData) -> list[torch.Tensor]:
    batches = [data.load([index], "cpu") for index in range(len(data.samples))]
    return [tensor for batch in batches for tensor in (batch.latents, batch.conditioning.text)]


def equal(first: LatentData, second: LatentData) -> bool:
    return all(
        torch.equal(one, other) for one, other in zip(everything(first), everything(second), strict=True)
    )


def test_mini_draws_what_its_own_pipeline_draws(
    mini: Any, zoo: Registry, prepare: Prepare, prompts: Path
) -> None:
    prompts.write_text("red apple, 3d emoji\nblue heart, flat emoji\ngreen car, 3d emoji\n")
    variant = zoo.variants.get_value("mini")
    data = prepare(mini, prompts, options={"held_out": 1, "size": None}, variant=variant)
    assert (len(data), data.held_out, data.sizes) == (2, 1, ((128, 128),))
    for index, sample in enumerate(data.samples):
        info = data._latents.info(sample.key)
        assert info["prompt"] == sample.caption
        assert 1 <= info["guidance"] <= 9
        assert info["time_ids"] == [128, 128, 0, 0, 128, 128]
        again = mini(
            sample.caption,
            num_inference_steps=2,
            guidance_scale=info["guidance"],
            generator=torch.Generator().manual_seed(info["seed"]),
            output_type="latent",
        ).images
        batch = data.load([index], "cpu")
        torch.testing.assert_close(batch.latents, again, rtol=1e-3, atol=1e-3)
        text, empty = mini.encode_prompt(sample.caption, "cpu", 1, True)
        torch.testing.assert_close(batch.conditioning.text, text, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(batch.unconditional.text, empty, rtol=1e-3, atol=1e-3)
        assert batch.latents.dtype == batch.conditioning.text.dtype == torch.float32


def test_a_second_run_makes_nothing_and_loads_the_same(
    sd: Any, prepare: Prepare, prompts: Path, count: Counting
) -> None:
    first = prepare(sd, prompts)
    assert count.all == (COUNT, 0, COUNT + 1 + COUNT)  # the drawing pipeline encodes its prompts too
    second = prepare(sd, prompts)
    assert count.all == (0, 0, 0)
    assert equal(first, second)
    assert first.digest == second.digest


def test_a_second_run_reads_no_picture(
    sd: Any, prepare: Prepare, folder: Path, count: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare(sd, folder)
    assert count.all == (0, COUNT, 5)  # four captions, each encoded once, and the empty one
    monkeypatch.setattr(Image, "open", None)
    assert equal(prepare(sd, folder), first)
    assert count.all == (0, 0, 0)


def test_what_is_added_is_encoded_alone(sd: Any, prepare: Prepare, folder: Path, count: Counting) -> None:
    before = prepare(sd, folder)
    assert count.all
    Image.new("RGB", (16, 16), (0, 99, 0)).save(folder / "new.png")
    (folder / "new.txt").write_text("new")
    after = prepare(sd, folder)
    assert count.all == (0, 1, 2)
    assert len(after.samples) == len(before.samples) + 1
    assert after.digest != before.digest


def test_a_data_set_is_the_same_wherever_it_lies(sd: Any, prepare: Prepare, folder: Path) -> None:
    before = prepare(sd, folder)
    moved = folder.rename(folder.with_name("moved"))
    for suffix in ("png", "txt"):
        (moved / f"03.{suffix}").rename(moved / f"renamed.{suffix}")
    after = prepare(sd, moved)
    assert after.digest == before.digest
    assert after.samples == before.samples  # so that a step takes the same


def test_other_steps_or_another_teacher_are_another_cache(
    sd: Any, prepare: Prepare, prompts: Path, count: Counting
) -> None:
    digests = {prepare(sd, prompts).digest, prepare(sd, prompts, options={"sampling": {"steps": 1}}).digest}
    assert count.all[0] == 2 * COUNT
    other = tiny.tiny_sd(unet=tiny.tiny_unet(seed=1))
    digests.add(prepare(other, prompts).digest)
    assert count.all == (COUNT, 0, 0)  # its text encoders are the same
    assert len(digests) == 3


def test_another_cut_of_the_same_pictures_is_another_set(
    sd: Any, prepare: Prepare, folder: Path, count: Counting
) -> None:
    digests = set()
    for options, encoded in [
        ({}, COUNT),
        ({"flip": True}, COUNT),  # the others are there
        ({"crop": "random"}, COUNT),
        ({"size": [24, 24]}, COUNT),
        ({"held_out": 2}, 0),
    ]:
        data = prepare(sd, folder, options=options)
        digests.add(data.digest)
        assert count.all[1] == encoded
        assert len(data.samples) == COUNT * (2 if "flip" in options else 1)
    assert len(digests) == 5


def test_another_autoencoder_is_another_cache(prepare: Prepare, folder: Path) -> None:
    def digest(pipe: Any) -> str:
        return prepare(pipe, folder).digest

    other = tiny.tiny_sd()
    before = digest(other)
    next(other.vae.parameters()).data += 1
    weights = digest(other)
    other.vae.register_to_config(scaling_factor=0.5)
    scaled = digest(other)
    other.vae.register_to_config(latents_mean=[1.0] * 4, latents_std=[2.0] * 4)
    assert len({before, weights, scaled, digest(other)}) == 4


def test_another_scheduler_is_another_cache(prepare: Prepare, prompts: Path) -> None:
    pipe = tiny.tiny_sd()
    before = prepare(pipe, prompts).digest
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, timestep_spacing="trailing")
    assert prepare(pipe, prompts).digest != before


def test_a_picture_that_comes_twice_is_encoded_once(
    sd: Any, prepare: Prepare, folder: Path, count: Counting
) -> None:
    shutil.copy(folder / "00.png", folder / "copy.png")
    (folder / "copy.txt").write_text("another caption")
    assert len(prepare(sd, folder).samples) == COUNT + 1
    assert count.encoded == COUNT


@pytest.mark.parametrize("kind", ["prompts", "folder"])
def test_room_is_asked_for_what_is_missing(
    sd: Any, prepare: Prepare, prompts: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    source = prompts if kind == "prompts" else folder
    asked: list[int] = []
    monkeypatch.setattr("linzoo.distillation.data.fill.require_space", lambda _, needed: asked.append(needed))
    latent, text = 4 * 8 * 8 * 2, 77 * 32 * 2
    prepare(sd, source)
    assert asked == [COUNT * latent, (COUNT if kind == "prompts" else 4) * text]
    asked.clear()
    if kind == "folder":
        prepare(sd, source, options={"flip": True})
        assert asked == [COUNT * latent]
        return
    with prompts.open("a") as file:
        file.write("\none more")
    prepare(sd, source)
    assert asked == [latent, text]


def test_one_bad_picture_in_a_hundred_is_left_out(
    sd: Any, prepare: Prepare, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("linzoo.distillation.data.fill._BAD_ALLOWED", 1)
    monkeypatch.setattr("linzoo.distillation.data.fill._BAD_SHARE", 0.25)
    for name in ("08", "09", "11"):
        (folder / f"{name}.png").write_bytes(b"broken")
    assert len(prepare(sd, folder).samples) == COUNT - 3
    (folder / "10.png").write_bytes(b"broken")
    with pytest.raises(DataError, match="3 of the first 11 items cannot be used"):
        prepare(sd, folder)


def test_the_finish_has_its_own_order(sd: Any, prepare: Prepare, prompts: Path) -> None:
    data = prepare(sd, prompts)
    assert data.indices(0, "distill", 0, 9) != data.indices(0, "distill", 0, 9, finishing=True)


@pytest.mark.parametrize("at", [0, 1, 5, 11])
def test_a_run_that_ends_goes_on_where_it_was(
    sd: Any, prepare: Prepare, prompts: Path, count: Counting, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    monkeypatch.setattr("linzoo.distillation.data.fill.at_once", lambda size: 1)
    monkeypatch.setattr(cache_module, "SHARD_RECORDS", 1)
    count.die_at = at
    with pytest.raises(Died):
        prepare(sd, prompts)
    assert count.all[0] == at + 1
    count.die_at = None
    data = prepare(sd, prompts)
    assert count.all[0] == COUNT - at
    assert len(data.samples) == COUNT


@pytest.mark.parametrize("which", ["latents", "texts"])
@pytest.mark.parametrize("how", ["flip", "truncate", "remove"])
def test_a_damaged_shard_is_made_again(
    sd: Any, prepare: Prepare, prompts: Path, count: Counting, tmp_path: Path, which: str, how: str
) -> None:
    before = prepare(sd, prompts)
    wanted = everything(before)
    assert count.all
    (shard,) = (tmp_path / "cache").glob(f"{which}-*/*.safetensors")
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.unlink()
    if how != "remove":
        shard.write_bytes(content if how == "flip" else content[:-10])
    after = prepare(sd, prompts)
    assert count.all == ((COUNT, 0, COUNT) if which == "latents" else (0, 0, COUNT + 1))
    assert [tensor.tolist() for tensor in everything(after)] == [tensor.tolist() for tensor in wanted]
    noted = how != "remove"
    assert after.notes == ((f"{shard}: was damaged; what it held is made again",) if noted else ())
    assert after.digest == before.digest


@pytest.mark.parametrize("kind", ["prompts", "folder"])
def test_several_processes_make_what_one_makes(
    prepare: Prepare, prompts: Path, folder: Path, tmp_path: Path, kind: str
) -> None:
    source = prompts if kind == "prompts" else folder
    pipes = [tiny.tiny_sd() for _ in range(3)]
    alone = prepare(pipes[0], source)
    wanted = everything(alone)
    shutil.rmtree(tmp_path / "cache")
    barrier = threading.Barrier(3, timeout=30)

    def process(rank: int) -> tuple[LatentData, int]:
        done = []
        data = prepare(
            pipes[rank],
            source,
            rank=rank,
            world=3,
            barrier=barrier.wait,
            progress=lambda *told: done.append(told),
        )
        return data, len(done)

    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(process, range(3)))
    for data, told in results:
        assert data.digest == alone.digest
        assert [sample.key for sample in data.samples] == [sample.key for sample in alone.samples]
        for one, other in zip(everything(data), wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=2e-3, atol=1e-3)
        assert COUNT // 3 <= told < COUNT
    assert equal(results[0][0], results[1][0])


def test_held_out_items_are_never_trained_on(sd: Any, prepare: Prepare, folder: Path) -> None:
    data = prepare(sd, folder, options={"flip": True, "buckets": {"step": 8}}, finish={"sizes": [[24, 24]]})
    held_out = {sample.key for sample in data.samples if sample.held_out}
    assert len(held_out) == HELD_OUT * 4  # two sizes, and flipped
    assert data.held_out == HELD_OUT
    assert len(data) == (COUNT - HELD_OUT) * 2
    for finishing in (False, True):
        taken = {
            index for step in range(200) for index in data.indices(0, "distill", step, 4, finishing=finishing)
        }
        assert taken == {
            index
            for index, sample in enumerate(data.samples)
            if not sample.held_out and (finishing or sample.base == 0)
        }


def test_no_drawing_of_a_prompt_that_is_held_out_is_trained_on(
    sd: Any, prepare: Prepare, prompts: Path
) -> None:
    data = prepare(sd, prompts, options={"sampling": {"steps": 1, "per_prompt": 3}})
    held_out = {sample.caption for sample in data.samples if sample.held_out}
    trained = {data.samples[index].caption for step in range(9) for index in data.indices(0, "a", step, 9)}
    assert (len(held_out), len(trained), len(data)) == (HELD_OUT, COUNT - HELD_OUT, 3 * (COUNT - HELD_OUT))
    assert not held_out & trained
    assert data.held_out == HELD_OUT  # one drawing of each is measured on: the first
    once = prepare(sd, prompts, options={"sampling": {"steps": 1}})
    pairs = zip(data.held_out_batches(9, 9), once.held_out_batches(9, 9), strict=True)
    assert all(torch.equal(one.latents, other.latents) for one, other in pairs)


def test_too_few_prompts_are_told_before_any_is_drawn(
    sd: Any, prepare: Prepare, prompts: Path, count: Counting
) -> None:
    with pytest.raises(DataError, match="12 prompts are too few: 12 are kept"):
        prepare(sd, prompts, options={"held_out": 12, "sampling": {"steps": 1, "per_prompt": 3}})
    assert count.all == (0, 0, 0)


def test_a_picture_with_two_captions_is_held_out_with_both(sd: Any, prepare: Prepare, folder: Path) -> None:
    for number in range(COUNT):
        shutil.copy(folder / f"{number:02}.png", folder / f"{number:02}b.png")
        (folder / f"{number:02}b.txt").write_text(f"other {number}")
    data = prepare(sd, folder)
    assert data.held_out == HELD_OUT
    assert sum(sample.held_out for sample in data.samples) == 2 * HELD_OUT
    assert not {each.key for each in data.samples if each.held_out} & {
        each.key for each in data.samples if not each.held_out
    }


def test_a_caption_that_is_no_text_is_left_out(sd: Any, prepare: Prepare, folder: Path) -> None:
    (folder / "03.txt").unlink()
    row = {"file_name": "03.png", "text": "half an emoji \ud83d"}
    (folder / "metadata.jsonl").write_text(json.dumps(row))
    data = prepare(sd, folder)
    assert len(data.samples) == COUNT - 1
    assert "03.png: its caption is not text: 'utf-8' codec can't encode" in data.notes[0]


def test_a_folder_has_one_cache_however_it_is_written(
    sd: Any, prepare: Prepare, folder: Path, count: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(sd, folder)
    assert count.all == (0, COUNT, 5)
    monkeypatch.chdir(folder.parent)
    prepare(sd, Path(folder.name))
    assert count.all == (0, 0, 0)


def test_a_finished_cache_need_not_be_writable(
    sd: Any, prepare: Prepare, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare(sd, folder)

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EROFS, os.strerror(errno.EROFS))

    for writing in ("mkdir", "replace", "unlink"):
        monkeypatch.setattr(Path, writing, refuse)
    assert equal(prepare(sd, folder), first)


def test_a_step_has_one_size_and_the_finish_has_all(sd: Any, prepare: Prepare, prompts: Path) -> None:
    data = prepare(sd, prompts, finish={"sizes": [[24, 24], [32, 16]]})
    shapes = []
    for step in range(60):
        batch = data.load(data.indices(0, "distill", step, 5, finishing=True), "cpu")
        assert len(batch) == 5
        shapes.append(tuple(batch.latents.shape[2:]))
    assert set(shapes) == {(8, 8), (12, 12), (8, 16)}
    assert data.sizes == ((16, 16), (24, 24), (32, 16))
    assert data.load(data.indices(0, "distill", 0, 5), "cpu").latents.shape == (5, 4, 8, 8)


def test_a_small_set_comes_round_within_a_step(sd: Any, prepare: Prepare, prompts: Path) -> None:
    data = prepare(sd, prompts)
    indices = data.indices(0, "align", 0, 2 * len(data))
    assert sorted(indices) == sorted(
        2 * [index for index, each in enumerate(data.samples) if not each.held_out]
    )


def test_held_out_batches_are_the_same_always(sd: Any, prepare: Prepare, folder: Path) -> None:
    data = prepare(sd, folder, options={"buckets": {"step": 8}, "held_out": 7})

    def sizes(batches: list[Batch]) -> list[int]:
        return [len(batch) for batch in batches]

    batches = list(data.held_out_batches(100, 2))
    assert sum(sizes(batches)) == 7
    assert max(sizes(batches)) == 2
    again = list(data.held_out_batches(100, 2))
    assert all(torch.equal(one.latents, two.latents) for one, two in zip(batches, again, strict=True))
    assert sum(sizes(list(data.held_out_batches(4, 3)))) == 4


def test_held_out_items_stay_so_when_items_are_added(sd: Any, prepare: Prepare, prompts: Path) -> None:
    def held_out() -> set[str]:
        return {sample.caption for sample in prepare(sd, prompts).samples if sample.held_out}

    before = held_out()
    with prompts.open("a") as file:
        file.write("\none more")
    assert len(held_out() - before) <= 1


def test_limit_takes_few_items_at_the_first_size(
    sd: Any, prepare: Prepare, prompts: Path, count: Counting
) -> None:
    data = prepare(sd, prompts, finish={"sizes": [[24, 24]]}, limit=5)
    assert count.drawn == 5
    assert (len(data), data.held_out, data.sizes) == (2, 3, ((16, 16),))


def test_sdxl_batches_have_pooled_states_and_time_ids(prepare: Prepare, folder: Path, zoo: Registry) -> None:
    pipe = tiny.tiny_sdxl()
    data = prepare(pipe, folder, variant=zoo.variants.get_value("sdxl"))
    named = {data._latents.info(sample.key)["name"]: index for index, sample in enumerate(data.samples)}
    indices = [
        named[f"{number:02}.png"] for number in range(3)
    ]  # 32 x 32, 48 x 24 and 24 x 48, cut to 16 x 16
    batch = data.load(indices, "cpu")
    assert batch.conditioning.time_ids is not None
    assert batch.conditioning.time_ids.tolist() == [
        [32, 32, 0, 0, 16, 16],
        [24, 48, 0, 8, 16, 16],
        [48, 24, 8, 0, 16, 16],
    ]
    assert batch.unconditional.time_ids is batch.conditioning.time_ids
    assert batch.conditioning.pooled is not None
    assert batch.unconditional.pooled is not None
    _, _, pooled, _ = pipe.encode_prompt([data.samples[index].caption for index in indices])
    torch.testing.assert_close(batch.conditioning.pooled, pooled, rtol=1e-3, atol=1e-3)
    assert (batch.unconditional.text == 0).all()
    assert (batch.unconditional.pooled == 0).all()
    noise = pipe.unet(batch.latents, 5, **batch.unconditional.kwargs()).sample
    assert noise.shape == batch.latents.shape


def test_a_few_bad_pictures_are_left_out_and_named(sd: Any, prepare: Prepare, folder: Path) -> None:
    (folder / "03.png").write_bytes(b"broken")
    data = prepare(sd, folder)
    note = "1 items cannot be used and are left out: 03.png: is not a picture in a format that PIL reads"
    assert data.notes == (note,)
    assert len(data.samples) == COUNT - 1
    assert prepare(sd, folder).notes == (note,)


def test_many_bad_pictures_are_an_error(sd: Any, prepare: Prepare, folder: Path) -> None:
    for path in folder.glob("*.png"):
        path.write_bytes(b"broken")
    with pytest.raises(
        DataError, match=r"11 of the first 11 items cannot be used; put them right .*\n  00\.png: is not"
    ):
        prepare(sd, folder)


@pytest.mark.parametrize("fits", [1, 2, 0])
def test_without_enough_memory_fewer_are_made_at_once(
    sd: Any, prepare: Prepare, folder: Path, monkeypatch: pytest.MonkeyPatch, fits: int
) -> None:
    encode, sizes = sd.vae.encode, []

    def encode_some(pictures: torch.Tensor) -> Any:
        if len(pictures) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        sizes.append(len(pictures))
        return encode(pictures)

    monkeypatch.setattr(sd.vae, "encode", encode_some)
    if fits:
        assert len(prepare(sd, folder).samples) == sum(sizes) == COUNT
        return
    with pytest.raises(
        DataError, match=r"00\.png: there is not enough memory to make latents of 16x16; choose a"
    ):
        prepare(sd, folder)


def test_too_few_items_are_told_before_any_is_encoded(
    sd: Any, prepare: Prepare, prompts: Path, count: Counting
) -> None:
    with pytest.raises(
        DataError, match=r"12 prompts are too few: 12 are kept from training \(data\.held_out\)"
    ):
        prepare(sd, prompts, options={"held_out": 12})
    assert count.all == (0, 0, 0)


def test_too_little_disk_is_seen_before_any_is_encoded(
    sd: Any, prepare: Prepare, prompts: Path, count: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    need = COUNT * 4 * 8 * 8 * 2
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(0, 0, need - 1))
    with pytest.raises(
        CheckpointError, match=f"{need:,} bytes are needed and {need - 1:,} are free; make room"
    ):
        prepare(sd, prompts)
    assert count.all == (0, 0, 0)


def test_drawings_that_are_not_finite_name_the_prompt(prepare: Prepare, prompts: Path) -> None:
    broken = tiny.tiny_sd()
    broken.unet.conv_out.bias.data.fill_(float("nan"))
    with pytest.raises(
        DataError, match=r"not finite for the prompt 'prompt \d+' \(seed \d+, torch.float32\); use"
    ):
        prepare(broken, prompts)


def test_the_scheduler_is_as_it_was(sd: Any, prepare: Prepare, prompts: Path) -> None:
    scheduler = sd.scheduler
    prepare(sd, prompts)
    assert sd.scheduler is scheduler
    assert scheduler.num_inference_steps is None


def test_a_set_that_is_smaller_than_a_batch_is_noted(sd: Any, prepare: Prepare, prompts: Path) -> None:
    data = prepare(sd, prompts, batch=10)
    assert data.notes == (
        "9 samples are trained on, fewer than a batch of 10: some come twice or more in a step",
    )
    assert prepare(sd, prompts, batch=9).notes == ()


def test_progress_names_items_and_captions(sd: Any, prepare: Prepare, folder: Path) -> None:
    told: list[tuple[int, int | None, str]] = []
    prepare(sd, folder, progress=lambda *each: told.append(each))
    assert told[0] == (0, COUNT, "00.png")  # it waits for others to be encoded with it
    assert told[COUNT] == (COUNT, COUNT, "11.png")
    assert told[COUNT + 1 :] == [(4, 4, "caption 3")]


@pytest.mark.parametrize("finish", [None, {"sizes": [[24, 24]]}])
def test_progress_counts_what_is_made(
    sd: Any, prepare: Prepare, prompts: Path, count: Counting, monkeypatch: pytest.MonkeyPatch, finish: Any
) -> None:
    monkeypatch.setattr("linzoo.distillation.data.fill.at_once", lambda size: 3)
    told: list[tuple[int, int]] = []
    sampling = {"steps": 1, "guidance": [2, 2]}
    prepare(
        sd,
        prompts,
        options={"sampling": sampling},
        finish=finish,
        progress=lambda done, total, name: told.append((done, count.drawn)),
    )
    views = 2 if finish else 1
    drawing = [each for each in told if each[1] < COUNT * views] + [(COUNT, COUNT * views)]
    assert drawing == sorted(drawing)
    assert all(done == drawn // views for done, drawn in drawing)
    assert told.count((0, 0)) == 2


def test_where_the_caches_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("LINZOO_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert cache_folder(str(tmp_path)) == tmp_path
    monkeypatch.setattr("sys.platform", "linux")
    assert cache_folder(None) == Path.home() / ".cache/linzoo/distillation"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder(None) == tmp_path / "linzoo/distillation"
    monkeypatch.setenv("LINZOO_CACHE", str(tmp_path / "zoo"))
    assert cache_folder(None) == tmp_path / "zoo/distillation"


def test_loading_a_batch_takes_little_time(mini: Any, zoo: Registry, prepare: Prepare, prompts: Path) -> None:
    variant = zoo.variants.get_value("mini")
    data = prepare(mini, prompts, options={"size": None, "sampling": {"steps": 1}}, variant=variant)
    seconds = []
    for step in range(20):
        start = time.perf_counter()
        data.load(data.indices(0, "distill", step, 16), "cpu")
        seconds.append(time.perf_counter() - start)
    assert sorted(seconds)[10] < 0.005


KILLED = """
import os, signal, sys
import tiny
from pathlib import Path
from linzoo.distillation.data import cache, fill
from linzoo.distillation.data.prepare import prepare_data
from linzoo.distillation.recipe import Recipe
from linzoo.registry import build_registry

cache.SHARD_RECORDS = 2
fill.at_once = lambda size: 1
variant = build_registry(entry_points=False, env={}).variants.get_value("sd15")
recipe = Recipe.model_validate_json(sys.argv[1])
die = lambda done, total, name: os.kill(os.getpid(), signal.SIGKILL) if done == int(sys.argv[2]) else None
data = prepare_data(recipe, tiny.tiny_sd(), variant=variant, device="cpu", progress=die)
"""


@pytest.mark.slow
def test_a_process_that_is_killed_goes_on_where_it_was(
    sd: Any, prepare: Prepare, prompts: Path, count: Counting, tmp_path: Path
) -> None:
    data = {"source": str(prompts), "held_out": HELD_OUT, "cache": str(tmp_path / "cache"), "size": [16, 16]}
    data["sampling"] = {"steps": 2}
    recipe = {"schema_version": 1, "name": "x", "variant": "sd15", "data": data, "calibrate": {}}
    command = [sys.executable, "-c", KILLED, json.dumps(recipe), "7"]
    environment = os.environ | {"PYTHONPATH": str(Path(tiny.__file__).parent)}
    assert subprocess.run(command, env=environment).returncode == -signal.SIGKILL
    assert len(list((tmp_path / "cache").glob("latents-*/*.safetensors"))) == 3  # six of seven drawings
    assert len(prepare(sd, prompts).samples) == COUNT
    assert count.all[0] == COUNT - 6
