"""Tables of Arrow: Parquet files and the shards of `save_to_disk`, read batch by batch, schema and metadata kept.

The library is imported where it is used: most files are text.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from selfinstruct_hub.datafiles.parts import Unusable, Write, failed

# A row group is written when so many bytes wait for it, however many rows the file had in one.
_GROUP_BYTES = 2**26
# What a footer calls a codec, where the library's writer calls it otherwise.
_CODECS = {"UNCOMPRESSED": "NONE", "LZ4_RAW": "LZ4"}


class TableBatch:
    """Rows of a table."""

    def __init__(self, table: Any, places: Sequence[str], share: float) -> None:
        self.table = table
        self.places = places
        self.share = share

    @property
    def columns(self) -> list[str]:
        return list(self.table.column_names)

    def values(self, column: str) -> list[Any]:
        number = self.table.schema.names.index(column) if column in self.table.schema.names else None
        if number is None:
            return [Unusable("is missing")] * self.table.num_rows
        values: list[Any] = self.table.column(number).to_pylist()
        return values

    def rows(self, numbers: Sequence[int]) -> list[Mapping[str, Any]]:
        found: list[Mapping[str, Any]] = self.table.take(list(numbers)).to_pylist() if numbers else []
        return found


class ParquetPart:
    """A Parquet file. What is kept has its schema, its metadata, its codecs and row groups of its size."""

    compressed = False

    def __init__(self, path: Path, relative: str = "") -> None:
        self.relative = relative
        self._path = path
        self._prefix = f"{relative}, " if relative else ""
        with _failures(self.place):
            self.size = path.stat().st_size

    @property
    def place(self) -> str:
        return str(self._path)

    @property
    def columns(self) -> list[str]:
        with _failures(self.place), self._opened() as file:
            return list(file.schema_arrow.names)

    def batches(self, rows: int) -> Iterator[TableBatch]:
        import pyarrow

        with _failures(self.place), self._opened() as file:
            whole, done = file.metadata.num_rows, 0
            for batch in file.iter_batches(batch_size=rows):
                places = [f"{self._prefix}row {done + number}" for number in range(1, batch.num_rows + 1)]
                done += batch.num_rows
                yield TableBatch(pyarrow.Table.from_batches([batch]), places, done / whole)

    @contextmanager
    def written(self, out: BinaryIO) -> Iterator[Write]:
        import pyarrow
        from pyarrow import parquet

        with _failures(self.place), self._opened() as file:
            schema, footer = file.schema_arrow, file.metadata
            groups = footer.num_row_groups
            first = footer.row_group(0) if groups else None
            columns = [first.column(n) for n in range(first.num_columns)] if first else []
            codecs = {c.path_in_schema: _CODECS.get(c.compression, c.compression) for c in columns}
        group_rows = max(1, -(-footer.num_rows // max(1, groups)))
        waiting: list[Any] = []
        # Older writers call what a list holds otherwise than the format says, and the name is part of the schema.
        compliant = not any(name.endswith(".list.item") or ".list.item." in name for name in codecs)
        with parquet.ParquetWriter(
            out, schema, compression=codecs or "snappy", use_compliant_nested_type=compliant
        ) as writer:

            def flush() -> None:
                if waiting:
                    writer.write_table(pyarrow.concat_tables(waiting), row_group_size=group_rows)
                    waiting.clear()

            def write(batch: TableBatch, numbers: Sequence[int]) -> None:
                if numbers:
                    waiting.append(batch.table.take(list(numbers)))
                enough = sum(table.num_rows for table in waiting) >= group_rows
                if enough or sum(table.nbytes for table in waiting) >= _GROUP_BYTES:
                    flush()

            yield write
            flush()

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        from pyarrow import parquet

        # Without fetching ahead: that would hold whole row groups.
        with parquet.ParquetFile(str(self._path), pre_buffer=False) as file:
            yield file


class ShardPart:
    """A shard of a dataset that `save_to_disk` wrote: an Arrow stream. `first` is the number of its first row in
    its split, from 1; `digest` what was kept of it."""

    compressed = False

    def __init__(self, path: Path, relative: str, split: str, first: int) -> None:
        self.relative = relative
        self.digest = hashlib.sha256()
        self._path = path
        self._prefix = f"{split}, " if split else ""
        self._first = first
        with _failures(self.place), self._opened() as stream:
            self.size = path.stat().st_size
            self.rows = sum(batch.num_rows for batch in stream)
            self.columns = list(stream.schema.names)

    @property
    def place(self) -> str:
        return str(self._path)

    def batches(self, rows: int) -> Iterator[TableBatch]:
        with _failures(self.place), self._opened() as stream:
            done = 0
            for table in _regrouped(stream, rows):
                begins = self._first + done
                places = [f"{self._prefix}row {begins + number}" for number in range(table.num_rows)]
                done += table.num_rows
                yield TableBatch(table, places, done / self.rows)

    @contextmanager
    def written(self, out: BinaryIO) -> Iterator[Write]:
        import pyarrow

        with _failures(self.place), self._opened() as stream:
            schema = stream.schema
        with pyarrow.ipc.new_stream(out, schema) as writer:

            def write(batch: TableBatch, numbers: Sequence[int]) -> None:
                self.digest.update(array("Q", numbers).tobytes() + b"|")
                if numbers:
                    writer.write_table(batch.table.take(list(numbers)))

            yield write

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        import pyarrow

        with pyarrow.memory_map(str(self._path)) as file, pyarrow.ipc.open_stream(file) as stream:
            yield stream


def _regrouped(stream: Any, rows: int) -> Iterator[Any]:
    """The rows of `stream` as tables of `rows` rows, the last one shorter."""
    import pyarrow

    waiting: list[Any] = []
    count = 0
    for batch in stream:
        waiting.append(batch)
        count += batch.num_rows
        if count >= rows:
            table = pyarrow.Table.from_batches(waiting)
            whole = count - count % rows
            yield from (table.slice(start, rows) for start in range(0, whole, rows))
            rest = table.slice(whole)
            waiting, count = list(rest.to_batches()), rest.num_rows
    if count:
        yield pyarrow.Table.from_batches(waiting)


@contextmanager
def _failures(place: str) -> Iterator[None]:
    """What the library raises of a file that it cannot read, in one line."""
    import pyarrow

    try:
        yield
    except (OSError, pyarrow.ArrowException) as error:
        raise failed(place, error) from None
