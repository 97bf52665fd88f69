"""Commands of the tool in processes of their own, without waiting for its imports every time.

huggingface_hub reads HF_ENDPOINT once, when it is imported, so a command that is to ask the Hub of a test needs a
process that was started for it. One such process imports everything and then forks for every command: the forks
are as real as a command typed by hand, and can be killed like one.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_WHEN_KILLED = -signal.SIGKILL


@dataclass(frozen=True)
class Done:
    """What a command left."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one line of an error."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.err
        return lines[0].removeprefix("error: ")


class Commands:
    """Runs commands one after the other."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self._process = process
        self._folder = folder

    def __call__(self, *arguments: str | Path, **environment: str) -> Done:
        """Runs a command to its end."""
        self.start(*arguments, **environment)
        return self.wait()

    def start(self, *arguments: str | Path, **environment: str) -> int:
        """Starts a command; returns its process id."""
        asked = {"arguments": [str(a) for a in arguments], "environment": environment, "folder": str(self._folder)}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return int(self._answer()["pid"])

    def wait(self) -> Done:
        """The end of the command that was started."""
        code = self._answer()["code"]
        out, err = ((self._folder / name).read_text(encoding="utf-8") for name in ("out", "err"))
        assert "Traceback" not in err, err
        return Done(code, out, err)

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the process that forks has ended"
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def commands(environment: dict[str, str]) -> Iterator[Commands]:
    """Commands whose processes begin with `environment`."""
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "tests.support.hub.commands"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[3],
            env={**environment, "COLUMNS": "120", "NO_COLOR": "1"},
        ) as process,
    ):
        try:
            yield Commands(process, Path(folder))
        finally:
            process.kill()


def _fork(asked: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        folder = Path(asked["folder"])
        for number, file in ((0, "/dev/null"), (1, folder / "out"), (2, folder / "err")):
            os.dup2(os.open(file, os.O_RDWR | os.O_CREAT | os.O_TRUNC), number)
        os.environ.update(asked["environment"])
        sys.argv = ["selfinstruct-hub", *asked["arguments"]]
        os.chdir("/")
        from selfinstruct_hub.cli import main

        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _serve() -> None:
    # What the commands import only when they need it is imported once here, too.
    import huggingface_hub._upload_large_folder
    import huggingface_hub.hf_api  # noqa: F401

    import selfinstruct_hub.cli
    import selfinstruct_hub.difference
    import selfinstruct_hub.hub.connection
    import selfinstruct_hub.hub.pull
    import selfinstruct_hub.hub.push
    import selfinstruct_hub.show.publishing

    # A pause is said as it is and lasts a twentieth of it.
    defaults = selfinstruct_hub.hub.connection.Connection.__init__.__kwdefaults__
    assert defaults is not None
    defaults["pause"] = lambda seconds: time.sleep(seconds / 20)

    for line in sys.stdin:
        pid = _fork(json.loads(line))
        print(json.dumps({"pid": pid}), flush=True)
        _, status = os.waitpid(pid, 0)
        print(json.dumps({"code": os.waitstatus_to_exitcode(status), "at": time.time()}), flush=True)


if __name__ == "__main__":
    _serve()
