"""Where a file is written: a file that appears whole, a device or a pipe, standard output.

Always UTF-8 with "\\n", whatever the locale says. What cannot be written to is said in one line. No format has its
rules here, and nothing is read.
"""

from __future__ import annotations

import io
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TextIO

from selfinstruct_hub.errors import FormatError

STDOUT = Path("-")
_MOST_LINKS = 40  # that lead from one to another, as the kernel counts


@contextmanager
def opened(path: Path, *, overwrite: bool = False) -> Iterator[TextIO]:
    """`path` for writing, STDOUT for standard output.

    A file is written beside its place and moved there whole; where a link leads to it, the link stays. What is
    no file (a device, a pipe) is written into, and so is an open descriptor (/dev/stdout, /dev/fd/3). Raises
    FormatError where a file exists (unless `overwrite`) or cannot be written; BrokenPipeError passes, because a
    reader that goes away is the caller's to judge.
    """
    name = "standard output" if path == STDOUT else str(path)
    try:
        with _place(path, overwrite) as out:
            yield out
            out.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise FormatError(f"{name}: cannot be written ({error.strerror or error})") from None


def _place(path: Path, overwrite: bool) -> AbstractContextManager[TextIO]:
    number = None if path == STDOUT else _descriptor(path)
    if path == STDOUT or number == 1:
        return _stdout()
    if number is not None:
        return _text(os.dup(number))
    try:
        kind = path.stat().st_mode
    except FileNotFoundError:
        return _replaced(path)
    if not stat.S_ISREG(kind):
        return _text(os.open(path, os.O_WRONLY))
    if not overwrite:
        raise FormatError(f"{path}: exists already; name another file, or overwrite it with --force")
    return _replaced(path)


def _text(descriptor: int) -> TextIO:
    return os.fdopen(descriptor, "w", encoding="utf-8", newline="\n")


@contextmanager
def _replaced(path: Path) -> Iterator[TextIO]:
    """The file that `path` or its links lead to, which is there whole or stays as it was."""
    place = Path(os.path.realpath(path))
    unfinished = place.with_name(f".{place.name}.unfinished")
    try:
        with unfinished.open("w", encoding="utf-8", newline="\n") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        unfinished.replace(place)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


@contextmanager
def _stdout() -> Iterator[TextIO]:
    if sys.stdout is None or sys.stdout.closed:
        raise FormatError("standard output is closed; name a file to write")
    sys.stdout.flush()
    try:
        number = os.dup(sys.stdout.fileno())
    except io.UnsupportedOperation:  # something in memory stands in for it
        if not hasattr(sys.stdout, "buffer"):
            yield sys.stdout  # and holds characters
            return
        out = io.TextIOWrapper(sys.stdout.buffer, encoding="utf-8", newline="\n")
        try:
            yield out
        finally:
            out.detach()
    else:
        # On a descriptor of our own, what cannot be written does not stay behind in sys.stdout, where Python would
        # complain about it once more at exit.
        with _text(number) as own:
            yield own


def _descriptor(path: Path) -> int | None:
    """The number of our open descriptor that `path` is a name of (/dev/stdout, /dev/fd/63), or None. Opened by its
    name, a file that others write to as well would be written over from its start."""
    for _ in range(_MOST_LINKS):
        if path.name.isdecimal() and os.path.realpath(path.parent) in ("/dev/fd", f"/proc/{os.getpid()}/fd"):
            return int(path.name)
        if not path.is_symlink():
            return None
        path = path.parent / path.readlink()
    return None
