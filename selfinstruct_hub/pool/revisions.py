"""Revisions in the pool: rounds that are released and change once more, with how they stood before.

The current tables always hold what stands now. Before a revision touches a round, the round's draws, verdicts and
failures are copied under the revision's number; `Revisions.as_of` reads the pool as it stood, so that any version
can be built again. Nothing that was released is lost by a revision, and every change is one transaction.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from selfinstruct_hub.pool import encoding
from selfinstruct_hub.pool.answers import GENERATED_TOKENS, PROMPT_TOKENS
from selfinstruct_hub.pool.identities import COLUMNS as BESIDE
from selfinstruct_hub.pool.identities import following
from selfinstruct_hub.records import (
    ABANDONED,
    CHARACTERS_PER_TOKEN,
    COMPLETE,
    OPEN,
    Change,
    Completion,
    Failure,
    Place,
    Request,
    Revision,
    Verdict,
    canonical_json,
)

if TYPE_CHECKING:
    from selfinstruct_hub.pool import Pool

_Made = TypeVar("_Made")
# A judged draw: number, verdicts, requests that were never answered.
Draw = tuple[int, Sequence[Verdict], Sequence[Failure]]

# The columns of a verdict as `encoding` has it; the table has more, which follow from these.
VERDICT = (
    "round, number, position, candidate, task, reason, detail, nearest, mean, stage, score, lost, near, revised"
)
_TEXTS = [VERDICT.split(", ").index(column) for column in ("candidate", "task", "lost")]
COPIED = {
    "draws": "round, number, candidates",
    "verdicts": f"{VERDICT}, {BESIDE}",
    "failures": "round, number, call, stage, reason, detail, tries",
}
_MARKS = ", ".join("?" * len(COPIED["verdicts"].split(", ")))
_COMPLETION = f"{encoding.COMPLETION}, revision, prompt_estimate, generated_estimate"


class Revisions:
    """The part of a pool that has to do with revisions."""

    open: Callable[..., Any]
    path: Path
    _db: sqlite3.Connection
    _state: int | None = None  # that the pool reads as; None: as it stands

    def _transaction(self) -> AbstractContextManager[sqlite3.Connection]:
        raise NotImplementedError

    def _rows(self, query: str, *values: Any, **named: Any) -> list[tuple[Any, ...]]:
        raise NotImplementedError

    def _read(
        self, make: Callable[[tuple[Any, ...]], _Made], query: str, *values: Any, **named: Any
    ) -> list[_Made]:
        raise NotImplementedError

    def revisions(self) -> list[Revision]:
        """Those that are complete, and the open one, in order; only the last can be open."""
        rounds: dict[int, list[int]] = {}
        for number, round_number in self._rows("SELECT revision, round FROM revised_rounds ORDER BY 1, 2"):
            rounds.setdefault(number, []).append(round_number)
        query = (
            "SELECT number, version, kind, after_round, settings, asked, state, changes FROM revisions"
            " WHERE state <> ? ORDER BY number"
        )

        def revision(row: tuple[Any, ...]) -> Revision:
            number, version, kind, after, settings, asked, state, changes = row
            return Revision(
                *(number, version, kind, after, tuple(rounds.get(number, ()))),
                *(json.loads(settings), json.loads(asked), state, json.loads(changes)),
            )

        return self._read(revision, query, ABANDONED)

    def open_revision(self) -> Revision | None:
        """The revision that is not complete yet."""
        return next((one for one in self.revisions() if one.state == OPEN), None)

    def next_revision_number(self) -> int:
        ((last,),) = self._rows("SELECT coalesce(max(number), 0) FROM revisions")
        return int(last) + 1

    def set_revisions(self, revisions: Sequence[Revision]) -> None:
        """The revisions of a published version, which tells nothing of how its rounds stood before."""
        with self._transaction() as db:
            for revision in revisions:
                _insert(db, revision)

    def begin_revision(self, revision: Revision, places: Sequence[Place] = ()) -> None:
        """Begins a revision: keeps how its rounds stand, and which places it is to change."""
        with self._transaction() as db:
            begin(db, replace(revision, state=OPEN), places)

    def revise(self, revision: int, changes: Sequence[Change]) -> None:
        """Makes changes of an open revision, all of them or none. A place is changed once."""
        with self._transaction() as db:
            _change(db, revision, changes)

    def ask_again(self, revision: int, first: int) -> None:
        """Takes back, from item `first` on, that places stay as they were: they are to be changed again."""
        with self._transaction() as db:
            db.execute(
                "UPDATE revised SET done = 0, after = NULL, reason = NULL, detail = NULL"
                " WHERE revision = ? AND item >= ? AND done AND reason IS NOT NULL AND after = before",
                (revision, first),
            )

    def complete_revision(self, revision: int, changes: Mapping[str, Any]) -> None:
        """Ends a revision with what became of its rounds."""
        with self._transaction() as db:
            complete(db, revision, changes)

    def revise_at_once(
        self, revision: Revision, places: Sequence[Place], changes: Sequence[Change], said: Mapping[str, Any]
    ) -> None:
        """A whole revision, or nothing of it."""
        with self._transaction() as db:
            begin(db, replace(revision, state=OPEN), places)
            _change(db, revision.number, changes)
            complete(db, revision.number, said)

    def replace_rounds(
        self, revision: Revision, rounds: Mapping[int, Iterable[Draw]], said: Mapping[str, Any]
    ) -> None:
        """A whole revision that judges rounds anew, or nothing of it: the draws in place of those that stand.
        `said` is read after the last draw, so that it may be filled on the way."""
        with self._transaction() as db:
            begin(db, replace(revision, rounds=tuple(rounds), state=OPEN), ())
            for round_number, draws in rounds.items():
                for table in ("failures", "verdicts", "draws"):
                    db.execute(f"DELETE FROM {table} WHERE round = ?", (round_number,))
                for number, verdicts, failures in draws:
                    insert_draw(db, round_number, number, verdicts, failures)
            complete(db, revision.number, said)

    def abandon_revision(self, revision: int) -> None:
        """Puts the rounds of an open revision back to how they stood. Answers that were paid for are kept."""
        with self._transaction() as db:
            ((state,),) = db.execute("SELECT state FROM revisions WHERE number = ?", (revision,)).fetchall()
            assert state == OPEN, "what is released is not taken back"
            touched = "SELECT round FROM revised_rounds WHERE revision = ?"
            for table in ("failures", "verdicts", "draws"):
                db.execute(f"DELETE FROM {table} WHERE round IN ({touched})", (revision,))
            for table, columns in COPIED.items():
                db.execute(
                    f"INSERT INTO {table} ({columns}) SELECT {columns} FROM past_{table} WHERE revision = ?",
                    (revision,),
                )
                db.execute(f"DELETE FROM past_{table} WHERE revision = ?", (revision,))
            db.execute("DELETE FROM revised_rounds WHERE revision = ?", (revision,))
            db.execute("UPDATE revisions SET state = ? WHERE number = ?", (ABANDONED, revision))

    def places(self, revision: int, *, done: bool | None = None) -> list[Place]:
        """What a revision was to change; all of it, or what it has done or not done yet."""
        condition = "" if done is None else f" AND done = {int(done)}"
        query = (
            "SELECT item, round, number, position, instance, before FROM revised WHERE revision = ?"
            f"{condition} ORDER BY item"
        )

        def place(row: tuple[Any, ...]) -> Place:
            item, number, draw, position, instance, before = row
            return Place(item, number, draw, position, instance, tuple(json.loads(before)))

        return self._read(place, query, revision)

    def changed(self, revision: int) -> list[dict[str, Any]]:
        """What became of the places that are done: item, round, number, position, instance, before, after (ids of
        rows), reason, detail (why it stays as it was), marks."""
        names = ("item", "round", "number", "position", "instance", "before", "after", "reason", "detail", "marks")
        query = f"SELECT {', '.join(names)} FROM revised WHERE revision = ? AND done ORDER BY item"

        def place(row: tuple[Any, ...]) -> dict[str, Any]:
            values = dict(zip(names, row, strict=True))
            return values | {k: json.loads(values[k]) if values[k] else None for k in ("before", "after", "marks")}

        return self._read(place, query, revision)

    def verdict_at(self, round_number: int, number: int, position: int) -> Verdict | None:
        """The verdict that stands at a place."""
        found = self._read(
            encoding.verdict,
            f"SELECT {VERDICT} FROM verdicts WHERE round = ? AND number = ? AND position = ?",
            *(round_number, number, position),
        )
        return found[0] if found else None

    def failures(self, round_number: int) -> dict[int, list[Failure]]:
        """The requests of a round that were never answered, by draw."""
        query = "SELECT number, call, stage, reason, detail, tries FROM failures WHERE round = ? ORDER BY 1, 2"
        found: dict[int, list[Failure]] = {}
        for number, *failure in self._rows(query, round_number):
            found.setdefault(number, []).append(Failure(*failure))
        return found

    # Answers of a revision. A request's `number` is the item it is for.

    def add_revision_completions(self, revision: int, answered: Sequence[tuple[Request, Completion]]) -> None:
        """Stores answers as they came, before anything looks at them."""
        with self._transaction() as db:
            db.executemany(
                f"INSERT INTO revision_completions VALUES ({', '.join('?' * 16)})",
                [(revision, one.number, one.call, *encoding.answer_values(one, said)) for one, said in answered],
            )

    def revision_completion(self, revision: int, item: int, call: int) -> tuple[Request, Completion] | None:
        """A stored answer of a revision with the request that it answers, or None. The request's round is 0."""
        query = (
            "SELECT 0, item, call, stage, prompt, decoding, demonstrations, text, finish_reason, prompt_tokens,"
            " generated_tokens, model, endpoint_kind, queue_time, inference_time, total_time"
            " FROM revision_completions WHERE revision = ? AND item = ? AND call = ?"
        )
        found = self._read(encoding.completion, query, revision, item, call)
        return found[0] if found else None

    def revision_cost(self, revision: int) -> tuple[int, int, int]:
        """(requests answered, tokens of their prompts, generated tokens) of a revision, of draws only those that
        were judged; tokens that the endpoint did not tell count as none."""
        return self._cost(
            (
                "SELECT prompt_tokens, generated_tokens FROM revision_completions WHERE revision = :r"
                " UNION ALL SELECT prompt_tokens, generated_tokens FROM completions"
                " JOIN draws USING (round, number) WHERE revision = :r"
            ),
            r=revision,
        )

    def revision_spent(self, revision: int) -> tuple[int, int, int]:
        """The same of all its answers, as a budget counts: where the endpoint did not tell the tokens, the same
        estimate that was booked."""
        return self._cost(
            (
                f"SELECT {PROMPT_TOKENS} AS prompt_tokens, {GENERATED_TOKENS} AS generated_tokens FROM"
                " (SELECT *, NULL AS prompt_estimate, NULL AS generated_estimate FROM revision_completions)"
                " WHERE revision = :r"
                f" UNION ALL SELECT {PROMPT_TOKENS}, {GENERATED_TOKENS} FROM completions WHERE revision = :r"
            ),
            r=revision,
            c=CHARACTERS_PER_TOKEN,
        )

    def _cost(self, query: str, **values: int) -> tuple[int, int, int]:
        ((requests, prompt, generated),) = self._rows(
            f"SELECT count(*), sum(prompt_tokens), sum(generated_tokens) FROM ({query})", **values
        )
        return int(requests), int(prompt or 0), int(generated or 0)

    def revision_models(self, revision: int) -> list[str]:
        """The models that have answered a revision."""
        query = (
            "SELECT model FROM revision_completions WHERE revision = :r"
            " UNION SELECT model FROM completions JOIN draws USING (round, number) WHERE revision = :r ORDER BY 1"
        )
        return [model for (model,) in self._rows(query, r=revision)]

    @contextmanager
    def beside(self) -> Iterator[Pool]:
        """Another pool that reads what this one does, for other threads."""
        with (
            self.open(self.path, read_only=True, any_thread=True) as reader,
            nullcontext() if self._state is None else reader.as_of(self._state),
        ):
            yield reader

    @contextmanager
    def as_of(self, revision: int) -> Iterator[None]:
        """While it is open, rounds, answers and verdicts read as they stood after revision number `revision` (0:
        before there was any). Nothing may be written meanwhile."""
        before = self._state
        self._show(revision if any(one.number > revision for one in self.revisions()) else None)
        try:
            yield
        finally:
            self._show(before)

    def _show(self, state: int | None) -> None:
        """Makes the pool read as it stood after revision number `state`, or as it stands."""
        if state == self._state:
            return
        for name in ("completions", *COPIED):
            self._rows(f"DROP VIEW IF EXISTS temp.{name}")
        self._state = state
        if state is None:
            return
        # What is asked for is written into the views, so that SQLite of any age finds it by an index.
        kept: dict[int, list[int]] = {}
        query = "SELECT min(revision), round FROM main.revised_rounds WHERE revision > ? GROUP BY round"
        for revision, round_number in self._rows(query, state):
            kept.setdefault(revision, []).append(round_number)
        since = ", ".join(str(number) for rounds in kept.values() for number in rounds)
        views = {
            "completions": f"SELECT {_COMPLETION} FROM main.completions WHERE revision <= {state:d}",
            **{
                table: " UNION ALL ".join(
                    [
                        f"SELECT {columns} FROM main.{table} WHERE round NOT IN ({since})",
                        *(
                            f"SELECT {columns} FROM main.past_{table} WHERE revision = {revision:d}"
                            f" AND round IN ({', '.join(map(str, rounds))})"
                            for revision, rounds in kept.items()
                        ),
                    ]
                )
                for table, columns in COPIED.items()
            },
        }
        # A temporary view hides the table of its name.
        for name, query in views.items():
            self._rows(f"CREATE TEMP VIEW {name} AS {query}")


