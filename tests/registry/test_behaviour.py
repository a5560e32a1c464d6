"""The behaviour hooks, each with its own rule for plugins that fail."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from dists import HEAD, Site, variant, variants

from linzoo.errors import CheckpointError, PluginError
from linzoo.plugin import (
    Card,
    DistillRun,
    DistillStep,
    PushPlan,
    TeacherRequest,
    Variant,
)
from linzoo.registry import Registry


@pytest.fixture
def kolors(site: Site, build: Callable[..., Registry]) -> Variant:
    site.folder.joinpath("linzoo_kolors.py").write_text(variants(variant("kolors")))
    return build("linzoo_mixers", "linzoo_kolors").variants.get_value("kolors")


def implement(hook: str, body: str, marker: str = "@hookimpl") -> str:
    return HEAD + f"{marker}\ndef {hook}:\n    {body}\n"


class TestLoadTeacher:
    """``linzoo_load_teacher``: the first answer wins; a failure ends the command and names the plugin."""

    HOOK = "linzoo_load_teacher(request)"
    CORE = "return LoadedTeacher(pipeline=f'core {request.source}')"

    @pytest.fixture
    def request_(self, kolors: Variant) -> TeacherRequest:
        return TeacherRequest(source="model", path=Path("model"), variant=kolors, prediction_type="epsilon")

    @pytest.fixture
    def core(self, site: Site) -> str:
        site.folder.joinpath("own_core.py").write_text(
            implement(self.HOOK, self.CORE, "@hookimpl(trylast=True)")
        )
        return "own_core"

    def test_the_core_comes_last(
        self, site: Site, build: Callable[..., Registry], core: str, request_: TeacherRequest
    ) -> None:
        site.add("linzoo-a", implement(self.HOOK, "return None"))
        assert build(core).load_teacher(request_).pipeline == "core model"
        site.add("linzoo-b", implement(self.HOOK, "return LoadedTeacher(pipeline='b')"))
        assert build(core).load_teacher(request_).pipeline == "b"

    def test_a_failing_plugin_is_named(
        self, site: Site, build: Callable[..., Registry], core: str, request_: TeacherRequest
    ) -> None:
        site.add("linzoo-a", implement(self.HOOK, "return None"))
        site.add("linzoo-bad", implement(self.HOOK, "raise KeyError('unet')"))
        with pytest.raises(PluginError) as caught:
            build(core).load_teacher(request_)
        assert str(caught.value) == "plugin linzoo-bad 1.0 failed in linzoo_load_teacher: KeyError: 'unet'"

    def test_a_plugin_that_exits_is_named(
        self, site: Site, build: Callable[..., Registry], core: str, request_: TeacherRequest
    ) -> None:
        site.add("linzoo-bad", implement(self.HOOK, "raise SystemExit(3)"))
        with pytest.raises(PluginError, match=r"plugin linzoo-bad 1\.0 failed .* SystemExit: 3"):
            build(core).load_teacher(request_)

    def test_ctrl_c_is_no_failure_of_a_plugin(
        self, site: Site, build: Callable[..., Registry], request_: TeacherRequest
    ) -> None:
        site.add("linzoo-slow", implement(self.HOOK, "raise KeyboardInterrupt"))
        with pytest.raises(KeyboardInterrupt):
            build().load_teacher(request_)

    def test_errors_of_the_core_pass_unchanged(
        self, site: Site, build: Callable[..., Registry], request_: TeacherRequest
    ) -> None:
        body = "raise CheckpointError('the file is truncated')"
        site.folder.joinpath("own_core.py").write_text(
            "from linzoo.errors import CheckpointError\n" + implement(self.HOOK, body)
        )
        with pytest.raises(CheckpointError, match=r"^the file is truncated$"):
            build("own_core").load_teacher(request_)

    def test_a_wrapper_may_change_the_answer(
        self, site: Site, build: Callable[..., Registry], core: str, request_: TeacherRequest
    ) -> None:
        body = "teacher = yield\n    return LoadedTeacher(pipeline=teacher.pipeline + ', wrapped')"
        site.add("linzoo-wrap", implement(self.HOOK, body, "@hookimpl(wrapper=True)"))
        assert build(core).load_teacher(request_).pipeline == "core model, wrapped"

    def test_a_failing_wrapper_is_named(
        self, site: Site, build: Callable[..., Registry], core: str, request_: TeacherRequest
    ) -> None:
        body = "yield\n    raise ValueError('no')"
        site.add("linzoo-wrap", implement(self.HOOK, body, "@hookimpl(wrapper=True)"))
        with pytest.raises(PluginError, match=r"plugin linzoo-wrap 1\.0 failed"):
            build(core).load_teacher(request_)

    def test_the_wrong_answer_is_refused(
        self, site: Site, build: Callable[..., Registry], request_: TeacherRequest
    ) -> None:
        site.add("linzoo-a", implement(self.HOOK, "return {}"))
        with pytest.raises(
            PluginError, match=r"must return a LoadedTeacher, got a dict \(asked: linzoo-a 1.0\)"
        ):
            build().load_teacher(request_)

    def test_nobody_answers(self, build: Callable[..., Registry], request_: TeacherRequest) -> None:
        with pytest.raises(PluginError, match=r"no plugin loads a teacher from 'model' \(asked: none\)"):
            build().load_teacher(request_)

    def test_calls_are_traced(
        self,
        site: Site,
        build: Callable[..., Registry],
        core: str,
        request_: TeacherRequest,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        registry = build(core, env={"LINZOO_TRACE_PLUGINS": "1"})
        registry.load_teacher(request_)
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith("own_core ")
        assert "linzoo_load_teacher(TeacherRequest(source='model'" in line
        assert "-> LoadedTeacher(pipeline='core model')" in line


class TestCardSections:
    """``linzoo_card_sections``: sorted by order and plugin; who fails loses the sections, with a warning."""

    HOOK = "linzoo_card_sections(card)"

    @pytest.fixture
    def card(self, kolors: Variant) -> Card:
        return Card(checkpoint=Path("out"), variant=kolors, lock={})

    def test_sections_are_sorted_by_order_then_plugin(
        self, site: Site, build: Callable[..., Registry], card: Card
    ) -> None:
        for name, orders in (("linzoo-b", (100, 10)), ("linzoo-a", (100,))):
            text = "\n    ".join(
                f"yield CardSection(title='{name} {order}', markdown='', order={order})" for order in orders
            )
            site.add(name, implement(self.HOOK, text))
        titles = [section.title for section in build().card_sections(card)]
        assert titles == ["linzoo-b 10", "linzoo-a 100", "linzoo-b 100"]

    @pytest.mark.parametrize(
        ("body", "says"),
        [
            ("raise RuntimeError('boom')", "RuntimeError: boom"),
            ("yield CardSection(title='', markdown='')", "SpecError: CardSection.title must not be empty"),
            ("return ['text']", "TypeError: the hook must give CardSection, got 'text'"),
            ("return None", "TypeError: the hook must return an iterable, got None"),
        ],
    )
    def test_who_fails_is_skipped_with_a_warning(
        self, site: Site, build: Callable[..., Registry], card: Card, body: str, says: str
    ) -> None:
        site.add("linzoo-bad", implement(self.HOOK, body))
        site.add(
            "linzoo-good", implement("linzoo_card_sections()", "yield CardSection(title='T', markdown='')")
        )
        with pytest.warns(UserWarning, match=f"without the sections of plugin linzoo-bad 1.0: {says}"):
            sections = build().card_sections(card)
        assert [section.title for section in sections] == ["T"]


class TestDistillCallbacks:
    """``linzoo_distill_callbacks``: asked once; a failure ends the command and names the plugin."""

    HOOK = "linzoo_distill_callbacks(run)"

    @pytest.fixture
    def run(self, kolors: Variant) -> DistillRun:
        return DistillRun(
            variant=kolors, recipe="quick", document={"seed": 0}, teacher="mini", output=Path("out"), steps=3
        )

    def test_callbacks_of_all_plugins_in_the_order_of_their_names(
        self, site: Site, build: Callable[..., Registry], run: DistillRun
    ) -> None:
        site.add(
            "linzoo-b",
            implement(
                self.HOOK, "return [lambda step: step.losses['seen'].append(run.teacher + str(step.step))]"
            ),
        )
        site.add("linzoo-a", implement(self.HOOK, "return [lambda step: step.losses['seen'].append('a')]"))
        seen: list[str] = []
        for callback in build().distill_callbacks(run):
            callback(DistillStep(step=2, losses={"seen": seen}))
        assert seen == ["a", "mini2"]

    def test_a_callback_that_fails_later_names_the_plugin(
        self, site: Site, build: Callable[..., Registry], run: DistillRun
    ) -> None:
        site.add("linzoo-bad", implement(self.HOOK, "return [lambda step: step.losses['mse']]"))
        [callback] = build().distill_callbacks(run)
        with pytest.raises(
            PluginError, match=r"plugin linzoo-bad 1\.0 failed in a callback of .*KeyError: 'mse'"
        ):
            callback(DistillStep(step=1, losses={}))

    @pytest.mark.parametrize(
        ("body", "says"),
        [
            ("raise OSError('disk full')", "OSError: disk full"),
            ("return [1]", "TypeError: .*Callable, got 1"),
        ],
    )
    def test_a_failure_names_the_plugin(
        self, site: Site, build: Callable[..., Registry], run: DistillRun, body: str, says: str
    ) -> None:
        site.add("linzoo-bad", implement(self.HOOK, body))
        with pytest.raises(
            PluginError, match=f"plugin linzoo-bad 1.0 failed in linzoo_distill_callbacks: {says}"
        ):
            build().distill_callbacks(run)


class TestBeforePush:
    """``linzoo_before_push``: a veto stops the push, and so does any failure."""

    HOOK = "linzoo_before_push(plan)"

    @pytest.fixture
    def plan(self, kolors: Variant) -> PushPlan:
        return PushPlan(
            repo="me/kolors", checkpoint=Path("out"), files=(), variant=kolors, private=False, license=None
        )

    def test_no_objection(
        self, site: Site, build: Callable[..., Registry], plan: PushPlan, capfd: pytest.CaptureFixture[str]
    ) -> None:
        site.add("linzoo-fine", implement(self.HOOK, "print(plan.repo)"))
        build().before_push(plan)
        assert capfd.readouterr().out == "me/kolors\n"

    def test_a_veto(self, site: Site, build: Callable[..., Registry], plan: PushPlan) -> None:
        site.add("linzoo-legal", implement(self.HOOK, "if plan.license is None: raise Veto('no licence')"))
        with pytest.raises(PluginError) as caught:
            build().before_push(plan)
        assert str(caught.value) == "plugin linzoo-legal 1.0 stops the push to 'me/kolors': no licence"

    @pytest.mark.parametrize(
        "failure", ["RuntimeError('boom')", "SystemExit('boom')", "BaseException('boom')"]
    )
    def test_it_fails_closed(
        self, site: Site, build: Callable[..., Registry], plan: PushPlan, failure: str
    ) -> None:
        site.add("linzoo-bad", implement(self.HOOK, f"raise {failure}"))
        with pytest.raises(
            PluginError, match=r"nothing is pushed to 'me/kolors', since plugin linzoo-bad 1.0 .*boom"
        ):
            build().before_push(plan)


def test_an_optional_hook_of_another_version_is_passed_over(
    site: Site, build: Callable[..., Registry]
) -> None:
    body = implement("linzoo_of_tomorrow()", "return []", "@hookimpl(optionalhook=True)")
    site.add("linzoo-a", body + "@hookimpl\ndef linzoo_checks(): return []\n")
    (status,) = build().plugins
    assert (status.state, status.hooks) == ("ok", ("linzoo_checks",))


def test_a_hook_may_have_a_name_of_its_own(site: Site, build: Callable[..., Registry]) -> None:
    body = implement(
        "mine()", "yield Mixer(id='gla', module=None, tensors=None)", "@hookimpl(specname='linzoo_mixers')"
    )
    site.add("linzoo-a", body)
    assert build().mixers["gla"].plugin.hooks == ("linzoo_mixers",)
