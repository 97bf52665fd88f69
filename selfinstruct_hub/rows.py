"""Reads a JSONL file or a JSON array into numbered rows, and typed fields out of a row.

Whatever is wrong is said in one line that names file, row and field; the caller chooses the class of the error.
Knows nothing of instructions or of any format, and reads nothing but the one file. A `Value` may come from
elsewhere too.
"""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfinstruct_hub.errors import SelfInstructError

_KINDS: dict[type, str] = {
    str: "a text",
    list: "a list",
    dict: "an object",
    bool: "true or false",
    int: "a number",
    float: "a number",
    type(None): "null",
}


def kind(value: Any) -> str:
    """What a value is, as our messages call it; what no JSON holds is called by its type."""
    return _KINDS.get(type(value), f"a value of type {type(value).__name__}")


def shown(text: str) -> str:
    """A text that a file made up (a key, a role), fit for one line of ours."""
    cut = text if len(text) <= 40 else text[:39] + "…"
    return "".join(c if c.isprintable() else "?" for c in cut)


@dataclass(frozen=True)
class Value:
    """A single value, the `place` where it stands ("FILE, line 17, field `name`") and what is raised about it."""

    value: Any
    place: str
    error: type[SelfInstructError]

    def of(self, wanted: type) -> Any:
        """The value, which must be of the kind that our messages call `wanted`: any number is a float."""
        if kind(self.value) != _KINDS[wanted]:
            raise self.error(f"{self.place}: expected {_KINDS[wanted]}, found {kind(self.value)}")
        return self.value

    def text(self) -> str:
        """A text, exactly as it stands; it may be empty."""
        value: str = self.of(str)
        if _half_character(value):
            raise self.half()
        return value

    def filled(self) -> str:
        """A text without the blanks around it, and not empty."""
        value = self.text().strip()
        if not value:
            raise self.error(f"{self.place}: empty; expected a text")
        return value

    def half(self) -> SelfInstructError:
        """What to raise of a value that holds half a character."""
        return self.error(f"{self.place}: holds half a character (a lone surrogate); write the whole one")


