"""Opens the endpoint that the settings name, or starts the embedded engine where they name none."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from selfinstruct_hub.config import EndpointSettings
from selfinstruct_hub.endpoint import Endpoint
from selfinstruct_hub.endpoint.tgi import TGIEndpoint

API_KEY_VARIABLE = "SELFINSTRUCT_API_KEY"
_HUB_HOSTS = (".huggingface.co", ".huggingface.cloud")


@asynccontextmanager
async def opened(settings: EndpointSettings) -> AsyncIterator[Endpoint]:
    """The endpoint, closed at the end; the embedded engine, if it was started, is stopped."""
    if settings.url is not None:
        async with _connected(settings.url, settings.model, settings) as endpoint:
            yield endpoint
        return
    # Imported here: most runs have an endpoint and no need of the engine.
    from selfinstruct_hub.local.child import LocalServer

    with LocalServer(settings.model) as url:
        async with _connected(url, None, settings) as endpoint:
            yield endpoint


@asynccontextmanager
async def _connected(url: str, model: str | None, settings: EndpointSettings) -> AsyncIterator[Endpoint]:
    endpoint = await TGIEndpoint.connect(
        url, api_key=api_key(url), model=model, attempts=settings.attempts, timeout=settings.timeout
    )
    try:
        yield endpoint
    finally:
        await endpoint.close()


def api_key(url: str) -> str | None:
    """The key for `url`: SELFINSTRUCT_API_KEY, or the Hub's token where the host is the Hub's own. A Hub token
    is never sent to anybody else."""
    if key := os.environ.get(API_KEY_VARIABLE):
        return key
    if f".{urlsplit(url).hostname or ''}".endswith(_HUB_HOSTS):
        from huggingface_hub import get_token

        return get_token()
    return None
