"""The pool: everything that was asked, answered and judged, in one SQLite file. The only room that writes it.

A completion is stored in a transaction of its own before anything looks at it; a judged draw is stored whole,
in one transaction, so a pool never holds half of one. Nothing is deleted or overwritten.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selfinstruct_hub.errors import PoolError
from selfinstruct_hub.records import (
    CHARACTERS_PER_TOKEN,
    Candidate,
    Completion,
    Decoding,
    Drop,
    Instance,
    Neighbour,
    Request,
    Round,
    Similarity,
    Task,
    Verdict,
    canonical_json,
)

FILE_NAME = "pool.sqlite3"
SCHEMA_VERSION = 1
_APPLICATION_ID = 0x53494842  # "SIHB", so that somebody else's SQLite file is not taken for a pool

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE seeds (position INTEGER PRIMARY KEY, task TEXT NOT NULL);
CREATE TABLE rounds (
    number INTEGER PRIMARY KEY, version TEXT NOT NULL UNIQUE, wanted INTEGER NOT NULL,
    complete INTEGER NOT NULL DEFAULT 0, settings TEXT NOT NULL, asked TEXT NOT NULL
);
CREATE TABLE completions (
    round INTEGER NOT NULL REFERENCES rounds, number INTEGER NOT NULL, call INTEGER NOT NULL,
    stage TEXT NOT NULL, prompt TEXT NOT NULL, decoding TEXT NOT NULL, demonstrations TEXT NOT NULL,
    text TEXT NOT NULL, finish_reason TEXT NOT NULL, prompt_tokens INTEGER, generated_tokens INTEGER,
    model TEXT NOT NULL, endpoint_kind TEXT NOT NULL, queue_time REAL, inference_time REAL, total_time REAL,
    PRIMARY KEY (round, number, call)
);
CREATE TABLE draws (
    round INTEGER NOT NULL REFERENCES rounds, number INTEGER NOT NULL, candidates INTEGER NOT NULL,
    PRIMARY KEY (round, number)
);
CREATE TABLE verdicts (
    round INTEGER NOT NULL, number INTEGER NOT NULL, position INTEGER NOT NULL,
    candidate TEXT NOT NULL, task TEXT, reason TEXT, detail TEXT, nearest TEXT NOT NULL, mean REAL NOT NULL,
    PRIMARY KEY (round, number, position), FOREIGN KEY (round, number) REFERENCES draws
);
CREATE INDEX accepted ON verdicts (round, number, position) WHERE task IS NOT NULL;
"""


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
    def open(cls, path: Path, *, read_only: bool = False) -> Pool:
        """The pool at `path`. Raises PoolError for a file that is none, a damaged or a newer one."""
        if not path.is_file():
            raise PoolError(f"{path}: there is no pool yet")
        return cls._open(path, read_only=read_only)

    @classmethod
    def _open(cls, path: Path, *, create: bool = False, read_only: bool = False) -> Pool:
        with _errors_named(path):
            # Autocommit: every transaction is opened and closed by `_transaction`.
            if read_only:
                # Without a write-ahead log nobody is writing, and a read-only medium can be read too.
                log = path.with_name(f"{path.name}-wal")
                mode = "mode=ro" if log.exists() else "immutable=1"
                connection = sqlite3.connect(f"{path.resolve().as_uri()}?{mode}", uri=True, isolation_level=None)
            else:
                connection = sqlite3.connect(path, isolation_level=None)
            pool = cls(path, connection)
            try:
                if create:
                    # WAL is chosen before the first page is written; it stays with the file.
                    connection.execute("PRAGMA journal_mode = WAL")
                    with pool._transaction():
                        for statement in _SCHEMA.split(";"):
                            connection.execute(statement)
                        connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
                else:
                    pool._check_format()
                # FULL: a stored completion survives a power cut too, not only a crash of ours.
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute("PRAGMA foreign_keys = ON")
            except BaseException:
                connection.close()
                raise
        return pool

    def _check_format(self) -> None:
        (application,) = self._db.execute("PRAGMA application_id").fetchone()
        if application != _APPLICATION_ID:
            raise PoolError(f"{self.path}: not a pool of selfinstruct-hub")
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise PoolError(
                f"{self.path}: made by a newer selfinstruct-hub (pool format {version}, this one reads up to "
                f"{SCHEMA_VERSION}); upgrade with `pip install --upgrade selfinstruct-hub`"
            )

    def close(self) -> None:
        self._db.close()

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

    # Rounds.

    def begin_round(self, round_: Round) -> None:
        with self._transaction() as db:
            db.execute(
                "INSERT INTO rounds (number, version, wanted, settings, asked) VALUES (?, ?, ?, ?, ?)",
                (
                    *(round_.number, round_.version, round_.wanted),
                    *(canonical_json(round_.settings), canonical_json(round_.asked)),
                ),
            )

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
        with self._transaction() as db:
            db.execute(
                "INSERT INTO completions VALUES (" + ", ".join("?" * 16) + ")",
                (
                    *(request.round, request.number, request.call, request.stage, request.prompt),
                    *(
                        canonical_json(request.decoding.as_dict()),
                        canonical_json(list(request.demonstrations)),
                    ),
                    *(completion.text, completion.finish_reason),
                    *(completion.prompt_tokens, completion.generated_tokens),
                    *(completion.model, completion.endpoint_kind),
                    *(completion.queue_time, completion.inference_time, completion.total_time),
                ),
            )

    def completion(self, round_number: int, number: int, call: int) -> tuple[Request, Completion] | None:
        """A stored completion with the request that it answers, or None."""
        query = "SELECT * FROM completions WHERE round = ? AND number = ? AND call = ?"
        rows = self._rows(query, round_number, number, call)
        return _completion(rows[0]) if rows else None

    def completions(self, round_number: int) -> Iterator[tuple[Request, Completion]]:
        """The completions of a round whose draw was judged, in request order."""
        query = (
            "SELECT c.* FROM completions c JOIN draws d USING (round, number)"
            " WHERE c.round = ? ORDER BY c.number, c.call"
        )
        yield from map(_completion, self._rows(query, round_number))

    def models(self, round_number: int) -> list[str]:
        """The models whose answers a round has judged."""
        query = (
            "SELECT DISTINCT model FROM completions JOIN draws USING (round, number) WHERE round = ? ORDER BY 1"
        )
        return [model for (model,) in self._rows(query, round_number)]

    def cost(self, round_number: int) -> tuple[int, int]:
        """(requests answered, their tokens) of a round, judged or not: what a budget counts. Where the endpoint
        did not tell the prompt's tokens, the same estimate that was booked when it was asked."""
        ((requests, tokens),) = self._rows(
            "SELECT count(*), sum(coalesce(prompt_tokens, (length(prompt) + :c - 1) / :c)"
            " + coalesce(generated_tokens, 0))"
            " FROM completions WHERE round = :round",
            round=round_number,
            c=CHARACTERS_PER_TOKEN,
        )
        return int(requests), int(tokens or 0)

    # Verdicts.

    def add_draw(self, round_number: int, number: int, verdicts: Sequence[Verdict]) -> None:
        """Stores a judged draw: all of its verdicts or nothing."""
        with self._transaction() as db:
            db.execute("INSERT INTO draws VALUES (?, ?, ?)", (round_number, number, len(verdicts)))
            db.executemany(
                "INSERT INTO verdicts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [_verdict_values(v) for v in verdicts],
            )

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
            yield from map(_verdict, self._db.execute(query, (round_number,)))

    def accepted_count(self, round_number: int) -> int:
        query = "SELECT count(*) FROM verdicts WHERE round = ? AND task IS NOT NULL"
        ((count,),) = self._rows(query, round_number)
        return int(count)

    def counts(self, round_number: int) -> dict[str, Any]:
        """What `status`, the manifest and the card say of a round, counted from its judged draws.

        Keys: tasks, rows, requests, completions, candidates, parsed (completions with at least one well-formed
        candidate), drops {reason: n}, tokens {prompt, generated}, unjudged (stored answers that the round did
        not need or has not looked at yet).
        """
        judged = "FROM completions JOIN draws USING (round, number) WHERE round = ?"
        ((completions, prompt, generated),) = self._rows(
            f"SELECT count(*), sum(prompt_tokens), sum(generated_tokens) {judged}", round_number
        )
        ((candidates, tasks, rows),) = self._rows(
            "SELECT count(*), count(task), coalesce(sum(json_array_length(task, '$.instances')), 0)"
            " FROM verdicts WHERE round = ?",
            round_number,
        )
        ((parsed,),) = self._rows(
            "SELECT count(DISTINCT number) FROM verdicts WHERE round = ?"
            " AND (reason IS NULL OR reason NOT IN ('missing_field', 'cut_off'))",
            round_number,
        )
        drops = self._rows(
            "SELECT reason, count(*) FROM verdicts WHERE round = ? AND reason IS NOT NULL"
            " GROUP BY reason ORDER BY count(*) DESC, reason",
            round_number,
        )
        return {
            "tasks": tasks,
            "rows": rows,
            "requests": completions,
            "completions": completions,
            "parsed": parsed,
            "candidates": candidates,
            "drops": dict(drops),
            "tokens": {"prompt": prompt or 0, "generated": generated or 0},
            "unjudged": self.cost(round_number)[0] - completions,
        }


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


