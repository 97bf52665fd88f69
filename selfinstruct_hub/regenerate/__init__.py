"""The `regenerate` command whole: rows that are released get new outputs or new instances, as a patch version.

choosing.py   which rows
asking.py     what is asked for each, and what an answer says
judging.py    what becomes of it
work.py       the part that needs an endpoint
opened.py     whether one that was begun goes on
estimating.py what it would take

A revision that was begun goes on with the settings it was begun with, wherever it was stopped; no answer is paid
for twice. The old rows stay in the pool's history.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from selfinstruct_hub.config import Settings
from selfinstruct_hub.endpoint import Endpoint
from selfinstruct_hub.endpoint.budget import Spent, check_prices
from selfinstruct_hub.figures import counted
from selfinstruct_hub.grow import INTERRUPT
from selfinstruct_hub.grow.order import in_order
from selfinstruct_hub.interrupts import Interrupts
from selfinstruct_hub.judging import Gates
from selfinstruct_hub.plan import OUTPUT, regeneration
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.records import REGENERATE, Place, Revision
from selfinstruct_hub.regenerate import judging
from selfinstruct_hub.regenerate.asking import Prompts
from selfinstruct_hub.regenerate.choosing import Choice, places, seeded
from selfinstruct_hub.regenerate.estimating import Estimate, estimate
from selfinstruct_hub.regenerate.opened import check_endpoint, check_gates, opened_now, over_now
from selfinstruct_hub.regenerate.work import Answers, Changes, progress_of
from selfinstruct_hub.rounds import abandon as abandoned
from selfinstruct_hub.rounds import check_closed, next_revision, note_seconds, noted_seconds
from selfinstruct_hub.run import package_complete_rounds
from selfinstruct_hub.working import Bounds, Desk, Hooks, at_revision
from selfinstruct_hub.workspace import Workspace

__all__ = ["Choice", "Estimate", "Regenerated", "abandon", "estimate", "regenerate"]


@dataclass(frozen=True)
class Regenerated:
    """What became of the chosen rows. `revision` is None where none was chosen. `limit` and `detail` say why it
    was stopped early, as of a round; `release` is the new version's folder, None where it was stopped or has no
    row."""

    revision: Revision | None
    places: int = 0
    done: int = 0
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    spent: Spent = field(default_factory=Spent)
    release: Path | None = None
    limit: str | None = None
    detail: str = ""

    def total(self, name: str) -> int:
        """A count of all rounds."""
        return sum(one.get(name, 0) for one in self.changes.values())

    @property
    def kept(self) -> dict[str, int]:
        """Rows that stay as they were, by reason."""
        kept: Counter[str] = Counter()
        for one in self.changes.values():
            kept.update(one.get("kept", {}))
        return dict(kept.most_common())


def regenerate(
    workspace: Workspace,
    settings: Settings,
    choice: Choice,
    *,
    bounds: Bounds | None = None,
    hooks: Hooks | None = None,
) -> Regenerated:
    """Writes the chosen rows anew and freezes the result as a patch version; goes on with what was begun where
    that was the same choice, or none was made now.

    The bounds hold for the whole of it, earlier starts included. Raises SelfInstructError for whatever the user
    can mend; KeyboardInterrupt for the second Ctrl-C.
    """
    bounds, hooks = bounds or Bounds(), hooks or Hooks()
    check_prices(bounds.max_cost, settings.prices)
    with workspace.locked(), workspace.open_pool(settings) as pool:
        for packaged in package_complete_rounds(workspace, pool, settings):
            hooks.finished(packaged)
        opened = opened_now(pool, choice)
        if opened is None and (over := over_now(pool, choice)):
            # It died behind its last answer. What was to be made is made, and is not paid for twice.
            return _ended(workspace, pool, _stood(pool, over, None, ""))
        chosen: list[Place] = []
        if opened is None:
            check_closed(pool)
            if not (chosen := places(pool, choice, choice.part or OUTPUT)):
                return Regenerated(None)
        gates = Gates.opened(settings, workspace.path.absolute())
        if opened:
            check_gates(opened, gates)
        work = _Work(workspace, settings, pool, choice, opened, chosen, gates, bounds, hooks)
        result = Interrupts().run(work.run)
        if result.limit is not None:
            return result
        package_complete_rounds(workspace, pool, settings)
        return _ended(workspace, pool, result)


def _ended(workspace: Workspace, pool: Pool, result: Regenerated) -> Regenerated:
    note_seconds(pool, 0, None)
    assert result.revision is not None
    version = result.revision.version
    released = workspace.releases / version if workspace.is_released(version) else None
    return replace(result, release=released)


def abandon(workspace: Workspace, settings: Settings) -> Revision:
    """Puts everything back to how it was before the regeneration that is not finished; what was answered is kept
    in the pool. Raises PoolError where there is none."""
    with workspace.locked(), workspace.open_pool(settings) as pool:
        return abandoned(pool, REGENERATE)


class _Work:
    """A regeneration while it goes on."""

    def __init__(
        self,
        workspace: Workspace,
        settings: Settings,
        pool: Pool,
        choice: Choice,
        opened: Revision | None,
        chosen: list[Place],
        gates: Gates,
        bounds: Bounds,
        hooks: Hooks,
    ) -> None:
        self._workspace = workspace
        self._settings = settings
        self._pool = pool
        self._choice = choice
        self._revision = opened
        self._chosen = chosen
        self._gates = gates
        self._bounds = bounds
        self._hooks = hooks

    async def run(self, interrupts: Interrupts) -> Regenerated:
        pool, revision = self._pool, self._revision
        if revision is not None and not pool.places(revision.number, done=False):
            return self._completed(revision)  # it died before it could say so, and needs no endpoint
        async with at_revision(pool, revision, self._settings, self._hooks, interrupts, self._bounds) as desk:
            if revision is None:
                revision = self._begun(desk.endpoint)
            else:
                check_endpoint(revision, desk.endpoint)
            return await self._changed(revision, desk)

    def _begun(self, endpoint: Endpoint) -> Revision:
        choice, pool, settings = self._choice, self._pool, seeded(self._settings, self._choice)
        resolved = {
            **regeneration(settings, endpoint, choice.part or OUTPUT),
            "model": endpoint.model,
            "chosen": choice.as_settings(),
            "decontamination": dict(self._gates.settings["decontamination"]),
        }
        rounds = sorted({place.round for place in self._chosen})
        revision = next_revision(pool, REGENERATE, rounds, resolved, settings)
        pool.begin_revision(revision, self._chosen)
        note_seconds(pool, revision.number, noted_seconds(pool, revision.number))
        return revision

    async def _changed(self, revision: Revision, desk: Desk) -> Regenerated:
        pool, endpoint_settings = self._pool, self._settings.endpoint
        by_item = {place.item: place for place in pool.places(revision.number)}
        progress = progress_of(pool, revision, desk.budget)
        progress.retries = desk.retries
        self._hooks.notice(
            f"{revision.version}: {counted(progress.wanted - progress.accepted, progress.unit)} to be written anew"
        )
        prompts = Prompts(revision, pool.seeds())
        answers = Answers(pool, revision, by_item, prompts, desk, progress, endpoint_settings.max_failed_share)
        changes = Changes(pool, revision, by_item, answers, self._gates, progress, desk)
        limit, detail = await in_order(
            answers,
            changes,
            progress.accepted,
            endpoint=desk.endpoint,
            budget=desk.budget,
            progress=progress,
            observe=desk.observe,
            report=desk.report,
            stall=endpoint_settings.stall,
            finish_seconds=endpoint_settings.finish_seconds,
        )
        if pool.places(revision.number, done=False):
            return _stood(pool, revision, limit or INTERRUPT, detail)
        return self._completed(revision)

    def _completed(self, revision: Revision) -> Regenerated:
        found = _stood(self._pool, revision, None, "")
        self._pool.complete_revision(revision.number, found.changes)
        return found


def _stood(pool: Pool, revision: Revision, limit: str | None, detail: str) -> Regenerated:
    changed = pool.changed(revision.number)
    cost = pool.revision_spent(revision.number)
    return Regenerated(
        revision=revision,
        places=len(pool.places(revision.number)),
        done=len(changed),
        changes=judging.changes(revision.rounds, changed),
        spent=Spent(*cost, noted_seconds(pool, revision.number)),
        limit=limit,
        detail=detail,
    )
