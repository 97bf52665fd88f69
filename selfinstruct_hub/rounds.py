"""Which round or revision comes next, under which version, and which rounds a `grow` command set out to make."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from selfinstruct_hub import versions
from selfinstruct_hub.config import Settings, flatten, publishable
from selfinstruct_hub.endpoint import Endpoint
from selfinstruct_hub.endpoint.budget import Spent
from selfinstruct_hub.errors import PoolError, UsageError
from selfinstruct_hub.figures import counted
from selfinstruct_hub.judging import Gates
from selfinstruct_hub.plan import demonstration_seeds, resolve
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.records import COMPLETE, REGENERATE, TOP_UP, Revision, Round, is_import

Notice = Callable[[str], None]
_REVISION_SECONDS = "revision_seconds"  # a fact of the pool: what the open revision has taken


def next_round(
    pool: Pool, settings: Settings, endpoint: Endpoint, wanted: int, notice: Notice, gates: Gates | None = None
) -> Round:
    """The open round, or a new one. An open round goes on with the settings it was begun with.

    Raises UsageError where an open round has more accepted tasks than are `wanted` now, or was begun with other
    `gates`.
    """
    done = pool.rounds()
    gates = gates or Gates()
    resolved = {**resolve(settings, endpoint), **gates.settings}
    untouched = bool(done) and not done[-1].complete and pool.is_untouched(done[-1].number)
    if untouched:
        done = done[:-1]  # nothing was answered yet, so the settings may still change
    if done and not done[-1].complete:
        open_round = done[-1]
        _check_form(open_round, endpoint)
        _check_model(pool, open_round, endpoint)
        gates.check(open_round)
        accepted = pool.accepted_count(open_round.number)
        if wanted < accepted:
            raise UsageError(
                f"round {open_round.number} has {accepted} accepted tasks already; ask for --tasks {accepted} "
                "or more"
            )
        if open_round.settings.get("columns", 1) != versions.COLUMNS:
            # It was begun when releases had other columns, and will be released with today's.
            settings_now = {**open_round.settings, "columns": versions.COLUMNS}
            version = next_version(done[:-1], settings_now, pool.revisions())
            open_round = replace(open_round, version=version, settings=settings_now)
            pool.restart_round(open_round)
        was, now = dict(flatten(open_round.settings)), dict(flatten(resolved))
        if "demonstrations.max_tokens" not in was:
            was.pop("demonstrations.max_characters", None)  # meant both bounds in format 1
        if changed := sorted(key for key in was if key in now and was[key] != now[key]):
            notice(
                f"round {open_round.number} was begun with other settings and goes on with those "
                f"({', '.join(changed)}); the new ones hold from the next round"
            )
        if wanted != open_round.wanted:
            notice(
                f"round {open_round.number} was begun for {open_round.wanted:,} tasks and now ends at {wanted:,}, "
                "as asked"
            )
            pool.set_wanted(open_round.number, wanted)
        return replace(open_round, wanted=wanted)
    new = Round(
        number=len(done) + 1,
        version=next_version(done, resolved, pool.revisions()),
        wanted=wanted,
        complete=False,
        settings=resolved,
        asked=publishable(settings).model_dump(),
    )
    demonstration_seeds(pool.seeds(), resolved)  # refuse before the round exists
    if untouched:
        pool.restart_round(new)
    else:
        pool.begin_round(new)
    return new


def _check_form(round_: Round, endpoint: Endpoint) -> None:
    """A round's prompts are all for a chat model or none: its recipe words them for one of the two."""
    was = round_.settings.get("chat", False)
    if was != endpoint.chat:
        begun, now = ("with", "without") if was else ("without", "with")
        raise UsageError(
            f"round {round_.number} was begun {begun} a chat template, and the endpoint now works {now} one; go "
            f"on with an endpoint of that form or `endpoint.chat: {'on' if was else 'off'}`, or release the round "
            "as it is: --tasks with the number it has"
        )


