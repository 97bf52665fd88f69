"""Checks what a run needs and says what to do: workspace, disk, endpoint or embedded engine, Hub."""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from selfinstruct_hub import __version__, config, seeds
from selfinstruct_hub.config import EndpointSettings
from selfinstruct_hub.endpoint.connect import API_KEY_VARIABLE, api_key, opened
from selfinstruct_hub.endpoint.tgi import shown
from selfinstruct_hub.errors import SelfInstructError
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.records import Decoding
from selfinstruct_hub.workspace import Workspace

_LITTLE_DISK = 1 << 30  # bytes


@dataclass(frozen=True)
class Finding:
    """One check. `ok` is None where something is missing that a run can do without."""

    name: str
    ok: bool | None
    text: str


def examine(directory: Path | None, endpoint: str | None) -> Iterator[Finding]:
    """The findings, one by one as they are made."""
    yield Finding("tool", True, f"selfinstruct-hub {__version__}, Python {platform.python_version()}")
    settings = EndpointSettings()
    if directory is not None:
        try:
            workspace = Workspace.at(directory)
            whole = workspace.settings()
        except SelfInstructError as error:
            yield Finding("workspace", False, str(error))
        else:
            settings = whole.endpoint
            yield Finding("workspace", True, f"{directory}: settings are well-formed")
            yield _checked("seeds", lambda: _seeds(workspace))
            yield _checked("pool", lambda: _pool(workspace))
    yield _disk(directory or Path())
    if endpoint is not None:
        try:
            whole = config.with_overrides(config.Settings(endpoint=settings), {"endpoint.url": endpoint})
        except SelfInstructError as error:
            yield Finding("endpoint", False, str(error))
            yield _hub()
            return
        settings = whole.endpoint
    if settings.url is None:
        yield _checked("engine", _engine)
    if settings.url is not None or _engine_installed():
        yield _checked("endpoint", lambda: asyncio.run(_generation(settings)))
    yield _hub()


def _checked(name: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(name, True, check())
    except SelfInstructError as error:
        return Finding(name, False, str(error))


def _seeds(workspace: Workspace) -> str:
    settings = workspace.settings()
    beside = workspace.path.absolute()
    place = seeds.locate(settings.seeds, settings.language, beside)
    return f"{len(seeds.load(settings, beside))} seed tasks in {place}"


def _pool(workspace: Workspace) -> str:
    if not workspace.pool_file.exists():
        return "none yet; `selfinstruct-hub grow` makes it"
    with Pool.open(workspace.pool_file, read_only=True) as pool:
        pool.check()
        rounds = pool.rounds()
        tasks = sum(pool.accepted_count(round_.number) for round_ in rounds)
    with workspace.locked():
        return f"rounds: {len(rounds)}, accepted tasks: {tasks}, no damage found"


def _disk(path: Path) -> Finding:
    try:
        free = shutil.disk_usage(path if path.exists() else Path()).free
    except OSError as error:
        return Finding("disk", False, f"{path}: cannot be looked at ({error.strerror})")
    text = f"{free / 1e9:.1f} GB free"
    return Finding("disk", free >= _LITTLE_DISK, text if free >= _LITTLE_DISK else f"{text}; make room for a run")


def _engine_installed() -> bool:
    try:
        version("openvino-genai")
    except PackageNotFoundError:
        return False
    return True


def _engine() -> str:
    from selfinstruct_hub.local.weights import find_weights

    weights = find_weights(None)
    return f"openvino-genai {version('openvino-genai')}, weights {weights.model_id}"


async def _generation(settings: EndpointSettings) -> str:
    """Asks for eight tokens, as a run would ask for more."""
    async with opened(settings.model_copy(update={"attempts": 1})) as endpoint:
        completion = await endpoint.complete("The capital of France is", Decoding(max_new_tokens=8))
        limits = endpoint.limits
        key = ""
        if settings.url is not None:
            key = f", key from {API_KEY_VARIABLE if os.environ.get(API_KEY_VARIABLE) else 'the Hub token'}"
            key = key if api_key(settings.url) else ", no key sent"
        place = shown(settings.url) if settings.url else "the embedded engine"
        return (
            f"{place} speaks TGI {endpoint.version}, serves {endpoint.model}, context {limits.max_total_tokens} "
            f"tokens, {limits.max_concurrent_requests} requests at a time{key}; a test generation gave "
            f"{completion.generated_tokens} tokens"
        )


def _hub() -> Finding:
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        return Finding("hub", None, "HF_HUB_OFFLINE is set; nothing can be published until it is not")
    if get_token() is None:
        return Finding("hub", None, "no token; publishing needs `hf auth login` or HF_TOKEN, growing does not")
    return Finding("hub", True, f"a token is set for {constants.ENDPOINT}")
