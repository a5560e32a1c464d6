"""``linzoo.validate``: is a LinFusion checkpoint as good as its teacher?"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linzoo.checkpoints.address import name_of
from linzoo.checkpoints.atomic import explain_os_errors, held, write_bytes
from linzoo.checkpoints.detection import inspect
from linzoo.checkpoints.kinship import other_weights
from linzoo.checkpoints.linfusion_folder import open_linfusion
from linzoo.checkpoints.lock import plain, read_lock
from linzoo.checkpoints.source import Checkpoint
from linzoo.distillation.log import finite
from linzoo.distillation.processes import Processes
from linzoo.distillation.progress import Progress
from linzoo.generate.teacher import require_text_to_image, usable_device
from linzoo.plugin import Check, Measure
from linzoo.registry.problems import brief
from linzoo.validation.errors import ValidationError
from linzoo.validation.report.pictures import locate
from linzoo.validation.result import ValidationResult
from linzoo.validation.settings import Wishes, settle
from linzoo.validation.subject import Subject
from linzoo.validation.suites import checks_of, draws, names_of, require_known
from linzoo.validation.verdicts import Judged, judge

if TYPE_CHECKING:
    from linzoo.plugin.requests import DType
    from linzoo.registry import Registered, Registry

REPORT_NAME = "report.json"


def validate(
    checkpoint: str | Path,
    teacher: str | Path,
    *,
    suite: str = "quick",
    report: str | Path | None = None,
    device: str | None = None,
    dtype: DType | None = None,
    variant: str | None = None,
    prediction_type: str | None = None,
    registry: Registry | None = None,
    progress: Progress | None = None,
    **wishes: Any,
) -> ValidationResult:
    """Validate a LinFusion checkpoint against its teacher.

    In several processes (``accelerate launch``, ``torchrun``) each calls this with the same arguments; pictures are drawn
    by all. What was drawn is kept in ``report`` and not drawn again.

    Args:
        checkpoint: the LinFusion checkpoint: a folder, or ``user/repo[@rev]`` on the Hub.
        teacher: the model that it was made from: a diffusers folder, a file, ``hf://repo[@rev][/file]`` or a registered name.
        suite: ``quick``, ``quality``, ``speed`` or ``full``.
        report: folder for ``report.html``, ``report.json`` and the pictures. None writes no report of ``quick``, and that of
            another suite to the checkpoint's name with ``-validation``.
        device: torch device; None for a GPU where there is one.
        dtype: precision of the teacher; None for float32 on a CPU and float16 elsewhere.
        variant: id of the teacher's variant, where detection cannot tell.
        prediction_type: ``epsilon`` or ``v_prediction``, where detection cannot tell.
        registry: where ids are looked up; built from all installed plugins when None.
        progress: what people are told; None tells them nothing.
        wishes: fields of :class:`linzoo.validation.settings.Wishes`, such as ``images=64``.

    Returns:
        Every measure with its verdict. A bar that falls is no error.

    Raises:
        UsageError: there is no such suite, preset, encoder or measure, or the device cannot be used.
        CheckpointError: checkpoint or teacher cannot be read, or the report cannot be written.
        UndecidedError: the evidence does not settle what the teacher is.
        ValidationError: another validation works in the folder.
        LinzooError: there is not enough memory; what was drawn is kept.
    """
    if registry is None:
        from linzoo.registry import build_registry

        registry = build_registry()
    wanted = Wishes(**wishes)
    checks = checks_of(suite, registry)
    require_known(wanted.bars, suite, checks)
    opened, config = open_linfusion(checkpoint, registry=registry)
    found = inspect(teacher, registry=registry, variant=variant, prediction_type=prediction_type)
    require_text_to_image(found)
    entry, _ = found.require()
    registered = next(each for each in registry.variants if each.value is entry)
    lock = read_lock(opened.path)
    settings = settle(wanted, registered, found.native_size or 0, lock, registry, drawing=draws(suite))
    if note := other_weights(opened, found, registry):
        settings = replace(settings, notes=(*settings.notes, note))
    processes = Processes(usable_device(device) if device else None)
    speaking = progress if progress is not None and processes.main else Progress()
    if report is None and suite != "quick":
        report = _report_of(opened)
    with _folder(report, processes) as folder:
        subject = Subject(
            opened, config, lock, found, registered, settings, folder, dtype, processes, registry, speaking
        )
        result = _result(subject, suite, _run(subject, suite, checks), None if report is None else folder)
        if report is not None:
            processes.in_main(partial(_write, result, folder))
        return result


def _report_of(checkpoint: Checkpoint) -> str:
    """The folder of a report that the user did not name: after the checkpoint as it was given."""
    return f"{name_of(checkpoint.spec)}-validation"


@contextmanager
def _folder(report: str | Path | None, processes: Processes) -> Iterator[Path]:
    """The folder of the report, kept to this validation; a temporary one where no report is wanted."""
    if report is None:
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)
        return
    folder = Path(report)
    with ExitStack() as stack:
        processes.in_main(partial(_hold, folder, stack))
        yield folder


def _hold(folder: Path, stack: ExitStack) -> None:
    with explain_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            stack.enter_context(held(folder))
        except BlockingIOError as error:
            raise ValidationError(
                f"another validation works in {folder}; wait for its end, or choose another --report"
            ) from error


def _run(subject: Subject, suite: str, checks: list[Registered[Check]]) -> tuple[Judged, ...]:
    """Run the checks in the main process, after all have drawn what they look at; stop at a gate that falls."""
    judged: list[Judged] = []
    if draws(suite):
        subject.sights.announce()  # and refuses, before anything is loaded, what cannot be looked with
    drawn = False
    for place, check in enumerate(checks):
        if draws(suite) and not drawn and "quick" not in check.value.suites:
            _draw(subject)
            drawn = True
        measures = subject.processes.in_main(partial(_measure, check, subject))
        own = "linzoo" if check.plugin.origin == "built-in" else f"plugin {check.plugin.label}"
        mine = [judge(check.value.id, measure, subject.settings.bars, own) for measure in measures]
        judged += mine
        fallen = next((each for each in mine if each.verdict == "failed"), None)
        if check.value.gate and fallen is not None:
            judged += _left_out(checks[place + 1 :], f"not measured, since '{fallen.measure.name}' failed")
            break
    return tuple(judged)


def _draw(subject: Subject) -> None:
    """Draw with both, compare the pictures, and look at them with the encoders."""
    subject.drawings("teacher").draw(subject.pipe, subject.progress, subject.processes)
    with subject.mounted():
        subject.drawings("student").draw(subject.pipe, subject.progress, subject.processes)
    subject.pairs.compare()
    subject.sights.look()


def _measure(check: Registered[Check], subject: Subject) -> list[Measure]:
    """What a check says. A plugin's that fails is a bar that falls: it does not take the others along."""
    try:
        measures = list(check.value.run.load()(subject))
        _require_declared(check.value, measures)
        for picture in (
            file for each in measures for pair in each.pictures for file in (pair.teacher, pair.student)
        ):
            locate(subject.folder, picture)
        return measures
    except (Exception, SystemExit) as error:
        if check.plugin.origin == "built-in":
            raise
        why = f"the check of plugin {check.plugin.label} failed: {brief(error)}"
        return [
            Measure(name=name, title=check.value.summary or name, value=float("nan"), detail=why)
            for name in names_of(check.value)
        ]
    finally:
        subject.restore()


