"""What goes wrong with checkpoints is found, and named: the layer, the tensor or the setting."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sabotage
import torch
from sabotage import Tensors, copy_of, edit_config, edit_lock, layer_names, rewrite

import linzoo
from linzoo.checkpoints.linfusion import WEIGHTS_NAME
from linzoo.checkpoints.lock import LOCK_NAME
from linzoo.errors import CheckpointError
from linzoo.plugin import Resource
from linzoo.registry import Registry, build_registry
from linzoo.validation.result import ValidationResult

DISTILLED = Resource("linzoo_mini", "weights/linfusion").locate()
TEACHER = Resource("linzoo_mini", "weights/teacher").locate()
LAYERS = layer_names(DISTILLED)
BARS = build_registry(entry_points=False, env={}).variants["mini"].value.bars
SMALL = {"images": 4, "steps": 4}

Validate = Callable[..., ValidationResult]

WRONG_EPS = """
import torch
from linzoo.attention.generalized_linear import GeneralizedLinearAttention
from linzoo.plugin import LazyRef, Mixer, hookimpl

class WrongEps(GeneralizedLinearAttention):
    def mix(self, x, key_weights):
        q, k = (
            torch.nn.functional.elu(project(x + branch(x))) + 1
            for project, branch in ((self.to_q, self.to_q_), (self.to_k, self.to_k_))
        )
        q, k, v = (each.unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in (q, k, self.to_v(x)))
        z = q @ k.mean(-2, keepdim=True).transpose(-2, -1)
        return (q @ (k.transpose(-2, -1) @ v) / x.shape[1] / (z + 1.0)).transpose(1, 2).flatten(2)

@hookimpl
def linzoo_mixers():
    yield Mixer(
        id="wrong-eps",
        module=LazyRef("wrong_eps:WrongEps"),
        tensors=LazyRef("linzoo.attention.layout:generalized_linear_tensors"),
    )
