"""Uploading to large file storage: in one piece or in parts (the LFS batch API, and the Hub's extension of it)."""

from __future__ import annotations

from typing import Any

from linzoo.testing.fake_hub.access import writable
from linzoo.testing.fake_hub.contents import size_of
from linzoo.testing.fake_hub.messages import Answer, Call, HttpError, json_answer
from linzoo.testing.fake_hub.routes.files import refuse_unsigned
from linzoo.testing.fake_hub.routing import Router

router = Router()


@router.on("POST", "/{prefix}{repo}.git/info/lfs/objects/batch")
def batch(call: Call) -> Answer:
    """Where to upload each object; nowhere, for what is there already."""
    writable(call, through_pull_request=True)
    asked = call.json()
    chunk = call.hub.multipart_chunk if "multipart" in asked.get("transfers", ()) else None
    objects = []
    for wanted in asked["objects"]:
        oid, size = wanted["oid"], wanted["size"]
        answer: dict[str, Any] = {"oid": oid, "size": size}
        if call.hub.storage.large(oid) is None:
            answer["actions"] = {
                "upload": _in_parts(call, oid, size, chunk) if chunk and size > chunk else _whole(call, oid),
                "verify": {"href": f"{call.hub.url}{call.path}/{oid}", "header": {}},
            }
        objects.append(answer)
    return json_answer(
        {"transfer": "multipart" if chunk else "basic", "objects": objects, "hash_algo": "sha256"},
        headers={"Content-Type": "application/vnd.git-lfs+json"},
    )


def _whole(call: Call, oid: str) -> dict[str, Any]:
    return {"href": call.hub.signed(f"/storage/{oid}"), "header": {}}


def _in_parts(call: Call, oid: str, size: int, chunk: int) -> dict[str, Any]:
    parts = range(1, -(-size // chunk) + 1)
    header = {str(number): call.hub.signed(f"/storage/{oid}/{number}") for number in parts}
    return {"href": call.hub.signed(f"/storage/{oid}"), "header": {"chunk_size": str(chunk), **header}}


@router.on("PUT", "/storage/{oid}")
def upload(call: Call) -> Answer:
    """Take a file in one piece."""
    refuse_unsigned(call)
    call.hub.storage.receive(call.parameters["oid"], call.body.pieces())
    return Answer()


@router.on("PUT", "/storage/{oid}/{number}")
def upload_part(call: Call) -> Answer:
    """Take a part of a file, and give it a name."""
    refuse_unsigned(call)
    number = int(call.parameters["number"])
    etag = call.hub.storage.receive_part(call.parameters["oid"], number, call.body.pieces())
    return Answer(headers={"ETag": f'"{etag}"'})


@router.on("POST", "/storage/{oid}")
def join_parts(call: Call) -> Answer:
    """Join the parts of a file."""
    refuse_unsigned(call)
    numbers = [part["partNumber"] for part in call.json()["parts"]]
    call.hub.storage.join_parts(call.parameters["oid"], numbers)
    return json_answer({})


@router.on("POST", "/{prefix}{repo}.git/info/lfs/objects/batch/{oid}")
def verify(call: Call) -> Answer:
    """Whether a file has arrived."""
    writable(call, through_pull_request=True)
    content = call.hub.storage.large(call.parameters["oid"])
    if content is None or size_of(content) != call.json()["size"]:
        raise HttpError(404, "The object has not arrived.")
    return json_answer({})
