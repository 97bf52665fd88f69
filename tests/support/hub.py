"""A server that speaks the part of the Hub's protocol that reading a dataset needs, over real HTTP on loopback.

Datasets are dicts of files. Clients learn the address from HF_ENDPOINT, which huggingface_hub reads when it is
imported, so they run in a child process: `environment` is what that needs to stay on loopback.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web


def _digest(*parts: bytes) -> str:
    return hashlib.sha1(b"\0".join(parts)).hexdigest()


@dataclass
class Repo:
    """A dataset: its files, who may read them, and tags beside main (all of them stand for one commit)."""

    files: Mapping[str, bytes]
    gated: bool = False
    tags: tuple[str, ...] = ()

    @property
    def commit(self) -> str:
        return _digest(*(_digest(path.encode(), content).encode() for path, content in sorted(self.files.items())))

    def knows(self, revision: str) -> bool:
        return revision in ("main", self.commit, *self.tags)


@dataclass
class Hub:
    """A running Hub. `asked` holds method and path of every request in the order they came."""

    repos: dict[str, Repo] = field(default_factory=dict)
    broken: bool = False  # answers 500 to everything
    asked: list[str] = field(default_factory=list)
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
        self.asked.append(f"{request.method} {request.path}")
        if self.broken:
            return web.Response(status=500)
        parts = request.path.strip("/").split("/")
        if parts[0] == "api":
            return await self._api(request, parts[2:])
        # /datasets/NAMESPACE/NAME/resolve/REVISION/PATH
        _, namespace, name, _, revision, *path = parts
        repo, refused = self._repo(f"{namespace}/{name}", revision)
        if repo is None:
            return refused
        if repo.gated:
            return _refusal(403, "GatedRepo", "Access to this dataset is restricted")
        content = repo.files.get("/".join(path))
        headers = {"X-Repo-Commit": repo.commit}
        if content is None:
            return _refusal(404, "EntryNotFound", "Entry not found", headers)
        headers |= {"ETag": f'"{_digest(content)}"', "Accept-Ranges": "bytes"}
        if request.method == "HEAD":
            return web.Response(headers={**headers, "Content-Length": str(len(content))})
        wanted = request.http_range
        part = content[wanted]
        partial = wanted.start is not None or wanted.stop is not None
        return web.Response(body=part, status=206 if partial else 200, headers=headers)

    async def _api(self, request: web.Request, parts: list[str]) -> web.StreamResponse:
        """NAMESPACE/NAME[/revision/REVISION | /tree/REVISION[/FOLDER] | /paths-info/REVISION]"""
        name, rest = "/".join(parts[:2]), parts[2:]
        what, revision = (rest[0], rest[1]) if len(rest) > 1 else ("revision", "main")
        repo, refused = self._repo(name, revision)
        if repo is None:
            return refused
        if what == "revision":
            listed = [{"rfilename": path} for path in repo.files]
            return web.json_response(
                {"id": name, "sha": repo.commit, "siblings": listed, "tags": [], "private": False}
            )
        if what == "tree":
            below = "/".join(rest[2:])
            deep = request.query.get("recursive", "").lower() in ("1", "true")
            entries = [e for e in self._entries(repo) if _is_below(e["path"], below, deep)]
            return web.json_response(entries) if entries else _refusal(404, "EntryNotFound", "no such folder")
        assert what == "paths-info", what
        paths = [str(path) for path in (await request.post()).getall("paths", [])]
        return web.json_response([entry for entry in self._entries(repo) if entry["path"] in paths])

    def _repo(self, name: str, revision: str) -> tuple[Repo, web.Response] | tuple[None, web.Response]:
        repo = self.repos.get(name)
        if repo is None:  # as the Hub answers who is not logged in
            return None, _refusal(401, "RepoNotFound", "Repository not found")
        if not repo.knows(revision):
            return None, _refusal(404, "RevisionNotFound", "Invalid rev id")
        return repo, web.Response()

    @staticmethod
    def _entries(repo: Repo) -> list[dict[str, Any]]:
        folders = {str(parent) for path in repo.files for parent in Path(path).parents if str(parent) != "."}
        return [
            *({"type": "directory", "path": path, "oid": _digest(path.encode())} for path in sorted(folders)),
            *(
                {"type": "file", "path": path, "oid": _digest(content), "size": len(content)}
                for path, content in sorted(repo.files.items())
            ),
        ]


def _is_below(path: str, folder: str, deep: bool) -> bool:
    if folder and not path.startswith(f"{folder}/"):
        return False
    return deep or "/" not in path.removeprefix(f"{folder}/" if folder else "")


def _refusal(status: int, code: str, text: str, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.json_response(
        {"error": text}, status=status, headers={"X-Error-Code": code, "X-Error-Message": text, **(headers or {})}
    )


@contextmanager
def running(hub: Hub) -> Iterator[Hub]:
    """Runs `hub` on a free port of loopback, in a thread of its own."""
    loop = asyncio.new_event_loop()
    ready = threading.Event()

    async def start() -> web.AppRunner:
        app = web.Application()
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
