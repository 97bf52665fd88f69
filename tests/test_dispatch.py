"""Places, tries and pauses before one server or several. The servers here are scripted objects; the protocols
themselves are tested over HTTP elsewhere."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from selfinstruct_hub import events
from selfinstruct_hub.config import EndpointSettings
from selfinstruct_hub.endpoint import Limits, TransientError, failures
from selfinstruct_hub.endpoint.budget import BudgetReached
from selfinstruct_hub.endpoint.dispatch import Dispatcher
from selfinstruct_hub.errors import EndpointRefusedError, RequestFailedError
from selfinstruct_hub.records import CONNECTION, FAILURES, OVERLOADED, SERVER_ERROR, TIMEOUT, Completion, Decoding


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "FIRST_PAUSE", 0.002)


class Scripted:
    """A server whose try number n is `script(n)`: a failure to raise, or None for an answer."""

    kind, version, embedded, chat = "tgi", "3", False, False

    def __init__(
        self,
        script: Callable[[int], Exception | None] = lambda n: None,
        *,
        name: str = "http://one",
        seconds: float = 0.0,
        limits: Limits | None = None,
        queue: float | None = 0.0,
        held: asyncio.Event | None = None,
    ) -> None:
        self.name = name
        self.model = "m"
        self.limits = limits or Limits(max_concurrent_requests=128)
        self.prompts: list[str] = []
        self.in_flight = self.most_in_flight = 0
        self.closed = False
        self._script = script
        self._seconds = seconds
        self._queue = queue
        self._held = held  # answers wait for it

    async def send(self, prompt: str, decoding: Decoding) -> Completion:
        number = len(self.prompts)
        self.prompts.append(prompt)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self._seconds)
            if self._held is not None:
                await self._held.wait()
            if failure := self._script(number):
                raise failure
            return Completion(f"{self.name} {prompt}", "eos", generated_tokens=5, queue_time=self._queue)
        finally:
            self.in_flight -= 1

    async def close(self) -> None:
        self.closed = True


def dispatcher(*servers: Scripted, report: events.Report = events.ignore, **settings: Any) -> Dispatcher:
    return Dispatcher(servers, EndpointSettings(**settings), report)


async def ask(endpoint: Dispatcher, prompt: str = "p", *order: int) -> Completion:
    async with endpoint.turn(*order) as turn:
        return await turn.complete(prompt, Decoding(10))


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0)


def fails(reason: str, times: int, **more: Any) -> Callable[[int], Exception | None]:
    return lambda n: TransientError(reason, "so it said", **more) if n < times else None


@pytest.mark.parametrize("reason", FAILURES)
async def test_a_transient_failure_is_tried_again_and_told(reason: str) -> None:
    told: list[events.Event] = []
    server = Scripted(fails(reason, 2))
    assert (await ask(dispatcher(server, report=told.append))).text == "http://one p"
    retried = [event for event in told if isinstance(event, events.Retried)]
    assert [(event.reason, event.said, event.attempt) for event in retried] == [
        (reason, "so it said", 1),
        (reason, "so it said", 2),
    ]
    assert all(event.pause > 0 for event in retried)


async def test_tries_are_bounded_and_the_last_reason_is_told() -> None:
    server = Scripted(fails(SERVER_ERROR, 99))
    with pytest.raises(
        RequestFailedError, match=r"http://one failed 3 times in \d+ s, last with so it said"
    ) as error:
        await ask(dispatcher(server, attempts=3))
    assert (error.value.reason, error.value.said, error.value.tries) == (SERVER_ERROR, "so it said", 3)
    assert len(server.prompts) == 3


async def test_429_is_bounded_by_time_and_not_by_tries() -> None:
    assert (await ask(dispatcher(Scripted(fails(OVERLOADED, 9)), attempts=2))).generated_tokens == 5
    began = time.monotonic()
    with pytest.raises(RequestFailedError) as error:
        await ask(dispatcher(Scripted(fails(OVERLOADED, 10**6)), attempts=2, stall=0.3))
    assert time.monotonic() - began < 60
    assert error.value.tries > 2


async def test_a_pause_that_a_server_asks_for_is_kept_by_all() -> None:
    server = Scripted(lambda n: TransientError(OVERLOADED, retry_after=0.2) if n == 0 else None)
    endpoint = dispatcher(server, concurrency=2)
    began = time.monotonic()
    await asyncio.gather(*(ask(endpoint, str(n), n) for n in range(4)))
    assert time.monotonic() - began >= 0.2


async def test_a_pause_beyond_the_stall_deadline_is_not_waited_for() -> None:
    server = Scripted(fails(OVERLOADED, 99, retry_after=200.0))
    began = time.monotonic()
    with pytest.raises(RequestFailedError):
        await ask(dispatcher(server, stall=100))
    assert time.monotonic() - began < 60


async def test_what_is_not_transient_is_raised_at_once_and_its_place_is_given_back() -> None:
    server = Scripted(lambda n: EndpointRefusedError("no", said="no") if n < 3 else None)
    endpoint = dispatcher(server, concurrency=1)
    for _ in range(3):
        with pytest.raises(EndpointRefusedError):
            await ask(endpoint)
    assert (await ask(endpoint)).generated_tokens == 5
    assert len(server.prompts) == 4


async def test_no_more_in_flight_than_set_or_allowed() -> None:
    for settings, allowed, most in ((6, 128, 6), (50, 8, 8), ("auto", 4, 4), (1, 128, 1)):
        server = Scripted(seconds=0.005, limits=Limits(max_concurrent_requests=allowed))
        endpoint = dispatcher(server, concurrency=settings)
        await asyncio.gather(*(ask(endpoint, str(n), n) for n in range(40)))
        assert server.most_in_flight == most
        assert endpoint.capacity == most


async def test_a_set_number_is_for_all_servers_together() -> None:
    servers = [Scripted(seconds=0.01, name=name) for name in ("http://one", "http://two")]
    endpoint = dispatcher(*servers, concurrency=6)
    await asyncio.gather(*(ask(endpoint, str(n), n) for n in range(40)))
    assert endpoint.capacity == 6
    assert sum(server.most_in_flight for server in servers) <= 7
    assert [len(server.prompts) for server in servers] == [20, 20]


async def test_the_earliest_draw_is_served_first() -> None:
    server = Scripted(seconds=0.002)
    endpoint = dispatcher(server, concurrency=1)
    await asyncio.gather(*(ask(endpoint, str(n), n) for n in (5, 3, 9, 1)))
    assert server.prompts == ["5", "1", "3", "9"]  # the first found a free place


async def test_several_servers_share_the_load_by_what_each_takes() -> None:
    small = Scripted(seconds=0.01, name="http://small", limits=Limits(max_concurrent_requests=4))
    large = Scripted(seconds=0.01, name="http://large", limits=Limits(max_concurrent_requests=12))
    endpoint = dispatcher(small, large)
    await asyncio.gather(*(ask(endpoint, str(n), n) for n in range(160)))
    assert 30 <= len(small.prompts) <= 50
    assert len(large.prompts) == 160 - len(small.prompts)
    assert endpoint.limits.max_concurrent_requests == 16


async def test_a_server_that_is_down_costs_no_request_while_another_works() -> None:
    down = Scripted(fails(CONNECTION, 10**6), name="http://down")
    up = Scripted(seconds=0.001, name="http://up")
    endpoint = dispatcher(down, up, attempts=2)
    found = await asyncio.gather(*(ask(endpoint, str(n), n) for n in range(200)))
    assert {completion.text.split()[0] for completion in found} == {"http://up"}
    assert len(down.prompts) < 100


async def test_a_server_that_answers_nobody_is_left_alone_between_tries() -> None:
    server = Scripted(fails(CONNECTION, 10**6))
    endpoint = dispatcher(server, concurrency=4, attempts=4, stall=30)
    found = await asyncio.gather(*(ask(endpoint, str(n), n) for n in range(4)), return_exceptions=True)
    assert all(isinstance(error, RequestFailedError) for error in found)


async def test_a_cancelled_request_gives_its_place_back() -> None:
    answers = asyncio.Event()
    server = Scripted(held=answers)
    endpoint = dispatcher(server, concurrency=1)
    first = asyncio.create_task(ask(endpoint, "first", 0))
    waiting = [asyncio.create_task(ask(endpoint, "waiting", 1)) for _ in range(3)]
    await until(lambda: server.in_flight == 1)
    first.cancel()
    waiting[0].cancel()
    answers.set()
    done = await asyncio.wait_for(asyncio.gather(first, *waiting, return_exceptions=True), 60)
    assert [isinstance(one, asyncio.CancelledError) for one in done] == [True, True, False, False]
    assert (await asyncio.wait_for(ask(endpoint), 60)).generated_tokens == 5


async def test_a_place_given_at_the_moment_of_a_cancellation_is_not_lost() -> None:
    server = Scripted(seconds=0.01)
    endpoint = dispatcher(server, concurrency=1)
    first = asyncio.create_task(ask(endpoint, "first", 0))
    second = asyncio.create_task(ask(endpoint, "second", 1))
    first.add_done_callback(lambda _: second.cancel())  # the place is the second's by then
    await asyncio.gather(first, second, return_exceptions=True)
    assert (await asyncio.wait_for(ask(endpoint), 60)).generated_tokens == 5


async def test_after_stop_only_what_is_in_flight_comes() -> None:
    answers = asyncio.Event()
    server = Scripted(lambda n: TransientError(TIMEOUT) if n == 1 else None, held=answers)
    endpoint = dispatcher(server, concurrency=2, report=events.ignore)
    tasks = [asyncio.create_task(ask(endpoint, str(n), n)) for n in range(5)]
    await until(lambda: server.in_flight == 2)
    endpoint.stop("interrupt")
    answers.set()
    found = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 60)
    assert isinstance(found[0], Completion)
    assert all(isinstance(error, BudgetReached) and error.limit == "interrupt" for error in found[1:])
    with pytest.raises(BudgetReached):
        await ask(endpoint)


async def test_it_tells_when_the_number_in_flight_changes() -> None:
    told: list[events.Event] = []
    server = Scripted(seconds=0.001)
    endpoint = dispatcher(server, report=told.append)
    await asyncio.gather(*(ask(endpoint, str(n), n) for n in range(300)))
    assert [event.in_flight for event in told if isinstance(event, events.Paced)] == [32, 64, 124]
    assert server.most_in_flight <= 124


async def test_the_embedded_engine_gets_a_little_more_than_its_batch() -> None:
    server = Scripted(limits=Limits(max_concurrent_requests=128))
    server.embedded = True
    assert dispatcher(server).capacity == 20


async def test_every_server_is_closed() -> None:
    servers = [Scripted(), Scripted()]
    await dispatcher(*servers).close()
    assert all(server.closed for server in servers)


async def test_what_failed_elsewhere_waits_for_the_server_that_works() -> None:
    """The one that works is full; the free places of the dead one are no good."""
    down = Scripted(fails(CONNECTION, 10**6), name="http://down")
    up = Scripted(seconds=0.02, name="http://up", limits=Limits(max_concurrent_requests=2))
    endpoint = dispatcher(down, up, attempts=3)
    found = await asyncio.wait_for(asyncio.gather(*(ask(endpoint, str(n), n) for n in range(60))), 60)
    assert {completion.text.split()[0] for completion in found} == {"http://up"}


async def test_a_server_that_comes_back_is_used_again() -> None:
    back = Scripted(fails(CONNECTION, 8), seconds=0.001, name="http://back")
    other = Scripted(seconds=0.005, name="http://other")
    endpoint = dispatcher(back, other, attempts=9)
    for _ in range(10):
        await asyncio.gather(*(ask(endpoint, str(n), n) for n in range(40)))
        await asyncio.sleep(0.01)
    assert len(back.prompts) > 60


async def test_what_is_in_flight_is_with_a_server() -> None:
    answers = asyncio.Event()
    server = Scripted(fails(OVERLOADED, 1, retry_after=0.2), held=answers)
    endpoint = dispatcher(server, concurrency=4)
    task = asyncio.create_task(ask(endpoint))
    await until(lambda: endpoint.in_flight == 1)
    answers.set()
    await asyncio.wait_for(until(lambda: endpoint.in_flight == 0), 60)  # it pauses
    assert not task.done()
    await task
