"""Checks of plugins: gates that stop, failures that take no other along, and whose bar counts."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from sabotage import copy_of, put, rewrite
from validating import BUILT_IN, SMALL, TINY, Extend, Validate, Watched, measures, registry_with, reported
from zoo import PLUGIN

import linzoo
from linzoo.checkpoints.lock import LOCK_NAME
from linzoo.distillation.recipe import Recipe
from linzoo.errors import UsageError
from linzoo.registry import Registry

# Gates and plugins


def test_a_gate_that_falls_leaves_out_the_rest(zoo: Registry, linfusion: Path, tmp_path: Path) -> None:
    spoiled = copy_of(linfusion, tmp_path / "spoiled")
    rewrite(spoiled, put("2.to_v.weight", math.nan))
    report = tmp_path / "report"
    result = linzoo.validate(spoiled, "tiny", suite="quality", report=report, registry=zoo, **SMALL)
    found = measures(result)
    assert [name for name, each in found.items() if each.verdict != "skipped"] == [
        "misfits",
        "tensors",
        "not-finite",
    ]
    [culprit] = found["not-finite"].measure.culprits
    assert culprit.endswith("attn1.to_v.weight")
    assert found["kd"].measure.skipped == "not measured, since 'not-finite' failed"
    assert set(reported(report)["counts"].items()) == {
        ("passed", 2), ("failed", 1), ("measured", 0), ("skipped", len(found) - 3)
    }  # fmt: skip
    assert not (report / "pictures").exists()


def test_a_plugins_gate_stops_too(extend: Extend, check: Validate, opened: list[Watched]) -> None:
    gate = {"run": "out_of_reach", "gate": True, "measures": ("out-of-reach",)}
    found = measures(check(extend({"z-gate": gate, "half": {"run": "half"}, "draws": {"run": "draws"}})))
    assert {name: each.verdict for name, each in found.items()} == {
        "out-of-reach": "failed", "half": "skipped", "draws": "skipped"
    }  # fmt: skip
    assert found["half"].measure.skipped == "not measured, since 'out-of-reach' failed"
    assert opened == []


@pytest.mark.parametrize(
    ("run", "says"),
    [
        ("raises", "OSError: the moon is in the way"),
        ("gives_numbers", "declares the measures one, other and gave 0.5"),
        ("gives_nothing", "declares the measures one, other and gave none"),
        ("half", "declares the measures one, other and gave half"),
        ("nowhere", "nowhere"),
    ],
)
def test_a_plugins_check_that_fails_takes_no_other_along(
    extend: Extend, check: Validate, run: str, says: str
) -> None:
    guilty = {"run": run, "measures": ("one", "other"), "summary": "Guilty."}
    result = check(extend({"a-guilty-one": guilty, "half": {"run": "half"}}))
    found = measures(result)
    assert {name: each.verdict for name, each in found.items()} == {
        "one": "failed", "other": "failed", "half": "passed"
    }  # fmt: skip
    for name in ("one", "other"):
        detail = found[name].measure.detail
        assert detail.startswith("the check of plugin extra")
        assert says in detail
    assert result.to_json()["measures"][0]["value"] is None
    assert result.verdict == "failed"


def test_what_a_check_leaves_mounted_is_taken_out(
    zoo: Registry, tmp_path: Path, check: Validate, opened: list[Watched]
) -> None:
    checks = {"a-forgetful-one": {"run": "forgets_to_unload"}}
    found = measures(check(registry_with(tmp_path, checks, BUILT_IN)))
    assert "and gone" in found["a-forgetful-one"].measure.detail
    assert [name for name, each in found.items() if each.verdict == "failed"] == ["a-forgetful-one"]
    assert not any("Mounted" in type(module).__name__ for module in opened[0].unet.modules())


def test_a_value_that_is_no_number_fails_whatever_the_bar(extend: Extend, check: Validate) -> None:
    result = check(extend({"not-a-number": {"run": "not_a_number"}}))
    assert result["not-a-number"].verdict == "failed"


def test_a_built_in_check_that_fails_is_an_error(
    zoo: Registry, linfusion: Path, check: Validate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("linzoo.validation.checks.structure.misfits", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        check(zoo)


# Bars


def with_bars(checkpoint: Path, folder: Path, **bars: float) -> Path:
    """A checkpoint whose distill recipe names bars."""
    recipe = Recipe.model_validate(
        {
            "schema_version": 1, "name": "own", "variant": "tiny", "distill": {"steps": 1, "batch": 1},
            "data": {"source": "linzoo_recipes:prompts/general.txt"}, "validation": {"bars": bars},
        }
    )  # fmt: skip
    copied = copy_of(checkpoint, folder)
    lock = {
        "lock_version": 1, "outputs": {},
        "distill": {"recipe": {"document": recipe.model_dump(mode="json")}},
    }  # fmt: skip
    (copied / LOCK_NAME).write_text(json.dumps(lock))
    return copied


def test_the_user_goes_before_recipe_variant_and_measure(
    zoo: Registry, linfusion: Path, tmp_path: Path
) -> None:
    barred = tmp_path / "barred_tiny.py"
    barred.write_text(PLUGIN.replace("default_plan=", "bars={'half': 0.4}, default_plan="))
    checks = {"half": {"run": "half"}}
    plain = registry_with(tmp_path, checks)
    variant = registry_with(tmp_path, checks, TINY[1:], [barred])
    own = f"plugin {plain.checks['half'].plugin.label}"
    distilled = with_bars(linfusion, tmp_path / "distilled", half=0.25)
    for registry, checkpoint, bars, expected in (
        (plain, linfusion, {}, (1.0, own, "passed")),
        (plain, linfusion, {"half": 0.5}, (0.5, "--bar", "passed")),
        (variant, linfusion, {}, (0.4, "variant tiny", "failed")),
        (variant, distilled, {}, (0.25, "distill recipe", "failed")),
        (variant, distilled, {"half": 0.75}, (0.75, "--bar", "passed")),
    ):
        found = linzoo.validate(checkpoint, "tiny", device="cpu", registry=registry, bars=bars)["half"]
        assert (found.bar, found.bar_from, found.verdict) == expected


def test_a_bar_for_nothing_is_refused_before_anything_is_opened(
    extend: Extend, check: Validate, opened: list[Watched]
) -> None:
    with pytest.raises(
        UsageError, match="--bar hal: suite 'quick' does not measure that; did you mean 'half'"
    ):
        check(extend({"half": {"run": "half"}}), bars={"hal": 1.0})
    assert opened == []


def test_an_endless_bar_is_no_number_in_a_report(extend: Extend, check: Validate, tmp_path: Path) -> None:
    check(extend({"half": {"run": "half"}}), bars={"half": math.inf}, report=tmp_path / "report")
    document = reported(tmp_path / "report")
    assert document["measures"][0]["bar"] is None
    assert document["measures"][0]["verdict"] == "passed"
