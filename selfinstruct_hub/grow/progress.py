"""How far a piece of work at an endpoint is, and how it ended: what a run shows and returns. Plain data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from selfinstruct_hub.endpoint.budget import Budget
from selfinstruct_hub.records import Round

SATURATION = "saturation"
BARREN = "barren"
REFUSED = "refused"
FAILING = "failing"
INTERRUPT = "interrupt"


@dataclass
class Progress:
    """How far a round is, for whoever shows it. `requests` are those that were answered, `failed` those that were
    given up, by reason; `retries` are failed tries by reason; `later` tasks are wanted in later rounds of the
    run. `budget` knows what the run has spent and may still spend; it is only to be read.

    A revision is shown in the same way: under a `name` of its own, and what it counts is called `unit`."""

    round: int
    version: str
    wanted: int
    accepted: int = 0
    requests: int = 0
    in_flight: int = 0
    capacity: int = 0
    judged: int = 0
    candidates: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    later: int = 0
    budget: Budget | None = None
    drops: Counter[str] = field(default_factory=Counter)
    retries: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    name: str = ""
    unit: str = "task"

    @property
    def title(self) -> str:
        """What a line about it begins with."""
        return self.name or f"round {self.round}"


@dataclass(frozen=True)
class RoundOutcome:
    """How a round ended: complete, or stopped early by `limit`: the option that set it, BARREN (nothing accepted
    for too long), REFUSED (the endpoint refuses a kind of request; `detail` has its words), FAILING (too many
    requests failed for good; `detail` says why) or INTERRUPT. On a complete round, SATURATION says that no further
    round was begun, and `detail` why; without a limit, `detail` says that the next run would stop for that
    reason."""

    round: Round
    accepted: int
    limit: str | None = None
    detail: str = ""


Observe = Callable[[Progress], None]