def _require_declared(check: Check, measures: list[Measure]) -> None:
    names = [measure.name if isinstance(measure, Measure) else repr(measure) for measure in measures]
    if sorted(names) != sorted(names_of(check)):
        raise TypeError(
            f"check '{check.id}' declares the measures {', '.join(names_of(check))} and gave {', '.join(names) or 'none'}"
        )


def _left_out(checks: list[Registered[Check]], why: str) -> list[Judged]:
    return [
        judge(check.value.id, Measure(name=name, title=name, value=None, skipped=why), {})
        for check in checks
        for name in names_of(check.value)
    ]


def _result(
    subject: Subject, suite: str, judged: tuple[Judged, ...], report: Path | None
) -> ValidationResult:
    return ValidationResult(
        suite=suite,
        checkpoint=subject.opened.spec,
        teacher=subject.teacher,
        judged=judged,
        notes=subject.notes,
        about=_about(subject),
        report=report,
    )


def _about(subject: Subject) -> dict[str, Any]:
    from linzoo_benchmarks.environment import describe

    return {
        "checkpoint": {"spec": subject.opened.spec, "modules": len(subject.config.modules)},
        "teacher": {
            "spec": subject.teacher,
            "variant": subject.variant.id,
            "prediction_type": subject.prediction_type,
        },
        "size": list(subject.size),
        "settings": finite(plain({**subject.settings.to_json(), "dtype": subject.precision})),
        "environment": asdict(describe(subject.processes.device)),
        "lock": None if subject.lock is None else plain(subject.lock),
    }


def _write(result: ValidationResult, folder: Path) -> None:
    from linzoo.validation.report.card import write_card_pictures
    from linzoo.validation.report.page import write_report

    document = result.to_json()
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_bytes(folder / REPORT_NAME, text.encode())
    write_report(document, folder)
    write_card_pictures(document, folder)
