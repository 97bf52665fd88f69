"""A round's rows as Arrow tables, in batches: what the pool stores, turned into the columns of every config.

Arrow reads the stored JSON itself, so that a row costs no objects of Python's but its id; what several rows share
(a task, a completion) is made once and taken by its place. Writes nothing.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from json.encoder import encode_basestring
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from selfinstruct_hub.pool import Pool
from selfinstruct_hub.records import Round, is_import
from selfinstruct_hub.release.columns import COLUMNS, arrow, schema
from selfinstruct_hub.seeds import as_row

# Tasks or candidates a table: enough for Arrow to be fast, few enough for little memory.
BATCH = 8192

_FIRST_CALL = (0,)  # of candidates that were stored before calls were
_TASK = pa.schema(
    [
        ("id", pa.string()),
        ("instances", pa.list_(pa.list_(pa.string()))),
        ("instruction", pa.string()),
        ("is_classification", pa.bool_()),
    ]
)


def accepted(pool: Pool, round_: Round) -> Iterator[Callable[[], dict[str, Any]]]:
    """Makers of tables of `default`, `messages` and `provenance` by name, which tell of the same rows in the same
    order. What is told of the first request stands in columns of its own; it is the one that wrote the
    instruction. An imported row has none.

    A maker has all it needs, so that another thread can call it: the pool is read in this one.
    """
    answers = None if is_import(round_.settings) else _Answers(pool, round_.number)
    for batch in pool.accepted_columns(round_.number, BATCH):
        columns = list(zip(*batch, strict=True))
        numbers, _, stored, *_ = columns
        ids = row_ids_of(stored)
        if ids:
            found = answers.between(numbers[0], numbers[-1]) if answers else None
            yield partial(_accepted, round_, columns, ids, found)


def _accepted(
    round_: Round, columns: list[Any], ids: list[str], answers: list[tuple[Any, ...]] | None
) -> dict[str, Any]:
    numbers, positions, stored, nearest, means, calls, revised = columns
    tasks = _tasks(stored)
    counts = pc.list_value_length(tasks["instances"]).to_numpy()
    rows = len(ids)
    # For each row the place of its task, and of the row in the task.
    task_of = pa.array(np.repeat(np.arange(len(stored)), counts))
    instance = np.arange(rows) - np.repeat(np.cumsum(counts) - counts, counts)
    pairs = tasks["instances"].flatten().flatten()
    given = pairs.take(pa.array(np.arange(0, 2 * rows, 2)))
    output = pairs.take(pa.array(np.arange(1, 2 * rows, 2)))
    instruction = tasks["instruction"].take(task_of)
    row_ids = pa.array(ids, pa.string())
    rounds = _int32(np.full(rows, round_.number))
    calls_of = {text: json.loads(text) if text else _FIRST_CALL for text in set(calls)}
    made = [() if answers is None else calls_of[text] for text in calls]
    of_task = {
        "task_id": tasks["id"],
        "request": _int32(np.array(numbers)),
        "candidate": _int32(np.array(positions)),
        "is_classification": tasks["is_classification"],
        **_origin(answers or [], numbers, made),
        "nearest": _nearest(nearest),
        "mean_similarity": pa.array(means, pa.float64()),
    }
    return {
        "default": _table(
            "default",
            {"id": row_ids, "instruction": instruction, "input": given, "output": output, "round": rounds},
        ),
        "messages": _table("messages", {"id": row_ids, "messages": _messages(instruction, given, output)}),
        "provenance": _table(
            "provenance",
            {
                "id": row_ids,
                "instance": _int32(instance),
                "round": rounds,
                "recipe": pa.repeat(pa.scalar(round_.settings["recipe"], pa.string()), rows),
                # Mostly a task is one row, and nothing has to move.
                **{k: v if (counts == 1).all() else v.take(task_of) for k, v in of_task.items()},
                "revisions": _revisions(revised, counts),
            },
        ),
    }


def rejected(pool: Pool, round_: Round) -> Iterator[Any]:
    """Tables of `rejected`: candidates that were dropped, and instances that accepted tasks (`task_id`) go on
    without. `pool.gather_neighbours` comes before."""
    for batch in pool.rejected_columns(round_.number, BATCH):
        _, _, _, candidates, _, _, _, nearest, lost, _ = zip(*batch, strict=True)
        rows: list[tuple[Any, ...]] = []
        instances: list[list[tuple[Any, ...]]] = []
        for verdict, candidate, near, gone in zip(
            batch, _parsed(candidates), _parsed(nearest), _parsed(lost), strict=True
        ):
            number, position, stage, _, task, reason, detail, _, _, neighbour = verdict
            common = (number, position, candidate["instruction"], stage)
            marked = [(given, output, why) for given, output, why, _ in gone]
            if task:
                task_id = json.loads(task)["id"]
                for one, (_, _, why, seen) in zip(marked, gone, strict=True):
                    rows.append((*common, why, seen, task_id, None, None, None))
                    instances.append([one])
            else:
                left_out = {(given, output) for given, output, *_ in gone}
                others = [(*pair, None) for pair in candidate["instances"] if tuple(pair) not in left_out]
                key, score = near[0] if near else (None, None)
                rows.append((*common, reason, detail or "", None, key, neighbour, score))
                instances.append(others + marked)
        kinds = COLUMNS["rejected"]
        names = [name for name in kinds if name not in ("round", "instances")]  # in the order of `rows`
        columns = dict(zip(names, zip(*rows, strict=True), strict=True))
        yield _table(
            "rejected",
            {
                "round": _int32(np.full(len(rows), round_.number)),
                "instances": _lists(kinds["instances"], instances),
                **{name: pa.array(values, arrow(kinds[name])) for name, values in columns.items()},
            },
        )


def seeds(pool: Pool) -> Iterator[Any]:
    """Tables of `seeds`, in their file's order."""
    tasks = iter(pool.seeds())
    while batch := list(itertools.islice(tasks, BATCH)):
        yield pa.Table.from_pylist([as_row(task) for task in batch], schema=schema("seeds"))


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


