"""Forecasts: near the truth for runs that are played through, silent while there is nothing to say them from."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from selfinstruct_hub.config import Prices
from selfinstruct_hub.endpoint.budget import Left
from selfinstruct_hub.forecast import Course, Forecast, forecast, is_news

PRICES = Prices(prompt=1.0, generated=4.0)


class Run:
    """A run in time that is made up: `slots` requests at a time, each draw one request, judged in order."""

    def __init__(self, brings: Callable[[int], float], *, slots: int = 8, seconds: float = 2.0) -> None:
        self.rng = random.Random(7)
        self.course = Course(100.0)
        self.brings, self.slots, self.seconds = brings, slots, seconds
        self.now = 100.0
        self.accepted = self.answered = self.judged = 0
        self.tokens = [0, 0]
        self.ready: set[int] = set()
        self.flying = [(self.now + self._takes(), n) for n in range(slots)]
        self.sent = slots

    def _takes(self) -> float:
        return self.rng.uniform(0.5, 1.5) * self.seconds

    def step(self) -> None:
        """One more answer."""
        self.flying.sort()
        self.now, number = self.flying.pop(0)
        prompt, generated = 800, self.rng.randrange(200, 600)
        self.course.answered(self.now, 1, number, prompt, generated)
        self.answered += 1
        self.tokens[0] += prompt
        self.tokens[1] += generated
        self.ready.add(number)
        while self.judged in self.ready:
            accepted = sum(self.rng.random() < self.brings(self.accepted) / 20 for _ in range(20))
            self.course.judged(1, self.judged, accepted)
            self.accepted += accepted
            self.judged += 1
        self.flying.append((self.now + self._takes(), self.sent))
        self.sent += 1

    def forecast(self, wanted: int, left: Left | None = None) -> Forecast | None:
        return forecast(self.course.snapshot(), self.now, wanted - self.accepted, prices=PRICES, left=left)


@pytest.mark.parametrize("after", [40, 150])
def test_a_steady_run_is_told_within_a_fifth(after: int) -> None:
    run, wanted = Run(lambda accepted: 12.0), 5000
    while run.answered < after:
        run.step()
    told = run.forecast(wanted)
    assert told is not None
    then, answered, tokens = run.now, run.answered, list(run.tokens)
    while run.accepted < wanted:
        run.step()
    assert told.requests == pytest.approx(run.answered - answered, rel=0.2)
    assert told.seconds == pytest.approx(run.now - then, rel=0.2)
    spent = [now - before for now, before in zip(run.tokens, tokens, strict=True)]
    assert [told.prompt_tokens, told.generated_tokens] == pytest.approx(spent, rel=0.2)
    assert told.cost == pytest.approx((spent[0] + 4 * spent[1]) / 1e6, rel=0.2)
    assert told.limit is None
    assert told.requests_in_all == answered + told.requests
    assert told.seconds_in_all == pytest.approx(then - 100 + told.seconds)


def test_falling_acceptance_is_followed() -> None:
    """The forecast goes by what came lately, not by the good beginning."""
    run = Run(lambda accepted: 16.0 if accepted < 2000 else 2.0)
    while run.answered < 600:
        run.step()
    told = run.forecast(run.accepted + 200)
    assert told is not None
    assert told.requests == pytest.approx(100 - (run.answered - run.judged), rel=0.35)


def test_answers_that_wait_for_their_turn_are_not_counted_as_barren() -> None:
    """At the start a slow first answer holds back the judging of all the others."""
    course = Course(0.0)
    for number in range(40):
        course.answered(4.0, 1, number, 100, 100)
        if number < 3:
            course.judged(1, number, 5)
    told = forecast(course.snapshot(), 4.0, 485)
    assert told is not None
    assert told.requests == 97 - 37
    assert told.seconds == pytest.approx(6.0)
    nearly = forecast(course.snapshot(), 4.0, 20)
    assert nearly is not None
    assert nearly.requests == 1


def test_nothing_is_said_from_nothing() -> None:
    course = Course(0.0)
    assert forecast(course.snapshot(), 9.0, 100) is None
    for number in range(9):
        course.answered(1.0, 1, number, 10, 10)
        course.judged(1, number, 0)
    assert forecast(course.snapshot(), 9.0, 100) is None  # nothing accepted
    course.answered(1.0, 1, 9, 10, 10)
    course.judged(1, 9, 6)
    assert forecast(course.snapshot(), 9.0, 100) is not None
    one = Course(0.0)
    one.answered(1.0, 1, 0, 10, 10)
    one.judged(1, 0, 20)
    assert forecast(one.snapshot(), 9.0, 100) is None  # one draw is no rate


def test_draws_that_an_earlier_start_answered_say_nothing_of_costs() -> None:
    course = Course(0.0)
    for number in range(50):
        course.judged(1, number, 10)
    assert course.snapshot().draws == 0
    for number in range(50, 54):
        course.answered(1.0, 1, number, 10, 10)
        course.judged(1, number, 5)
    told = forecast(course.snapshot(), 2.0, 50)
    assert told is not None
    assert told.requests == 10


def test_what_a_round_left_over_is_not_ahead_in_the_next() -> None:
    course = Course(0.0)
    for number in range(10):
        course.answered(1.0, 1, number, 10, 10)
        if number < 5:
            course.judged(1, number, 5)
    course.answered(2.0, 2, 0, 10, 10)
    assert course.snapshot().ahead.requests == 1
    course.judged(1, 7, 5)  # of the round before
    assert course.snapshot().draws == 5


def test_speed_is_recent_and_falls_while_nothing_comes() -> None:
    course = Course(0.0)
    for second in range(1, 301):  # one a second, then four
        course.answered(float(second), 1, second, 10, 50)
    assert course.snapshot().speed(300.0) == pytest.approx((1.0, 50.0))
    for quarter in range(1, 401):
        course.answered(300 + quarter / 4, 1, 300 + quarter, 10, 50)
    assert course.snapshot().speed(400.0) == pytest.approx((4.0, 200.0))
    assert course.snapshot().speed(520.0)[0] == pytest.approx(240 / 180)
    few = Course(0.0)
    for number in range(10):  # as few as these reach back to the start
        few.answered(100.0 * (number + 1), 1, number, 10, 50)
    assert few.snapshot().speed(1000.0)[0] == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("left", "limit", "within"),
    [
        (Left(), None, 400),
        (Left(requests=1000, tokens=1e9, seconds=1e9, cost=1e9), None, 400),
        (Left(requests=20), "--max-requests", 200),
        (Left(requests=20, tokens=2000), "--max-tokens", 100),
        (Left(seconds=10), "--max-time", 100),
        (Left(cost=0.002), "--max-cost", 40),
        (Left(cost=0), "--max-cost", 0),
    ],
)
def test_the_budget_that_ends_a_run_first(left: Left, limit: str | None, within: int) -> None:
    course = Course(0.0)
    for number in range(20):
        course.answered(20.0, 1, number, 100, 100)
        course.judged(1, number, 10)
    told = forecast(course.snapshot(), 20.0, 400, prices=Prices(prompt=1.0, generated=4.0), left=left)
    assert told is not None
    assert (told.requests, told.tokens, told.seconds) == (40, 8000, 40.0)
    assert told.cost == pytest.approx(0.02)
    assert (told.limit, told.within) == (limit, within)


def test_free_tokens_never_end_a_run() -> None:
    course = Course(0.0)
    for number in range(20):
        course.answered(20.0, 1, number, 100, 100)
        course.judged(1, number, 10)
    told = forecast(course.snapshot(), 20.0, 400, prices=Prices(prompt=0, generated=0), left=Left(cost=1.0))
    assert told is not None
    assert told.cost == 0
    assert told.limit is None


def test_what_is_news() -> None:
    def told(requests: int, seconds: float, limit: str | None = None, within: int = 100) -> Forecast:
        return Forecast(100, requests, 0, 0, seconds, None, limit, within, requests, seconds)

    first = told(100, 60.0)
    assert is_news(None, first)
    assert not is_news(first, told(140, 80.0))
    assert is_news(first, told(151, 60.0))
    assert is_news(first, told(49, 60.0))
    assert is_news(first, told(100, 91.0))
    assert not is_news(first, told(100, 60.0, "--max-tokens", 95))
    assert is_news(first, told(100, 60.0, "--max-tokens", 60))
    assert not is_news(told(100, 60.0, "--max-tokens", 60), told(100, 60.0, "--max-tokens", 50))


def test_counting_as_it_comes_is_counting() -> None:
    """The running sums equal those that are made anew."""
    run = Run(lambda accepted: 3.0)
    for _ in range(700):
        run.step()
    snapshot = run.course.snapshot()
    assert snapshot.answered == 700
    assert snapshot.ahead.requests == run.answered - run.judged
    assert snapshot.draws == snapshot.cost.requests
    assert 100 <= snapshot.accepted < 125
    assert snapshot.cost.prompt_tokens == 800 * snapshot.draws
    assert math.isclose(snapshot.speed(run.now)[0], 8 / 2.0, rel_tol=0.15)
