"""The `grow` command whole: lock, pool, endpoint, rounds, releases. Joins the rooms; decides nothing else.

What writes releases is imported when there is one to write, and a mistake in the settings is told without it.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from selfinstruct_hub import events, saturation
from selfinstruct_hub.config import Settings
from selfinstruct_hub.endpoint.budget import MAX_TIME, Budget, check_prices
from selfinstruct_hub.endpoint.connect import opened
from selfinstruct_hub.grow import INTERRUPT, SATURATION, Observe, Progress, RoundOutcome, grow_round
from selfinstruct_hub.interrupts import Interrupts
from selfinstruct_hub.judging import Gates
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.rounds import Run, grown, next_round
from selfinstruct_hub.workspace import Workspace

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


def grow(
    workspace: Workspace,
    settings: Settings,
    *,
    rounds: int = 1,
    max_requests: int | None = None,
    max_tokens: int | None = None,
    max_seconds: float | None = None,
    max_cost: float | None = None,
    hooks: Hooks | None = None,
) -> list[Finished]:
    """Adds `rounds` rounds of `settings.tasks` accepted tasks each and freezes every one as a release.

    An unfinished run for as many rounds is continued. The bounds (requests answered, tokens, seconds, money in the
    currency of the settings' prices) hold for the whole run, what was spent before an interruption included; where
    one stops it, the last result has no release and everything is kept. The first Ctrl-C stops it in the same way,
    once what is in flight has come; a second one raises KeyboardInterrupt. Rounds that an earlier start completed
    without packaging them come first in the results.

    Raises SelfInstructError for whatever the user can mend.
    """
    hooks = hooks or Hooks()
    check_prices(max_cost, settings.prices)
    with workspace.locked(), workspace.open_pool(settings) as pool:
        _complete_as_it_is(pool, settings)
        results = package_complete_rounds(workspace, pool, settings)
        for result in results:
            hooks.finished(result)
        run = Run.resumed(pool, rounds)
        if run.rounds_left(pool) and (stopped := saturated(workspace, pool, settings)):
            results.append(stopped)
        elif run.rounds_left(pool):

            def budget() -> Budget:
                return Budget(
                    max_requests=max_requests,
                    max_tokens=max_tokens,
                    max_seconds=max_seconds,
                    max_cost=max_cost,
                    prices=settings.prices,
                    spent=run.spent(pool),
                )

            gates = Gates.opened(settings, workspace.path.absolute())
            if gates.sets is not None:
                files = ", ".join(Path(file).name for file in gates.sets.counts)
                hooks.notice(f"no task may be near to the {len(gates.sets):,} texts of {files}")
            growing = _Growing(workspace, settings, pool, gates, run, budget, hooks)
            results += Interrupts().run(growing.rounds)
        if not run.rounds_left(pool):
            run.end(pool)
            if results and results[-1].release and (next_would := saturated(workspace, pool, settings)):
                last = results[-1]
                results[-1] = replace(last, outcome=replace(last.outcome, detail=next_would.outcome.detail))
        return results


class _Growing:
    """The part of a run that needs an endpoint."""

    def __init__(
        self,
        workspace: Workspace,
        settings: Settings,
        pool: Pool,
        gates: Gates,
        run: Run,
        budget: Callable[[], Budget],
        hooks: Hooks,
    ) -> None:
        """`budget` makes the run's budget; its clock runs from then on."""
        self._workspace = workspace
        self._settings = settings
        self._pool = pool
        self._gates = gates
        self._run = run
        self._budget = budget
        self._hooks = hooks
        self._retries: Counter[str] = Counter()
        self._noted = time.monotonic()

    async def rounds(self, interrupts: Interrupts) -> list[Finished]:
        """The rounds that are left, until one is stopped."""
        settings, pool = self._settings, self._pool
        results: list[Finished] = []
        async with opened(settings.endpoint, self._report) as endpoint:
            budget = self._budget()

            def finish() -> None:
                budget.stop(INTERRUPT)
                endpoint.stop(INTERRUPT)
                seconds, count = settings.endpoint.finish_seconds, endpoint.in_flight
                waits = f"finishing {count} in flight, {seconds:.0f} s at most; " if count else ""
                self._hooks.notice(f"interrupted: {waits}once more stops at once")

            def observe(progress: Progress) -> None:
                if time.monotonic() - self._noted > _SECONDS_BETWEEN_NOTES:
                    self._note_time(budget)
                self._hooks.observe(progress)

            # What pauses before another try is not asked for again when the time is up.
            alarm = None
            if (seconds_left := budget.left.seconds) != float("inf"):
                alarm = asyncio.get_running_loop().call_later(seconds_left, endpoint.stop, MAX_TIME)
            try:
                with interrupts.finishing(finish, settings.endpoint.finish_seconds):
                    while (left := self._run.rounds_left(pool)) and not interrupts.requested:
                        if stopped := saturated(self._workspace, pool, settings):
                            results.append(stopped)
                            break
                        round_ = next_round(
                            pool, settings, endpoint, settings.tasks, self._hooks.notice, self._gates
                        )
                        outcome = await grow_round(
                            pool,
                            round_,
                            endpoint,
                            budget=budget,
                            observe=observe,
                            gates=self._gates,
                            report=self._report,
                            max_barren=settings.max_barren_requests,
                            max_failed_share=settings.endpoint.max_failed_share,
                            stall=settings.endpoint.stall,
                            finish_seconds=settings.endpoint.finish_seconds,
                            later=(left - 1) * settings.tasks,
                            retries=self._retries,
                        )
                        results.append(self._frozen(outcome))
                        self._hooks.finished(results[-1])
                        if outcome.limit is not None:
                            break
            finally:
                if alarm is not None:
                    alarm.cancel()
                self._note_time(budget)
        if interrupts.requested and self._run.rounds_left(pool) and results and results[-1].outcome.limit is None:
            # Between two rounds: nothing was in flight.
            results.append(Finished(replace(results[-1].outcome, limit=INTERRUPT), None))
        return results

    def _frozen(self, outcome: RoundOutcome) -> Finished:
        if outcome.limit is not None:
            return Finished(outcome, None)
        from selfinstruct_hub import release

        place, name = self._workspace.releases, self._workspace.name
        return Finished(outcome, release.freeze(place, self._pool, outcome.round, self._settings.card, name))

    def _report(self, event: events.Event) -> None:
        if isinstance(event, events.Retried):
            self._retries[event.reason] += 1
        self._hooks.report(event)

    def _note_time(self, budget: Budget) -> None:
        self._noted = time.monotonic()
        self._run.note_seconds(self._pool, budget.spent.seconds)


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
    """Packages rounds that were complete when an earlier start died; returns those that had no release. Rounds
    that were pulled have theirs where they came from."""
    packaged = []
    source = pool.pulled()
    for round_ in pool.rounds():
        if source and round_.number in source.rounds:
            continue
        if round_.complete and not workspace.is_released(round_.version):
            from selfinstruct_hub import release

            frozen = release.freeze(workspace.releases, pool, round_, settings.card, workspace.name)
            if frozen is not None:
                packaged.append(Finished(RoundOutcome(round_, pool.accepted_count(round_.number)), frozen))
    return packaged
