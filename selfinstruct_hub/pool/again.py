"""What judging a round once more reads and writes: stored answers and verdicts in batches, and what changed.

Batches go by the numbers of draws, so that a pool of any size is read in a little memory. Everything that a replay
writes is one transaction, which a dry run takes back.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from selfinstruct_hub.pool.revisions import VERDICT, begin, complete, insert_draw, keep, put_verdicts
from selfinstruct_hub.records import ABANDONED, COMPLETE, REGENERATE, REVIEW, TOP_UP, Failure, Revision

# Characters of a prompt's end that tell what it asked for last.
_END = 400


@dataclass(frozen=True)
class Answer:
    """A stored answer, with what is still to be known of its request: the prompt (its end, where nobody asks for
    more) and how many demonstrations it showed."""

    stage: str
    prompt: str
    shown: int
    text: str
    finish_reason: str


@dataclass
class StoredDraw:
    """A draw as it is stored: its answers by call, requests that were given up, and its verdicts as a table's
    rows; `judged` says whether anybody has looked at it. Of an import, a part of its only draw."""

    number: int
    judged: bool
    answers: dict[int, Answer] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    verdicts: list[tuple[Any, ...]] = field(default_factory=list)

    @property
    def dropped(self) -> bool:
        """Whether the text of an answer was dropped."""
        return any(not answer.prompt and not answer.text for answer in self.answers.values())


@dataclass(frozen=True)
class Section:
    """Draws of a round that were judged in one go, from number `first` to before `before` (None: to its end): when
    the round was grown, or by top-up number `revision` after `after_round`. `filled` says that the round had its
    number then."""

    round: int
    first: int
    before: int | None
    after_round: int
    revision: int = 0
    filled: bool = True

    @property
    def time(self) -> tuple[int, int, int]:
        """Sorts sections of all rounds in the order in which they were judged."""
        return self.after_round, self.revision, self.round


class Judgements:
    """The part of a pool that judging once more needs."""

    _db: sqlite3.Connection

    def _transaction(self) -> AbstractContextManager[sqlite3.Connection]:
        raise NotImplementedError

    def _rows(self, query: str, *values: Any, **named: Any) -> list[tuple[Any, ...]]:
        raise NotImplementedError

    def stored_draws(self, round_number: int, first: int, count: int, *, prompts: bool) -> list[StoredDraw]:
        """The draws numbered `first` to before `first` + `count`, judged or only answered, in order; `prompts`
        says whether whole ones are needed."""
        found: dict[int, StoredDraw] = {}
        between = "round = ? AND number >= ? AND number < ?"
        place = (round_number, first, first + count)
        for (number,) in self._rows(f"SELECT number FROM draws WHERE {between} ORDER BY 1", *place):
            found[number] = StoredDraw(number, True)
        prompt = "prompt" if prompts else f"substr(prompt, -{_END})"
        query = (
            f"SELECT number, call, stage, {prompt}, json_array_length(demonstrations), text, finish_reason"
            f" FROM completions WHERE {between} ORDER BY number, call"
        )
        for number, call, *answer in self._rows(query, *place):
            if number not in found:
                found[number] = StoredDraw(number, False)
            found[number].answers[call] = Answer(*answer)
        query = f"SELECT number, call, stage, reason, detail, tries FROM failures WHERE {between} ORDER BY 1, 2"
        for number, *failure in self._rows(query, *place):
            found[number].failures.append(Failure(*failure))
        query = f"SELECT {VERDICT} FROM verdicts WHERE {between} ORDER BY number, position"
        for row in self._rows(query, *place):
            found[row[1]].verdicts.append(row)
        return [found[number] for number in sorted(found)]

    def stored_verdicts(self, round_number: int, number: int, first: int, count: int) -> StoredDraw:
        """A part of a draw, by positions: an import is one draw, however long its file was."""
        query = (
            f"SELECT {VERDICT} FROM verdicts WHERE round = ? AND number = ? AND position >= ? AND position < ?"
            " ORDER BY position"
        )
        return StoredDraw(number, True, verdicts=self._rows(query, round_number, number, first, first + count))

    def without_answers(self) -> set[int]:
        """The rounds with answers whose texts were dropped."""
        query = (
            "SELECT DISTINCT round FROM completions JOIN draws USING (round, number)"
            " WHERE prompt = '' AND text = ''"
        )
        return {number for (number,) in self._rows(query)}

    def last_accepted(
        self, round_number: int, until: int | None = None, before: int | None = None
    ) -> tuple[int, int] | None:
        """The last place (draw, position) where a task stands or stood before a revision, those after `until`
        left out; of draws `before` a number."""
        past = "" if until is None else f" AND revision <= {until:d}"
        draws = "" if before is None else f" AND number < {before:d}"
        rows = self._rows(
            f"SELECT number, position FROM (SELECT number, position, task FROM verdicts WHERE round = :r{draws}"
            f" UNION ALL SELECT number, position, task FROM past_verdicts WHERE round = :r{draws}{past})"
            " WHERE task IS NOT NULL ORDER BY number DESC, position DESC LIMIT 1",
            r=round_number,
        )
        return (rows[0][0], rows[0][1]) if rows else None

    def sections(self, until: int | None = None) -> list[Section]:
        """The sections of all rounds, by round and draw; what top-ups after `until` did is left out."""
        past = "" if until is None else f" AND r.number <= {until:d}"
        query = (
            "SELECT d.round, count(*), r.number, r.after_round, r.changes FROM revisions r"
            " JOIN past_draws d ON d.revision = r.number"
            f" WHERE r.kind = ? AND r.state = ?{past} GROUP BY d.round, r.number ORDER BY d.round, r.number"
        )
        filled: dict[int, list[Section]] = {}
        for number, first, revision, after, changes in self._rows(query, TOP_UP, COMPLETE):
            short = json.loads(changes).get(str(number), {}).get("short", 0)
            filled.setdefault(number, []).append(Section(number, first, None, after, revision, not short))
        found = []
        for (number,) in self._rows("SELECT number FROM rounds ORDER BY number"):
            of_round = [Section(number, 0, None, number), *filled.get(number, ())]
            ends = [*(one.first for one in of_round[1:]), None]
            found += [replace(one, before=end) for one, end in zip(of_round, ends, strict=True)]
        return found

    def rewritten(self, round_number: int, until: int | None = None) -> dict[tuple[int, int], int]:
        """The places (draw, position) that were regenerated and that a later revision may have changed, each with
        the revision before which it stood as it was regenerated last; revisions after `until` are left out."""
        past = "" if until is None else f" AND c.revision <= {until:d}"
        query = (
            "SELECT s.number, s.position, (SELECT min(c.revision) FROM revised_rounds c"
            f" WHERE c.round = :round AND c.revision > s.last{past}) AS next FROM"
            " (SELECT c.number, c.position, max(c.revision) AS last FROM revised c"
            " JOIN revisions r ON r.number = c.revision WHERE c.round = :round AND r.kind = :kind"
            f" AND r.state = :state AND c.done AND c.before <> c.after{past} GROUP BY 1, 2) s"
            " WHERE next IS NOT NULL"
        )
        values = {"round": round_number, "kind": REGENERATE, "state": COMPLETE}
        return {(number, position): revision for number, position, revision in self._rows(query, **values)}

    def past_verdict(self, revision: int, round_number: int, number: int, position: int) -> tuple[Any, ...] | None:
        """A verdict as it stood before a revision, as a table's row."""
        query = (
            f"SELECT {VERDICT} FROM past_verdicts WHERE revision = ? AND round = ? AND number = ? AND position = ?"
        )
        rows = self._rows(query, revision, round_number, number, position)
        return rows[0] if rows else None

    def decided(self, round_number: int, until: int | None = None) -> set[tuple[int, int]]:
        """The places (draw, position) of a round that a person has decided about in a review: what was changed,
        and what was kept on purpose; what revisions after `until` did is left out."""
        past = "" if until is None else f" AND revised.revision <= {until:d}"
        query = (
            "SELECT DISTINCT revised.number, position FROM revised"
            " JOIN revisions ON revisions.number = revised.revision"
            f" WHERE revised.round = ? AND kind = ? AND state <> ? AND done"
            f" AND (before <> after OR json_extract(marks, '$.verdict') IS NOT NULL){past}"
        )
        return {(n, position) for n, position in self._rows(query, round_number, REVIEW, ABANDONED)}

    def revised_since(self, round_number: int) -> dict[int, int]:
        """Of the rounds up to one those that a revision has touched since that one was begun, each with the first
        revision that did: what it kept is how the round stood then."""
        query = (
            "SELECT round, min(revision) FROM revised_rounds WHERE round <= :round AND revision >"
            " (SELECT coalesce(max(number), 0) FROM revisions WHERE after_round < :round) GROUP BY round"
        )
        return dict(self._rows(query, round=round_number))

    def past_instructions(self, revision: int, round_number: int) -> list[tuple[str, str]]:
        """The (id, instruction) of a round's tasks as they stood before a revision, in order."""
        query = (
            "SELECT json_extract(task, '$.id'), json_extract(task, '$.instruction') FROM past_verdicts"
            " WHERE revision = ? AND round = ? AND task IS NOT NULL ORDER BY number, position"
        )
        return self._rows(query, revision, round_number)

    def past_rows(
        self, revision: int, round_number: int, first: int, last: int, position: int = 0, before: int | None = None
    ) -> list[tuple[Any, ...]]:
        """The verdicts of a round's draws numbered `first` to `last` as they stood before a revision, as a table's
        rows; of each the positions from `position` to before `before`."""
        end = "" if before is None else f" AND position < {before:d}"
        query = (
            f"SELECT {VERDICT} FROM past_verdicts WHERE revision = ? AND round = ? AND number BETWEEN ? AND ?"
            f" AND position >= ?{end} ORDER BY number, position"
        )
        return self._rows(query, revision, round_number, first, last, position)

    def accepted_instructions(self, round_number: int) -> set[str]:
        """The instructions of a round's accepted tasks."""
        query = "SELECT json_extract(task, '$.instruction') FROM verdicts WHERE round = ? AND task IS NOT NULL"
        return {text for (text,) in self._rows(query, round_number)}

    @contextmanager
    def judging_anew(self, revision: Revision) -> Iterator[Rewriting]:
        """Opens the transaction of a whole revision. It is taken back unless it is `Rewriting.finish`ed."""
        rewriting = Rewriting(self._db, revision)
        try:
            with self._transaction() as db:
                begin(db, replace(revision, rounds=()), ())
                yield rewriting
                if rewriting.said is None:
                    raise _TakenBack
                complete(db, revision.number, rewriting.said)
        except _TakenBack:
            pass


