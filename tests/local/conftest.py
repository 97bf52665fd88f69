"""One engine for the whole room: loading it takes seconds. It runs as the tool runs it, as a child process."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from selfinstruct_hub.local.child import LocalServer

API_KEY = "a-key-for-tests"


def is_alive(pid: int) -> bool:
    """A zombie, which nobody has waited for yet, counts as dead."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


def wait_until_dead(pid: int) -> bool:
    deadline = time.monotonic() + 30
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not is_alive(pid)


@pytest.fixture(scope="session")
def local_server() -> Iterator[str]:
    """The base URL of the embedded engine's server."""
    server = LocalServer()
    yield server.start()
    pid = server.pid
    assert pid is not None
    server.stop()
    server.stop()  # a second time is harmless
    assert wait_until_dead(pid)


GUARDED = """
import signal, sys
from selfinstruct_hub.local.child import LocalServer
server = LocalServer(api_key=sys.argv[1], max_concurrent_requests=2)
url = server.start()
print(server.pid, url, flush=True)
signal.pause()
"""


@pytest.fixture(scope="session")
def guarded_server() -> Iterator[str]:
    """The same with an API key, and room for two requests. Its parent is killed in the end: no orphan is left."""
    with subprocess.Popen([sys.executable, "-c", GUARDED, API_KEY], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        number, url = parent.stdout.readline().split()
        child = int(number)
        assert is_alive(child)
        assert os.getsid(child) != os.getsid(parent.pid), "Ctrl-C in the terminal must not reach it"
        yield url
        assert is_alive(child)
        parent.kill()
    assert wait_until_dead(child)
