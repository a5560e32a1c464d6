"""Starting from published LinFusion weights: as they are, or with a fine-tune's changes carried over."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from linzoo.checkpoints.lock import read_lock
from linzoo.errors import CheckpointError
from linzoo.init.basis import carry_over
from linzoo.init.convert import convert
from linzoo.init.kinship import LEAST_BASIS, MOST_CHANGE, Kinship, Similarity
from tests.init.toys import Arrays, read_result, toy_registry, toy_unet, tuned, write_ldm

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def base() -> Arrays:
    return toy_unet()


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory, base: Arrays) -> Path:
    """``base``, a fine-tune ``tune``, an ``unrelated`` model, and ``linear``: weights distilled from a teacher start."""
    folder = tmp_path_factory.mktemp("zoo")
    write_ldm(folder / "base.safetensors", base)
    write_ldm(folder / "tune.safetensors", tuned(base))
    write_ldm(folder / "unrelated.safetensors", toy_unet(seed=9))
    run(folder / "base.safetensors", folder / "linear", init="teacher")
    trained = tuned(load_file(folder / "linear" / WEIGHTS), amount=0.3, seed=5)
    save_file(trained, folder / "linear" / WEIGHTS, {"format": "pt"})
    run(folder / "base.safetensors", folder / "from-random", init="random")
    return folder


def run(source: Path, out: Path, **options: object) -> Path:
    convert(source, out, registry=toy_registry(), **options)  # type: ignore[arg-type]
    return out


def delta(zoo: Path, out: Path, source: str = "tune", **options: object) -> Path:
    options = {"linfusion": zoo / "linear", "base": zoo / "base.safetensors"} | options
    return run(zoo / f"{source}.safetensors", out, init="delta", **options)


def damaged(zoo: Path, tmp_path: Path, change: Callable[[dict, Arrays], object]) -> Path:
    """A copy of the published weights with a change of config and tensors, and without a lock file."""
    folder = tmp_path / "damaged"
    shutil.copytree(zoo / "linear", folder)
    (folder / "linzoo.lock.json").unlink()
    config, tensors = json.loads((folder / "config.json").read_text()), load_file(folder / WEIGHTS)
    change(config, tensors)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})
    return folder


# --- pretrained


def test_pretrained_takes_the_weights_as_they_are(zoo: Path, tmp_path: Path) -> None:
    out = run(zoo / "tune.safetensors", tmp_path / "out", init="pretrained", linfusion=zoo / "linear")
    assert (out / WEIGHTS).read_bytes() == (zoo / "linear" / WEIGHTS).read_bytes()
    assert (out / "config.json").read_bytes() == (zoo / "linear" / "config.json").read_bytes()
    lock = read_lock(out)
    assert lock is not None
    assert lock["tensors"]["3.to_k_.0.bias"]["sources"] == ["linfusion:3.to_k_.0.bias"]
    assert set(lock["linfusion"]["files"]) == {"config.json", WEIGHTS}


def test_pretrained_follows_the_names_and_not_the_places(zoo: Path, tmp_path: Path) -> None:
    def turn_round(config: dict, tensors: Arrays) -> None:
        config["modules_list"].reverse()
        turned = {
            f"{6 - int(name.split('.')[0])}.{name.split('.', 1)[1]}": each for name, each in tensors.items()
        }
        tensors.clear()
        tensors.update(turned)

    other = damaged(zoo, tmp_path, turn_round)
    out = run(zoo / "tune.safetensors", tmp_path / "out", init="pretrained", linfusion=other)
    assert (out / WEIGHTS).read_bytes() == (zoo / "linear" / WEIGHTS).read_bytes()


def test_pretrained_takes_over_the_width_of_the_branches(zoo: Path, tmp_path: Path) -> None:
    narrow = run(zoo / "base.safetensors", tmp_path / "narrow", plan="toy-narrow")
    out = run(zoo / "tune.safetensors", tmp_path / "out", init="pretrained", linfusion=narrow)
    assert read_result(out)[0] == read_result(narrow)[0]


def test_pretrained_leaves_out_what_the_plan_keeps(zoo: Path, tmp_path: Path) -> None:
    out = run(
        zoo / "tune.safetensors",
        tmp_path / "out",
        init="pretrained",
        linfusion=zoo / "linear",
        plan="toy-hybrid",
    )
    modules, tensors = read_result(out)
    assert len(modules) == 6
    published = load_file(zoo / "linear" / WEIGHTS)
    assert all((published[name] == tensors[name]).all() for name in tensors)


def drop_tensor(config: dict, tensors: Arrays) -> None:
    del tensors["2.to_k_.1.bias"]


def resize_tensor(config: dict, tensors: Arrays) -> None:
    tensors["2.to_q.weight"] = tensors["2.to_q.weight"][:-1]


def rename_module(config: dict, tensors: Arrays) -> None:
    config["modules_list"][0]["module_name"] = "down_blocks.7.attentions.0.transformer_blocks.0.attn1"


def change_heads(config: dict, tensors: Arrays) -> None:
    config["modules_list"][0]["heads"] = 8


def drop_module(config: dict, tensors: Arrays) -> None:
    config["modules_list"].pop()


def other_mixer(config: dict, tensors: Arrays) -> None:
    config["modules_list"][0]["mixer"] = "mamba2"


def no_list(config: dict, tensors: Arrays) -> None:
    del config["modules_list"]


def with_nan(config: dict, tensors: Arrays) -> None:
    tensors["1.to_v.weight"][3, 3] = np.nan


def as_integers(config: dict, tensors: Arrays) -> None:
    tensors["1.to_v.weight"] = tensors["1.to_v.weight"].astype(np.int8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_tensor, r"tensor '2.to_k_.1.bias' is missing, which its config.json promises"),
        (resize_tensor, r"tensor '2.to_q.weight' has shape \[63, 64\], but the UNet needs \[64, 64\]"),
        (rename_module, "made for another UNet: the source has no module 'down_blocks.7"),
        (change_heads, "with 8 heads, but the source needs generalized-linear of width 32 with 4 heads"),
        (drop_module, "holds no weights for 'mid_block"),
        (other_mixer, "is mamba2 of width 32"),
        (no_list, "no LinFusion checkpoint"),
        (with_nan, "'1.to_v.weight' holds 1 values that are NaN"),
        (as_integers, "'1.to_v.weight' is I8"),
    ],
)
@pytest.mark.parametrize("init", ["pretrained", "delta"])
def test_damaged_published_weights(
    zoo: Path, tmp_path: Path, change: Callable[[dict, Arrays], object], message: str, init: str
) -> None:
    folder = damaged(zoo, tmp_path, change)
    options: dict = {"init": init, "linfusion": folder}
    if init == "delta":
        options["base"] = zoo / "base.safetensors"
    with pytest.raises(CheckpointError, match=message):
        run(zoo / "tune.safetensors", tmp_path / "out", **options)
    assert [each.name for each in tmp_path.iterdir()] == ["damaged"]


def test_weights_of_another_variant(zoo: Path, tmp_path: Path) -> None:
    other = write_ldm(tmp_path / "other.safetensors", toy_unet("toy-either"), "toy-either")
    with pytest.raises(CheckpointError, match="made for variant 'toy', but the source is 'toy-either'"):
        run(other, tmp_path / "out", init="pretrained", linfusion=zoo / "linear", prediction_type="epsilon")


@pytest.mark.parametrize("detection", [None, [], "toy"])
def test_a_damaged_lock_file_is_named(zoo: Path, tmp_path: Path, detection: object) -> None:
    linear = Path(shutil.copytree(zoo / "linear", tmp_path / "linear"))
    lock = json.loads((linear / "linzoo.lock.json").read_text())
    (linear / "linzoo.lock.json").write_text(json.dumps({**lock, "detection": detection}))
    with pytest.raises(
        CheckpointError, match=r"linear/linzoo\.lock\.json: no lock file of linzoo, or a damaged one"
    ):
        run(zoo / "tune.safetensors", tmp_path / "out", init="pretrained", linfusion=linear)


@pytest.mark.parametrize("detection", [{}, {"variant": None}])
def test_a_lock_file_that_names_no_variant_says_nothing(zoo: Path, tmp_path: Path, detection: object) -> None:
    linear = Path(shutil.copytree(zoo / "linear", tmp_path / "linear"))
    lock = json.loads((linear / "linzoo.lock.json").read_text())
    (linear / "linzoo.lock.json").write_text(json.dumps({**lock, "detection": detection}))
    run(zoo / "tune.safetensors", tmp_path / "out", init="pretrained", linfusion=linear)
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == (linear / WEIGHTS).read_bytes()


def test_weights_of_the_refined_variant_are_welcome(zoo: Path, tmp_path: Path) -> None:
    inpaint = write_ldm(tmp_path / "inpaint.safetensors", toy_unet("toy-inpaint"), "toy-inpaint")
    run(inpaint, tmp_path / "out", init="pretrained", linfusion=zoo / "linear")
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == (zoo / "linear" / WEIGHTS).read_bytes()


def test_a_unet_is_no_published_weights(zoo: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="one file, and a LinFusion checkpoint is a folder"):
        run(zoo / "tune.safetensors", tmp_path / "out", init="pretrained", linfusion=zoo / "base.safetensors")


# --- delta


def test_delta_of_the_base_itself_is_pretrained_bit_for_bit(zoo: Path, tmp_path: Path) -> None:
    def with_signed_zeros(config: dict, tensors: Arrays) -> None:
        tensors["0.to_q.weight"][0, :4] = [0.0, -0.0, 6e-8, -6e-8]

    linear = damaged(zoo, tmp_path, with_signed_zeros)
    out = delta(zoo, tmp_path / "out", "base", linfusion=linear)
    assert (out / WEIGHTS).read_bytes() == (linear / WEIGHTS).read_bytes()


def test_delta_is_the_sum_rounded_once(zoo: Path, tmp_path: Path, base: Arrays) -> None:
    modules, tensors = read_result(delta(zoo, tmp_path / "out"))
    published, tune = load_file(zoo / "linear" / WEIGHTS), tuned(base)
    for index, module in enumerate(modules):
        for each in ("to_v.weight", "to_out.0.weight", "to_out.0.bias"):
            name = f"{module['module_name']}.{each}"
            change = tune[name].astype(np.float32) - base[name].astype(np.float32)
            expected = (published[f"{index}.{each}"].astype(np.float32) + change).astype(np.float16)
            assert (tensors[f"{index}.{each}"] == expected).all()
            assert change.any()
        for each in ("to_q_.0.weight", "to_k_.3.bias"):
            assert (tensors[f"{index}.{each}"] == published[f"{index}.{each}"]).all()


@pytest.mark.parametrize("name", ["to_q.weight", "to_k.weight"])
def test_queries_and_keys_take_the_change_in_their_own_directions(
    zoo: Path, tmp_path: Path, base: Arrays, name: str
) -> None:
    """A head that looks along combinations of the base's directions looks along those of the fine-tune's."""
    rng = np.random.default_rng(0)
    tune, turns = tuned(base), {}

    def turn(config: dict, tensors: Arrays) -> None:
        for index, module in enumerate(config["modules_list"]):
            heads, source = module["heads"], base[f"{module['module_name']}.{name}"].astype(np.float64)
            width = len(source) // heads
            turns[index] = [rng.standard_normal((width, width)) for _ in range(heads)]
            rows = [each @ source[head * width :][:width] for head, each in enumerate(turns[index])]
            tensors[f"{index}.{name}"] = np.concatenate(rows).astype(np.float32)

    linear = damaged(zoo, tmp_path, turn)
    modules, tensors = read_result(delta(zoo, tmp_path / "out", linfusion=linear, dtype="float32"))
    for index, module in enumerate(modules):
        wanted = tune[f"{module['module_name']}.{name}"].astype(np.float64)
        width = len(wanted) // module["heads"]
        rows = [each @ wanted[head * width :][:width] for head, each in enumerate(turns[index])]
        np.testing.assert_allclose(tensors[f"{index}.{name}"], np.concatenate(rows), atol=1e-5)


@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_directions_that_are_the_bases_own_take_the_plain_sum(heads: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    base, change = rng.standard_normal((2, heads * width, heads * width)).astype(np.float32)
    np.testing.assert_allclose(carry_over(base, base, change, heads), base + change, atol=1e-4)
    assert (carry_over(base, base, np.zeros_like(change), heads) == base).all()


def test_delta_is_linear_in_the_change(zoo: Path, tmp_path: Path, base: Arrays) -> None:
    published = load_file(zoo / "linear" / WEIGHTS)
    changes = []
    for factor in (1, 2):
        tune = {name: array + np.float32(factor) * 2**-7 for name, array in base.items()}
        write_ldm(
            tmp_path / f"{factor}.safetensors", {name: each.astype(np.float32) for name, each in tune.items()}
        )
        out = run(
            tmp_path / f"{factor}.safetensors", tmp_path / f"out{factor}", init="delta", dtype="float32",
            linfusion=zoo / "linear", base=zoo / "base.safetensors",
        )  # fmt: skip
        changes.append(read_result(out)[1]["0.to_v.weight"] - published["0.to_v.weight"].astype(np.float32))
    np.testing.assert_allclose(changes[1], 2 * changes[0], rtol=0, atol=1e-6)
    assert changes[0].mean() == pytest.approx(2**-7, rel=0.01)


def test_delta_records_what_it_measured(zoo: Path, tmp_path: Path) -> None:
    lock = read_lock(delta(zoo, tmp_path / "out"))
    assert lock is not None
    measured = lock["init"]["measured"]
    assert 0.01 < measured["relative_change"] < 0.1
    assert measured["correlation"] > 0.99
    assert measured["weakest_correlation"] > 0.99
    assert measured["basis_correlation"] > 0.9
    assert set(lock) >= {"source", "linfusion", "base"}
    assert len(lock["tensors"]["0.to_q.weight"]["sources"]) == 3
    assert (
        delta(zoo, tmp_path / "again").joinpath("linzoo.lock.json").read_bytes()
        == (tmp_path / "out" / "linzoo.lock.json").read_bytes()
    )


def test_delta_refuses_a_model_that_is_no_descendant(zoo: Path, tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"is no fine-tune of .*base.safetensors: .* 14\d% of the base's norm"
    ):
        delta(zoo, tmp_path / "out", "unrelated")
    assert not (tmp_path / "out").exists()


def test_delta_refuses_one_foreign_block(zoo: Path, tmp_path: Path, base: Arrays) -> None:
    """A merge that took the middle block from elsewhere: small on the whole, meaningless there."""
    foreign = toy_unet(seed=9)
    mixed = {name: foreign[name] if name.startswith("mid_block") else each for name, each in base.items()}
    source = write_ldm(tmp_path / "mixed.safetensors", mixed)
    with pytest.raises(CheckpointError, match=r"no fine-tune .* at 'mid_block"):
        run(source, tmp_path / "out", init="delta", linfusion=zoo / "linear", base=zoo / "base.safetensors")


def test_delta_refuses_linear_weights_that_started_at_random(zoo: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"shares no basis with the base model: .*random start"):
        delta(zoo, tmp_path / "out", linfusion=zoo / "from-random")


def test_delta_refuses_a_base_of_another_structure(zoo: Path, tmp_path: Path) -> None:
    wrong = {name: each for name, each in toy_unet().items() if "mid_block.attentions" not in name}
    with pytest.raises(CheckpointError, match="the base has no tensor for 'mid_block"):
        delta(zoo, tmp_path / "out", base=write_ldm(tmp_path / "base.safetensors", wrong))


def test_delta_refuses_nan_in_the_base(zoo: Path, tmp_path: Path) -> None:
    wrong = toy_unet()
    wrong["mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0.bias"][0] = np.inf
    with pytest.raises(
        CheckpointError, match=r"middle_block.1.transformer_blocks.0.attn1.to_out.0.bias' holds 1"
    ):
        delta(zoo, tmp_path / "out", base=write_ldm(tmp_path / "base.safetensors", wrong))
    assert [each.name for each in tmp_path.iterdir()] == ["base.safetensors"]


# --- kinship


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), amount=st.floats(0, 2))
def test_similarity_is_the_textbook_formula(seed: int, amount: float) -> None:
    rng = np.random.default_rng(seed)
    first = [rng.standard_normal((4, 5)).astype(np.float32) for _ in range(3)]
    second = [(each + amount * rng.standard_normal(each.shape)).astype(np.float32) for each in first]
    found = Similarity()
    for a, b in zip(first, second, strict=True):
        found.add(a, b)
    a, b = np.concatenate(first).ravel().astype(float), np.concatenate(second).ravel().astype(float)
    assert found.cosine == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-4)
    assert found.relative_change == pytest.approx(
        np.linalg.norm(b - a) / np.linalg.norm(a), rel=1e-3, abs=1e-6
    )


def test_similarity_is_summed_in_float64() -> None:
    """A million small squares beside a large one vanish in float32, more or fewer by the order of the sum."""
    first = np.full(1_000_000, 1e-3, np.float32)
    first[0] = 1e4
    found = Similarity()
    found.add(first, np.ones_like(first))
    exact = first.astype(float)
    assert found.cosine == pytest.approx(exact.sum() / np.linalg.norm(exact) / 1e3, rel=1e-12)


def test_similarity_of_zeros() -> None:
    zero, one = np.zeros(3, np.float32), np.ones(3, np.float32)
    found = Similarity()
    found.add(zero, zero)
    assert (found.cosine, found.relative_change) == (0, 0)
    found.add(zero, one)
    assert (found.cosine, found.relative_change) == (0, float("inf"))


@pytest.mark.parametrize("size", [320, 640])
def test_thresholds_lie_far_from_both_sides(size: int) -> None:
    """At the widths of real UNets: fine-tunes and trained students well inside, unrelated weights well outside."""
    rng = np.random.default_rng(size)
    base, other, step = (rng.standard_normal((size, size)).astype(np.float32) for _ in range(3))
    related, foreign = Kinship(), Kinship()
    related.add("m", [("to_v.weight", base, base + 0.2 * step, base + step)])
    foreign.add("m", [("to_v.weight", base, other, other)])
    assert related.descent.relative_change < MOST_CHANGE / 2
    assert foreign.descent.relative_change > MOST_CHANGE * 2
    assert related.basis.cosine > 3 * LEAST_BASIS
    assert abs(foreign.basis.cosine) < LEAST_BASIS / 20
