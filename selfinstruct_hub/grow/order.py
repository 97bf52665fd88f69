"""Works through numbers in their order: as many requests in flight as the endpoint takes, verdicts one by one.

What is made of a number is for the callers to say (`Work`); why the work stops before its end is said here: a
budget, an endpoint that fails for good or refuses everything.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

from selfinstruct_hub import events
from selfinstruct_hub.endpoint import Endpoint
from selfinstruct_hub.endpoint.budget import Budget, BudgetReached
from selfinstruct_hub.errors import EndpointError, RequestFailedError
from selfinstruct_hub.grow.asking import Asking
from selfinstruct_hub.grow.progress import FAILING, Observe, Progress
from selfinstruct_hub.records import REQUEST_FAILED, REQUEST_REFUSED, Candidate

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)

# Numbers that may wait for an earlier one's verdict, for each request in flight: the longest answers take many
# times as long as most, and nothing may stand idle behind one.
MOST_AHEAD = 32
GRACE_SECONDS = 5.0  # for answers in flight when the endpoint has failed for good
_MOST_JUDGED_AT_ONCE = 16
# So many refused requests in a row, with no answer to a request of that kind between them, are no single task's
# fault.
_MOST_REFUSED = 20


class Work(Protocol[T_contra]):
    """What is made of the numbers."""

    def ahead(self, number: int) -> int:
        """How many numbers from `number` on, which is the first unjudged one, may wait for their verdicts; none
        where the work is done."""
        ...

    async def judge(self, ready: Sequence[tuple[int, T_contra | None]]) -> tuple[int, str | None, str]:
        """Judges numbers with what they brought (None: their first request was given up), in order, and stores
        the verdicts. Returns how many were judged, and why the work should stop: (limit, detail), or None."""
        ...

    def hopeless(self, number: int) -> str:
        """Called where nothing was answered since a request of `number` failed, and nothing else is to come: why
        the work should stop rather than take it for the number's own fault. Empty: it goes on."""
        ...


async def in_order(
    asking: Asking[T],
    work: Work[T],
    number: int,
    *,
    endpoint: Endpoint,
    budget: Budget,
    progress: Progress,
    observe: Observe,
    report: events.Report,
    stall: float,
    finish_seconds: float,
) -> tuple[str | None, str]:
    """Works from `number` on until nothing is left; or why it stopped before: (limit, detail).

    Raises EndpointError where the endpoint refuses to work at all. Whatever was answered until then is stored.
    """
    limit, detail = None, ""
    running: dict[int, asyncio.Task[T]] = {}
    try:
        while ahead := work.ahead(number):
            while not asking.ended and len(running) < ahead and asking.hungry:
                # One that the budget cannot bring to its end would only be begun.
                if running and budget.requests_left < asking.to_ask + asking.requests:
                    break
                following = number + len(running)
                running[following] = asking.start(following)
                await asyncio.sleep(0)  # lets it ask, so that it is counted
            progress.capacity, progress.in_flight = endpoint.capacity, endpoint.in_flight
            observe(progress)
            if detail := asking.why_it_fails(stall):
                limit = FAILING
                # Others may be answered well. What pauses before another try is not asked for again.
                budget.stop(FAILING)
                endpoint.stop(FAILING)
                await _let_finish(running.values(), finish_seconds)
                break
            # A failure is recorded once the endpoint has answered something else: what it never answers because
            # it is down is asked for again when it is up.
            if not running[number].done() or (asking.unfinished and asking.doubtful(number)):
                await asking.changed()
                continue
            try:
                if asking.doubtful(number):
                    if reached := _budget_reached(running.values()):
                        raise reached
                    if detail := work.hopeless(number):
                        limit = FAILING
                        break
                ready = _ready(running, number, asking)
            except BudgetReached as reached:
                limit = reached.limit
                if endpoint.in_flight:
                    report(events.Ending(limit, endpoint.in_flight))
                # What is in flight is paid for: it ends by itself, since nothing more is granted.
                await _let_finish(running.values(), None)
                detail = budget.told(limit)  # only now, so that it counts what was in flight
                break
            except EndpointError:
                await _let_finish(running.values(), GRACE_SECONDS)
                raise
            judged, limit, detail = await work.judge(ready)
            for done, _ in ready[:judged]:
                del running[done]
            number += judged
            if limit is not None:
                break
    finally:
        for task in running.values():
            task.cancel()
        await asyncio.gather(*running.values(), return_exceptions=True)
        asking.store()
        progress.in_flight = endpoint.in_flight
        observe(progress)
    return limit, detail


def _ready(running: Mapping[int, asyncio.Task[T]], number: int, asking: Asking[T]) -> list[tuple[int, T | None]]:
    """The numbers from `number` on that can be judged now, with what they brought: None where the first request
    was given up. Raises what ended the first of them."""
    found: list[tuple[int, T | None]] = []
    while len(found) < _MOST_JUDGED_AT_ONCE and (task := running.get(number)) and task.done():
        error = task.exception()
        if found and (asking.doubtful(number) or not isinstance(error, RequestFailedError | None)):
            break
        found.append((number, None if isinstance(error, RequestFailedError) else task.result()))
        number += 1
    return found


def _budget_reached(tasks: Iterable[asyncio.Task[T]]) -> BudgetReached | None:
    found = (task.exception() for task in tasks if task.done())
    return next((error for error in found if isinstance(error, BudgetReached)), None)


async def _let_finish(tasks: Iterable[asyncio.Task[T]], timeout: float | None) -> None:
    """Gives answers that are on their way the time to arrive and be stored."""
    if pending := [task for task in tasks if not task.done()]:
        await asyncio.wait(pending, timeout=timeout)


class Refusals:
    """Tells a refusal that belongs to a task from an endpoint that refuses a kind of request. Goes by judged
    candidates, so that neither latency nor concurrency has a say in it."""

    def __init__(self) -> None:
        self._in_a_row: Counter[str] = Counter()  # by stage

    def persist(self, candidates: Iterable[Candidate]) -> str:
        """What the endpoint says where it refuses a stage's requests again and again; empty otherwise."""
        for candidate in candidates:
            failure = candidate.failure
            if failure and failure.reason == REQUEST_FAILED:
                continue  # says nothing about what is refused
            if failure is None or failure.reason != REQUEST_REFUSED:
                # An answer in a stage: those before it must have answered too.
                self._in_a_row.pop(candidate.stage, None)
                if candidate.instances or candidate.lost:
                    self._in_a_row.clear()
                continue
            self._in_a_row[candidate.stage] += 1
            if self._in_a_row[candidate.stage] >= _MOST_REFUSED:
                return (
                    f"the endpoint has refused {_MOST_REFUSED} requests of the step `{candidate.stage}` in a row "
                    f"({failure.detail})"
                )
        return ""
