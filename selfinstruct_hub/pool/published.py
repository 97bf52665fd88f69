"""What a release publishes of a round, as plain columns in batches: texts and JSON as they are stored, not parsed.

A release may have millions of rows, so no record is made of them here, and no query holds a round in memory.
SQLite itself puts the texts of accepted tasks together: where several threads want Python's lock, each row that it
gives costs a change of threads. Reads only.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

# (query, values by name) -> all rows.
Rows = Callable[..., list[tuple[Any, ...]]]

# What decided, where something did; the nearest by ROUGE-L otherwise.
_NEAREST = "coalesce(json_extract(v.near, '$[0]'), json_extract(v.nearest, '$[0][0]'))"

# The last task of the next batch, where it is full: out of an index, which goes on from where it was. A view has
# no order of its own, so that of one the last tasks of all full batches are found at once.
_END = (
    "SELECT number, position FROM verdicts WHERE round = :round AND task IS NOT NULL"
    " AND (number, position) > (:number, :position) ORDER BY number, position LIMIT 1 OFFSET :size - 1"
)
_ENDS = (
    "SELECT number, position FROM"
    " (SELECT number, position, row_number() OVER (ORDER BY number, position) AS place FROM verdicts"
    " WHERE round = :round AND task IS NOT NULL) WHERE place % :size = 0"
)
_BATCH = (
    " FROM verdicts WHERE round = :round AND task IS NOT NULL AND (number, position) > (:number, :position)"
    " AND (number, position) <= (:last_number, :last_position)"
)
_COLUMNS = "number, position, task, nearest, mean, calls, revised, ids"
# SQLite writes a number with fifteen digits, and a whole one with all that it has. Times a power of two, a mean
# that is not tiny is a whole number without losing anything.
_SCALE = 1 << 62
_TOGETHER = (
    "SELECT count(*), group_concat(number), group_concat(position), CAST(group_concat(task, char(10)) AS BLOB),"
    " CAST(group_concat(nullif(nearest, '[]'), char(10)) AS BLOB), group_concat(nearest <> '[]', ''),"
    f" group_concat(coalesce(CAST(mean * {_SCALE}.0 AS INTEGER), '')),"
    f" sum(mean IS NOT NULL AND CAST(mean * {_SCALE}.0 AS INTEGER) / {_SCALE}.0 <> mean),"
    " group_concat(coalesce(calls, ''), char(10)), group_concat(coalesce(revised, ''), char(10)),"
    f" group_concat(ids, ''){_BATCH}"
)
_ONE_BY_ONE = f"SELECT {_COLUMNS}{_BATCH} ORDER BY number, position"
# A draw without a verdict, one that is not judged yet, has nothing to do with a row.
ANSWERS = (
    "SELECT c.number, c.call, c.stage, c.decoding, c.demonstrations, c.finish_reason, c.prompt_tokens,"
    " c.generated_tokens, c.model, c.endpoint_kind FROM completions c JOIN draws d USING (round, number)"
    " WHERE c.round = ? ORDER BY c.number, c.call"
)
# A neighbour that a revision has changed since has another id, and stands among the verdicts of before. These are
# asked for in the pool itself, whatever it reads as: an id is a digest of what it names.
_INSTRUCTION = (
    "coalesce("
    + ", ".join(
        f"(SELECT json_extract(found.task, '$.instruction') FROM main.{table} found WHERE found.task_id ="
        f" {_NEAREST} LIMIT 1)"
        for table in ("verdicts", "past_verdicts")
    )
    + ", seed.instruction)"
)
# A table of its own, which SQLite makes once and searches by its id, and an id is there once.
_SEEDS = (
    "SELECT json_extract(task, '$.id') AS id, json_extract(task, '$.instruction') AS instruction"
    " FROM seeds GROUP BY 1"
)
REJECTED = (
    "SELECT number, position, stage, candidate, task, reason, detail,"
    " CASE WHEN near IS NOT NULL THEN '[' || near || ']' WHEN score IS NULL AND mean IS NOT NULL THEN '[]'"
    " WHEN nearest = '[]' THEN nearest ELSE '[' || json_extract(nearest, '$[0]') || ']' END, lost,"
    f" CASE WHEN task IS NULL THEN {_INSTRUCTION} END"
    f" FROM verdicts v LEFT JOIN ({_SEEDS}) seed ON task IS NULL AND seed.id = {_NEAREST}"
    " WHERE round = ? AND (task IS NULL OR lost <> '[]') ORDER BY number, position"
)


@dataclass(frozen=True)
class Accepted:
    """Accepted candidates of a round, in order, column by column. `tasks` are lines of JSON; `nearest` the same of
    the neighbours of those that have any, which `some` tells by a 1 (the others have a 0); `calls` JSON (None: the
    first), `revised` JSON (None: never), `ids` those of all rows, one after the other."""

    numbers: Sequence[int]
    positions: Sequence[int]
    tasks: bytes
    nearest: bytes
    some: str
    means: Sequence[float | None]
    calls: Sequence[str | None]
    revised: Sequence[str | None]
    ids: str


def accepted(rows: Rows, round_number: int, size: int, *, of_view: bool = False) -> Iterator[Accepted]:
    """The accepted candidates of a round in batches of `size`. `of_view` says that verdicts are read by a view."""
    begin = (-1, -1)
    ends = iter(rows(_ENDS, round=round_number, size=size) if of_view else ())
    while True:
        values = {"round": round_number, "number": begin[0], "position": begin[1]}
        found = next(ends, None) if of_view else next(iter(rows(_END, **values, size=size)), None)
        end = found or (1 << 62, 0)
        values |= {"last_number": end[0], "last_position": end[1]}
        batch = _together(rows, values) or _one_by_one(rows, values)
        if batch.numbers:
            yield batch
        if found is None:
            return
        begin = end


def _together(rows: Rows, values: dict[str, int]) -> Accepted | None:
    """A batch; None where it cannot be had exactly so: a text longer than SQLite makes one, a tiny mean, another
    order, which nobody has promised."""
    try:
        ((count, *texts),) = rows(_TOGETHER, **values)
    except sqlite3.DataError:
        return None
    if not count:
        return Accepted((), (), b"", b"", "", (), (), (), "")
    numbers, positions, tasks, nearest, some, means, inexact, calls, revised, ids = texts
    places = list(zip(_whole(numbers), _whole(positions), strict=True))
    if inexact or places != sorted(places):
        return None
    return Accepted(
        numbers=[number for number, _ in places],
        positions=[position for _, position in places],
        tasks=tasks,
        nearest=nearest or b"",
        some=some,
        means=[int(mean) / _SCALE if mean else None for mean in means.split(",")],
        calls=_texts(calls, count),
        revised=_texts(revised, count),
        ids=ids,
    )


def _one_by_one(rows: Rows, values: dict[str, int]) -> Accepted:
    found = rows(_ONE_BY_ONE, **values)
    numbers, positions, tasks, nearest, means, calls, revised, ids = zip(*found, strict=True)
    return Accepted(
        numbers=numbers,
        positions=positions,
        tasks="\n".join(tasks).encode(),
        nearest="\n".join(text for text in nearest if text != "[]").encode(),
        some="".join("0" if text == "[]" else "1" for text in nearest),
        means=means,
        calls=calls,
        revised=revised,
        ids="".join(ids),
    )


def _whole(text: str) -> list[int]:
    return [int(one) for one in text.split(",")]


def _texts(text: str, count: int) -> list[str | None]:
    if len(text) == count - 1:  # none of them
        return [None] * count
    return [one or None for one in text.split("\n")]
