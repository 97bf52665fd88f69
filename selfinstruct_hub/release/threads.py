"""Jobs one after another beside the caller: what a release is written with, several of them beside one another.

Arrow and SQLite hold no lock of Python's while they read JSON, search, move columns, encode and compress, so
threads are enough, and nothing has to be started or handed over.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from typing import Any, TypeVar

T = TypeVar("T")

_AHEAD = 2


class Behind:
    """A thread that does jobs in order. Leaving the context waits for all of them and raises what one raised;
    where it is left by an exception, the jobs that have not begun are forgotten."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> Behind:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=self._name)
        self._open: deque[Future[Any]] = deque()
        return self

    def do(self, job: Callable[..., T], *values: Any) -> Future[T]:
        """Has `job` done, with the results where `values` are futures. Waits where the thread is two behind.
        Raises what an earlier job raised."""
        future = self._thread.submit(_done, job, values)
        self._open.append(future)
        while len(self._open) > _AHEAD:
            self._open.popleft().result()
        return future

    def wait(self) -> None:
        """Waits for all jobs. Raises what one raised."""
        while self._open:
            self._open.popleft().result()

    def forget(self) -> None:
        """Lets go of the jobs that have not begun."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def __exit__(self, failed: object, *_: object) -> None:
        self._thread.shutdown(cancel_futures=failed is not None)
        if failed is None:
            self.wait()


class Several(AbstractContextManager["Several"]):
    """Threads that wait for one another's jobs: an error in one ends them all."""

    def __init__(self, *names: str) -> None:
        self._names = names

    def __enter__(self) -> Several:
        with ExitStack() as stack:
            self._threads = {name: stack.enter_context(Behind(name)) for name in self._names}
            self._stack = stack.pop_all()
        return self

    def __getitem__(self, name: str) -> Behind:
        return self._threads[name]

    def __exit__(self, *failed: Any) -> None:
        if failed[0] is not None:
            # Before any is waited for: a job that runs may wait for one that has not begun elsewhere.
            for thread in self._threads.values():
                thread.forget()
        self._stack.__exit__(*failed)


def _done(job: Callable[..., T], values: tuple[Any, ...]) -> T:
    return job(*(value.result() if isinstance(value, Future) else value for value in values))
