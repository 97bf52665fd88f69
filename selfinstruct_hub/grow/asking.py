"""Numbered pieces of work that ask an endpoint: answers are on disk before anything reads them.

What a number asks for is for the callers to say: a draw of a round, a place of a revision. `order.py` works
through the numbers.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Sequence
from functools import partial
from typing import Generic, TypeVar

from selfinstruct_hub import events
from selfinstruct_hub.endpoint import Endpoint
from selfinstruct_hub.endpoint.budget import Budget
from selfinstruct_hub.errors import RequestFailedError
from selfinstruct_hub.grow.progress import Progress
from selfinstruct_hub.records import Completion, Failure, Request, estimated_tokens

T = TypeVar("T")

_OBSERVE_SECONDS = 1.0  # a view is told how things are, even where nothing comes
# The share of failed requests is taken of so many recent ones, and so few failures never stop a run.
_RECENT_REQUESTS, _FEW_FAILURES = 50, 10


class Asking(ABC, Generic[T]):
    """Answers, failures and requests in flight are counted into `progress`. `requests` is how many a number is
    reckoned to ask for."""

    def __init__(
        self,
        endpoint: Endpoint,
        budget: Budget,
        progress: Progress,
        report: events.Report,
        *,
        max_failed_share: float,
        requests: int = 1,
    ) -> None:
        self._endpoint = endpoint
        self._budget = budget
        self._progress = progress
        self._report = report
        self._max_failed_share = max_failed_share
        self.requests = requests
        self._recent: deque[bool] = deque(maxlen=_RECENT_REQUESTS)  # whether a request failed for good
        self._something = False  # has ended since it was last waited for
        self._waiter: asyncio.Future[None] | None = None
        self._asked_now = 0  # requests that wait for a place or are in flight
        self.unfinished = 0
        self.ended = False  # whether the run comes to its end with one of the numbers
        self._unstored: list[tuple[Request, Completion, asyncio.Future[None]]] = []
        self.failures: dict[int, list[Failure]] = {}  # by number, of those that are not judged
        self.answers = 0  # of this start
        self.asked: set[int] = set()  # numbers that did not have all their answers on disk, not judged yet
        self._answered_at = time.monotonic()
        self._still_to_ask: Counter[int] = Counter()  # requests, by number
        self._answers_at_failure: dict[int, int] = {}  # by number
        self._failing = ""  # why the run should stop

    @abstractmethod
    async def _made(self, number: int) -> T:
        """What the requests of `number` bring."""

    @abstractmethod
    def _stored_answer(self, request: Request) -> tuple[Request, Completion] | None:
        """The answer that is on disk already, with the request as it was sent."""

    @abstractmethod
    def _store(self, answered: Sequence[tuple[Request, Completion]]) -> None:
        """Puts answers on disk, all of them or none."""

    def start(self, number: int) -> asyncio.Task[T]:
        """Begins `number`."""
        task = asyncio.create_task(self._made(number))
        self.unfinished += 1
        self._still_to_ask[number] = self.requests
        task.add_done_callback(partial(self._finished, number))
        return task

    @property
    def hungry(self) -> bool:
        """Whether more requests would be served at once; some may wait, so that a place that falls free is taken
        before the next number is begun."""
        capacity = self._endpoint.capacity
        return self._asked_now < capacity + capacity // 8

    @property
    def to_ask(self) -> int:
        """Requests that the numbers begun are reckoned to ask for still."""
        return self._still_to_ask.total()

    def _finished(self, number: int, task: asyncio.Task[T]) -> None:
        self.unfinished -= 1
        del self._still_to_ask[number]
        # A request that was given up costs only what it was for.
        if task.cancelled() or not isinstance(task.exception(), RequestFailedError | None):
            self.ended = True
        self._notify()

    def why_it_fails(self, stall: float) -> str:
        """Why the run should stop: too many requests have failed, or nothing was answered for `stall` seconds and
        tries have failed. Empty otherwise."""
        silent = time.monotonic() - self._answered_at
        if not self._failing and silent > stall and self._progress.retries:
            reasons = ", ".join(f"{reason} {count}" for reason, count in self._progress.retries.most_common())
            return f"nothing was answered for {silent:.0f} s (failed tries: {reasons})"
        return self._failing

    def doubtful(self, number: int) -> bool:
        """Whether nothing was answered since a request of `number` failed for good."""
        return self._answers_at_failure.get(number) == self.answers

    async def changed(self) -> None:
        """Until a number or a request has ended, or for a second."""
        # Not asyncio.wait_for, which before Python 3.12 may lose a cancellation.
        self._waiter = asyncio.get_running_loop().create_future()
        timer = asyncio.get_running_loop().call_later(_OBSERVE_SECONDS, self._notify)
        try:
            if not self._something:
                await self._waiter
        finally:
            timer.cancel()
            self._something, self._waiter = False, None

    def _notify(self) -> None:
        self._something = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def answer(self, request: Request) -> tuple[Request, Completion]:
        """The stored answer to `request`, with the request as it was sent then, or the endpoint's, stored before
        it is returned."""
        if stored := self._stored_answer(request):
            return stored
        self.asked.add(request.number)
        self._asked_now += 1
        try:
            completion = await self._asked(request)
        except RequestFailedError as error:
            self._failed(request, error)
            raise
        finally:
            self._asked_now -= 1
            self._notify()
        return request, completion

    async def _asked(self, request: Request) -> Completion:
        """The endpoint's answer, stored."""
        prompt_tokens, most = estimated_tokens(request.prompt), request.decoding.max_new_tokens
        completion = None
        while completion is None:
            async with self._endpoint.turn(request.number, request.call) as turn:
                if self._budget.has_room(prompt_tokens, most):
                    async with self._budget.request(prompt_tokens, most):
                        self._still_to_ask[request.number] = max(0, self._still_to_ask[request.number] - 1)
                        completion = await turn.complete(request.prompt, request.decoding)
                        await self._stored(request, completion)
                        spent = (
                            _known_or(completion.prompt_tokens, request.prompt),
                            _known_or(completion.generated_tokens, completion.text),
                        )
                        self._budget.spend(*spent)
            if completion is None:
                # Without its place: one in flight may have to be tried again before it leaves room.
                await self._budget.changed()
        self._recent.append(False)
        self.answers += 1
        self._answered_at = time.monotonic()
        progress = self._progress
        progress.requests += 1
        progress.prompt_tokens += spent[0]
        progress.generated_tokens += spent[1]
        self._report(
            events.Answered(
                *(request.round, request.number, request.call, request.stage),
                *spent,
                completion.finish_reason,
                completion.total_time,
                completion.queue_time,
            )
        )
        return completion

    async def _stored(self, request: Request, completion: Completion) -> None:
        """Returns when the answer is on disk, with all that came at the same moment. It gets there whoever is
        cancelled meanwhile."""
        loop = asyncio.get_running_loop()
        stored: asyncio.Future[None] = loop.create_future()
        if not self._unstored:
            loop.call_soon(self.store)
        self._unstored.append((request, completion, stored))
        await stored

    def store(self) -> None:
        """Stores what has come and is not on disk yet."""
        batch, self._unstored = self._unstored, []
        if not batch:
            return
        try:
            self._store([(request, completion) for request, completion, _ in batch])
        except Exception as error:
            for *_, stored in batch:
                if not stored.done():
                    stored.set_exception(error)
            if all(stored.cancelled() for *_, stored in batch):
                raise  # nobody is there to hear of it
            return
        for *_, stored in batch:
            if not stored.done():
                stored.set_result(None)

    def _failed(self, request: Request, error: RequestFailedError) -> None:
        """Notes that a request was given up. Its number goes on without it, unless too many do."""
        failure = Failure(request.call, request.stage, error.reason, error.said, error.tries)
        self.failures.setdefault(request.number, []).append(failure)
        self._answers_at_failure[request.number] = self.answers
        self._progress.failed[error.reason] += 1
        self._report(
            events.GivenUp(
                *(request.round, request.number, request.call, request.stage),
                *(error.reason, error.said, error.tries),
            )
        )
        self._recent.append(True)
        failed, recent = sum(self._recent), len(self._recent)
        if failed >= _FEW_FAILURES and failed > self._max_failed_share * recent:
            self._failing = (
                f"{failed} of the last {recent} requests failed for good, the last one with {error.said}"
            )


def _known_or(tokens: int | None, text: str) -> int:
    """The tokens that the endpoint counted, or what `text` is taken to have: it is not free."""
    return estimated_tokens(text) if tokens is None else tokens
