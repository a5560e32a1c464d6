"""``linzoo.distill``: from a converted checkpoint to one as good as its teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from linzoo.attention.handle import read_linfusion
from linzoo.checkpoints.digest import BackgroundDigests, Digest
from linzoo.checkpoints.lock import files_read, plain
from linzoo.distillation.calibrate import calibrate
from linzoo.distillation.data.latents import LatentData
from linzoo.distillation.data.prepare import prepare_data
from linzoo.distillation.errors import DistillationError
from linzoo.distillation.evaluation import Evaluator
from linzoo.distillation.folder import hold_folder, open_folder
from linzoo.distillation.guards import explain_memory
from linzoo.distillation.identity import check_same, result_settings
from linzoo.distillation.interruption import explain_signals
from linzoo.distillation.loop import Loop, scalars
from linzoo.distillation.noise import Noise
from linzoo.distillation.planning import (
    BEST_NAME,
    FINAL_NAME,
    STATE_NAME,
    Resume,
    RunPlan,
    min_free,
    plan_run,
    require_room,
)
from linzoo.distillation.processes import Processes
from linzoo.distillation.progress import Progress, counting
from linzoo.distillation.recipe import Calibrate
from linzoo.distillation.remedies import ladder, render_ladder
from linzoo.distillation.result import DistillResult, Export
from linzoo.distillation.select import choose, scores
from linzoo.distillation.stages import OBJECTIVES, ORDER
from linzoo.distillation.state import SavedState, States
from linzoo.distillation.student import Student
from linzoo.distillation.teacher import encoders_to, open_for_training
from linzoo.distillation.trainer import Trainer
from linzoo.distillation.triptychs import Triptychs, prompts_of
from linzoo.distillation.validation import Validation
from linzoo.generate.teacher import usable_device

if TYPE_CHECKING:
    from linzoo.registry import Registry

IMAGES_NAME = "images"
_AT_ONCE = 8
"""Held-out samples that are measured at once, where the stages' micro-batches are no smaller."""


def distill(
    checkpoint: str | Path,
    teacher: str | Path,
    *,
    out: str | Path,
    recipe: str | Path | None = None,
    preset: str | None = None,
    overrides: Sequence[str] = (),
    resume: Resume | None = None,
    device: str | None = None,
    cache: str | Path | None = None,
    variant: str | None = None,
    prediction_type: str | None = None,
    registry: Registry | None = None,
    progress: Progress | None = None,
) -> DistillResult:
    """Distil a LinFusion checkpoint: calibrate, align and train it until it draws as its teacher does.

    In several processes (``accelerate launch``, ``torchrun``) each calls this with the same arguments. The same input
    gives the same bytes on a CPU, in one go or with interruptions.

    Args:
        checkpoint: the LinFusion checkpoint to start from: what ``linzoo.convert`` wrote, or ``user/repo[@rev]`` on the Hub. It
            is read only.
        teacher: the model that it learns from: a diffusers folder, a ``.safetensors`` or ``.ckpt`` file,
            ``hf://repo[@rev][/file]`` or a registered name.
        out: the folder of the run; see docs/distill.md for what is in it.
        recipe: id or YAML file of a distill recipe; None for the variant's default, or, with ``resume``, the run's own.
        preset: a preset of the recipe, such as ``24gb``.
        overrides: settings that are stronger than the recipe's, such as ``distill.steps=2000``.
        resume: go on with the run in ``out`` from the state of this step, or from the ``latest``.
        device: torch device; None for a GPU where there is one. With several processes each has its own.
        cache: folder for latents and text states, stronger than the recipe's.
        variant: id of the teacher's variant, where detection cannot tell.
        prediction_type: ``epsilon`` or ``v_prediction``, where detection cannot tell.
        registry: where ids are looked up; built from all installed plugins when None.
        progress: what people are told; None tells them nothing.

    Raises:
        RecipeError: the recipe is wrong.
        DistillationError: recipe, checkpoint, teacher and run do not fit together; the run was interrupted, ran out of
            memory or had too many numbers that are not finite. What was saved can be gone on with.
        DataError: the training data cannot be used.
        CheckpointError: a checkpoint or ``out`` cannot be used.
        UndecidedError: the evidence does not settle what the teacher is.
        PluginError: a plugin failed.
    """
    if registry is None:
        from linzoo.registry import build_registry

        registry = build_registry()
    plan = plan_run(
        checkpoint,
        teacher,
        recipe=recipe,
        preset=preset,
        overrides=overrides,
        out=Path(out),
        resume=resume,
        variant=variant,
        prediction_type=prediction_type,
        registry=registry,
    )
    require_room(plan)
    processes = Processes(usable_device(device) if device else None)
    speaking = progress if progress is not None and processes.main else Progress()
    with (
        explain_signals(),
        explain_memory(lambda: _what_lowers_memory(plan, processes.count, speaking)),
        hold_folder(plan, processes),
    ):
        return Run(plan, processes, speaking, registry, cache).execute()


