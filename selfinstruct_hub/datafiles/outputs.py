"""Where rows are written: files and folders that appear whole or not at all, pipes, standard output.

Several outputs appear together. Nothing is read, and no format has its rules here.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast

from selfinstruct_hub.datafiles.saved import DICT, INFO, STATE
from selfinstruct_hub.errors import DataFileError

STDOUT = Path("-")
_STDOUTS = {"/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"}
# What a folder that --force replaces may hold: nobody's notes or programs are deleted with old rows.
_REPLACEABLE = (".arrow", ".parquet", ".pq", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".gz")


def is_stdout(path: Path) -> bool:
    """Whether `path` means standard output."""
    return path == STDOUT or str(path) in _STDOUTS


def is_pipe(path: Path) -> bool:
    """Whether what is written to `path` goes through: standard output, a pipe, a device."""
    try:
        kind = path.stat().st_mode
    except OSError:
        return is_stdout(path)
    return is_stdout(path) or not (stat.S_ISREG(kind) or stat.S_ISDIR(kind))


class Output:
    """One place that is written to: a file, or a `folder` with files below it.

    Everything is written beside the place and moved there at the end; where a link leads to it, the link stays.
    """

    def __init__(self, path: Path, *, folder: bool = False) -> None:
        self.path = path
        self.folder = folder
        self._through = is_pipe(path)
        self._place = Path(os.path.realpath(path))
        self._unfinished = self._place.with_name(f".{self._place.name}.unfinished")
        self._replaced = self._place.with_name(f".{self._place.name}.replaced")

    def check(self, *, overwrite: bool) -> None:
        """Raises DataFileError where nothing can or should be written."""
        if self._through:
            return
        if not self._place.parent.is_dir():
            raise DataFileError(f"{self.path}: cannot be written (there is no folder {self._place.parent})")
        if not self._place.exists():
            return
        if self._place.is_dir() != self.folder:
            found, wanted = ("folder", "file") if self._place.is_dir() else ("file", "folder")
            raise DataFileError(
                f"{self.path}: is a {found}, and what is written is a {wanted}; name another with --out"
            )
        if not overwrite:
            raise DataFileError(
                f"{self.path}: exists already; name another place with --out, or overwrite it with --force"
            )
        if self.folder and (other := _no_data(self._place)):
            raise DataFileError(
                f"{self.path}: holds {other}, which is no data, and --force would delete it; name another place "
                "with --out"
            )

    @contextmanager
    def stream(self, relative: str = "") -> Iterator[BinaryIO]:
        """The file, or the one at `relative` below the folder, to be written."""
        if is_stdout(self.path):
            # On a descriptor of our own, what cannot be written does not stay behind in sys.stdout.
            sys.stdout.flush()
            with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as out:
                yield out
            return
        if self._through:
            with self.path.open("wb") as out:
                yield out
            return
        file = self._unfinished / relative if self.folder else self._unfinished
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("wb") as out:
            yield cast(BinaryIO, out)
            out.flush()
            os.fsync(out.fileno())

    def begin(self) -> None:
        """Makes room. A start that was killed may have left something."""
        self.discard()
        if self.folder:
            self._unfinished.mkdir()

    @property
    def unfinished(self) -> Path:
        """The folder that is written, before it is in its place."""
        return self._unfinished

    def move(self) -> None:
        """Puts what was written into its place."""
        if self._through:
            return
        if self.folder and self._place.exists():  # no folder can be moved onto another
            self._place.rename(self._replaced)
        self._unfinished.replace(self._place)
        _remove(self._replaced)

    def discard(self) -> None:
        """Removes what was not moved. What was to be replaced stays as it was."""
        if self._through:
            return
        if self._replaced.exists() and not self._place.exists():
            self._replaced.rename(self._place)
        _remove(self._unfinished)


@contextmanager
def whole(outputs: Sequence[Output]) -> Iterator[None]:
    """`outputs` while they are written. All of them appear at the end; none where it does not come to that.

    Raises DataFileError for what cannot be written; BrokenPipeError passes, because a reader that goes away is
    the caller's to judge.
    """
    names = ", ".join("standard output" if is_stdout(output.path) else str(output.path) for output in outputs)
    try:
        try:
            for output in outputs:
                output.begin()
            yield
            for output in outputs:
                output.move()
        except BaseException:
            for output in outputs:
                with suppress(OSError):
                    output.discard()
            raise
    except BrokenPipeError:
        raise
    except OSError as error:
        raise DataFileError(f"{names}: cannot be written ({error.strerror or error})") from None


def _no_data(folder: Path) -> str:
    """The name of a file in `folder` that is no data of a dataset, or nothing."""
    for file in sorted(folder.rglob("*")):
        if file.is_dir() and not file.is_symlink():
            continue
        if file.name not in (STATE, INFO, DICT) and file.suffix.lower() not in _REPLACEABLE:
            return file.relative_to(folder).as_posix()
    return ""


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
