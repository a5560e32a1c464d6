"""How people write where a model is on the Hub."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linzoo.checkpoints.address import HubAddress, name_of, on_hub
from linzoo.errors import CheckpointError

NAMES = st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,8}", fullmatch=True)
REVISIONS = (
    st.none()
    | NAMES
    | st.integers(1, 99).map("refs/pr/{}".format)
    | st.sampled_from(["release/1.x", "a/b/c.d", "v+1", "100%25", "a~b@c"])
)
FILES = st.none() | st.builds(
    "{}{}.{}".format,
    st.sampled_from(["", "unet/", "a b/"]),
    NAMES,
    st.sampled_from(["safetensors", "ckpt", "CKPT"]),
)
ADDRESSES = st.builds(
    lambda user, name, revision, file: HubAddress(f"{user}/{name}", revision, file),
    NAMES,
    NAMES,
    REVISIONS,
    FILES,
)


@given(ADDRESSES)
def test_an_address_is_read_as_it_is_written(address: HubAddress) -> None:
    assert HubAddress.parse(str(address)) == address
    assert HubAddress.parse(str(address).removeprefix("hf://")) == address
    assert on_hub(str(address)) == address


@given(ADDRESSES, st.sampled_from(["huggingface.co", "hf.co"]), st.booleans())
def test_the_page_in_a_browser_is_an_address(address: HubAddress, host: str, download: bool) -> None:
    page = f"https://{host}/{address.repo}"
    if address.file is not None:
        view = "resolve" if download else "blob"
        page += f"/{view}/{quote(address.revision or 'main', safe='')}/{quote(address.file)}"
        page += "?download=true" if download else ""
    elif address.revision is not None:
        page += f"/tree/{quote(address.revision, safe='')}"
    read = HubAddress.parse(page)
    assert (read.repo, read.file) == (address.repo, address.file)
    assert read.revision == (address.revision or (address.file and "main"))
    assert on_hub(page) == read


@pytest.mark.parametrize(
    "text", ["hf://user/model@", "hf://user/model@/x", "hf://user/model@/x.ckpt", "user/model/x.gguf"]
)
def test_what_is_malformed_is_told_the_forms(text: str) -> None:
    with pytest.raises(CheckpointError, match=r"not of the form hf://user/repo, .*\.safetensors, \.ckpt"):
        HubAddress.parse(text)


def test_the_page_may_be_of_a_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    with pytest.raises(CheckpointError, match="not the page of a model"):
        HubAddress.parse("https://mirror.example:8080/user/model")
    monkeypatch.setattr(constants, "ENDPOINT", "https://mirror.example:8080")
    assert HubAddress.parse("https://mirror.example:8080/user/model") == HubAddress("user/model")


@pytest.mark.parametrize(
    "page",
    [
        "https://civitai.com/models/4384",
        "https://huggingface.co/datasets/user/name",
        "https://huggingface.co/user/model/discussions/3",
        "https://huggingface.co/user/model/tree/main/unet",
        "https://huggingface.co/user/model/blob/main/README.md",
        "https://huggingface.co/",
        "http://[",
    ],
)
def test_other_pages_are_refused(page: str) -> None:
    with pytest.raises(CheckpointError, match=r"not the page of a model .*download the file and name that"):
        on_hub(page)


def test_the_scheme_may_be_left_out_where_nothing_here_has_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert on_hub("user/model@v1") == HubAddress("user/model", "v1")
    (tmp_path / "user" / "model").mkdir(parents=True)
    assert on_hub("user/model") is None
    assert on_hub("hf://user/model") == HubAddress("user/model")
    too_long = f"{'x' * 300}/model"  # for a file, about which the system then says something else than no
    assert on_hub(too_long) == HubAddress(too_long)
    for here in (
        "mini",
        "./model",
        "a/b/c.safetensors",
        "models/dream.safetensors",
        "models/old@1.CKPT",
        "/user/model",
        "user/model/",
        Path("user/other"),
    ):
        assert on_hub(here) is None


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("hf://user/model@v1", "model"),
        ("user/model@v1", "model"),
        ("https://huggingface.co/user/model/tree/v1", "model"),
        ("hf://user/model/v2/tune.safetensors", "model"),
        ("some/where/tune/", "tune"),
        (Path("some/tune"), "tune"),
        (".", "here"),
        ("mini", "mini"),
    ],
)
def test_what_is_named_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str | Path, name: str
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert name_of(spec) == name


def test_a_file_is_no_whole_repository() -> None:
    assert HubAddress("user/model", "v1").whole() == HubAddress("user/model", "v1")
    with pytest.raises(
        CheckpointError, match=r"hf://user/model/a.safetensors: one file, where .*; name hf://user/model"
    ):
        HubAddress("user/model", None, "a.safetensors").whole()