class Run:
    """A planned run, on its way through the stages."""

    def __init__(
        self,
        plan: RunPlan,
        processes: Processes,
        progress: Progress,
        registry: Registry,
        cache: str | Path | None,
    ) -> None:
        self._plan = plan
        self._recipe = plan.settings
        self._processes = processes
        self._progress = progress
        self._registry = registry
        self._cache = cache
        self._states = States(
            plan.out / STATE_NAME, self._recipe.saving.keep_last, min_free(self._recipe), progress.say
        )
        _check_batches(plan, processes)
        self._saved = self._find_saved()

    def execute(self) -> DistillResult:
        """Do what is left of the run."""
        plan, recipe = self._plan, self._recipe
        with BackgroundDigests(files_read(plan.checkpoint)) as checkpoint:
            identity: dict[str, Any] = {
                "recipe": result_settings(plan.recipe.document),
                "checkpoint": _sums(checkpoint.result()),
            }
        self._check_same(identity)
        self._announce()
        with BackgroundDigests(files_read(plan.teacher.checkpoint)) as teacher:
            pipe = open_for_training(plan.teacher, self._registry, recipe, self._processes.device)
            data = self._prepare(pipe)
            identity |= {"teacher": _sums(teacher.result()), "data": data.digest}
        self._check_same(identity)
        encoders_to(pipe, torch.device("cpu"))
        linfusion = read_linfusion(plan.checkpoint.path, registry=self._registry)
        student = Student(pipe.unet, linfusion)
        if recipe.gradient_checkpointing:
            student.enable_gradient_checkpointing()
        noise = Noise(pipe.scheduler, recipe.distill.timesteps if recipe.distill else None)
        export = Export(plan, student, next(linfusion.parameters()).dtype, identity)
        with ExitStack() as stack:
            loop = open_folder(
                plan,
                plain(identity),
                self._saved,
                self._states,
                self._processes,
                self._progress,
                self._registry,
                stack,
            )
            validation = self._validation(pipe, student, noise, data, export)
            loop.validator = validation
            if self._saved is None:
                self._start(student, data, loop, validation)
            else:
                student.keep_softmax(self._saved.record["kept_softmax"])
                _load_weights(student, self._saved)
            with self._train(student, noise, data, loop):
                return self._finish(loop, validation, export)

    def _announce(self) -> None:
        steps = sum(stage.steps for stage in self._plan.stages.values())
        self._progress.say(f"recipe {self._plan.recipe.name}, {steps} steps, in {self._plan.out}")
        if self._plan.note:
            self._progress.say(f"note: {self._plan.note}")
        if self._saved is not None:
            self._progress.say(f"going on after step {self._saved.record['step']}")
        elif self._plan.resume is not None:
            self._progress.say("nothing is saved yet; beginning anew")

    def _find_saved(self) -> SavedState | None:
        """The state to go on from, which the main process chooses."""
        if self._plan.resume is None:
            return None
        step = self._processes.in_main(self._choose_saved)
        return None if step is None else self._states.open(step)

    def _choose_saved(self) -> int | None:
        resume = self._plan.resume
        saved = self._states.open(resume) if isinstance(resume, int) else self._states.latest()
        if saved is None and (steps := self._states.steps()):
            raise DistillationError(
                f"{self._plan.out / STATE_NAME}: no state is whole (there are those of steps"
                f" {', '.join(map(str, steps))}); choose another --out to begin anew"
            )
        return None if saved is None else int(saved.record["step"])

    def _check_same(self, identity: Mapping[str, Any]) -> None:
        if self._saved is not None:
            check_same(self._saved.record["identity"], plain(identity), f"the run in {self._plan.out}")

    def _prepare(self, pipe: Any) -> LatentData:
        recipe = self._recipe
        if self._cache is not None:  # not an override: where the cache is says nothing of the result
            settings = recipe.data.model_copy(update={"cache": str(self._cache)})
            recipe = recipe.model_copy(update={"data": settings})
        with counting(self._progress, "data") as told:
            data = prepare_data(
                recipe,
                pipe,
                variant=self._plan.variant.value,
                device=self._processes.device,
                rank=self._processes.rank,
                world=self._processes.count,
                barrier=self._processes.wait,
                progress=told,
            )
        for note in data.notes:
            self._progress.say(f"note: {note}")
        return data

    def _validation(
        self, pipe: Any, student: Student, noise: Noise, data: LatentData, export: Export
    ) -> Validation | None:
        """What measures the student, in the main process."""
        if not self._processes.main:
            return None
        settings = self._recipe.validation
        at_once = min([_AT_ONCE, *(stage.micro_batch or _AT_ONCE for stage in self._plan.stages.values())])
        batches = data.held_out_batches(settings.samples, at_once, self._processes.device)
        captions = prompts_of(sample.caption for sample in data.samples if sample.held_out)
        return Validation(
            Evaluator(student, noise, list(batches), settings.scales, self._recipe.seed),
            Triptychs(pipe, student, captions, settings, self._plan.out / IMAGES_NAME),
            lambda step, measures: export.write(self._plan.out / BEST_NAME, step, measures),
            self._progress.say,
        )

    def _start(self, student: Student, data: LatentData, loop: Loop, validation: Validation | None) -> None:
        """What comes before the first step, in the main process; the others take over what it came to."""
        recipe = self._recipe

        def change_and_choose() -> tuple[str, ...]:
            assert validation is not None  # in the main process
            if recipe.calibrate is not None:
                self._calibrate(student, data, loop, validation.evaluator, recipe.calibrate)
            if not recipe.keep_softmax:
                return ()
            return choose(scores(student, validation.evaluator), recipe.keep_softmax)

        loop.standing.stage = "calibrate"
        kept = self._processes.in_main(change_and_choose)
        student.keep_softmax(kept)
        self._processes.copy_from_main(student.parameters.values())
        loop.standing.kept_softmax = kept
        loop.save({"stage_step": 0}, {"weights": dict(student.parameters)})

    def _calibrate(
        self, student: Student, data: LatentData, loop: Loop, evaluator: Evaluator, settings: Calibrate
    ) -> None:
        device, at_once = self._processes.device, settings.micro_batch
        indices = data.indices(self._recipe.seed, "calibrate", 0, settings.samples)
        batches = [
            data.load(indices[start : start + at_once], device) for start in range(0, len(indices), at_once)
        ]
        calibration = calibrate(student, batches, evaluator, settings, self._recipe.seed, self._progress)
        figures = plain(calibration)
        loop.record("calibration", figures, scalars({"kd": figures["kd"]}))

    def _train(
        self, student: Student, noise: Noise, data: LatentData, loop: Loop
    ) -> AbstractContextManager[None]:
        """Take every stage that is left; return what puts the weights that count in place."""
        weights: AbstractContextManager[None] = nullcontext()
        saved = self._saved
        for name, settings in self._plan.stages.items():
            if saved is not None and ORDER.index(name) < ORDER.index(saved.record["stage"]):
                continue
            trainer = Trainer(
                OBJECTIVES[name](student, noise, self._recipe),
                student,
                settings,
                data,
                seed=self._recipe.seed,
                processes=self._processes,
                max_skips=self._recipe.guards.max_skips,
            )
            if saved is not None and saved.record["stage"] == name:
                trainer.load(saved.record, saved.tensors())
            loop.train(trainer)
            weights = trainer.averaged()
        return weights

    def _finish(self, loop: Loop, validation: Validation | None, export: Export) -> DistillResult:
        """Write the student as it stands as the result."""
        standing = loop.standing
        folder = self._plan.out / FINAL_NAME

        def write() -> DistillResult:
            assert validation is not None  # in the main process
            measures = standing.measures
            if measures is None:
                measures = validation.measure(standing.step)
                loop.record("validation", measures, scalars(measures))
            export.write(folder, standing.step, measures)
            return DistillResult(self._plan.out, folder, standing.step, measures, standing.best)

        return self._processes.in_main(write)


def _what_lowers_memory(plan: RunPlan, processes: int, progress: Progress) -> str:
    progress.say("out of memory; adding up what would lower it …")
    arithmetic = plan.arithmetic(processes)
    ways = render_ladder(ladder(arithmetic), arithmetic.memory(plan.settings))
    return (
        f"{ways}\nThose that leave the result as it is (micro_batch, gradient_checkpointing, ema.device) may be given with"
        " --resume latest; the others need a new run."
    )


def _check_batches(plan: RunPlan, processes: Processes) -> None:
    for name, stage in plan.stages.items():
        if stage.batch < processes.count:
            raise DistillationError(
                f"{name}.batch is {stage.batch}, and there are {processes.count} processes: some would have nothing to do;"
                " run fewer, or raise it"
            )


def _sums(digests: Mapping[str, Digest]) -> dict[str, str]:
    return {name: each.sha256 for name, each in digests.items()}


@torch.no_grad()
def _load_weights(student: Student, saved: SavedState) -> None:
    weights = saved.tensors(["weights"])["weights"]
    for name, parameter in student.parameters.items():
        parameter.copy_(weights[name])
