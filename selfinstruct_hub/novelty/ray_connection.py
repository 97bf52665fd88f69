"""A Ray cluster is started or joined, and left again. Nothing of the gate is known here.

Nothing is imported from Ray until then. What a cluster that cannot be used says becomes one line here, and so does
what one says that fails while it is used. One of our own listens on this machine alone, and leaves no process and
no file behind.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from secrets import token_hex
from typing import Any

from selfinstruct_hub.errors import ClusterError, UsageError

# Seconds for a machine to answer at all, and to let us into its cluster.
_ANSWER, _JOIN = 10.0, 60.0
# Bytes for what is on its way, on each machine of a cluster of our own; Ray takes a third of all memory otherwise.
_STORE = 100_000_000
# The longest folder that leaves room for the names of Ray's sockets in it, of which a path may have 107 bytes.
_LONGEST_FOLDER = 30


@contextmanager
def connected(workers: int | None, address: str | None) -> Iterator[int]:
    """Ray at `address`, or a cluster of our own with room for `workers`, until it is left. Yields `workers`, or as
    many as processors are free where it is None. Where the process is connected to Ray already, that stays, then
    and afterwards."""
    own = address in (None, "local")
    if not own:
        _reach(str(address))
    with ExitStack() as stack:
        with _environment(own_settings() if own else {}):
            try:
                import ray
            except ImportError as error:
                raise ClusterError(
                    "Ray, which compares on several machines, is not installed: run "
                    'pip install "selfinstruct-hub[ray]"'
                ) from error
            if not ray.is_initialized():
                options: dict[str, Any] = {"address": address}
                if own:
                    workers = workers or os.cpu_count() or 1
                    # Not in the usual place, where others would find the cluster by "auto".
                    folder = tempfile.mkdtemp(prefix="ray-", dir=_short_folder())
                    stack.callback(shutil.rmtree, folder, ignore_errors=True)
                    options = {"address": "local", "num_cpus": workers, "num_gpus": 0, "_temp_dir": folder}
                    options |= {"object_store_memory": _STORE, "include_dashboard": False}
                else:
                    _rehearse(str(address))
                try:
                    stack.enter_context(_initialized(options))
                except Exception as error:  # Ray and what it stands on raise all kinds here
                    where = "a Ray cluster does not start here" if own else f"no Ray cluster to join at {address}"
                    raise ClusterError(f"{where}: {first_line(error)}") from error
        yield workers or _free_processors()


def _free_processors() -> int:
    import ray

    resources: Mapping[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
    free = int(resources.get("CPU", 0))
    if not free:
        raise ClusterError("no CPU of the Ray cluster is free: try later, or add machines to it")
    return free


@contextmanager
def _initialized(options: Mapping[str, Any]) -> Iterator[None]:
    import ray

    before = signal.getsignal(signal.SIGTERM)
    mine = threading.current_thread() is threading.main_thread()  # signals are for this one only
    try:
        # What Ray itself has to say of a lost worker would go to stdout, whatever is asked for.
        ray._private.worker._worker_logs_enabled = False
        ray.init(**options, log_to_driver=False, logging_level=logging.CRITICAL)
        if mine:
            # Ray has set something that prints a stack. What the command does then is its own business; where it
            # does nothing, Ray's processes and files would stay.
            signal.signal(signal.SIGTERM, before or (lambda number, _: sys.exit(128 + number)))
        yield
    finally:
        ray.shutdown()
        ray._private.worker._worker_logs_enabled = True
        if mine:
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@cache
def own_settings() -> Mapping[str, str]:
    """How a cluster of our own is started: no statistics are sent, environments and GPUs stay as they are. It
    listens on loopback only, and other users of the machine are kept out by a token: Ray reads these when it is
    imported, so that they come too late where the program has imported it before."""
    settings = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    if sys.modules.get("ray") is None:
        settings |= {
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # no other machines, on Linux either
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": token_hex(32),
        }
    return settings


def _short_folder() -> Path:
    folder = Path(tempfile.gettempdir())
    return folder if len(str(folder)) <= _LONGEST_FOLDER or os.name == "nt" else Path("/tmp")


def _reach(address: str) -> None:
    """Tells at once where nothing answers; Ray tries for a minute."""
    if address == "auto":
        return
    host, _, port = address.rpartition("//")[2].rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise UsageError(
            f"{address!r} is no address of a Ray cluster: expected local, auto, host:6379 or ray://host:10001"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER).close()
    except OSError as error:
        raise ClusterError(f"no Ray cluster answers at {address}: {first_line(error)}") from error


def _rehearse(address: str) -> None:
    """Joins in a process of its own first: with something else at the address Ray tries for many minutes, prints
    what it thinks of it, and may end the process."""
    script = (
        "import sys, ray\n"
        "try: ray.init(sys.argv[1], log_to_driver=False, logging_level=50)\n"
        "except Exception as error: sys.exit(str(error).strip() or type(error).__name__)"
    )
    command = [sys.executable, "-c", script, address]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_JOIN)
    except subprocess.TimeoutExpired:
        said = f"what answers there does not let this machine in within {_JOIN:g} seconds"
        raise ClusterError(f"no Ray cluster to join at {address}: {said}") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line and not line.startswith("[")]  # [: its log
        said = lines[0].rstrip(":. ") if lines else f"Ray ended with {done.returncode}"
        if address == "auto" and "running Ray instance" in said:
            said = "none runs on this machine; name its address, or start one with `ray start --head`"
        raise ClusterError(f"no Ray cluster to join at {address}: {said}")


@contextmanager
def one_line() -> Iterator[None]:
    """Raises ClusterError, one line, for a cluster that fails while it is used."""
    from ray import exceptions

    try:
        yield
    except MemoryError as error:
        raise ClusterError("a worker of the Ray cluster ran out of memory: take more of them") from error
    except exceptions.RayTaskError:  # raised in our code there: a bug, whose traceback Ray brings along
        raise
    except (exceptions.RayError, ConnectionError) as error:
        raise ClusterError(
            "a worker of the Ray cluster was lost, and its share of the pool with it (it was killed, memory ran "
            f"out, or its machine is gone): start again ({type(error).__name__})"
        ) from error


def first_line(error: Exception) -> str:
    """What `error` says, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(":. ")
