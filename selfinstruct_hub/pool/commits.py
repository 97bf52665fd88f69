"""A small file beside the pool that knows how often it was written.

SQLite takes a write-ahead log that was cut or removed for one that ends there, and says nothing. So every
transaction counts itself in the pool, and the count is written down here after it is on disk: a pool that has
counted less than this file has lost what it had stored.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

SUFFIX = "-commits"
# A fact of the pool that counts its transactions. What opens a pool reads it; see `file.PoolFile`.
META = "commits"
COUNT = (
    f"INSERT INTO meta VALUES ('{META}', '1')"
    " ON CONFLICT (key) DO UPDATE SET value = CAST(CAST(value AS INTEGER) + 1 AS TEXT)"
)
_WIDTH = 20  # digits: the file is overwritten in place and never changes its size


def file_of(pool: Path) -> Path:
    """Where the count of the pool at `pool` is written down."""
    return pool.with_name(f"{pool.name}{SUFFIX}")


def told(pool: Path) -> int | None:
    """The count that was written down last; None where there is no file, or one that a power cut has spoilt: it
    is written without waiting for the disk."""
    try:
        text = file_of(pool).read_bytes()[: _WIDTH + 1]
    except OSError:
        return None
    return int(text) if text.strip().isdigit() else None


class Tally:
    """Writes the count down, into the same place of a file that stays open."""

    def __init__(self, pool: Path) -> None:
        self._path = file_of(pool)
        self._file: int | None = None

    def write(self, count: int) -> None:
        """Call after the transaction is on disk. Where the file cannot be written it stays behind, which is no
        mistake: what is stored is stored, and a pool may be ahead of it."""
        with suppress(OSError):
            if self._file is None:
                self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644)
            os.lseek(self._file, 0, os.SEEK_SET)
            os.write(self._file, f"{count:0{_WIDTH}d}\n".encode())

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
