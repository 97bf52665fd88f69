"""CSV and TSV: the csv module says where a record ends and what its fields are; its bytes stay as they stood."""

from __future__ import annotations

import codecs
import csv
from collections import Counter
from collections.abc import Iterator
from typing import Any, BinaryIO

from selfinstruct_hub.datafiles.parts import Unusable
from selfinstruct_hub.datafiles.streams import Stream
from selfinstruct_hub.datafiles.texts import TextPart, TextRow
from selfinstruct_hub.errors import DataFileError

# The csv module stops at 131,072 characters unless told otherwise. One field of more than this is a quotation mark
# that was never closed, and would otherwise take in the rest of the file.
_LONGEST_FIELD = 2**26
_SEPARATORS = (",", ";", "\t")


class Separated(TextPart):
    """A file with a line of column names and records below it. Blank lines are no rows."""

    missing = "is missing: the record has fewer fields than there are columns"

    def __init__(self, stream: Stream, relative: str = "", *, separator: str | None = None) -> None:
        super().__init__(stream, relative)
        self._separator = separator

    def _read(self, file: BinaryIO) -> Iterator[TextRow]:
        before = csv.field_size_limit(_LONGEST_FIELD)
        try:
            yield from self._records(file)
        finally:
            csv.field_size_limit(before)

    def _records(self, file: BinaryIO) -> Iterator[TextRow]:
        lines = _Lines(file)
        records = csv.reader(lines, delimiter=self._separator or _found(lines.first), strict=True)
        names: list[str] | None = None
        while True:
            begins = lines.number + 1
            value: list[str] | Unusable
            try:
                value = next(records)
            except StopIteration:
                break
            except csv.Error as error:
                value = Unusable(f"not valid CSV ({_said(error)})")
            except UnicodeDecodeError:
                raise DataFileError(
                    f"{self.place}, line {lines.number}: not UTF-8 text; save the file as UTF-8"
                ) from None
            raw = lines.taken()
            if value == []:
                continue
            if names is None:
                if isinstance(value, Unusable):
                    raise DataFileError(f"{self.place}, line {begins}: {value.reason}; expected column names")
                names, self.opening = _named_apart(value), raw
                continue
            yield TextRow(f"{self._prefix}line {begins}", raw, _fields(names, value))
        if names is None:
            raise DataFileError(f"{self.place}: empty; expected a line of column names")


class _Lines:
    """The lines of a file as texts, of which the bytes are kept until they are taken."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._raw: list[bytes] = []
        self.first = file.readline()
        self._waiting = self.first
        self.number = 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line, self._waiting = self._waiting or self._file.readline(), b""
        if not line:
            raise StopIteration
        self._raw.append(line)
        self.number += 1
        return (line.removeprefix(codecs.BOM_UTF8) if self.number == 1 else line).decode()

    def taken(self) -> bytes:
        """The bytes of the lines since the last time."""
        raw = b"".join(self._raw)
        self._raw.clear()
        return raw


def _found(header: bytes) -> str:
    """What separates the columns: the first of these that the line of their names has."""
    return next((separator for separator in _SEPARATORS if separator.encode() in header), ",")


def _named_apart(names: list[str]) -> list[str]:
    """The names of columns, those that come again with a number: no value of a row may hide another."""
    seen: Counter[str] = Counter()
    found = []
    for name in names:
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return found


def _fields(names: list[str], value: list[str] | Unusable) -> dict[str, Any] | Unusable:
    if isinstance(value, Unusable):
        return value
    if len(value) > len(names):
        return Unusable(f"{len(value)} fields, but {len(names)} columns; put fields with separators into quotes")
    return dict(zip(names, value, strict=False))


def _said(error: csv.Error) -> str:
    said = str(error)
    if "field limit" in said or said == "unexpected end of data":
        return "a quotation mark is never closed"
    return said.partition(" - ")[0]
