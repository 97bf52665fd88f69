"""What every command that asks an endpoint does around its work. Knows nothing of what is asked for.

It opens the endpoint, bounds the work by a budget, notes the time that it takes, and on Ctrl-C lets what is in
flight come.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from selfinstruct_hub import events, rounds
from selfinstruct_hub.config import Settings
from selfinstruct_hub.endpoint import Endpoint
from selfinstruct_hub.endpoint.budget import MAX_TIME, Budget, Spent
from selfinstruct_hub.endpoint.connect import opened
from selfinstruct_hub.grow import INTERRUPT, Observe, Progress, RoundOutcome
from selfinstruct_hub.interrupts import Interrupts
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.records import Revision

_SECONDS_BETWEEN_NOTES = 10.0  # of the time that a run has taken, for a start after a crash


@dataclass(frozen=True)
class Finished:
    """A round that `grow` worked on; `release` is None where it was stopped before it was complete."""

    outcome: RoundOutcome
    release: Path | None


@dataclass(frozen=True)
class Hooks:
    """What the caller wants to hear while a run goes on."""

    report: events.Report = events.ignore
    observe: Observe = lambda progress: None
    notice: Callable[[str], None] = lambda text: None
    finished: Callable[[Finished], None] = lambda finished: None


@dataclass(frozen=True)
class Bounds:
    """What a command may spend: requests answered, tokens, seconds, money in the currency of the settings'
    prices."""

    max_requests: int | None = None
    max_tokens: int | None = None
    max_seconds: float | None = None
    max_cost: float | None = None

    def budget(self, settings: Settings, spent: Spent) -> Budget:
        """The budget that is left of them. Its clock runs from then on."""
        return Budget(
            max_requests=self.max_requests,
            max_tokens=self.max_tokens,
            max_seconds=self.max_seconds,
            max_cost=self.max_cost,
            prices=settings.prices,
            spent=spent,
        )


@dataclass(frozen=True)
class Desk:
    """What work needs while it goes on. `retries` are failed tries by reason."""

    endpoint: Endpoint
    budget: Budget
    observe: Observe
    report: events.Report
    retries: Counter[str] = field(default_factory=Counter)


@asynccontextmanager
async def at_work(
    settings: Settings,
    hooks: Hooks,
    interrupts: Interrupts,
    *,
    budget: Callable[[], Budget],
    note_seconds: Callable[[float], None],
) -> AsyncIterator[Desk]:
    """An endpoint that is open, and the first Ctrl-C only keeps anything more from being begun. `budget` is made
    once the endpoint answers; `note_seconds` keeps what the work has taken, earlier starts included.

    Raises EndpointError or ConfigError in one line.
    """
    retries: Counter[str] = Counter()

    def report(event: events.Event) -> None:
        if isinstance(event, events.Retried):
            retries[event.reason] += 1
        hooks.report(event)

    async with opened(settings.endpoint, report) as endpoint:
        bounded = budget()
        noted = time.monotonic()

        def finish() -> None:
            bounded.stop(INTERRUPT)
            endpoint.stop(INTERRUPT)
            seconds, count = settings.endpoint.finish_seconds, endpoint.in_flight
            waits = f"finishing {count} in flight, {seconds:.0f} s at most; " if count else ""
            hooks.notice(f"interrupted: {waits}once more stops at once")

        def observe(progress: Progress) -> None:
            nonlocal noted
            if time.monotonic() - noted > _SECONDS_BETWEEN_NOTES:
                noted = time.monotonic()
                note_seconds(bounded.spent.seconds)
            hooks.observe(progress)

        # What pauses before another try is not asked for again when the time is up.
        alarm = None
        if (seconds_left := bounded.left.seconds) != float("inf"):
            alarm = asyncio.get_running_loop().call_later(seconds_left, endpoint.stop, MAX_TIME)
        try:
            with interrupts.finishing(finish, settings.endpoint.finish_seconds):
                yield Desk(endpoint, bounded, observe, report, retries)
        finally:
            if alarm is not None:
                alarm.cancel()
            note_seconds(bounded.spent.seconds)


def at_revision(
    pool: Pool,
    opened: Revision | None,
    settings: Settings,
    hooks: Hooks,
    interrupts: Interrupts,
    bounds: Bounds,
) -> AbstractAsyncContextManager[Desk]:
    """`at_work` for a revision that is `opened` already, or None for the one that is to be begun: what it has
    spent and how long it has taken are those of all its starts."""
    number = opened.number if opened else pool.next_revision_number()
    if settings.endpoint.url is None:
        hooks.notice("no endpoint is set: starting the embedded engine")
    cost = pool.revision_spent(number) if opened else (0, 0, 0)
    return at_work(
        settings,
        hooks,
        interrupts,
        budget=lambda: bounds.budget(settings, Spent(*cost, rounds.noted_seconds(pool, number))),
        note_seconds=lambda seconds: rounds.note_seconds(pool, number, seconds),
    )
