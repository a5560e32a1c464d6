"""Everything about a conversion that is settled before the first byte is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linzoo.attention.layout import projection_mid_dim
from linzoo.attention.plan import AttentionSite, Placement, resolve_plan, sites_of
from linzoo.checkpoints.base_hash import hashed_names
from linzoo.checkpoints.detection import inspect
from linzoo.checkpoints.header import DTYPES
from linzoo.checkpoints.inspection import Inspection
from linzoo.checkpoints.linfusion import GENERALIZED_LINEAR, LinFusionConfig, ModuleEntry
from linzoo.checkpoints.source import Checkpoint, open_source
from linzoo.checkpoints.unet import UNetTensors, open_unet
from linzoo.errors import CheckpointError, LinzooError, PluginError, UsageError
from linzoo.init.fitting import check_dtypes, check_mixers, check_options, check_structure
from linzoo.init.numbers import CODES
from linzoo.init.published import match_published, open_published
from linzoo.init.recipe import Follow, InitPlan, InitRequest, PublishedWeights, TargetModule
from linzoo.plugin import AttentionPlan, InitRecipe, Variant, thaw

if TYPE_CHECKING:
    from linzoo.registry import Registered, Registry

_HASH_BUFFER = 1 << 20
_SIDE_FILES = 4 << 20
_COPIES = 6  # of the largest tensor in float32, alive at once while one tensor is made


@dataclass(frozen=True)
class ConversionPlan:
    """A conversion, ready to be written.

    Attributes:
        source: the teacher.
        teacher: its UNet.
        inspection: what was found out about it.
        variant, attention_plan, recipe: what the registry provides for it.
        plugins: version of every plugin that takes part, by name.
        inputs: every checkpoint that is read, by role: ``source``, ``linfusion``, ``base``.
        config: ``config.json`` of the result.
        kept: attention modules that stay softmax.
        init: the tensors of the result.
        dtype: safetensors code that was asked for; None for that of the weights it starts from.
        seed: of everything that is drawn.
        to_fetch: bytes of what is read that are on the Hub, and not on this machine yet; of a pipeline, those of its UNet.
    """

    source: Checkpoint
    teacher: UNetTensors
    inspection: Inspection
    variant: Registered[Variant]
    attention_plan: Registered[AttentionPlan]
    recipe: Registered[InitRecipe]
    plugins: Mapping[str, str]
    inputs: Mapping[str, Checkpoint]
    config: LinFusionConfig
    kept: tuple[str, ...]
    init: InitPlan
    dtype: str | None
    seed: int
    to_fetch: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes of weights that will be written."""
        return sum(prod(tensor.shape) * DTYPES[tensor.dtype].itemsize for tensor in self.init.tensors)

    @property
    def disk(self) -> int:
        """Bytes of disk that the result needs, with room for its small files."""
        return self.nbytes + _SIDE_FILES

    @property
    def memory(self) -> int:
        """Most bytes of memory that writing takes, beyond the program and the headers."""
        return _COPIES * 4 * max(prod(tensor.shape) for tensor in self.init.tensors) + _HASH_BUFFER

    @property
    def needs_pipeline(self) -> bool:
        """Whether the init recipe opens the teacher's whole pipeline."""
        return "pipeline" in self.recipe.value.needs

    @property
    def read(self) -> dict[str, list[str]]:
        """The tensors that are read of each input, by its role and their own names."""
        names: dict[str, list[str]] = {role: [] for role in self.inputs}
        names["source"] += [self.teacher.names[name] for name in hashed_names(self.teacher.tensors)]
        for tensor in self.init.tensors:
            for source in tensor.sources:
                role, _, name = source.partition(":")
                role = "source" if role == "teacher" else role
                if role in names and name in self.inputs[role].tensors:
                    names[role].append(name)
        return names

    @property
    def unprepared(self) -> bool:
        """Whether there is something to do before the first tensor; see :meth:`prepared`."""
        return self.to_fetch > 0 or self.init.prepare is not None

    def prepared(self, follow: Follow | None = None) -> ConversionPlan:
        """Fetch what is read, and do what the init recipe has to compute before the first tensor.

        Raises:
            CheckpointError: something cannot be fetched; what arrived stays for the next run.
            PluginError: the recipe fails.
            LinzooError: the recipe says why it cannot.
        """
        follow = follow or _unfollowed
        if self.to_fetch:
            self._fetch(follow)
        if self.init.prepare is None:
            return replace(self, to_fetch=0)
        with self.forgetting_on_refusal(), blamed_on(self.recipe):
            prepared: Any = self.init.prepare(follow)
            wanted = [(tensor.name, tensor.dtype, tensor.shape) for tensor in self.init.tensors]
            if [(tensor.name, tensor.dtype, tensor.shape) for tensor in prepared.tensors] != wanted:
                raise ValueError("what it prepared is not what it planned")
        return replace(self, init=replace(prepared, prepare=None), to_fetch=0)

    def _fetch(self, follow: Follow) -> None:
        if self.needs_pipeline and self.source.address is not None:
            # Whole, into the Hub's cache, where the store then finds it; the client draws a bar of its own.
            open_source(str(self.source.address))
        stores = {role: checkpoint.store for role, checkpoint in self.inputs.items()}
        if ranges := sum(stores[role].to_fetch(names) for role, names in self.read.items()):
            with follow("Fetching", ranges) as advance:
                for role, names in self.read.items():
                    stores[role].fetch(names, advance)

    @contextmanager
    def forgetting_on_refusal(self) -> Iterator[None]:
        """Forget what was fetched if the block says why it cannot; after an interruption the next run goes on with it."""
        try:
            yield
        except Exception:
            self.forget()
            raise

    def forget(self) -> None:
        """Remove what was fetched and is of no more use."""
        for checkpoint in self.inputs.values():
            checkpoint.store.forget()


