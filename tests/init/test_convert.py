"""``linzoo.convert`` on small checkpoints of SD structure: every bit, every name, every record."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from linzoo.checkpoints.base_hash import base_hash
from linzoo.checkpoints.lock import changed_outputs, read_lock
from linzoo.checkpoints.source import open_source
from linzoo.checkpoints.unet import UNetTensors
from linzoo.checkpoints.writer import SafetensorsWriter, TensorSpec
from linzoo.errors import CheckpointError, UndecidedError, UsageError
from linzoo.init.convert import convert
from linzoo.registry.catalog import UnknownIdError
from tests.init.toys import (
    ATTENTION,
    contents,
    read_result,
    toy_config,
    toy_registry,
    toy_unet,
    write_folder,
    write_ldm,
)

SITES = [
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1",
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1",
    "up_blocks.1.attentions.0.transformer_blocks.0.attn1",
    "up_blocks.1.attentions.1.transformer_blocks.0.attn1",
    "up_blocks.2.attentions.0.transformer_blocks.0.attn1",
    "up_blocks.2.attentions.1.transformer_blocks.0.attn1",
    "mid_block.attentions.0.transformer_blocks.0.attn1",
]


@pytest.fixture(scope="module")
def unet() -> dict[str, np.ndarray]:
    return toy_unet()


def run(source: Path, out: Path, **options: object) -> Path:
    result = convert(source, out, registry=toy_registry(), **options)  # type: ignore[arg-type]
    assert result.written == (not options.get("dry_run"))
    return out


@pytest.mark.parametrize("layout", ["ldm", "ldm-bare", "diffusers", "unet-folder", "folder"])
def test_teacher_copies_every_projection_bit_for_bit(tmp_path: Path, unet: dict, layout: str) -> None:
    if layout == "ldm":
        source = write_ldm(tmp_path / "a.safetensors", unet)
    elif layout == "ldm-bare":
        source = write_ldm(tmp_path / "a.safetensors", unet, prefix="")
    elif layout == "diffusers":
        source = write_folder(tmp_path / "f", unet) / "unet" / "diffusion_pytorch_model.safetensors"
    else:
        source = write_folder(tmp_path / "f", unet) / ("unet" if layout == "unet-folder" else "")
    modules, tensors = read_result(run(source, tmp_path / "out", init="teacher", prediction_type="epsilon"))
    assert [module["module_name"] for module in modules] == SITES
    assert [module["dim_n"] for module in modules] == [32, 64, 64, 64, 32, 32, 64]
    assert {module["heads"] for module in modules} == {4}
    assert len(tensors) == 7 * 17
    for index, name in enumerate(SITES):
        for each in ATTENTION:
            copy = tensors[f"{index}.{each}"]
            assert copy.dtype == np.float16
            assert copy.tobytes() == unet[f"{name}.{each}"].tobytes()
        for branch in ("to_q_", "to_k_"):
            assert not tensors[f"{index}.{branch}.3.weight"].any()
            assert not tensors[f"{index}.{branch}.3.bias"].any()
            assert (tensors[f"{index}.{branch}.1.weight"] == 1).all()
            assert not tensors[f"{index}.{branch}.1.bias"].any()
            assert tensors[f"{index}.{branch}.0.weight"].std() > 0


def test_same_input_gives_the_same_bytes_wherever_it_lies(tmp_path: Path, unet: dict) -> None:
    for place in ("one", "two/deeper"):
        (tmp_path / place).mkdir(parents=True)
        source = write_ldm(tmp_path / place / "model.safetensors", unet)
        run(source, tmp_path / place / "out")
    first, second = contents(tmp_path / "one" / "out"), contents(tmp_path / "two/deeper" / "out")
    assert set(first) == {"config.json", "diffusion_pytorch_model.safetensors", "linzoo.lock.json"}
    assert first == second
    assert str(tmp_path) not in first["linzoo.lock.json"].decode()


def test_lock_records_where_everything_came_from(tmp_path: Path, unet: dict) -> None:
    source = write_ldm(tmp_path / "model.safetensors", unet)
    out = run(source, tmp_path / "out", plan="toy-hybrid", seed=7)
    lock = read_lock(out)
    assert lock is not None
    content = source.read_bytes()
    assert lock["source"] == {
        "base_hash": base_hash(UNetTensors(open_source(source), toy_config())),
        "layout": "ldm",
        "files": {
            "model.safetensors": {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        },
    }
    assert lock["detection"]["variant"] == "toy"
    assert lock["detection"]["prediction_type"] == "epsilon"
    assert {each["about"] for each in lock["detection"]["evidence"]} >= {"variant", "prediction_type"}
    assert lock["plan"]["id"] == "toy-hybrid"
    assert lock["plan"]["kept_softmax"] == [SITES[-1]]
    assert len(lock["plan"]["sha256"]) == 64
    assert (lock["init"]["id"], lock["init"]["seed"], lock["init"]["dtype"]) == ("teacher", 7, None)
    assert lock["versions"]["numpy"] == np.__version__
    assert set(lock["versions"]["plugins"]) == {"linzoo_mixers", "tests.init.toyzoo"}
    assert lock["tensors"]["0.to_q.weight"] == {
        "action": "copied",
        "how": "",
        "sources": ["teacher:model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"],
    }
    assert lock["tensors"]["0.to_q_.3.weight"] == {"action": "initialised", "how": "0", "sources": []}
    assert set(lock["tensors"]) == set(read_result(out)[1])
    assert changed_outputs(out, lock) == []
    for name, record in lock["outputs"].items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == record["sha256"]


def test_folder_source_records_weights_and_config(tmp_path: Path, unet: dict) -> None:
    out = run(write_folder(tmp_path / "model", unet), tmp_path / "out")
    lock = read_lock(out)
    assert lock is not None
    assert set(lock["source"]["files"]) == {"unet/config.json", "unet/diffusion_pytorch_model.safetensors"}


@pytest.mark.parametrize(
    ("plan", "replaced", "mid_dim"),
    [
        ("toy-hybrid", SITES[:-1], None),
        ("toy-inner", [SITES[1], *SITES[2:4], SITES[6]], None),
        ("toy-narrow", SITES, 8),
    ],
)
def test_the_plan_decides(
    tmp_path: Path, unet: dict, plan: str, replaced: list[str], mid_dim: int | None
) -> None:
    source = write_ldm(tmp_path / "a.safetensors", unet)
    modules, tensors = read_result(run(source, tmp_path / "out", plan=plan))
    assert [module["module_name"] for module in modules] == replaced
    for index, module in enumerate(modules):
        expected = None if mid_dim is None else module["dim_n"] // mid_dim
        assert module["projection_mid_dim"] == expected
        assert tensors[f"{index}.to_q_.0.weight"].shape == (expected or module["dim_n"], module["dim_n"])


def test_heads_come_from_the_config(tmp_path: Path) -> None:
    source = write_ldm(tmp_path / "a.safetensors", toy_unet("toy-either"), "toy-either")
    modules, _ = read_result(run(source, tmp_path / "out", prediction_type="v_prediction"))
    assert [module["heads"] for module in modules] == [2, 4, 4, 4, 2, 2, 8]


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32"])
def test_dtype_casts_once(tmp_path: Path, name: str) -> None:
    unet = toy_unet(dtype=np.float32)
    source = write_ldm(tmp_path / "a.safetensors", unet)
    out = run(source, tmp_path / "out", dtype=name)
    from safetensors import safe_open

    dtype = ml_dtypes.bfloat16 if name == "bfloat16" else np.dtype(name)
    with safe_open(out / "diffusion_pytorch_model.safetensors", "pt") as file:
        found = file.get_tensor("0.to_v.weight").float().numpy()
    assert (found == unet[f"{SITES[0]}.to_v.weight"].astype(dtype).astype(np.float32)).all()
    lock = read_lock(out)
    assert lock is not None
    assert lock["init"]["dtype"] == name
    assert lock["tensors"]["0.to_v.weight"]["how"] == ("" if name == "float32" else f"float32 to {name}")


def write_fp8(path: Path, unet: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    values = {name: array.astype(ml_dtypes.float8_e4m3fn) for name, array in unet.items()}
    with SafetensorsWriter(
        path, [TensorSpec(n, "F8_E4M3", a.shape) for n, a in values.items()], {}
    ) as writer:
        for spec in writer.order:
            writer.write(spec.name, values[spec.name])
    return values


def test_fp8_is_copied_exactly_into_16_bits_when_asked(tmp_path: Path, unet: dict) -> None:
    path = tmp_path / "a.safetensors"
    values = write_fp8(path, unet)
    with pytest.raises(CheckpointError, match="Add --dtype float16"):
        run(path, tmp_path / "out")
    _, tensors = read_result(run(path, tmp_path / "out", dtype="float16"))
    expected = values[f"{SITES[0]}.to_q.weight"].astype(np.float16)
    assert tensors["0.to_q.weight"].tobytes() == expected.tobytes()


def test_fp8_does_not_matter_where_it_is_not_read(tmp_path: Path, unet: dict) -> None:
    linear = run(write_ldm(tmp_path / "a.safetensors", unet), tmp_path / "linear")
    write_fp8(tmp_path / "b.safetensors", unet)
    out = run(tmp_path / "b.safetensors", tmp_path / "out", init="pretrained", linfusion=linear)
    assert (read_result(out)[1]["0.to_q.weight"] == read_result(linear)[1]["0.to_q.weight"]).all()


@pytest.mark.parametrize("scale", ["scale_weight", "weight_scale"])
def test_scaled_fp8_is_refused(tmp_path: Path, unet: dict, scale: str) -> None:
    extra = f"{SITES[0]}.to_q.{scale}"
    write_fp8(tmp_path / "a.safetensors", {**unet, extra: np.ones((), np.float16)})
    with pytest.raises(CheckpointError, match=f"is scaled fp8 .with '{extra}'.; get the 16-bit file"):
        run(tmp_path / "a.safetensors", tmp_path / "out", dtype="float16")


def test_dry_run_writes_nothing_and_names_every_tensor(tmp_path: Path, unet: dict) -> None:
    source = write_ldm(tmp_path / "a.safetensors", unet)
    before = contents(tmp_path)
    result = convert(source, tmp_path / "out", dry_run=True, registry=toy_registry())
    assert contents(tmp_path) == before
    assert result.lock is None
    written = convert(source, tmp_path / "out", registry=toy_registry())
    assert written.lock is not None
    assert {tensor.name for tensor in result.plan.init.tensors} == set(written.lock["tensors"])
    assert result.plan.nbytes == sum(array.nbytes for array in read_result(tmp_path / "out")[1].values())
    assert result.plan.nbytes < result.plan.disk <= result.free


def test_progress_adds_up_to_all_bytes(tmp_path: Path, unet: dict) -> None:
    source = write_ldm(tmp_path / "a.safetensors", unet)
    seen: list[int] = []
    result = convert(source, tmp_path / "out", registry=toy_registry(), progress=seen.append)
    assert sum(seen) == result.plan.nbytes


def test_the_same_conversion_again_is_welcome(tmp_path: Path, unet: dict) -> None:
    source = write_ldm(tmp_path / "a.safetensors", unet)
    before = contents(run(source, tmp_path / "out"))
    assert contents(run(source, tmp_path / "out")) == before
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.safetensors", "out"]


def test_another_result_is_replaced_only_with_force(tmp_path: Path, unet: dict) -> None:
    source = write_ldm(tmp_path / "a.safetensors", unet)
    before = contents(run(source, tmp_path / "out"))
    with pytest.raises(
        CheckpointError, match=r"another result of linzoo \(different: init, tensors\).*--force"
    ):
        run(source, tmp_path / "out", init="random", dry_run=True)
    with pytest.raises(CheckpointError, match=r"another result of linzoo \(different: init, tensors\)"):
        run(source, tmp_path / "out", init="random", progress=pytest.fail)  # before the first byte
    other = write_ldm(tmp_path / "a.safetensors", toy_unet(seed=5))
    with pytest.raises(CheckpointError, match=r"another result of linzoo \(different: outputs, source\)"):
        run(other, tmp_path / "out")
    assert contents(tmp_path / "out") == before
    run(source, tmp_path / "out", init="random", force=True)
    lock = read_lock(tmp_path / "out")
    assert lock is not None
    assert lock["init"]["id"] == "random"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.safetensors", "out"]


def test_a_file_that_comes_into_an_earlier_result_meanwhile_is_not_lost(tmp_path: Path, unet: dict) -> None:
    source = write_ldm(tmp_path / "a.safetensors", unet)
    out = run(source, tmp_path / "out")
    with pytest.raises(CheckpointError, match=r"did not write \(notes\.txt\) and would lose"):
        run(source, out, progress=lambda _: (out / "notes.txt").write_text("mine"))
    assert (out / "notes.txt").read_text() == "mine"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.safetensors", "out"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"plan": "toy-either-full"}, "is for variant 'toy-either', but the source is 'toy'"),
        ({"plan": "toy-miscounted"}, "expects to replace 16 .* replaces 7 of this UNet's 7"),
        ({"plan": "toy-gap"}, "has no rule for 5 of the UNet's"),
        ({"plan": "toy-typo"}, "takes no option 'projection_mid_dims'; did you mean 'projection_mid_dim'"),
        ({"plan": "toy-odd"}, "projection_mid_divisor 5 does not divide the attention width 32"),
        ({"init": "pretrained"}, "init recipe 'pretrained' needs --from"),
        ({"init": "delta", "linfusion": "x"}, "init recipe 'delta' needs --base"),
        ({"init": "teacher", "linfusion": "x"}, "does not read --from"),
        ({"init": "random", "base": "x"}, "does not read --base"),
        ({"dtype": "float64"}, "dtype 'float64' cannot be written"),
        ({"prediction_type": "noise"}, "no prediction type 'noise'"),
    ],
)
def test_wrong_usage(tmp_path: Path, unet: dict, options: dict, message: str) -> None:
    source = write_ldm(tmp_path / "a.safetensors", unet)
    with pytest.raises(UsageError, match=message):
        run(source, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["init", "plan", "variant"])
def test_unknown_ids(tmp_path: Path, unet: dict, option: str) -> None:
    source = write_ldm(tmp_path / "a.safetensors", unet)
    with pytest.raises(UnknownIdError, match="nonsense"):
        run(source, tmp_path / "out", **{option: "nonsense"})


def test_undecided_prediction_type_stops_and_names_the_option(tmp_path: Path) -> None:
    source = write_ldm(tmp_path / "a.safetensors", toy_unet("toy-either"), "toy-either")
    with pytest.raises(UndecidedError, match="--prediction-type") as caught:
        run(source, tmp_path / "out")
    assert caught.value.exit_code == 3
    assert not (tmp_path / "out").exists()
    out = run(source, tmp_path / "out", prediction_type="v_prediction")
    lock = json.loads((out / "linzoo.lock.json").read_text())
    assert lock["detection"]["prediction_type"] == "v_prediction"


def test_refined_variant_uses_the_plans_of_what_it_refines(tmp_path: Path) -> None:
    assert toy_config("toy-inpaint")["in_channels"] == 9
    source = write_ldm(tmp_path / "a.safetensors", toy_unet("toy-inpaint"), "toy-inpaint")
    out = run(source, tmp_path / "out", plan="toy-hybrid")
    lock = read_lock(out)
    assert lock is not None
    assert lock["detection"]["variant"] == "toy-inpaint"
