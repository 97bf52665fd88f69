"""JSON Lines: one object a line. Only "\\n" ends a line, and a line that is kept is kept byte for byte."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from typing import Any, BinaryIO

from selfinstruct_hub.datafiles.parts import Unusable
from selfinstruct_hub.datafiles.texts import TextPart, TextRow
from selfinstruct_hub.rows import kind


class JsonLines(TextPart):
    """A file of JSON Lines. Blank lines are no rows."""

    def _read(self, file: BinaryIO) -> Iterator[TextRow]:
        for number, line in enumerate(file, start=1):
            if number == 1 and line.startswith(codecs.BOM_UTF8):
                self.opening, line = codecs.BOM_UTF8, line.removeprefix(codecs.BOM_UTF8)
            if line.strip():
                yield TextRow(f"{self._prefix}line {number}", line, _fields(line))


def _fields(line: bytes) -> dict[str, Any] | Unusable:
    try:
        return checked(json.loads(line.decode()))
    except UnicodeDecodeError:
        return Unusable("not UTF-8 text; save the file as UTF-8")
    except json.JSONDecodeError as problem:
        return Unusable(f"not valid JSON ({problem.msg} at column {problem.colno}); expected one object a line")
    except (ValueError, RecursionError):  # a number of thousands of digits, nesting without end
        return Unusable("a value in it cannot be read")


def checked(value: Any) -> dict[str, Any] | Unusable:
    """`value`, if it is the fields of a row."""
    return value if isinstance(value, dict) else Unusable(f"expected a JSON object, found {kind(value)}")
