"""What a path is: which kind of file, by what it begins with and what it is called; which files of a folder.

Nothing is read beyond a file's first bytes.
"""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Sequence
from pathlib import Path

from selfinstruct_hub.datafiles.array import JsonArray
from selfinstruct_hub.datafiles.jsonl import JsonLines
from selfinstruct_hub.datafiles.parts import Part, failed
from selfinstruct_hub.datafiles.separated import Separated
from selfinstruct_hub.datafiles.streams import STDIN, Stream, bare_name
from selfinstruct_hub.datafiles.tables import ParquetPart
from selfinstruct_hub.errors import DataFileError

JSONL, JSON, CSV, PARQUET = "JSON Lines", "JSON", "CSV", "Parquet"
# As `datasets` calls and orders the splits that it knows by a file's name.
_SPLITS = (("train", "training"), ("validation", "valid", "val", "dev"), ("test", "testing", "eval", "evaluation"))
_EXPECTED = "expected JSON Lines, a JSON array, CSV, TSV, Parquet, or a folder of such files or of save_to_disk"
_EXTENSIONS = {
    **dict.fromkeys((".jsonl", ".ndjson"), JSONL),
    ".json": JSON,
    **dict.fromkeys((".csv", ".tsv"), CSV),
    **dict.fromkeys((".parquet", ".pq"), PARQUET),
}


def kind_named(name: str) -> tuple[str | None, str, bool]:
    """What a file's name says: the kind, the extension that says so, and whether it is gzipped."""
    extension = bare_name(name)[1].lower()
    plain = extension.removesuffix(".gz")
    return _EXTENSIONS.get(plain), plain, plain != extension


def file_of(path: Path, relative: str = "") -> tuple[str, Part]:
    """The kind of the file `path` and its part. Raises DataFileError for what is none of them."""
    stream = Stream(path)
    kind, extension, _ = kind_named(path.name)
    head = stream.head()
    if head.startswith(b"PAR1") or kind == PARQUET:
        if not stream.seekable or stream.compressed:
            raise DataFileError(f"{stream.name}: Parquet must be a file on disk, not a pipe and not gzipped")
        return PARQUET, ParquetPart(path, relative)
    if kind == CSV:
        return CSV, Separated(stream, relative, separator="\t" if extension == ".tsv" else None)
    begins = head.removeprefix(codecs.BOM_UTF8).lstrip()[:1]
    if begins == b"[":
        return JSON, JsonArray(stream, relative)
    if kind is None and path != STDIN and begins != b"{":
        raise DataFileError(f"{stream.name}: {_EXPECTED}; a file's extension or its first bytes say which")
    return JSONL, JsonLines(stream, relative)


def files_of(folder: Path) -> tuple[str, Sequence[Part]]:
    """The kind of the data files in `folder` and below, and the files: by split, then by name.

    All are of one kind. JSON beside others is metadata, as `datasets` has it; what is hidden stays out. Raises
    DataFileError where there are none, or several kinds.
    """
    found: dict[str, list[str]] = {}
    try:
        for name in _names_below(folder):
            if kind := kind_named(name)[0]:
                found.setdefault(kind, []).append(name)
    except OSError as error:
        raise failed(folder, error) from None
    if len(found) > 1:
        found.pop(JSON, None)
    if len(found) != 1:
        said = f"holds {' and '.join(sorted(found))} files" if found else "holds no data files"
        raise DataFileError(f"{folder}: {said}; {'name one of them' if found else _EXPECTED}")
    parts = [file_of(folder / name, name) for name in sorted(*found.values(), key=_order)]
    return parts[0][0], [part for _, part in parts]


def _names_below(folder: Path) -> list[str]:
    names = []
    for where, folders, files in os.walk(folder, onerror=_raised):
        folders[:] = [name for name in folders if not name.startswith(".")]
        names += [os.path.relpath(Path(where, name), folder) for name in files if not name.startswith(".")]
    return names


def _raised(error: OSError) -> None:
    raise error


def _order(name: str) -> tuple[int, str]:
    """Training rows first, so that what a test set shares with them is dropped there."""
    words = set(re.split(r"[^a-z]+", name.lower()))
    splits = [place for place, known in enumerate(_SPLITS) if words & set(known)]
    return (splits[-1] if splits else len(_SPLITS)), name
