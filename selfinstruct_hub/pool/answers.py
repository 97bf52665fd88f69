"""Answers whose texts are dropped on purpose: the space they take, and what stays of them.

What stays is everything that a release, a budget or a price is made of: only prompt and text go, and the tokens
that they were taken to have, where the endpoint told none, are kept in their place.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from selfinstruct_hub.errors import PoolError
from selfinstruct_hub.records import CHARACTERS_PER_TOKEN, COMPLETE

# records.estimated_tokens of a column: a character in three, and every further byte of a character.
_ESTIMATED = "(length({0}) + :c - 1) / :c + length(CAST({0} AS BLOB)) - length({0})"
PROMPT_TOKENS = f"coalesce(prompt_tokens, prompt_estimate, {_ESTIMATED.format('prompt')})"
GENERATED_TOKENS = f"coalesce(generated_tokens, generated_estimate, {_ESTIMATED.format('text')})"

_SIZE = "count(*), coalesce(sum(length(CAST(prompt AS BLOB)) + length(CAST(text AS BLOB))), 0)"
# Of revisions only those that are complete: an open one still reads its answers.
_OF_REVISIONS = (
    "revision IN (SELECT number FROM revisions WHERE state = :complete) AND (revision, item) IN"
    " (SELECT revision, item FROM revised WHERE round = :round)"
)
_UNUSED = "unused_space"  # a fact of the pool: texts were dropped, and it was not written anew since
_HELD = "(prompt <> '' OR text <> '')"
# An answer that nobody has needed so far may still fill the round; see `top_up`.
_JUDGED = "number IN (SELECT number FROM draws WHERE round = :round)"


class Answers:
    """The part of a pool that has to do with answers' texts."""

    path: Path
    _db: sqlite3.Connection

    def _transaction(self) -> AbstractContextManager[sqlite3.Connection]:
        raise NotImplementedError

    def _rows(self, query: str, *values: Any, **named: Any) -> list[tuple[Any, ...]]:
        raise NotImplementedError

    def texts_of(self, round_number: int) -> tuple[int, int]:
        """(answers, bytes of their prompts and texts) of those of a round that were judged and whose texts are
        there, and of the revisions of the round."""
        values = {"round": round_number, "complete": COMPLETE}
        answers, size = 0, 0
        for query in (
            f"SELECT {_SIZE} FROM completions WHERE round = :round AND {_JUDGED} AND {_HELD}",
            f"SELECT {_SIZE} FROM revision_completions WHERE {_OF_REVISIONS} AND {_HELD}",
        ):
            ((more, bytes_),) = self._rows(query, **values)
            answers, size = answers + more, size + bytes_
        return answers, size

    def dropped_texts(self, round_number: int) -> int:
        """How many answers of a round were dropped on purpose: it cannot be judged anew."""
        query = "SELECT count(*) FROM completions WHERE round = ? AND prompt_estimate IS NOT NULL"
        ((count,),) = self._rows(query, round_number)
        return int(count)

    def drop_texts(self, rounds: Sequence[int]) -> None:
        """Drops prompts and texts of the judged answers of `rounds`, all of them or none. The file does not get
        smaller by it: see `shrink`."""
        with self._transaction() as db:
            for number in rounds:
                values = {"round": number, "complete": COMPLETE, "c": CHARACTERS_PER_TOKEN}
                db.execute(
                    f"UPDATE completions SET prompt_estimate = {_ESTIMATED.format('prompt')},"
                    f" generated_estimate = {_ESTIMATED.format('text')}, prompt = '', text = ''"
                    f" WHERE round = :round AND {_JUDGED} AND prompt_estimate IS NULL AND {_HELD}",
                    values,
                )
                db.execute(f"UPDATE revision_completions SET prompt = '', text = '' WHERE {_OF_REVISIONS}", values)
            db.execute("INSERT OR REPLACE INTO meta VALUES (?, '1')", (_UNUSED,))

    def shrink(self) -> None:
        """Gives what is not used back to the disk, for which the file is written anew. Raises PoolError where
        there is no room for that, or while somebody else reads the pool; nothing is lost by it."""
        self._rows("VACUUM")
        ((busy, *_),) = self._rows("PRAGMA wal_checkpoint(TRUNCATE)")
        if busy:
            # What was written anew is in the log until the last reader has gone.
            raise PoolError(f"{self.path}: another program reads the pool; run gc again when it has ended")
        with self._transaction() as db:
            db.execute("DELETE FROM meta WHERE key = ?", (_UNUSED,))
        self._rows("PRAGMA wal_checkpoint(TRUNCATE)")

    @property
    def may_shrink(self) -> bool:
        """Whether texts were dropped whose space the file still takes."""
        return bool(self._rows("SELECT 1 FROM meta WHERE key = ?", _UNUSED)) or self.size()[1] > 0

    def size(self) -> tuple[int, int]:
        """(bytes of the pool, bytes of it that nothing uses)."""
        ((page,),), ((pages,),), ((free,),) = (
            self._rows(f"PRAGMA {name}") for name in ("page_size", "page_count", "freelist_count")
        )
        return page * pages, page * free
