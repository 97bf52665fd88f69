"""What judging once more changes: a stored draw held against its new verdicts, and the counts of a round.

A candidate whose verdict is as it was keeps what was measured for it then, less the neighbours that are gone; one
with another verdict is measured anew. Pure but for the judge that is asked to measure.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from selfinstruct_hub.judging import Judge
from selfinstruct_hub.judging.again import Ruling
from selfinstruct_hub.pool import encoding
from selfinstruct_hub.records import Verdict, canonical_json
from selfinstruct_hub.replay.rejudging import Rejudged

# Columns of a verdict.
_POSITION, _CANDIDATE, _TASK, _REASON, _DETAIL, _NEAREST, _MEAN, _STAGE, _SCORE = 2, 3, 4, 5, 6, 7, 8, 9, 10
ACCEPTED, ABSENT, UNJUDGED = "accepted", "not found", "not judged"
_EXAMPLES = 3  # of each change
_SHOWN = 200  # characters of an instruction

Row = tuple[Any, ...]


@dataclass(frozen=True)
class Example:
    """A candidate with another verdict: what became of it before and now, and what the rule saw."""

    round: int
    request: int
    candidate: int
    before: str
    after: str
    instruction: str
    detail: str = ""

    def as_dict(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass
class RoundChanges:
    """What became of a round. `won`, `lost`, `replaced` (another row of the same candidate) and `same` count rows,
    `verdicts` candidates by (before, after); `short` are the tasks that it lacks now."""

    round: int
    wanted: int
    completions: int = 0
    candidates: int = 0
    won: int = 0
    lost: int = 0
    replaced: int = 0
    same: int = 0
    short: int = 0
    verdicts: Counter[tuple[str, str]] = field(default_factory=Counter)
    examples: list[Example] = field(default_factory=list)
    _won: Counter[str] = field(default_factory=Counter)
    _lost: Counter[str] = field(default_factory=Counter)

    @property
    def changed(self) -> bool:
        return bool(self.verdicts)

    def published(self) -> dict[str, Any]:
        """What the revision keeps of it, without what does not apply."""
        counts = {"won": self.won, "lost": self.lost, "replaced": self.replaced, "same": self.same}
        counts["short"] = self.short
        found: dict[str, Any] = {name: count for name, count in counts.items() if count}
        return {**found, "verdicts": {f"{a} -> {b}": n for (a, b), n in self.ordered()}}

    def as_dict(self) -> dict[str, Any]:
        """All of it, for a program."""
        counts = ("round", "wanted", "completions", "candidates", "won", "lost", "replaced", "same", "short")
        return {
            **{name: getattr(self, name) for name in counts},
            "verdicts": [{"before": a, "after": b, "candidates": n} for (a, b), n in self.ordered()],
            "examples": [example.as_dict() for example in self.examples],
        }

    def ordered(self) -> list[tuple[tuple[str, str], int]]:
        """Changes of verdicts, the commonest first."""
        return sorted(self.verdicts.items(), key=lambda one: (-one[1], one[0]))

    def unchanged(self, verdict: Verdict) -> None:
        self.same += len(verdict.task.instances) if verdict.task else 0

    def note(self, old: Row | None, new: Verdict | None, number: int, *, judged: bool = True) -> None:
        """Counts a candidate whose verdict is another one; `old` and `new` are None where it was not there."""
        before = ABSENT if judged else UNJUDGED
        if old is not None:
            before = old[_REASON] or ACCEPTED
        after, detail = ABSENT, ""
        if new is not None:
            after, detail = (new.drop.reason, new.drop.detail) if new.drop else (ACCEPTED, "")
        change = (before, after)
        self.verdicts[change] += 1
        had = _rows(old)
        has = Counter(key for key, _ in new.task.rows) if new is not None and new.task else Counter[str]()
        gone, come = had - has, has - had
        self.same += (had & has).total()
        pairs = min(gone.total(), come.total())
        self.replaced += pairs
        self._lost.update(list(gone.elements())[pairs:])
        self._won.update(list(come.elements())[pairs:])
        if self.verdicts[change] <= _EXAMPLES:
            instruction = json.loads(old[_CANDIDATE])["instruction"] if old is not None else None
            if new is not None:
                instruction = new.candidate.instruction or instruction
            place = old[_POSITION] if new is None and old is not None else new.position if new is not None else 0
            text = " ".join((instruction or "").split())[:_SHOWN]
            self.examples.append(Example(self.round, number, place, before, after, text, detail))

    def finish(self, short: int) -> None:
        """Sums up. A row that went at one place and came at another is the same."""
        moved = (self._lost & self._won).total()
        self.lost, self.won = self._lost.total() - moved, self._won.total() - moved
        self.same += moved
        self.short = short


@dataclass
class Gone:
    """Ids of tasks that a replay has taken out so far, in all of its rounds."""

    ids: set[str] = field(default_factory=set)

    def note(self, old: Row | None, new: Verdict | None) -> None:
        if old is not None and old[_TASK]:
            self.ids.add(json.loads(old[_TASK])["id"])
        if new is not None and new.task:
            self.ids.discard(new.task.id)

    def without(self, row: Row, position: int) -> Row:
        """A stored verdict as it stands then, at its position."""
        if position != row[_POSITION]:
            row = (*row[:_POSITION], position, *row[_POSITION + 1 :])
        if not self.ids or row[_NEAREST] == "[]":
            return row
        nearest = json.loads(row[_NEAREST])
        left = [near for near in nearest if near[0] not in self.ids]
        if len(left) == len(nearest):
            return row
        best = left[0][1] if left else None if row[_MEAN] is None else 0.0
        return (*row[:_NEAREST], canonical_json(left), row[_MEAN], row[_STAGE], best, *row[_SCORE + 1 :])


@dataclass
class Unmeasured:
    """New verdicts that the judge has not measured in full, waiting to be measured together."""

    judge: Judge
    _waiting: list[tuple[list[Row], int, Verdict, int]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, rows: list[Row], verdict: Verdict, known: int) -> None:
        """Waits with a verdict, which goes to the end of `rows`; `known` instructions were there before it."""
        self._waiting.append((rows, len(rows), verdict, known))
        rows.append(())

    def measure(self) -> None:
        """Puts them where they belong, measured."""
        if not self._waiting:
            return
        asked = []
        for _, _, verdict, known in self._waiting:
            text = verdict.task.instruction if verdict.task else verdict.candidate.instruction
            asked.append((text or "", known))
        for (rows, at, verdict, _), found in zip(self._waiting, self.judge.measured(asked), strict=True):
            rows[at] = encoding.verdict_values(replace(verdict, similarity=found))
        self._waiting.clear()


def rows_of(
    result: Rejudged,
    changes: RoundChanges,
    gone: Gone,
    unmeasured: Unmeasured,
    measures: Callable[[int, Verdict], bool],
) -> list[Row]:
    """The verdicts of a draw as a table's rows, counted into `changes`. `measures` says of a place and its
    new verdict whether it is to be measured in full; its row is there when `unmeasured` has done so."""
    draw = result.draw
    rows: list[Row] = []
    left = set(range(len(draw.verdicts)))
    partners = _partners(result)
    judged = zip(result.verdicts, result.known, result.rulings, partners, strict=True)
    for place, (verdict, known, said, at) in enumerate(judged):
        old = draw.verdicts[at] if at is not None else None
        left.discard(-1 if at is None else at)
        if old is not None and _same(old, verdict, said):
            changes.unchanged(verdict)
            rows.append(gone.without(old, verdict.position))
            continue
        gone.note(old, verdict)
        changes.note(old, verdict, draw.number, judged=draw.judged)
        if verdict.similarity is not None and measures(place, verdict):
            unmeasured.add(rows, verdict, known)
        else:
            rows.append(encoding.verdict_values(verdict))
    for at in sorted(left):
        gone.note(draw.verdicts[at], None)
        changes.note(draw.verdicts[at], None, draw.number)
    changes.completions += len(draw.answers)
    changes.candidates += len(result.verdicts)
    return rows


def _partners(result: Rejudged) -> Sequence[int | None]:
    """For each new verdict the stored one of the same candidate: in the same place, or with its instruction."""
    stored, verdicts = result.draw.verdicts, result.verdicts
    if len(stored) == len(verdicts):
        return range(len(stored))
    then = [json.loads(row[_CANDIDATE])["instruction"] for row in stored]
    free = set(range(len(then)))
    found: list[int | None] = []
    for verdict in verdicts:
        at = next((at for at in sorted(free) if then[at] == verdict.candidate.instruction), None)
        free.discard(-1 if at is None else at)
        found.append(at)
    return found


def _same(old: Row, verdict: Verdict, said: Ruling | None) -> bool:
    """Whether a verdict is as it was, whatever was measured for it; `said` has texts that are made already."""
    if said is not None and old[_CANDIDATE] == said.text and not verdict.lost and not verdict.revised:
        # Nothing but strings to compare, which is how most of them end.
        drop = verdict.drop
        kept = (said.task_text, None, None) if drop is None else (None, drop.reason, drop.detail)
        rest = (verdict.candidate.stage, "[]", None)
        if (*old[_TASK:_NEAREST], old[_STAGE], old[_SCORE + 1], old[_SCORE + 3]) == (*kept, *rest):
            near = None if drop is None or drop.near is None else canonical_json([drop.near.id, drop.near.score])
            if old[_SCORE + 2] == near:
                return True
    new = encoding.verdict_values(verdict)
    if (
        old[_CANDIDATE:_NEAREST] == new[_CANDIDATE:_NEAREST]
        and old[_STAGE] == new[_STAGE]
        and old[_SCORE + 1 :] == new[_SCORE + 1 :]
    ):
        return True
    if old[_REASON] != new[_REASON]:
        return False
    was = encoding.verdict(old)
    drop = verdict.drop
    if was.drop is not None and drop is not None and was.drop.near and drop.near:
        if was.drop.near.score == drop.near.score:
            # A row that was written anew has another id, and so has the first of two that are as near.
            drop = was.drop
    # Older pools say the same in other words, or say less.
    elif was.drop is not None and was.drop.near is None and drop is not None:
        drop = replace(drop, near=None)
    read = encoding.verdict(new)
    return was == replace(read, position=was.position, similarity=was.similarity, drop=drop)


def _rows(old: Row | None) -> Counter[str]:
    """The ids of a stored task's rows."""
    if old is None or not old[_TASK]:
        return Counter()
    return Counter(key for key, _ in encoding.task(json.loads(old[_TASK])).rows)