def _origin(
    answers: list[tuple[Any, ...]], numbers: Sequence[int], made: Sequence[Sequence[int]]
) -> dict[str, Any]:
    """The columns of `provenance` that tell of completions, one row a task: task `i` came from draw `numbers[i]`
    by the calls `made[i]`."""
    place = {(answer[0], answer[1]): at for at, answer in enumerate(answers, start=1)}
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
        "shown": _lists(["string"], _parsed(shown)),
    }
    at = [[place[number, call] for call in calls] for number, calls in zip(numbers, made, strict=True)]
    first = pa.array([places[0] if places else 0 for places in at], pa.int64())
    every = pa.array(list(itertools.chain.from_iterable(at)), pa.int64())
    kinds = COLUMNS["provenance"]["stages"]
    stages = pa.StructArray.from_arrays([column.take(every) for column in told.values()], list(told))
    return {
        "model": pa.array(model, pa.string()).take(first),
        "endpoint_kind": pa.array(kind, pa.string()).take(first),
        **{
            name: told[name].take(first)
            for name in ("decoding", "finish_reason", "prompt_tokens", "generated_tokens")
        },
        "parents": told["shown"].take(first),
        "stages": pa.ListArray.from_arrays(_offsets(at), stages, type=arrow(kinds)),
    }


def _revisions(texts: Sequence[str | None], counts: Any) -> Any:
    """The column of what revisions made of each row, from JSON: for each task a list for each of its instances."""
    kind = COLUMNS["provenance"]["revisions"]
    names = list(kind[0])
    rows: list[list[tuple[Any, ...]]] = []
    for text, count in zip(texts, counts, strict=True):
        found = json.loads(text) if text else [[]] * count
        rows += [
            [(*(one.get(name) for name in names[:-1]), one.get("shown", [])) for one in of_row] for of_row in found
        ]
    return _lists(kind, rows)


def row_ids_of(tasks: Sequence[str]) -> list[str]:
    """The ids of the rows of tasks, each as `records.Task.rows` has it: a digest of the canonical JSON of
    instruction, input and output. A task is stored as canonical JSON, so the texts of the three are cut out of it
    as they stand: reading and writing them again would take longer than all the rest. What is looked for is a key
    with its quotation marks and colon, and no text can hold that: its own quotation marks are escaped."""
    ids = []
    for text in tasks:
        left, cut, right = text.partition(']],"instruction":')
        if not cut:  # no instance, so no row
            continue
        instruction = right[: right.rindex(',"is_classification":')]
        pair = left[left.index('"instances":[[') + 14 :]
        # Several instances, or a text that looks like the gap between two.
        several = json.loads(f"[[{pair}]]") if '"],["' in pair else ()
        pairs = [f"{encode_basestring(one)},{encode_basestring(other)}" for one, other in several] or [pair]
        ids += [hashlib.sha256(f"[{instruction},{one}]".encode()).hexdigest()[:16] for one in pairs]
    return ids


