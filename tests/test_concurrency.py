"""How many requests a server gets at a time, over thousands of simulated answers."""

from __future__ import annotations

import pytest

from selfinstruct_hub.endpoint.concurrency import FAILING, GROWING, OVERLOADED, Fixed, Pace
from tests.support.queueing import Clock, run


@pytest.mark.parametrize("tells_queue", [True, False])
@pytest.mark.parametrize("slots", [8, 32, 128])
def test_slots_stay_busy_and_nothing_is_refused(slots: int, tells_queue: bool) -> None:
    clock = Clock()
    pace = Pace(most=248, clock=clock)
    seen = run(pace, clock, slots=slots, seconds=400, places=256, tells_queue=tells_queue)
    assert seen.busy > 0.99
    assert seen.refused == 0
    assert slots <= seen.last <= 2 * slots + 8
    assert seen.ramp < 45


def test_the_queue_is_kept_short_where_the_server_tells_of_it() -> None:
    clock = Clock()
    seen = run(Pace(most=248, clock=clock), clock, slots=8, seconds=600)
    assert 8 < seen.last <= 16


def test_it_never_asks_for_more_than_is_allowed() -> None:
    clock = Clock()
    seen = run(Pace(most=50, clock=clock), clock, slots=100, seconds=100)
    assert max(limit for _, limit in seen.limits) == 50
    assert seen.last == 50


def test_a_server_that_takes_less_than_it_says_is_not_asked_in_vain() -> None:
    """Others use it too, say: 40 places, where it told of many more."""
    clock = Clock()
    seen = run(Pace(most=248, clock=clock), clock, slots=40, places=40, seconds=600)
    assert seen.refused < 0.01 * seen.requests
    assert seen.busy > 0.85


def test_429_halves_once_for_all_that_were_sent_together() -> None:
    pace = Pace(start=16, most=64)
    mark = pace.sent()
    assert pace.overloaded(mark) == OVERLOADED
    assert pace.limit == 8
    assert pace.overloaded(mark) is None
    assert pace.limit == 8
    assert pace.overloaded(pace.sent()) == OVERLOADED
    assert pace.limit == 4
    for _ in range(9):
        pace.overloaded(pace.sent())
    assert pace.limit == 1


def test_after_429_it_grows_again_but_not_to_where_it_was_refused() -> None:
    clock = Clock()
    pace = Pace(start=40, most=100, clock=clock)
    mark = pace.sent()
    for _ in range(3):
        pace.overloaded(mark)
    assert pace.limit == 20
    for _ in range(1000):
        clock.now += 0.01
        pace.answered(pace.sent(), queue=0.0, total=1.0, tokens=50, used=True)
    assert pace.limit == 35  # a little below the 37 that it took
    clock.now += 60
    for _ in range(1000):
        pace.answered(pace.sent(), queue=0.0, total=1.0, tokens=50, used=True)
    assert pace.limit == 100


def test_it_does_not_grow_where_the_places_are_not_used() -> None:
    pace = Pace(start=16, most=64)
    for _ in range(200):
        assert pace.answered(pace.sent(), queue=0.0, total=1.0, tokens=50, used=False) is None
    assert pace.limit == 16


def test_answers_from_before_a_change_do_not_count() -> None:
    pace = Pace(start=16, most=64)
    old = pace.sent()
    for _ in range(4):
        why = pace.answered(old, queue=0.0, total=1.0, tokens=50, used=True)
    assert why == GROWING
    for _ in range(100):
        assert pace.answered(old, queue=0.0, total=1.0, tokens=50, used=True) is None
    assert pace.limit == 32


def test_some_failures_change_nothing_and_many_halve() -> None:
    pace = Pace(start=16, most=64)
    for number in range(100):
        if number % 5 == 0:
            assert pace.failed(pace.sent()) is None
        else:
            pace.answered(pace.sent(), queue=0.5, total=1.0, tokens=50, used=True)
    assert pace.limit >= 16
    before = pace.limit
    why = None
    for _ in range(before):
        why = why or pace.failed(pace.sent())
    assert why == FAILING
    assert pace.limit < before


def test_a_set_number_stays() -> None:
    pace = Fixed(7)
    pace.overloaded(pace.sent())
    pace.failed(pace.sent())
    pace.answered(pace.sent(), queue=9.0, total=10.0, tokens=1, used=True)
    assert pace.limit == 7


def test_refusals_that_no_number_explains_do_not_hold_it_down_for_ever() -> None:
    """One answer in fifty is a 429, whatever is in flight."""
    clock = Clock()
    pace = Pace(most=124, clock=clock)
    limits = []
    for number in range(20_000):
        clock.now += 1 / pace.limit
        if number % 50 == 0:
            pace.overloaded(pace.sent())
        else:
            pace.answered(pace.sent(), queue=0.0, total=1.0, tokens=50, used=True)
        limits.append(pace.limit)
    assert sum(limits[-5000:]) / 5000 > 10
