"""The pool: everything that was asked, answered and judged, in one SQLite file. The only room that writes it.

A completion is stored in a transaction of its own before anything looks at it; a judged draw is stored whole,
in one transaction, so a pool never holds half of one. No answer and no verdict is deleted or overwritten.
"""

from __future__ import annotations

import itertools
import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selfinstruct_hub.errors import PoolError
from selfinstruct_hub.pool import counting, encoding, published, pulled
from selfinstruct_hub.pool.pulled import Pulled
from selfinstruct_hub.pool.schema import APPLICATION_ID, MIGRATIONS, SCHEMA, SCHEMA_VERSION
from selfinstruct_hub.records import (
    CHARACTERS_PER_TOKEN,
    Completion,
    Failure,
    Instance,
    Request,
    Round,
    Task,
    Verdict,
    canonical_json,
)

FILE_NAME = "pool.sqlite3"
# records.estimated_tokens of a column: a character in three, and every further byte of a character.
_ESTIMATED = "(length({0}) + :c - 1) / :c + length(CAST({0} AS BLOB)) - length({0})"


class Pool:
    """An open pool. Use as a context manager; one process at a time (grow.py holds the workspace's lock)."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._db = connection

    @classmethod
    def create(cls, path: Path) -> Pool:
        """A new, empty pool at `path`, which must not exist."""
        if path.exists():
            raise PoolError(f"{path}: a pool is there already")
        # Made under another name, so that a death half-way leaves nothing that looks like a pool.
        unfinished = path.with_name(f"{path.name}.new")
        try:
            for left in path.parent.glob(f"{unfinished.name}*"):
                left.unlink()
            cls._open(unfinished, create=True).close()
            unfinished.rename(path)
        except OSError as error:
            raise PoolError(f"{path}: cannot be made ({error.strerror}); check space and permissions") from error
        return cls._open(path)

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False, any_thread: bool = False) -> Pool:
        """The pool at `path`; with `any_thread` one thread after another may use it. Raises PoolError for a file
        that is none, a damaged or a newer one."""
        if not path.is_file():
            raise PoolError(f"{path}: there is no pool yet")
        return cls._open(path, read_only=read_only, any_thread=any_thread)

    @classmethod
    def _open(cls, path: Path, *, create: bool = False, read_only: bool = False, any_thread: bool = False) -> Pool:
        with _errors_named(path):
            # Autocommit: every transaction is opened and closed by `_transaction`.
            if read_only:
                # Without a write-ahead log nobody is writing, and a read-only medium can be read too.
                log = path.with_name(f"{path.name}-wal")
                mode = "mode=ro" if log.exists() else "immutable=1"
                name: str | Path = f"{path.resolve().as_uri()}?{mode}"
            else:
                name = path
            connection = sqlite3.connect(
                name, uri=read_only, isolation_level=None, check_same_thread=not any_thread
            )
            pool = cls(path, connection)
            try:
                if create:
                    # WAL is chosen before the first page is written; it stays with the file.
                    connection.execute("PRAGMA journal_mode = WAL")
                    with pool._transaction():
                        for statement in SCHEMA.split(";"):
                            connection.execute(statement)
                        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
                else:
                    pool._migrate(pool._format(), read_only=read_only, any_thread=any_thread)
                # FULL: a stored completion survives a power cut too, not only a crash of ours.
                pool._db.execute("PRAGMA synchronous = FULL")
                pool._db.execute("PRAGMA foreign_keys = ON")
            except BaseException:
                pool.close()
                raise
        return pool

    def _format(self) -> int:
        (application,) = self._db.execute("PRAGMA application_id").fetchone()
        if application != APPLICATION_ID:
            raise PoolError(f"{self.path}: not a pool of selfinstruct-hub")
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise PoolError(
                f"{self.path}: made by a newer selfinstruct-hub (pool format {version}, this one reads up to "
                f"{SCHEMA_VERSION}); upgrade with `pip install --upgrade selfinstruct-hub`"
            )
        return int(version)

    def _migrate(self, version: int, *, read_only: bool, any_thread: bool) -> None:
        """Brings an older pool to today's format: in memory for a reader, else in place with a copy beside it."""
        if version == SCHEMA_VERSION:
            return
        if read_only:
            memory = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=not any_thread)
            self._db.backup(memory)
            self._db.close()
            self._db = memory
        else:
            backup = self.path.with_name(f"{self.path.name}.format-{version}")
            copy = sqlite3.connect(backup)
            try:
                self._db.backup(copy)
            finally:
                copy.close()
        with self._transaction() as db:
            for older in range(version, SCHEMA_VERSION):
                for statement in MIGRATIONS[older].split(";"):
                    db.execute(statement)
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def close(self) -> None:
        self._db.close()

    def interrupt(self) -> None:
        """Ends the query that another thread waits for; sqlite3.OperationalError is raised there."""
        self._db.interrupt()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with _errors_named(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _rows(self, query: str, *values: Any, **named: Any) -> list[tuple[Any, ...]]:
        with _errors_named(self.path):
            return self._db.execute(query, named or values).fetchall()

    def check(self) -> None:
        """Reads the whole file. Raises PoolError where it is damaged."""
        problems = [text for (text,) in self._rows("PRAGMA integrity_check(1)")]
        if problems != ["ok"]:
            raise PoolError(f"{self.path}: the pool is damaged ({problems[0]}); restore it from a backup")

    # Seeds and facts about the whole pool.

    def set_seeds(self, rows: Sequence[dict[str, Any]], fingerprint: str) -> None:
        """Sets the seed tasks; a pool grows from one set of seeds, so this is for before the first round."""
        with self._transaction() as db:
            db.execute("DELETE FROM seeds")
            db.executemany(
                "INSERT INTO seeds VALUES (?, ?)", [(i, canonical_json(row)) for i, row in enumerate(rows)]
            )
            db.execute("INSERT OR REPLACE INTO meta VALUES ('seeds', ?)", (fingerprint,))

    def seeds(self) -> list[Task]:
        """The frozen seed tasks, in their file's order."""
        return [
            Task(
                id=row["id"],
                name=row["name"],
                instruction=row["instruction"],
                instances=tuple(Instance(**i) for i in row["instances"]),
                is_classification=row["is_classification"],
            )
            for row in (json.loads(text) for (text,) in self._rows("SELECT task FROM seeds ORDER BY position"))
        ]

    def meta(self, key: str) -> str | None:
        """A fact about the whole pool, or None."""
        rows = self._rows("SELECT value FROM meta WHERE key = ?", key)
        return rows[0][0] if rows else None

    def set_meta(self, key: str, value: str | None) -> None:
        """Sets a fact; None removes it."""
        with self._transaction() as db:
            db.execute("DELETE FROM meta WHERE key = ?", (key,))
            if value is not None:
                db.execute("INSERT INTO meta VALUES (?, ?)", (key, value))

    def pulled(self) -> Pulled | None:
        """The published version that the pool was made from; None where it was begun here."""
        text = self.meta(pulled.META)
        return Pulled.of_text(text) if text else None

    def set_pulled(self, source: Pulled) -> None:
        """Says where the rounds come from that the pool is made of."""
        self.set_meta(pulled.META, source.as_text())

    # Rounds.

    def begin_round(self, round_: Round) -> None:
        with self._transaction() as db:
            _insert_round(db, round_)

    def restart_round(self, round_: Round) -> None:
        """Begins a round anew that has no answer yet."""
        with self._transaction() as db:
            db.execute(
                "UPDATE rounds SET version = ?, wanted = ?, settings = ?, asked = ? WHERE number = ?",
                (
                    *(round_.version, round_.wanted),
                    *(canonical_json(round_.settings), canonical_json(round_.asked), round_.number),
                ),
            )

    def set_wanted(self, number: int, wanted: int) -> None:
        """Changes how many tasks complete an open round."""
        with self._transaction() as db:
            db.execute("UPDATE rounds SET wanted = ? WHERE number = ? AND NOT complete", (wanted, number))

    def complete_round(self, number: int) -> None:
        with self._transaction() as db:
            db.execute("UPDATE rounds SET complete = 1 WHERE number = ?", (number,))

    def rounds(self) -> list[Round]:
        """All rounds, in order; only the last can be open."""
        query = "SELECT number, version, wanted, complete, settings, asked FROM rounds ORDER BY number"
        return [Round(n, v, w, bool(c), json.loads(s), json.loads(a)) for n, v, w, c, s, a in self._rows(query)]

    # Completions.

    def add_completion(self, request: Request, completion: Completion) -> None:
        """Stores a completion as it came, before anything looks at it."""
        self.add_completions([(request, completion)])

    def add_completions(self, answered: Sequence[tuple[Request, Completion]]) -> None:
        """Stores several: one transaction is one wait for the disk."""
        with self._transaction() as db:
            db.executemany(
                "INSERT INTO completions VALUES (" + ", ".join("?" * 16) + ")",
                [encoding.completion_values(request, completion) for request, completion in answered],
            )

    def completion(self, round_number: int, number: int, call: int) -> tuple[Request, Completion] | None:
        """A stored completion with the request that it answers, or None."""
        query = "SELECT * FROM completions WHERE round = ? AND number = ? AND call = ?"
        rows = self._rows(query, round_number, number, call)
        return encoding.completion(rows[0]) if rows else None

    def completions(self, round_number: int) -> Iterator[tuple[Request, Completion]]:
        """The completions of a round whose draw was judged, in request order."""
        query = (
            "SELECT c.* FROM completions c JOIN draws d USING (round, number)"
            " WHERE c.round = ? ORDER BY c.number, c.call"
        )
        yield from map(encoding.completion, self._rows(query, round_number))

    def models(self, round_number: int, *, judged: bool = True) -> list[str]:
        """The models whose answers a round has judged, or all that have answered."""
        draws = " JOIN draws USING (round, number)" if judged else ""
        query = f"SELECT DISTINCT model FROM completions{draws} WHERE round = ? ORDER BY 1"
        return [model for (model,) in self._rows(query, round_number)]

    def cost(self, round_number: int) -> tuple[int, int, int]:
        """(requests answered, tokens of their prompts, generated tokens) of a round, judged or not: what a budget
        counts. Where the endpoint did not tell the tokens, the same estimate that was booked."""
        ((requests, prompt, generated),) = self._rows(
            f"SELECT count(*), sum(coalesce(prompt_tokens, {_ESTIMATED.format('prompt')})),"
            f" sum(coalesce(generated_tokens, {_ESTIMATED.format('text')})) FROM completions WHERE round = :round",
            round=round_number,
            c=CHARACTERS_PER_TOKEN,
        )
        return int(requests), int(prompt or 0), int(generated or 0)

    def is_untouched(self, round_number: int) -> bool:
        """Whether a round has neither an answer nor a judged draw, so that it can still be begun anew."""
        ((found,),) = self._rows(
            "SELECT EXISTS (SELECT 1 FROM completions WHERE round = :r)"
            " OR EXISTS (SELECT 1 FROM draws WHERE round = :r)",
            r=round_number,
        )
        return not found

    # Verdicts.

    def add_draw(
        self, round_number: int, number: int, verdicts: Sequence[Verdict], failures: Sequence[Failure] = ()
    ) -> None:
        """Stores a judged draw whole, or nothing: its verdicts, and its requests that were never answered."""
        self.add_draws(round_number, [(number, verdicts, failures)])

    def add_draws(
        self, round_number: int, draws: Sequence[tuple[int, Sequence[Verdict], Sequence[Failure]]]
    ) -> None:
        """Stores several, (number, verdicts, failures) each: all of them or none."""
        with self._transaction() as db:
            for number, verdicts, failures in draws:
                _insert_draw(db, round_number, number, verdicts)
                db.executemany(
                    "INSERT INTO failures VALUES (?, ?, ?, ?, ?, ?, ?)",
                    [(round_number, number, f.call, f.stage, f.reason, f.detail, f.tries) for f in failures],
                )

    def add_import(self, round_: Round, verdicts: Sequence[Verdict]) -> None:
        """Stores an imported round whole, complete from the start, or nothing. An open round of the same number,
        which nobody has answered yet, gives way to it."""
        with self._transaction() as db:
            db.execute("DELETE FROM rounds WHERE number = ? AND NOT complete", (round_.number,))
            _insert_round(db, round_)
            for number, group in itertools.groupby(verdicts, key=lambda verdict: verdict.number):
                _insert_draw(db, round_.number, number, list(group))

    def judged_draws(self, round_number: int) -> int:
        """How many draws of the round are judged. They are the first ones: judging runs in request order."""
        ((count,),) = self._rows("SELECT count(*) FROM draws WHERE round = ?", round_number)
        return int(count)

    def verdicts(self, round_number: int, *, accepted: bool | None = None) -> Iterator[Verdict]:
        """The verdicts of a round in the order they were given; all, or one kind."""
        condition = {None: "", True: " AND task IS NOT NULL", False: " AND task IS NULL"}[accepted]
        query = f"SELECT * FROM verdicts WHERE round = ?{condition} ORDER BY number, position"
        with _errors_named(self.path):
            # Streamed, so that packaging a round does not hold all of it.
            yield from map(encoding.verdict, self._db.execute(query, (round_number,)))

    def tasks(self, round_number: int) -> Iterator[Task]:
        """The accepted tasks of a round, in order."""
        query = "SELECT task FROM verdicts WHERE round = ? AND task IS NOT NULL ORDER BY number, position"
        with _errors_named(self.path):
            for (text,) in self._db.execute(query, (round_number,)):
                yield encoding.task(json.loads(text))

    def instructions(self, round_number: int) -> Iterator[tuple[str, str, bool]]:
        """The (id, instruction, whether it has instances) of a round's accepted tasks, in order; much faster than
        the tasks whole."""
        query = (
            "SELECT json_extract(task, '$.id'), json_extract(task, '$.instruction'),"
            " json_array_length(task, '$.instances') FROM verdicts WHERE round = ? AND task IS NOT NULL"
            " ORDER BY number, position"
        )
        with _errors_named(self.path):
            for key, instruction, instances in self._db.execute(query, (round_number,)):
                yield key, instruction, bool(instances)

    # What a release publishes: see `published`.

    def accepted_columns(self, round_number: int, size: int) -> Iterator[list[tuple[Any, ...]]]:
        """(number, position, task, nearest, mean, calls) of a round's accepted candidates, in order, in batches of
        `size`; task, nearest and calls (None: the first) as JSON."""
        return self._batches(published.ACCEPTED, size, round_number)

    def answer_columns(self, round_number: int, size: int) -> Iterator[list[tuple[Any, ...]]]:
        """(number, call, stage, decoding, demonstrations, finish_reason, prompt_tokens, generated_tokens, model,
        endpoint_kind) of the completions of a round's judged draws, in order, in batches of `size`; decoding and
        demonstrations as JSON."""
        return self._batches(published.ANSWERS, size, round_number)

    def rejected_columns(self, round_number: int, size: int) -> Iterator[list[tuple[Any, ...]]]:
        """(number, position, stage, candidate, task, reason, detail, nearest, lost, neighbour's instruction) of
        what a round rejected, in order, in batches of `size`; candidate, task, nearest (the first one at most) and
        lost as JSON. Call `gather_neighbours` before."""
        return self._batches(published.REJECTED, size, round_number)

    def gather_neighbours(self, first_round: int) -> None:
        """Finds the instructions that `rejected_columns` tells, for the rounds from `first_round` on."""
        with _errors_named(self.path):
            for statement in published.NEIGHBOURS:
                self._db.execute(statement, (first_round,) if "?" in statement else ())

    def _batches(self, query: str, size: int, *values: Any) -> Iterator[list[tuple[Any, ...]]]:
        with _errors_named(self.path):
            cursor = self._db.execute(query, values)
            while batch := cursor.fetchmany(size):
                yield batch

    def accepted_count(self, round_number: int) -> int:
        query = "SELECT count(*) FROM verdicts WHERE round = ? AND task IS NOT NULL"
        ((count,),) = self._rows(query, round_number)
        return int(count)

    def has_rows(self, last_round: int) -> bool:
        """Whether the rounds up to `last_round` have a row: an accepted task with an instance."""
        ((found,),) = self._rows(
            "SELECT EXISTS (SELECT 1 FROM verdicts WHERE round <= ? AND task IS NOT NULL"
            " AND json_array_length(task, '$.instances') > 0)",
            last_round,
        )
        return bool(found)

    def counts(self, round_number: int) -> dict[str, Any]:
        """What `status`, the manifest and the card say of a round: see `counting.counts`; and `unjudged`, stored
        answers that the round did not need or has not looked at yet. A pulled round has those it was published
        with."""
        source = self.pulled()
        if source and round_number in source.rounds:
            return {**pulled.counts(source.rounds[round_number]), "unjudged": 0}
        found = counting.counts(self._rows, round_number)
        return {**found, "unjudged": self.cost(round_number)[0] - found["completions"]}


@contextmanager
def _errors_named(path: Path) -> Iterator[None]:
    """SQLite's errors in the user's words."""
    try:
        yield
    except sqlite3.Error as error:
        message = str(error)
        if "disk is full" in message or "disk I/O error" in message:
            raise PoolError(
                f"{path}: the disk is full or failing ({message}); free some space and start again, "
                "what was stored is kept"
            ) from error
        if "not a database" in message:
            raise PoolError(f"{path}: not a pool of selfinstruct-hub") from error
        if "malformed" in message:
            raise PoolError(f"{path}: the pool is damaged ({message}); restore it from a backup") from error
        if "readonly" in message or "unable to open" in message:
            raise PoolError(f"{path}: cannot be opened for writing; check its permissions") from error
        if "locked" in message:
            raise PoolError(f"{path}: another program holds the pool open for writing") from error
        raise


def _insert_round(db: sqlite3.Connection, round_: Round) -> None:
    db.execute(
        "INSERT INTO rounds (number, version, wanted, complete, settings, asked) VALUES (?, ?, ?, ?, ?, ?)",
        (
            *(round_.number, round_.version, round_.wanted, round_.complete),
            *(canonical_json(round_.settings), canonical_json(round_.asked)),
        ),
    )


def _insert_draw(db: sqlite3.Connection, round_number: int, number: int, verdicts: Sequence[Verdict]) -> None:
    db.execute("INSERT INTO draws VALUES (?, ?, ?)", (round_number, number, len(verdicts)))
    marks = ", ".join("?" * 13)
    db.executemany(f"INSERT INTO verdicts VALUES ({marks})", [encoding.verdict_values(v) for v in verdicts])