"""


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The shipped plugins, and one with a mixer of another eps."""
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "wrong_eps.py").write_text(WRONG_EPS)
    sys.path.insert(0, str(folder))
    yield build_registry(entry_points=False, env={}, paths=(folder / "wrong_eps.py",))
    sys.path.remove(str(folder))
    sys.modules.pop("wrong_eps", None)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all, so that the teacher draws once."""
    return tmp_path_factory.mktemp("report")


@pytest.fixture
def spoiled(tmp_path: Path) -> Path:
    return copy_of(DISTILLED, tmp_path / "spoiled")


@pytest.fixture
def quality(registry: Registry, report: Path) -> Validate:
    def run(checkpoint: Path, teacher: str | Path = "mini", **wishes: Any) -> ValidationResult:
        options = {"suite": "quality", "report": report, **SMALL, **wishes}
        return linzoo.validate(checkpoint, teacher, device="cpu", registry=registry, **options)

    return run


@pytest.fixture
def quick(registry: Registry) -> Validate:
    def run(checkpoint: Path, teacher: str | Path = "mini", **wishes: Any) -> ValidationResult:
        return linzoo.validate(checkpoint, teacher, device="cpu", registry=registry, **wishes)

    return run


def failures(result: ValidationResult) -> dict[str, tuple[str, ...]]:
    """The measures whose bars fell, with their culprits."""
    return {each.measure.name: each.measure.culprits for each in result.failed}


def test_the_distilled_checkpoint_passes(quality: Validate) -> None:
    result = quality(DISTILLED, images=8, steps=12)
    assert failures(result) == {}
    assert result.verdict == "passed"
    assert {name for name in BARS if result[name].verdict != "passed"} == set()


@pytest.mark.parametrize(
    ("change", "layers"),
    [
        (sabotage.zero(0), [0]),
        (sabotage.zero(9), [9]),
        (sabotage.swap_q_and_k(5), [5]),
        (sabotage.permute(7, 8), [7, 8]),
        (sabotage.permute(2, 4), [2, 4]),
        (sabotage.randomize(3), [3]),
        (sabotage.scale("6.to_v.weight", 1.6), [6]),
        (sabotage.scale("1.to_out.0.weight", 0.5), [1]),
    ],
    ids=[
        "zeroed",
        "zeroed in the middle",
        "q and k swapped",
        "permuted",
        "permuted below",
        "random",
        "v",
        "out",
    ],
)
def test_a_layer_that_computes_something_else_is_named(
    spoiled: Path, quality: Validate, change: Callable[[Tensors], None], layers: list[int]
) -> None:
    rewrite(spoiled, change)
    (spoiled / LOCK_NAME).unlink()  # so that the changed file alone does not tell
    found = failures(quality(spoiled))
    named = found["attention-error"][: len(layers)]
    assert set(named) == {LAYERS[layer] for layer in layers}
    assert found.keys() <= {"row-sums", *BARS}  # and nothing of what headers and files tell


def test_one_that_was_not_distilled_fails_by_its_pictures(tmp_path: Path, quality: Validate) -> None:
    linzoo.convert("mini", tmp_path / "converted")
    found = failures(quality(tmp_path / "converted"))
    assert set(BARS) <= set(found)


def test_another_eps_is_seen_in_the_rows(spoiled: Path, quick: Validate) -> None:
    edit_config(spoiled, lambda config: config["modules_list"][0].update(mixer="wrong-eps", options={}))
    result = quick(spoiled)
    assert failures(result)["row-sums"] == (LAYERS[0],)
    assert result["unofficial-modules"].measure.culprits == (LAYERS[0],)


def test_another_prediction_type_than_it_was_made_for(spoiled: Path, quick: Validate) -> None:
    edit_lock(spoiled, lambda lock: lock["detection"].update(prediction_type="v_prediction"))
    assert failures(quick(spoiled)) == {
        "settings": ("prediction_type: made for v_prediction, used with epsilon",)
    }


def test_a_teacher_whose_scheduler_says_another_prediction_type(tmp_path: Path, quality: Validate) -> None:
    teacher = Path(shutil.copytree(TEACHER, tmp_path / "teacher"))
    sabotage.rewrite_json(
        teacher / "scheduler" / "scheduler_config.json",
        lambda config: config.update(prediction_type="v_prediction"),
    )
    found = failures(quality(DISTILLED, teacher, variant="mini", prediction_type="v_prediction"))
    assert found["settings"] == ("prediction_type: made for epsilon, used with v_prediction",)
    assert found["prediction-type"] == ("prediction_type: said to be v_prediction, and it predicts epsilon",)


def test_a_teacher_of_another_variant(zoo: Registry) -> None:
    result = linzoo.validate(DISTILLED, "tiny", device="cpu", registry=zoo)
    assert set(failures(result)) == {"misfits"}
    assert set(LAYERS[1:]) <= set(result["misfits"].measure.culprits)
    assert {each.verdict for each in result.judged if each.check not in ("structure",)} == {"skipped"}
    assert result["row-sums"].measure.skipped == "not measured, since 'misfits' failed"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite(spoiled: Path, quick: Validate, value: float) -> None:
    rewrite(spoiled, sabotage.put("3.to_k_.0.weight", value))
    assert failures(quick(spoiled)) == {"not-finite": (f"{LAYERS[3]}.to_k_.0.weight",)}


def test_finite_weights_that_overflow(spoiled: Path, quick: Validate) -> None:
    rewrite(spoiled, sabotage.scale("5.to_v.weight", 1e4))
    rewrite(spoiled, sabotage.scale("5.to_out.0.weight", 1e4))
    result = quick(spoiled, dtype="float16")
    assert "overflows" in failures(result)
    assert result["overflows"].measure.culprits


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_tensors_that_hold_other_numbers(spoiled: Path, quick: Validate, dtype: torch.dtype) -> None:
    rewrite(spoiled, sabotage.cast("2.to_q.weight", dtype))
    assert failures(quick(spoiled)) == {"tensors": (f"{LAYERS[2]}.to_q.weight: not floating-point numbers",)}


def test_it_was_trained_at_another_size(quality: Validate, spoiled: Path) -> None:
    found = failures(quality(spoiled, size=(256, 192), images=2, steps=2))
    assert found["settings"] == ("size: trained at 128x128, used at 256x192 pixels",)


def test_a_missing_and_an_unknown_tensor(spoiled: Path, quick: Validate) -> None:
    def rename(tensors: Tensors) -> None:
        tensors["6.to_kay.weight"] = tensors.pop("6.to_k.weight")

    rewrite(spoiled, rename)
    assert failures(quick(spoiled)) == {
        "tensors": (
            f"{LAYERS[6]}.to_k.weight: missing",
            f"{LAYERS[6]}.to_kay.weight: not announced by config.json",
        )
    }


def test_another_number_of_heads(spoiled: Path, quick: Validate) -> None:
    edit_config(spoiled, lambda config: config["modules_list"][2].update(heads=4))
    result = quick(spoiled)
    assert failures(result) == {"misfits": (LAYERS[2],)}
    assert (
        "with 4 heads, and the teacher has one of width 88 with 2 heads" in result["misfits"].measure.detail
    )


def test_mixed_precision(spoiled: Path, quick: Validate) -> None:
    rewrite(spoiled, sabotage.cast("8.to_out.0.bias", torch.float32))
    found = failures(quick(spoiled))
    assert found["dtypes"] == (f"{LAYERS[8]}.to_out.0.bias",)
    assert found["files"] == (WEIGHTS_NAME,)


def test_a_file_that_is_cut(spoiled: Path, quick: Validate) -> None:
    weights = spoiled / WEIGHTS_NAME
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=WEIGHTS_NAME):
        quick(spoiled)
