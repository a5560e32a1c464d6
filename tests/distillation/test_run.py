"""``linzoo.distill`` on mini, end to end: what it leaves, how it goes on, what it refuses before anything is loaded."""

from __future__ import annotations

import errno
import filecmp
import importlib.util
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import linzoo
from linzoo.attention.handle import read_linfusion
from linzoo.checkpoints.atomic import held
from linzoo.checkpoints.digest import hash_document
from linzoo.checkpoints.lock import changed_outputs, read_lock
from linzoo.distillation import run as run_module
from linzoo.distillation import triptychs
from linzoo.distillation.document import read_recipe
from linzoo.distillation.errors import DistillationError, RecipeError
from linzoo.distillation.planning import RunPlan
from linzoo.distillation.progress import Progress
from linzoo.distillation.result import DistillResult
from linzoo.distillation.student import Student
from linzoo.distillation.trainer import Trainer
from linzoo.errors import CheckpointError, PluginError, UsageError
from linzoo.registry import Registry, build_registry

SETTINGS = (
    "data.max_items=4", "data.held_out=2", "data.sampling.steps=2",
    "calibrate.samples=2", "calibrate.timesteps=1", "calibrate.sharpness=[1,2]", "calibrate.ridge=[0.1]",
    "align.steps=2", "align.batch=2", "distill.steps=3", "distill.batch=2", "distill.loss.guided.share=0.5",
    "validation.every=2", "validation.samples=2", "validation.images=1", "validation.image_steps=2",
    "saving.every=2",
)  # fmt: skip

_PLUGIN = """
from linzoo.plugin import hookimpl

@hookimpl
def linzoo_distill_callbacks(run):
    seen = (run.output / "seen.txt").open("a")

    def note(step):
        print(step.step, sorted(step.losses), file=seen, flush=True)
        if step.step == {step}:
            seen.close()
            raise OSError("no such tracker")

    yield note
"""

Distil = Callable[..., DistillResult]


@pytest.fixture(scope="module")
def registry() -> Registry:
    return build_registry()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def checkpoint(shared: Path, registry: Registry) -> Path:
    linzoo.convert("mini", shared / "mini-linfusion", registry=registry)
    return shared / "mini-linfusion"


@pytest.fixture(scope="module")
def distil(shared: Path, checkpoint: Path, registry: Registry) -> Distil:
    def run(out: Path, *settings: str, **changes: Any) -> DistillResult:
        arguments: dict[str, Any] = {"teacher": "mini", "registry": registry, "device": "cpu"}
        arguments |= {"cache": shared / "cache", "overrides": (*SETTINGS, *settings), "out": out}
        return linzoo.distill(**({"checkpoint": checkpoint} | arguments | changes))

    return run


@pytest.fixture(scope="module")
def straight(shared: Path, distil: Distil) -> DistillResult:
    return distil(shared / "straight")


@pytest.fixture
def nothing_is_loaded(monkeypatch: pytest.MonkeyPatch, registry: Registry) -> None:
    def load(request: object) -> None:
        raise AssertionError("the teacher was loaded")

    monkeypatch.setattr(registry, "load_teacher", load)


def steps(out: Path) -> list[int]:
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [record["step"] for record in records if record["kind"] == "step"]


def same(a: Path, b: Path) -> bool:
    names = sorted(each.name for each in a.iterdir())
    return (
        names == sorted(each.name for each in b.iterdir())
        and not filecmp.cmpfiles(a, b, names, shallow=False)[1]
    )


def test_what_a_run_leaves(straight: DistillResult, checkpoint: Path) -> None:
    out = straight.out
    assert {each.name for each in out.iterdir()} == {
        "best", "images", "linfusion", "metrics.jsonl", "recipe.yaml", "run.json", "state"
    }  # fmt: skip
    assert straight.steps == 5
    assert steps(out) == [1, 2, 3, 4, 5]
    assert sorted(each.name for each in (out / "images").iterdir()) == [
        f"step-0000000{step}.png" for step in (2, 4, 5)
    ]
    recipe = read_recipe(out / "recipe.yaml").recipe
    assert recipe.align is not None
    assert recipe.align.steps == 2
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [record["kind"] for record in records].count("validation") == 3
    [calibration] = [record for record in records if record["kind"] == "calibration"]
    assert straight.measures["kd"] < calibration["kd"]["start"]
    assert straight.best is not None
    assert straight.best["kd"] <= straight.measures["kd"]


