"""Pull requests and discussions: made by the client, on one's own repositories and on those of others."""

from __future__ import annotations

import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError

from linzoo.testing.fake_hub import FakeHub, PullRequest

REPO = "tester/model"


def propose(api: HfApi, path: str, content: bytes, repo: str = REPO, parent: str | None = None) -> str | None:
    """A pull request with one file; returns where its commits are."""
    add = [CommitOperationAdd(path, content)]
    made = api.create_commit(
        repo, operations=add, commit_message=f"Add {path}", create_pr=True, parent_commit=parent
    )
    assert made.pr_url is not None
    return made.pr_revision


def test_a_pull_request_is_made_amended_and_merged(hub: FakeHub, api: HfApi) -> None:
    base = hub.put(REPO, {"x": b"1", "gone": b"1"})
    assert propose(api, "a.txt", b"a") == "refs/pr/1"
    assert hub.pull_requests(REPO) == [PullRequest(1, "Add a.txt", "open", "refs/pr/1")]
    assert hub.head(REPO) == base
    api.upload_file(path_or_fileobj=b"b", path_in_repo="b.txt", repo_id=REPO, revision="refs/pr/1")
    api.delete_file("gone", REPO, revision="refs/pr/1")
    hub.put(REPO, {"x": b"2"})
    assert hub.read(REPO, "x", "refs/pr/1") == b"1"
    refs = api.list_repo_refs(REPO, include_pull_requests=True).pull_requests
    assert [(ref.name, ref.target_commit) for ref in refs or ()] == [("1", hub.head(REPO, "refs/pr/1"))]
    api.merge_pull_request(REPO, 1)
    assert set(hub.files(REPO)) == {".gitattributes", "a.txt", "b.txt", "x"}
    assert hub.read(REPO, "x") == b"2"
    assert hub.pull_requests(REPO)[0].status == "merged"
    assert api.get_discussion_details(REPO, 1).merge_commit_oid == hub.head(REPO)
    assert api.list_repo_commits(REPO)[0].title == "Add a.txt (#1)"
    for refused in (
        lambda: api.merge_pull_request(REPO, 1),
        lambda: api.upload_file(path_or_fileobj=b"c", path_in_repo="c", repo_id=REPO, revision="refs/pr/1"),
    ):
        with pytest.raises(HfHubHTTPError, match="This pull request is merged"):
            refused()


def test_a_pull_request_may_start_at_an_older_commit(hub: FakeHub, api: HfApi) -> None:
    old = hub.put(REPO, {"x": b"1"})
    hub.put(REPO, {"x": b"2"})
    revision = propose(api, "a.txt", b"a", parent=old)
    assert hub.read(REPO, "x", str(revision)) == b"1"


def test_a_pull_request_with_conflicts_is_not_merged(hub: FakeHub, api: HfApi) -> None:
    hub.put(REPO, {"x": b"1"})
    propose(api, "x", b"2")
    propose(api, "x", b"3")
    api.merge_pull_request(REPO, 1)
    assert api.get_discussion_details(REPO, 2).conflicting_files == ["x"]
    with pytest.raises(HfHubHTTPError, match="conflicts in x"):
        api.merge_pull_request(REPO, 2)
    assert hub.read(REPO, "x") == b"2"
    assert hub.pull_requests(REPO)[1].status == "open"


def test_others_may_propose_but_not_write_or_merge(hub: FakeHub, api: HfApi) -> None:
    hub.put("someone/model", {"x": b"1"})
    assert propose(api, "w.safetensors", b"weights", "someone/model") == "refs/pr/1"
    assert hub.read("someone/model", "w.safetensors", "refs/pr/1") == b"weights"
    for refused in (
        lambda: api.merge_pull_request("someone/model", 1),
        lambda: api.upload_file(path_or_fileobj=b"2", path_in_repo="x", repo_id="someone/model"),
    ):
        with pytest.raises(HfHubHTTPError, match="the rights to write to model someone/model") as forbidden:
            refused()
        assert forbidden.value.response.status_code == 403
    read_only = HfApi(token=hub.read_token)
    with pytest.raises(HfHubHTTPError, match="you must use a write token"):
        propose(read_only, "y", b"1", "someone/model")


def test_a_draft_is_talked_about_renamed_and_closed(hub: FakeHub, api: HfApi) -> None:
    hub.put(REPO, {})
    draft = api.create_pull_request(REPO, title="A draft", description="to be filled")
    assert (draft.num, draft.status, draft.target_branch) == (1, "draft", "refs/heads/main")
    api.comment_discussion(REPO, 1, "Looks good")
    api.rename_discussion(REPO, 1, "A better title")
    api.change_discussion_status(REPO, 1, "closed")
    details = api.get_discussion_details(REPO, 1)
    assert (details.title, details.status, details.author) == ("A better title", "closed", "tester")
    assert [event.type for event in details.events] == ["comment", "comment", "title-change", "status-change"]
    assert len({event.id for event in details.events}) == 4


def test_discussions_are_counted_with_pull_requests_and_listed_by_kind(hub: FakeHub, api: HfApi) -> None:
    hub.put(REPO, {})
    api.create_discussion(REPO, title="A question")
    propose(api, "a.txt", b"a")
    api.create_pull_request(REPO, title="Another")
    api.change_discussion_status(REPO, 2, "closed")

    def numbers(**asked: str) -> list[int]:
        return [each.num for each in api.get_repo_discussions(REPO, **asked)]

    assert numbers() == [1, 2, 3]
    assert numbers(discussion_type="discussion") == [1]
    assert numbers(discussion_type="pull_request") == [2, 3]
    assert numbers(discussion_status="open") == [1, 3]
    assert numbers(discussion_status="closed", author="tester") == [2]
    assert numbers(author="nobody") == []
    assert [pull_request.num for pull_request in hub.pull_requests(REPO)] == [2, 3]
    with pytest.raises(HfHubHTTPError, match="not a pull request"):
        api.merge_pull_request(REPO, 1)
    with pytest.raises(HfHubHTTPError, match="Discussion not found"):
        api.comment_discussion(REPO, 9, "anyone?")
