"""The pool as a file: made, opened, brought to today's format, written in transactions, found damaged.

Knows nothing of what the tables hold. Every state that a process can die in is one that the next start takes up:
a pool is made under another name and moved, a transaction is whole or not there, and a lost one is noticed.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from selfinstruct_hub.errors import PoolError
from selfinstruct_hub.pool import commits, identities
from selfinstruct_hub.pool.schema import APPLICATION_ID, BESIDE, MIGRATIONS, SCHEMA, SCHEMA_VERSION, STORED_AS_JSON

_Opened = TypeVar("_Opened", bound="PoolFile")
_Made = TypeVar("_Made")

_LOG = logging.getLogger(__name__)
_BESIDE_FROM = 7  # the first format that stores something beside a task
# A file of this size is looked through in well under a second.
SMALL = 64 << 20  # bytes


class PoolFile:
    """An open pool's file. Use as a context manager; one process at a time (see `workspace.Workspace.locked`)."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._db = connection
        self._tally: commits.Tally | None = None  # none: nothing is written down

    @classmethod
    def create(cls: type[_Opened], path: Path) -> _Opened:
        """A new, empty pool at `path`, which must not exist."""
        if path.exists():
            raise PoolError(f"{path}: a pool is there already")
        check_not_lost(path)
        # Made under another name, so that a death half-way leaves nothing that looks like a pool.
        unfinished = path.with_name(f"{path.name}.new")
        try:
            for left in (*path.parent.glob(f"{unfinished.name}*"), commits.file_of(path)):
                left.unlink(missing_ok=True)
            made = cls._open(unfinished, create=True)
            try:
                # Its log would stay behind under the other name; where there is no room, this is told now.
                made._rows("PRAGMA wal_checkpoint(TRUNCATE)")
            finally:
                made.close()
            unfinished.rename(path)
        except OSError as error:
            raise PoolError(f"{path}: cannot be made ({error.strerror}); check space and permissions") from error
        return cls._open(path)

    @classmethod
    def open(cls: type[_Opened], path: Path, *, read_only: bool = False, any_thread: bool = False) -> _Opened:
        """The pool at `path`; with `any_thread` one thread after another may use it. Raises PoolError
        for a file that is none, a damaged or a newer one, and for one that has lost what was stored in it."""
        if not path.is_file():
            check_not_lost(path)
            raise PoolError(f"{path}: there is no pool yet")
        return cls._open(path, read_only=read_only, any_thread=any_thread)

    @classmethod
    def _open(
        cls: type[_Opened],
        path: Path,
        *,
        create: bool = False,
        read_only: bool = False,
        any_thread: bool = False,
    ) -> _Opened:
        # Read before the pool: a writer beside us counts in the pool first.
        told = commits.told(path)
        with errors_named(path):
            if not create and not read_only:
                # A connection that may write would tidy up what is left of a log that somebody can still restore.
                with closing(_reading(path)) as connection:
                    looking = cls(path, connection)
                    looking._format()
                    looking._check_commits(told)
            # Autocommit: every transaction is opened and closed by `_transaction`.
            connection = _reading(path, any_thread) if read_only else sqlite3.connect(path, isolation_level=None)
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
                    version = pool._format()
                    if read_only:
                        pool._check_commits(told)
                    else:
                        pool._tally = commits.Tally(path)
                    pool._migrate(version, read_only=read_only, any_thread=any_thread)
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
            raise PoolError(_no_pool(self.path))
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise PoolError(
                f"{self.path}: made by a newer selfinstruct-hub (pool format {version}, this one reads up to "
                f"{SCHEMA_VERSION}); upgrade with `pip install --upgrade selfinstruct-hub`"
            )
        return int(version)

    def _check_commits(self, told: int | None) -> None:
        """Raises PoolError where fewer transactions are in the pool than were once."""
        if told is None:
            return
        counted = self._commits()
        if counted < told:
            name = self.path.name
            raise PoolError(
                f"{self.path}: {told - counted:,} of its {told:,} transactions are missing, as after {name}-wal "
                f"was cut or removed; restore {name}, {name}-wal and {name}{commits.SUFFIX} from one backup, or "
                f"delete {name}{commits.SUFFIX} to go on with what is there: what was lost is asked for again"
            )

    def _commits(self) -> int:
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (commits.META,)).fetchone()
        return int(row[0]) if row else 0

    def _migrate(self, version: int, *, read_only: bool, any_thread: bool) -> None:
        """Brings an older pool to today's format: in memory for a reader, else in place with a copy beside it."""
        if version == SCHEMA_VERSION:
            return
        large = self.path.stat().st_size > SMALL
        if read_only and large:
            raise PoolError(
                f"{self.path}: is of pool format {version}, and too large to be read as one of today's; "
                f"`selfinstruct-hub grow {self.path.parent} --rounds 0` brings it to format {SCHEMA_VERSION} "
                "once, and keeps a copy beside it"
            )
        if large:
            _LOG.warning(
                "%s: is brought to pool format %d, which may take minutes; a copy as it was stays beside it",
                *(self.path, SCHEMA_VERSION),
            )
        if read_only:
            memory = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=not any_thread)
            self._db.backup(memory)
            self._db.close()
            self._db = memory
        else:
            self._keep_copy(version)
        with self._transaction() as db:
            for older in range(version, SCHEMA_VERSION):
                for statement in MIGRATIONS[older].split(";"):
                    db.execute(statement)
                if older == _BESIDE_FROM - 1:
                    self._fill_beside(db)
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _fill_beside(self, db: sqlite3.Connection) -> None:
        """Stores beside older verdicts what is stored beside new ones."""
        places = ", ".join(f"{column} = ?" for column in identities.COLUMNS.split(", "))
        for table in ("verdicts", "past_verdicts"):
            last = 0
            while some := db.execute(
                f"SELECT rowid, candidate, task, lost FROM {table} WHERE rowid > ? AND task IS NOT NULL"
                " ORDER BY rowid LIMIT 1000",
                (last,),
            ).fetchall():
                values = [(*made(_following, texts), key) for key, *texts in some]
                db.executemany(f"UPDATE {table} SET {places} WHERE rowid = ?", values)
                last = some[-1][0]
        for statement in BESIDE.split(";"):
            db.execute(statement)

    def _keep_copy(self, version: int) -> None:
        """Keeps the pool in its old format. It moves to its name whole, so that a death half-way leaves no half of
        one there; what an earlier try has left gives way to the pool as it is now, which has all of that."""
        backup = self.path.with_name(f"{self.path.name}.format-{version}")
        unfinished = backup.with_name(f"{backup.name}.new")
        try:
            unfinished.unlink(missing_ok=True)
            copy = sqlite3.connect(unfinished)
            try:
                self._db.backup(copy)
            finally:
                copy.close()
            unfinished.replace(backup)
        except OSError as error:
            raise PoolError(
                f"{backup}: cannot be written ({error.strerror}); check space and permissions"
            ) from error

    def close(self) -> None:
        self._db.close()
        if self._tally is not None:
            self._tally.close()

    def interrupt(self) -> None:
        """Ends the query that another thread waits for; sqlite3.OperationalError is raised there."""
        self._db.interrupt()

    def __enter__(self: _Opened) -> _Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with errors_named(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute(commits.COUNT)
                count = self._commits()
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        if self._tally is not None:
            self._tally.write(count)

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """While it is open, everything that is read is of one moment, whoever writes beside us."""
        with errors_named(self.path):
            self._db.execute("BEGIN")
        try:
            yield
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    def _rows(self, query: str, *values: Any, **named: Any) -> list[tuple[Any, ...]]:
        with errors_named(self.path):
            return self._db.execute(query, named or values).fetchall()

    def glance(self) -> None:
        """Looks for damage where that takes no time worth mentioning. Raises PoolError where there is some."""
        if self.path.stat().st_size <= SMALL:
            self._check("quick_check")

    def check(self) -> None:
        """Reads the whole file. Raises PoolError where it is damaged."""
        self._check("integrity_check")

    def _check(self, how: str) -> None:
        problems = [str(text) for (text,) in self._rows(f"PRAGMA {how}(1)")]
        if problems != ["ok"]:
            raise PoolError(damaged(self.path, problems[0]))
        # SQLite knows nothing of what the texts hold.
        for table, columns in STORED_AS_JSON.items():
            broken = " OR ".join(f"NOT json_valid(coalesce({column}, '0'))" for column in columns)
            if self._rows(f"SELECT 1 FROM {table} WHERE {broken} LIMIT 1"):
                raise PoolError(damaged(self.path, f"a text in the table {table} is no JSON"))
        for table in ("verdicts", "past_verdicts"):
            self._check_beside(table)

    def _check_beside(self, table: str) -> None:
        columns = f"round, number, position, score, mean, candidate, task, lost, {identities.COLUMNS}"
        with errors_named(self.path):
            rows = self._db.execute(f"SELECT {columns} FROM {table}")
            for round_, number, position, score, mean, candidate, task, lost, *beside in rows:
                measured = {type(score), type(mean)} <= {float, type(None)}
                if not measured or made(_following, (candidate, task, lost)) != tuple(beside):
                    what = f"candidate {position} of draw {number} of round {round_} in the table {table}"
                    raise PoolError(damaged(self.path, f"what stands beside {what} is not what it says"))

    def _read(
        self, make: Callable[[tuple[Any, ...]], _Made], query: str, *values: Any, **named: Any
    ) -> list[_Made]:
        """What `make` makes of each row. Raises PoolError where a row does not hold what was stored."""
        with errors_named(self.path):
            return [made(make, row) for row in self._db.execute(query, named or values)]


def log_of(path: Path) -> Path:
    """Where SQLite keeps the write-ahead log of the pool at `path`, which may be a link."""
    place = path.resolve()
    return place.with_name(f"{place.name}-wal")


def check_not_lost(path: Path) -> None:
    """Raises PoolError where there is no pool at `path` and there was one."""
    told = commits.told(path)
    if told and not path.exists():
        raise PoolError(
            f"{path}: is missing, and {path.name}{commits.SUFFIX} says that it was written {told:,} times; "
            f"restore it from a backup, or delete {path.name}{commits.SUFFIX} to begin anew"
        )


def _reading(path: Path, any_thread: bool = False) -> sqlite3.Connection:
    """A connection for reading. It leaves the folder as it is, and sees what another process writes meanwhile."""
    place = path.resolve()  # the log lies beside the file that a link leads to
    if log_of(path).exists():
        mode = "mode=ro"  # nothing of a dead process's log is tidied up
    elif os.access(place, os.W_OK) and os.access(place.parent, os.W_OK):
        # There is nothing to tidy up but what this connection makes itself, which a connection that may only read
        # would leave behind.
        mode = "mode=rw"
    else:
        mode = "immutable=1"  # a read-only medium, where nobody writes
    name = f"{place.as_uri()}?{mode}"
    return sqlite3.connect(name, uri=True, isolation_level=None, check_same_thread=not any_thread)


def _no_pool(path: Path) -> str:
    return f"{path}: not a pool of selfinstruct-hub, or none any more; restore it from a backup, or move it away"


def damaged(path: Path, said: str) -> str:
    """What to tell of a pool that does not hold what was stored, and what to do."""
    return (
        f"{path}: the pool is damaged ({' '.join(said.split())}); restore it from a backup together with "
        f"{path.name}-wal and {path.name}{commits.SUFFIX}"
    )


def _following(texts: Sequence[Any]) -> tuple[Any, ...]:
    return identities.following(*texts)


_NO_SPACE = ("disk is full", "disk I/O error")
_DAMAGED = ("malformed", "corrupt", "Could not decode", "file is encrypted", "no such column", "no such table")


class _Unreadable(Exception):
    """A row does not hold what was stored."""


def made(make: Callable[[Any], _Made], row: Any) -> _Made:
    """What `make` makes of a stored row. Call where `errors_named` is open: a key or a type that is not there was
    spoilt, because nothing else is ever stored."""
    try:
        return make(row)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _Unreadable(f"{type(error).__name__}: {error}") from error


@contextmanager
def errors_named(path: Path) -> Iterator[None]:
    """SQLite's errors in the user's words, and what is stored and cannot be read as JSON."""
    try:
        yield
    except sqlite3.Error as error:
        message = str(error)
        if any(words in message for words in _NO_SPACE):
            raise PoolError(
                f"{path}: the disk is full or failing ({message}); free some space and start again, "
                "what was stored is kept"
            ) from error
        if "not a database" in message:
            raise PoolError(_no_pool(path)) from error
        if any(words in message for words in _DAMAGED):
            raise PoolError(damaged(path, message)) from error
        if "readonly" in message or "unable to open" in message:
            raise PoolError(f"{path}: cannot be opened; check its permissions, and those of its folder") from error
        if "locked" in message:
            raise PoolError(f"{path}: another program holds the pool open for writing") from error
        raise
    except _Unreadable as error:
        raise PoolError(damaged(path, f"a row does not hold what was stored, {error}")) from error
