"""The `replay` command whole: stored answers through today's parsers, filters and thresholds, as a patch version.

No calls. Everything happens in one transaction, which a dry run takes back, so that both say the same. What is
judged is in `rejudging`, what of it is new in `changes`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from selfinstruct_hub import plan
from selfinstruct_hub.config import Settings
from selfinstruct_hub.errors import PoolError, UsageError
from selfinstruct_hub.judging import Beside, Gates, mode_of
from selfinstruct_hub.novelty import Mode, NoveltyGate, mode_for
from selfinstruct_hub.novelty.gate import FULL_UP_TO
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.pool.again import Section
from selfinstruct_hub.records import REPLAY, Round, Verdict, is_import
from selfinstruct_hub.replay import collecting
from selfinstruct_hub.replay.changes import Example, Gone, RoundChanges, Row, Unmeasured, rows_of
from selfinstruct_hub.replay.rejudging import Others, Rejudged, Rejudging
from selfinstruct_hub.rounds import check_closed, next_revision
from selfinstruct_hub.run import package_complete_rounds
from selfinstruct_hub.workspace import Workspace

__all__ = ["Example", "Hooks", "Replayed", "Replaying", "RoundChanges", "not_replayable", "replay"]

PULLED = "it was pulled, and a release holds no answers"
DROPPED = "its answers were dropped to save space (`gc`)"
_WRITTEN = 512  # verdicts at a time
_MEASURED, _WAITING = 128, 1024  # verdicts that are measured together, and draws that wait for it


@dataclass(frozen=True)
class Replayed:
    """What a replay changed. `skipped` says of rounds why they could not be judged again; `version` is that of the
    release that it made or would make, None where nothing changed."""

    rounds: tuple[RoundChanges, ...]
    skipped: Mapping[int, str]
    version: str | None
    dry_run: bool
    seconds: float
    release: Path | None = None

    @property
    def completions(self) -> int:
        return sum(one.completions for one in self.rounds)

    def as_dict(self) -> dict[str, Any]:
        return {
            "changed": self.version is not None,
            "dry_run": self.dry_run,
            "version": self.version,
            "release": str(self.release) if self.release else None,
            "rounds": [one.as_dict() for one in self.rounds],
            "skipped": {str(number): why for number, why in self.skipped.items()},
            "completions": self.completions,
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True)
class Hooks:
    """What the caller wants to hear: (draws judged, draws in all), and sentences."""

    observe: Callable[[int, int], None] = lambda done, total: None
    notice: Callable[[str], None] = lambda text: None


def replay(
    workspace: Workspace,
    settings: Settings,
    *,
    rounds: range | None = None,
    dry_run: bool = False,
    recompute: bool = False,
    hooks: Hooks | None = None,
) -> Replayed:
    """Judges the stored answers of `rounds` (all unless given) by `settings`, and releases what changed. What was
    compared when they were judged first is taken from the pool as long as it is true; with `recompute` everything
    is compared again.

    Raises PoolError where a round or a revision is open or no round can be judged again, UsageError for rounds
    that are not there.
    """
    hooks = hooks or Hooks()
    began = time.monotonic()
    with workspace.locked(), workspace.open_pool(settings) as pool:
        package_complete_rounds(workspace, pool, settings)
        check_closed(pool)
        gates = Gates.opened(settings, workspace.path.absolute())
        chosen = _chosen(pool, rounds)
        skipped = not_replayable(pool, [round_.number for round_ in chosen])
        again = [round_ for round_ in chosen if round_.number not in skipped]
        if not again:
            reasons = "; ".join(f"round {number}: {why}" for number, why in skipped.items())
            raise PoolError(f"{workspace.path}: there are no stored answers to judge again ({reasons})")
        for number, why in skipped.items():
            hooks.notice(f"round {number} is left as it is: {why}")
        said = _said(settings, gates, again)
        revision = next_revision(pool, REPLAY, [round_.number for round_ in again], said, settings)
        replaying = Replaying(pool, said, gates, [round_.number for round_ in again], reuse=not recompute)
        found: list[RoundChanges] = []
        total, done = sum(pool.judged_draws(round_.number) for round_ in again), 0
        with collecting.rarely(), pool.judging_anew(revision) as rewriting:
            for round_ in again:
                waiting: list[Row] = []
                for result, rows in replaying.round(round_):
                    draw = result.draw
                    if draw.judged and len(rows) == len(draw.verdicts):
                        old = draw.verdicts
                        waiting += [row for row, was in zip(rows, old, strict=True) if row is not was]
                        if len(waiting) >= _WRITTEN:
                            rewriting.replace(round_.number, waiting)
                            waiting = []
                    else:
                        rewriting.replace_draw(round_.number, draw.number, rows, draw.failures)
                    done += 1
                    if not done % 64:
                        hooks.observe(min(done, total), total)
                rewriting.replace(round_.number, waiting)
                found.append(replaying.changes)
            changed = {str(one.round): one.published() for one in found if one.round in rewriting.rounds}
            if changed and not dry_run:
                rewriting.finish(changed)
        hooks.observe(total, total)
        version = revision.version if changed else None
        release = None
        if changed and not dry_run:
            packaged = package_complete_rounds(workspace, pool, settings)
            release = next((one.release for one in packaged if one.release), None)
        return Replayed(tuple(found), skipped, version, dry_run, time.monotonic() - began, release)


class Replaying:
    """Several rounds judged again, one after the other, by the same settings."""

    def __init__(
        self,
        pool: Pool,
        said: Mapping[str, Any],
        gates: Gates,
        numbers: Sequence[int],
        until: int | None = None,
        *,
        reuse: bool = False,
    ) -> None:
        """`said` are a revision's settings, `numbers` the rounds that it judges; for `until` see `Rejudging`, for
        `reuse` its `begin`. Both give the same."""
        self._pool = pool
        self._said = said
        self._gates = gates
        self._numbers = numbers
        self._until = until
        self._reuse = reuse
        self._gone = Gone()
        self._rejudging: Rejudging
        self._others: dict[Section, Others] = {}
        self._measure = self._unmeasured = False
        self.changes: RoundChanges

    def round(self, round_: Round) -> Iterator[tuple[Rejudged, list[Row]]]:
        """The draws of a round with their verdicts as a table's rows; a row that stays is the very one that is
        stored. `changes` has the counts when it has ended."""
        self.prepare(round_)
        self.begin()
        yield from self.draws()

    def prepare(self, round_: Round) -> None:
        """Reads the round as it stood."""
        judged_by = self._settings_for(round_)
        self._round = replace(round_, settings=judged_by)
        self._rejudging = Rejudging(self._pool, self._round, until=self._until)
        self._others = {section: Others() for section in self._rejudging.sections}
        self._read_others(lambda one: one.round > round_.number)
        self.changes = RoundChanges(round_.number, round_.wanted)

    def begin(self) -> None:
        """Reads the rounds before it as they are to be compared with."""
        self._read_others(lambda one: one.round < self._round.number)
        threshold = self._round.settings["novelty"]["threshold"]
        earlier = range(1, self._round.number)
        frozen = len(self._pool.seeds()) + sum(self._pool.accepted_count(number) for number in earlier)
        # Both modes give the same verdicts. The fast one finds them; what is new is then measured as it would be.
        mode: Mode = mode_for(FULL_UP_TO + 1, threshold)
        self._measure = mode == "fast" and mode_of(self._round, frozen) == "full"
        self._unmeasured = mode == "full" and self._reuse
        self._rejudging.begin(self._gates, mode, self._others, reuse=self._reuse)

    def draws(self) -> Iterator[tuple[Rejudged, list[Row]]]:
        unmeasured = Unmeasured(self._rejudging.judge)
        waiting: list[tuple[Rejudged, list[Row]]] = []
        for result in self._rejudging.draws():

            def measures(place: int, verdict: Verdict, settled: Container[int] = result.settled) -> bool:
                return self._measure or (self._unmeasured and place not in settled)

            waiting.append((result, rows_of(result, self.changes, self._gone, unmeasured, measures)))
            # Many are measured faster than one by one.
            if not unmeasured or len(unmeasured) >= _MEASURED or len(waiting) >= _WAITING:
                unmeasured.measure()
                yield from waiting
                waiting.clear()
        unmeasured.measure()
        yield from waiting
        self.changes.finish(self._rejudging.short)

    def _settings_for(self, round_: Round) -> dict[str, Any]:
        recipe = round_.settings["recipe"]
        own = self._said.get("recipes", {}).get(recipe, {})
        common = {key: value for key, value in self._said.items() if key not in ("recipes", "judged")}
        return {**round_.settings, **common, **own}

    def _read_others(self, wanted: Callable[[Section], bool]) -> None:
        """What the sections of the round are compared with beside the rounds that were there when it began: tasks
        of other rounds that a top-up could see, and those that came later and stay as they are."""
        number, own = self._round.number, self._rejudging.sections
        sections = [one for one in self._pool.sections(self._until) if one.round != number and wanted(one)]
        seen = {one for one in sections if one.round < number and one.time < own[0].time}
        for section in own:
            before = [one for one in sections if one.time < section.time and one not in seen]
            seen.update(before)
            # Earlier rounds have been judged already, and what came to them later stands.
            judged = [one for one in sections if one.round < number or one.round not in self._numbers]
            after = [one for one in judged if one.time > section.time]
            self._others[section].before += self._beside(before)
            self._others[section].after += self._beside(after)

    def _beside(self, sections: Sequence[Section]) -> list[Beside]:
        """The tasks of sections, to be compared with."""
        parts = [(one.round, one.first, one.before) for one in sections]
        tasks = [task for part in parts for task in self._pool.instructions(*part)]
        if not tasks:
            return []
        threshold = self._round.settings["novelty"]["threshold"]
        gate = NoveltyGate(2, mode=mode_for(FULL_UP_TO + 1, threshold), threshold=threshold)
        gate.extend((key, text) for key, text, _ in tasks)
        paraphrases = self._gates.paraphrases() if self._gates.paraphrases else None
        if paraphrases is not None:
            paraphrases.extend([(key, text) for key, text, _ in tasks])
        bare = {text: key for key, text, has_instances in tasks if not has_instances}
        return [Beside(gate, paraphrases, bare)]


def not_replayable(pool: Pool, numbers: Sequence[int]) -> dict[int, str]:
    """Rounds that have no answers to judge again, and why."""
    source = pool.pulled()
    dropped = pool.without_answers()
    found = {}
    for number in numbers:
        if source and number in source.rounds:
            found[number] = PULLED
        elif number in dropped:
            found[number] = DROPPED
    return found


def _chosen(pool: Pool, rounds: range | None) -> list[Round]:
    there = [round_ for round_ in pool.rounds() if round_.complete]
    if rounds is None:
        return there
    if rounds[-1] > len(there):
        raise UsageError(f"--rounds: there is no round {rounds[-1]}; the pool has rounds 1-{len(there)}")
    return [round_ for round_ in there if round_.number in rounds]


def _said(settings: Settings, gates: Gates, rounds: Sequence[Round]) -> dict[str, Any]:
    """What a replay judges by: today's rules, and for rounds of another recipe those of theirs, whose blocked
    words differ unless the settings name them."""
    said: dict[str, Any] = {**plan.judging(settings), **gates.settings}
    judged = [round_.number for round_ in rounds]
    others = {r.settings["recipe"] for r in rounds if not is_import(r.settings)} - {settings.recipe}
    own = {name: plan.judging(settings.model_copy(update={"recipe": name})) for name in sorted(others)}
    recipes = {name: {key: value for key, value in by.items() if value != said[key]} for name, by in own.items()}
    recipes = {name: by for name, by in recipes.items() if by}
    return {**said, **({"recipes": recipes} if recipes else {}), "judged": judged}
