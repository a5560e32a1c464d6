"""What of a distill recipe is recorded, and so published."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linzoo.checkpoints.digest import hash_document
from linzoo.distillation.document import to_document
from linzoo.distillation.portable import describe_recipe, publishable
from linzoo.distillation.recipe import Data, Recipe

SECRET = "whose machine it is"


def recipe_with(source: str, cache: str | None = None) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "schema_version": 1,
        "name": "mine",
        "variant": "mini",
        "align": {"steps": 1, "batch": 1},
    }
    recipe = Recipe.model_validate({**settings, "data": {"source": source, "cache": cache}})
    return to_document(recipe)


@pytest.mark.parametrize(
    ("source", "recorded"),
    [
        ("/home/me/prompts.txt", "prompts.txt"),
        ("/home/me/photographs/", "photographs"),
        ("~/prompts.txt", "prompts.txt"),
        ("~me/prompts.txt", "prompts.txt"),
        ("../me/prompts.txt", "prompts.txt"),
        ("data/../../me/prompts.txt", "prompts.txt"),
        ("C:\\Users\\me\\prompts.txt", "prompts.txt"),
        ("\\\\server\\me\\prompts.txt", "prompts.txt"),
        ("file:///home/me/000.tar", "000.tar"),
        ("file:/home/me/000.tar", "000.tar"),
        ("/home/me/{000..012}.tar::/home/me/more-*.tar", "{000..012}.tar::more-*.tar"),
        ("pipe:curl -H 'Authorization: key' https://host/000.tar", "pipe:"),
        ("https://me:key@host/000.tar?signature=key#x", "https://host/000.tar"),
        ("https://host/{000..012}.tar", "https://host/{000..012}.tar"),
        ("s3://bucket/000.tar", "s3://bucket/000.tar"),
        ("user/pictures", "user/pictures"),
        ("data/prompts.txt", "data/prompts.txt"),
        ("prompts.txt", "prompts.txt"),
        ("linzoo_recipes:prompts/mini.txt", "linzoo_recipes:prompts/mini.txt"),
    ],
)
def test_of_a_path_that_leads_out_the_last_part_stays(source: str, recorded: str) -> None:
    document = recipe_with(source, cache="/home/me/cache")
    found = describe_recipe("mine", document)
    assert found["document"] == {**document, "data": {**document["data"], "source": recorded, "cache": None}}
    assert (found["id"], found["sha256"]) == ("mine", hash_document(found["document"]))
    assert describe_recipe("mine", found["document"]) == found


@given(
    st.sampled_from(["/", "~/", "../", "C:/", "file:///", "a/../../", "//"]),
    st.sampled_from(["", "x/", "x y/"]),
)
def test_no_folder_outside_the_working_directory_is_recorded(start: str, more: str) -> None:
    document = recipe_with(f"{start}{SECRET}/{more}prompts.txt")
    assert describe_recipe("mine", document)["document"]["data"]["source"] == "prompts.txt"


def test_every_setting_that_may_be_a_path_is_known() -> None:
    assert {name for name, field in Data.model_fields.items() if field.annotation in (str, str | None)} == {
        "source", "split", "image_column", "caption_column", "cache",
    }  # fmt: skip


def test_a_lock_file_of_an_earlier_linzoo_is_published_without_paths() -> None:
    document = recipe_with("/home/me/prompts.txt")
    old = {"id": "mine", "sha256": hash_document(document), "document": document}
    lock = {"outputs": {}, "distill": {"recipe": old, "steps": 5}}
    new = describe_recipe("mine", document)
    assert publishable(lock) == {"outputs": {}, "distill": {"recipe": new, "steps": 5}}
    assert lock["distill"] == {"recipe": old, "steps": 5}


def test_what_has_no_paths_is_published_as_it_is_with_its_hash_right_or_wrong() -> None:
    recipe = {"id": "mine", "sha256": "wrong", "document": recipe_with("prompts.txt")}
    for lock in (
        {"outputs": {}},
        {"distill": {"recipe": recipe}},
        {"distill": {"recipe": {"id": "x", "document": {}}}},
    ):
        assert publishable(lock) is lock
