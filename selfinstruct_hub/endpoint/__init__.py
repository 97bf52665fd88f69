"""From a prompt to a Completion: the only room with HTTP and keys. It never parses what comes back.

A `Server` is one address and knows one protocol (`tgi.py`, `openai.py`); it tries once. The `Endpoint` that a run
talks to stands before one server or several (`dispatch.py`): it gives requests their places, tries again what is
transient and learns how many requests each server takes at a time (`concurrency.py`).
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from selfinstruct_hub.records import Completion, Decoding


@dataclass(frozen=True)
class Limits:
    """What an endpoint says it takes. Tokens and numbers of requests; None where it does not say."""

    max_total_tokens: int | None = None
    max_input_tokens: int | None = None
    max_concurrent_requests: int | None = None
    max_stop_sequences: int | None = None


class TransientError(Exception):
    """A try that failed in a way that another try may mend. `reason` is one of records.FAILURES; `said` are the
    server's words, without its address and without secrets; `retry_after` are the seconds that it asks for."""

    def __init__(self, reason: str, said: str = "", *, retry_after: float | None = None) -> None:
        super().__init__(f"{reason}{f' ({said})' if said else ''}")
        self.reason = reason
        self.said = said
        self.retry_after = retry_after


class Server(Protocol):
    """One address. `name` is the address as it may be shown; `chat` says that it wraps a prompt in a chat
    template, as instruction-tuned models need it; `embedded` is true for our own engine on loopback."""

    kind: str
    name: str
    model: str
    version: str
    embedded: bool
    chat: bool
    limits: Limits

    async def send(self, prompt: str, decoding: Decoding) -> Completion:
        """The completion of `prompt`: one try. Raises TransientError where another try may help, and
        EndpointError for the rest."""
        ...

    async def close(self) -> None: ...


class Turn(Protocol):
    """A place among the requests in flight. It is held until the answer is there, and given back by itself."""

    async def complete(self, prompt: str, decoding: Decoding) -> Completion:
        """The completion of `prompt`. Transient failures are tried again; raises RequestFailedError where that
        did not help, and other EndpointErrors at once."""
        ...


class Endpoint(Protocol):
    """Where a run sends its prompts. `limits` are those that every server keeps; `capacity` is the number of
    requests that may be in flight now, which changes where the concurrency is found by itself."""

    kind: str
    model: str
    version: str
    embedded: bool
    chat: bool
    limits: Limits

    @property
    def capacity(self) -> int: ...

    @property
    def in_flight(self) -> int: ...

    def turn(self, *order: int) -> AbstractAsyncContextManager[Turn]:
        """A place for one request; the lowest `order` that waits is served first."""
        ...

    def stop(self, limit: str) -> None:
        """Lets nothing more begin: what waits for a place or another try ends with BudgetReached(limit)."""
        ...

    async def close(self) -> None: ...
