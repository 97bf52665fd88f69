"""`grow --top-up` whole: complete rounds that a revision has made shorter get more draws, as a patch version.

The new draws are numbered on and asked for as the round's were, and judged by today's settings against everything
that there is, later rounds too. Answers go where those of a round go, marked with the revision.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from selfinstruct_hub import plan
from selfinstruct_hub.config import Settings
from selfinstruct_hub.endpoint import Endpoint
from selfinstruct_hub.endpoint.budget import check_prices
from selfinstruct_hub.errors import UsageError
from selfinstruct_hub.figures import counted
from selfinstruct_hub.grow import BARREN, INTERRUPT, RoundOutcome, grow_round
from selfinstruct_hub.interrupts import Interrupts
from selfinstruct_hub.judging import Gates
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.records import TOP_UP, Revision, Round
from selfinstruct_hub.rounds import abandon as abandoned
from selfinstruct_hub.rounds import check_closed, next_revision, note_seconds, short
from selfinstruct_hub.run import package_complete_rounds
from selfinstruct_hub.working import Bounds, Desk, Hooks, at_revision
from selfinstruct_hub.workspace import Workspace


@dataclass(frozen=True)
class Filled:
    """What became of the short rounds. `revision` is None where none is short. `outcome` is the last round's, None
    where nothing was worked on; `won` are the tasks that each round has got, `short` those that it lacks still.
    `release` is the new version's folder, None where it was stopped or put back."""

    revision: Revision | None
    outcome: RoundOutcome | None = None
    won: Mapping[int, int] = field(default_factory=dict)
    short: Mapping[int, int] = field(default_factory=dict)
    release: Path | None = None


def top_up(
    workspace: Workspace, settings: Settings, *, bounds: Bounds | None = None, hooks: Hooks | None = None
) -> Filled:
    """Fills the short rounds and freezes the result as a patch version; goes on with what was begun.

    Where the draws of `settings.max_barren_requests` in a row bring nothing new, the round stays as short as it
    is, and what was won is released. The bounds hold for the whole of it, earlier starts included. Raises
    SelfInstructError for whatever the user can mend; KeyboardInterrupt for the second Ctrl-C.
    """
    bounds, hooks = bounds or Bounds(), hooks or Hooks()
    check_prices(bounds.max_cost, settings.prices)
    with workspace.locked(), workspace.open_pool(settings) as pool:
        for packaged in package_complete_rounds(workspace, pool, settings):
            hooks.finished(packaged)
        opened = pool.open_revision()
        if opened is None or opened.kind != TOP_UP:
            check_closed(pool)
            if not short(pool):
                return Filled(None)
        gates = Gates.opened(settings, workspace.path.absolute())
        if opened is not None:
            _check_gates(opened, gates)
        filling = _Filling(settings, pool, opened, gates, bounds, hooks)
        filled = Interrupts().run(filling.run)
        package_complete_rounds(workspace, pool, settings)
        if filled.outcome is None or filled.outcome.limit in (None, BARREN):
            note_seconds(pool, 0, None)
        version = filled.revision.version if filled.revision else ""
        released = workspace.is_released(version)
        return replace(filled, release=workspace.releases / version if released else None)


def abandon(workspace: Workspace, settings: Settings) -> Revision:
    """Puts everything back to how it was before the filling that is not finished. What was answered is kept, and
    costs nothing when it is asked for again. Raises PoolError where there is none."""
    with workspace.locked(), workspace.open_pool(settings) as pool:
        return abandoned(pool, TOP_UP)


