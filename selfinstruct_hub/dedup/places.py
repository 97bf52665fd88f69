"""Where `dedup` writes: the kept rows and the dropped ones, checked before a row is read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from selfinstruct_hub.datafiles import DataFile, bare_name
from selfinstruct_hub.datafiles.kinds import kind_named
from selfinstruct_hub.datafiles.outputs import Output, is_pipe, is_stdout
from selfinstruct_hub.datafiles.streams import STDIN
from selfinstruct_hub.errors import DataFileError

_DROPPED = ".dropped.jsonl"


def check_beside(path: Path, out: Path | None) -> None:
    """Raises DataFileError where `path` is a pipe and nobody says where to write. Before it is looked at: that
    would wait for what comes."""
    if out is None and is_pipe(path):
        name = "standard input" if path == STDIN else path
        raise DataFileError(f"{name}: has no place beside it; name one with --out (-: standard output)")


def places(data: DataFile, out: Path | None, against: Sequence[Path], *, overwrite: bool) -> tuple[Output, Output]:
    """The outputs for kept rows and for dropped ones. Raises DataFileError where they cannot or should not be
    written."""
    piped = is_pipe(data.path)
    beside = Path("rows.jsonl") if piped else _named(data.path)
    stem, extension = (beside.name, "") if data.folder else bare_name(beside.name)
    if out is None:
        out = beside.with_name(f"{stem}.kept{extension}")
    if is_pipe(out):
        if data.folder or data.kind == "Parquet":
            what = "a folder" if data.folder else data.kind
            raise DataFileError(f"--out {out}: {what} cannot go through a pipe; name a place")
        dropped = beside.with_name(stem + _DROPPED)
    else:
        out = _named(out)
        dropped = out.with_name((out.name if data.folder else bare_name(out.name)[0]) + _DROPPED)
    outputs = Output(out, folder=data.folder), Output(dropped)
    if not data.folder and not is_pipe(out):
        _check_name(out, data)
    for other in against if piped else (data.path, *against):
        for path in (out, dropped):
            _check_apart(path, other)
    if not is_pipe(out) and os.path.realpath(out) == os.path.realpath(dropped):
        raise DataFileError(f"--out {out}: the dropped rows go there; name another place")
    for output in outputs:
        output.check(overwrite=overwrite)
    return outputs


def _named(path: Path) -> Path:
    """`path` with the name that "." and ".." stand for."""
    return path if path.name not in ("", "..") else path.resolve()


def _check_name(out: Path, data: DataFile) -> None:
    """Raises DataFileError where `out` is called what it will not be: rows are written as they were."""
    (part,) = data.parts
    kind, extension, compressed = kind_named(out.name)
    own_kind, own_extension, _ = kind_named(data.path.name)
    alike = extension == own_extension or (
        kind == (own_kind or data.kind) and ".tsv" not in (extension, own_extension)
    )
    if kind is not None and not (alike and compressed == part.compressed):
        form = f"{data.kind}{', gzipped' if part.compressed else ''}"
        raise DataFileError(f"--out {out}: what is written is {form} as FILE is; name it so")


def _check_apart(written: Path, read: Path) -> None:
    """Raises DataFileError where one of both is the other, or lies in it."""
    if is_stdout(written) or read == STDIN:
        return
    one, other = Path(os.path.realpath(written)), Path(os.path.realpath(read))
    same = written.exists() and read.exists() and written.samefile(read)  # also by a hard link
    if same or one == other:
        raise DataFileError(f"{written}: is read, and cannot be written over; name another place with --out")
    if other in one.parents or one in other.parents:
        raise DataFileError(
            f"{written}: lies in what is read, or the other way round; name another place with --out"
        )
