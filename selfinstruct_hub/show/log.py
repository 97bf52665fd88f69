"""A run as lines that are appended: from time to time for a log file, request by request, or as JSON."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from types import TracebackType
from typing import Any

from selfinstruct_hub import events, run
from selfinstruct_hub.config import Prices
from selfinstruct_hub.figures import counted
from selfinstruct_hub.forecast import Forecast
from selfinstruct_hub.grow import Progress, RoundOutcome
from selfinstruct_hub.records import FINISH_EOS, FINISH_LENGTH, FINISH_STOP
from selfinstruct_hub.show.pieces import console_of, duration, ends_before, reasons
from selfinstruct_hub.show.views import Figures, RunView

_ENDS = {
    FINISH_EOS: "ended by itself",
    FINISH_STOP: "ended by a stop sequence",
    FINISH_LENGTH: "cut off by the token limit",
}


class LineView(RunView):
    """A line every ten seconds, with everything that a terminal would show."""

    seconds_between_ticks: float | None = 10.0

    def __init__(self, prices: Prices | None = None) -> None:
        super().__init__(prices)
        self._console = console_of(sys.stderr)

    def say(self, text: str) -> None:
        self._console.print(text, soft_wrap=True)

    def tick(self) -> None:
        figures = self.figures()
        if figures is not None:
            self.say(line(figures))


class StepView(LineView):
    """A line for every answer and for every draw that is judged: for one request at a time."""

    seconds_between_ticks = None
    seconds_between_troubles = 0.0

    def answered(self, event: events.Answered) -> None:
        seconds = f", {event.total_time:.1f} s" if event.total_time is not None else ""
        queued = f" ({event.queue_time:.1f} s of them waiting)" if (event.queue_time or 0) >= 0.05 else ""
        ended = _ENDS.get(event.finish_reason, event.finish_reason)
        self.say(
            f"draw {event.number}, step {event.stage}, request {event.call}: {event.prompt_tokens:,} tokens in, "
            f"{event.generated_tokens:,} out{seconds}{queued}, {ended}"
        )

    def judged(self, event: events.Judged) -> None:
        dropped = f"; dropped {reasons(event.drops, most=9)}" if event.drops else ""
        self.say(
            f"draw {event.number}: {event.accepted} of {counted(event.candidates, 'candidate')} accepted{dropped}"
        )

    def began_round(self, progress: Progress) -> None:
        self.say(f"{progress.title}: {progress.accepted:,} of {counted(progress.wanted, progress.unit)}")


Write = Callable[[Mapping[str, Any]], None]


class JsonView(RunView):
    """One object for everything that happens, and the figures every few seconds; `write` makes lines of them."""

    seconds_between_ticks = 5.0

    def __init__(self, write: Write, prices: Prices | None = None) -> None:
        super().__init__(prices)
        self._write = write

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        if kind is not None:
            self.tick()

    def report(self, event: events.Event) -> None:
        self._write(events.as_dict(event))
        super().report(event)

    def connected(self, event: events.Connected) -> None: ...  # it is written as it is

    def ending(self, event: events.Ending) -> None: ...  # the same

    def _trouble(self, place: str, reason: str, text: str, now: float) -> None: ...  # the same

    def say(self, text: str) -> None:
        self._write({"event": "notice", "text": text})

    def began_round(self, progress: Progress) -> None:
        self.tick()

    def tick(self) -> None:
        figures = self.figures()
        if figures is not None:
            self._write({"event": "progress", **as_dict(figures)})

    def foresee(self, figures: Figures, told: Forecast) -> None:
        rounded = {
            name: round(value, 6) if isinstance(value, float) else value for name, value in asdict(told).items()
        }
        self._write({"event": "forecast", "whole": figures.whole, **rounded, "currency": figures.currency})

    def finished(self, result: run.Finished) -> None:
        self.tick()
        outcome = result.outcome
        self._write(
            {
                "event": "round_stopped" if outcome.limit and result.release is None else "round_finished",
                "round": outcome.round.number,
                "version": outcome.round.version,
                "accepted": outcome.accepted,
                "wanted": outcome.round.wanted,
                "release": None if result.release is None else str(result.release),
                "limit": outcome.limit,
                "detail": outcome.detail,
            }
        )
        super().finished(result)

    def released(self, outcome: RoundOutcome, place: str) -> None: ...  # said above


def line(figures: Figures) -> str:
    """A run on one line."""
    progress, coming = figures.progress, figures.forecast
    parts = [
        f"{progress.title}: {progress.accepted:,} of {counted(progress.wanted, progress.unit)}",
        figures.flying,
        figures.speeds,
        counted(progress.requests, "answer"),
        figures.dropped,
        figures.troubles,
        figures.spent,
    ]
    if coming is not None:
        later = f" for {counted(coming.tasks, 'task')} of all rounds" if progress.later else ""
        parts.append(f"about {duration(coming.seconds)} left{later}")
        if coming.limit is not None:
            parts.append(ends_before(coming, figures.whole, progress.unit))
    return "; ".join(part for part in parts if part)


def as_dict(figures: Figures) -> dict[str, Any]:
    """The same as plain data. Seconds, tokens; money in the currency of the prices."""
    progress, coming = figures.progress, figures.forecast
    requests, tokens = figures.snapshot.speed(figures.now)
    return {
        "round": progress.round,
        "version": progress.version,
        "unit": progress.unit,
        "wanted": progress.wanted,
        "accepted": progress.accepted,
        "later": progress.later,
        "requests": progress.requests,
        "judged": progress.judged,
        "in_flight": progress.in_flight,
        "capacity": progress.capacity,
        "candidates": progress.candidates,
        "prompt_tokens": progress.prompt_tokens,
        "generated_tokens": progress.generated_tokens,
        "drops": dict(progress.drops.most_common()),
        "retries": dict(progress.retries.most_common()),
        "failed": dict(progress.failed.most_common()),
        "requests_per_second": round(requests, 3),
        "tokens_per_second": round(tokens, 1),
        "cost": None if figures.cost is None else round(figures.cost, 6),
        "currency": figures.currency,
        "seconds": round(figures.seconds, 1),
        "seconds_left": None if coming is None else round(coming.seconds, 1),
    }
