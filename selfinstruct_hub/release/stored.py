"""What the pool stores as JSON, read into Arrow columns: tasks, candidates, neighbours, and the ids of rows.

Arrow reads in blocks and without Python's lock, so that threads do it beside one another. What the shortcuts
cannot be sure of (several instances, odd ids, escapes) is read by Python's own JSON. Writes nothing.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.json

from selfinstruct_hub.errors import PoolError
from selfinstruct_hub.pool.file import damaged
from selfinstruct_hub.pool.identities import DIGITS
from selfinstruct_hub.release.columns import COLUMNS, arrow

_INSTANCES = pa.list_(pa.list_(pa.string()))
_TASK = pa.schema(
    [
        ("id", pa.string()),
        ("instances", _INSTANCES),
        ("instruction", pa.string()),
        ("is_classification", pa.bool_()),
    ]
)
_AS_CSV = bytes.maketrans(b"[]", b",\n")
_CANDIDATE = pa.schema([("instruction", pa.string()), ("instances", _INSTANCES)])


@contextmanager
def reading(place: Path) -> Iterator[None]:
    """What is read here was stored in the pool at `place`. Raises PoolError where it cannot be read as
    that: it was spoilt then."""
    try:
        yield
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:  # Arrow's are ValueErrors
        said = f"a row does not hold what was stored, {type(error).__name__}: {error}"
        raise PoolError(damaged(place, said)) from error


def tasks(lines: bytes) -> dict[str, Any]:
    """The fields of tasks, from lines of JSON."""
    return _fields(lines, _TASK, "error")


def candidates(lines: bytes) -> dict[str, Any]:
    """Instruction and instances of candidates, from lines of JSON. A file may have said anything besides."""
    return _fields(lines, _CANDIDATE, "ignore")


def _fields(lines: bytes, schema: Any, unexpected: str) -> dict[str, Any]:
    table = pyarrow.json.read_json(
        pa.BufferReader(lines),
        # One block, so that a line is never longer than one.
        read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=len(lines) + 1),
        parse_options=pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior=unexpected),
    )
    return {name: table[name].combine_chunks() for name in schema.names}


def row_ids(joined: str) -> Any:
    """Ids of rows, which stand one after the other, as a column."""
    digits = joined.encode()
    count = len(digits) // DIGITS
    offsets = np.arange(0, DIGITS * count + 1, DIGITS, dtype=np.int32)
    return pa.StringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(digits))


class Neighbours:
    """The neighbours of tasks: `lines` are JSON such as [["id",0.5],["id",0.25]] of those that have any, which
    `some` tells by a 1."""

    def __init__(self, lines: bytes, some: str) -> None:
        self._lines = lines
        self._counts = np.array([*some.encode()]) - ord("0")

    @classmethod
    def of(cls, nearest: Sequence[str]) -> Neighbours:
        """Those that are told by one text each."""
        lines = "\n".join([text for text in nearest if text != "[]"])
        return cls(lines.encode(), "".join(["0" if text == "[]" else "1" for text in nearest]))

    def column(self) -> Any:
        """The column of `provenance`."""
        kind = COLUMNS["provenance"]["nearest"]
        if not self._lines:
            return lists(kind, [[]] * len(self._counts))
        content = np.frombuffer(self._lines, np.uint8)
        ends = np.append(np.flatnonzero(content == ord("\n")), len(content))
        closing = np.flatnonzero(content == ord("]"))
        # Of a text with so many neighbours, each closed, the last bracket closes the list.
        found = np.diff(np.searchsorted(closing, ends), prepend=0) - 1
        # An id of a user's seed can have something that is escaped, or a bracket.
        plain = b"\\" not in self._lines and self._lines.count(b"[") == len(closing)
        if not (plain and self._lines.count(b'"') == 2 * found.sum()):
            told = iter(json.loads(b"[" + self._lines.replace(b"\n", b",") + b"]"))
            return lists(kind, [next(told) if some else [] for some in self._counts])
        counts = self._counts.copy()
        counts[counts == 1] = found
        # A neighbour a line, as Arrow reads CSV: nothing else of it reads numbers so fast. Each bracket that opens
        # is a comma, so that two fields are empty, and each that closes ends a line; empty ones do not count.
        text = self._lines.translate(_AS_CSV)
        table = pyarrow.csv.read_csv(
            pa.BufferReader(text),
            read_options=pyarrow.csv.ReadOptions(
                use_threads=False, block_size=len(text) + 1, column_names=["", "", *kind[0]]
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types={name: arrow(dtype) for name, dtype in kind[0].items()},
                include_columns=list(kind[0]),
                null_values=[],
            ),
        )
        ids, scores = (column.combine_chunks() for column in table.columns)
        near = pa.StructArray.from_arrays([marked(ids), scores], list(kind[0]))
        return pa.ListArray.from_arrays(offsets_of(counts), near, type=arrow(kind))


def parsed(texts: Sequence[str]) -> list[Any]:
    """JSON texts, read in one go."""
    found: list[Any] = json.loads(f"[{','.join(texts)}]")
    return found


def lists(kind: list[Any], values: Sequence[Sequence[Any]]) -> Any:
    """A list column out of lists of plain values, or of lists with the values of a struct's fields in order."""
    flat = list(itertools.chain.from_iterable(values))
    inner = kind[0]
    if isinstance(inner, dict):
        fields = zip(*flat, strict=True) if flat else [()] * len(inner)
        arrays = [pa.array(field, arrow(dtype)) for field, dtype in zip(fields, inner.values(), strict=True)]
        items = pa.StructArray.from_arrays(arrays, list(inner))
    else:
        items = pa.array(flat, arrow(inner))
    return pa.ListArray.from_arrays(offsets_of(np.fromiter(map(len, values), int)), items, type=arrow(kind))


def offsets_of(counts: Any) -> Any:
    """Where lists of so many values begin and end."""
    return int32(np.concatenate([[0], np.cumsum(counts)]))


def int32(values: Any) -> Any:
    """A column of whole numbers, from NumPy's."""
    return pa.array(values.astype(np.int32))


def marked(texts: Any) -> Any:
    """A column of texts without nulls, with a bit for each that says so. A manifest tells the bytes that tables
    take in memory, and these bits have been among them since the first release."""
    bits = pa.py_buffer(b"\xff" * (-(-(texts.offset + len(texts)) // 8)))
    return pa.Array.from_buffers(texts.type, len(texts), [bits, *texts.buffers()[1:]], offset=texts.offset)


def unmarked(column: Any) -> Any:
    """A column, and what it is made of, without such bits wherever there is no null."""
    kind, bits = column.type, column.buffers()[:1] if column.null_count else [None]
    if pa.types.is_list(kind):
        inner = [unmarked(column.values)]
        return pa.Array.from_buffers(
            kind, len(column), [*bits, column.buffers()[1]], column.null_count, column.offset, inner
        )
    if pa.types.is_struct(kind):
        fields = [unmarked(column.field(at)) for at in range(kind.num_fields)]
        return pa.StructArray.from_arrays(fields, fields=list(kind))
    return pa.Array.from_buffers(
        kind, len(column), [*bits, *column.buffers()[1:]], column.null_count, column.offset
    )
