"""The routes of the Hub: what is asked, and which answer or refusal it gets. No connection is cut here."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

from aiohttp import web

from tests.support.hub.access import User, reader, user_of, writer
from tests.support.hub.answers import (
    Refused,
    discussion,
    entries,
    files_of,
    info,
    is_below,
    named,
    refs,
    validated,
)
from tests.support.hub.content import batch, put, resolve, verify
from tests.support.hub.history import ATTRIBUTES, MAIN, ZERO_TIME, Missing, Repo, StaleParent, is_large

if TYPE_CHECKING:
    from tests.support.hub.server import Hub


async def respond(hub: Hub, request: web.Request, parts: list[str], body: bytes) -> web.StreamResponse:
    user = user_of(hub, request)
    match parts:
        case ["api", "whoami-v2"]:
            if user is None:
                raise Refused(401, "", "Invalid username or password.")
            token = {"displayName": "test", "role": user.role}
            orgs = [{"type": "org", "name": org} for org in user.orgs]
            return web.json_response(
                {
                    "type": "user",
                    "name": user.name,
                    "orgs": orgs,
                    "auth": {"type": "access_token", "accessToken": token},
                }
            )
        case ["api", "validate-yaml"]:
            found = validated(json.loads(body)["content"], hub.refused_cards)
            return web.json_response(found, status=400 if found["errors"] else 200)
        case ["api", "repos", "create"]:
            return _create(hub, json.loads(body), user)
        case ["api", "repos", "delete"]:
            name = named(json.loads(body), user.name if user else "")
            writer(hub, name, user)
            del hub.repos[name]
            return web.Response()
        case ["api", "datasets", namespace, name, *rest]:
            return await _api(hub, request, f"{namespace}/{name}", rest, user, body)
        case ["datasets", namespace, name, "info", "lfs", "objects", "batch"]:
            return batch(hub, f"{namespace}/{name.removesuffix('.git')}", json.loads(body), user)
        case ["datasets", namespace, name, "resolve", *rest]:
            return resolve(hub, request, f"{namespace}/{name}", rest, user)
        case ["lfs", namespace, name, oid]:
            return put(hub.repos[f"{namespace}/{name}"], oid, body)
        case ["verify", namespace, name]:
            return verify(hub.repos[f"{namespace}/{name}"], json.loads(body))
        case ["api", "datasets", *names] | ["datasets", *names]:
            reader(hub, "/".join(names[:1]), user)  # a name without a namespace is nobody's
    raise Refused(404, "", f"no such route: {request.method} /{'/'.join(parts)}")


def _create(hub: Hub, asked: dict[str, Any], user: User | None) -> web.Response:
    name = named(asked, user.name if user else "")
    if user is None:
        raise Refused(401, "", "Invalid username or password.")
    if not user.owns(name.split("/")[0]) or user.role != "write":
        raise Refused(
            403,
            "",
            f"You don't have the rights to create a dataset under the namespace {name.split('/')[0]!r}",
        )
    url = f"{hub.own_address or hub.url}/datasets/{name}"
    if name in hub.repos:
        raise Refused(409, "", "You already created this dataset repo", url=url)
    private = asked.get("visibility", "private" if asked.get("private") else "public") == "private"
    hub.repos[name] = Repo({".gitattributes": ATTRIBUTES}, private=private)
    return web.json_response({"url": url, "name": name, "id": name})


async def _api(
    hub: Hub, request: web.Request, name: str, rest: list[str], user: User | None, body: bytes
) -> web.StreamResponse:
    repo = reader(hub, name, user)
    what = rest[0] if rest else "revision"
    match [request.method, what, *rest[1:]]:
        case ["GET", "revision", *named]:
            return web.json_response(info(name, repo, named[0] if named else MAIN))
        case ["GET", "refs"]:
            return web.json_response(refs(repo, "include_prs" in request.query))
        case ["GET", "tree", revision, *folder]:
            deep = request.query.get("recursive", "").lower() in ("1", "true")
            below = "/".join(folder)
            listed = [e for e in entries(files_of(repo, revision)) if is_below(e["path"], below, deep)]
            if not listed and below:
                raise Refused(404, "EntryNotFound", "no such folder")
            return _paged(hub, request, listed)
        case ["POST", "paths-info", revision]:
            paths = [str(path) for path in (await request.post()).getall("paths", [])]
            found = [entry for entry in entries(files_of(repo, revision)) if entry["path"] in paths]
            return web.json_response(found)
        case ["GET", "commits", revision]:
            files_of(repo, revision)
            return _paged(
                hub,
                request,
                [
                    {
                        "id": oid,
                        "title": commit.title,
                        "message": commit.message,
                        "date": ZERO_TIME,
                        "authors": [{"user": commit.author}],
                    }
                    for oid, commit in repo.history(revision)
                ],
            )
        case ["GET", "discussions", number] if int(number) in repo.pulls:
            return web.json_response(discussion(name, repo, int(number)))
    # Whoever may read may propose.
    writer(hub, name, user, proposes=request.query.get("create_pr") in ("1", "true"))
    match [request.method, what, *rest[1:]]:
        case ["POST", "preupload", revision]:
            there = files_of(repo, revision)
            return web.json_response(
                {
                    "files": [
                        {
                            "path": file["path"],
                            "uploadMode": "lfs" if is_large(file["path"], file["size"]) else "regular",
                            "shouldIgnore": False,
                            "oid": there[file["path"]].oid if file["path"] in there else None,
                        }
                        for file in json.loads(body)["files"]
                    ]
                }
            )
        case ["POST", "commit", revision]:
            return _commit(hub, request, name, repo, revision, user, body)
        case ["POST", "tag", revision]:
            tag = json.loads(body)["tag"]
            oid = repo.find(revision)
            if oid is None:
                raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            if tag in repo.tags:
                raise Refused(409, "", f"Tag reference exists already: {tag}")
            repo.tags[tag] = oid
            return web.Response()
        case ["DELETE", "tag", tag]:
            if repo.tags.pop(tag, None) is None:
                raise Refused(404, "RevisionNotFound", "no such tag")
            return web.Response()
    raise Refused(404, "", f"no such route: {request.method} {what}")


def _commit(
    hub: Hub, request: web.Request, name: str, repo: Repo, revision: str, user: User | None, body: bytes
) -> web.Response:
    if repo.find(revision) is None:
        raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
    lines = [json.loads(line) for line in body.splitlines() if line.strip()]
    assert user is not None
    try:
        oid, pull = repo.apply(
            lines,
            base64.b64decode,
            revision=revision,
            create_pr=request.query.get("create_pr") in ("1", "true"),
            author=user.name,
        )
    except StaleParent:
        raise Refused(412, "", "A commit has happened since. Please refresh and try again.") from None
    except Missing as error:
        raise Refused(404 if "doesn't exist" in str(error) else 400, "EntryNotFound", str(error)) from None
    answer: dict[str, Any] = {
        "success": True,
        "commitOid": oid,
        "commitUrl": f"{hub.own_address or hub.url}/datasets/{name}/commit/{oid}",
    }
    if pull is not None:
        answer["pullRequestUrl"] = f"{hub.own_address or hub.url}/datasets/{name}/discussions/{pull}"
    return web.json_response(answer)


def _paged(hub: Hub, request: web.Request, entries: list[dict[str, Any]]) -> web.Response:
    start = int(request.query.get("cursor", "0"))
    headers = {}
    if start + hub.page < len(entries):
        following = request.rel_url.update_query(cursor=str(start + hub.page))
        headers["Link"] = f'<{hub.url}{following}>; rel="next"'
    return web.json_response(entries[start : start + hub.page], headers=headers)
