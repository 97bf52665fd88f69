"""What every form of watching a run shares: its figures as they stand, and what is worth a line that stays.

`run.grow` calls `report`, `observe`, `say` and `finished`, all from one thread. The forms that refresh by
themselves read what `observe` and `report` have left (`figures`) from a thread of their own: immutable, so
without a lock.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType

from selfinstruct_hub import events, run
from selfinstruct_hub.config import Prices
from selfinstruct_hub.figures import counted
from selfinstruct_hub.forecast import Course, Forecast, Snapshot, forecast, is_news
from selfinstruct_hub.grow import INTERRUPT, Progress, RoundOutcome
from selfinstruct_hub.show.pieces import money, reasons, sentence, speed

# A forecast that has changed is told again, but not more often.
_SECONDS_BETWEEN_FORECASTS = 30.0
_LONG_PAUSE = 10.0  # seconds that are worth telling
_WORTH_TELLING = 3  # requests: of fewer there is nothing to foresee

Clock = Callable[[], float]


@dataclass(frozen=True)
class Figures:
    """A run at one moment: the round's progress, how it went lately, and what is still to come."""

    now: float
    progress: Progress
    snapshot: Snapshot
    forecast: Forecast | None
    prices: Prices | None
    before: int  # accepted tasks of rounds that this start has finished

    @property
    def whole(self) -> int:
        """Accepted tasks that the run ends at."""
        return self.before + self.progress.wanted + self.progress.later

    @property
    def currency(self) -> str:
        return self.prices.currency if self.prices else ""

    @property
    def cost(self) -> float | None:
        """What the run has cost, earlier starts of it included; None without prices."""
        return self.progress.budget.cost if self.progress.budget else None

    @property
    def seconds(self) -> float:
        """What it has taken so far, earlier starts included."""
        budget = self.progress.budget
        return budget.spent.seconds if budget else self.now - self.snapshot.began

    # The same in words; empty where there is nothing to say.

    @property
    def flying(self) -> str:
        return f"{self.progress.in_flight:,} of {self.progress.capacity:,} in flight"

    @property
    def speeds(self) -> str:
        requests, tokens = self.snapshot.speed(self.now)
        return f"{speed(requests, 'requests')}, {speed(tokens, 'tokens')}" if self.snapshot.answers else ""

    @property
    def dropped(self) -> str:
        drops = self.progress.drops
        named = f": {reasons(drops)}" if drops else ""
        total = sum(drops.values())
        return f"dropped {total:,} of {counted(self.progress.candidates, 'candidate')}{named}" if named else ""

    @property
    def troubles(self) -> str:
        parts = [
            f"{title} {sum(counts.values()):,} ({reasons(counts)})"
            for title, counts in (("tried again", self.progress.retries), ("given up", self.progress.failed))
            if counts
        ]
        return ", ".join(parts)

    @property
    def spent(self) -> str:
        return "" if self.cost is None else money(self.cost, self.currency)


