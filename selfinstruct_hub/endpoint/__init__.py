"""From a prompt to a Completion: the only room with HTTP and keys. It never parses what comes back."""

from __future__ import annotations

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


class Endpoint(Protocol):
    """Somewhere to send prompts. `embedded` is true for our own engine on loopback."""

    kind: str
    model: str
    version: str
    embedded: bool
    limits: Limits

    async def complete(self, prompt: str, decoding: Decoding) -> Completion:
        """The completion of `prompt`. Retries what is transient; raises EndpointError for the rest."""
        ...

    async def close(self) -> None: ...
