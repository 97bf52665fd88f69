"""A process of the tool that a test looks at while it runs: what it has said, and signals when it has come so far.

Nothing here is a matter of time: a test waits for what it needs, and only the patience has an end.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

PATIENCE = 120.0  # seconds, for a machine that does much else


def until(condition: Callable[[], bool]) -> None:
    """Returns when `condition` holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.005)


class Child:
    """`python -m selfinstruct_hub` with these arguments."""

    def __init__(
        self,
        *arguments: str | Path,
        cwd: str | Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "selfinstruct_hub", *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            cwd=cwd,
            env=environment,
        )
        self.output = self.errors = ""
        self._readers = [threading.Thread(target=self._read, args=(name,)) for name in ("stdout", "stderr")]
        for reader in self._readers:
            reader.start()

    def _read(self, name: str) -> None:
        file: IO[str] = getattr(self._process, name)
        for line in file:
            if name == "stdout":
                self.output += line
            else:
                self.errors += line
        file.close()

    @property
    def runs(self) -> bool:
        return self._process.poll() is None

    def says(self, text: str) -> None:
        """Returns when it has said `text` on standard error."""
        self.until(lambda: text in self.errors)

    def until(self, condition: Callable[[], bool]) -> None:
        """Returns when `condition` holds; the test fails where the process has ended and it does not."""
        until(lambda: condition() or not self.runs)
        if not self.runs:
            self._readers[1].join(PATIENCE)
        assert condition(), self.errors

    def send(self, number: int) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """Ends it as nothing can be prepared for."""
        self._process.kill()
        self.end()

    def end(self) -> int:
        """Its exit code, when it has ended; the test fails where it does not."""
        try:
            return self._process.wait(PATIENCE)
        finally:
            self._process.kill()
            self._process.wait()
            for reader in self._readers:
                reader.join(PATIENCE)
