"""Anybody's rows: files of JSON Lines, JSON, CSV and Parquet, and folders of `datasets`, read as a stream; chosen
rows written again as they were.

`open_data` finds out what a path is, `texts` gives the texts of its columns. Knows nothing of novelty, and what is
done with a row is not decided here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from selfinstruct_hub.datafiles.columns import USUAL, chosen, text_of, turns_of
from selfinstruct_hub.datafiles.kinds import file_of, files_of
from selfinstruct_hub.datafiles.parts import Batch, Part, Unusable, Write
from selfinstruct_hub.datafiles.saved import Saved, is_saved
from selfinstruct_hub.datafiles.streams import STDIN, bare_name
from selfinstruct_hub.errors import DataFileError

__all__ = [
    "STDIN",
    "USUAL",
    "Batch",
    "DataFile",
    "Part",
    "Unusable",
    "Write",
    "bare_name",
    "chosen",
    "open_data",
    "text_of",
    "texts",
]

# Rows that are held at a time.
BATCH = 4096


@dataclass(frozen=True)
class DataFile:
    """A file or folder of rows. `kind` is what messages call it; `finish` writes what belongs beside the parts of
    a folder."""

    path: Path
    kind: str
    parts: Sequence[Part]
    folder: bool = False
    finish: Callable[[Path], None] = lambda folder: None

    @property
    def size(self) -> int:
        """Bytes, 0 where they are not known."""
        return sum(part.size for part in self.parts)


def open_data(path: Path) -> DataFile:
    """What `path` is ("-": standard input, as JSON). Raises DataFileError, one line, where it is none of them."""
    if path == STDIN or not path.is_dir():
        kind, part = file_of(path)
        return DataFile(path, kind, (part,))
    if is_saved(path):
        saved = Saved(path)
        kind = "DatasetDict" if saved.several else "saved dataset"
        return DataFile(path, kind, saved.parts, True, saved.finish)
    kind, parts = files_of(path)
    return DataFile(path, f"folder of {kind}", parts, True)


def texts(
    path: Path,
    columns: Sequence[str] = (),
    *,
    lenient: bool = False,
    option: str = "--column",
    read: set[str] | None = None,
) -> Iterator[tuple[str, str]]:
    """Each text of `columns` in `path`, row by row, with its place: "line 12", "row 12", "test, row 12".

    Without columns it is the first one of USUAL that the file has; of a list of messages it is the first one of
    the user's, of a list of turns every one. What is null, missing or blank is passed over. `lenient`: columns
    that a file has not count as not named; `option` is where others are named, and `read` is told those
    that are read. Raises DataFileError, one line, for rows that cannot be read and values that are no texts.
    """
    for part in open_data(path).parts:
        names: list[str] | None = None
        for batch in part.batches(BATCH):
            if names is None:
                wanted = [name for name in columns if not lenient or name in batch.columns]
                names = [chosen(batch, part.place, name, option=option) for name in wanted or (None,)]
                if read is not None:
                    read.update(names)
            values = [batch.values(name) for name in names]
            for number, place in enumerate(batch.places):
                for name, of_column in zip(names, values, strict=True):
                    for text in _told(of_column[number], batch, number, f"{path}, {place}", name):
                        if text and not text.isspace():
                            yield place, text


def _told(value: object, batch: Batch, number: int, place: str, name: str) -> Sequence[str]:
    if value is None:
        return ()
    if isinstance(value, Unusable):
        if not batch.rows([number]):
            raise DataFileError(f"{place}: {value.reason}")
        return ()  # the row is sound, and has no such field
    if (turns := turns_of(value)) is not None:
        return turns
    text = text_of(value)
    if isinstance(text, Unusable):
        raise DataFileError(f"{place}, field `{name}`: {text.reason}")
    return (text,)
