"""Checks what a run needs and says what to do: workspace, disk, each endpoint or the embedded engine, Hub.

Every check is one Finding. One that fails hides no other that can still be made: an endpoint is asked once more
without the setting that it does not keep.
"""

from __future__ import annotations

import asyncio
import os
import platform
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from selfinstruct_hub import __version__, config, events, plan, seeds
from selfinstruct_hub.config import EndpointSettings, Settings
from selfinstruct_hub.endpoint import Endpoint, failures
from selfinstruct_hub.endpoint.connect import API_KEY_VARIABLE, api_key, opened, secrets
from selfinstruct_hub.errors import (
    EndpointAuthError,
    EndpointError,
    EndpointProtocolError,
    EndpointRefusedError,
    EndpointUnreachableError,
    PoolError,
    RequestFailedError,
    SeedError,
    SelfInstructError,
)
from selfinstruct_hub.figures import counted
from selfinstruct_hub.judging import Gates
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.records import (
    BAD_ANSWER,
    CONNECTION,
    FINISH_STOP,
    OVERLOADED,
    SERVER_ERROR,
    TIMEOUT,
    Completion,
    Decoding,
)
from selfinstruct_hub.release import inventory
from selfinstruct_hub.workspace import Workspace, is_release

_LITTLE_DISK = 1 << 30  # bytes
_PATIENCE = 60.0  # seconds for an answer, plus what its tokens may take
_BUSY_SECONDS = 10.0  # for an endpoint that has no place just now
_SHOWN = 60  # characters of an answer
# Says of a model's name that it was tuned to follow instructions: Llama-3.1-8B-Instruct, gemma-2-9b-it.
_TUNED = re.compile(r"(?i)(?:^|[-_.])(?:instruct|chat|it)(?:$|[-_.:])")
# For models that follow instructions and for those that continue texts; as with the recipes' prompts, the answer
# is begun.
_QUESTION = "Count from one to twenty in words.\nOne, two, three,"
_TOKENS = 32  # that the answer may have
_ENGINE = "the embedded engine"


@dataclass(frozen=True)
class Finding:
    """One check. `ok` is None where something is missing that a run can do without."""

    name: str
    ok: bool | None
    text: str


Tell = Callable[[Finding], None]


def examine(
    directory: Path | None,
    tell: Tell,
    *,
    endpoints: Sequence[str] = (),
    api: str | None = None,
    model: str | None = None,
) -> None:
    """Makes every check and tells each finding as it is made. The options stand for the settings of the workspace
    `directory`, or of none."""
    tell(Finding("tool", True, f"selfinstruct-hub {__version__}, Python {platform.python_version()}"))
    settings, beside = Settings(), Path()
    if directory is not None:
        try:
            workspace = Workspace.at(directory)
            settings, beside = workspace.settings(), workspace.path.absolute()
        except SelfInstructError as error:
            tell(Finding("workspace", False, str(error)))
            if not endpoints:
                tell(Finding("endpoint", None, "not checked, since no settings name it; give one with --endpoint"))
                tell(_disk(directory))
                tell(_hub())
                return
        else:
            tell(Finding("workspace", True, f"{directory}: settings are well-formed"))
            tell(_checked("seeds", lambda: _seeds(settings, beside)))
            tell(_checked("pool", lambda: _pool(workspace)))
            for finding in _releases(workspace):
                tell(finding)
            if settings.decontamination.against or settings.paraphrases.model:
                tell(_checked("gates", lambda: _gates(settings, beside)))
    tell(_disk(directory or Path()))
    options: dict[str, Any] = {"endpoint.api": api, "endpoint.model": model}
    options["endpoint.url"] = list(endpoints) or None
    try:
        settings = config.with_overrides(settings, options)
    except SelfInstructError as error:
        tell(Finding("endpoint", False, str(error)))
    else:
        urls = settings.endpoint.urls
        usable = [
            asyncio.run(_Examination(settings, url, beside, tell, several=len(urls) > 1).make()) for url in urls
        ]
        if len(urls) > 1 and all(usable):
            tell(_checked("together", lambda: asyncio.run(_together(settings.endpoint))))
        if not urls:
            weights = settings.endpoint.model
            tell(_checked("engine", lambda: _engine(weights)))
            if _engine_installed():
                asyncio.run(_Examination(settings, None, beside, tell).make())
    tell(_hub())


