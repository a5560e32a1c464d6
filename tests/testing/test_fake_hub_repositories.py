"""Accounts, repositories, refs and history: what the real client makes of the fake Hub's answers."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import HfApi, ModelCard, constants, hf_hub_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from linzoo.testing.fake_hub import FakeHub

CARD = b"---\nlicense: apache-2.0\ntags: [linfusion]\npipeline_tag: text-to-image\n---\n# A card\n"


def status_of(error: pytest.ExceptionInfo[HfHubHTTPError]) -> int:
    return error.value.response.status_code


def test_whoami_tells_user_role_and_organizations(hub: FakeHub, api: HfApi) -> None:
    me = api.whoami()
    assert (me["name"], me["auth"]["accessToken"]["role"]) == ("tester", "write")
    assert [organization["name"] for organization in me["orgs"]] == ["tester-org"]
    assert api.whoami(token=hub.read_token)["auth"]["accessToken"]["role"] == "read"


def test_tokens_are_like_no_other_text(hub: FakeHub) -> None:
    assert hub.token != hub.read_token
    for token in (hub.token, hub.read_token):
        assert token.startswith("hf_")
        assert len(token) == 37
        assert token[3:].isalpha()


def test_a_repository_is_made_once(hub: FakeHub, api: HfApi) -> None:
    made = api.create_repo("tester/a")
    assert made == f"{hub.url}/tester/a"
    assert api.create_repo("tester/a", exist_ok=True) == made
    with pytest.raises(HfHubHTTPError, match="You already created this model repo") as refused:
        api.create_repo("tester/a")
    assert status_of(refused) == 409
    assert api.create_repo("tester/a", repo_type="dataset") == f"{hub.url}/datasets/tester/a"
    assert list(hub.files("tester/a")) == [".gitattributes"]


def test_a_repository_is_deleted(hub: FakeHub, api: HfApi) -> None:
    hub.put("tester/a", {"x": b"1"})
    assert api.repo_exists("tester/a")
    api.delete_repo("tester/a")
    assert not api.repo_exists("tester/a")
    assert hub.head("tester/a") is None
    with pytest.raises(RepositoryNotFoundError):
        api.delete_repo("tester/a")
    api.delete_repo("tester/a", missing_ok=True)


def test_info_has_commit_card_and_files(hub: FakeHub, api: HfApi) -> None:
    commit = hub.put("tester/a", {"README.md": CARD, "w.safetensors": b"abc"})
    info = api.model_info("tester/a", files_metadata=True)
    assert (info.sha, info.author, info.private, info.gated) == (commit, "tester", False, False)
    assert info.card_data is not None
    assert (info.card_data.license, info.tags, info.pipeline_tag) == (
        "apache-2.0",
        ["linfusion"],
        "text-to-image",
    )
    siblings = {each.rfilename: each for each in info.siblings or ()}
    assert set(siblings) == {".gitattributes", "README.md", "w.safetensors"}
    assert siblings["README.md"].size == len(CARD)
    assert siblings["README.md"].lfs is None
    lfs = siblings["w.safetensors"].lfs
    assert lfs is not None
    # The pointer of three bytes: the size of the file has one digit.
    assert (lfs.sha256, lfs.size, lfs.pointer_size) == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        3,
        126,
    )
    assert ModelCard.load("tester/a").data.license == "apache-2.0"


def test_search_by_name_author_and_tag(hub: FakeHub, api: HfApi) -> None:
    hub.put("tester/fast-mini", {"README.md": CARD})
    hub.put("someone/mini", {"README.md": b"# No metadata"})
    hub.put("someone/hidden-mini", {}, private=True)
    hub.put("someone/mini", {}, repo_type="dataset")
    assert [model.id for model in api.list_models(search="MINI")] == ["someone/mini", "tester/fast-mini"]
    assert [model.id for model in api.list_models(author="someone")] == ["someone/mini"]
    assert [model.id for model in api.list_models(filter="linfusion")] == ["tester/fast-mini"]
    assert [model.id for model in api.list_models(limit=1)] == ["someone/mini"]
    assert [dataset.id for dataset in api.list_datasets()] == ["someone/mini"]


def test_branches_tags_and_history(hub: FakeHub, api: HfApi) -> None:
    first = hub.put("tester/a", {"x": b"1"}, title="first")
    second = hub.put("tester/a", {"x": b"2"}, title="second")
    api.create_branch("tester/a", branch="old", revision=first)
    api.create_branch("tester/a", branch="old", exist_ok=True)
    api.create_tag("tester/a", tag="v1", revision="old")
    refs = api.list_repo_refs("tester/a", include_pull_requests=True)
    assert {branch.name: branch.target_commit for branch in refs.branches} == {"main": second, "old": first}
    assert [(tag.ref, tag.target_commit) for tag in refs.tags] == [("refs/tags/v1", first)]
    assert refs.pull_requests == []
    assert [commit.title for commit in api.list_repo_commits("tester/a")] == [
        "second",
        "first",
        "initial commit",
    ]
    assert [commit.title for commit in api.list_repo_commits("tester/a", revision="v1")] == [
        "first",
        "initial commit",
    ]
    for revision in ("old", "v1", "refs/heads/old", "refs/tags/v1", first, first[:8]):
        assert hub.head("tester/a", revision) == first
    api.delete_tag("tester/a", tag="v1")
    api.delete_branch("tester/a", branch="old")
    assert hub.head("tester/a", "old") is None


def test_refs_that_cannot_be(hub: FakeHub, api: HfApi) -> None:
    hub.put("tester/a", {})
    with pytest.raises(HfHubHTTPError) as refused:
        api.create_branch("tester/a", branch="main")
    assert status_of(refused) == 409
    with pytest.raises(HfHubHTTPError) as refused:
        api.delete_branch("tester/a", branch="main")
    assert status_of(refused) == 403
    with pytest.raises(RevisionNotFoundError):
        api.create_tag("tester/a", tag="v1", revision="nowhere")
    with pytest.raises(RevisionNotFoundError):
        api.delete_tag("tester/a", tag="v1")


def test_commits_have_the_same_ids_in_every_run() -> None:
    heads = []
    for _ in range(2):
        with FakeHub() as hub:
            hub.put("tester/a", {"x": b"1"})
            heads.append(hub.put("tester/a", {"x": b"2"}))
    assert heads[0] == heads[1]


def test_a_private_repository_is_not_there_for_others(hub: FakeHub, api: HfApi) -> None:
    api.create_repo("tester/a", private=True)
    assert api.model_info("tester/a").private
    hub.put("someone/b", {"x": b"1"}, private=True)
    for repo, token, status in (
        ("tester/a", False, 401),
        ("someone/b", None, 404),
        ("someone/none", None, 404),
        ("someone/none", False, 401),
    ):
        with pytest.raises(RepositoryNotFoundError) as missing:
            api.model_info(repo, token=token)
        assert status_of(missing) == status


def test_a_gated_repository_shows_itself_but_not_its_files(hub: FakeHub, api: HfApi) -> None:
    hub.put("someone/a", {"x": b"1"})
    hub.gate("someone/a")
    assert api.model_info("someone/a").gated == "manual"
    for token, status in ((None, 403), (False, 401)):
        with pytest.raises(GatedRepoError) as gated:
            hf_hub_download("someone/a", "x", token=token)
        assert status_of(gated) == status
    with pytest.raises(GatedRepoError):
        api.auth_check("someone/a")
    hub.put("tester/b", {"x": b"1"})
    hub.gate("tester/b")
    assert Path(hf_hub_download("tester/b", "x")).read_bytes() == b"1"


def test_who_may_write(hub: FakeHub, api: HfApi) -> None:
    hub.put("tester/a", {})
    hub.put("tester-org/b", {})
    hub.put("someone/c", {})
    for repo in ("tester/a", "tester-org/b"):
        api.auth_check(repo, write=True)
    api.auth_check("someone/c")
    for repo, token, status in (
        ("tester/a", hub.read_token, 403),
        ("tester/a", "hf_" + "x" * 34, 401),
        ("someone/c", None, 403),
        ("tester/a", False, 401),
    ):
        with pytest.raises(HfHubHTTPError) as refused:
            api.auth_check(repo, write=True, token=token)
        assert status_of(refused) == status
    for repo, token in (("tester/d", hub.read_token), ("someone/d", None)):
        with pytest.raises(
            HfHubHTTPError, match="the rights to create a model under the namespace"
        ) as refused:
            api.create_repo(repo, token=token)
        assert status_of(refused) == 403
    assert api.create_repo("someone/c", exist_ok=True).repo_id == "someone/c"


@pytest.mark.parametrize("content", ["---\na: [1\n---\n", "---\n- a list\n---\n"])
def test_metadata_that_cannot_be_read_is_refused(content: str, api: HfApi) -> None:
    api.create_repo("tester/a")
    with pytest.raises(ValueError, match=r"Invalid metadata in README\.md"):
        api.upload_file(path_or_fileobj=content.encode(), path_in_repo="README.md", repo_id="tester/a")


def test_a_card_without_metadata_is_warned_about(api: HfApi) -> None:
    api.create_repo("tester/a")
    with pytest.warns(UserWarning, match="empty or missing yaml metadata"):
        api.upload_file(path_or_fileobj=b"# Hello", path_in_repo="README.md", repo_id="tester/a")
    ModelCard(CARD.decode()).push_to_hub("tester/a")
    assert api.model_info("tester/a").tags == ["linfusion"]


def test_what_is_not_there_says_so(api: HfApi) -> None:
    with pytest.raises(HfHubHTTPError, match="The fake Hub has no GET /api/spaces/semantic-search"):
        next(iter(api.search_spaces("x")))


def test_the_client_is_as_before_when_it_is_over(hub: FakeHub, tmp_path: Path) -> None:
    before = {name: value for name, value in vars(constants).items() if name.isupper()}
    with hub.client(tmp_path, token=None):
        assert hub.url == constants.ENDPOINT
        assert str(tmp_path / "hub") == constants.HF_HUB_CACHE
        assert not constants.is_offline_mode()
        with pytest.raises(Exception, match="no token found"):
            HfApi().whoami()
    assert {name: value for name, value in vars(constants).items() if name.isupper()} == before
    assert constants.is_offline_mode()
