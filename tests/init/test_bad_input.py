"""Wrong, truncated, renamed, NaN-holding and hostile input: a clear error, its exit code, and nothing changed."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from linzoo.errors import LinzooError
from linzoo.init.convert import convert, execute
from linzoo.init.planning import plan_conversion
from tests.init.toys import Arrays, contents, toy_registry, toy_unet, write_folder, write_ldm

ATTN = "mid_block.attentions.0.transformer_blocks.0.attn1"
LDM_ATTN = "model.diffusion_model.middle_block.1.transformer_blocks.0.attn1"


class Case:
    """A folder with a source in it; ``spec`` is what is converted, into ``out``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spec: Any = folder / "model.safetensors"
        self.out = folder / "out"
        self.options: dict[str, Any] = {}
        self.exit_code = 1

    def ldm(self, change: Callable[[Arrays], Any] = lambda _: None, variant: str = "toy") -> Path:
        unet = toy_unet(variant)
        change(unet)
        return write_ldm(self.spec, unet, variant)

    def pipeline(self, **config: Any) -> Path:
        self.spec = self.folder / "model"
        return write_folder(self.spec, toy_unet(), **config)

    def header(self, change: Callable[[dict], Any]) -> None:
        """Write a good file and change its JSON header, keeping its length field true."""
        content = self.ldm().read_bytes()
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        change(header)
        raw = json.dumps(header).encode()
        self.spec.write_bytes(len(raw).to_bytes(8, "little") + raw + content[8 + length :])

    def patch(self, old: bytes, new: bytes) -> None:
        content = self.ldm().read_bytes()
        assert content.count(old) >= 1
        self.spec.write_bytes(content.replace(old, new, 1))


CASES: dict[str, tuple[Callable[[Case], Any], str]] = {}


def case(message: str) -> Callable[[Callable[[Case], Any]], Callable[[Case], Any]]:
    """Register a case: a function that makes the input, and what the error must say."""

    def register(make: Callable[[Case], Any]) -> Callable[[Case], Any]:
        CASES[make.__name__] = (make, message)
        return make

    return register


@case("model: the UNet config has no 'down_block_types'")
def a_config_without_blocks(case: Case) -> None:
    case.pipeline(down_block_types=None)


# --- files that are no safetensors file, or only a part of one


@case("no such file or folder")
def missing(case: Case) -> None:
    pass


@case("only 0 bytes, too short")
def empty(case: Case) -> None:
    case.spec.touch()


@case("only 5 bytes, too short")
def five_bytes(case: Case) -> None:
    case.spec.write_bytes(b"12345")


@case("promise a header of 18,446,744,073,709,551,615 bytes")
def header_length_of_2_to_the_64(case: Case) -> None:
    case.spec.write_bytes(b"\xff" * 64)


@case("truncated inside the header")
def header_longer_than_the_file(case: Case) -> None:
    content = case.ldm().read_bytes()
    case.spec.write_bytes(len(content).to_bytes(8, "little") + content[8:])


@case("not valid JSON")
def header_length_one_too_short(case: Case) -> None:
    content = case.ldm().read_bytes()
    length = int.from_bytes(content[:8], "little")
    case.spec.write_bytes((length - 30).to_bytes(8, "little") + content[8:])


@case("truncated: .* ends")
def download_cut_off(case: Case) -> None:
    content = case.ldm().read_bytes()
    case.spec.write_bytes(content[:-1000])


@case("belong to no tensor")
def bytes_at_the_end(case: Case) -> None:
    content = case.ldm().read_bytes()
    case.spec.write_bytes(content + b"hidden payload")


@case("an HTML or XML page")
def a_web_page(case: Case) -> None:
    case.spec.write_bytes(b"<!DOCTYPE html><html>404</html>" * 10)


@case("Git LFS pointer")
def an_lfs_pointer(case: Case) -> None:
    case.spec.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")


@case("not valid JSON")
def header_of_noise(case: Case) -> None:
    case.spec.write_bytes((100).to_bytes(8, "little") + bytes(range(100)))


@case("linzoo reads .safetensors")
def another_suffix(case: Case) -> None:
    case.spec = case.folder / "model.gguf"
    case.spec.write_bytes(b"GGUF")


@case("a link whose target is not there")
def a_dangling_link(case: Case) -> None:
    case.spec.symlink_to(case.folder / "nowhere.safetensors")


# --- headers that lie


@case("overlaps")
def overlapping_offsets(case: Case) -> None:
    def change(header: dict) -> None:
        first, second = [entry for name, entry in sorted(header.items()) if entry.get("shape") == [32, 32]][
            :2
        ]
        second["data_offsets"] = first["data_offsets"]

    case.header(change)


