"""What every kind of file looks like to its reader: parts, which are read in batches and written again in pieces.

A file is one part; a folder has one for each of its files. No format has its rules here, and nothing is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

from selfinstruct_hub.errors import DataFileError


@dataclass(frozen=True)
class Unusable:
    """Stands for a value, or for a whole row, that is not there: `reason` is why, in words for the user."""

    reason: str


class Batch(Protocol):
    """Some rows in the order they stand. Rows are numbered from 0 within it."""

    @property
    def places(self) -> Sequence[str]:
        """Where each row stands: "line 12", "row 12", "test, row 12"."""

    @property
    def columns(self) -> Sequence[str]:
        """The columns that any of the rows has, those of the first row first."""

    @property
    def share(self) -> float | None:
        """How much of its part is read with it, 0 to 1; None for a pipe."""

    def values(self, column: str) -> list[Any]:
        """The column's value in every row, Unusable where there is none."""

    def rows(self, numbers: Sequence[int]) -> list[Mapping[str, Any]]:
        """These rows as they are, by column."""


# Writes those rows of a batch whose numbers are given, in ascending order.
Write = Callable[[Any, Sequence[int]], None]


class Part(Protocol):
    """One file. `relative` is its place below the folder that it is part of, empty where there is none; `size` are
    its bytes, 0 where they are not known, and `compressed` says that it is gzipped."""

    relative: str
    size: int
    compressed: bool

    @property
    def place(self) -> str:
        """What messages call it."""

    def batches(self, rows: int) -> Any:
        """An iterator over batches of so many rows; each part is read once. Raises DataFileError."""

    def written(self, out: BinaryIO) -> AbstractContextManager[Write]:
        """Writes a part of the same kind to `out`, while `batches` goes on; whole when the context ends."""


def failed(place: object, error: BaseException) -> DataFileError:
    """What is raised where a library or the system cannot read: its own words, in one line."""
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return DataFileError(f"{place}: cannot be read ({' '.join(str(said).split())[:200]})")
