"""The pool: everything that was asked, answered and judged, in one SQLite file. The only room that writes it.

A completion is stored in a transaction of its own before anything looks at it; a judged draw is stored whole,
in one transaction, so a pool never holds half of one. No answer and no verdict is deleted or overwritten.
"""

from __future__ import annotations

import itertools
import json
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

from selfinstruct_hub.pool import answers, counting, encoding, published, pulled
from selfinstruct_hub.pool.again import Judgements
from selfinstruct_hub.pool.answers import Answers
from selfinstruct_hub.pool.file import PoolFile, errors_named, made
from selfinstruct_hub.pool.published import Accepted
from selfinstruct_hub.pool.pulled import Pulled
from selfinstruct_hub.pool.revisions import VERDICT, Revisions, insert_draw
from selfinstruct_hub.records import (
    CHARACTERS_PER_TOKEN,
    OPEN,
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


class Pool(PoolFile, Revisions, Answers, Judgements):
    """An open pool. Use as a context manager; one process at a time (grow.py holds the workspace's lock)."""

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
        return self._read(_seed, "SELECT task FROM seeds ORDER BY position")

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
        return self._read(_round, query)

    # Completions.

    def add_completion(self, request: Request, completion: Completion) -> None:
        """Stores a completion as it came, before anything looks at it."""
        self.add_completions([(request, completion)])

    def add_completions(self, answered: Sequence[tuple[Request, Completion]]) -> None:
        """Stores several: one transaction is one wait for the disk."""
        with self._transaction() as db:
            # Of a revision that tops rounds up, or of none.
            opened = db.execute("SELECT coalesce(max(number), 0) FROM revisions WHERE state = ?", (OPEN,))
            ((revision,),) = opened.fetchall()
            db.executemany(
                f"INSERT INTO completions ({encoding.COMPLETION}, revision) VALUES ({', '.join('?' * 17)})",
                [(*encoding.completion_values(*one), revision) for one in answered],
            )

    def completion(self, round_number: int, number: int, call: int) -> tuple[Request, Completion] | None:
        """A stored completion with the request that it answers, or None."""
        query = f"SELECT {encoding.COMPLETION} FROM completions WHERE round = ? AND number = ? AND call = ?"
        found = self._read(encoding.completion, query, round_number, number, call)
        return found[0] if found else None

    def completions(self, round_number: int) -> Iterator[tuple[Request, Completion]]:
        """The completions of a round whose draw was judged, in request order."""
        query = (
            f"SELECT {encoding.COMPLETION} FROM completions JOIN draws USING (round, number)"
            " WHERE round = ? ORDER BY number, call"
        )
        yield from self._read(encoding.completion, query, round_number)

    def models(self, round_number: int, *, judged: bool = True) -> list[str]:
        """The models whose answers a round has judged, or all that have answered."""
        draws = " JOIN draws USING (round, number)" if judged else ""
        query = f"SELECT DISTINCT model FROM completions{draws} WHERE round = ? ORDER BY 1"
        return [model for (model,) in self._rows(query, round_number)]

    def cost(self, round_number: int) -> tuple[int, int, int]:
        """(requests answered, tokens of their prompts, generated tokens) of a round, judged or not: what a budget
        counts. Where the endpoint did not tell the tokens, the same estimate that was booked."""
        # Mostly it did, and then nobody needs to read the texts.
        ((requests, prompt, generated, untold),) = self._rows(
            "SELECT count(*), sum(prompt_tokens), sum(generated_tokens),"
            " sum(prompt_tokens IS NULL OR generated_tokens IS NULL) FROM completions WHERE round = ?",
            round_number,
        )
        if not untold:
            return int(requests), int(prompt or 0), int(generated or 0)
        ((requests, prompt, generated),) = self._rows(
            f"SELECT count(*), sum({answers.PROMPT_TOKENS}), sum({answers.GENERATED_TOKENS}) FROM completions"
            " WHERE round = :round",
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
                insert_draw(db, round_number, number, verdicts, failures)

    def add_import(self, round_: Round, verdicts: Sequence[Verdict]) -> None:
        """Stores an imported round whole, complete from the start, or nothing. An open round of the same number,
        which nobody has answered yet, gives way to it."""
        with self._transaction() as db:
            db.execute("DELETE FROM rounds WHERE number = ? AND NOT complete", (round_.number,))
            _insert_round(db, round_)
            for number, group in itertools.groupby(verdicts, key=lambda verdict: verdict.number):
                insert_draw(db, round_.number, number, list(group))

    def judged_draws(self, round_number: int) -> int:
        """How many draws of the round are judged. They are the first ones: judging runs in request order."""
        ((count,),) = self._rows("SELECT count(*) FROM draws WHERE round = ?", round_number)
        return int(count)

    def verdicts(self, round_number: int, *, accepted: bool | None = None) -> Iterator[Verdict]:
        """The verdicts of a round in the order they were given; all, or one kind."""
        condition = {None: "", True: " AND task IS NOT NULL", False: " AND task IS NULL"}[accepted]
        query = f"SELECT {VERDICT} FROM verdicts WHERE round = ?{condition} ORDER BY number, position"
        with errors_named(self.path):
            # Streamed, so that packaging a round does not hold all of it.
            for row in self._db.execute(query, (round_number,)):
                yield made(encoding.verdict, row)

    def tasks(self, round_number: int) -> Iterator[Task]:
        """The accepted tasks of a round, in order."""
        query = "SELECT task FROM verdicts WHERE round = ? AND task IS NOT NULL ORDER BY number, position"
        with errors_named(self.path):
            for row in self._db.execute(query, (round_number,)):
                yield made(_task, row)

    def instructions(
        self, round_number: int, first: int = 0, before: int | None = None
    ) -> Iterator[tuple[str, str, bool]]:
        """The (id, instruction, whether it has instances) of a round's accepted tasks, in order, of draws from
        `first` to before `before`; much faster than the tasks whole."""
        draws = f" AND number >= {first:d}" if first else ""
        draws += "" if before is None else f" AND number < {before:d}"
        query = (
            "SELECT json_extract(task, '$.id'), json_extract(task, '$.instruction'),"
            f" json_array_length(task, '$.instances') FROM verdicts WHERE round = ? AND task IS NOT NULL{draws}"
            " ORDER BY number, position"
        )
        with errors_named(self.path):
            for key, instruction, instances in self._db.execute(query, (round_number,)):
                yield key, instruction, bool(instances)

    # What a release publishes: see `published`.

    def accepted_columns(self, round_number: int, size: int) -> Iterator[Accepted]:
        """A round's accepted candidates in batches of `size`."""
        return published.accepted(self._rows, round_number, size, of_view=self._state is not None)

    def row_ids(self, round_number: int) -> Iterator[tuple[int, int, str]]:
        """(number, position, ids of its rows, one after the other) of a round's accepted tasks, in order."""
        query = "SELECT number, position, ids FROM verdicts WHERE round = ? AND task IS NOT NULL ORDER BY 1, 2"
        with errors_named(self.path):
            yield from self._db.execute(query, (round_number,))

    def answer_columns(self, round_number: int, size: int) -> Iterator[list[tuple[Any, ...]]]:
        """(number, call, stage, decoding, demonstrations, finish_reason, prompt_tokens, generated_tokens, model,
        endpoint_kind) of the completions of a round's judged draws, in order, in batches of `size`; decoding and
        demonstrations as JSON."""
        return self._batches(published.ANSWERS, size, round_number)

    def rejected_columns(self, round_number: int, size: int) -> Iterator[list[tuple[Any, ...]]]:
        """(number, position, stage, candidate, task, reason, detail, nearest, lost, neighbour's instruction) of
        what a round rejected, in order, in batches of `size`; candidate, task, nearest (the first one at most) and
        lost as JSON."""
        return self._batches(published.REJECTED, size, round_number)

    def _batches(self, query: str, size: int, *values: Any) -> Iterator[list[tuple[Any, ...]]]:
        with errors_named(self.path):
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
        with, and what revisions have changed of them since."""
        source = self.pulled()
        if source and round_number in source.rounds:
            said = pulled.counts(source.rounds[round_number])
            if any(round_number in one.rounds for one in self.revisions() if one.number > source.revisions):
                now = counting.counts(self._rows, round_number)
                with self.as_of(source.revisions):
                    then = counting.counts(self._rows, round_number)
                said = pulled.since(said, then, now)
            return {**said, "unjudged": 0}
        found = counting.counts(self._rows, round_number)
        return {**found, "unjudged": self.cost(round_number)[0] - found["completions"]}


def _insert_round(db: sqlite3.Connection, round_: Round) -> None:
    db.execute(
        "INSERT INTO rounds (number, version, wanted, complete, settings, asked) VALUES (?, ?, ?, ?, ?, ?)",
        (
            *(round_.number, round_.version, round_.wanted, round_.complete),
            *(canonical_json(round_.settings), canonical_json(round_.asked)),
        ),
    )


def _round(row: tuple[Any, ...]) -> Round:
    number, version, wanted, complete, settings, asked = row
    return Round(number, version, wanted, bool(complete), json.loads(settings), json.loads(asked))


def _task(row: tuple[Any, ...]) -> Task:
    return encoding.task(json.loads(row[0]))


def _seed(row: tuple[Any, ...]) -> Task:
    values = json.loads(row[0])
    return Task(
        id=values["id"],
        name=values["name"],
        instruction=values["instruction"],
        instances=tuple(Instance(**one) for one in values["instances"]),
        is_classification=values["is_classification"],
    )
