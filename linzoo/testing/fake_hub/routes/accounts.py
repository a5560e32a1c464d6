"""Who asks, and what they may do."""

from __future__ import annotations

from linzoo.testing.fake_hub.access import identify, is_writer, readable, writable
from linzoo.testing.fake_hub.messages import Answer, Call, HttpError, json_answer
from linzoo.testing.fake_hub.routing import Router

router = Router()


@router.on("GET", "/api/whoami-v2")
def whoami(call: Call) -> Answer:
    """The user of the token, with its role and the user's organizations."""
    user = identify(call)
    if user is None:
        raise HttpError(401, "Invalid username or password.")
    role = "write" if is_writer(call) else "read"
    organization = {"type": "org", "name": call.hub.organization, "roleInOrg": "write"}
    token = {"displayName": "test", "role": role}
    return json_answer(
        {
            "type": "user",
            "name": user,
            "fullname": user,
            "isPro": False,
            "orgs": [{**organization, "fullname": call.hub.organization, "isEnterprise": False}],
            "auth": {"type": "access_token", "accessToken": token},
        }
    )


@router.on("GET", "/api/{kind}/{repo}/auth-check")
def check_read(call: Call) -> Answer:
    """Whether the caller may read the files of a repository."""
    readable(call)
    return json_answer({})


@router.on("GET", "/api/{kind}/{repo}/auth-check/write")
def check_write(call: Call) -> Answer:
    """Whether the caller may write to a repository."""
    writable(call)
    return json_answer({})
