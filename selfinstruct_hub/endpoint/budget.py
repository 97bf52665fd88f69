"""A hard budget over the requests of a run: never more requests, never more tokens than were granted.

What is in flight counts with the most it can cost, so a limit is not overshot by answers still to come.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class BudgetReached(Exception):
    """The budget does not allow another request. `limit` names the option that set it."""

    def __init__(self, limit: str) -> None:
        super().__init__(limit)
        self.limit = limit


class Budget:
    """Counts requests and tokens (prompt and generated) from `requests` and `tokens` already spent."""

    def __init__(
        self,
        *,
        max_requests: int | None = None,
        max_tokens: int | None = None,
        requests: int = 0,
        tokens: int = 0,
    ) -> None:
        self._max_requests = max_requests
        self._max_tokens = max_tokens
        self.requests = requests
        self.tokens = tokens
        self._in_flight = 0
        self._reserved = 0
        self._changed = asyncio.Condition()

    @property
    def requests_left(self) -> float:
        """Requests that may still be sent; infinite without a limit."""
        return float("inf") if self._max_requests is None else self._max_requests - self.requests

    @asynccontextmanager
    async def request(self, tokens: int) -> AsyncIterator[None]:
        """Room for a request that costs at most `tokens`. Waits where answers in flight may still leave room;
        raises BudgetReached where there is none. The caller reports the real cost with `spend`."""
        async with self._changed:
            while (limit := self._exceeded_by(tokens)) is not None:
                if self._in_flight == 0 or limit == "--max-requests":
                    raise BudgetReached(limit)
                await self._changed.wait()
            self.requests += 1
            self._in_flight += 1
            self._reserved += tokens
        try:
            yield
        except BaseException:
            self.requests -= 1  # nothing was answered, so nothing counts
            raise
        finally:
            self._in_flight -= 1
            self._reserved -= tokens
            async with self._changed:
                self._changed.notify_all()

    def spend(self, tokens: int) -> None:
        """Books the tokens that a request really cost."""
        self.tokens += tokens

    def _exceeded_by(self, tokens: int) -> str | None:
        if self._max_requests is not None and self.requests >= self._max_requests:
            return "--max-requests"
        if self._max_tokens is not None and self.tokens + self._reserved + tokens > self._max_tokens:
            return "--max-tokens"
        return None
