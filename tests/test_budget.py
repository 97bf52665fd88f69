"""The budget of a run: no limit is overshot, nothing waits for ever, and nobody's room is lost on the way."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from selfinstruct_hub.config import Prices
from selfinstruct_hub.endpoint import budget as budgets
from selfinstruct_hub.endpoint.budget import Budget, BudgetReached, Left, Spent, price_of
from selfinstruct_hub.errors import EndpointUnreachableError, UsageError

PRICES = Prices(prompt=1.0, generated=10.0)


async def use(budget: Budget, most: int = 10, real: int = 10, seconds: float = 0.0) -> None:
    async with budget.request(0, most):
        await asyncio.sleep(seconds)
        budget.spend(0, real)


async def refused(budget: Budget, limit: str, most: int = 10) -> None:
    with pytest.raises(BudgetReached) as reached:
        await asyncio.wait_for(use(budget, most), 60)
    assert reached.value.limit == limit


async def test_requests_in_flight_count() -> None:
    budget = Budget(max_requests=3)
    async with budget.request(5, 5), budget.request(5, 5):
        assert budget.requests_left == 1
        assert budget.spent.requests == 0
        await use(budget)
        await refused(budget, "--max-requests")  # at once, whatever may still fail
    assert budget.spent.requests == 3
    await refused(budget, "--max-requests")


async def test_a_token_limit_waits_for_answers_that_may_leave_room() -> None:
    budget = Budget(max_tokens=100)
    order = []

    async def one(name: str, most: int, real: int) -> None:
        async with budget.request(most // 2, most - most // 2):
            order.append(name)
            await asyncio.sleep(0.01)
            budget.spend(real // 2, real - real // 2)

    await asyncio.gather(one("a", 80, 10), one("b", 80, 10))  # b fits once a has cost less than it might have
    assert order == ["a", "b"]
    assert budget.spent.tokens == 20
    await refused(budget, "--max-tokens", most=81)
    await one("d", 80, 80)
    assert budget.left.tokens == 0


async def test_a_cost_limit_is_not_overshot() -> None:
    """In the worst case too: answers as long as they may be."""
    budget = Budget(max_cost=0.01, prices=PRICES)  # 1,000 generated tokens, or 10,000 of prompts
    await asyncio.gather(*(use(budget, 300, 300, 0.01) for _ in range(3)))
    await refused(budget, "--max-cost", most=101)
    async with budget.request(1000, 0):
        budget.spend(1000, 0)
    assert budget.cost == pytest.approx(0.01)
    assert budget.left.cost == 0
    await refused(budget, "--max-cost", most=1)


def test_money_needs_prices() -> None:
    for prices, missing in (
        (None, "`prices.prompt` and `prices.generated`"),
        (Prices(prompt=1.0), "set `prices.generated` in selfinstruct.yaml"),
    ):
        with pytest.raises(UsageError, match=missing):
            Budget(max_cost=1.0, prices=prices)
        assert Budget(prices=prices).cost is None
    assert Budget(max_cost=1.0, prices=Prices(prompt=0, generated=0)).cost == 0
    assert price_of(2_000_000, 100_000, PRICES) == 3.0


async def test_nothing_is_granted_after_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 5000.0
    monkeypatch.setattr(budgets, "time", SimpleNamespace(monotonic=lambda: now))
    budget = Budget(max_seconds=110, spent=Spent(seconds=100))
    now = 5009.0
    await use(budget)
    assert budget.left.seconds == 1
    now = 5011.0
    await refused(budget, "--max-time")
    assert budget.left.seconds == 0
    assert budget.spent.seconds == 111


async def test_time_runs_out_for_those_who_wait() -> None:
    """While an answer that takes longer is still on its way; that one is not cut off."""
    budget = Budget(max_seconds=0.05, max_tokens=10)
    answered = asyncio.Event()

    async def slow() -> None:
        async with budget.request(0, 10):
            await answered.wait()
            budget.spend(0, 1)

    in_flight = asyncio.create_task(slow())
    await asyncio.sleep(0)
    await refused(budget, "--max-time")
    answered.set()
    await in_flight
    assert budget.spent.requests == 1


async def test_a_stop_refuses_those_who_wait_and_those_who_come() -> None:
    budget = Budget(max_tokens=10)
    answered = asyncio.Event()

    async def slow() -> None:
        async with budget.request(0, 10):
            await answered.wait()
            budget.spend(0, 10)

    in_flight = asyncio.create_task(slow())
    await asyncio.sleep(0)
    waiting = [asyncio.create_task(use(budget)) for _ in range(3)]
    await asyncio.sleep(0)
    budget.stop("interrupt")
    budget.stop("later")
    for task in waiting:
        with pytest.raises(BudgetReached, match="interrupt"):
            await task
    await refused(budget, "interrupt")
    answered.set()
    await in_flight
    assert (budget.spent.requests, budget.spent.tokens) == (1, 10)


async def test_a_failed_request_costs_nothing_and_gives_its_room_to_who_waits() -> None:
    budget = Budget(max_requests=2, max_tokens=10)

    async def fail() -> None:
        async with budget.request(0, 10):
            await asyncio.sleep(0.01)
            raise EndpointUnreachableError("gone")

    failing, waiting = asyncio.create_task(fail()), asyncio.create_task(use(budget))
    with pytest.raises(EndpointUnreachableError):
        await failing
    await waiting
    assert budget.spent.requests == 1
    assert budget.requests_left == 1


async def test_the_longest_waiting_comes_first() -> None:
    budget = Budget(max_tokens=30)
    order = []

    async def one(name: int) -> None:
        async with budget.request(0, 30):
            order.append(name)
            await asyncio.sleep(0)

    await asyncio.gather(*(one(n) for n in range(8)))
    assert order == list(range(8))


async def test_those_who_fit_do_not_wait_for_those_who_do_not() -> None:
    budget = Budget(max_tokens=100)
    async with budget.request(0, 60):
        large = asyncio.create_task(use(budget, 80, 80))
        await asyncio.sleep(0)
        await asyncio.wait_for(use(budget, 40, 10), 60)
    await large
    assert budget.spent.tokens == 90


async def test_who_is_cancelled_while_waiting_leaves_no_trace() -> None:
    """Also at the very moment when it is granted, and when it is refused."""
    budget = Budget(max_requests=10, max_tokens=10)
    for end in ("cancelled", "granted", "refused"):
        holder = budget.request(0, 10)
        await holder.__aenter__()
        waiting = asyncio.create_task(use(budget))
        await asyncio.sleep(0)
        if end == "granted":
            await holder.__aexit__(None, None, None)
        if end == "refused":
            budget.stop("interrupt")
        waiting.cancel()
        if end != "granted":
            await holder.__aexit__(None, None, None)
        with pytest.raises(asyncio.CancelledError):
            await waiting
        if end != "refused":
            await asyncio.wait_for(use(budget, 10, 0), 60)
    assert budget.spent.requests == 5
    assert budget.requests_left == 5


async def test_leaving_awaits_nothing() -> None:
    """Between an answer and its place on disk, and until it is counted, no cancellation comes through."""
    budget = Budget(max_tokens=100)
    came_through = False

    async def answered() -> None:
        nonlocal came_through
        async with budget.request(0, 10):
            me = asyncio.current_task()
            assert me is not None
            me.cancel()  # arrives at the next await, wherever that is
            budget.spend(0, 10)
        came_through = True

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(answered())
    assert came_through
    assert budget.spent.requests == 1


async def test_nothing_is_lost_in_a_crowd() -> None:
    """Many that come, are answered, fail and are cancelled: at the end everything is free again."""
    budget = Budget(max_tokens=10_000)

    async def one(number: int) -> None:
        async with budget.request(number % 50, 50):
            await asyncio.sleep(0.001 * (number % 3))
            if number % 7 == 0:
                raise EndpointUnreachableError("gone")
            budget.spend(1, 1)

    tasks = [asyncio.create_task(one(number)) for number in range(900)]
    await asyncio.sleep(0.002)
    for task in tasks[::11]:
        task.cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    answered = sum(result is None for result in done)
    assert budget.spent.requests == answered
    assert budget.spent.tokens == 2 * answered
    await asyncio.wait_for(use(budget, 10_000 - 2 * answered, 0), 60)


async def test_it_counts_on_from_what_was_spent_before() -> None:
    budget = Budget(max_requests=6, max_tokens=100, prices=PRICES, spent=Spent(5, 40, 50, 9.0))
    assert budget.requests_left == 1
    assert budget.cost == pytest.approx(0.00054)
    left = budget.left
    assert (left.requests, left.tokens, left.seconds, left.cost) == (1, 10, float("inf"), float("inf"))
    await refused(budget, "--max-tokens", most=11)
    await use(budget, 10, 10)
    assert budget.left.requests == 0
    assert Budget(max_requests=1, spent=Spent(requests=3)).left == Left(requests=0)