class _Filling:
    """The part that needs an endpoint."""

    def __init__(
        self,
        settings: Settings,
        pool: Pool,
        opened: Revision | None,
        gates: Gates,
        bounds: Bounds,
        hooks: Hooks,
    ) -> None:
        self._settings = settings
        self._pool = pool
        self._opened = opened
        self._gates = gates
        self._bounds = bounds
        self._hooks = hooks

    async def run(self, interrupts: Interrupts) -> Filled:
        pool, revision = self._pool, self._opened
        if revision is not None and not self._left(revision):
            return self._ended(revision, None)  # it died before it could say so, and needs no endpoint
        async with at_revision(pool, revision, self._settings, self._hooks, interrupts, self._bounds) as desk:
            for round_ in pool.rounds():
                if round_.number in (revision.rounds if revision else short(pool)):
                    self._check(round_, desk.endpoint)
            revision = revision or self._begun()
            return await self._filled(revision, desk, interrupts)

    def _check(self, round_: Round, endpoint: Endpoint) -> None:
        """A round's prompts are all for a chat model or none; another model may fill it, and every row says which
        one wrote it."""
        if (was := round_.settings.get("chat", False)) != endpoint.chat:
            begun, now = ("with", "without") if was else ("without", "with")
            raise UsageError(
                f"round {round_.number} was grown {begun} a chat template, and the endpoint works {now} one; fill "
                f"it at an endpoint of that form, or with `endpoint.chat: {'on' if was else 'off'}`"
            )
        models = self._pool.models(round_.number)
        if models and endpoint.model not in models:
            self._hooks.notice(
                f"round {round_.number} has answers of {', '.join(models)}; new ones come from {endpoint.model}"
            )

    def _begun(self) -> Revision:
        pool = self._pool
        rounds = [round_ for round_ in pool.rounds() if round_.number in short(pool)]
        settings = {"judging": {str(round_.number): self._judging(round_) for round_ in rounds}}
        numbers = [round_.number for round_ in rounds]
        revision = next_revision(pool, TOP_UP, numbers, settings, self._settings)
        pool.begin_revision(revision)
        return revision

    def _judging(self, round_: Round) -> dict[str, Any]:
        """Today's rules, with the words that the round's recipe blocks."""
        recipe = {"recipe": round_.settings["recipe"]}
        return {**plan.judging(self._settings.model_copy(update=recipe)), **self._gates.settings}

    def _left(self, revision: Revision) -> dict[int, int]:
        missing = short(self._pool)
        return {number: missing[number] for number in revision.rounds if number in missing}

    async def _filled(self, revision: Revision, desk: Desk, interrupts: Interrupts) -> Filled:
        pool, settings = self._pool, self._settings
        left = self._left(revision)
        outcome = None
        barren: RoundOutcome | None = None
        for number, missing in left.items():
            self._hooks.notice(f"round {number} is {counted(missing, 'task')} short")
            round_ = pool.rounds()[number - 1]
            outcome = await grow_round(
                pool,
                replace(round_, settings={**round_.settings, **revision.settings["judging"][str(number)]}),
                desk.endpoint,
                budget=desk.budget,
                observe=desk.observe,
                gates=self._gates,
                report=desk.report,
                max_barren=settings.max_barren_requests,
                max_failed_share=settings.endpoint.max_failed_share,
                stall=settings.endpoint.stall,
                finish_seconds=settings.endpoint.finish_seconds,
                later=sum(count for later, count in left.items() if later > number),
                retries=desk.retries,
                beyond=True,
            )
            if outcome.limit == BARREN:
                barren = outcome
            elif outcome.limit is not None:
                return self._stopped(revision, outcome)
            if interrupts.requested and number != max(left):
                # Between two rounds: nothing was in flight.
                return self._stopped(revision, replace(outcome, limit=INTERRUPT))
        return self._ended(revision, barren or outcome)

    def _stopped(self, revision: Revision, outcome: RoundOutcome) -> Filled:
        return Filled(revision, outcome, self._won(revision)[0], self._left(revision))

    def _ended(self, revision: Revision, outcome: RoundOutcome | None) -> Filled:
        tasks, rows = self._won(revision)
        left = self._left(revision)
        if any(tasks.values()):
            changes = {str(number): {"won": rows[number], "short": left.get(number, 0)} for number in tasks}
            self._pool.complete_revision(revision.number, changes)
        else:
            self._pool.abandon_revision(revision.number)
        return Filled(revision, outcome, tasks, left)

    def _won(self, revision: Revision) -> tuple[dict[int, int], dict[int, int]]:
        """The tasks and the rows that each round has won."""
        pool = self._pool
        now = {number: pool.counts(number) for number in revision.rounds}
        with pool.as_of(revision.number - 1):
            then = {number: pool.counts(number) for number in revision.rounds}
        tasks, rows = (
            {number: now[number][name] - then[number][name] for number in revision.rounds}
            for name in ("tasks", "rows")
        )
        return tasks, rows


def _check_gates(revision: Revision, gates: Gates) -> None:
    """Raises UsageError where `revision` was begun with other evaluation sets or another model."""
    for judging in revision.settings["judging"].values():
        for name in ("decontamination", "paraphrases"):
            if judging[name] != gates.settings[name]:
                raise UsageError(
                    f"{revision.version} was begun with something else under `{name}`; put that back until it is "
                    "finished, or put everything back with --top-up --abandon"
                )