def insert_draw(
    db: sqlite3.Connection,
    round_number: int,
    number: int,
    verdicts: Sequence[Verdict],
    failures: Sequence[Failure] = (),
) -> None:
    db.execute("INSERT INTO draws VALUES (?, ?, ?)", (round_number, number, len(verdicts)))
    put_verdicts(db, [encoding.verdict_values(verdict) for verdict in verdicts])
    db.executemany(
        "INSERT INTO failures VALUES (?, ?, ?, ?, ?, ?, ?)",
        [(round_number, number, f.call, f.stage, f.reason, f.detail, f.tries) for f in failures],
    )


def put_verdicts(db: sqlite3.Connection, rows: Iterable[tuple[Any, ...]], *, replace: bool = False) -> None:
    """Stores verdicts, as a table's rows, with what follows from each; `replace` those that stand in their places.
    The one way by which a verdict gets into the pool."""
    db.executemany(
        f"INSERT {'OR REPLACE ' if replace else ''}INTO verdicts ({COPIED['verdicts']}) VALUES ({_MARKS})",
        ((*row, *following(*(row[at] for at in _TEXTS))) for row in rows),
    )


def begin(db: sqlite3.Connection, revision: Revision, places: Sequence[Place]) -> None:
    ((opened,),) = db.execute("SELECT count(*) FROM revisions WHERE state = ?", (OPEN,)).fetchall()
    assert not opened, "one revision at a time"
    _insert(db, revision)
    for round_number in revision.rounds:
        keep(db, revision.number, round_number)
    db.executemany(
        "INSERT INTO revised (revision, item, round, number, position, instance, before)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            (revision.number, p.item, p.round, p.number, p.position, p.instance, canonical_json(list(p.before)))
            for p in places
        ],
    )


