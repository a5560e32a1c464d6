"""Collecting what there is to see of one checkpoint, and concluding from it what the checkpoint is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from linzoo.checkpoints.census import count_parts, oddities, part_of
from linzoo.checkpoints.evidence import Confidence, Evidence, decide, weakest
from linzoo.checkpoints.features import fingerprint_of
from linzoo.checkpoints.inspection import Inspection
from linzoo.checkpoints.known import KNOWN_UNETS, Kind, kind_of_class, kind_of_names, name_of
from linzoo.checkpoints.layout import is_ldm, unet_names
from linzoo.checkpoints.lock import LOCK_NAME, at, is_distilled, read_lock
from linzoo.checkpoints.matching import Fit, closest, fit, matches
from linzoo.checkpoints.prediction import PREDICTION_TYPES, prediction_evidence, zero_terminal_snr
from linzoo.checkpoints.shipped import named_source
from linzoo.checkpoints.source import Checkpoint, open_source
from linzoo.errors import CheckpointError, PluginError, UsageError

if TYPE_CHECKING:
    from linzoo.plugin import PredictionType, Variant
    from linzoo.registry import Registry


def inspect(
    source: str | Path,
    *,
    registry: Registry | None = None,
    variant: str | None = None,
    prediction_type: str | None = None,
    fetch_weights: bool = True,
) -> Inspection:
    """Tell what a checkpoint is; reads headers and configs, and at most one small tensor.

    Args:
        source: a SOURCE (see :func:`linzoo.checkpoints.source.open_source`).
        registry: the variants to know; built when needed.
        variant: the user's word on the variant; its tensors must be there.
        prediction_type: the user's word on the prediction type.
        fetch_weights: bring the weights of a Hub repository into the cache; else only their headers are read.

    Returns:
        The inspection; being undecided is an answer (see :attr:`Inspection.decided`) and not an error.

    Raises:
        CheckpointError: the source is missing or damaged, or is not the variant that the user named.
        UsageError: there is no such prediction type.
    """
    if prediction_type is not None and prediction_type not in PREDICTION_TYPES:
        raise UsageError(f"no prediction type '{prediction_type}'; there are {', '.join(PREDICTION_TYPES)}")
    if registry is None:
        from linzoo.registry import build_registry

        registry = build_registry()
    checkpoint = open_source(source, registry=registry, fetch_weights=fetch_weights)
    return Detector(checkpoint, registry).run(variant, cast("PredictionType | None", prediction_type))


class Detector:
    """Collects evidence and problems on one checkpoint."""

    def __init__(self, checkpoint: Checkpoint, registry: Registry) -> None:
        self.checkpoint = checkpoint
        self.registry = registry
        self.ldm = is_ldm(checkpoint.layout)
        own = unet_names(checkpoint.tensors, checkpoint.layout)
        self.shapes = {name: checkpoint.tensors[each].shape for name, each in own.items()}
        self.parts = count_parts(checkpoint)
        self.evidence: list[Evidence] = []
        self.problems = list(oddities(checkpoint, self.parts))

    def run(self, variant: str | None, prediction_type: PredictionType | None) -> Inspection:
        """Climb the ladder once; the user's words on variant and prediction type are its first rung.

        Raises:
            CheckpointError: the checkpoint is not of the variant that the user named.
            PluginError: there is no such variant.
        """
        kind = self._kind()
        if variant and kind != "unet":
            raise CheckpointError(
                f"{self.checkpoint.spec}: not the '{variant}' that --variant says: {self.evidence[-1].detail}"
            )
        if kind in ("linfusion", "linear-unet"):
            return self._linear(kind)
        if kind != "unet":
            known = kind != "unknown"
            return self._result(kind, name_of(kind) if known else "", None, None, "high" if known else "none")
        found, level, name = self._named(variant) if variant else self._detected()
        if found is None:
            return self._result("unet", name, None, None, level)
        predicted = self._prediction(found, prediction_type)
        if predicted is None:
            return self._result("unet", name, found, None, "none")
        answer = cast("PredictionType", predicted.says)
        return self._result("unet", name, found, answer, weakest([level, predicted.confidence]))

    def _result(
        self,
        kind: Kind,
        name: str,
        variant: Variant | None,
        prediction: PredictionType | None,
        level: Confidence,
    ) -> Inspection:
        evidence, problems = tuple(self.evidence), tuple(self.problems)
        return Inspection(
            self.checkpoint, kind, name, variant, prediction, level, evidence, problems, self.parts
        )

    def _see(self, about: Any, source: Any, detail: str, says: str | None, level: Confidence) -> None:
        self.evidence.append(Evidence(about, source, detail, says, level))

    def _kind(self) -> Kind:
        declared = str(self.checkpoint.configs.get("unet", {}).get("_class_name", ""))
        names = list(self.checkpoint.tensors)
        kind = kind_of_names(names)
        # Linear attention can be merged into a UNet whose config says nothing of it.
        if kind != "linear-unet" and (said := kind_of_class(declared)):
            self._see("kind", "config", f"config.json: {declared}", said, "high")
            return said
        if kind == "linear-unet":
            detail = "linear attention is already in it ('to_q_' tensors)"
        elif kind == "unet":
            detail = f"{len(self.shapes)} of {len(names)} tensors are named as a UNet's, layout {self.checkpoint.layout}"
        elif kind == "unknown":
            strange = [name for name in names if part_of(name) == "other"] or names
            detail = f"{len(strange)} of {len(names)} tensors are named as nothing that linzoo knows: {', '.join(strange[:3])}"
        else:
            detail = f"{len(names)} tensors, named as those of {name_of(kind)}: {', '.join(names[:2])}"
        known = kind != "unknown"
        self._see("kind", "structure", detail, kind if known else None, "high" if known else "none")
        return kind

    def _linear(self, kind: Kind) -> Inspection:
        """What a result of linzoo was made for is in its lock file; that of others has none."""
        lock = self._lock()
        detection = lock.get("detection", {})
        said, predicted = detection.get("variant"), detection.get("prediction_type")
        variant = None
        if isinstance(said, str):
            try:
                variant = self.registry.variants[said].value
                self._see("variant", "lock", f"{LOCK_NAME}: {self._history(lock)}", said, "high")
            except PluginError as error:
                self._see("variant", "lock", f"{LOCK_NAME} says '{said}': {error}", None, "none")
        if predicted in PREDICTION_TYPES:
            self._see("prediction_type", "lock", f"{LOCK_NAME} says so", predicted, "high")
        else:
            predicted = None
        level = weakest(each.confidence for each in self.evidence)
        return self._result(kind, name_of(kind), variant, predicted, level)

    def _history(self, lock: Mapping[str, Any]) -> str:
        init, recipe = at(lock, "init", "id"), at(lock, "distill", "recipe", "id")
        made = f"made from {named_source(lock.get('source', {}), self.registry)}"
        made += f" by init recipe '{init}'" if init else ""
        if "linfusion" in lock:
            made += f" out of the weights of {named_source(lock['linfusion'], self.registry)}"
        if recipe:
            made += f", distilled by recipe '{recipe}'"
        return made if is_distilled(lock) else f"{made}, never distilled"

    def _lock(self) -> Mapping[str, Any]:
        folder = self.checkpoint.path
        try:
            return (read_lock(folder) if folder.is_dir() else None) or {}
        except CheckpointError as error:
            self.problems.append(str(error))
            return {}

    def _named(self, variant: str) -> tuple[Variant, Confidence, str]:
        fitted = fit(self.registry.variants[variant], self.shapes, ldm=self.ldm)
        if not fitted.complete:
            raise CheckpointError(
                f"{self.checkpoint.spec}: not the '{variant}' that --variant says: {fitted.explain()}"
            )
        self._see("variant", "flag", f"given by --variant; {fitted.explain()}", fitted.variant.id, "certain")
        self._note_extra(fitted)
        return fitted.variant, "certain", _title(fitted.variant)

    def _detected(self) -> tuple[Variant | None, Confidence, str]:
        """The variant by structure, or the name of a known model, or nothing and the nearest miss."""
        fingerprint = fingerprint_of(self.shapes, ldm=self.ldm)
        fits = matches(self.registry, fingerprint, self.shapes, ldm=self.ldm) if fingerprint else []
        if len(fits) == 1:
            found = fits[0]
            self._see("variant", "structure", found.explain(), found.variant.id, "high")
            self._note_extra(found)
            return found.variant, "high", _title(found.variant)
        if fits:
            ids = ", ".join(each.entry.full_id for each in fits)
            detail = f"fits several variants, and none goes before the others: {ids}"
            self._see("variant", "structure", detail, None, "none")
            return None, "none", ""
        if fingerprint in KNOWN_UNETS:
            name = KNOWN_UNETS[fingerprint]
            self._see("variant", "structure", f"has the structure of {name}", None, "high")
            return None, "high", name
        self._near_miss()
        return None, "none", ""

    def _near_miss(self) -> None:
        nearest = closest(self.registry, self.shapes, ldm=self.ldm)
        detail = f"closest variant: {nearest.explain()}" if nearest else "not near any installed variant"
        self._see("variant", "structure", detail, None, "none")

    def _note_extra(self, fitted: Fit) -> None:
        extra = [name for name in fitted.extra if name != "time_embedding.cond_proj.weight"]
        if len(extra) < len(fitted.extra):
            self.problems.append(
                "guidance is embedded ('time_embedding.cond_proj'), as in LCM: a distilled model, for few steps and"
                " without classifier-free guidance"
            )
        if extra:
            some = ", ".join(extra[:3]) + (", …" if len(extra) > 3 else "")
            self.problems.append(
                f"{len(extra)} tensors that {fitted.variant.id} does not have are ignored: {some}"
            )

    def _prediction(self, variant: Variant, flag: PredictionType | None) -> Evidence | None:
        seen = prediction_evidence(self.checkpoint, variant, flag)
        self.evidence += seen
        declared = {each.says for each in seen if each.says and each.source not in ("default", "value")}
        if len(declared) > 1:
            self.problems.append(
                f"the evidence on the prediction type disagrees ({', '.join(sorted(filter(None, declared)))});"
                " the first of it decides"
            )
        if where := zero_terminal_snr(self.checkpoint):
            self.problems.append(
                f"trained with zero terminal SNR ({where}): draw with rescale_betas_zero_snr and"
                " timestep_spacing 'trailing'"
            )
        return decide(seen)


def _title(variant: Variant) -> str:
    return variant.summary or variant.id