def test_the_result_is_a_checkpoint_with_its_history(straight: DistillResult, checkpoint: Path) -> None:
    lock, before = read_lock(straight.checkpoint), read_lock(checkpoint)
    assert lock is not None
    assert before is not None
    assert changed_outputs(straight.checkpoint, lock) == []
    assert lock["init"] == before["init"]
    history = lock["distill"]
    assert history["recipe"]["id"] == "mini"
    assert history["recipe"]["document"]["align"]["steps"] == 2
    assert history["recipe"]["sha256"] == hash_document(history["recipe"]["document"])
    assert history["recipe"]["document"]["data"]["cache"] is None
    assert str(straight.out.parent) not in (straight.checkpoint / "linzoo.lock.json").read_text()
    assert history["steps"] == 5
    assert history["measures"]["kd"] == straight.measures["kd"]
    assert (
        history["checkpoint"]["diffusion_pytorch_model.safetensors"]
        == (before["outputs"]["diffusion_pytorch_model.safetensors"]["sha256"])
    )
    assert {tensor["action"] for tensor in lock["tensors"].values()} == {"trained"}
    old, new = read_linfusion(checkpoint).state_dict(), read_linfusion(straight.checkpoint).state_dict()
    assert {name: value.dtype for name, value in old.items()} == {name: new[name].dtype for name in old}
    assert any(not torch.equal(old[name], new[name]) for name in old)


def test_a_teacher_with_other_weights_is_remarked_on(
    distil: Distil, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registry: Registry
) -> None:
    other = Path(shutil.copytree(checkpoint, tmp_path / "other"))
    lock = json.loads((other / "linzoo.lock.json").read_text())
    lock["source"]["base_hash"] = "0" * 16
    (other / "linzoo.lock.json").write_text(json.dumps(lock))
    told: list[str] = []
    progress = Progress()
    monkeypatch.setattr(progress, "say", told.append)
    monkeypatch.setattr(registry, "load_teacher", lambda _: pytest.fail("far enough"))
    with pytest.raises(pytest.fail.Exception):
        distil(tmp_path / "run", checkpoint=other, progress=progress)
    assert told[1].startswith(
        f"note: {other} was made for mini (base hash {'0' * 16}), and mini has other weights"
    )


def test_a_run_that_a_callback_ended_is_gone_on_with_bit_for_bit(
    straight: DistillResult, distil: Distil, tmp_path: Path
) -> None:
    """Ended in the second stage; the plugin that is at fault is named."""
    plugin = tmp_path / "watch.py"
    plugin.write_text(_PLUGIN.format(step=3))
    out = tmp_path / "run"
    with pytest.raises(PluginError, match=r"plugin watch .*no such tracker"):
        distil(out, registry=build_registry(paths=(str(plugin),)))
    assert (out / "seen.txt").read_text().splitlines()[0] == "1 ['loss']"
    assert not (out / "linfusion").exists()
    result = distil(out, resume="latest", overrides=())
    assert result.measures == straight.measures
    assert result.best == straight.best
    assert steps(out) == [1, 2, 3, 4, 5]
    for name in ("linfusion", "best", "images"):
        assert same(out / name, straight.out / name), name


