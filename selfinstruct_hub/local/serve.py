"""Starts and stops the server: the socket, the signals, and what a person sees in the terminal.

The routes are in `routes.py`. Nothing here is needed by a client of the server.
"""

import asyncio
import errno
import ipaddress
import signal
import socket
import sys
from collections.abc import Callable

from aiohttp import web

from selfinstruct_hub.errors import LocalEngineError
from selfinstruct_hub.local.engine import Engine
from selfinstruct_hub.local.grammar import GrammarGuard
from selfinstruct_hub.local.routes import TgiServer
from selfinstruct_hub.local.weights import find_weights

# How long a stopping server lets requests in flight finish.
GRACE_SECONDS = 1.0


def serve(
    model: str | None,
    host: str,
    port: int,
    *,
    api_key: str | None = None,
    max_concurrent_requests: int = 128,
    max_batch_size: int = 16,
) -> None:
    """Serves `model` (see `find_weights`) until SIGINT or SIGTERM. Port 0 is any free one.

    Raises ModelNotFoundError for the weights, LocalEngineError for the engine or an address that cannot be had.
    """

    def ready(url: str, engine: Engine) -> None:
        if not _is_loopback(host) and api_key is None:
            _say(f"warning: {host} can be reached from other machines, and no API key is set")
        _say(f"{engine.weights.model_id} is ready at {url} (Ctrl-C stops it)")
        _say(f"try: selfinstruct-hub grow DIR --endpoint {url}")

    run_server(
        model,
        host,
        port,
        api_key=api_key,
        max_concurrent_requests=max_concurrent_requests,
        max_batch_size=max_batch_size,
        ready=ready,
    )


def run_server(
    model: str | None,
    host: str,
    port: int,
    *,
    api_key: str | None,
    max_concurrent_requests: int,
    max_batch_size: int,
    ready: Callable[[str, Engine], None],
    stops: list[Callable[[], object]] | None = None,
) -> None:
    """`ready` is called with the URL once requests are answered; `stops` receives a function that ends it."""
    # The address first: it fails at once, where loading the model takes seconds.
    sock = _bind(host, port)
    engine = None
    try:
        engine = Engine(find_weights(model), max_batch_size=max_batch_size)
        asyncio.run(_run(engine, sock, host, api_key, max_concurrent_requests, ready, stops))
    finally:
        sock.close()
        if engine is not None:
            engine.close()


async def _run(
    engine: Engine,
    sock: socket.socket,
    host: str,
    api_key: str | None,
    max_concurrent_requests: int,
    ready: Callable[[str, Engine], None],
    stops: list[Callable[[], object]] | None,
) -> None:
    guard = GrammarGuard(engine.weights.path)
    server = TgiServer(engine, guard, api_key=api_key, max_concurrent_requests=max_concurrent_requests)
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, stop.set)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop.set))
    if stops is not None:
        stops.append(lambda: loop.call_soon_threadsafe(stop.set))
    # Without handler_cancellation a client that hangs up would be decoded for to the end.
    runner = web.AppRunner(server.app, handler_cancellation=True, shutdown_timeout=GRACE_SECONDS, access_log=None)
    await runner.setup()
    try:
        await web.SockSite(runner, sock).start()
        name = f"[{host}]" if ":" in host else host
        ready(f"http://{name}:{sock.getsockname()[1]}", engine)
        await stop.wait()
    except OSError as error:
        raise _cannot_listen(host, sock.getsockname()[1], error) from error
    finally:
        await runner.cleanup()
        await guard.close()


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, kind)
    except (OSError, OverflowError) as error:
        raise LocalEngineError(f"cannot listen on {host} port {port}: {error}") from error
    try:
        if sys.platform != "win32":  # where the option means that two servers may share the port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise _cannot_listen(host, port, error) from error
    return sock


def _cannot_listen(host: str, port: int, error: OSError) -> LocalEngineError:
    if error.errno == errno.EADDRINUSE:
        return LocalEngineError(
            f"port {port} on {host} is taken: choose another with --port, or any free one with --port 0"
        )
    return LocalEngineError(f"cannot listen on {host} port {port}: {error.strerror or error}")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
