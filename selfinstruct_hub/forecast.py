"""What a run will still take: requests, time, tokens and money until it is done, and which budget ends it before.

Pure: events and their times go in, figures come out; no clock and no I/O. Everything is reckoned from what came
lately, because acceptance falls while a pool fills and an endpoint's speed changes.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from selfinstruct_hub.config import Prices
from selfinstruct_hub.endpoint.budget import MAX_COST, MAX_REQUESTS, MAX_TIME, MAX_TOKENS, Left, price_of

# Speed is that of the last minute, or of so many answers where fewer came in it.
_RECENT_SECONDS, _RECENT_ANSWERS = 60.0, 20
# Acceptance is that of the last draws that brought so many tasks: a tenth more or less by chance.
_RECENT_TASKS, _MOST_DRAWS = 100, 500
# Fewer say nothing.
_LEAST_DRAWS, _LEAST_TASKS = 3, 5
_MUCH = 0.5  # a change that is worth telling
_NEAR = 0.9  # a budget for nearly all that is needed may well be enough


@dataclass(frozen=True)
class Tally:
    """A number of requests and what they cost."""

    requests: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.generated_tokens + other.generated_tokens,
        )

    def __sub__(self, other: Tally) -> Tally:
        return Tally(
            self.requests - other.requests,
            self.prompt_tokens - other.prompt_tokens,
            self.generated_tokens - other.generated_tokens,
        )


@dataclass(frozen=True)
class Snapshot:
    """How a run goes. `began` and `since` are times: of the first request of this start, and of where the recent
    answers begin. `answers` and `generated_tokens` came since then. `draws` were judged lately: they brought
    `accepted` tasks and cost `cost`. `ahead` is answered too, in draws that are not judged yet; `answered` is
    everything of this start."""

    began: float
    since: float
    answers: int
    generated_tokens: int
    draws: int
    accepted: int
    cost: Tally
    ahead: Tally
    answered: int

    def speed(self, now: float) -> tuple[float, float]:
        """Requests and generated tokens a second. Falls while nothing comes."""
        seconds = max(now - self.since, 1e-3)
        return self.answers / seconds, self.generated_tokens / seconds


@dataclass(frozen=True)
class Forecast:
    """What is still to come until `tasks` more tasks are accepted, about. `seconds` from now; `cost` in the
    currency of the prices, None without. `limit` is the budget that ends the run before, after `within` more
    tasks. The last two are what this start will have taken as a whole."""

    tasks: int
    requests: int
    prompt_tokens: int
    generated_tokens: int
    seconds: float
    cost: float | None
    limit: str | None
    within: int
    requests_in_all: int
    seconds_in_all: float

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.generated_tokens


class Course:
    """Takes what happens in a run and gives Snapshots. Times are seconds of one clock. Everything is counted as it
    comes, so that a snapshot costs nothing."""

    def __init__(self, now: float) -> None:
        self._began = now
        # (time, generated tokens): the first is where the recent answers begin, and none of them.
        self._recent: deque[tuple[float, int]] = deque([(now, 0)])
        self._recent_tokens = 0
        self._answered = 0
        self._round = 0
        self._open: dict[int, Tally] = {}  # draws of this round that are not judged
        self._ahead = Tally()
        self._draws: deque[tuple[int, Tally]] = deque()  # judged ones: (accepted, cost)
        self._accepted = 0
        self._cost = Tally()

    def answered(self, now: float, round_: int, number: int, prompt_tokens: int, generated_tokens: int) -> None:
        """A request of the draw `number` was answered."""
        if round_ != self._round:
            # What was left of the round before is not needed any more.
            self._round, self._open, self._ahead = round_, {}, Tally()
        cost = Tally(1, prompt_tokens, generated_tokens)
        self._answered += 1
        self._ahead += cost
        self._open[number] = self._open.get(number, Tally()) + cost
        self._recent.append((now, generated_tokens))
        self._recent_tokens += generated_tokens
        while len(self._recent) > _RECENT_ANSWERS + 1 and self._recent[1][0] <= now - _RECENT_SECONDS:
            self._recent.popleft()
            self._recent_tokens -= self._recent[0][1]

    def judged(self, round_: int, number: int, accepted: int) -> None:
        """The draw `number` has its verdicts. One whose answers were stored by an earlier start says nothing of
        what a task costs."""
        cost = self._open.pop(number, None) if round_ == self._round else None
        if cost is None:
            return
        self._ahead -= cost
        self._draws.append((accepted, cost))
        self._accepted += accepted
        self._cost += cost
        while len(self._draws) > _LEAST_DRAWS and (
            len(self._draws) > _MOST_DRAWS or self._accepted - self._draws[0][0] >= _RECENT_TASKS
        ):
            gone, its_cost = self._draws.popleft()
            self._accepted -= gone
            self._cost -= its_cost

    def snapshot(self) -> Snapshot:
        return Snapshot(
            began=self._began,
            since=self._recent[0][0],
            answers=len(self._recent) - 1,
            generated_tokens=self._recent_tokens,
            draws=len(self._draws),
            accepted=self._accepted,
            cost=self._cost,
            ahead=self._ahead,
            answered=self._answered,
        )


def forecast(
    snapshot: Snapshot, now: float, tasks: int, *, prices: Prices | None = None, left: Left | None = None
) -> Forecast | None:
    """What `tasks` more accepted tasks will take, at the recent acceptance and speed; `left` is what the budget
    still allows. None while there is too little to say it from."""
    if snapshot.draws < _LEAST_DRAWS or snapshot.accepted < _LEAST_TASKS or not snapshot.answers:
        return None
    draws = math.ceil(tasks * snapshot.draws / snapshot.accepted)

    def still(of_judged: int, ahead: int, least: int) -> int:
        return max(least, math.ceil(draws * of_judged / snapshot.draws) - ahead)

    cost, ahead = snapshot.cost, snapshot.ahead
    # Where all that is needed is answered and waits for its turn, one more is nearly none.
    requests = still(cost.requests, ahead.requests, least=1 if tasks else 0)
    prompt = still(cost.prompt_tokens, ahead.prompt_tokens, least=0)
    generated = still(cost.generated_tokens, ahead.generated_tokens, least=0)
    seconds = requests / snapshot.speed(now)[0]
    money = price_of(prompt, generated, prices)
    left = left or Left()
    shares = {
        MAX_REQUESTS: left.requests / max(1, requests),
        MAX_TOKENS: left.tokens / max(1, prompt + generated),
        MAX_TIME: left.seconds / max(1e-3, seconds),
        MAX_COST: left.cost / money if money else math.inf,
    }
    first = min(shares, key=lambda name: shares[name])
    ends_before = shares[first] < 1
    return Forecast(
        tasks=tasks,
        requests=requests,
        prompt_tokens=prompt,
        generated_tokens=generated,
        seconds=seconds,
        cost=money,
        limit=first if ends_before else None,
        within=int(tasks * shares[first]) if ends_before else tasks,
        requests_in_all=snapshot.answered + requests,
        seconds_in_all=now - snapshot.began + seconds,
    )


def is_news(before: Forecast | None, now: Forecast) -> bool:
    """Whether `now` says something that `before` did not: the whole has changed by more than half, or a budget
    will clearly end the run first."""
    if before is None:
        return True
    changed = (
        abs(now.requests_in_all - before.requests_in_all) > _MUCH * before.requests_in_all
        or abs(now.seconds_in_all - before.seconds_in_all) > _MUCH * before.seconds_in_all
    )
    return changed or (before.limit is None and now.limit is not None and now.within < _NEAR * now.tasks)
