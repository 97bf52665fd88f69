"""One engine for the whole room: loading it takes seconds. It runs as the tool runs it, as a child process."""

from collections.abc import Iterator

import pytest

from selfinstruct_hub.local.child import LocalServer

API_KEY = "a-key-for-tests"


@pytest.fixture(scope="session")
def local_server() -> Iterator[str]:
    """The base URL of the embedded engine's server."""
    with LocalServer() as url:
        yield url


@pytest.fixture(scope="session")
def guarded_server() -> Iterator[str]:
    """The same with an API key, and room for two requests."""
    with LocalServer(api_key=API_KEY, max_concurrent_requests=2) as url:
        yield url
