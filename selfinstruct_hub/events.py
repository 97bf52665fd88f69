"""What a run reports while it goes on: plain records for whoever shows or logs them. No I/O.

`grow --log-json` writes each as one line of JSON: `event` is the class's name in snake case, `time` is added.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Connected:
    """The endpoint answered; `found` says how its kind was recognised. One for every address."""

    endpoint: str
    kind: str
    model: str
    version: str
    chat: bool
    max_concurrent_requests: int | None = None
    max_total_tokens: int | None = None
    found: str = ""


@dataclass(frozen=True)
class Answered:
    """A request was answered and its answer is on disk. Times are seconds."""

    round: int
    number: int
    call: int
    stage: str
    prompt_tokens: int
    generated_tokens: int
    finish_reason: str
    total_time: float | None
    queue_time: float | None


@dataclass(frozen=True)
class Retried:
    """A try failed and another follows in `pause` seconds. `reason` is one of records.FAILURES."""

    endpoint: str
    reason: str
    said: str
    attempt: int
    pause: float


@dataclass(frozen=True)
class GivenUp:
    """A request was never answered; its draw goes on without it."""

    round: int
    number: int
    call: int
    stage: str
    reason: str
    said: str
    tries: int


@dataclass(frozen=True)
class Paced:
    """The number of requests that a server gets at a time changed. `why`: growing, full, overloaded, failing."""

    endpoint: str
    in_flight: int
    why: str


@dataclass(frozen=True)
class Judged:
    """A draw has its verdicts."""

    round: int
    number: int
    candidates: int
    accepted: int
    drops: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Ending:
    """Nothing more is asked for, because of `limit` (an option, or "interrupt"); so many answers are to come."""

    limit: str
    in_flight: int


Event = Connected | Answered | Retried | GivenUp | Paced | Judged | Ending
Report = Callable[[Event], None]


def ignore(event: Event) -> None:
    """For callers that nobody listens to."""


def as_dict(event: Event) -> dict[str, Any]:
    """`event` as plain data, with its name."""
    name = "".join(f"_{c.lower()}" if c.isupper() else c for c in type(event).__name__).lstrip("_")
    return {"event": name, **event.__dict__}
