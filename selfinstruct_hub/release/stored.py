"""What the pool stores as JSON, read into Arrow columns: tasks, candidates, neighbours, and the ids of rows.

Arrow reads in blocks and without Python's lock, so that threads do it beside one another. What the shortcuts
cannot be sure of (several instances, odd ids, escapes) is read by Python's own JSON. Writes nothing.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.json

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
_CANDIDATE = pa.schema([("instruction", pa.string()), ("instances", _INSTANCES)])


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


def row_ids(joined: Sequence[str]) -> Any:
    """The ids of the rows of tasks as a column; each task's stand in one text, one after the other."""
    digits = "".join(joined).encode()
    count = len(digits) // DIGITS
    offsets = np.arange(0, DIGITS * count + 1, DIGITS, dtype=np.int32)
    return pa.StringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(digits))


class Neighbours:
    """The neighbours of tasks, from JSON such as [["id",0.5],["id",0.25]]. What is done text by text is done at
    once, `column` by any thread."""

    def __init__(self, texts: Sequence[str]) -> None:
        # A neighbour a line, as Arrow reads CSV: nothing else of it reads numbers so fast.
        self._lines = "],[".join([text[2:-2] for text in texts if text != "[]"]).encode().replace(b"],[", b"\n")
        self._counts = np.array([0 if text == "[]" else text.count("],[") + 1 for text in texts])
        # An id of a user's seed can look like the gap between two pairs, or have something that is escaped.
        plain = b"\\" not in self._lines and self._lines.count(b'"') == 2 * self._counts.sum()
        self._odd = None if plain else texts

    def column(self) -> Any:
        """The column of `provenance`."""
        kind = COLUMNS["provenance"]["nearest"]
        if self._odd is not None:
            return lists(kind, parsed(self._odd))
        if not self._lines:
            return lists(kind, [[]] * len(self._counts))
        table = pyarrow.csv.read_csv(
            pa.BufferReader(self._lines),
            read_options=pyarrow.csv.ReadOptions(
                use_threads=False, block_size=len(self._lines) + 1, column_names=list(kind[0])
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types={name: arrow(dtype) for name, dtype in kind[0].items()}, null_values=[]
            ),
        )
        ids, scores = (column.combine_chunks() for column in table.columns)
        found = pa.StructArray.from_arrays([marked(ids), scores], list(kind[0]))
        return pa.ListArray.from_arrays(offsets_of(self._counts), found, type=arrow(kind))


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
