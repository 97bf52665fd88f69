"""Bytes of one file: plain or compressed with gzip, on disk or through a pipe. Knows nothing of rows."""

from __future__ import annotations

import gzip
import io
import stat
import sys
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePath
from typing import BinaryIO, cast

from selfinstruct_hub.datafiles.parts import failed
from selfinstruct_hub.errors import DataFileError

STDIN = Path("-")
_GZIP = b"\x1f\x8b"
_PEEKED = 65_536


class Stream:
    """A file that can be looked at before it is read. A pipe is opened once, because it cannot be read again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = "standard input" if path == STDIN else str(path)
        self.size = 0
        self._pipe: io.BufferedReader | None = None
        self._own_pipe: io.BufferedReader | None = None  # to be closed, as standard input is not
        self._under: io.BufferedReader | None = None
        self.compressed = False
        try:
            if path == STDIN:
                if sys.stdin is None or sys.stdin.closed:
                    raise DataFileError("standard input is closed; name a file to read")
                self._pipe = cast(io.BufferedReader, sys.stdin.buffer)
            elif stat.S_ISREG((found := path.stat()).st_mode):
                self.size = found.st_size
            else:
                self._pipe = self._own_pipe = path.open("rb")
        except OSError as error:
            raise failed(self.name, error) from None

    @property
    def seekable(self) -> bool:
        """Whether it is a file on disk."""
        return self._pipe is None

    def head(self) -> bytes:
        """The first bytes, decompressed, as many as come at once."""
        try:
            with self._opened() as file:
                peek = cast(io.BufferedReader, file).peek
                return peek(_PEEKED)
        except (OSError, EOFError, zlib.error) as error:
            raise failed(self.name, error) from None

    @contextmanager
    def reading(self) -> Iterator[BinaryIO]:
        """The bytes, decompressed. What goes wrong while they are read is raised as DataFileError."""
        try:
            with self._opened() as file:
                yield file
        except (OSError, EOFError, zlib.error) as error:
            raise failed(self.name, error) from None
        finally:
            if self._own_pipe is not None:
                self._own_pipe.close()

    def share(self) -> float | None:
        """How much has been read, 0 to 1."""
        return self._under.tell() / self.size if self._under is not None and self.size else None

    @contextmanager
    def writing(self, out: BinaryIO) -> Iterator[BinaryIO]:
        """`out`, compressed where what is read is."""
        if not self.compressed:
            yield out
            return
        # Without name and time: the same rows become the same bytes.
        with gzip.GzipFile("", "wb", 6, out, mtime=0) as packed:
            yield cast(BinaryIO, packed)

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        with ExitStack() as stack:
            file = self._pipe
            if file is None:
                file = self._under = stack.enter_context(self.path.open("rb"))
                stack.callback(setattr, self, "_under", None)
            if isinstance(self._pipe, gzip.GzipFile) or file.peek(2)[:2] != _GZIP:
                yield cast(BinaryIO, file)
                return
            self.compressed = True
            packed = cast(io.BufferedReader, gzip.GzipFile(fileobj=file, mode="rb"))
            if self._pipe is not None:
                self._pipe = packed  # what is looked at now is read from here later
            yield cast(BinaryIO, packed)


def bare_name(name: str) -> tuple[str, str]:
    """A file's name without its extension, and that: ("tasks", ".jsonl.gz")."""
    path = PurePath(name)
    if path.suffix.lower() == ".gz":
        return PurePath(path.stem).stem, PurePath(path.stem).suffix + path.suffix
    return path.stem, path.suffix
