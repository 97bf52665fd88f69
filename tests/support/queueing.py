"""A server with slots and a queue, simulated: no waiting, no sockets, the clock is a number.

For what would take minutes of real time: how a Pace behaves over thousands of answers.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from dataclasses import dataclass

from selfinstruct_hub.endpoint.concurrency import Fixed, Pace


@dataclass(frozen=True)
class Seen:
    """What a simulated run came to. `busy` is the share of slot-time used between the first moment when every slot
    was taken and the end; `ramp` the seconds until then."""

    busy: float
    ramp: float
    requests: int
    refused: int
    limits: list[tuple[float, int]]  # (seconds, the number from then on)

    @property
    def last(self) -> int:
        return self.limits[-1][1]


class Clock:
    """Seconds, set by the simulation."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def run(
    pace: Pace | Fixed,
    clock: Clock,
    *,
    slots: int,
    seconds: float,
    places: int | None = None,
    tells_queue: bool = True,
    mean_seconds: float = 4.0,
    away: float = 0.005,
    seed: int = 1,
) -> Seen:
    """A client that always wants more, for `seconds`. Answers take `mean_seconds` on average and up to some twenty
    times as long; more than `places` at a time are refused; a request takes `away` seconds between client and
    server, each way."""
    rng = random.Random(seed)
    events: list[tuple[float, int, str, tuple[float, float, int]]] = []
    queue: deque[tuple[float, float, int]] = deque()
    count = sent = refused = running = in_flight = 0
    busy_since = full_at = None
    busy = 0.0
    limits = [(0.0, pace.limit)]

    def push(at: float, kind: str, request: tuple[float, float, int]) -> None:
        nonlocal count
        count += 1
        heapq.heappush(events, (at, count, kind, request))

    def send() -> None:
        nonlocal sent, in_flight
        while in_flight < pace.limit:
            in_flight += 1
            sent += 1
            length = min(20 * mean_seconds, rng.paretovariate(1.6) * mean_seconds * 0.4)
            push(clock.now + away, "arrives", (clock.now, length, pace.sent()))

    def changed(why: str | None) -> None:
        if why is not None:
            limits.append((clock.now, pace.limit))

    send()
    last = 0.0
    while clock.now < seconds:
        at, _, kind, request = heapq.heappop(events)
        if busy_since is not None:
            busy += running * (at - last)
        last = clock.now = at
        came, length, mark = request
        if kind == "arrives":
            if places is not None and running + len(queue) >= places:
                push(at + away, "refused", request)
            elif running < slots:
                running += 1
                push(at + length, "ends", (came, 0.0, mark))
                if running == slots and busy_since is None:
                    busy_since = full_at = at
            else:
                queue.append((at, length, mark))
        elif kind == "ends":
            running -= 1
            push(at + away, "answered", request)
            if queue:
                arrived, waiting_length, waiting_mark = queue.popleft()
                running += 1
                push(at + waiting_length, "ends", (arrived - away, at - arrived, waiting_mark))
        elif kind == "refused":
            in_flight -= 1
            refused += 1
            changed(pace.overloaded(mark))
        else:
            used = in_flight >= pace.limit
            in_flight -= 1
            waited = length
            total = at - came
            tokens = round((total - waited) * 50) or 1
            told = waited if tells_queue else None
            changed(pace.answered(mark, queue=told, total=total, tokens=tokens, used=used))
        send()
    window = slots * (clock.now - (busy_since or 0.0))
    share = busy / window if busy_since is not None else 0.0
    return Seen(share, full_at or seconds, sent, refused, limits)