def plan_conversion(
    source: str | Path,
    *,
    init: str | None = None,
    plan: str | None = None,
    variant: str | None = None,
    prediction_type: str | None = None,
    linfusion: str | Path | None = None,
    base: str | Path | None = None,
    dtype: str | None = None,
    seed: int = 0,
    registry: Registry,
) -> ConversionPlan:
    """Find out what a source is, what replaces what, and where every tensor of the result comes from.

    See :func:`linzoo.convert` for the arguments and errors.
    """
    code = _dtype_code(dtype)
    inspection = inspect(
        source, registry=registry, variant=variant, prediction_type=prediction_type, fetch_weights=False
    )
    entry, _ = inspection.require()
    found = next(each for each in registry.variants if each.value is entry)
    attention_plan = _choose_plan(plan, found, registry)
    recipe = registry.inits[init] if init else registry.inits.resolve(entry.default_init, found.plugin)
    check_options(recipe.value, {"linfusion": linfusion, "base": base})

    checkpoint = inspection.checkpoint
    teacher = open_unet(checkpoint, entry)
    shapes = {name: info.shape for name, info in teacher.tensors.items()}
    placements = resolve_plan(attention_plan, _sites(teacher, shapes), registry)
    replaced = [placement for placement in placements if placement.replaced]
    if not replaced:
        raise UsageError(
            f"attention plan '{attention_plan.value.id}' keeps every module softmax: nothing to convert"
        )
    check_mixers(recipe.value, replaced)
    check_structure(teacher, replaced)
    if "teacher" in recipe.value.needs:
        check_dtypes(teacher, replaced, code)

    published = None
    if linfusion is not None:
        published = open_published(linfusion, found, registry)
        replaced = match_published(replaced, shapes, published)
    base_unet = None
    if base is not None:
        base_unet = open_unet(open_source(base, registry=registry, fetch_weights=False), entry)
    modules = tuple(_target(index, placement) for index, placement in enumerate(replaced))
    request = InitRequest(modules, teacher, inspection, found, registry, published, base_unet, code, seed)
    planned = ConversionPlan(
        source=checkpoint,
        teacher=teacher,
        inspection=inspection,
        variant=found,
        attention_plan=attention_plan,
        recipe=recipe,
        plugins=_plugins(found, attention_plan, recipe, registry),
        inputs=_inputs(checkpoint, published, base_unet),
        config=LinFusionConfig(tuple(module.entry for module in modules)),
        kept=tuple(placement.site.name for placement in placements if not placement.replaced),
        init=_build(recipe, request),
        dtype=code,
        seed=seed,
    )
    return replace(planned, to_fetch=_to_fetch(planned))


def _to_fetch(plan: ConversionPlan) -> int:
    whole = plan.source.store.stated if plan.needs_pipeline else {}
    read = {role: names for role, names in plan.read.items() if not (whole and role == "source")}
    return sum(each.bytes for each in whole.values()) + sum(
        plan.inputs[role].store.to_fetch(names) for role, names in read.items()
    )


