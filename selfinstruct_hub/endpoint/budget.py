"""A hard budget over a run: never more requests, tokens, time or money than were granted. No I/O.

What is in flight counts with the most it can cost, so a limit is not overshot by answers still to come.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from selfinstruct_hub.config import Prices
from selfinstruct_hub.errors import UsageError

MAX_REQUESTS, MAX_TOKENS, MAX_TIME, MAX_COST = "--max-requests", "--max-tokens", "--max-time", "--max-cost"


class BudgetReached(Exception):
    """The budget does not allow another request. `limit` names the option that set it, or why all was stopped."""

    def __init__(self, limit: str) -> None:
        super().__init__(limit)
        self.limit = limit


@dataclass(frozen=True)
class Spent:
    """What a run has cost: requests answered, tokens, and wall-clock seconds of every start of it."""

    requests: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    seconds: float = 0.0

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.generated_tokens


@dataclass(frozen=True)
class Left:
    """What a budget still allows, over what has been answered: infinite where it has no limit."""

    requests: float = float("inf")
    tokens: float = float("inf")
    seconds: float = float("inf")
    cost: float = float("inf")


def price_of(prompt_tokens: float, generated_tokens: float, prices: Prices | None) -> float | None:
    """What so many tokens cost, in the currency of `prices`; None where a price is not known."""
    if prices is None or prices.prompt is None or prices.generated is None:
        return None
    return (prompt_tokens * prices.prompt + generated_tokens * prices.generated) / 1_000_000


def check_prices(max_cost: float | None, prices: Prices | None) -> None:
    """Raises UsageError where money is bounded and a price is not known."""
    if max_cost is not None and price_of(0, 0, prices) is None:
        names = ("prompt", "generated")
        missing = " and ".join(f"`prices.{name}`" for name in names if getattr(prices, name, None) is None)
        raise UsageError(
            f"{MAX_COST} needs to know what tokens cost: set {missing} in selfinstruct.yaml, for a million tokens "
            "each (0 where they are free)"
        )


class _Waiting:
    """A request that waits for room: `limit` of its future is None once it is granted, or what forbids it."""

    def __init__(self, prompt_tokens: int, max_new_tokens: int) -> None:
        self.prompt_tokens = prompt_tokens
        self.max_new_tokens = max_new_tokens
        self.limit: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()


class Budget:
    """Counts on from what is `spent` already. `max_seconds` is wall-clock time: that of earlier starts and what
    has passed since this was made. `max_cost` is in the currency of `prices`.

    Call from one event loop. Raises UsageError for `max_cost` without prices.
    """

    def __init__(
        self,
        *,
        max_requests: int | None = None,
        max_tokens: int | None = None,
        max_seconds: float | None = None,
        max_cost: float | None = None,
        prices: Prices | None = None,
        spent: Spent | None = None,
    ) -> None:
        check_prices(max_cost, prices)
        spent = spent or Spent()
        self._max_requests = max_requests
        self._max_tokens = max_tokens
        self._max_seconds = max_seconds
        self._max_cost = max_cost
        self._prices = prices
        self._requests = spent.requests  # answered and in flight
        self._prompt_tokens = spent.prompt_tokens
        self._generated_tokens = spent.generated_tokens
        self._earlier_seconds = spent.seconds
        self._made = time.monotonic()
        self._in_flight = 0
        self._reserved_prompt = 0
        self._reserved_generated = 0
        self._stopped: str | None = None
        self._refused = (0, 0)  # tokens of prompt and answer that the last one refused could have cost
        self._waiting: list[_Waiting] = []  # the longest first
        self._watchers: list[asyncio.Future[None]] = []

    @property
    def spent(self) -> Spent:
        """What has been answered, and what it cost. A request counts when it has left `request`."""
        return Spent(self._requests - self._in_flight, self._prompt_tokens, self._generated_tokens, self._seconds)

    @property
    def cost(self) -> float | None:
        """What `spent` costs, in the currency of the prices; None without prices."""
        return price_of(self._prompt_tokens, self._generated_tokens, self._prices)

    @property
    def requests_left(self) -> float:
        """Requests that may still be sent; infinite without a limit."""
        return float("inf") if self._max_requests is None else self._max_requests - self._requests

    @property
    def left(self) -> Left:
        """What is left beyond `spent`, whatever is in flight; never below 0."""
        spent, no_limit = self.spent, float("inf")

        def of(limit: float | None, used: float) -> float:
            return no_limit if limit is None else max(0, limit - used)

        return Left(
            of(self._max_requests, spent.requests),
            of(self._max_tokens, spent.tokens),
            of(self._max_seconds, spent.seconds),
            of(self._max_cost, self.cost or 0.0),
        )

    def has_room(self, prompt_tokens: int, max_new_tokens: int) -> bool:
        """Whether `request` would be granted at once. False where answers in flight may still leave room (see
        `changed`); raises BudgetReached where there is none."""
        limit = self._exceeded_by(prompt_tokens, max_new_tokens)
        if limit is not None and not self._may_yet_fit(limit):
            raise BudgetReached(limit)
        return limit is None

    async def changed(self) -> None:
        """Until a request has ended, all was stopped, or the time is up."""
        watcher: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._watchers.append(watcher)
        with self._alarm():
            await watcher

    @asynccontextmanager
    async def request(self, prompt_tokens: int, max_new_tokens: int) -> AsyncIterator[None]:
        """Room for a request that costs at most so many tokens. Waits where answers in flight may still leave
        room; raises BudgetReached where there is none. The caller reports the real cost with `spend`.

        Only entering may wait: nothing is awaited on the way out.
        """
        waiting = _Waiting(prompt_tokens, max_new_tokens)
        self._settle(waiting)
        if not waiting.limit.done():
            await self._settled(waiting)
        if (limit := waiting.limit.result()) is not None:
            raise BudgetReached(limit)
        try:
            yield
        except BaseException:
            self._requests -= 1  # nothing was answered, so nothing counts
            raise
        finally:
            self._give_back(waiting)

    def told(self, limit: str) -> str:
        """What `limit` allowed and what is spent of it; empty for what is no budget."""
        spent = self.spent
        if limit == MAX_REQUESTS:
            return f"{spent.requests:,} of {self._max_requests:,} requests answered"
        if limit == MAX_TIME:
            return f"{spent.seconds:.0f} of {self._max_seconds:.0f} s used"
        prompt, generated = self._refused
        if limit == MAX_TOKENS:
            return (
                f"{spent.tokens:,} of {self._max_tokens:,} tokens spent, and the next request may cost "
                f"{prompt + generated:,}"
            )
        if limit == MAX_COST and self._prices is not None:
            next_one = price_of(prompt, generated, self._prices) or 0.0
            spent_of = f"{self.cost or 0.0:.4f} of {self._max_cost:.4f} {self._prices.currency} spent"
            return f"{spent_of}, and the next request may cost {next_one:.4f}"
        return ""

    def spend(self, prompt_tokens: int, generated_tokens: int) -> None:
        """Books the tokens that a request really cost."""
        self._prompt_tokens += prompt_tokens
        self._generated_tokens += generated_tokens

    def stop(self, limit: str) -> None:
        """Grants nothing any more: every further request and every one that waits raises BudgetReached(limit).
        What is in flight is not touched. The first reason stands."""
        self._stopped = self._stopped or limit
        self._settle_all()

    async def _settled(self, waiting: _Waiting) -> None:
        """Waits until `waiting` is granted or refused."""
        self._waiting.append(waiting)
        try:
            with self._alarm():
                await waiting.limit
        except asyncio.CancelledError:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
            elif not waiting.limit.cancelled() and waiting.limit.result() is None:
                self._requests -= 1  # it was granted at the moment it was cancelled
                self._give_back(waiting)
            raise

    def _settle(self, waiting: _Waiting) -> None:
        """Grants or refuses `waiting`, if that can be said now."""
        limit = self._exceeded_by(waiting.prompt_tokens, waiting.max_new_tokens)
        if limit is None:
            self._requests += 1
            self._in_flight += 1
            self._reserved_prompt += waiting.prompt_tokens
            self._reserved_generated += waiting.max_new_tokens
        elif self._may_yet_fit(limit):
            return
        waiting.limit.set_result(limit)

    def _may_yet_fit(self, limit: str) -> bool:
        # Answers in flight may cost less than was set aside for them.
        return self._in_flight > 0 and limit in (MAX_TOKENS, MAX_COST)

    @contextmanager
    def _alarm(self) -> Iterator[None]:
        """Time runs out whether anything is answered or not."""
        timer = None
        if self._max_seconds is not None:
            # A little later, because a timer may ring early.
            left = max(0.0, self._max_seconds - self._seconds) + 0.01
            timer = asyncio.get_running_loop().call_later(left, self._settle_all)
        try:
            yield
        finally:
            if timer is not None:
                timer.cancel()

    def _settle_all(self) -> None:
        watchers, self._watchers = self._watchers, []
        for watcher in watchers:
            if not watcher.done():
                watcher.set_result(None)
        for waiting in self._waiting:
            if not waiting.limit.done():
                self._settle(waiting)
        self._waiting = [waiting for waiting in self._waiting if not waiting.limit.done()]

    def _give_back(self, granted: _Waiting) -> None:
        self._in_flight -= 1
        self._reserved_prompt -= granted.prompt_tokens
        self._reserved_generated -= granted.max_new_tokens
        self._settle_all()

    def _exceeded_by(self, prompt_tokens: int, max_new_tokens: int) -> str | None:
        if self._stopped is not None:
            return self._stopped
        if self._max_seconds is not None and self._seconds >= self._max_seconds:
            return MAX_TIME
        if self._max_requests is not None and self._requests >= self._max_requests:
            return MAX_REQUESTS
        prompt = self._prompt_tokens + self._reserved_prompt + prompt_tokens
        generated = self._generated_tokens + self._reserved_generated + max_new_tokens
        cost = price_of(prompt, generated, self._prices)
        self._refused = (prompt_tokens, max_new_tokens)
        if self._max_tokens is not None and prompt + generated > self._max_tokens:
            return MAX_TOKENS
        if self._max_cost is not None and cost is not None and cost > self._max_cost:
            return MAX_COST
        return None

    @property
    def _seconds(self) -> float:
        return self._earlier_seconds + time.monotonic() - self._made