def keep(db: sqlite3.Connection, revision: int, round_number: int) -> None:
    """Keeps how a round stands before a revision touches it."""
    for table, columns in COPIED.items():
        db.execute(
            f"INSERT INTO past_{table} (revision, {columns}) SELECT ?, {columns} FROM {table} WHERE round = ?",
            (revision, round_number),
        )


def _insert(db: sqlite3.Connection, revision: Revision) -> None:
    db.execute(
        "INSERT INTO revisions VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(revision.number, revision.version, revision.kind, revision.after_round, revision.state),
            *(canonical_json(part) for part in (revision.settings, revision.asked, revision.changes)),
        ),
    )
    for round_number in revision.rounds:
        db.execute("INSERT INTO revised_rounds VALUES (?, ?)", (revision.number, round_number))


def _change(db: sqlite3.Connection, revision: int, changes: Sequence[Change]) -> None:
    for change in changes:
        cursor = db.execute(
            "UPDATE revised SET done = 1, after = ?, reason = ?, detail = ?, marks = ?"
            " WHERE revision = ? AND item = ? AND NOT done",
            (
                *(canonical_json(list(change.after)), change.reason, change.detail or None),
                canonical_json(change.marks) if change.marks is not None else None,
                *(revision, change.item),
            ),
        )
        assert cursor.rowcount == 1, "a place is changed once"
        if change.verdict is not None:
            put_verdicts(db, [encoding.verdict_values(change.verdict)], replace=True)


def complete(db: sqlite3.Connection, revision: int, changes: Mapping[str, Any]) -> None:
    values = (COMPLETE, canonical_json(changes), revision)
    db.execute("UPDATE revisions SET state = ?, changes = ? WHERE number = ?", values)
