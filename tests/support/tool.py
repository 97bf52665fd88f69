"""The tool as its user meets it: a process with its own output, environment, folder and exit code.

Most of the time that such a process takes goes into imports. So it is forked from one that has done them; its run
is as ever, and so is its end, but that modules are not taken apart. What is read earlier (PYTHONWARNINGS, HF_HOME)
needs an interpreter of its own, and gets one. So do the tests of signals and of closed outputs, which also show
that the imports are complete.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import io
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODULE = "selfinstruct_hub"
LINE = (sys.executable, "-m", MODULE)
IMPORTED = (
    *("cli", "dedup", "doctor", "exchange", "forecast", "hub", "published", "release.contents", "run", "show"),
    *("status", "workspace", "endpoint.detect", "judging.evaluation", "recipes.alpaca", "recipes.self_instruct"),
    *("difference", "hub.pull", "regenerate", "release.verify", "replay", "review", "show.publishing", "top_up"),
)
LIBRARIES = (
    *("importlib.metadata", "jinja2.ext", "pyarrow.dataset", "pydantic.plugin._loader", "rich.live"),
    *("typer.completion", "typer.rich_utils"),
)
_READ_EARLY = ("PYTHON", "HF_", "HUGGINGFACE_", "LC_", "LANG", "LD_", "TZ", "XDG_")
# The encoding is seen to below; PYTHONBREAKPOINT, which Ray sets in the tests' own process, is read when used.
_READ_LATE = {"HF_TOKEN", "PYTHONBREAKPOINT", "PYTHONIOENCODING"}
_OFFLINE = {"HF_HUB_OFFLINE": "1"}
_OURS = {**os.environ, **_OFFLINE}  # before any test changes it

Files = tuple[int, int, int]


def run(
    *arguments: str | Path,
    environment: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
    given: bytes = b"",
    timeout: float = 120,
) -> subprocess.CompletedProcess[str]:
    """`python -m selfinstruct_hub` with these arguments, to its end. `environment` is the whole of it; without it,
    it is the tests' own. The Hub is out of reach unless HF_HUB_OFFLINE says otherwise. Raises TimeoutExpired."""
    (stdin, our_stdin), (our_stdout, stdout), (our_stderr, stderr) = os.pipe(), os.pipe(), os.pipe()
    texts: dict[int, bytes] = {}

    def write() -> None:
        try:
            with os.fdopen(our_stdin, "wb") as file:
                file.write(given)
        except BrokenPipeError:  # it was not read to its end
            pass

    def read(end: int) -> None:
        with os.fdopen(end, "rb") as file:
            texts[end] = file.read()

    threads = [threading.Thread(target=write)]
    threads += [threading.Thread(target=read, args=(end,)) for end in (our_stdout, our_stderr)]
    try:
        process = start(arguments, (stdin, stdout, stderr), environment, cwd)
    finally:
        for end in (stdin, stdout, stderr):
            os.close(end)
        for thread in threads:
            thread.start()
    try:
        code = process.wait(timeout)
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL)
        process.wait(10)
        raise
    finally:
        for thread in threads:
            thread.join()
    return subprocess.CompletedProcess(
        [*LINE, *map(str, arguments)], code, texts[our_stdout].decode(), texts[our_stderr].decode()
    )


class Forked:
    """As much of a Popen as is needed. One at a time: the next starts when the last has been waited for."""

    def __init__(self, pid: int, end: socket.socket) -> None:
        self.pid = pid
        self._end = end

    def wait(self, timeout: float | None = None) -> int:
        self._end.settimeout(timeout)
        try:
            return int(self._end.recv(16))
        except TimeoutError:
            raise subprocess.TimeoutExpired(LINE, timeout or 0) from None


def start(
    arguments: Sequence[str | Path],
    files: Files,
    environment: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
) -> Forked | subprocess.Popen[bytes]:
    """The same with these open files for its input, output and error, to be waited for. Arguments that begin with
    `-c` are a program of Python and its own ones."""
    arguments = [*map(str, arguments)]
    environment = {**_OFFLINE, **(os.environ if environment is None else environment)}
    if not sys.platform.startswith("linux") or _read_early(environment) != _read_early(_OURS):
        stdin, stdout, stderr = files
        line = [sys.executable, *arguments] if arguments[0] == "-c" else [*LINE, *arguments]
        return subprocess.Popen(line, stdin=stdin, stdout=stdout, stderr=stderr, env=environment, cwd=cwd)
    origin = _origin()
    asked = {"arguments": arguments, "environment": environment, "cwd": str(Path.cwd() if cwd is None else cwd)}
    socket.send_fds(origin, [json.dumps(asked).encode()], [*files])
    origin.settimeout(60)
    while not (said := origin.recv(16)).startswith(b"pid "):
        assert said, "the process that others are forked from has ended"  # else: one that nobody waited for
    return Forked(int(said[4:]), origin)


def _read_early(environment: Mapping[str, str]) -> dict[str, str]:
    return {k: v for k, v in environment.items() if k.startswith(_READ_EARLY) and k not in _READ_LATE}


@functools.cache
def _origin() -> socket.socket:
    """The way to the process that the others are forked from."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with its:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.tool", str(its.fileno())],
            pass_fds=[its.fileno()],
            stdin=subprocess.DEVNULL,
            env=_OURS,
            cwd=ROOT,
        )

    def end() -> None:
        ours.close()
        process.wait(10)

    atexit.register(end)
    return ours


def _become_the_tool(control: socket.socket) -> None:
    """Waits for what is asked for and returns in every process that is to be the tool, set up like a new one."""
    for name in (*(f"{MODULE}.{name}" for name in IMPORTED), *LIBRARIES):
        importlib.import_module(name)
    gc.freeze()  # a collection in a fork would copy all of it
    while True:
        text, files, *_ = socket.recv_fds(control, 2**20, 3)
        if not text:
            os._exit(0)
        pid = os.fork()
        if pid == 0:
            control.close()
            break
        for file in files:
            os.close(file)
        control.send(b"pid %d" % pid)
        control.send(b"%d" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    asked = json.loads(text)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["cwd"])
    sys.argv[1:] = asked["arguments"]
    sys.path[0] = asked["cwd"]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    encoding, _, asked_errors = os.environ.get("PYTHONIOENCODING", "").partition(":")
    for number, name, errors in ((1, "stdout", asked_errors or "strict"), (2, "stderr", "backslashreplace")):
        lines = os.isatty(number) or name == "stderr"
        out = os.fdopen(number, "wb", closefd=False)
        setattr(sys, name, io.TextIOWrapper(out, encoding or None, errors, None, lines))
    sys.stdin = io.TextIOWrapper(os.fdopen(0, "rb", closefd=False), encoding or None, asked_errors or None)


def _end(code: object) -> None:
    """What the interpreter does at its end, for a process that ends as it should. To free every object of every
    module as well takes longer than most commands."""
    if not isinstance(code, int | None):
        return
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads
    atexit._run_exitfuncs()
    gc.collect()  # what was left open says so
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        return
    os._exit((code or 0) & 255)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _become_the_tool(socket.socket(fileno=int(sys.argv[1])))
    try:
        if sys.argv[1:2] == ["-c"]:
            code, sys.argv = sys.argv[2], ["-c", *sys.argv[3:]]
            exec(code, {"__name__": "__main__"})
        else:
            runpy.run_module(MODULE, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        _end(ended.code)
        raise
    _end(None)
