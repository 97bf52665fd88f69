"""The routes of the Hub that its clients use to make, write, tag and read datasets, over real HTTP on loopback.

Clients learn the address from HF_ENDPOINT, which huggingface_hub reads when it is imported, so they run in a child
process (`environment` is what that needs to stay on loopback), or are given `url` by hand.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from aiohttp import web

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
from tests.support.hub.faults import AFTER, BEFORE, MIDDLE, Fault
from tests.support.hub.history import ATTRIBUTES, MAIN, ZERO_TIME, Blob, Missing, Repo, StaleParent, is_large


@dataclass(frozen=True)
class User:
    """Whose token it is: a name, organisations it may write to, and what the token may do."""

    name: str
    orgs: tuple[str, ...] = ()
    role: str = "write"  # write | read | fineGrained (may read only)

    def owns(self, namespace: str) -> bool:
        return namespace in (self.name, *self.orgs)


@dataclass
class Asked:
    """One request of the log. `status` is 0 where nothing was answered."""

    method: str
    path: str
    query: dict[str, str]
    sent: int = 0  # bytes of the body that were read
    status: int = 0
    agent: str = ""

    @property
    def writes(self) -> bool:
        return self.method != "GET" and self.method != "HEAD" and "paths-info" not in self.path


@dataclass
class Hub:
    """A running Hub. `asked` holds method and path of every request in the order they came, `log` more of each."""

    repos: dict[str, Repo] = field(default_factory=dict)
    broken: bool = False  # answers 500 to everything
    users: dict[str, User] = field(
        default_factory=lambda: {
            "hf_writes": User("me", ("org",)),
            "hf_reads": User("me", ("org",), "read"),
            "hf_fine": User("me", ("org",), "fineGrained"),
            "hf_other": User("somebody-else"),
        }
    )
    faults: list[Fault] = field(default_factory=list)
    page: int = 1000  # entries of a listing that come at a time
    asked: list[str] = field(default_factory=list)
    log: list[Asked] = field(default_factory=list)
    refused_cards: str = ""  # a key whose value no card may have
    held: threading.Event = field(default_factory=threading.Event)  # a request is being held
    let_go: bool = False
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """Variables for a client: this server, a cache of its own, and no other address."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and k != "HUGGING_FACE_HUB_TOKEN"}
        return {
            **kept,
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",  # would ask a server that is not the Hub
            "USE_PARQUET_EXPORT": "0",  # likewise
            **more,
        }

    async def answer(self, request: web.Request) -> web.StreamResponse:
        path = request.rel_url.raw_path
        asked = Asked(request.method, unquote(path), dict(request.query))
        asked.agent = request.headers.get("User-Agent", "")
        name = f"{asked.method} {asked.path}"
        self.asked.append(name)
        self.log.append(asked)
        if self.broken:
            return web.Response(status=500)
        fault = next((fault for fault in self.faults if fault.hits(name)), None)
        if fault is not None and fault.status is not None:
            asked.status = fault.status
            return Refused(fault.status, "", fault.text).response(fault.headers)
        if fault is not None and fault.when != AFTER:
            if fault.when == MIDDLE:
                body = await request.content.read(max(1, (request.content_length or 2) // 2))
                asked.sent = len(body)
            if (cut := await self._nothing(request, fault)) is not None:
                return cut
        body = await request.read()
        asked.sent = len(body)
        try:
            response = await self._route(request, [unquote(part) for part in path.strip("/").split("/")], body)
        except Refused as refused:
            response = refused.response()
        if fault is not None and fault.when == AFTER and (cut := await self._nothing(request, fault)) is not None:
            return cut
        asked.status = response.status
        return response

    def forget(self) -> None:
        """Takes back repositories, faults and the log; the port stays."""
        for kept in (self.repos, self.faults, self.asked, self.log):
            kept.clear()
        self.held.clear()
        self.refused_cards = ""

    def release(self) -> None:
        """Lets the request that is held go on."""
        self.let_go = True

    async def _nothing(self, request: web.Request, fault: Fault) -> web.StreamResponse | None:
        """Cuts the connection, at once or when its other end goes; None where the request may go on after all."""
        transport = request.transport
        assert transport is not None
        if fault.hold:
            self.held.set()
            while not transport.is_closing():
                await asyncio.sleep(0.002)
                if self.let_go:
                    self.let_go = False
                    return None
        with contextlib.suppress(Exception):
            transport.abort()
        return web.Response(status=500)

    async def _route(self, request: web.Request, parts: list[str], body: bytes) -> web.StreamResponse:
        user = self._user(request)
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
                found = validated(json.loads(body)["content"], self.refused_cards)
                return web.json_response(found, status=400 if found["errors"] else 200)
            case ["api", "repos", "create"]:
                return self._create(json.loads(body), user)
            case ["api", "repos", "delete"]:
                name = named(json.loads(body), user.name if user else "")
                self._writer(name, user)
                del self.repos[name]
                return web.Response()
            case ["api", "datasets", namespace, name, *rest]:
                return await self._api(request, f"{namespace}/{name}", rest, user, body)
            case ["datasets", namespace, name, "info", "lfs", "objects", "batch"]:
                return self._batch(f"{namespace}/{name.removesuffix('.git')}", json.loads(body), user)
            case ["datasets", namespace, name, "resolve", *rest]:
                return self._resolve(request, f"{namespace}/{name}", rest, user)
            case ["lfs", namespace, name, oid]:
                repo = self.repos[f"{namespace}/{name}"]
                if Blob(body).sha256 != oid:
                    raise Refused(400, "", "content does not match its digest")
                repo.objects[oid] = body
                return web.Response(headers={"ETag": f'"{oid}"'})
            case ["verify", namespace, name]:
                told = json.loads(body)
                stored = self.repos[f"{namespace}/{name}"].objects.get(told["oid"])
                if stored is None or len(stored) != told["size"]:
                    raise Refused(404, "", "no such object")
                return web.json_response({})
            case ["api", "datasets", *names] | ["datasets", *names]:
                self._reader("/".join(names[:1]), user)  # a name without a namespace is nobody's
        raise Refused(404, "", f"no such route: {request.method} /{'/'.join(parts)}")

    def _create(self, asked: dict[str, Any], user: User | None) -> web.Response:
        name = named(asked, user.name if user else "")
        if user is None:
            raise Refused(401, "", "Invalid username or password.")
        if not user.owns(name.split("/")[0]) or user.role != "write":
            raise Refused(
                403,
                "",
                f"You don't have the rights to create a dataset under the namespace {name.split('/')[0]!r}",
            )
        url = f"{self.url}/datasets/{name}"
        if name in self.repos:
            raise Refused(409, "", "You already created this dataset repo", url=url)
        private = asked.get("visibility", "private" if asked.get("private") else "public") == "private"
        self.repos[name] = Repo({".gitattributes": ATTRIBUTES}, private=private)
        return web.json_response({"url": url, "name": name, "id": name})

    async def _api(
        self, request: web.Request, name: str, rest: list[str], user: User | None, body: bytes
    ) -> web.StreamResponse:
        repo = self._reader(name, user)
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
                return self._paged(request, listed)
            case ["POST", "paths-info", revision]:
                paths = [str(path) for path in (await request.post()).getall("paths", [])]
                found = [entry for entry in entries(files_of(repo, revision)) if entry["path"] in paths]
                return web.json_response(found)
            case ["GET", "commits", revision]:
                files_of(repo, revision)
                return self._paged(
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
        self._writer(name, user, proposes=request.query.get("create_pr") in ("1", "true"))
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
                return self._commit(request, name, repo, revision, user, body)
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
        self, request: web.Request, name: str, repo: Repo, revision: str, user: User | None, body: bytes
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
            "commitUrl": f"{self.url}/datasets/{name}/commit/{oid}",
        }
        if pull is not None:
            answer["pullRequestUrl"] = f"{self.url}/datasets/{name}/discussions/{pull}"
        return web.json_response(answer)

    def _batch(self, name: str, asked: dict[str, Any], user: User | None) -> web.Response:
        self._reader(name, user)
        repo = self._writer(name, user, proposes=True)
        objects = []
        for wanted in asked["objects"]:
            found: dict[str, Any] = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in repo.objects:
                found["actions"] = {
                    "upload": {"href": f"{self.url}/lfs/{name}/{wanted['oid']}"},
                    "verify": {"href": f"{self.url}/verify/{name}"},
                }
            objects.append(found)
        return web.json_response({"transfer": "basic", "objects": objects})

    def _resolve(self, request: web.Request, name: str, rest: list[str], user: User | None) -> web.Response:
        repo = self._reader(name, user)
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

    def _paged(self, request: web.Request, entries: list[dict[str, Any]]) -> web.Response:
        start = int(request.query.get("cursor", "0"))
        headers = {}
        if start + self.page < len(entries):
            following = request.rel_url.update_query(cursor=str(start + self.page))
            headers["Link"] = f'<{self.url}{following}>; rel="next"'
        return web.json_response(entries[start : start + self.page], headers=headers)

    def _user(self, request: web.Request) -> User | None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if not scheme:
            return None
        if token not in self.users:
            raise Refused(401, "", "Invalid credentials in Authorization header")
        return self.users[token]

    def _reader(self, name: str, user: User | None) -> Repo:
        repo = self.repos.get(name)
        hidden = repo is not None and repo.private and not (user and user.owns(name.split("/")[0]))
        if repo is None or hidden:
            # As the Hub answers who is not logged in, and who is.
            raise Refused(404 if user else 401, "RepoNotFound", "Repository not found")
        return repo

    def _writer(self, name: str, user: User | None, *, proposes: bool = False) -> Repo:
        repo = self._reader(name, user)
        if user is None:
            raise Refused(401, "", "Invalid username or password.")
        if not (proposes or user.owns(name.split("/")[0])) or user.role != "write":
            raise Refused(403, "", "You don't have the rights to write to this repository")
        return repo


@contextmanager
def running(hub: Hub) -> Iterator[Hub]:
    """Runs `hub` on a free port of loopback, in a thread of its own."""
    loop = asyncio.new_event_loop()
    ready = threading.Event()

    async def start() -> web.AppRunner:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", hub.answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        hub.port = runner.addresses[0][1]
        return runner

    def serve() -> None:
        asyncio.set_event_loop(loop)
        runner = loop.run_until_complete(start())
        ready.set()
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield hub
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


__all__ = ["AFTER", "BEFORE", "MIDDLE", "Asked", "Hub", "User", "running"]
