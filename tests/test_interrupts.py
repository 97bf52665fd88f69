"""Ctrl-C and SIGTERM at a whole `grow` process: once finishes what is in flight, twice stops at once."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import web

from selfinstruct_hub import config
from selfinstruct_hub.interrupts import Interrupts
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.workspace import Workspace
from tests.support.tgi import Server, running

SECONDS = 30.0  # that nothing here may take


@pytest.fixture
def space(tmp_path: Path) -> Path:
    Workspace.create(tmp_path / "w", config.Settings())
    return tmp_path / "w"


def start(space: Path, server: Server, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "selfinstruct_hub", "grow", str(space), "--tasks", "400"),
            *("--endpoint", server.url, "--concurrency", "4", *options),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)


def stored(space: Path) -> int:
    with Pool.open(space / "pool.sqlite3", read_only=True) as pool:
        return pool.cost(1)[0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_finishes_and_stores_what_is_in_flight(space: Path, number: signal.Signals) -> None:
    with running(Server(delay=lambda n: 0.0 if n < 6 else 1.5)) as server:
        child = start(space, server)
        until(lambda: len(server.requests) >= 10)
        child.send_signal(number)
        _, errors = child.communicate(timeout=SECONDS)
        assert child.returncode == 130, errors
        assert "Traceback" not in errors
        assert "finishing 4 in flight" in errors
        command = f"selfinstruct-hub grow {space} --tasks 400 --endpoint {server.url} --concurrency 4"
        assert f"`{command}` goes on" in errors
        assert stored(space) == len(server.requests) == 10
        server.delay = lambda n: 0.0
        with start(space, server) as again:
            _, errors = again.communicate(timeout=SECONDS)
        assert again.returncode == 0, errors
        seeds = [request["parameters"]["seed"] for request in server.requests]
        assert len(set(seeds)) == len(seeds)  # nothing was asked for twice


def test_two_signals_stop_at_once(space: Path) -> None:
    with running(Server(delay=lambda n: 0.0 if n < 6 else 20)) as server:
        child = start(space, server)
        until(lambda: len(server.requests) >= 10)
        child.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert child.poll() is None
        child.send_signal(signal.SIGINT)
        began = time.monotonic()
        _, errors = child.communicate(timeout=SECONDS)
        assert time.monotonic() - began < 10
        assert child.returncode == 130, errors
        assert "Traceback" not in errors
        assert stored(space) == 6


def test_what_is_in_flight_is_waited_for_no_longer_than_is_set(space: Path) -> None:
    settings = Workspace.at(space).settings()
    short = config.with_overrides(settings, {"endpoint.finish_seconds": 0.3})
    (space / config.FILE_NAME).write_text(config.render(short))
    with running(Server(delay=lambda n: 0.0 if n < 6 else 20)) as server:
        child = start(space, server)
        until(lambda: len(server.requests) >= 10)
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=SECONDS / 2)
        assert child.returncode == 130, errors
        assert stored(space) == 6


def test_a_signal_while_the_endpoint_is_awaited_stops_at_once(space: Path) -> None:
    """Nothing is in flight: nothing to finish."""

    async def loading(_: web.Request) -> web.Response:
        return web.Response(status=503)

    server = Server()
    server._info = loading  # type: ignore[method-assign, assignment]
    with running(server):
        child = start(space, server)
        until(lambda: bool(server.received))
        time.sleep(0.2)
        child.send_signal(signal.SIGINT)
        began = time.monotonic()
        _, errors = child.communicate(timeout=SECONDS)
        assert time.monotonic() - began < 10
        assert child.returncode == 130, errors
        assert "Traceback" not in errors


def test_pauses_before_another_try_end_with_the_first_signal(space: Path) -> None:
    busy = {"error": "later", "error_type": "overloaded"}
    server = Server(fault=lambda n: web.json_response(busy, status=429, headers={"Retry-After": "60"}))
    with running(server):
        child = start(space, server)
        until(lambda: bool(server.requests))
        time.sleep(0.5)
        child.send_signal(signal.SIGINT)
        began = time.monotonic()
        _, errors = child.communicate(timeout=SECONDS)
        assert time.monotonic() - began < 10
        assert child.returncode == 130, errors


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
    thread.join(SECONDS)
    assert found == [7]