def _messages(instruction: Any, given: Any, output: Any) -> Any:
    """The chat of every row: what `records.prompt_text` says of it, and the answer."""
    asked = pc.if_else(pc.equal(given, ""), instruction, pc.binary_join_element_wise(instruction, given, "\n\n"))
    rows = len(asked)
    turns = pa.array(np.arange(2 * rows).reshape(2, rows).T.ravel())  # 0, rows, 1, rows + 1, ...
    contents = pa.concat_arrays([asked, output]).take(turns)
    roles = pa.DictionaryArray.from_arrays(pa.array(np.arange(2 * rows) % 2), ["user", "assistant"])
    said = pa.StructArray.from_arrays([roles.dictionary_decode(), contents], ["role", "content"])
    offsets = _int32(np.arange(0, 2 * rows + 1, 2))
    return pa.ListArray.from_arrays(offsets, said, type=arrow(COLUMNS["messages"]["messages"]))


def _nearest(texts: Sequence[str]) -> Any:
    """The column of neighbours, from JSON such as [["id",0.5],["id",0.25]]."""
    kind = COLUMNS["provenance"]["nearest"]
    some = np.array([text != "[]" for text in texts])
    stored = pa.array([text for text in texts if text != "[]"], pa.string())
    pairs = pc.split_pattern(pc.utf8_slice_codeunits(stored, 3, -2), '],["')
    # An id of a user's seed can look like the gap between two pairs, or have something that is escaped.
    marks = pc.sum(pc.count_substring(stored, '"')).as_py() or 0
    if marks != 2 * len(pairs.flatten()) or any("\\" in text for text in texts):
        return _lists(kind, _parsed(texts))
    counts = np.zeros(len(texts), np.int64)
    counts[some] = pc.list_value_length(pairs).to_numpy()
    fields = pc.split_pattern(pairs.flatten(), '",', max_splits=1, reverse=True).flatten()
    ids = fields.take(pa.array(np.arange(0, len(fields), 2)))
    scores = fields.take(pa.array(np.arange(1, len(fields), 2))).cast(pa.float64())
    found = pa.StructArray.from_arrays([ids, scores], list(kind[0]))
    return pa.ListArray.from_arrays(_int32(np.cumsum([0, *counts])), found, type=arrow(kind))


def _tasks(texts: Sequence[str]) -> dict[str, Any]:
    """The fields of tasks, from their JSON, which has no line breaks in it."""
    lines = "\n".join(texts).encode()
    table = pyarrow.json.read_json(
        pa.BufferReader(lines),
        # One block, so that a task is never longer than one.
        read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=len(lines) + 1),
        parse_options=pyarrow.json.ParseOptions(explicit_schema=_TASK, unexpected_field_behavior="error"),
    )
    return {name: table[name].combine_chunks() for name in _TASK.names}


def _lists(kind: list[Any], values: Sequence[Sequence[Any]]) -> Any:
    """A list column out of lists of plain values, or of lists with the values of a struct's fields in order."""
    flat = list(itertools.chain.from_iterable(values))
    inner = kind[0]
    if isinstance(inner, dict):
        fields = zip(*flat, strict=True) if flat else [()] * len(inner)
        arrays = [pa.array(field, arrow(dtype)) for field, dtype in zip(fields, inner.values(), strict=True)]
        items = pa.StructArray.from_arrays(arrays, list(inner))
    else:
        items = pa.array(flat, arrow(inner))
    return pa.ListArray.from_arrays(_offsets(values), items, type=arrow(kind))


def _offsets(values: Sequence[Sequence[Any]]) -> Any:
    return pa.array(np.cumsum([0, *map(len, values)]), pa.int32())


def _int32(values: Any) -> Any:
    return pa.array(values.astype(np.int32))


def _parsed(texts: Sequence[str]) -> list[Any]:
    """JSON texts, read in one go."""
    parsed: list[Any] = json.loads(f"[{','.join(texts)}]")
    return parsed


def _table(name: str, columns: dict[str, Any]) -> Any:
    return pa.Table.from_arrays([columns[column] for column in COLUMNS[name]], schema=schema(name))
