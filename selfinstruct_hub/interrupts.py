"""Ctrl-C and SIGTERM while a run goes on: once lets it finish what is in flight, twice stops it at once.

What is in flight has been asked for and will be paid for; so the first signal only keeps anything more from
being begun, for as long as is allowed. Outside of that, and for the second signal, the run is cancelled at its
next await. Python's own KeyboardInterrupt is raised at whatever line runs, and is lost where that is a
destructor's; it is left to the third signal, for a run that awaits nothing.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Handles the signals of one run."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._main: asyncio.Task[Any] | None = None
        self._finish: Callable[[], None] | None = None
        self._count = 0
        self._cancelled = False

    @property
    def requested(self) -> bool:
        """Whether a signal came."""
        return self._count > 0

    def run(self, work: Callable[[Interrupts], Coroutine[Any, Any, T]]) -> T:
        """The result of `work`, in an event loop of its own. Raises KeyboardInterrupt where a signal cut it
        short. In another thread than the main one no signal arrives, and nothing is handled."""
        if threading.current_thread() is not threading.main_thread():
            return asyncio.run(work(self))
        before = {number: signal.signal(number, self._signalled) for number in _SIGNALS}
        try:
            return asyncio.run(self._cancellable(work))
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def finishing(self, finish: Callable[[], None], seconds: float) -> Iterator[None]:
        """Within this, the first signal calls `finish` instead of cancelling; after `seconds` more the run is
        cancelled all the same."""

        def begin() -> None:
            finish()
            asyncio.get_running_loop().call_later(seconds, self._cancel)

        self._finish = begin
        try:
            yield
        finally:
            self._finish = None

    async def _cancellable(self, work: Callable[[Interrupts], Coroutine[Any, Any, T]]) -> T:
        self._loop, self._main = asyncio.get_running_loop(), asyncio.current_task()
        if self._cancelled:  # before there was anything to cancel
            raise KeyboardInterrupt
        try:
            return await work(self)
        except asyncio.CancelledError:
            if self._cancelled:
                raise KeyboardInterrupt from None
            raise
        finally:
            self._main = None

    def _signalled(self, *_: object) -> None:
        self._count += 1
        if self._count > 2:
            raise KeyboardInterrupt
        if self._loop is None:
            self._cancelled = True
        else:
            finish = self._finish if self._count == 1 else None
            self._loop.call_soon_threadsafe(finish or self._cancel)

    def _cancel(self) -> None:
        if self._main is not None:
            self._cancelled = True
            self._main.cancel()