@case("belong to no tensor")
def a_hole_between_tensors(case: Case) -> None:
    case.header(lambda header: header.pop(f"{LDM_ATTN}.to_q.weight"))


@case("needs .* bytes, but its offsets give")
def shape_larger_than_its_bytes(case: Case) -> None:
    case.header(lambda header: header[f"{LDM_ATTN}.to_q.weight"].update(shape=[64, 65]))


@case("larger than any file")
def shape_that_overflows(case: Case) -> None:
    case.header(lambda header: header[f"{LDM_ATTN}.to_q.weight"].update(shape=[2**62, 2**62]))


@case("not a short list of sizes")
def negative_size(case: Case) -> None:
    case.header(lambda header: header[f"{LDM_ATTN}.to_q.weight"].update(shape=[-64, -64]))


@case("not a begin and an end")
def offsets_backwards(case: Case) -> None:
    case.header(lambda header: header[f"{LDM_ATTN}.to_q.weight"]["data_offsets"].reverse())


@case("which linzoo does not know")
def unknown_dtype(case: Case) -> None:
    case.header(lambda header: header[f"{LDM_ATTN}.to_q.weight"].update(dtype="Q4_K"))


@case("must hold strings only")
def metadata_of_numbers(case: Case) -> None:
    case.header(lambda header: header.update(__metadata__={"a": 1}))


@case("twice")
def one_name_twice(case: Case) -> None:
    case.patch(b'input_blocks.1.0.emb_layers.1.bias"', b'input_blocks.3.0.emb_layers.1.bias"')


@case("JSON list")
def header_is_a_list(case: Case) -> None:
    case.spec.write_bytes((8).to_bytes(8, "little") + b"[1,2,3] ")


# --- not what it should be


@case("this is a LoRA|LoRA")
def a_lora(case: Case) -> None:
    save_file({"lora_unet_mid_block.lora_up.weight": np.zeros((4, 4), np.float32)}, case.spec)


@case("VAE")
def a_vae(case: Case) -> None:
    save_file({"first_stage_model.encoder.conv_in.weight": np.zeros((4, 4, 3, 3), np.float32)}, case.spec)


@case("undecided")
def an_unknown_model(case: Case) -> None:
    save_file({"some.weight": np.zeros((4, 4), np.float32)}, case.spec)
    case.exit_code = 3


@case("undecided .* 323 of 324 tensors of toy; missing: .*attn1.to_v.weight")
def one_tensor_renamed(case: Case) -> None:
    case.ldm()
    case.header(
        lambda header: header.update({"model.diffusion_model.renamed": header.pop(f"{LDM_ATTN}.to_v.weight")})
    )
    case.exit_code = 3


@case("not the 'toy' that --variant says: .* missing")
def one_tensor_renamed_and_the_variant_named(case: Case) -> None:
    one_tensor_renamed(case)
    case.options = {"variant": "toy"}
    case.exit_code = 1


@case(r"undecided .*attn1.to_k.weight is \[63, 64\] instead of \[64, 64\]")
def one_tensor_resized(case: Case) -> None:
    def change(unet: Arrays) -> None:
        unet[f"{ATTN}.to_k.weight"] = unet[f"{ATTN}.to_k.weight"][:-1]

    case.ldm(change)
    case.exit_code = 3


@case("undecided what it predicts")
def prediction_type_cannot_be_seen(case: Case) -> None:
    case.ldm(variant="toy-either")
    case.exit_code = 3


@case("LinFusion")
def an_earlier_result(case: Case) -> None:
    case.ldm()
    convert(case.spec, case.folder / "linfusion", registry=toy_registry())
    case.spec = case.folder / "linfusion"


@case("holds 1 values that are NaN or infinite")
def nan_in_a_weight(case: Case) -> None:
    case.ldm(lambda unet: unet[f"{ATTN}.to_k.weight"].__setitem__((1, 2), np.nan))


@case(r"'model.diffusion_model.middle_block.1.*to_out.0.bias' holds 64 values")
def infinity_in_a_bias(case: Case) -> None:
    case.ldm(lambda unet: unet[f"{ATTN}.to_out.0.bias"].fill(-np.inf))


@case("reaches 7e.04, which does not fit into float16; use --dtype bfloat16 or float32")
def too_large_for_the_dtype(case: Case) -> None:
    unet = {name: array.astype(np.float32) for name, array in toy_unet().items()}
    unet[f"{ATTN}.to_v.weight"][0, 0] = 7e4
    write_ldm(case.spec, unet)
    case.options = {"dtype": "float16"}


@case("is I8, which is quantised")
def quantised_weights(case: Case) -> None:
    case.ldm(lambda unet: unet.update({f"{ATTN}.to_q.weight": np.ones((64, 64), np.int8)}))