def _dtype_code(dtype: str | None) -> str | None:
    if dtype is None:
        return None
    if dtype not in CODES:
        raise UsageError(f"dtype '{dtype}' cannot be written; choose one of {', '.join(CODES)}")
    return CODES[dtype]


def _sites(teacher: UNetTensors, shapes: Mapping[str, tuple[int, ...]]) -> list[AttentionSite]:
    try:
        return sites_of(teacher.config, shapes)
    except CheckpointError as error:
        raise CheckpointError(f"{teacher.checkpoint.spec}: {error}") from error


def _choose_plan(
    name: str | None, variant: Registered[Variant], registry: Registry
) -> Registered[AttentionPlan]:
    if name is None:
        return registry.plans.resolve(variant.value.default_plan, variant.plugin)
    chosen = registry.plans[name]
    fitting = registry.plans_for(variant.full_id)
    if not any(chosen is each for each in fitting):
        known = ", ".join(each.value.id for each in fitting)
        raise UsageError(
            f"attention plan '{name}' is for variant '{chosen.value.variant}', but the source is"
            f" '{variant.value.id}'; its plans: {known}"
        )
    return chosen


def module_entry(placement: Placement) -> ModuleEntry:
    """How a checkpoint's config lists a module that a plan replaces."""
    site, mixer = placement.site, placement.mixer
    options = {**mixer.options, **placement.options}
    entry = ModuleEntry(site.name, site.dim, site.heads, mixer=mixer.id, options=thaw(options))
    if mixer.id == GENERALIZED_LINEAR:
        return replace(entry, projection_mid_dim=projection_mid_dim(site.dim, options), options={})
    return entry


def _target(index: int, placement: Placement) -> TargetModule:
    return TargetModule(index, module_entry(placement), placement.shapes())


def _inputs(
    source: Checkpoint, published: PublishedWeights | None, base: UNetTensors | None
) -> dict[str, Checkpoint]:
    inputs = {"source": source}
    if published is not None:
        inputs["linfusion"] = published.checkpoint
    if base is not None:
        inputs["base"] = base.checkpoint
    return inputs


def _plugins(
    variant: Registered[Variant],
    plan: Registered[AttentionPlan],
    recipe: Registered[InitRecipe],
    registry: Registry,
) -> dict[str, str]:
    mixers = [registry.mixers.resolve(rule.mixer, plan.plugin) for rule in plan.value.rules]
    statuses = [variant.plugin, plan.plugin, recipe.plugin, *(mixer.plugin for mixer in mixers)]
    return {status.name: status.version for status in statuses}


def _build(recipe: Registered[InitRecipe], request: InitRequest) -> InitPlan:
    """Run the recipe and check that it plans the tensors that were asked for, all of them and nothing else."""
    with blamed_on(recipe):
        answer: Any = recipe.value.build.load()(request)
    plan = answer if isinstance(answer, InitPlan) else InitPlan(())
    wanted = {
        module.target(name): shape for module in request.modules for name, shape in module.shapes.items()
    }
    planned = {tensor.name: tuple(tensor.shape) for tensor in plan.tensors}
    if planned != wanted or len(plan.tensors) != len(wanted):
        wrong = sorted(
            name for name in wanted.keys() | planned.keys() if wanted.get(name) != planned.get(name)
        )
        raise PluginError(
            f"init recipe '{recipe.value.id}' of plugin {recipe.plugin.label} does not plan the tensors that the mixers"
            f" have: {', '.join(wrong[:3])} …"
        )
    return plan


def _unfollowed(title: str, total: int) -> AbstractContextManager[Callable[[int], None]]:  # noqa: ARG001
    return nullcontext(lambda steps: None)


@contextmanager
def blamed_on(recipe: Registered[InitRecipe]) -> Iterator[None]:
    """Turn whatever an init recipe raises by mistake into an error that names its plugin.

    Raises:
        PluginError: the recipe failed; what it raised is the cause.
    """
    try:
        yield
    except (LinzooError, OSError):
        raise
    except Exception as error:
        raise PluginError(
            f"init recipe '{recipe.value.id}' of plugin {recipe.plugin.label} failed: {type(error).__name__}: {error}"
        ) from error