class RunView:
    """Shows nothing by itself; see `live` and `log`. Use as a context manager."""

    # Lines about the same trouble: the first is told at once, then one in so many seconds.
    seconds_between_troubles = 10.0
    # So often `tick` is called, in a thread of its own; None: never.
    seconds_between_ticks: float | None = None

    def __init__(self, prices: Prices | None = None, clock: Clock = time.monotonic) -> None:
        self._prices = prices
        self._clock = clock
        self._course: Course | None = None
        self._progress: Progress | None = None
        self._snapshot: Snapshot | None = None
        self._released = 0
        self._told: tuple[float, Forecast] | None = None
        self._troubles: dict[tuple[str, str], tuple[float, int]] = {}  # when it was told last; how many since
        self._over = threading.Event()
        self._ticker: threading.Thread | None = None

    def __enter__(self) -> RunView:
        if self.seconds_between_ticks is not None:
            self._ticker = threading.Thread(target=self._ticks, args=(self.seconds_between_ticks,), daemon=True)
            self._ticker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._ticker is not None:
            self._ticker.join()

    # The hooks.

    def report(self, event: events.Event) -> None:
        now, course = self._clock(), self._begun()
        if isinstance(event, events.Connected):
            self.connected(event)
        elif isinstance(event, events.Answered):
            course.answered(now, event.round, event.number, event.prompt_tokens, event.generated_tokens)
            self.answered(event)
        elif isinstance(event, events.Judged):
            course.judged(event.round, event.number, event.accepted)
            self.judged(event)
        elif isinstance(event, events.Retried):
            said = _reason(event.reason, event.said)
            self._trouble(
                event.endpoint, event.reason, f"{event.endpoint}: {said}, trying again{_later(event)}", now
            )
        elif isinstance(event, events.Ending):
            self.ending(event)
        elif isinstance(event, events.GivenUp):
            said = (
                f"draw {event.number}, step {event.stage}: given up after {counted(event.tries, 'try', 'tries')}"
            )
            self._trouble("given up", event.reason, f"{said}, {_reason(event.reason, event.said)}", now)
        self._snapshot = course.snapshot()

    def observe(self, progress: Progress) -> None:
        """Keeps how things stand, as they are now: `progress` itself goes on changing."""
        before, course = self._progress, self._begun()
        first = before is None or before.title != progress.title
        if before is not None and first:
            self._released += before.accepted
        self._snapshot = course.snapshot()
        self._progress = replace(
            progress,
            drops=Counter(progress.drops),
            retries=Counter(progress.retries),
            failed=Counter(progress.failed),
        )
        if first:
            self.began_round(self._progress)
        self._tell_forecast()

    def say(self, text: str) -> None:
        """A line that stays."""

    def finished(self, result: run.Finished) -> None:
        if result.release is not None:
            self.released(result.outcome, str(result.release))

    # What a form may do otherwise.

    def connected(self, event: events.Connected) -> None:
        version = f" {event.version}" if event.version else ""
        details = [f"{event.kind}{version}"]
        if event.max_concurrent_requests is not None:
            details.append(f"{counted(event.max_concurrent_requests, 'request')} at a time")
        if event.max_total_tokens is not None:
            details.append(f"context {event.max_total_tokens:,} tokens")
        details.append("prompts in its chat template" if event.chat else "prompts as they are")
        self.say(f"{event.endpoint}: {event.model} ({', '.join(details)})")

    def ending(self, event: events.Ending) -> None:
        if event.limit != INTERRUPT:  # of that the run itself has told
            self.say(f"{event.limit} is reached: waiting for {event.in_flight:,} in flight")

    def answered(self, event: events.Answered) -> None: ...

    def judged(self, event: events.Judged) -> None: ...

    def began_round(self, progress: Progress) -> None: ...

    def released(self, outcome: RoundOutcome, place: str) -> None:
        self.say(f"round {outcome.round.number}: {counted(outcome.accepted, 'task')}, released as {place}")

    def foresee(self, figures: Figures, told: Forecast) -> None:
        unit, end = figures.progress.unit, "done" if figures.progress.name else "accepted"
        self.say(f"forecast: {sentence(told, figures.whole, figures.currency, unit=unit, end=end)}")

    def tick(self) -> None:
        """Called from time to time, in another thread."""

    # For the forms.

    def figures(self) -> Figures | None:
        """How things stand; None before the first round has begun."""
        progress, snapshot = self._progress, self._snapshot
        if progress is None or snapshot is None:
            return None
        now = self._clock()
        tasks = max(0, progress.wanted - progress.accepted) + progress.later
        left = progress.budget.left if progress.budget else None
        coming = forecast(snapshot, now, tasks, prices=self._prices, left=left) if tasks else None
        return Figures(now, progress, snapshot, coming, self._prices, self._released)

    def _begun(self) -> Course:
        if self._course is None:
            self._course = Course(self._clock())
        return self._course

    def _tell_forecast(self) -> None:
        now = self._clock()
        if self._told and now - self._told[0] < _SECONDS_BETWEEN_FORECASTS:
            return
        figures = self.figures()
        if figures is None or figures.forecast is None or figures.forecast.requests < _WORTH_TELLING:
            return
        if is_news(self._told[1] if self._told else None, figures.forecast):
            self._told = (now, figures.forecast)
            self.foresee(figures, figures.forecast)

    def _trouble(self, place: str, reason: str, text: str, now: float) -> None:
        last, since = self._troubles.get((place, reason), (None, 0))
        if last is not None and now - last < self.seconds_between_troubles:
            self._troubles[place, reason] = (last, since + 1)
            return
        self._troubles[place, reason] = (now, 0)
        more = f" ({since:,} more like this since the last time)" if since else ""
        self.say(text + more)

    def _ticks(self, seconds: float) -> None:
        while not self._over.wait(seconds):
            try:
                self.tick()
            except OSError:  # nobody reads any more: for the run itself to find out
                return


def _later(event: events.Retried) -> str:
    return f" in {event.pause:.0f} s" if event.pause >= _LONG_PAUSE else ""


def _reason(reason: str, said: str) -> str:
    return f"{reason.replace('_', ' ')}{f' ({said})' if said else ''}"
