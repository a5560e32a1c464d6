"""Where items come from: prompt files, folders, Hugging Face data sets, tar files; and what is said of bad ones."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from linzoo.distillation.data.items import Item, Unusable
from linzoo.distillation.data.prompts import Prompts
from linzoo.distillation.data.sources import locate, open_source
from linzoo.distillation.errors import DataError
from linzoo.distillation.recipe import Data


def picture(red: int = 0, size: tuple[int, int] = (20, 10)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (red, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def items(kind: str, source: object, most: int | None = None, **options: Any) -> list[Item]:
    found = open_source(Data(kind=kind, source=str(source), **options), most)
    whole = [item for _, item in found.items(0, 1)]
    if found.count is not None:
        assert found.count == len(whole)
    shared = dict(each for rank in range(3) for each in found.items(rank, 3))
    assert [shared[position].name for position in sorted(shared)] == [item.name for item in whole]
    return whole


def captions(kind: str, source: object, most: int | None = None, **options: Any) -> list[str]:
    return [item.caption for item in items(kind, source, most, **options)]


# Prompts


def test_prompts_are_the_distinct_lines(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("\ufeffa cat\n\n  a dog \r\na cat\n\t\nein Käfer\na\u2028b", encoding="utf-8")
    assert sorted(captions("prompts", file)) == ["a cat", "a dog", "a\u2028b", "ein Käfer"]
    assert Prompts(file).notes == (f"{file}: 1 repeated lines are left out",)


def test_fewer_prompts_are_the_same_whatever_their_order(tmp_path: Path) -> None:
    lines = [f"prompt {number}" for number in range(40)]
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(lines))
    some = captions("prompts", file, 10)
    file.write_text("\n".join(reversed(lines)))
    assert captions("prompts", file, 10) == some
    assert len(some) == 10
    assert some != lines[:10]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b" \n\n", "holds no prompt; write one a line"),
        (b"\xff\xfe", "cannot be read as UTF-8 text with one prompt a line"),
        (None, "cannot be read as UTF-8 text .*No such file"),
    ],
)
def test_bad_prompt_files(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "prompts.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DataError, match=message):
        captions("prompts", file)


def test_a_folder_is_no_prompt_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is a folder, .*; for pictures set data.kind to folder"):
        captions("prompts", tmp_path)


def test_a_source_may_lie_in_a_package() -> None:
    assert locate("linzoo_mini:prompts.json").is_file()
    assert locate("no_such_package:prompts.txt") == Path("no_such_package:prompts.txt")
    assert locate("folder/prompts.txt") == Path("folder/prompts.txt")


# Folders


def test_captions_beside_pictures(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("b.png", "in/a.JPG"):
        (tmp_path / name).write_bytes(picture())
    (tmp_path / "b.txt").write_text("a cat\n")
    (tmp_path / "in/a.txt").write_text("")
    found = items("folder", tmp_path)
    assert [(item.name, item.caption) for item in found] == [("b.png", "a cat"), ("in/a.JPG", "")]
    assert found[0].read is not None
    assert found[0].read() == picture()


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_captions_in_metadata(tmp_path: Path, suffix: str) -> None:
    for folder, caption in ((tmp_path, "a cat, red"), (tmp_path / "in", "a dog")):
        folder.mkdir(exist_ok=True)
        (folder / "x.png").write_bytes(picture())
        row = {"file_name": "x.png", "text": caption}
        text = json.dumps(row) + "\n" if suffix == "jsonl" else f'file_name,text\nx.png,"{caption}"\n'
        (folder / f"metadata.{suffix}").write_text(text)
    assert captions("folder", tmp_path) == ["a dog", "a cat, red"]


def test_captions_of_several_lines(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.png", "in/b.png"):
        (tmp_path / name).write_bytes(picture())
    (tmp_path / "metadata.csv").write_text('file_name,text\na.png,"a cat,\non a mat"\n')
    row = {"file_name": "b.png", "text": "a dog\u2028asleep\x85"}
    (tmp_path / "in/metadata.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    assert captions("folder", tmp_path) == ["a cat,\non a mat", "a dog\u2028asleep"]


def test_a_text_file_counts_before_a_table(tmp_path: Path) -> None:
    write(tmp_path, {"a.png": "", "a.txt": "beside", "metadata.csv": "file_name,text\na.png,listed\n"})
    assert captions("folder", tmp_path) == ["beside"]


def test_any_spelling_of_a_suffix_and_any_letters(tmp_path: Path) -> None:
    for name in ("ä ö.JpEg", "猫.v1.2.PNG"):
        (tmp_path / name).write_bytes(picture())
        (tmp_path / name).with_suffix(".txt").write_text(f"of {name}", encoding="utf-8")
    assert captions("folder", tmp_path) == ["of ä ö.JpEg", "of 猫.v1.2.PNG"]


def test_hidden_files_are_not_looked_at(tmp_path: Path) -> None:
    (tmp_path / ".thumbnails").mkdir()
    for name in ("a.png", "._a.png", ".thumbnails/a.png"):
        (tmp_path / name).write_bytes(picture())
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "._a.txt").write_bytes(b"\xff")
    assert [item.name for item in items("folder", tmp_path)] == ["a.png"]


def test_a_link_to_nowhere_is_unusable(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "a.txt").write_text("a")
    (item,) = items("folder", tmp_path)
    assert item.read is not None
    with pytest.raises(Unusable, match="cannot be read: No such file"):
        item.read()


def test_fewer_pictures_are_a_sample_of_all(tmp_path: Path) -> None:
    names = [f"{number:02}.png" for number in range(30)]
    write(tmp_path, dict.fromkeys(names, "") | {f"{number:02}.txt": "x" for number in range(30)})
    some = [item.name for item in items("folder", tmp_path, 10)]
    assert len(some) == len(set(some)) == 10
    assert sorted(some) != names[:10]
    assert [item.name for item in items("folder", tmp_path, 5)] == some[:5]


def test_a_changed_picture_or_caption_changes_the_stamp(tmp_path: Path) -> None:
    def stamp() -> str:
        return open_source(Data(kind="folder", source=str(tmp_path)), None).stamp

    (tmp_path / "a.png").write_bytes(picture())
    (tmp_path / "a.txt").write_text("a cat")
    stamps = [stamp(), stamp()]
    (tmp_path / "a.txt").write_text("a dog")
    stamps.append(stamp())
    (tmp_path / "a.png").write_bytes(picture(size=(400, 400)))
    stamps.append(stamp())
    assert [stamps.index(each) for each in stamps] == [0, 0, 2, 3]


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).write_bytes(picture() if name.endswith(".png") else text.encode())


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"holds no picture \(\.png, "),
        (
            {"a.png": "", "b.png": "", "b.txt": "b"},
            r"1 of 2 pictures have no caption: a\.png; write it to a file",
        ),
        (
            {"a.png": "", "metadata.jsonl": '{"file_name": "a.png", "caption": "x"}'},
            r"metadata\.jsonl, row 1: has no text in column 'text'; its columns are 'file_name', 'caption'",
        ),
        ({"a.png": "", "metadata.jsonl": "\n{"}, r"metadata\.jsonl, line 2: is not JSON"),
        ({"a.png": "", "metadata.jsonl": "[]"}, r"metadata\.jsonl, line 1: is not a JSON object"),
        (
            {"a.png": "", "metadata.csv": f"file_name,text\na.png,{'x' * 140000}\n"},
            r"is not CSV: field larger",
        ),
        ({"a.png": "", "metadata.csv": "file_name,text\na.png\n"}, r"row 1: has no text in column 'text'"),
        (
            {"a.png": "", "metadata.csv": "file_name,text\nb.png,x\n"},
            r"metadata\.csv: lists 1 files that are not there: .*b\.png",
        ),
    ],
)
def test_bad_folders(tmp_path: Path, files: dict[str, str], message: str) -> None:
    write(tmp_path, files)
    with pytest.raises(DataError, match=message):
        captions("folder", tmp_path)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none: is no folder; with kind folder data\.source names"):
        captions("folder", tmp_path / "none")


def test_a_picture_that_has_gone_is_unusable(tmp_path: Path) -> None:
    write(tmp_path, {"a.png": "", "a.txt": "a"})
    item = items("folder", tmp_path)[0]
    (tmp_path / "a.png").unlink()
    assert item.read is not None
    with pytest.raises(Unusable, match="cannot be read: No such file"):
        item.read()


# Hugging Face


@pytest.fixture(name="hub_cache")
def _hub_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def parquet(folder: Path, count: int = 5, caption: Any = "caption {}") -> Path:
    import datasets

    folder.mkdir()
    rows = {
        "image": [{"bytes": picture(number), "path": None} for number in range(count)],
        "text": [caption.format(number) if isinstance(caption, str) else caption for number in range(count)],
    }
    table = datasets.Dataset.from_dict(rows)
    table.cast_column("image", datasets.Image()).to_parquet(folder / "train.parquet")
    return folder


@pytest.mark.usefixtures("hub_cache")
@pytest.mark.parametrize("streaming", [False, True])
def test_parquet(tmp_path: Path, streaming: bool) -> None:
    folder = parquet(tmp_path / "data")
    found = items("huggingface", folder, streaming=streaming)
    assert [item.caption for item in found] == [f"caption {number}" for number in range(5)]
    assert [item.read() for item in found if item.read] == [picture(number) for number in range(5)]
    assert captions("huggingface", folder, 2, streaming=streaming) == ["caption 0", "caption 1"]


@pytest.mark.usefixtures("hub_cache")
@pytest.mark.parametrize("streaming", [False, True])
def test_imagefolder(tmp_path: Path, streaming: bool) -> None:
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(picture(number))
    rows = [{"file_name": f"{number}.png", "prompt": f"p {number}"} for number in range(3)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = items("huggingface", tmp_path, streaming=streaming, caption_column="prompt")
    assert [item.caption for item in found] == ["p 0", "p 1", "p 2"]
    assert [item.read() for item in found if item.read] == [picture(number) for number in range(3)]


@pytest.mark.usefixtures("hub_cache")
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("field", ["image_column", "caption_column"])
def test_a_column_that_does_not_exist(tmp_path: Path, field: str, streaming: bool) -> None:
    folder = parquet(tmp_path / "data")
    message = f"has no column 'nope'; its columns are 'image', 'text': set data.{field} to one of them"
    with pytest.raises(DataError, match=message):
        captions("huggingface", folder, streaming=streaming, **{field: "nope"})


@pytest.mark.usefixtures("hub_cache")
def test_a_split_that_does_not_exist(tmp_path: Path) -> None:
    folder = parquet(tmp_path / "data")
    with pytest.raises(DataError, match=r"cannot read split 'nope' of it: .*train"):
        captions("huggingface", folder, split="nope")


@pytest.mark.usefixtures("hub_cache")
def test_a_data_set_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none: datasets cannot read split 'train' of it"):
        captions("huggingface", tmp_path / "none")


@pytest.mark.usefixtures("hub_cache")
def test_a_caption_that_is_a_list(tmp_path: Path) -> None:
    item = items("huggingface", parquet(tmp_path / "data", 1, ["a", "b"]))[0]
    assert item.read is not None
    with pytest.raises(Unusable, match="its column 'text' holds no text but list"):
        item.read()


@pytest.mark.usefixtures("hub_cache")
def test_more_rows_change_the_stamp(tmp_path: Path) -> None:
    stamps = [
        open_source(Data(kind="huggingface", source=str(parquet(tmp_path / str(count), count))), None).stamp
        for count in (2, 3)
    ]
    again = open_source(Data(kind="huggingface", source=str(tmp_path / "2")), None).stamp
    assert stamps[0] == again != stamps[1]


@pytest.mark.usefixtures("hub_cache")
@pytest.mark.parametrize("streaming", [False, True])
def test_only_what_names_the_rows_changes_the_stamp(tmp_path: Path, streaming: bool) -> None:
    folder = parquet(tmp_path / "data")

    def stamp(most: int | None = None, **options: Any) -> str:
        data = Data(kind="huggingface", source=str(folder), streaming=streaming, **options)
        return open_source(data, most).stamp

    assert stamp() == stamp(held_out=3, caption_dropout=0.5, crop="random", cache="x")
    assert stamp() != stamp(2)
    assert stamp() != stamp(caption_column="image", image_column="text")


@pytest.mark.usefixtures("hub_cache")
def test_whatever_a_library_of_datasets_raises_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("connection lost")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(DataError, match="x: datasets cannot read split 'train' of it: connection lost"):
        captions("huggingface", "x")


# webdataset


def test_columns_and_how_many_change_the_stamp_of_tar_files(tmp_path: Path) -> None:
    two_tars(tmp_path)

    def stamp(most: int | None = None, **options: Any) -> str:
        data = Data(kind="webdataset", source=str(tmp_path / "*.tar"), **options)
        return open_source(data, most).stamp

    stamps = {stamp(), stamp(2), stamp(caption_column="a"), stamp(image_column="b")}
    assert len(stamps) == 4
    assert stamp(held_out=3) in stamps


def tar(path: Path, samples: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as file:
        for name, content in samples.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def two_tars(folder: Path) -> None:
    for number in range(2):
        samples = {}
        for place in range(2):
            samples[f"{place}.png"] = picture(number)
            samples[f"{place}.txt"] = f"{number} {place}".encode()
        tar(folder / f"{number:03}.tar", samples)


@pytest.mark.parametrize("pattern", ["{000..001}.tar", "*.tar"])
def test_tar_files(tmp_path: Path, pattern: str) -> None:
    two_tars(tmp_path)
    assert captions("webdataset", tmp_path / pattern) == ["0 0", "0 1", "1 0", "1 1"]
    assert captions("webdataset", tmp_path / pattern, 3) == ["0 0", "0 1", "1 0"]
    assert [item.read() for item in items("webdataset", tmp_path / pattern) if item.read][2] == picture(1)


def test_captions_in_json_and_named_parts(tmp_path: Path) -> None:
    parts = {"a.webp": b"W", "a.mask.png": b"M", "a.json": b'{"text": "from json"}', "a.blip": b"from blip"}
    path = tar(tmp_path / "a.tar", parts)
    (item,) = items("webdataset", path, image_column="mask.png")
    assert item.caption == "from json"
    assert item.read is not None
    assert item.read() == b"M"
    assert captions("webdataset", path, caption_column="blip") == ["from blip"]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"a.txt": b"x"}, "has no picture among its parts txt"),
        ({"a.png": b"x", "a.cls": b"1"}, "has no caption among its parts png, cls"),
        ({"a.png": b"x", "a.txt": b"\xff"}, "has no caption"),
        ({"a.png": b"x", "a.json": b"{"}, "has no caption"),
        ({"a.png": b"x", "a.json": b'{"text": 1}'}, "has no caption"),
    ],
)
def test_unusable_samples(tmp_path: Path, parts: dict[str, bytes], message: str) -> None:
    (item,) = items("webdataset", tar(tmp_path / "a.tar", parts))
    assert item.read is not None
    with pytest.raises(Unusable, match=message):
        item.read()


def test_tar_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"001\.tar: cannot be read: No such file.*data\.source names it"):
        captions("webdataset", tmp_path / "{001..002}.tar")
    with pytest.raises(DataError, match=r"no file matches; data\.source names tar files"):
        captions("webdataset", tmp_path / "*.tar")


def test_a_file_that_is_no_tar(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"no tar file" * 100)
    with pytest.raises(DataError, match=r"a\.tar: webdataset cannot read it"):
        captions("webdataset", tmp_path / "a.tar")


def test_a_tar_file_that_is_cut_short_is_named(tmp_path: Path) -> None:
    two_tars(tmp_path)
    (tmp_path / "001.tar").write_bytes((tmp_path / "001.tar").read_bytes()[:530])
    with pytest.raises(DataError, match=r"001\.tar: webdataset cannot read it: unexpected end of data$"):
        captions("webdataset", tmp_path / "{000..001}.tar")


def test_tar_files_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two_tars(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert captions("webdataset", "~/000.tar") == captions("webdataset", "~/*0.tar") == ["0 0", "0 1"]


@pytest.mark.parametrize(("kind", "package"), [("huggingface", "datasets"), ("webdataset", "webdataset")])
def test_packages_that_are_not_installed(monkeypatch: pytest.MonkeyPatch, kind: str, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, f"{package}.shardlists", None)
    with pytest.raises(DataError, match=rf"needs the package {package} .*: pip install 'linzoo\[train\]'"):
        captions(kind, "x")