def test_a_finished_run_that_is_gone_on_with_gives_the_same(
    straight: DistillResult, distil: Distil, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(straight.out, out)
    shutil.rmtree(out / "linfusion")
    assert distil(out, resume="latest").measures == straight.measures
    assert same(out / "linfusion", straight.checkpoint)


def test_what_changes_no_result_may_change_on_the_way(
    straight: DistillResult, distil: Distil, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    shutil.copytree(straight.out, out)
    checkpointed: list[Student] = []
    enable = Student.enable_gradient_checkpointing
    monkeypatch.setattr(
        Student,
        "enable_gradient_checkpointing",
        lambda student: (checkpointed.append(student), enable(student))[1],
    )
    changes = (
        "gradient_checkpointing=true",
        "distill.micro_batch=1",
        "distill.ema.device=cpu",
        "validation.images=0",
    )
    result = distil(out, *changes, resume=4)
    assert len(checkpointed) == 1
    assert result.measures["kd"] == pytest.approx(straight.measures["kd"], rel=1e-3)
    assert steps(out) == [1, 2, 3, 4, 5]
    run, before = (json.loads((each / "run.json").read_text()) for each in (out, straight.out))
    assert run["id"] == before["id"]


def test_what_is_drawn_on_the_way_is_held_out(
    straight: DistillResult, distil: Distil, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The teacher's pictures are drawn once, and the encoders are taken off the device each time."""
    held_out: list[str] = []
    drawn: list[tuple[str, ...]] = []
    prompts_of, draw = run_module.prompts_of, triptychs.draw

    def note_prompts(captions: Iterable[str]) -> list[str]:
        held_out.extend(captions)
        return prompts_of(held_out)

    def note_drawn(pipe: Any, prompts: Sequence[str], settings: Any) -> Any:
        drawn.append(tuple(prompts))
        return draw(pipe, prompts, settings)

    monkeypatch.setattr(run_module, "prompts_of", note_prompts)
    monkeypatch.setattr(triptychs, "draw", note_drawn)
    out = tmp_path / "run"
    shutil.copytree(straight.out, out)
    distil(out, "validation.every=1", resume=4)
    assert len(held_out) == 2
    assert drawn == [(held_out[0],)] * 2  # teacher, student
    assert same(out / "images", straight.out / "images")


def test_layers_that_stay_softmax_are_left_out(distil: Distil, tmp_path: Path) -> None:
    result = distil(tmp_path / "run", "keep_softmax=2", "calibrate=null", "align=null", "distill.steps=1")
    lock = read_lock(result.checkpoint)
    assert lock is not None
    linfusion = read_linfusion(result.checkpoint)
    assert len(linfusion.entries) == 8
    sources = [lock["tensors"][f"{index}.to_q.weight"]["sources"] for index in range(8)]
    assert len({source for [source] in sources}) == 8
    first = tmp_path / "first"
    result.checkpoint.rename(first)
    distil(tmp_path / "run", resume="latest", overrides=())
    assert same(result.checkpoint, first)


def test_a_signal_while_data_is_made_is_told_and_leaves_no_folder(
    distil: Distil, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "linzoo.distillation.run.prepare_data", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM)
    )
    with pytest.raises(DistillationError, match=r"stopped at once by SIGTERM.*--resume latest"):
        distil(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_is_there_already_needs_no_room(
    distil: Distil, straight: DistillResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a finished run there are two of the three states that are asked for, and both results."""
    out = tmp_path / "run"
    shutil.copytree(straight.out, out)
    state = sum(path.stat().st_size for path in (out / "state/step-00000005").iterdir())
    free = SimpleNamespace(free=round(1.5 * state))
    monkeypatch.setattr("shutil.disk_usage", lambda path: free)
    settings = ("guards.min_free_disk_gb=0", "saving.keep_last=2")
    assert distil(out, *settings, resume="latest").steps == 5
    with pytest.raises(CheckpointError, match="are free"):
        distil(tmp_path / "new", *settings)


@pytest.mark.slow  # adds up the memory of several recipes
def test_memory_that_runs_out_is_told_with_remedies(
    distil: Distil, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    monkeypatch.setattr(Trainer, "step", fail)
    with pytest.raises(
        DistillationError, match=r"(?s)out of memory.*--set distill\.micro_batch=1.*--resume latest"
    ):
        distil(tmp_path / "run", "calibrate=null", "align=null")
    monkeypatch.undo()
    result = distil(
        tmp_path / "run", "calibrate=null", "align=null", "distill.micro_batch=1", resume="latest"
    )
    assert result.steps == 3


@pytest.mark.usefixtures("nothing_is_loaded")
class TestRefusals:
    """All of these before the teacher is loaded."""

    def test_a_recipe_of_another_variant(self, distil: Distil, tmp_path: Path) -> None:
        with pytest.raises(DistillationError, match="recipe 'sd15' is for sd15, and mini is mini"):
            distil(tmp_path / "run", recipe="sd15", overrides=())

    def test_a_start_that_the_lock_file_does_not_name(self, distil: Distil, tmp_path: Path) -> None:
        with pytest.raises(DistillationError, match=r"starts from --init random, and .* comes from teacher"):
            distil(tmp_path / "run", "start=random")

    def test_a_start_without_a_lock_file(self, distil: Distil, checkpoint: Path, tmp_path: Path) -> None:
        bare = tmp_path / "bare"
        shutil.copytree(checkpoint, bare)
        (bare / "linzoo.lock.json").unlink()
        with pytest.raises(DistillationError, match="has no lock file"):
            distil(tmp_path / "run", "start=teacher", checkpoint=bare)

    def test_modules_that_the_teacher_does_not_have(
        self, distil: Distil, checkpoint: Path, tmp_path: Path
    ) -> None:
        other = tmp_path / "other"
        shutil.copytree(checkpoint, other)
        config = json.loads((other / "config.json").read_text())
        config["modules_list"][0]["module_name"] = "down_blocks.9.attn1"
        (other / "config.json").write_text(json.dumps(config))
        with pytest.raises(DistillationError, match=r"'down_blocks\.9\.attn1' .*no such self-attention"):
            distil(tmp_path / "run", checkpoint=other)

    def test_modules_of_another_width(self, distil: Distil, checkpoint: Path, tmp_path: Path) -> None:
        other = tmp_path / "other"
        shutil.copytree(checkpoint, other)
        config = json.loads((other / "config.json").read_text())
        config["modules_list"][0]["heads"] *= 2
        (other / "config.json").write_text(json.dumps(config))
        with pytest.raises(DistillationError, match="and the teacher has one of width"):
            distil(tmp_path / "run", checkpoint=other)

    def test_a_checkpoint_for_another_variant(self, distil: Distil, checkpoint: Path, tmp_path: Path) -> None:
        other = tmp_path / "other"
        shutil.copytree(checkpoint, other)
        lock = json.loads((other / "linzoo.lock.json").read_text())
        lock["detection"]["variant"] = "sd21"
        (other / "linzoo.lock.json").write_text(json.dumps(lock))
        with pytest.raises(DistillationError, match="was made for sd21, and mini is mini"):
            distil(tmp_path / "run", checkpoint=other)

    def test_a_checkpoint_that_is_a_file(self, distil: Distil, checkpoint: Path, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="one file, and a LinFusion checkpoint is a folder"):
            distil(tmp_path / "run", checkpoint=checkpoint / "diffusion_pytorch_model.safetensors")

    def test_too_many_softmax_layers(self, distil: Distil, tmp_path: Path) -> None:
        with pytest.raises(DistillationError, match="none of the 10 layers linear"):
            distil(tmp_path / "run", "keep_softmax=10")

    def test_a_wrong_setting(self, distil: Distil, tmp_path: Path) -> None:
        with pytest.raises(RecipeError, match=r"did you mean|distill"):
            distil(tmp_path / "run", "distill.stepps=3")

    def test_a_missing_package(self, distil: Distil, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        real = importlib.util.find_spec
        monkeypatch.setattr(
            "importlib.util.find_spec", lambda name: None if name == "bitsandbytes" else real(name)
        )
        with pytest.raises(DistillationError, match=r"linzoo\[8bit\]"):
            distil(tmp_path / "run", "align.optimizer.name=adamw8bit")

    def test_a_folder_with_a_run(self, distil: Distil, straight: DistillResult) -> None:
        with pytest.raises(DistillationError, match="holds a run; --resume latest goes on with it"):
            distil(straight.out)

    def test_a_folder_that_another_run_works_in(
        self, distil: Distil, straight: DistillResult, tmp_path: Path
    ) -> None:
        for out, resume in ((straight.out, "latest"), (tmp_path, None)):
            before = sorted(out.rglob("*"))
            with held(out), pytest.raises(DistillationError, match="another run works in"):
                distil(out, resume=resume)
            assert sorted(out.rglob("*")) == before

    def test_a_folder_that_another_run_has_finished_in_meanwhile(
        self, distil: Distil, straight: DistillResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        out = tmp_path / "run"
        room = run_module.require_room

        def finish(plan: RunPlan) -> int:
            shutil.copytree(straight.out, out)
            return room(plan)

        monkeypatch.setattr(run_module, "require_room", finish)
        with pytest.raises(DistillationError, match="holds a run"):
            distil(out)
        assert (out / "state/step-00000005").is_dir()

    def test_a_folder_that_cannot_be_written(
        self, distil: Distil, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(**_: object) -> None:
            raise OSError(errno.EROFS, "Read-only file system")

        monkeypatch.setattr("tempfile.TemporaryFile", refuse)
        with pytest.raises(CheckpointError, match="Read-only file system; choose a folder"):
            distil(tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_a_folder_with_something_else(self, distil: Distil, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("mine")
        with pytest.raises(DistillationError, match="is not empty and holds no run"):
            distil(tmp_path)

    def test_a_full_disk(self, distil: Distil, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10**9))
        with pytest.raises(CheckpointError, match="1,000,000,000 are free"):
            distil(tmp_path / "run")

    def test_to_go_on_with_other_settings(self, distil: Distil, straight: DistillResult) -> None:
        before = sorted((straight.out / "state").iterdir())
        with pytest.raises(DistillationError, match=r"recipe\.distill\.steps: 3 in the run, 9 now"):
            distil(straight.out, "distill.steps=9", resume="latest")
        assert sorted((straight.out / "state").iterdir()) == before

    def test_to_go_on_from_another_checkpoint(
        self, distil: Distil, straight: DistillResult, registry: Registry, tmp_path: Path
    ) -> None:
        linzoo.convert("mini", tmp_path / "other", init="random", seed=1, registry=registry)
        with pytest.raises(DistillationError, match=r"checkpoint\.diffusion_pytorch_model\.safetensors: "):
            distil(straight.out, resume="latest", checkpoint=tmp_path / "other")

    def test_to_go_on_from_a_step_that_is_not_there(self, distil: Distil, straight: DistillResult) -> None:
        with pytest.raises(DistillationError, match="no state of step 3; there are: 4, 5"):
            distil(straight.out, resume=3)

    def test_to_go_on_where_every_state_is_damaged(
        self, distil: Distil, straight: DistillResult, tmp_path: Path
    ) -> None:
        out = tmp_path / "run"
        shutil.copytree(straight.out, out)
        for path in (out / "state").rglob("weights.safetensors"):
            path.write_bytes(b"")
        with pytest.raises(DistillationError, match=r"no state is whole \(there are those of steps 4, 5\)"):
            distil(out, resume="latest")
        assert steps(out) == [1, 2, 3, 4, 5]

    def test_a_preset_without_a_recipe(self, distil: Distil, straight: DistillResult) -> None:
        with pytest.raises(UsageError, match="--preset needs --recipe"):
            distil(straight.out, resume="latest", preset="24gb")


def test_to_go_on_with_another_teacher_is_refused(distil: Distil, straight: DistillResult) -> None:
    with pytest.raises(DistillationError, match=r"(?s)teacher\."):
        distil(straight.out, resume="latest", teacher="mini-v1")
