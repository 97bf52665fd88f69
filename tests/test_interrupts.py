"""Ctrl-C and SIGTERM at a whole `grow` process: once finishes what is in flight, twice stops at once."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path

import pytest
from aiohttp import web

from selfinstruct_hub import config
from selfinstruct_hub.interrupts import Interrupts
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.workspace import Workspace
from tests.support import tool
from tests.support.child import PATIENCE, Child
from tests.support.tgi import Server, running

TASKS = 60  # more than the answers of any test here bring


@pytest.fixture
def space(tmp_path: Path) -> Path:
    Workspace.create(tmp_path / "w", config.Settings(card=config.CardSettings(pictures="off")))
    return tmp_path / "w"


def set_to(space: Path, **values: object) -> None:
    settings = config.with_overrides(Workspace.at(space).settings(), values)
    (space / config.FILE_NAME).write_text(config.render(settings))


def command(space: Path, server: Server) -> list[str]:
    return ["grow", str(space), "--tasks", str(TASKS), "--endpoint", server.url, "--concurrency", "4"]


def stored(space: Path) -> int:
    with Pool.open(space / "pool.sqlite3", read_only=True) as pool:
        return pool.cost(1)[0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_finishes_and_stores_what_is_in_flight(space: Path, number: signal.Signals) -> None:
    with running(Server(held=lambda n: n >= 6)) as server:
        child = Child(*command(space, server))
        child.until(lambda: len(server.requests) >= 10)
        child.send(number)
        child.says("finishing 4 in flight")
        server.held = lambda n: False
        assert child.end() == 130, child.errors
        assert "Traceback" not in child.errors
        assert f"`selfinstruct-hub {' '.join(command(space, server))}` goes on" in child.errors
        assert stored(space) == len(server.requests) == 10
        again = tool.run(*command(space, server))
        assert again.returncode == 0, again.stderr
        seeds = [request["parameters"]["seed"] for request in server.requests]
        assert len(set(seeds)) == len(seeds)  # nothing was asked for twice


def test_two_signals_stop_at_once(space: Path) -> None:
    set_to(space, **{"endpoint.finish_seconds": 3600})
    with running(Server(held=lambda n: n >= 6)) as server:
        child = Child(*command(space, server))
        child.until(lambda: len(server.requests) >= 10)
        child.send(signal.SIGINT)
        child.says("finishing 4 in flight")
        assert child.runs
        child.send(signal.SIGINT)
        assert child.end() == 130, child.errors
        assert "Traceback" not in child.errors
        assert stored(space) == 6


def test_what_is_in_flight_is_waited_for_no_longer_than_is_set(space: Path) -> None:
    set_to(space, **{"endpoint.finish_seconds": 0.3})
    with running(Server(held=lambda n: n >= 6)) as server:
        child = Child(*command(space, server))
        child.until(lambda: len(server.requests) >= 10)
        child.send(signal.SIGINT)
        assert child.end() == 130, child.errors
        assert stored(space) == 6


def test_a_signal_while_the_endpoint_is_awaited_stops_at_once(space: Path) -> None:
    """Nothing is in flight: nothing to finish."""

    async def loading(_: web.Request) -> web.Response:
        return web.Response(status=503, headers={"Retry-After": "300"})

    server = Server()
    server._info = loading  # type: ignore[method-assign, assignment]
    with running(server):
        child = Child(*command(space, server))
        child.until(lambda: bool(server.received))
        child.send(signal.SIGINT)
        assert child.end() == 130, child.errors
        assert "Traceback" not in child.errors


def test_pauses_before_another_try_end_with_the_first_signal(space: Path) -> None:
    busy = {"error": "later", "error_type": "overloaded"}
    server = Server(fault=lambda n: web.json_response(busy, status=429, headers={"Retry-After": "300"}))
    with running(server):
        child = Child(*command(space, server))
        child.says("overloaded (HTTP 429: later), trying again")
        child.send(signal.SIGINT)
        assert child.end() == 130, child.errors


def test_handlers_are_those_from_before_again() -> None:
    async def work(interrupts: Interrupts) -> str:
        return json.dumps(signal.getsignal(signal.SIGINT) is before)

    before = signal.getsignal(signal.SIGINT)
    assert Interrupts().run(work) == "false"
    assert signal.getsignal(signal.SIGINT) is before


def test_in_another_thread_nothing_is_handled_and_all_works() -> None:
    async def work(interrupts: Interrupts) -> int:
        return 7

    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(Interrupts().run(work)))
    thread.start()
    thread.join(PATIENCE)
    assert found == [7]