def _check_model(pool: Pool, round_: Round, endpoint: Endpoint) -> None:
    """A round is of one model, which its card names."""
    if (models := pool.models(round_.number, judged=False)) and endpoint.model not in models:
        raise UsageError(
            f"round {round_.number} has answers of {', '.join(models)}, and the endpoint serves {endpoint.model}; "
            "go on with an endpoint of that model, or release the round as it is: --tasks with the number it has"
        )


@dataclass(frozen=True)
class Edition:
    """One version: all rounds up to `round`, as they stand after `revision`, or before any later one."""

    version: str
    round: Round
    revision: Revision | None
    state: int  # number of the last revision that it knows; 0: none

    @property
    def columns(self) -> int:
        """The form of its columns."""
        settings = self.round.settings if self.revision is None else self.revision.settings
        return int(settings.get("columns", 1))


def editions(pool: Pool) -> list[Edition]:
    """Every version that is complete, in the order they were made: rounds, and revisions after the last round
    that there was."""
    revisions = [one for one in pool.revisions() if one.state == COMPLETE]
    return _editions([round_ for round_ in pool.rounds() if round_.complete], revisions)


def _editions(rounds: Sequence[Round], revisions: Sequence[Revision]) -> list[Edition]:
    found, state = [], 0
    for round_ in rounds:
        found.append(Edition(round_.version, round_, None, state))
        for one in revisions:
            if one.after_round == round_.number:
                state = one.number
                found.append(Edition(one.version, round_, one, state))
    return found


def next_version(done: Sequence[Round], settings: Mapping[str, Any], revisions: Sequence[Revision] = ()) -> str:
    """The version of the round with `settings` after those that are `done` and their `revisions`. An import
    belongs to no recipe."""
    recipes_used = [r.settings["recipe"] for r in done if not is_import(r.settings)]
    other_recipe = not is_import(settings) and bool(recipes_used) and recipes_used[-1] != settings["recipe"]
    made = _editions(done, [one for one in revisions if one.state == COMPLETE])
    if not made:
        return versions.next_round(None)
    other_columns = made[-1].columns != settings["columns"]
    return versions.next_round(made[-1].version, changed=other_recipe or other_columns)


def next_revision(
    pool: Pool, kind: str, rounds: Sequence[int], settings: Mapping[str, Any], asked: Settings
) -> Revision:
    """The revision that would follow: a patch of the last version. `settings` say what it does.

    Raises PoolError where nothing is released yet, a round is open or another revision is.
    """
    check_closed(pool)
    last = editions(pool)[-1]
    return Revision(
        number=pool.next_revision_number(),
        version=versions.next_patch(last.version, changed=last.columns != versions.COLUMNS),
        kind=kind,
        after_round=last.round.number,
        rounds=tuple(rounds),
        settings={**settings, "columns": versions.COLUMNS},
        asked=publishable(asked).model_dump(),
    )


def check_closed(pool: Pool) -> None:
    """Raises PoolError unless there is a complete round, none is open, and no revision is."""
    rounds = pool.rounds()
    if rounds and not rounds[-1].complete and pool.is_untouched(rounds[-1].number):
        rounds = rounds[:-1]
    if not rounds:
        raise PoolError(f"{pool.path}: has no round yet; `selfinstruct-hub grow` makes one")
    if not rounds[-1].complete:
        accepted = max(1, pool.accepted_count(rounds[-1].number))
        raise PoolError(
            f"{pool.path}: round {rounds[-1].number} is open; finish it with `selfinstruct-hub grow`, or release "
            f"what it has with `--tasks {accepted}`, and try again"
        )
    check_no_revision(pool)


def check_no_revision(pool: Pool) -> None:
    """Raises PoolError where a revision is open."""
    if (revision := pool.open_revision()) is not None:
        raise PoolError(f"{pool.path}: {unfinished(revision)}")


def unfinished(revision: Revision) -> str:
    """What to do about a revision that is open."""
    command = {REGENERATE: "regenerate DIR", TOP_UP: "grow DIR --top-up"}[revision.kind]
    return (
        f"{revision.version} was begun and is not finished: `selfinstruct-hub {command}` goes on with it, "
        f"`selfinstruct-hub {command} --abandon` puts everything back to how it was"
    )