@case("has no place in a LinFusion checkpoint")
def a_bias_too_many(case: Case) -> None:
    case.pipeline()
    unet = toy_unet() | {f"{ATTN}.to_q.bias": np.zeros(64, np.float16)}
    save_file(unet, case.spec / "unet" / "diffusion_pytorch_model.safetensors")


# --- pickles


class Bomb:
    """Unpickling it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


@case("wants more than tensors: .*system")
def a_pickle_with_code(case: Case) -> None:
    case.spec = case.folder / "model.ckpt"
    with zipfile.ZipFile(case.spec, "w") as archive:
        archive.writestr(
            "archive/data.pkl", pickle.dumps({"state_dict": Bomb(case.folder / "pwned")}, protocol=2)
        )
        archive.writestr("archive/version", "3")


@case("wants more than tensors: .*system")
def an_old_pickle_with_code(case: Case) -> None:
    case.spec = case.folder / "model.ckpt"
    case.spec.write_bytes(pickle.dumps(Bomb(case.folder / "pwned"), protocol=2))


@case("a zip archive, probably a torch .ckpt with a wrong name")
def a_pickle_called_safetensors(case: Case) -> None:
    with zipfile.ZipFile(case.spec, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" * 100)


@case("model.ckpt: (cannot be unpickled safely|no readable torch checkpoint)")
def a_ckpt_of_noise(case: Case) -> None:
    case.spec = case.folder / "model.ckpt"
    case.spec.write_bytes(b"noise" * 100)


# --- folders


@case("no diffusers folder")
def a_folder_of_something(case: Case) -> None:
    case.spec = case.folder / "model"
    case.spec.mkdir()
    (case.spec / "notes.txt").write_text("nothing here")


@case("holds no weights")
def a_folder_without_weights(case: Case) -> None:
    (case.pipeline() / "unet" / "diffusion_pytorch_model.safetensors").unlink()


@case("not valid JSON")
def a_folder_with_a_broken_config(case: Case) -> None:
    (case.pipeline() / "unet" / "config.json").write_text('{"attention_head_dim": ')


@case("no 'down_block_types'")
def a_config_of_another_class(case: Case) -> None:
    path = case.pipeline() / "unet" / "config.json"
    config = json.loads(path.read_text())
    del config["down_block_types"]
    path.write_text(json.dumps(config))


@case("64x64 query matrix and 7 heads")
def heads_that_do_not_divide(case: Case) -> None:
    case.pipeline(attention_head_dim=[4, 7, 4])


@case("has 3 levels, and '4' where it should give heads")
def heads_of_text(case: Case) -> None:
    case.pipeline(attention_head_dim="4")


@case("has 3 levels, and .* where it should give heads")
def heads_for_other_levels(case: Case) -> None:
    case.pipeline(attention_head_dim=[4, 4])


def _sharded(case: Case, weight_map: dict[str, Any]) -> None:
    unet = case.pipeline() / "unet"
    (unet / "diffusion_pytorch_model.safetensors").rename(unet / "shard.safetensors")
    (unet / "diffusion_pytorch_model.safetensors.index.json").write_text(
        json.dumps({"weight_map": weight_map})
    )


@case("not the plain name of a .safetensors file")
def an_index_that_climbs_out(case: Case) -> None:
    _sharded(case, {"conv_in.weight": "../../secret.safetensors"})


@case("not the plain name of a .safetensors file")
def an_index_with_an_absolute_path(case: Case) -> None:
    _sharded(case, {"conv_in.weight": "/etc/passwd.safetensors"})


@case("missing, but")
def an_index_that_names_a_missing_shard(case: Case) -> None:
    _sharded(case, dict.fromkeys(toy_unet(), "shard-2.safetensors"))


@case("which the index does not place in this shard")
def an_index_that_forgets_tensors(case: Case) -> None:
    _sharded(case, {"conv_in.weight": "shard.safetensors"})


@case("not in the local cache|cannot be fetched|cannot be reached")
def a_repository_that_is_not_there(case: Case) -> None:
    case.spec = "hf://nobody/nothing"


@case("not of the form hf://user/repo")
def an_address_that_climbs_out(case: Case) -> None:
    case.spec = "hf://../../etc/passwd"


# --- where the result should go


@case("is a file; name a folder")
def out_is_a_file(case: Case) -> None:
    case.ldm()
    case.out.write_text("mine")


@case("not empty and was not made by linzoo")
def out_holds_something_else(case: Case) -> None:
    case.ldm()
    case.out.mkdir()
    (case.out / "thesis.txt").write_text("mine")
    case.options = {"force": True}


@case("not empty and was not made by linzoo")
def out_is_the_folder_of_the_source(case: Case) -> None:
    case.ldm()
    case.out = case.folder


@case("lies inside .*model, which is only read")
def out_is_inside_the_source(case: Case) -> None:
    case.out = case.pipeline() / "unet" / "linear"


@case("lies inside .*model, which is only read")
def out_is_inside_the_source_by_a_link(case: Case) -> None:
    (case.folder / "link").symlink_to(case.pipeline())
    case.out = case.folder / "link" / "linear"


@case("holds files that linzoo did not write .README.md.")
def out_holds_a_result_and_a_note(case: Case) -> None:
    convert(case.ldm(), case.out, registry=toy_registry())
    (case.out / "README.md").write_text("mine")
    case.options = {"force": True}


@case("diffusion_pytorch_model.safetensors changed since linzoo wrote it")
def out_holds_a_result_that_was_trained_since(case: Case) -> None:
    convert(case.ldm(), case.out, registry=toy_registry())
    shutil.copy(case.spec, case.out / "diffusion_pytorch_model.safetensors")
    case.options = {"force": True}


@case("no lock file of linzoo, or a damaged one")
def out_holds_a_damaged_lock_file(case: Case) -> None:
    convert(case.ldm(), case.out, registry=toy_registry())
    (case.out / "linzoo.lock.json").write_text('{"lock_version": "1"}')


@case("a part of this path is a file")
def out_is_below_a_file(case: Case) -> None:
    case.ldm()
    (case.folder / "notes").write_text("mine")
    case.out = case.folder / "notes" / "out"


@pytest.mark.parametrize("name", CASES)
def test_input_is_refused_and_nothing_changes(name: str, tmp_path: Path) -> None:
    make, message = CASES[name]
    case = Case(tmp_path)
    make(case)
    before = contents(tmp_path)
    with pytest.raises(LinzooError, match=f"(?s){message}") as caught:
        convert(case.spec, case.out, registry=toy_registry(), **case.options)
    assert caught.value.exit_code == case.exit_code
    assert contents(tmp_path) == before
    assert not (tmp_path / "pwned").exists()


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 40


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.ENOSPC, "No space left on device; make room"),
        (errno.EIO, "Input/output error"),
        (errno.EROFS, "Read-only"),
    ],
)
@pytest.mark.parametrize("after", [0, 20_000])
def test_the_disk_refuses_halfway(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, message: str, after: int
) -> None:
    from linzoo.checkpoints.writer import SafetensorsWriter

    put = SafetensorsWriter._put

    def failing(self: SafetensorsWriter, data: bytes) -> None:
        if self.nbytes >= after:
            raise OSError(code, os.strerror(code))
        put(self, data)

    monkeypatch.setattr(SafetensorsWriter, "_put", failing)
    case = Case(tmp_path)
    case.ldm()
    before = contents(tmp_path)
    with pytest.raises(LinzooError, match=message):
        convert(case.spec, case.out, registry=toy_registry())
    assert contents(tmp_path) == before


def test_too_little_disk_is_seen_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    case = Case(tmp_path)
    case.ldm()
    for dry_run in (True, False):
        with pytest.raises(LinzooError, match="bytes are needed and 1,000 are free"):
            convert(case.spec, case.out, dry_run=dry_run, registry=toy_registry())


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_a_folder_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def closed(self: Path, *_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    case = Case(tmp_path)
    case.ldm()
    before = contents(tmp_path)
    monkeypatch.setattr(Path, "mkdir", closed)
    with pytest.raises(LinzooError, match="choose a folder that you may write to"):
        convert(case.spec, case.out, registry=toy_registry())
    assert contents(tmp_path) == before


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_a_source_that_is_replaced_before_it_is_hashed(tmp_path: Path, suffix: str) -> None:
    """Of two files of one size the header would be read of one and the rest of the other."""
    paths = []
    for name, seed in (("model", 0), ("other", 1)):
        path = write_ldm(tmp_path / f"{name}.safetensors", toy_unet(seed=seed))
        if suffix == ".ckpt":
            import torch

            path = tmp_path / f"{name}.ckpt"
            torch.save(
                {
                    key: torch.from_numpy(each)
                    for key, each in load_file(tmp_path / f"{name}.safetensors").items()
                },
                path,
            )
        paths.append(path)
    plan = plan_conversion(paths[0], registry=toy_registry())
    paths[1].replace(paths[0])
    before = contents(tmp_path)
    with pytest.raises(LinzooError, match="changed while it was read; run again"):
        execute(plan, tmp_path / "out")
    assert contents(tmp_path) == before


def test_a_source_that_changes_meanwhile(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.ldm()

    def spoil(_: int) -> None:
        case.spec.write_bytes(b"other")

    with pytest.raises(LinzooError, match="changed"):
        convert(case.spec, case.out, registry=toy_registry(), progress=spoil)
    assert not case.out.exists()
