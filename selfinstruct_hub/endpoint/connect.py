"""Opens the endpoint that the settings name, or starts the embedded engine where they name none."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import aiohttp

from selfinstruct_hub import events
from selfinstruct_hub.config import EndpointSettings
from selfinstruct_hub.endpoint import Server, detect, failures, template, tgi
from selfinstruct_hub.endpoint.asking import Asker
from selfinstruct_hub.endpoint.dispatch import Dispatcher
from selfinstruct_hub.errors import ConfigError, EndpointRefusedError, EndpointUnreachableError

API_KEY_VARIABLE = "SELFINSTRUCT_API_KEY"
_HUB_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_HUB_HOSTS = (".huggingface.co", ".huggingface.cloud")


@asynccontextmanager
async def opened(settings: EndpointSettings, report: events.Report = events.ignore) -> AsyncIterator[Dispatcher]:
    """The endpoint, closed at the end; the embedded engine, if it was started, is stopped. `report` gets a
    Connected for every address.

    Raises EndpointError or ConfigError in one line: an address that cannot be used, or several that do not make
    one endpoint.
    """
    if settings.urls:
        async with _connected(settings.urls, settings, report) as endpoint:
            yield endpoint
        return
    # Imported here: most runs have an endpoint and no need of the engine.
    from selfinstruct_hub.local.child import LocalServer

    # `model` names its weights, and it speaks one protocol.
    asked = settings.model_copy(update={"model": None, "api": tgi.KIND})
    with LocalServer(settings.model) as url:
        async with _connected([url], asked, report) as endpoint:
            yield endpoint


@asynccontextmanager
async def _connected(
    urls: Sequence[str], settings: EndpointSettings, report: events.Report
) -> AsyncIterator[Dispatcher]:
    servers = await _servers(urls, settings, report)
    endpoint = Dispatcher(servers, settings=settings, report=report)
    try:
        yield endpoint
    finally:
        await endpoint.close()


async def _servers(urls: Sequence[str], settings: EndpointSettings, report: events.Report) -> list[Server]:
    """A server for every address, all of one model and one form."""
    known = secrets()
    opening = [asyncio.ensure_future(_server(url, settings, known)) for url in urls]
    try:
        await asyncio.wait(opening)
        found = []
        for one in opening:
            try:
                found.append(one.result())
            except EndpointUnreachableError as error:
                if len(urls) == 1:
                    raise
                raise EndpointUnreachableError(f"{error}; without this address the others can go on") from None
        for _, connected in found:
            report(connected)
        servers = [server for server, _ in found]
        _check_alike(servers)
    except BaseException:
        for one in opening:
            one.cancel()
        for result in await asyncio.gather(*opening, return_exceptions=True):
            if not isinstance(result, BaseException):
                await result[0].close()
        raise
    return servers


async def _server(
    url: str, settings: EndpointSettings, known: failures.Secrets
) -> tuple[Server, events.Connected]:
    key = api_key(url)
    session = aiohttp.ClientSession(
        headers={"Authorization": f"Bearer {key}"} if key else {}, connector=aiohttp.TCPConnector(limit=0)
    )
    try:
        asker = Asker(
            session,
            failures.shown(url),
            key=key is not None,
            attempts=settings.attempts,
            patience=settings.timeout,
            secrets=known,
        )
        address = detect.Address.of(url)
        found = await detect.detect(asker, address, api=settings.api, model=settings.model)
        how = found.how
        server: Server
        if found.kind == detect.OPENAI:
            _check_for_openai(asker.name, settings)
            # Imported here: the Hub's client takes longer to import than the rest of the room.
            from selfinstruct_hub.endpoint.openai import OpenAIServer

            server = OpenAIServer(
                session,
                address.base,
                model=found.model,
                timeout=settings.timeout,
                name=asker.name,
                asked_as=found.asked_as,
                version=found.version,
                limits=found.limits,
                dialect=found.dialect,
                embedded=found.embedded,
                secrets=known,
            )
        else:
            chat = await _template(asker, address.root, found, settings)
            how += f"; chat template from {chat.source}" if chat else ""
            server = tgi.TGIServer(
                session,
                address.root,
                dict(found.info),
                timeout=settings.timeout,
                model=found.model,
                template=chat,
                secrets=known,
            )
    except BaseException:
        await session.close()
        raise
    connected = events.Connected(
        endpoint=server.name,
        kind=server.kind,
        model=server.model,
        version=server.version,
        chat=server.chat,
        max_concurrent_requests=server.limits.max_concurrent_requests,
        max_total_tokens=server.limits.max_total_tokens,
        found=known.hide(how),
    )
    return server, connected


def _check_for_openai(name: str, settings: EndpointSettings) -> None:
    what = None
    if settings.chat == "off":
        what = "`endpoint.chat: off` needs a server with text-generation-inference's /generate"
    elif settings.tokenizer is not None:
        what = "`endpoint.tokenizer` is for servers with text-generation-inference's /generate"
    if what:
        raise ConfigError(f"{name} is OpenAI-compatible, which puts prompts into its own chat template; {what}")


async def _template(
    asker: Asker, root: str, found: detect.Found, settings: EndpointSettings
) -> template.ChatTemplate | None:
    if settings.chat == "off":
        return None
    if settings.tokenizer is not None:
        return await template.of_tokenizer(settings.tokenizer)
    # Its prompts and defaults were measured without one.
    if settings.chat == "auto" and found.embedded:
        return None
    chat, answer = await template.of_server(asker, root)
    if chat is None and settings.chat == "on":
        raise EndpointRefusedError(
            f"{asker.name} has no chat template: {answer}; name a tokenizer that has one in `endpoint.tokenizer`, "
            "or set `endpoint.chat: auto`"
        )
    return chat


def _check_alike(servers: Sequence[Server]) -> None:
    first = servers[0]
    for other in servers[1:]:
        if other.model != first.model:
            raise ConfigError(
                f"the endpoints serve different models: {first.name} {first.model}, {other.name} {other.model}; "
                "a run is made with one"
            )
        if other.chat != first.chat:
            wraps, bare = (first, other) if first.chat else (other, first)
            raise ConfigError(
                f"{wraps.name} puts prompts into a chat template and {bare.name} does not; set `endpoint.chat` or "
                "`endpoint.tokenizer`, or leave one of them out"
            )


def api_key(url: str) -> str | None:
    """The key for `url`: SELFINSTRUCT_API_KEY, or the Hub's token where the host is the Hub's own. A Hub token
    is never sent to anybody else."""
    if key := os.environ.get(API_KEY_VARIABLE, "").strip():  # a secret read from a file ends with a line break
        return key
    if f".{urlsplit(url).hostname or ''}".endswith(_HUB_HOSTS):
        from huggingface_hub import get_token

        return get_token()
    return None


def secrets() -> failures.Secrets:
    """Every key of this machine that a server could repeat in its words."""
    from huggingface_hub import get_token

    named = [os.environ.get(name, "").strip() for name in (API_KEY_VARIABLE, *_HUB_TOKENS)]
    return failures.Secrets([*named, get_token()])