def abandon(pool: Pool, kind: str) -> Revision:
    """Puts everything back to how it was before the open revision of `kind`, which is returned.

    Raises PoolError where none is open, or one of another kind.
    """
    revision = pool.open_revision()
    if revision is None:
        raise PoolError(f"{pool.path}: nothing was begun that is not finished, so there is nothing to put back")
    if revision.kind != kind:
        raise PoolError(f"{pool.path}: {unfinished(revision)}")
    pool.abandon_revision(revision.number)
    return revision


def noted_seconds(pool: Pool, revision: int) -> float:
    """What revision number `revision` has taken so far, every start of it included."""
    saved = json.loads(pool.meta(_REVISION_SECONDS) or "{}")
    return float(saved.get(str(revision), 0.0))


def is_noted(pool: Pool, revision: int) -> bool:
    """Whether the command that made revision number `revision` has not come to its end."""
    return str(revision) in json.loads(pool.meta(_REVISION_SECONDS) or "{}")


def note_seconds(pool: Pool, revision: int, seconds: float | None) -> None:
    """Keeps that; None forgets it."""
    saved = None if seconds is None else json.dumps({str(revision): round(seconds, 1)})
    pool.set_meta(_REVISION_SECONDS, saved)


def short(pool: Pool) -> dict[int, int]:
    """How many tasks complete rounds have lost since they were complete, by round; imported ones have no model
    that could bring others."""
    missing = {
        round_.number: round_.wanted - pool.accepted_count(round_.number)
        for round_ in grown(pool)
        if round_.complete
    }
    return {number: count for number, count in missing.items() if count > 0}


def told_short(missing: Mapping[int, int]) -> str:
    """What `short` found, in words."""
    parts = [f"round {number} is {counted(count, 'task')} short" for number, count in missing.items()]
    return ", ".join(parts)


def grown(pool: Pool) -> list[Round]:
    """The rounds that a model wrote, in order; an imported one is no round of a run."""
    return [round_ for round_ in pool.rounds() if not is_import(round_.settings)]


@dataclass(frozen=True)
class Run:
    """The rounds that one `grow` command set out to make, counted among the grown ones from 1. Kept in the pool
    until they are made, so that the same command started again goes on instead of adding as many again."""

    first: int
    last: int

    @classmethod
    def resumed(cls, pool: Pool, rounds: int) -> Run:
        """The unfinished run if it was for as many rounds, or a new one."""
        finished = sum(round_.complete for round_ in grown(pool))
        stored = pool.meta("run")
        if stored:
            saved = json.loads(stored)
            run = cls(saved["first"], saved["last"])
            if run.last - run.first + 1 == rounds:
                return run
        run = cls(first=finished + 1, last=finished + rounds)
        pool.set_meta("run", json.dumps({"first": run.first, "last": run.last}))
        return run

    def rounds_left(self, pool: Pool) -> int:
        """Rounds that are still to be completed."""
        return max(0, self.last - sum(round_.complete for round_ in grown(pool)))

    def spent(self, pool: Pool) -> Spent:
        """What its rounds have cost so far, answers that nobody needed included."""
        costs = [pool.cost(round_.number) for round_ in grown(pool)[self.first - 1 :]]
        requests, prompt, generated = (sum(part) for part in zip(*costs, strict=True)) if costs else (0, 0, 0)
        return Spent(requests, prompt, generated, json.loads(pool.meta("run") or "{}").get("seconds", 0.0))

    def note_seconds(self, pool: Pool, seconds: float) -> None:
        """Keeps how long it has taken so far, every start of it included."""
        saved = {"first": self.first, "last": self.last, "seconds": round(seconds, 1)}
        pool.set_meta("run", json.dumps(saved))

    def end(self, pool: Pool) -> None:
        """Forgets the run: every round of it is made and packaged."""
        pool.set_meta("run", None)
