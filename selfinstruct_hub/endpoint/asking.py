"""Questions to an address before it is known what stands there: a GET or a small POST, waited for while it loads.

Nothing here knows a protocol: what an answer means is for `detect.py` and `template.py` to say.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import aiohttp

from selfinstruct_hub.endpoint import failures
from selfinstruct_hub.errors import EndpointAuthError, EndpointUnreachableError

_QUESTION_SECONDS = 10.0
# A server that loads its model, or a proxy before one. Other errors are answers: the route is not there.
_LOADING = frozenset({429, 502, 503, 504})


@dataclass(frozen=True)
class Answer:
    """What a route answered. `document` is the body as JSON, None where it is none."""

    route: str  # as a person reads it: "GET /info"
    status: int
    document: Any
    said: str  # the server's own words, without secrets

    @property
    def denied(self) -> bool:
        return self.status in (401, 403)

    def __str__(self) -> str:
        return f"{self.route} answered {self.status}{f' ({self.said})' if self.said else ''}"


class Asker:
    """Asks one address. `name` is how it may be shown; `key` says whether the session sends one; `attempts` are
    the times a server that loads is asked; `patience` are the seconds that it may take to generate a token."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        name: str,
        *,
        key: bool,
        attempts: int,
        patience: float,
        secrets: failures.Secrets,
    ) -> None:
        self._session = session
        self.name = name
        self._key = key
        self._attempts = attempts
        self._patience = patience
        self._secrets = secrets

    async def get(self, url: str, route: str) -> Answer:
        return await self._ask("GET", url, route, None, _QUESTION_SECONDS, self._attempts)

    async def post(self, url: str, route: str, body: dict[str, Any], *, generates: bool = False) -> Answer:
        seconds = self._patience if generates else _QUESTION_SECONDS
        return await self._ask("POST", url, route, body, seconds, self._attempts)

    async def optional(self, url: str, route: str, body: dict[str, Any] | None = None) -> Any:
        """The JSON of a route that can be done without; None where there is none, for whatever reason."""
        try:
            answer = await self._ask("GET" if body is None else "POST", url, route, body, _QUESTION_SECONDS, 1)
        except EndpointUnreachableError:
            return None
        return answer.document if answer.status == 200 else None

    def denied(self, answer: Answer) -> EndpointAuthError:
        """What to do about a 401 or 403."""
        known = f"{answer.status}: {answer.said}" if answer.said else str(answer.status)
        if self._key:
            return EndpointAuthError(
                f"{self.name} refuses the key ({known}); set SELFINSTRUCT_API_KEY to one that it takes"
            )
        return EndpointAuthError(f"{self.name} wants a key ({known}); set SELFINSTRUCT_API_KEY in the environment")

    async def _ask(
        self, method: str, url: str, route: str, body: dict[str, Any] | None, seconds: float, attempts: int
    ) -> Answer:
        """The answer, whatever its status. Raises EndpointUnreachableError where there is none, or where the
        server still loads after all attempts."""
        for attempt in range(1, attempts + 1):
            try:
                async with self._session.request(
                    method,
                    url,
                    json=body,
                    timeout=aiohttp.ClientTimeout(total=seconds),
                    allow_redirects=method == "GET",  # a POST would become one
                ) as response:
                    content = await response.read()
            except asyncio.TimeoutError:
                raise EndpointUnreachableError(
                    f"{self.name} does not answer within {seconds:.0f} s; is the server up, and is this its "
                    "address?"
                ) from None
            except (aiohttp.ClientError, OSError, ValueError) as error:
                raise EndpointUnreachableError(
                    f"{self.name} cannot be reached ({failures.no_connection(error).said}); start the server, or "
                    "leave --endpoint out to use the embedded engine"
                ) from None
            said = self._secrets.hide(failures.words(content)) if response.status != 200 else ""
            if response.status not in _LOADING:
                return Answer(f"{method} {route}", response.status, _json(content), said)
            if attempt < attempts:
                asked = failures.retry_after(response.headers.get("Retry-After"))
                await asyncio.sleep(failures.pause_before(attempt, asked))
        known = f"HTTP {response.status}{f': {said}' if said else ''}"
        raise EndpointUnreachableError(
            f"{self.name} is not ready ({known}); wait until it has loaded its model and start again"
        )


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None