@dataclass(frozen=True)
class Fields:
    """The fields of one object, `where` it stands ("FILE, line 17") and what is raised about them."""

    values: Mapping[str, Any]
    where: str
    error: type[SelfInstructError]

    def text(self, name: str) -> str:
        """A text, exactly as it stands; it may be empty."""
        return self._value(name, str).text()

    def filled(self, name: str) -> str:
        """A text without the blanks around it, and not empty."""
        return self._value(name, str).filled()

    def listed(self, name: str) -> list[Any]:
        found: list[Any] = self._value(name, list).of(list)
        return found

    def objects(self, name: str, holding: str) -> list[Fields]:
        """A list of objects; `holding` says in a message what belongs in them."""
        found = []
        for number, value in enumerate(self.listed(name)):
            where = self._place(f"{name}[{number}]")
            if not isinstance(value, dict):
                raise self.error(f"{where}: expected an object with {holding}, found {kind(value)}")
            found.append(Fields(value, where, self.error))
        return found

    def mapping(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self._value(name, dict).of(dict)
        return found

    def truth(self, name: str) -> bool:
        found: bool = self._value(name, bool).of(bool)
        return found

    def number(self, name: str) -> int | float:
        found: int | float = self._value(name, float).of(float)
        return found

    def check_writable(self) -> None:
        """Raises for what the fields nobody asked for hold and no JSON file can: half a character, NaN."""
        try:
            json.dumps(self.values, ensure_ascii=False, allow_nan=False).encode()
        except UnicodeEncodeError:
            name = next(name for name, value in self.values.items() if _half_character([name, value]))
            raise Value(self.values[name], self._place(shown(name)), self.error).half() from None
        except ValueError:
            raise self.error(f"{self.where}: holds NaN or Infinity, which are no JSON numbers") from None
        except RecursionError:
            raise self.error(f"{self.where}: nested too deeply") from None

    def _value(self, name: str, wanted: type) -> Value:
        if name not in self.values:
            raise self.error(f"{self.where}: field `{name}` is missing; expected {_KINDS[wanted]}")
        return Value(self.values[name], self._place(name), self.error)

    def _place(self, name: str) -> str:
        return f"{self.where}, field `{name}`"


@dataclass(frozen=True)
class Row:
    """One row of a file: its `value`, or why it has none (`broken`). `place` reads "line 17" in JSONL and
    "row 17" in an array."""

    path: Path
    place: str
    value: Any = None
    broken: str = ""

    def fields(self, error: type[SelfInstructError]) -> Fields:
        """The row's fields. Raises `error` where the row is no JSON object."""
        where = f"{self.path}, {self.place}"
        if self.broken:
            raise error(f"{where}: {self.broken}")
        if not isinstance(self.value, dict):
            raise error(f"{where}: expected a JSON object, found {kind(self.value)}")
        return Fields(self.value, where, error)


@dataclass(frozen=True)
class RowFile:
    """The rows of a file in order, and the SHA-256 of its bytes; `array` says that the file is one JSON array."""

    array: bool
    rows: tuple[Row, ...]
    sha256: str


def read(path: Path, error: type[SelfInstructError], *, what: str = "a row") -> RowFile:
    """The rows of `path`: JSON Lines, or one JSON array where the content is one. Blank lines are no rows.

    A line that is broken becomes a broken row, so that a caller may go on without it; `what` names there what
    it should have been. Raises `error` for a file that cannot be read at all: no UTF-8, a broken array.
    """
    try:
        content = path.read_bytes()  # once: a pipe cannot be read again
    except OSError as problem:
        raise error(f"{path}: cannot be read ({problem.strerror})") from None
    sha256 = hashlib.sha256(content).hexdigest()
    raw = content.removeprefix(codecs.BOM_UTF8)
    try:
        text = raw.decode()
    except UnicodeDecodeError as problem:
        broken = raw[: problem.start].count(b"\n") + 1
        raise error(f"{path}, line {broken}: not UTF-8 text; save the file as UTF-8") from None
    # Only "\n" ends a JSONL line; str.splitlines would also break at U+2028 inside a text.
    lines = text.split("\n")
    if text.lstrip().startswith("["):
        values = _array(path, text, lines, error)
        if values is not None:
            found = tuple(Row(path, f"row {n}", value) for n, value in enumerate(values, start=1))
            return RowFile(True, found, sha256)
    numbered = ((number, line) for number, line in enumerate(lines, start=1) if line.strip())
    return RowFile(False, tuple(_line(path, number, line, what) for number, line in numbered), sha256)


def _array(path: Path, text: str, lines: list[str], error: type[SelfInstructError]) -> list[Any] | None:
    """The rows of a file that is one array; None where it is JSONL that begins with a list."""
    try:
        values: list[Any] = json.loads(text)
        return values
    except json.JSONDecodeError as problem:
        first = next(line for line in lines if line.strip())
        try:
            json.loads(first)
        except (ValueError, RecursionError):
            raise error(
                f"{path}, line {problem.lineno}: not valid JSON ({problem.msg} at column {problem.colno}); "
                "expected one array of objects"
            ) from None
        return None
    except (ValueError, RecursionError):  # a number of thousands of digits, nesting without end
        raise error(f"{path}: not an array of objects (a value in it cannot be read)") from None


def _line(path: Path, number: int, line: str, what: str) -> Row:
    place = f"line {number}"
    try:
        return Row(path, place, json.loads(line))
    except json.JSONDecodeError as problem:
        said = f"not valid JSON ({problem.msg} at column {problem.colno}); expected one object a line"
    except (ValueError, RecursionError):
        said = f"not {what} (a value in it cannot be read)"
    return Row(path, place, broken=said)


def _half_character(value: Any) -> bool:
    """Whether a JSON value holds half a character in any of its texts."""
    if isinstance(value, str):
        return not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value)
    if isinstance(value, dict):
        return any(_half_character(part) for pair in value.items() for part in pair)
    return isinstance(value, list) and any(_half_character(part) for part in value)
