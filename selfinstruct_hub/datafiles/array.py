"""One JSON array of objects, read object by object; those that stay become an array again, each as it stood."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from selfinstruct_hub.datafiles.jsonl import checked
from selfinstruct_hub.datafiles.parts import Unusable
from selfinstruct_hub.datafiles.texts import TextPart, TextRow
from selfinstruct_hub.errors import DataFileError

_BLANKS = re.compile(r"[ \t\r\n]*")
_CHUNK = 2**20
# What the decoder complains of so near the end of what was read may be right with more.
_NEAR = 16


class JsonArray(TextPart):
    """A file that is one array. White space around its objects stays, so indented files stay indented."""

    joint = b","

    def _read(self, file: BinaryIO) -> Iterator[TextRow]:
        text = _Text(file, self.place)
        text.expect("[")
        self.opening = (codecs.BOM_UTF8 if text.marked else b"") + b"["
        number = 0
        while True:
            blanks = text.blanks()
            if not number and text.next() == "]":
                break
            number += 1
            place = f"{self._prefix}row {number}"
            value, raw = text.value(place)
            yield TextRow(place, (blanks + raw).encode("utf-8", "surrogatepass"), value)
            blanks = text.blanks()
            if text.next() == "]":
                break
            text.expect(",", f"{place}: ")
        text.expect("]")
        self.closing = (blanks + "]" + text.blanks()).encode()
        if text.next():
            raise DataFileError(f"{self.place}: something follows behind the array; expected one array of objects")


class _Text:
    """The text of a file, of which only what is being read is held."""

    def __init__(self, file: BinaryIO, place: str) -> None:
        self._file = file
        self._place = place
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._json = json.JSONDecoder()
        self._held = ""
        self._at = 0
        self._ended = False
        self._more()
        self.marked = self._held.startswith("\ufeff")
        self._at = int(self.marked)

    def next(self) -> str:
        """The next character, or nothing at the end."""
        while self._at == len(self._held) and self._more():
            pass
        return self._held[self._at : self._at + 1]

    def blanks(self) -> str:
        """The white space that comes next, taken."""
        found = []
        while True:
            match = _BLANKS.match(self._held, self._at)
            assert match
            found.append(match[0])
            self._at = match.end()
            if self._at < len(self._held) or not self._more():
                return "".join(found)

    def expect(self, character: str, where: str = "") -> None:
        """Takes `character`, after white space."""
        self.blanks()
        if self.next() != character:
            raise self._broken(where, f"expected `{character}`")
        self._at += 1

    def value(self, place: str) -> tuple[dict[str, Any] | Unusable, str]:
        """The fields of the object that comes next, and its text."""
        size = _CHUNK
        while True:
            try:
                found, end = self._json.raw_decode(self._held, self._at)
            except json.JSONDecodeError as problem:
                unfinished = problem.msg.startswith("Unterminated") or problem.pos >= len(self._held) - _NEAR
                if unfinished and self._more(size):
                    size *= 2  # a long object is not read anew for every piece of it
                    continue
                raise self._broken(f"{place}: ", problem.msg) from None
            except (ValueError, RecursionError):
                raise self._broken(f"{place}: ", "a value in it cannot be read") from None
            # A number or a literal may go on.
            if end == len(self._held) and self._more(size):
                continue
            raw, self._at = self._held[self._at : end], end
            return checked(found), raw

    def _more(self, size: int = _CHUNK) -> bool:
        """Reads on; false at the end of the file."""
        if self._ended:
            return False
        chunk = self._file.read(size)
        self._ended = not chunk
        try:
            text = self._decoder.decode(chunk, final=self._ended)
        except UnicodeDecodeError:
            raise DataFileError(f"{self._place}: not UTF-8 text; save the file as UTF-8") from None
        self._held = self._held[self._at :] + text
        self._at = 0
        return not self._ended

    def _broken(self, where: str, said: str) -> DataFileError:
        if not self.next():
            said = "the file ends in the middle of it"
        return DataFileError(
            f"{self._place}, {where}not valid JSON ({said}); expected one array of objects"
            if where
            else f"{self._place}: not valid JSON ({said}); expected one array of objects"
        )
