"""How many requests a server gets at a time: found by growing until it is full, halved when it says so.

Pure: answers and refusals go in, a number comes out; no I/O, and the clock is handed in.

Where a server tells how long a request waited in its queue, Little's law tells how many of ours are waiting: the
share of their time that requests spend in the queue is the share of them that are in it. As many as a tenth are
wanted there, so that a slot that falls free is taken at once; with fewer the number grows, with more than half it
shrinks. Where a server does not tell, the number grows for as long as that brings more tokens a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable

START = 16
# Where the server tells no limit: enough for a large GPU, and few enough for a server that never refuses.
MOST_UNTOLD = 256
_WAITING_WANTED, _WAITING_TOO_MANY = 0.1, 0.5
# A batch begins between two steps of the others; so long a wait says nothing about being full.
_NO_WAIT = 0.005  # seconds
_STEP_UP, _PROBE = 2.0, 1.25
# Growing by some share must bring this part of it in tokens a second, or the server is full.
_WORTH = 0.4
_PROBE_SECONDS, _LONGEST_CEILING_SECONDS = 60.0, 960.0

GROWING, FULL, OVERLOADED, FAILING = "growing", "full", "overloaded", "failing"


class Pace:
    """The number of requests that one server gets at a time, between 1 and `most`.

    Every request is sent under a mark (`sent`), so that an answer counts only for the number that it was sent
    under: what was under way when the number changed says nothing about the new one.
    """

    def __init__(
        self, *, start: int = START, most: int = MOST_UNTOLD, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most = max(1, most)
        self.limit = max(1, min(start, self._most))
        self._clock = clock
        self._ramping = True
        self._ceiling: int | None = None  # what the server took when it refused more
        self._ceiling_until = 0.0
        self._ceiling_seconds = _PROBE_SECONDS  # longer each time, or probing would be refused for ever
        self._refused_mark: int | None = None
        self._refused_at = self._refused = 0  # the number then, and how many of them were refused
        self._best: tuple[int, float] | None = None  # a number before growing, and its tokens a second
        self._hold_until = 0.0
        self._mark = 0
        self._answers = self._unused = self._failures = self._tokens = 0
        self._queue = self._total = 0.0
        self._measured_from = clock()

    def sent(self) -> int:
        """The mark of a request that is sent now."""
        return self._mark

    def answered(self, mark: int, *, queue: float | None, total: float, tokens: int, used: bool) -> str | None:
        """Books an answer; `queue` and `total` are seconds, `used` says whether every place was taken when it
        came. Returns why the number changed, or None."""
        if mark != self._mark:
            return None
        self._answers += 1
        self._unused += not used
        if queue is None:
            return self._by_throughput(tokens)
        self._queue += max(0.0, queue - _NO_WAIT)
        self._total += max(total, queue)
        return self._by_queue()

    def overloaded(self, mark: int) -> str | None:
        """The server refused a request because it had too many. Halves once for all that were sent under one
        mark. Where it refused several of those, the others are what it takes; a single one says less."""
        if mark == self._refused_mark:
            self._refused += 1
            if self._refused >= max(2, self._refused_at // 20):
                self._ceiling = max(self.limit, self._refused_at - self._refused)
                self._ceiling_until = self._clock() + self._ceiling_seconds
        if mark != self._mark:
            return None
        if self._ceiling is not None and self._clock() >= self._ceiling_until:
            self._ceiling_seconds = min(2 * self._ceiling_seconds, _LONGEST_CEILING_SECONDS)
        self._refused_mark, self._refused_at, self._refused = mark, self.limit, 1
        self._ramping = False
        return self._change(self.limit // 2, OVERLOADED)

    def failed(self, mark: int) -> str | None:
        """A try failed in another way. Halves where most do."""
        if mark != self._mark:
            return None
        self._failures += 1
        if self._failures >= max(4, self.limit // 2) and self._failures > self._answers:
            self._ramping = False
            return self._change(self.limit // 2, FAILING)
        return None

    def _by_queue(self) -> str | None:
        # The first short answers are enough to see free slots; to see a full server takes more.
        if self._answers < max(4, self.limit // 4):
            return None
        waiting = self._queue / self._total if self._total else 0.0
        if waiting < _WAITING_WANTED:
            if not self._in_use():
                return None
            return self._grow(_STEP_UP if self._ramping else _PROBE)
        if self._answers < 2 * self.limit:
            return None
        self._ramping = False
        if waiting > _WAITING_TOO_MANY:
            # Half the way: short answers come first, and make the queue look longer than it is.
            running = self.limit * (1 - waiting)
            return self._change(round((self.limit + running * (1 + 2 * _WAITING_WANTED)) / 2), FULL)
        self._begin()
        return None

    def _by_throughput(self, tokens: int) -> str | None:
        # What was begun under the earlier number has ended by then.
        if self._answers == self.limit:
            self._measured_from, self._tokens = self._clock(), 0
            return None
        self._tokens += tokens
        if self._answers < 3 * self.limit or not self._in_use():
            return None
        rate = self._tokens / max(self._clock() - self._measured_from, 1e-6)
        if self._clock() < self._hold_until:
            self._begin()
            return None
        if self._best is not None and self._best[0] < self.limit:
            limit, best = self._best
            if rate < best * (1 + _WORTH * (self.limit / limit - 1)):
                self._ramping, self._best = False, None
                self._hold_until = self._clock() + _PROBE_SECONDS
                return self._change(limit, FULL)
        self._best = (self.limit, rate)
        return self._grow(_STEP_UP if self._ramping else _PROBE)

    def _in_use(self) -> bool:
        """Whether the places were taken, so that more of them would be used."""
        return self._unused * 4 <= self._answers

    def _grow(self, factor: float) -> str | None:
        wanted = max(self.limit + 1, round(self.limit * factor))
        if self._ceiling is not None and self._clock() < self._ceiling_until:
            wanted = min(wanted, max(self.limit, self._ceiling * 19 // 20))
        return self._change(wanted, GROWING)

    def _change(self, limit: int, why: str) -> str | None:
        limit = max(1, min(limit, self._most))
        if limit == self.limit:
            self._begin()
            return None
        self.limit = limit
        self._mark += 1
        self._begin()
        return why

    def _begin(self) -> None:
        """Counts anew."""
        self._answers = self._unused = self._failures = self._tokens = 0
        self._queue = self._total = 0.0
        self._measured_from = self._clock()


class Fixed:
    """A number that stays as it was set."""

    def __init__(self, limit: int) -> None:
        self.limit = max(1, limit)

    def sent(self) -> int:
        return 0

    def answered(self, mark: int, *, queue: float | None, total: float, tokens: int, used: bool) -> str | None:
        return None

    def overloaded(self, mark: int) -> str | None:
        return None

    def failed(self, mark: int) -> str | None:
        return None
