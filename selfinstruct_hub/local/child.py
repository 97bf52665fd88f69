"""The embedded engine as a child process, for a run that was given no endpoint.

Starts it, says where it listens, and ends it. Imports neither openvino nor aiohttp: those load in the child.
"""

import asyncio
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from selfinstruct_hub.errors import LocalEngineError, ModelNotFoundError
from selfinstruct_hub.local.runtime import PACKAGE_PARENT

START_SECONDS = 180.0
STOP_SECONDS = 10.0


class LocalServer:
    """`with LocalServer() as url:` or `async with`; raises LocalEngineError or ModelNotFoundError.

    The child ends with this process, however that ends: it watches its standard input. It runs in a session of
    its own, so Ctrl-C in the terminal reaches this process only, which may still need answers.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        api_key: str | None = None,
        max_concurrent_requests: int = 128,
        max_batch_size: int = 16,
        start_seconds: float = START_SECONDS,
    ) -> None:
        self.url: str | None = None
        self._model = model
        self._api_key = api_key
        self._start_seconds = start_seconds
        self._options = {
            "--max-concurrent-requests": str(max_concurrent_requests),
            "--max-batch-size": str(max_batch_size),
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def start(self) -> str:
        """The base URL, once the server answers. Loading takes about six seconds."""
        assert self._process is None, "started twice"
        environment = dict(os.environ)
        environment.pop("SELFINSTRUCT_LOCAL_API_KEY", None)
        if self._api_key is not None:
            environment["SELFINSTRUCT_LOCAL_API_KEY"] = self._api_key
        apart: dict[str, Any] = {"start_new_session": True}
        if sys.platform == "win32":
            apart = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - read when the child dies, closed in stop()
        self._process = subprocess.Popen(
            self._command(),
            cwd=PACKAGE_PARENT,  # so that a checkout is found, and no file of the user's directory is imported
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            **apart,
        )
        try:
            self.url = self._announced(self._process)
        except BaseException:
            self.stop()
            raise
        return self.url

    def stop(self) -> None:
        """Ends the child: asks, then insists. Harmless when it is not running."""
        process, self._process = self._process, None
        log, self._log = self._log, None
        self.url = None
        if process is not None:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.close()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()
        if log is not None:
            log.close()

    def _command(self) -> list[str]:
        command = [sys.executable, "-m", "selfinstruct_hub.local", "--announce", "--port", "0"]
        if self._model is not None:
            path = Path(self._model).expanduser()
            # The child starts elsewhere; what is no file here is a Hub id, or the child's error to tell.
            command += ["--model", str(path.resolve()) if path.exists() else self._model]
        for option, value in self._options.items():
            command += [option, value]
        return command

    def _announced(self, process: subprocess.Popen[bytes]) -> str:
        assert process.stdout is not None
        lines: queue.Queue[bytes] = queue.Queue()
        # A thread, because Windows cannot wait for a pipe with a deadline.
        threading.Thread(target=lambda out: lines.put(out.readline()), args=(process.stdout,), daemon=True).start()
        try:
            line = lines.get(timeout=self._start_seconds)
        except queue.Empty:
            raise LocalEngineError(
                f"the embedded engine did not start within {self._start_seconds:g} seconds"
            ) from None
        if not line:
            code = process.wait()
            raise LocalEngineError(
                f"the embedded engine ended with code {code} while starting{self._last_words()}"
            )
        told = json.loads(line)
        if "error" in told:
            kind = ModelNotFoundError if told["kind"] == "ModelNotFoundError" else LocalEngineError
            raise kind(told["error"])
        return str(told["url"])

    def _last_words(self) -> str:
        assert self._log is not None
        self._log.seek(0)
        lines = self._log.read().decode("utf-8", "replace").strip().splitlines()
        return f": {lines[-1].strip()[:300]}" if lines else ""

    def __enter__(self) -> str:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> str:
        return await asyncio.to_thread(self.start)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)