class _TakenBack(Exception):
    pass


class Rewriting:
    """Writes what changed in the rounds of a revision. `rounds` are those with any change so far."""

    def __init__(self, db: sqlite3.Connection, revision: Revision) -> None:
        self._db = db
        self._revision = revision
        self.rounds: list[int] = []
        self.said: Mapping[str, Any] | None = None

    def replace(self, round_number: int, verdicts: Sequence[tuple[Any, ...]]) -> None:
        """Puts verdicts, as a table's rows, in the place of those that stand there."""
        if verdicts:
            self._touch(round_number)
            put_verdicts(self._db, verdicts, replace=True)

    def replace_draw(
        self, round_number: int, number: int, verdicts: Sequence[tuple[Any, ...]], failures: Sequence[Failure]
    ) -> None:
        """Puts a draw in the place of one with other candidates, or behind the last one."""
        self._touch(round_number)
        for table in ("failures", "verdicts", "draws"):
            self._db.execute(f"DELETE FROM {table} WHERE round = ? AND number = ?", (round_number, number))
        insert_draw(self._db, round_number, number, (), failures)
        self._db.execute(
            "UPDATE draws SET candidates = ? WHERE round = ? AND number = ?",
            (len(verdicts), round_number, number),
        )
        self.replace(round_number, verdicts)

    def finish(self, said: Mapping[str, Any]) -> None:
        """Keeps everything, with what became of the rounds."""
        self.said = said

    def _touch(self, round_number: int) -> None:
        if round_number not in self.rounds:
            number = self._revision.number
            self._db.execute("INSERT INTO revised_rounds VALUES (?, ?)", (number, round_number))
            keep(self._db, number, round_number)
            self.rounds.append(round_number)
