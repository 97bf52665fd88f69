"""What files are made of: large ones, which are uploaded apart (Git LFS), and every file's content, read back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import web

from tests.support.hub.access import User, reader, writer
from tests.support.hub.answers import Refused, files_of
from tests.support.hub.history import Blob, Repo

if TYPE_CHECKING:
    from tests.support.hub.server import Hub


def batch(hub: Hub, name: str, asked: dict[str, Any], user: User | None) -> web.Response:
    reader(hub, name, user)
    repo = writer(hub, name, user, proposes=True)
    objects = []
    for wanted in asked["objects"]:
        found: dict[str, Any] = {"oid": wanted["oid"], "size": wanted["size"]}
        if hub.refused_objects:
            found["error"] = {"code": 403, "message": hub.refused_objects}
        elif wanted["oid"] not in repo.objects:
            found["actions"] = {
                "upload": {"href": f"{hub.url}/lfs/{name}/{wanted['oid']}"},
                "verify": {"href": f"{hub.url}/verify/{name}"},
            }
        objects.append(found)
    return web.json_response({"transfer": "basic", "objects": objects})


def put(repo: Repo, oid: str, body: bytes) -> web.Response:
    if Blob(body).sha256 != oid:
        raise Refused(400, "", "content does not match its digest")
    repo.objects[oid] = body
    return web.Response(headers={"ETag": f'"{oid}"'})


def verify(repo: Repo, told: dict[str, Any]) -> web.Response:
    stored = repo.objects.get(told["oid"])
    if stored is None or len(stored) != told["size"]:
        raise Refused(404, "", "no such object")
    return web.json_response({})


def resolve(hub: Hub, request: web.Request, name: str, rest: list[str], user: User | None) -> web.Response:
    repo = reader(hub, name, user)
    # A reference such as refs/pr/1 arrives quoted, as one part.
    revision, path = rest[0], "/".join(rest[1:])
    if repo.gated:
        raise Refused(403, "GatedRepo", "Access to this dataset is restricted")
    files = files_of(repo, revision)
    headers = {"X-Repo-Commit": str(repo.find(revision))}
    if path not in files:
        return Refused(404, "EntryNotFound", "Entry not found").response(headers)
    blob = files[path]
    etag = f'"{blob.sha256 if blob.large else blob.oid}"'
    headers |= {"ETag": etag, "Accept-Ranges": "bytes"}
    if blob.large:
        headers |= {"X-Linked-Etag": etag, "X-Linked-Size": str(len(blob.content))}
    if request.method == "HEAD":
        return web.Response(headers={**headers, "Content-Length": str(len(blob.content))})
    wanted = request.http_range
    partial = wanted.start is not None or wanted.stop is not None
    if partial:
        start, stop, _ = wanted.indices(len(blob.content))
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(blob.content)}"
    return web.Response(body=blob.content[wanted], status=206 if partial else 200, headers=headers)
