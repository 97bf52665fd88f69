"""The `grow` command whole: lock, pool, endpoint, rounds, releases. Joins the rooms; decides nothing else."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from selfinstruct_hub import release, saturation
from selfinstruct_hub.config import Settings
from selfinstruct_hub.endpoint import Endpoint
from selfinstruct_hub.endpoint.budget import Budget
from selfinstruct_hub.endpoint.connect import opened
from selfinstruct_hub.grow import SATURATION, Observe, RoundOutcome, grow_round
from selfinstruct_hub.plan import concurrency
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.rounds import Run, grown, next_round
from selfinstruct_hub.workspace import Workspace

T = TypeVar("T")


@dataclass(frozen=True)
class Finished:
    """A round that `grow` worked on; `release` is None where it was stopped before it was complete."""

    outcome: RoundOutcome
    release: Path | None


@dataclass(frozen=True)
class Hooks:
    """What the caller wants to hear while a run goes on."""

    connected: Callable[[Endpoint, int], None] = lambda endpoint, in_flight: None
    observe: Observe = lambda progress: None
    notice: Callable[[str], None] = lambda text: None
    finished: Callable[[Finished], None] = lambda finished: None


def grow(
    workspace: Workspace,
    settings: Settings,
    *,
    rounds: int = 1,
    max_requests: int | None = None,
    max_tokens: int | None = None,
    hooks: Hooks | None = None,
) -> list[Finished]:
    """Adds `rounds` rounds of `settings.tasks` accepted tasks each and freezes every one as a release.

    An unfinished run for as many rounds is continued. `max_requests` and `max_tokens` bound the whole run, what
    was spent before an interruption included; where one stops it, the last result has no release and everything
    is kept. Rounds that an earlier start completed without packaging them come first in the results.

    Raises SelfInstructError for whatever the user can mend.
    """
    hooks = hooks or Hooks()
    with workspace.locked(), workspace.open_pool(settings) as pool:
        _complete_as_it_is(pool, settings)
        results = package_complete_rounds(workspace, pool, settings)
        for result in results:
            hooks.finished(result)
        run = Run.resumed(pool, rounds)
        if run.rounds_left(pool) and (stopped := saturated(workspace, pool, settings)):
            results.append(stopped)
        elif run.rounds_left(pool):
            results += asyncio.run(
                _cancelled_by_ctrl_c(_grow(workspace, settings, pool, run, max_requests, max_tokens, hooks))
            )
        if not run.rounds_left(pool):
            run.end(pool)
            if results and results[-1].release and (next_would := saturated(workspace, pool, settings)):
                last = results[-1]
                results[-1] = replace(last, outcome=replace(last.outcome, detail=next_would.outcome.detail))
        return results


async def _cancelled_by_ctrl_c(work: Coroutine[Any, Any, T]) -> T:
    """`work`, cancelled by the first Ctrl-C at its next await, as Python does it from 3.11 on. Before that,
    KeyboardInterrupt is raised at whatever line runs, and is lost where that is a destructor's."""
    if sys.version_info >= (3, 11) or threading.current_thread() is not threading.main_thread():
        return await work
    task, loop = asyncio.ensure_future(work), asyncio.get_running_loop()
    interrupted = False

    def interrupt(*_: object) -> None:
        nonlocal interrupted
        if interrupted:
            raise KeyboardInterrupt
        interrupted = True
        loop.call_soon_threadsafe(task.cancel)

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        return await task
    except asyncio.CancelledError:
        if interrupted:
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.signal(signal.SIGINT, before)


async def _grow(
    workspace: Workspace,
    settings: Settings,
    pool: Pool,
    run: Run,
    max_requests: int | None,
    max_tokens: int | None,
    hooks: Hooks,
) -> list[Finished]:
    results: list[Finished] = []
    async with opened(settings.endpoint) as endpoint:
        in_flight = concurrency(settings, endpoint)
        hooks.connected(endpoint, in_flight)
        requests, tokens = run.spent(pool)
        budget = Budget(max_requests=max_requests, max_tokens=max_tokens, requests=requests, tokens=tokens)
        while run.rounds_left(pool):
            if stopped := saturated(workspace, pool, settings):
                results.append(stopped)
                break
            round_ = next_round(pool, settings, endpoint, settings.tasks, hooks.notice)
            outcome = await grow_round(
                pool,
                round_,
                endpoint,
                in_flight=in_flight,
                budget=budget,
                observe=hooks.observe,
                max_barren=settings.max_barren_requests,
            )
            frozen = None
            if outcome.limit is None:
                frozen = release.freeze(workspace.releases, pool, outcome.round, settings.card, workspace.name)
            results.append(Finished(outcome, frozen))
            hooks.finished(results[-1])
            if outcome.limit is not None:
                break
    return results


def saturated(workspace: Workspace, pool: Pool, settings: Settings) -> Finished | None:
    """The last round once more, with the reason why none should follow it; None where growth may go on. An open
    round is always brought to its end."""
    rounds = pool.rounds()
    if not rounds or not rounds[-1].complete:
        return None
    counts = [pool.counts(round_.number) for round_ in grown(pool)]
    detail = saturation.reason(counts, settings.saturation)
    if detail is None:
        return None
    outcome = RoundOutcome(rounds[-1], pool.accepted_count(rounds[-1].number), SATURATION, detail)
    return Finished(outcome, workspace.releases / rounds[-1].version)


def _complete_as_it_is(pool: Pool, settings: Settings) -> None:
    """An open round that has the wanted number already needs no endpoint."""
    rounds = pool.rounds()
    if rounds and not rounds[-1].complete and pool.accepted_count(rounds[-1].number) == settings.tasks:
        pool.set_wanted(rounds[-1].number, settings.tasks)
        pool.complete_round(rounds[-1].number)


def package_complete_rounds(workspace: Workspace, pool: Pool, settings: Settings) -> list[Finished]:
    """Packages rounds that were complete when an earlier start died; returns those that had no release."""
    packaged = []
    for round_ in pool.rounds():
        if round_.complete and not workspace.is_released(round_.version):
            frozen = release.freeze(workspace.releases, pool, round_, settings.card, workspace.name)
            if frozen is not None:
                packaged.append(Finished(RoundOutcome(round_, pool.accepted_count(round_.number)), frozen))
    return packaged