def _checked(name: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(name, True, check())
    except SelfInstructError as error:
        return Finding(name, False, str(error))


def _seeds(settings: Settings, beside: Path) -> str:
    place = seeds.locate(settings.seeds, settings.language, beside)
    return f"{len(seeds.load(settings, beside))} seed tasks in {place}"


def _gates(settings: Settings, beside: Path) -> str:
    gates = Gates.opened(settings, beside)
    texts = [
        f"{count:,} texts of {Path(file).name}"
        for file, count in (gates.sets.counts if gates.sets is not None else {}).items()
    ]
    model = gates.settings["paraphrases"]
    told = [f"no task near to {', '.join(texts)}"] if texts else []
    return "; ".join(told + ([f"paraphrases by {model['model']} ({model['package']})"] if model["model"] else []))


def _pool(workspace: Workspace) -> str:
    workspace.check_pool_not_lost()
    if not workspace.pool_file.exists():
        return "none yet; `selfinstruct-hub grow` makes it"
    with Pool.open(workspace.pool_file, read_only=True) as pool:
        pool.check()
        rounds = pool.rounds()
        # What stands in a row is looked at by reading it.
        pool.seeds()
        pool.revisions()
        tasks = sum(verdict.task is not None for round_ in rounds for verdict in pool.verdicts(round_.number))
    with workspace.locked():
        return f"rounds: {len(rounds)}, accepted tasks: {tasks}, no damage found"


def _releases(workspace: Workspace) -> Iterator[Finding]:
    """Every release is read whole; a finding for each thing that is wrong with them."""
    if not workspace.pool_file.exists() or not workspace.releases.is_dir():
        return
    try:
        with Pool.open(workspace.pool_file, read_only=True) as pool:
            found = list(inventory.problems(workspace.releases, pool, digests=True))
    except PoolError:
        return  # told as a finding of the pool
    yield from (Finding("release", False, problem) for problem in found)
    if not found:
        whole = sum(is_release(folder) for folder in workspace.releases.iterdir())
        yield Finding("releases", True, f"{counted(whole, 'release')}, every file as it was released")


def _disk(path: Path) -> Finding:
    try:
        free = shutil.disk_usage(path if path.exists() else Path()).free
    except OSError as error:
        return Finding("disk", False, f"{path}: cannot be looked at ({error.strerror})")
    text = f"{free / 1e9:.1f} GB free"
    return Finding("disk", free >= _LITTLE_DISK, text if free >= _LITTLE_DISK else f"{text}; make room for a run")


async def _together(settings: EndpointSettings) -> str:
    async with opened(settings) as endpoint:
        return f"all of them serve {endpoint.model}, in one form"


def _engine_installed() -> bool:
    try:
        version("openvino-genai")
    except PackageNotFoundError:
        return False
    return True


def _engine(model: str | None) -> str:
    from selfinstruct_hub.local.weights import find_weights

    weights = find_weights(model)
    return f"openvino-genai {version('openvino-genai')}, weights {weights.model_id}"


def _hub() -> Finding:
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        return Finding("hub", None, "HF_HUB_OFFLINE is set; nothing can be published until it is not")
    if get_token() is None:
        return Finding("hub", None, "no token; publishing needs `hf auth login` or HF_TOKEN, growing does not")
    return Finding("hub", True, f"a token is set for {constants.ENDPOINT}")


class _Examination:
    """The checks of one address, None for the embedded engine."""

    def __init__(
        self, settings: Settings, url: str | None, beside: Path, tell: Tell, *, several: bool = False
    ) -> None:
        self._settings = settings
        self._url = url
        self._beside = beside
        self._tell_all = tell
        self._place = failures.shown(url) if url else _ENGINE
        self._several = several
        self._hide = secrets().hide

    async def make(self) -> bool:
        """Whether a run could be made there with these settings."""
        own = self._settings.endpoint
        asked = own.model_copy(
            update={
                "url": self._url,
                "attempts": 1,
                "timeout": min(own.timeout, _PATIENCE),
                "stall": min(own.stall, _BUSY_SECONDS),
                "concurrency": 1,
            }
        )
        error = await self._attempt(asked, None)
        if error is None:
            return True
        if self._url is None or isinstance(error, EndpointUnreachableError):
            self._tell("endpoint", False, str(error))
        elif isinstance(error, EndpointAuthError):
            self._tell("endpoint", True, f"{self._place} answers")
            self._tell("key", False, f"{error}{self._token_note()}")
        else:
            await self._without_what_is_wrong(asked, error)
        return False

    async def _without_what_is_wrong(self, asked: EndpointSettings, error: SelfInstructError) -> None:
        """Finds the setting that does not hold here. Without that one, everything else can be looked at."""
        for name, update in _relaxations(asked):
            if await self._attempt(asked.model_copy(update=update), Finding(name, False, str(error))) is None:
                return
        self._tell("endpoint", True, f"{self._place} answers")
        self._tell("kind" if isinstance(error, EndpointProtocolError) else "model", False, str(error))

    async def _attempt(self, settings: EndpointSettings, wrong: Finding | None) -> SelfInstructError | None:
        """Connects and makes the checks, or returns why that cannot be done. `wrong` is a finding that is known
        already."""
        seen: list[events.Event] = []
        async with AsyncExitStack() as stack:
            try:
                endpoint = await stack.enter_async_context(opened(settings, seen.append))
            except SelfInstructError as error:
                return error
            connected = seen[0]
            assert isinstance(connected, events.Connected)
            self._tell("endpoint", True, f"{self._place} answers")
            checks: dict[str, Callable[[], Finding]] = {
                "kind": lambda: self._kind(connected),
                "model": lambda: Finding("model", True, endpoint.model),
                "limits": lambda: self._limits(endpoint),
                "chat": lambda: self._chat(endpoint, settings),
            }
            for name, check in checks.items():
                finding = wrong if wrong and wrong.name == name else check()
                self._tell(finding.name, finding.ok, finding.text)
            await self._generate(endpoint)
        return None

    def _tell(self, name: str, ok: bool | None, text: str) -> None:
        name = f"{name} of {self._place}" if self._several and name != "endpoint" else name
        self._tell_all(Finding(name, ok, _printable(self._hide(text))))

    # What the endpoint says of itself.

    def _kind(self, connected: events.Connected) -> Finding:
        return Finding("kind", True, f"api {connected.kind} ({connected.found})")

    def _limits(self, endpoint: Endpoint) -> Finding:
        limits = endpoint.limits
        most = limits.max_concurrent_requests
        places = f"{most:,} requests at a time" if most else "does not say how many requests it takes at a time"
        context = limits.max_total_tokens
        if context is None:
            text = (
                f"{places}; does not say its context: where it refuses requests as too long, set "
                "`decoding.max_new_tokens`, `tasks_per_request` and `demonstrations.max_characters`"
            )
            return Finding("limits", None, text)
        said = f"context {context:,} tokens, {places}"
        try:
            problem = self._too_small_for(endpoint, context)
        except SeedError as error:
            return Finding("limits", False, f"{said}; {error}")
        except SelfInstructError as error:  # the language, told with the seeds
            return Finding("limits", None, f"{said}; not compared with the recipe ({error})")
        if problem:
            return Finding("limits", False, f"{said}; too small for the recipe {self._settings.recipe}: {problem}")
        return Finding("limits", True, f"{said}; enough for the recipe {self._settings.recipe}")

    def _too_small_for(self, endpoint: Endpoint, context: int) -> str:
        """What the recipe's settings ask for and do not get, and which to lower; empty where all is well."""
        settings = self._settings
        resolved = plan.resolve(settings, endpoint)
        answers = resolved["decoding"]["max_new_tokens"]
        room = resolved["demonstrations"]["max_tokens"]
        if answers >= context or room == 0:
            return (
                f"answers of up to {answers:,} tokens leave no room for a prompt; lower `decoding.max_new_tokens` "
                "or `tasks_per_request`"
            )
        later = resolved.get("options", {})
        if later and not later["instance_room"]:
            return (
                f"instances of up to {later['instance_max_new_tokens']:,} tokens leave no room for a prompt; "
                "lower `self_instruct.instance_max_new_tokens`"
            )
        try:
            known = seeds.load(settings, self._beside)
        except SelfInstructError:
            return ""  # a finding of its own
        plan.demonstration_seeds(known, resolved)
        return ""

    def _key(self, accepted: bool) -> Finding:
        if self._url is None or api_key(self._url) is None:
            return Finding("key", True, f"none sent, and none asked for{self._token_note()}")
        source = API_KEY_VARIABLE if os.environ.get(API_KEY_VARIABLE) else "the Hub token"
        return Finding("key", True, f"from {source}, sent and {'accepted' if accepted else 'not refused so far'}")

    def _token_note(self) -> str:
        if self._url is None or os.environ.get(API_KEY_VARIABLE) or api_key(self._url):
            return ""
        from huggingface_hub import get_token

        return "; the Hub token goes to Hugging Face's own hosts only" if get_token() else ""

    def _chat(self, endpoint: Endpoint, settings: EndpointSettings) -> Finding:
        tuned = _TUNED.search(endpoint.model.rsplit("/", 1)[-1]) is not None
        if endpoint.chat:
            return Finding("chat", True, "prompts are put into the model's chat template")
        if not tuned or endpoint.embedded:
            return Finding("chat", True, "prompts are sent as they are, for a model that continues texts")
        why = "`endpoint.chat` is off" if settings.chat == "off" else "the endpoint offers no chat template"
        mend = "set it to auto" if settings.chat == "off" else "set `endpoint.tokenizer` to the model's Hub id"
        text = (
            f"prompts are sent as they are, because {why}; by its name the model follows instructions, and writes "
            f"better with its template: {mend}"
        )
        return Finding("chat", None, text)

    # What it answers.

    async def _generate(self, endpoint: Endpoint) -> None:
        began = time.monotonic()
        try:
            answer = await _complete(endpoint, Decoding(max_new_tokens=_TOKENS))
        except EndpointAuthError as error:
            self._tell("key", False, f"{error}{self._token_note()}")
            return
        except EndpointError as error:
            self._tell(*_fields(self._key(accepted=False)))
            advice = f"; {_ADVICE[error.reason]}" if isinstance(error, RequestFailedError) else ""
            self._tell("generation", False, f"{_words(error)}{advice}")
            if isinstance(error, EndpointRefusedError):  # it may still take others
                await self._grammar(endpoint)
            return
        seconds = time.monotonic() - began
        self._tell(*_fields(self._key(accepted=True)))
        self._tell(*_fields(_generation(answer, seconds)))
        await self._grammar(endpoint)
        await self._stop(endpoint, answer)

    async def _grammar(self, endpoint: Endpoint) -> None:
        """Whether it holds an answer to a form that it would not have by itself."""
        wanted = self._settings.grammar == "on"
        off = (
            "; set `grammar: off`" if wanted else "; leave `grammar` as it is, and answers are parsed as they come"
        )
        try:
            answer = await _complete(endpoint, Decoding(max_new_tokens=8, grammar=("regex", "(yes|no)")))
        except EndpointRefusedError as error:
            self._tell("grammar", False if wanted else None, f"refused ({error.said or error}){off}")
        except EndpointError as error:
            self._tell("grammar", False if wanted else None, f"failed: {_words(error)}{off}")
        else:
            if answer.text.strip() in ("yes", "no"):
                self._tell("grammar", True, "answers can be held to a form; `grammar: on` can be used")
            else:
                self._tell("grammar", False if wanted else None, f"taken and ignored{off}")

    async def _stop(self, endpoint: Endpoint, before: Completion) -> None:
        """Whether it stops where it should: the same answer again, up to a word in its middle."""
        words = before.text.split()
        if len(words) < 4:
            self._tell("stop", None, "not looked at: the answer is too short to stop within it")
            return
        try:
            stop = words[len(words) // 3]
            answer = await _complete(endpoint, Decoding(max_new_tokens=_TOKENS, stop=(stop,)))
        except EndpointError as error:
            self._tell("stop", False, f"stop sequences fail: {_words(error)}")
            return
        # Not every server says what it ended by; that the same answer is shorter says it too.
        ended = answer.finish_reason == FINISH_STOP or before.text.startswith(answer.text)
        if not ended or before.generated_tokens is None or answer.generated_tokens is None:
            self._tell("stop", None, "cannot be told: another answer came, or its tokens are not counted")
        elif answer.generated_tokens < before.generated_tokens:
            self._tell("stop", True, "answers end at a stop sequence")
        else:
            ignored = "ignored: answers are cut here, but what comes behind a stop is generated and paid for"
            self._tell("stop", None, ignored)


def _relaxations(asked: EndpointSettings) -> Iterator[tuple[str, dict[str, Any]]]:
    """The settings that an endpoint may not keep, each as (finding, what to ask for instead)."""
    if asked.tokenizer is not None or asked.chat != "auto":
        yield "chat", {"tokenizer": None, "chat": "auto"}
    if asked.model is not None:
        yield "model", {"model": None}
    if asked.api != "auto":
        yield "kind", {"api": "auto"}
        yield "kind", {"api": "auto", "model": None, "tokenizer": None, "chat": "auto"}


async def _complete(endpoint: Endpoint, decoding: Decoding) -> Completion:
    async with endpoint.turn(0) as turn:
        return await turn.complete(_QUESTION, decoding)


def _generation(answer: Completion, seconds: float) -> Finding:
    text = " ".join(answer.text.split())
    if not text:
        return Finding("generation", False, f"an empty text after {seconds:.1f} s; try another model or address")
    shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
    tokens = answer.generated_tokens
    speed = f"{tokens} tokens in {seconds:.1f} s, {tokens / max(seconds, 1e-3):.0f} tokens/s" if tokens else ""
    speed = speed or f"in {seconds:.1f} s, and does not say how many tokens: budgets go by estimates"
    return Finding("generation", True if tokens else None, f"{len(answer.text)} characters, {speed}: {shown}")


def _fields(finding: Finding) -> tuple[str, bool | None, str]:
    return finding.name, finding.ok, finding.text


# What to do where a try failed that a run would repeat.
_ADVICE = {
    OVERLOADED: "it is busy or limits your requests: wait, or ask it for more",
    SERVER_ERROR: "look at the server's own log",
    TIMEOUT: "look whether it is stuck or just slow; `endpoint.timeout` says how long a run waits",
    CONNECTION: "look whether the server is still up, and the proxy before it",
    BAD_ANSWER: "look whether a proxy stands before it, and whether `--api` is right",
}


def _words(error: EndpointError) -> str:
    """`error` without what is meant for a run."""
    if not isinstance(error, RequestFailedError):
        return str(error)
    reason = error.reason.replace("_", " ")
    return reason if error.said in ("", error.reason) else f"{reason}: {error.said}"


def _printable(text: str) -> str:
    """`text` without what would steer a terminal."""
    return "".join(character if character.isprintable() else " " for character in text)
