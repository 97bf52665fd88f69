"""A running Hub: what it holds, what it was asked, and the connections that it cuts or holds when it is told to.
`routes` has the answers.

Clients learn the address from HF_ENDPOINT, which huggingface_hub reads when it is imported, so they run in a child
process (`environment` is what that needs to stay on loopback), or are given `url` by hand.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from aiohttp import web

from tests.support.hub.access import User
from tests.support.hub.answers import Refused
from tests.support.hub.faults import AFTER, BEFORE, MIDDLE, Fault
from tests.support.hub.history import Repo
from tests.support.hub.routes import respond


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
    refused_objects: str = ""  # why no large file is taken
    own_address: str = ""  # what it calls itself, where clients come through another one
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
            if fault.body is not None:
                return web.Response(status=fault.status, body=fault.body, headers=fault.headers)
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
            response = await respond(self, request, [unquote(part) for part in path.strip("/").split("/")], body)
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
        self.refused_cards = self.refused_objects = self.own_address = ""

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
