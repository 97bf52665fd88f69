"""Files of text: rows that keep the bytes they came in, so that what is kept is written as it stood.

What JSON Lines, JSON arrays and CSV share. Where a row ends is for each of them to say.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple

from selfinstruct_hub.datafiles.parts import Unusable, Write
from selfinstruct_hub.datafiles.streams import Stream


class TextRow(NamedTuple):
    """A row: where it stands, its bytes, and its fields, or why it has none."""

    place: str
    raw: bytes
    fields: Mapping[str, Any] | Unusable


class TextBatch:
    """Rows of a text file."""

    def __init__(self, rows: Sequence[TextRow], share: float | None, missing: str) -> None:
        self.raw = [row.raw for row in rows]
        self.places = [row.place for row in rows]
        self.share = share
        self._rows = rows
        self._missing = missing

    @property
    def columns(self) -> list[str]:
        found: dict[str, None] = {}
        for row in self._rows:
            if not isinstance(row.fields, Unusable):
                found.update(dict.fromkeys(row.fields))
        return list(found)

    def values(self, column: str) -> list[Any]:
        missing = Unusable(self._missing)
        return [r.fields if isinstance(r.fields, Unusable) else r.fields.get(column, missing) for r in self._rows]

    def rows(self, numbers: Sequence[int]) -> list[Mapping[str, Any]]:
        found = (self._rows[number].fields for number in numbers)
        return [fields for fields in found if not isinstance(fields, Unusable)]


class TextPart(ABC):
    """One text file. What stands before the first row (`opening`), between rows (`joint`) and behind the last
    (`closing`) is known as far as it is read."""

    joint = b""
    missing = "is missing"  # what is said of a field that a row has not

    def __init__(self, stream: Stream, relative: str = "") -> None:
        self.relative = relative
        self.size = stream.size
        self.compressed = stream.compressed
        self.opening = self.closing = b""
        self._stream = stream
        self._prefix = f"{relative}, " if relative else ""

    @property
    def place(self) -> str:
        return self._stream.name

    @abstractmethod
    def _read(self, file: BinaryIO) -> Iterator[TextRow]:
        """The rows of `file`."""

    def batches(self, rows: int) -> Iterator[TextBatch]:
        with self._stream.reading() as file:
            waiting: list[TextRow] = []
            for row in self._read(file):
                waiting.append(row)
                if len(waiting) == rows:
                    yield TextBatch(waiting, self._stream.share(), self.missing)
                    waiting = []
            if waiting:
                yield TextBatch(waiting, self._stream.share(), self.missing)

    @contextmanager
    def written(self, out: BinaryIO) -> Iterator[Write]:
        with self._stream.writing(out) as target:
            begun = False

            def write(batch: TextBatch, numbers: Sequence[int]) -> None:
                nonlocal begun
                if numbers:
                    before = self.joint if begun else self.opening
                    begun = True
                    target.write(before + self.joint.join([batch.raw[number] for number in numbers]))

            yield write
            target.write((b"" if begun else self.opening) + self.closing)
