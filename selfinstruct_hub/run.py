"""The `grow` command whole: lock, pool, endpoint, rounds, releases. Joins the rooms; decides nothing else.

What writes releases is imported when there is one to write, and a mistake in the settings is told without it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from selfinstruct_hub import saturation
from selfinstruct_hub.config import Settings
from selfinstruct_hub.endpoint.budget import check_prices
from selfinstruct_hub.grow import INTERRUPT, SATURATION, RoundOutcome, grow_round
from selfinstruct_hub.interrupts import Interrupts
from selfinstruct_hub.judging import Gates
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.release import inventory
from selfinstruct_hub.rounds import Run, check_no_revision, editions, grown, next_round, short, told_short
from selfinstruct_hub.working import Bounds, Finished, Hooks, at_work
from selfinstruct_hub.workspace import Workspace

__all__ = ["Finished", "Hooks", "grow", "package_complete_rounds", "saturated"]


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
    """Adds `rounds` rounds of `settings.tasks` accepted tasks each and freezes every one as a release; none of
    them (0) packages what is complete, and asks nothing.

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
        check_no_revision(pool)
        _complete_as_it_is(pool, settings)
        results = package_complete_rounds(workspace, pool, settings)
        for result in results:
            hooks.finished(result)
        if not rounds:
            return results
        run = Run.resumed(pool, rounds)
        bounds = Bounds(max_requests, max_tokens, max_seconds, max_cost)
        if run.rounds_left(pool) and (stopped := saturated(workspace, pool, settings)):
            results.append(stopped)
        elif run.rounds_left(pool):
            if missing := short(pool):
                hooks.notice(f"{told_short(missing)}: `selfinstruct-hub grow DIR --top-up` fills what is missing")
            gates = Gates.opened(settings, workspace.path.absolute())
            if gates.sets is not None:
                files = ", ".join(Path(file).name for file in gates.sets.counts)
                hooks.notice(f"no task may be near to the {len(gates.sets):,} texts of {files}")
            growing = _Growing(workspace, settings, pool, gates, run, bounds, hooks)
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
        bounds: Bounds,
        hooks: Hooks,
    ) -> None:
        self._workspace = workspace
        self._settings = settings
        self._pool = pool
        self._gates = gates
        self._run = run
        self._bounds = bounds
        self._hooks = hooks

    async def rounds(self, interrupts: Interrupts) -> list[Finished]:
        """The rounds that are left, until one is stopped."""
        settings, pool = self._settings, self._pool
        results: list[Finished] = []
        async with at_work(
            settings,
            self._hooks,
            interrupts,
            budget=lambda: self._bounds.budget(settings, self._run.spent(pool)),
            note_seconds=lambda seconds: self._run.note_seconds(pool, seconds),
        ) as desk:
            while (left := self._run.rounds_left(pool)) and not interrupts.requested:
                if stopped := saturated(self._workspace, pool, settings):
                    results.append(stopped)
                    break
                round_ = next_round(pool, settings, desk.endpoint, settings.tasks, self._hooks.notice, self._gates)
                outcome = await grow_round(
                    pool,
                    round_,
                    desk.endpoint,
                    budget=desk.budget,
                    observe=desk.observe,
                    gates=self._gates,
                    report=desk.report,
                    max_barren=settings.max_barren_requests,
                    max_failed_share=settings.endpoint.max_failed_share,
                    stall=settings.endpoint.stall,
                    finish_seconds=settings.endpoint.finish_seconds,
                    later=(left - 1) * settings.tasks,
                    retries=desk.retries,
                )
                results.append(self._frozen(outcome))
                self._hooks.finished(results[-1])
                if outcome.limit is not None:
                    break
        if interrupts.requested and self._run.rounds_left(pool) and results and results[-1].outcome.limit is None:
            # Between two rounds: nothing was in flight.
            results.append(Finished(replace(results[-1].outcome, limit=INTERRUPT), None))
        return results

    def _frozen(self, outcome: RoundOutcome) -> Finished:
        if outcome.limit is not None:
            return Finished(outcome, None)
        from selfinstruct_hub import release

        place, name = self._workspace.releases, self._workspace.name
        edition = editions(self._pool)[-1]
        return Finished(outcome, release.freeze(place, self._pool, edition, self._settings.card, name))


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
    """Packages rounds and revisions that were complete when an earlier start died; returns those that had no
    release. What was pulled has its own where it came from.

    Raises ReleaseError where a release is not what was released, as far as a glance tells."""
    inventory.check(workspace.releases, pool)
    packaged = []
    source = pool.pulled()
    for edition in editions(pool):
        round_ = edition.round
        if source and round_.number in source.rounds and edition.state <= source.revisions:
            continue
        if not workspace.is_released(edition.version):
            from selfinstruct_hub import release

            frozen = release.freeze(workspace.releases, pool, edition, settings.card, workspace.name)
            if frozen is not None:
                packaged.append(Finished(RoundOutcome(round_, pool.accepted_count(round_.number)), frozen))
    return packaged
