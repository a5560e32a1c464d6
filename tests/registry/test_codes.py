"""Every LZP code, word for word."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from dists import HEAD, Site, mixer, variant, variants

from linzoo._version import __version__
from linzoo.errors import PluginError
from linzoo.plugin import LazyRef
from linzoo.registry import Registry
from linzoo.registry.problems import CODES

PLUGIN = "linzoo-kolors"


@dataclass(frozen=True)
class Case:
    """A plugin (and what else is installed), and what is said about it; SITE is the folder it lies in."""

    body: str
    says: str
    requires: tuple[str, ...] = ()
    others: tuple[tuple[str, str], ...] = ()
    builtins: tuple[str, ...] = ()


def hook(text: str, name: str = "linzoo_mixers") -> str:
    return HEAD + f"@hookimpl\ndef {name}():\n    {text}\n"


CASES = {
    "LZP101": Case(
        "import no_such_module\n",
        """
        error[LZP101] linzoo-kolors 1.0: cannot be imported: ModuleNotFoundError: No module named 'no_such_module'
          --> SITE/linzoo_kolors.py:1
          repair or uninstall it; LINZOO_DISABLE_PLUGINS=linzoo-kolors leaves it out
        """,
    ),
    "LZP102": Case(
        "raise SystemExit(3)\n",
        """
        error[LZP102] linzoo-kolors 1.0: ends the program while it is loaded (SystemExit: 3)
          --> SITE/linzoo_kolors.py:1
          repair or uninstall it; LINZOO_DISABLE_PLUGINS=linzoo-kolors leaves it out
        """,
    ),
    "LZP103": Case(
        "from linzoo.plugin import Flux\n",
        f"""
        error[LZP103] linzoo-kolors 1.0: needs linzoo>=99, and this is linzoo {__version__}: cannot be imported: ImportError: cannot import name 'Flux' from 'linzoo.plugin' (LINZOO/plugin/__init__.py)
          --> SITE/linzoo_kolors.py:1
          pip install --upgrade linzoo linzoo-kolors
        """,
        requires=("packaging", "linzoo[train]>=99"),
    ),
    "LZP104": Case(
        "import triton\n" + mixer("kolors"),
        """
        warning[LZP104] linzoo-kolors 1.0: imports triton when it is loaded, which every command waits for
          import it inside the functions that need it, and name classes by LazyRef
        """,
    ),
    "LZP201": Case(
        "variants = []\n",
        """
        error[LZP201] linzoo-kolors 1.0: implements no hook
          --> SITE/linzoo_kolors.py
          mark at least one function with @hookimpl (all hooks: linzoo plugins hooks)
        """,
    ),
    "LZP202": Case(
        mixer("kolors") + "def linzoo_variants(): return []\n",
        """
        error[LZP202] linzoo-kolors 1.0: function 'linzoo_variants' lacks @hookimpl and would never be called
          --> SITE/linzoo_kolors.py:5
          write @hookimpl above it, or give it a name that does not start with 'linzoo_'
        """,
    ),
    "LZP203": Case(
        hook("return []", "linzoo_variant"),
        """
        error[LZP203] linzoo-kolors 1.0: hook 'linzoo_variant' does not exist
          --> SITE/linzoo_kolors.py:2
          did you mean 'linzoo_variants'?  (all hooks: linzoo plugins hooks)
        """,
    ),
    "LZP204": Case(
        HEAD + "@hookimpl\ndef linzoo_load_teacher(request, device): return None\n",
        """
        error[LZP204] linzoo-kolors 1.0: hook 'linzoo_load_teacher' has no argument 'device'
          --> SITE/linzoo_kolors.py:2
          its signature is linzoo_load_teacher(request)
        """,
    ),
    "LZP205": Case(
        HEAD + "@hookimpl(wrapper=True)\ndef linzoo_before_push(plan):\n    return (yield)\n",
        """
        error[LZP205] linzoo-kolors 1.0: hook 'linzoo_before_push' cannot be wrapped like this
          --> SITE/linzoo_kolors.py:2
          only linzoo_load_teacher takes a wrapper, and that is a generator function with one yield
        """,
    ),
    "LZP206": Case(
        "import sys, linzoo_a\nsys.modules[__name__] = linzoo_a\n",
        """
        error[LZP206] linzoo-kolors 1.0: is the same object as plugin 'linzoo-a:a'
          --> SITE/linzoo_a.py
          let only one entry point name it
        """,
        others=(("linzoo-a", mixer("a")),),
    ),
    "LZP301": Case(
        hook("return Mixer(id='x', module=None, tensors=None)"),
        """
        error[LZP301] linzoo-kolors 1.0: hook 'linzoo_mixers' must return an iterable of Mixer, got a Mixer
          --> SITE/linzoo_kolors.py:2
          return a list, or yield each Mixer
        """,
    ),
    "LZP302": Case(
        hook("return ['gla']"),
        """
        error[LZP302] linzoo-kolors 1.0: hook 'linzoo_mixers' must give Mixer, got 'gla' as item 0
          --> SITE/linzoo_kolors.py:2
          every item must be a linzoo.plugin.Mixer
        """,
    ),
    "LZP303": Case(
        hook("yield Mixer(id='My GLA', module=None, tensors=None)"),
        """
        error[LZP303] linzoo-kolors 1.0: in 'linzoo_mixers': Mixer.id must be lower-case words joined by '.', '_' or '-', got 'My GLA'
          --> SITE/linzoo_kolors.py:4
          an id looks like 'sd15', 'dreamshaper-8' or 'generalized-linear'
        """,
    ),
    "LZP304": Case(
        hook("return [Mixer(id='gla', module=None, tensors=None)] * 2"),
        """
        error[LZP304] linzoo-kolors 1.0: hook 'linzoo_mixers' gives the id 'gla' twice
          --> SITE/linzoo_kolors.py:2
          every Mixer of a plugin needs an id of its own
        """,
    ),
    "LZP305": Case(
        hook("yield Mixer(id='gla', module=LazyRef('my_gla.GLA'), tensors=None)"),
        """
        error[LZP305] linzoo-kolors 1.0: in 'linzoo_mixers': LazyRef.target must be of the form 'package.module:Name', got 'my_gla.GLA'
          --> SITE/linzoo_kolors.py:4
          write it as in LazyRef('linzoo_kolors.model:Kolors')
        """,
    ),
    "LZP306": Case(
        hook("yield Mixer(id='gla', module=None, tensors=None, options={'heads': {1}})"),
        """
        error[LZP306] linzoo-kolors 1.0: in 'linzoo_mixers': Mixer.options['heads'] must be plain data (None, bool, int, finite float, str, list, dict), got {1}
          --> SITE/linzoo_kolors.py:4
          write settings as dicts, lists, strings and numbers, and name objects by LazyRef
        """,
    ),
    "LZP307": Case(
        HEAD + "PLAN = AttentionPlan(id='a', variant='a', rules=(), expect_replaced=16)\n",
        """
        error[LZP307] linzoo-kolors 1.0: in 'import': AttentionPlan.rules must not be empty
          --> SITE/linzoo_kolors.py:2
          help('linzoo.plugin') describes every field
        """,
    ),
    "LZP308": Case(
        hook("yield Mixer(id='gla', module=None, tensors=None); raise RuntimeError('halfway')"),
        """
        error[LZP308] linzoo-kolors 1.0: hook 'linzoo_mixers' fails: RuntimeError: halfway
          --> SITE/linzoo_kolors.py:4
          the traceback: linzoo plugins show linzoo-kolors -v
        """,
    ),
    "LZP401": Case(
        variants(variant("kolors", refines="tinny")),
        """
        error[LZP401] linzoo-kolors 1.0: variant 'kolors' names the variant 'tinny', which no plugin provides
          did you mean 'tiny'?
        """,
        others=(("linzoo-tiny", variants(variant("tiny"))),),
        builtins=("linzoo_mixers",),
    ),
    "LZP402": Case(
        variants(variant("a", refines="b"), variant("b", before=("c",)), variant("c", before=("a",))),
        """
        error[LZP402] linzoo-kolors 1.0: the variants 'a' -> 'b' -> 'c' -> 'a' refine or precede each other in a circle
          take one of these references out
        """,
        builtins=("linzoo_mixers",),
    ),
    "LZP403": Case(
        mixer("gla"),
        """
        warning[LZP403] linzoo-kolors 1.0: the mixer 'gla' is provided by linzoo-a 1.0 too
          use the full name 'linzoo-kolors::gla'
        """,
        others=(("linzoo-a", mixer("gla")),),
    ),
}


@pytest.mark.parametrize("code", CASES)
def test_problem_is_told_word_for_word(
    site: Site, build: Callable[..., Registry], code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = install(code, site, monkeypatch)
    status = build(*case.builtins).plugins_called(PLUGIN)[0]
    (problem,) = status.problems
    assert tidy(problem.render(), site) == textwrap.dedent(case.says).strip()
    assert problem.code == code
    assert status.state == ("broken" if CODES[code].severity == "error" else "ok")
    assert status.problem == f"{problem.message} [{code}]"


@pytest.mark.parametrize("code", CASES)
def test_strict_makes_every_problem_an_error(
    site: Site, build: Callable[..., Registry], code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = install(code, site, monkeypatch)
    with pytest.raises(PluginError, match=rf"^\w+\[{code}\]"):
        build(*case.builtins, env={"LINZOO_STRICT_PLUGINS": "1"})


def test_lazy_reference_that_fails_when_used_is_told_word_for_word() -> None:
    ref = LazyRef("linzoo_nowhere.model:Kolors", hint="pip install linzoo-nowhere")
    with pytest.raises(PluginError) as caught:
        ref.load()
    assert str(caught.value) == (
        "cannot load 'linzoo_nowhere.model:Kolors': ModuleNotFoundError: No module named 'linzoo_nowhere' [LZP501]\n"
        "  pip install linzoo-nowhere"
    )
    words = {"target": ref.target, "cause": "ModuleNotFoundError: No module named 'linzoo_nowhere'"}
    assert str(caught.value).startswith(CODES["LZP501"].message.format(**words))


def test_every_code_is_tested() -> None:
    assert set(CASES) | {"LZP501"} == set(CODES)


def install(code: str, site: Site, monkeypatch: pytest.MonkeyPatch) -> Case:
    case = CASES[code]
    for name, body in case.others:
        site.add(name, body)
    site.add(PLUGIN, case.body, requires=case.requires)
    if "import triton" in case.body:
        site.folder.joinpath("triton.py").write_text("")
        for name in [name for name in sys.modules if name.split(".")[0] == "triton"]:
            monkeypatch.delitem(sys.modules, name)
    return case


def tidy(text: str, site: Site) -> str:
    import linzoo

    return text.replace(str(site.folder), "SITE").replace(linzoo.__path__[0], "LINZOO")
