"""A round's accepted rows as Arrow tables, in batches: what the pool stores, turned into the columns of a config.

Arrow reads the stored JSON itself, so that a row costs no objects of Python's but those that SQLite gives; what
several rows share (a task, a completion) is made once and taken by its place. Writes nothing.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selfinstruct_hub.errors import PoolError
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.pool.file import damaged
from selfinstruct_hub.pool.published import Accepted
from selfinstruct_hub.records import Round, is_import
from selfinstruct_hub.release import stored
from selfinstruct_hub.release.columns import COLUMNS, arrow, schema
from selfinstruct_hub.seeds import as_row

# Tasks or candidates a table: enough for Arrow to be fast, few enough for little memory.
BATCH = 8192

# Makes a config's table.
Maker = Callable[[], Any]

# How many completions made each task, and the places of all of these, counted from one.
_Made = tuple[Any, Any]

_FIRST_CALL = (0,)


def accepted(pool: Pool, round_: Round) -> Iterator[Callable[[], dict[str, Maker]]]:
    """What makes the makers of tables of `default`, `messages` and `provenance` by name, which tell of the same
    rows in the same order. What is told of the first request stands in columns of its own; it is the one that
    wrote the instruction. An imported row has none.

    All that is called has what it needs, so that other threads can call it, and the makers beside one another. The
    pool is read in this one.
    """
    answers = None if is_import(round_.settings) else _Answers(pool, round_.number)
    for batch in pool.accepted_columns(round_.number, BATCH):
        with stored.reading(pool.path):
            ids = stored.row_ids(batch.ids)
            found = answers.between(batch.numbers[0], batch.numbers[-1]) if answers else []
            made = _places(found, batch.numbers, batch.calls) if answers else None
        if len(ids):  # instructions can be imported without instances
            yield partial(_accepted, pool.path, round_, batch, ids, found, made)


def _accepted(
    place: Path, round_: Round, batch: Accepted, row_ids: Any, answers: list[tuple[Any, ...]], made: _Made | None
) -> dict[str, Maker]:
    with stored.reading(place):
        tasks = stored.tasks(batch.tasks)
    counts = pc.list_value_length(tasks["instances"]).to_numpy()
    rows = len(row_ids)
    if counts.sum() != rows:
        raise PoolError(damaged(place, f"ids of rows of round {round_.number} are not those of its tasks"))
    # For each row the place of its task, and of the row in the task. Mostly a task is one row, and nothing moves.
    of_task = None if (counts == 1).all() else pa.array(np.repeat(np.arange(len(counts)), counts))
    instance = np.arange(rows) - np.repeat(np.cumsum(counts) - counts, counts)
    pairs = tasks["instances"].flatten().flatten()
    given = pairs.take(pa.array(np.arange(0, 2 * rows, 2)))
    output = pairs.take(pa.array(np.arange(1, 2 * rows, 2)))
    instruction = stored.marked(tasks["instruction"]) if of_task is None else tasks["instruction"].take(of_task)
    rounds = stored.int32(np.full(rows, round_.number))
    own = {"id": row_ids, "instance": stored.int32(instance), "round": rounds}
    shown = {"instruction": instruction, "input": given, "output": output}
    return {
        "default": partial(table, "default", {"id": row_ids, **shown, "round": rounds}),
        "messages": partial(_messages, row_ids, **shown),
        "provenance": partial(_provenance, place, round_, batch, answers, made, own, tasks, of_task),
    }


def _messages(row_ids: Any, *, instruction: Any, input: Any, output: Any) -> Any:
    """The chat of every row: what `records.prompt_text` says of it, and the answer."""
    asked = pc.if_else(pc.equal(input, ""), instruction, pc.binary_join_element_wise(instruction, input, "\n\n"))
    rows = len(asked)
    turns = pa.array(np.arange(2 * rows).reshape(2, rows).T.ravel())  # 0, rows, 1, rows + 1, ...
    contents = pa.concat_arrays([asked, output]).take(turns)
    roles = pa.DictionaryArray.from_arrays(pa.array(np.arange(2 * rows) % 2), ["user", "assistant"])
    said = pa.StructArray.from_arrays([roles.dictionary_decode(), contents], ["role", "content"])
    offsets = stored.int32(np.arange(0, 2 * rows + 1, 2))
    kind = arrow(COLUMNS["messages"]["messages"])
    return table("messages", {"id": row_ids, "messages": pa.ListArray.from_arrays(offsets, said, type=kind)})


def _provenance(
    place: Path,
    round_: Round,
    batch: Accepted,
    answers: list[tuple[Any, ...]],
    made: _Made | None,
    own: dict[str, Any],
    tasks: dict[str, Any],
    of_task: Any,
) -> Any:
    """The table of `provenance`: `own` are columns of rows, everything else tells of tasks."""
    with stored.reading(place):
        told = {
            "task_id": tasks["id"],
            "request": stored.int32(np.array(batch.numbers)),
            "candidate": stored.int32(np.array(batch.positions)),
            "is_classification": tasks["is_classification"],
            **_origin(answers, made or _nowhere(batch.numbers)),
            "nearest": stored.Neighbours(batch.nearest, batch.some).column(),
            "mean_similarity": pa.array(batch.means, pa.float64()),
        }
        counts = pc.list_value_length(tasks["instances"]).to_numpy()
        revisions = _revisions(batch.revised, counts)
    recipe = pa.repeat(pa.scalar(round_.settings["recipe"], pa.string()), len(own["id"]))
    if of_task is not None:
        told = {name: column.take(of_task) for name, column in told.items()}
    return table("provenance", {**own, "recipe": recipe, **told, "revisions": revisions})


def _revisions(texts: Sequence[str | None], counts: Any) -> Any:
    """The column of what revisions made of each row, from JSON: for each task a list for each of its instances."""
    kind = COLUMNS["provenance"]["revisions"]
    if not any(texts):
        return stored.lists(kind, [()] * int(counts.sum()))
    names = list(kind[0])
    rows: list[list[tuple[Any, ...]]] = []
    for text, count in zip(texts, counts, strict=True):
        found = json.loads(text) if text else [[]] * count
        rows += [
            [(*(one.get(name) for name in names[:-1]), one.get("shown", [])) for one in of_row] for of_row in found
        ]
    return stored.lists(kind, rows)


class _Answers:
    """The completions of a round as they are passed by, in request order."""

    def __init__(self, pool: Pool, round_number: int) -> None:
        self._batches = pool.answer_columns(round_number, BATCH)
        self._ahead: list[tuple[Any, ...]] = []

    def between(self, first: int, last: int) -> list[tuple[Any, ...]]:
        """The completions of the draws `first` to `last`. The next call begins no earlier than `last`."""
        while not self._ahead or self._ahead[-1][0] <= last:
            batch = next(self._batches, None)
            if batch is None:
                break
            self._ahead.extend(batch)
        self._ahead = [answer for answer in self._ahead if answer[0] >= first]
        return [answer for answer in self._ahead if answer[0] <= last]


def _origin(answers: list[tuple[Any, ...]], made: _Made) -> dict[str, Any]:
    """The columns of `provenance` that tell of completions, one row a task."""
    # Before the first stands one that says nothing, for tasks that no request has made.
    nothing = (None, None, None, None, "[]", None, None, None, None, None)
    columns = list(zip(nothing, *answers, strict=True))
    _, call, stage, decoding, shown, finish, prompt_tokens, generated_tokens, model, kind = columns
    told = {
        "stage": pa.array(stage, pa.string()),
        "call": pa.array(call, pa.int32()),
        "decoding": pa.array(decoding, pa.string()),
        "finish_reason": pa.array(finish, pa.string()),
        "prompt_tokens": pa.array(prompt_tokens, pa.int32()),
        "generated_tokens": pa.array(generated_tokens, pa.int32()),
        "shown": stored.lists(["string"], stored.parsed(shown)),
    }
    counts, every = made
    taken = {name: column.take(pa.array(every)) for name, column in told.items()}
    if (counts == 1).all():
        first, of_first = every, taken
    else:
        begins = np.concatenate([every, [0]])[np.cumsum(counts) - counts]
        first = np.where(counts > 0, begins, 0)
        of_first = {name: column.take(pa.array(first)) for name, column in told.items()}
    stages = pa.StructArray.from_arrays(list(taken.values()), list(taken))
    listed = arrow(COLUMNS["provenance"]["stages"])
    return {
        "model": pa.array(model, pa.string()).take(pa.array(first)),
        "endpoint_kind": pa.array(kind, pa.string()).take(pa.array(first)),
        **{name: of_first[name] for name in ("decoding", "finish_reason", "prompt_tokens", "generated_tokens")},
        "parents": of_first["shown"],
        "stages": pa.ListArray.from_arrays(stored.offsets_of(counts), stages, type=listed),
    }


def _places(answers: list[tuple[Any, ...]], numbers: Sequence[int], calls: Sequence[str | None]) -> _Made:
    """Which of `answers`, which are in order, made each task: task `i` came from draw `numbers[i]` by the calls
    `calls[i]` (JSON; None: the first)."""
    made = {text: json.loads(text) if text else _FIRST_CALL for text in set(calls)}
    if made == {None: _FIRST_CALL}:  # as a rule
        counts, wanted = np.ones(len(calls), np.int64), np.zeros(len(calls), np.int64)
    else:
        counts = np.fromiter((len(made[text]) for text in calls), np.int64, len(calls))
        wanted = np.fromiter(itertools.chain.from_iterable(made[text] for text in calls), np.int64)
    width = 1 + max((0, *(answer[1] for answer in answers), *itertools.chain.from_iterable(made.values())))
    keys = np.fromiter((answer[0] * width + answer[1] for answer in answers), np.int64, len(answers))
    asked = np.repeat(np.array(numbers, np.int64), counts) * width + wanted
    places = np.searchsorted(keys, asked)
    if not np.array_equal(keys[places], asked):
        raise ValueError("a task is made by completions that are not there")
    return counts, places + 1


def _nowhere(numbers: Sequence[int]) -> _Made:
    return np.zeros(len(numbers), np.int64), np.zeros(0, np.int64)


def seeds(pool: Pool) -> Iterator[Any]:
    """Tables of `seeds`, in their file's order."""
    tasks = iter(pool.seeds())
    while batch := list(itertools.islice(tasks, BATCH)):
        yield pa.Table.from_pylist([as_row(task) for task in batch], schema=schema("seeds"))


def table(name: str, columns: dict[str, Any]) -> Any:
    """The table of a config out of its columns by name."""
    return pa.Table.from_arrays([columns[column] for column in COLUMNS[name]], schema=schema(name))
