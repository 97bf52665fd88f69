"""Stands before one server or several: places for requests in flight, tries, pauses. What a run talks to.

Requests get their places in the order of the draws that they belong to, so that a draw is finished before later
ones take what a budget still allows. With several servers each request goes where the largest share of places is
free; a try that failed goes elsewhere if it can.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from selfinstruct_hub import events
from selfinstruct_hub.config import EndpointSettings
from selfinstruct_hub.endpoint import Limits, Server, TransientError, failures
from selfinstruct_hub.endpoint.budget import BudgetReached
from selfinstruct_hub.endpoint.concurrency import MOST_UNTOLD, Fixed, Pace
from selfinstruct_hub.errors import RequestFailedError
from selfinstruct_hub.records import OVERLOADED, Completion, Decoding

# The embedded engine's batch of 16, and a few waiting, so that a place is taken the moment it is free.
_EMBEDDED_IN_FLIGHT = 20
# A server frees a place a moment after its answer is read; taken to the last, it would refuse now and then.
_SPARE_SHARE = 32
# So many failures with no answer between them, or so long a rest: other servers are preferred.
_UNWELL, _SHORT_REST = 3, 5.0


class Dispatcher:
    """The servers of a run as one Endpoint. Call from one event loop."""

    def __init__(
        self, servers: Sequence[Server], settings: EndpointSettings, report: events.Report = events.ignore
    ) -> None:
        first = servers[0]
        self.kind = first.kind
        self.model = first.model
        self.version = first.version
        self.embedded = first.embedded
        self.chat = first.chat
        self.limits = _common([server.limits for server in servers])
        self._settings = settings
        self._report = report
        self._lanes = [_Lane(server, _pace(server, settings)) for server in servers]
        # A fixed number is for all servers together.
        fixed = settings.concurrency
        self._most = fixed if isinstance(fixed, int) else None
        # None instead of a lane: nothing more begins.
        self._waiting: list[tuple[tuple[int, ...], int, _Lane | None, asyncio.Future[_Lane | None]]] = []
        self._arrivals = itertools.count()
        self._stopped_by: str | None = None
        self._sleepers: set[asyncio.Future[None]] = set()

    @property
    def capacity(self) -> int:
        """Requests that may be in flight now."""
        total = sum(lane.pace.limit for lane in self._lanes)
        return total if self._most is None else min(total, self._most)

    @asynccontextmanager
    async def turn(self, *order: int) -> AsyncIterator[_Turn]:
        """A place for one request. Raises BudgetReached after `stop`."""
        turn = _Turn(self, order)
        await turn.wait()
        try:
            yield turn
        finally:
            turn.leave()

    @property
    def in_flight(self) -> int:
        """Requests that a server has now; one that pauses before another try is not among them."""
        return sum(lane.in_flight for lane in self._lanes)

    def stop(self, limit: str) -> None:
        """Lets nothing more begin: what waits for a place or for another try ends with BudgetReached(limit). What
        is in flight goes on."""
        self._stopped_by = limit
        for *_, waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)
        self._waiting.clear()
        for sleeper in self._sleepers:
            _wake(sleeper)

    async def close(self) -> None:
        for lane in self._lanes:
            await lane.server.close()

    # Places.

    async def _place(self, order: tuple[int, ...], avoid: _Lane | None) -> _Lane:
        self._check()
        if not self._waiting and (lane := self._free(avoid)):
            lane.in_flight += 1
            return lane
        waiter: asyncio.Future[_Lane | None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (order, next(self._arrivals), avoid, waiter))
        try:
            found = await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and (given := waiter.result()):
                self._give_back(given)
            raise
        if found is None:
            self._check()
        assert found is not None, "only `stop` gives no place"
        return found

    def _check(self) -> None:
        if self._stopped_by is not None:
            raise BudgetReached(self._stopped_by)

    def _free(self, avoid: _Lane | None) -> _Lane | None:
        if self.in_flight >= self.capacity:
            return None
        now = time.monotonic()
        free = [lane for lane in self._lanes if lane.in_flight < lane.pace.limit and lane.resting_until <= now]
        if any(lane.is_well and lane is not avoid for lane in self._lanes):
            # Rather wait for a server that answers than fail at one that does not; one request at a time finds out
            # when it does again.
            free = [lane for lane in free if lane is not avoid and (lane.is_well or not lane.in_flight)]
        return min(free, key=lambda lane: lane.in_flight / lane.pace.limit, default=None)

    def _give_back(self, lane: _Lane) -> None:
        lane.in_flight -= 1
        self._serve()

    def _serve(self) -> None:
        """Gives free places to those who wait."""
        passed_over = []  # because of what they avoid
        while self._waiting:
            first = heapq.heappop(self._waiting)
            *_, avoid, waiter = first
            if waiter.done():  # cancelled
                continue
            lane = self._free(avoid)
            if lane is None:
                passed_over.append(first)
                if avoid is None or len(self._lanes) == 1:
                    break
                continue
            lane.in_flight += 1
            waiter.set_result(lane)
        for waiting in passed_over:
            heapq.heappush(self._waiting, waiting)

    # What happened to a try.

    def _answered(self, lane: _Lane, mark: int, completion: Completion, seconds: float) -> None:
        lane.failures = lane.rests = 0
        why = lane.pace.answered(
            mark,
            queue=completion.queue_time,
            total=seconds,
            tokens=completion.generated_tokens or 1,
            used=lane.in_flight >= lane.pace.limit,
        )
        self._paced(lane, why)

    def _failed(self, lane: _Lane, mark: int, failure: TransientError) -> None:
        if failure.reason == OVERLOADED:
            why = lane.pace.overloaded(mark)
        else:
            why = lane.pace.failed(mark)
            lane.failures += 1
        rest = failure.retry_after
        if not rest and lane.failures >= max(_UNWELL, lane.pace.limit) * (lane.rests + 1):
            # It answers nobody: one pause for all, instead of one for each.
            lane.rests += 1
            rest = failures.backoff(lane.rests)
        if rest:
            lane.resting_until = max(lane.resting_until, time.monotonic() + rest)
            asyncio.get_running_loop().call_later(rest + 0.001, self._serve)
        self._paced(lane, why)

    def _paced(self, lane: _Lane, why: str | None) -> None:
        if why is not None:
            self._report(events.Paced(lane.server.name, lane.pace.limit, why))
            self._serve()

    async def _sleep(self, seconds: float) -> None:
        self._check()
        loop = asyncio.get_running_loop()
        sleeper: asyncio.Future[None] = loop.create_future()
        timer = loop.call_later(seconds, _wake, sleeper)
        self._sleepers.add(sleeper)
        try:
            await sleeper
        finally:
            timer.cancel()
            self._sleepers.discard(sleeper)
        self._check()


def _wake(sleeper: asyncio.Future[None]) -> None:
    if not sleeper.done():
        sleeper.set_result(None)


class _Lane:
    """One server with its places."""

    def __init__(self, server: Server, pace: Pace | Fixed) -> None:
        self.server = server
        self.pace = pace
        self.in_flight = 0
        self.resting_until = 0.0
        self.failures = 0  # in a row, since the last answer or rest
        self.rests = 0  # in a row, since the last answer

    @property
    def is_well(self) -> bool:
        """Whether it answers, or is not known not to."""
        return self.failures < _UNWELL and self.resting_until <= time.monotonic() + _SHORT_REST


class _Turn:
    """A place, and the tries that it is for."""

    def __init__(self, dispatcher: Dispatcher, order: tuple[int, ...]) -> None:
        self._dispatcher = dispatcher
        self._order = order
        self._lane: _Lane | None = None

    async def wait(self, avoid: _Lane | None = None) -> _Lane:
        self._lane = await self._dispatcher._place(self._order, avoid)
        return self._lane

    def leave(self) -> None:
        lane, self._lane = self._lane, None
        if lane is not None:
            self._dispatcher._give_back(lane)

    async def complete(self, prompt: str, decoding: Decoding) -> Completion:
        """The completion of `prompt`, from whichever server; see `endpoint.Turn`."""
        dispatcher, settings = self._dispatcher, self._dispatcher._settings
        began = time.monotonic()
        attempt = counted = 0
        while True:
            attempt += 1
            lane = self._lane or await self.wait()
            mark, sent = lane.pace.sent(), time.monotonic()
            try:
                completion = await lane.server.send(prompt, decoding)
            except TransientError as failure:
                dispatcher._failed(lane, mark, failure)
                # While it waits it takes no place.
                self.leave()
                # A server that is busy has not failed: only time bounds how often it is asked.
                counted += failure.reason != OVERLOADED
                pause = failures.pause_before(attempt, failure.retry_after)
                spent = time.monotonic() - began
                if counted >= settings.attempts or spent + pause > settings.stall:
                    raise _given_up(lane, failure, attempt, spent) from None
                dispatcher._report(
                    events.Retried(lane.server.name, failure.reason, failure.said, attempt, round(pause, 3))
                )
                await dispatcher._sleep(pause)
                await self.wait(avoid=lane)
            else:
                dispatcher._answered(lane, mark, completion, time.monotonic() - sent)
                self.leave()
                return completion


def _given_up(lane: _Lane, failure: TransientError, tries: int, seconds: float) -> RequestFailedError:
    times = "once" if tries == 1 else f"{tries} times in {seconds:.0f} s"
    said = failure.said or failure.reason
    return RequestFailedError(
        f"{lane.server.name} failed {times}, last with {said}; what was answered is kept: start the same command "
        "again when the endpoint is well",
        reason=failure.reason,
        said=said,
        tries=tries,
    )


def _pace(server: Server, settings: EndpointSettings) -> Pace | Fixed:
    allowed = server.limits.max_concurrent_requests
    if settings.concurrency != "auto":
        return Fixed(min(settings.concurrency, allowed) if allowed else settings.concurrency)
    if server.embedded:
        return Fixed(min(_EMBEDDED_IN_FLIGHT, allowed) if allowed else _EMBEDDED_IN_FLIGHT)
    return Pace(most=allowed - allowed // _SPARE_SHARE if allowed else MOST_UNTOLD)


def _common(limits: Sequence[Limits]) -> Limits:
    """What every one of several servers takes; the number of requests is that of all together."""

    def least(values: list[int | None]) -> int | None:
        return min((value for value in values if value is not None), default=None)

    allowed = [one.max_concurrent_requests for one in limits]
    return Limits(
        max_total_tokens=least([one.max_total_tokens for one in limits]),
        max_input_tokens=least([one.max_input_tokens for one in limits]),
        max_concurrent_requests=None if None in allowed else sum(value or 0 for value in allowed),
        max_stop_sequences=least([one.max_stop_sequences for one in limits]),
    )
