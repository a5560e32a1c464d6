"""What the rest of linzoo knows of plugins: catalogs of entries, and one typed method a behaviour hook."""

from __future__ import annotations

import contextlib
import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pluggy

from linzoo.errors import LinzooError, PluginError
from linzoo.plugin import (
    AttentionPlan,
    Callback,
    Card,
    CardSection,
    Check,
    DistillRecipe,
    DistillRun,
    DistillStep,
    Encoder,
    Entry,
    InitRecipe,
    LoadedTeacher,
    Mixer,
    PushPlan,
    TeacherRequest,
    Variant,
    Veto,
)
from linzoo.registry.candidates import normalise
from linzoo.registry.catalog import AmbiguousIdError, Catalog, Registered, UnknownIdError, hints
from linzoo.registry.collecting import describe
from linzoo.registry.kinds import KINDS, Kind
from linzoo.registry.problems import brief
from linzoo.registry.status import PluginStatus
from linzoo.registry.trace import Tracer


class Registry:
    """Everything that plugins provide; made by :func:`linzoo.registry.build_registry` and not changed after.

    Attributes:
        variants, plans, mixers, inits, distill_recipes, checks, encoders: the entries of each kind.
        plugins: what became of each plugin, built-ins first, then by name.
    """

    def __init__(
        self,
        manager: pluggy.PluginManager,
        plugins: Sequence[PluginStatus],
        catalogs: Mapping[str, Catalog[Any]],
        notes: Sequence[str],
        trace: Tracer,
    ) -> None:
        self.plugins = tuple(plugins)
        self.variants: Catalog[Variant] = catalogs["variants"]
        self.plans: Catalog[AttentionPlan] = catalogs["plans"]
        self.mixers: Catalog[Mixer] = catalogs["mixers"]
        self.inits: Catalog[InitRecipe] = catalogs["inits"]
        self.distill_recipes: Catalog[DistillRecipe] = catalogs["recipes"]
        self.checks: Catalog[Check] = catalogs["checks"]
        self.encoders: Catalog[Encoder] = catalogs["encoders"]
        self._catalogs = catalogs
        self._manager = manager
        self._notes = tuple(notes)
        self._trace = trace
        self._by_key = {status.candidate.key: status for status in self.plugins if status.state == "ok"}

    def catalog(self, kind: str) -> Catalog[Any]:
        """The catalog of a kind, by its name on the command line: ``variants``, ``plans``, …"""
        return self._catalogs[kind]

    def plugins_called(self, name: str) -> tuple[PluginStatus, ...]:
        """Find plugins by the name of a distribution or entry point; several may have it.

        Raises:
            UnknownIdError: there is none of that name.
        """
        wanted = normalise(name)
        found = tuple(
            status
            for status in self.plugins
            if wanted in map(normalise, (status.name, status.candidate.name, status.candidate.key))
        )
        if not found:
            known = ", ".join(status.name for status in self.plugins)
            raise UnknownIdError(f"no plugin is called '{name}'; installed are: {known or 'none'}")
        return found

    def find(self, name: str) -> list[tuple[Kind, Registered[Entry]]]:
        """Find entries of any kind by id or full name.

        Raises:
            UnknownIdError: no kind has one.
            AmbiguousIdError: one kind has several.
        """
        found: list[tuple[Kind, Registered[Entry]]] = []
        for kind in KINDS:
            with contextlib.suppress(UnknownIdError):
                found.append((kind, self._catalogs[kind.name][name]))
        if not found:
            everything = itertools.chain.from_iterable(self._catalogs.values())
            raise UnknownIdError(
                "\n  ".join([f"unknown id '{name}'", *hints(name, everything, self.plugins)])
            )
        return found

    def lineage(self, variant: str) -> tuple[Registered[Variant], ...]:
        """The variant, the one that it refines, the one that that refines, and so on, as far as names are clear."""
        here = self.variants[variant]
        line = [here]
        with contextlib.suppress(AmbiguousIdError):
            while here.value.refines is not None:
                here = self.variants.resolve(here.value.refines, here.plugin)
                line.append(here)
        return tuple(line)

    def plans_for(self, variant: str) -> tuple[Registered[AttentionPlan], ...]:
        """The attention plans that fit a variant: its own first, then those of what it refines."""
        return tuple(
            plan for ancestor in self.lineage(variant) for plan in self.plans if self._belongs(plan, ancestor)
        )

    def warnings(self) -> list[str]:
        """One line a broken plugin, and one a plugin name in the environment that nobody has."""
        broken = [
            f"warning: plugin {status.label} is left out: {status.problem} (linzoo plugins show {status.name})"
            for status in self.plugins
            if status.state == "broken"
        ]
        return broken + [f"warning: {note}" for note in self._notes]

    def load_teacher(self, request: TeacherRequest) -> LoadedTeacher:
        """Build a teacher's pipeline: the first plugin that can does it.

        Raises:
            PluginError: a plugin failed, answered with something else, or none can; the message names it.
            LinzooError: linzoo's own loader says why it cannot.
        """
        hook = self._manager.hook.linzoo_load_teacher
        impls = list(reversed(hook.get_hookimpls()))
        asked = ", ".join(self._by_key[impl.plugin_name].label for impl in impls)
        try:
            with self._trace("linzoo_load_teacher", asked, request) as traced:
                answer = traced.answer = hook(request=request)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise self._blame(error, impls, "linzoo_load_teacher") from error
        if answer is None:
            raise PluginError(f"no plugin loads a teacher from '{request.source}' (asked: {asked or 'none'})")
        if not isinstance(answer, LoadedTeacher):
            raise PluginError(
                f"linzoo_load_teacher must return a LoadedTeacher, got {describe(answer)} (asked: {asked})"
            )
        return answer

    def card_sections(self, card: Card) -> tuple[CardSection, ...]:
        """The sections that plugins add to a model card, by order, then by plugin.

        A plugin that fails loses its sections and is named in a ``UserWarning``.
        """
        sections: list[tuple[int, str, CardSection]] = []
        for plugin, ask in self._impls("linzoo_card_sections", card):
            try:
                answers = _listed(ask(), CardSection)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                warnings.warn(
                    f"the card goes without the sections of plugin {plugin.label}: {brief(error)}",
                    stacklevel=2,
                )
                continue
            sections += [(section.order, normalise(plugin.name), section) for section in answers]
        return tuple(section for _, _, section in sorted(sections, key=lambda each: each[:2]))

    def distill_callbacks(self, run: DistillRun) -> tuple[Callback, ...]:
        """The functions that want to be called after every step of a distillation.

        One that fails later raises a ``PluginError`` that names its plugin, too.

        Raises:
            PluginError: a plugin failed; the message names it.
        """
        callbacks: list[Callback] = []
        for plugin, ask in self._impls("linzoo_distill_callbacks", run):
            try:
                callbacks += [_blaming(plugin, callback) for callback in _listed(ask(), Callable)]
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                raise _failed(plugin, "linzoo_distill_callbacks", error) from error
        return tuple(callbacks)

    def before_push(self, plan: PushPlan) -> None:
        """Let every plugin look at a push.

        Raises:
            PluginError: a plugin vetoes it, or fails, which stops it as well.
        """
        for plugin, ask in self._impls("linzoo_before_push", plan):
            try:
                ask()
            except Veto as veto:
                raise PluginError(f"plugin {plugin.label} stops the push to '{plan.repo}': {veto}") from veto
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                raise PluginError(
                    f"nothing is pushed to '{plan.repo}', since plugin {plugin.label} could not look at it: "
                    f"{brief(error)}"
                ) from error

    def _belongs(self, plan: Registered[AttentionPlan], variant: Registered[Variant]) -> bool:
        try:
            return self.variants.resolve(plan.value.variant, plan.plugin) is variant
        except AmbiguousIdError:
            return False

    def _impls(self, hook: str, request: Any) -> Iterator[tuple[PluginStatus, Callable[[], Any]]]:
        """Each plugin that implements a hook, by name, with a function that asks it."""
        impls = getattr(self._manager.hook, hook).get_hookimpls()
        for impl in sorted(impls, key=lambda each: normalise(each.plugin_name)):
            arguments = [request] if impl.argnames else []

            def ask(impl: Any = impl, arguments: list[Any] = arguments) -> Any:
                with self._trace(hook, impl.plugin_name, *arguments) as traced:
                    answer = impl.function(*arguments)
                    traced.answer = list(answer) if isinstance(answer, Iterator) else answer
                    return traced.answer

            yield self._by_key[impl.plugin_name], ask

    def _blame(self, error: BaseException, impls: Iterable[Any], hook: str) -> LinzooError:
        """Find the plugin whose function an exception came out of."""
        owners = {impl.function.__code__: self._by_key[impl.plugin_name] for impl in impls if _has_code(impl)}
        guilty = None
        trace = error.__traceback__
        while trace is not None:
            guilty = owners.get(trace.tb_frame.f_code, guilty)
            trace = trace.tb_next
        if guilty is None:
            return PluginError(f"a plugin failed in {hook}: {brief(error)}")
        if guilty.origin == "built-in" and isinstance(error, LinzooError):
            return error
        return _failed(guilty, hook, error)


def _blaming(plugin: PluginStatus, callback: Callback) -> Callback:
    def call(step: DistillStep) -> None:
        try:
            callback(step)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise _failed(plugin, "a callback of linzoo_distill_callbacks", error) from error

    return call


def _has_code(impl: Any) -> bool:
    return hasattr(impl.function, "__code__")


def _listed(answer: Any, type: Any) -> list[Any]:
    if answer is None:
        raise TypeError("the hook must return an iterable, got None")
    for item in answer:
        if not isinstance(item, type):
            raise TypeError(f"the hook must give {type.__name__}, got {describe(item)}")
    return list(answer)


def _failed(plugin: PluginStatus, hook: str, error: BaseException) -> PluginError:
    return PluginError(f"plugin {plugin.label} failed in {hook}: {brief(error)}")
