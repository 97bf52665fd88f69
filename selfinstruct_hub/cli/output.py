"""Standard output and error that take every text, and the entry point, where errors become one line."""

from __future__ import annotations

import io
import os
import sys
from typing import Any

from selfinstruct_hub.cli.choices import LOG_JSON, app, fail, log
from selfinstruct_hub.errors import SelfInstructError


class _Output(io.FileIO):
    """Standard output where it is no terminal. A write that fails is the user's to mend: a full disk."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            # What is left in the buffers goes nowhere, or Python would complain once more at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            if isinstance(error, BrokenPipeError):
                raise
            raise SelfInstructError(f"standard output cannot be written ({error.strerror})") from None


def main() -> None:
    """Entry point: errors that a user can mend become one line and an exit code."""
    log.json = LOG_JSON in sys.argv[1:]  # from the first mistake on, also where it is on the command line
    try:
        open_output()
        try:
            _run()
        finally:
            sys.stdout.flush()
    except SelfInstructError as error:
        fail(str(error), error.exit_code)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader of a pipe went away (`| head`)
        sys.exit(1)


def _run() -> None:
    if not log.json:
        app()
        return
    try:
        code = app(standalone_mode=False)
    except Exception as error:
        # Typer's own mistakes are told in a box otherwise. They have a base class in whichever click it brings.
        if not hasattr(error, "format_message"):
            raise
        fail(error.format_message(), getattr(error, "exit_code", 2))
        code = getattr(error, "exit_code", 2)
    sys.exit(code if isinstance(code, int) else 0)


def open_output() -> None:
    """Makes standard output and error such that every text can be written, whatever the locale: UTF-8 into files
    and pipes, escapes for what a terminal has no characters for."""
    if sys.stderr is None:
        sys.stderr = io.TextIOWrapper(io.FileIO(os.devnull, "w"), write_through=True)
    if sys.stdout is None:
        raise SelfInstructError("standard output is closed; send it to a file, or to /dev/null")
    if not isinstance(sys.stdout, io.TextIOWrapper):
        return
    if sys.stdout.isatty():
        sys.stdout.reconfigure(errors="backslashreplace")
        return
    sys.stdout.flush()
    file = _Output(sys.stdout.fileno(), "wb", closefd=False)
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(file), encoding="utf-8", errors="backslashreplace")