def _completion(row: tuple[Any, ...]) -> tuple[Request, Completion]:
    round_number, number, call, stage, prompt, decoding, demonstrations, *answer = row
    request = Request(
        round=round_number,
        number=number,
        call=call,
        stage=stage,
        prompt=prompt,
        decoding=Decoding.from_dict(json.loads(decoding)),
        demonstrations=tuple(json.loads(demonstrations)),
    )
    return request, Completion(*answer)


def _task_values(task: Task) -> dict[str, Any]:
    return {
        "id": task.id,
        "instruction": task.instruction,
        "instances": [[i.input, i.output] for i in task.instances],
        "is_classification": task.is_classification,
    }


def _verdict_values(verdict: Verdict) -> tuple[Any, ...]:
    candidate = verdict.candidate
    return (
        *(verdict.round, verdict.number, verdict.position),
        canonical_json(
            {
                "instruction": candidate.instruction,
                "instances": [[i.input, i.output] for i in candidate.instances],
                "missing": candidate.missing,
                "cut_off": candidate.cut_off,
                "is_classification": candidate.is_classification,
            }
        ),
        canonical_json(_task_values(verdict.task)) if verdict.task else None,
        verdict.drop.reason if verdict.drop else None,
        verdict.drop.detail if verdict.drop else None,
        canonical_json([[n.id, n.score] for n in verdict.similarity.nearest]),
        verdict.similarity.mean,
    )


def _verdict(row: tuple[Any, ...]) -> Verdict:
    round_number, number, position, candidate, task, reason, detail, nearest, mean = row
    found = json.loads(candidate)
    kept = json.loads(task) if task else None
    return Verdict(
        round=round_number,
        number=number,
        position=position,
        candidate=Candidate(**{**found, "instances": tuple(Instance(*i) for i in found["instances"])}),
        task=Task(**{**kept, "instances": tuple(Instance(*i) for i in kept["instances"])}) if kept else None,
        drop=Drop(reason, detail or "") if reason else None,
        similarity=Similarity(tuple(Neighbour(key, score) for key, score in json.loads(nearest)), mean),
    )
