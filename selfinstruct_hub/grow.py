"""The main path: rounds of growth, each from demonstrations to a frozen release.

A round draws demonstrations, asks for completions, stores them, parses, judges, and ends at exactly the wanted
number of accepted tasks. Requests run concurrently; judging runs in request order, so the kept set depends
neither on latency nor on concurrency.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from selfinstruct_hub import events, recipes, sampling
from selfinstruct_hub.endpoint import Endpoint
from selfinstruct_hub.endpoint.budget import Budget, BudgetReached
from selfinstruct_hub.errors import EndpointError, RequestFailedError
from selfinstruct_hub.judging import Gates, Judge
from selfinstruct_hub.plan import demonstration_seeds, fits, plan_of
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.records import (
    REQUEST_FAILED,
    REQUEST_REFUSED,
    Candidate,
    Completion,
    Decoding,
    Failure,
    Request,
    Round,
    Task,
    Verdict,
    estimated_tokens,
)

# Draws sent beyond the expected need: a few spare answers cost less than a round that waits for one more.
_SLACK = 1.25
# Draws that may wait for an earlier one's verdict, for each request in flight: the longest answers take many
# times as long as most, and nothing may stand idle behind one.
_MOST_AHEAD = 32
_MOST_JUDGED_AT_ONCE = 16
_GRACE_SECONDS = 5.0  # for answers in flight when the endpoint has failed for good
_OBSERVE_SECONDS = 1.0  # a view is told how things are, even where nothing comes
SATURATION = "saturation"
BARREN = "barren"
REFUSED = "refused"
FAILING = "failing"
INTERRUPT = "interrupt"
# So many refused requests in a row, with no answer to a request of that kind between them, are no single task's
# fault.
_MOST_REFUSED = 20
# The share of failed requests is taken of so many recent ones, and so few failures never stop a run.
_RECENT_REQUESTS, _FEW_FAILURES = 50, 10


@dataclass
class Progress:
    """How far a round is, for whoever shows it. `requests` are those that were answered, `failed` those that were
    given up, by reason; `retries` are failed tries by reason; `later` tasks are wanted in later rounds of the
    run. `budget` knows what the run has spent and may still spend; it is only to be read."""

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


async def grow_round(
    pool: Pool,
    round_: Round,
    endpoint: Endpoint,
    *,
    budget: Budget,
    observe: Observe,
    gates: Gates | None = None,
    report: events.Report = events.ignore,
    max_barren: int | None = None,
    max_failed_share: float = 1.0,
    stall: float = math.inf,
    finish_seconds: float = _GRACE_SECONDS,
    later: int = 0,
    retries: Counter[str] | None = None,
) -> RoundOutcome:
    """Grows `round_` to its wanted number of accepted tasks, or until `budget` stops it, until the draws of
    `max_barren` requests in a row have brought no accepted task, or until more than `max_failed_share` of the
    recent requests have failed for good, or nothing at all was answered for `stall` seconds. What is in flight
    then is given `finish_seconds`. `gates` must be those that the round was begun with. `later` and `retries` are
    told to `observe`.

    Raises EndpointError where the endpoint refuses to work at all. Whatever was answered until then is stored, and
    the next call goes on from it.
    """
    judge = Judge.resumed(pool, round_, gates)
    progress = _progress_of(pool, round_)
    progress.later, progress.budget = later, budget
    progress.retries = Counter() if retries is None else retries
    passing = asyncio.Lock()

    async def passes(candidates: Sequence[Candidate]) -> Sequence[bool]:
        # Beside the loop: with evaluation sets and a model for paraphrases it takes a while.
        async with passing:
            return await asyncio.to_thread(judge.passing, candidates)

    draws = _Draws(pool, round_, endpoint, budget, progress, passes, report, max_failed_share)
    a_draw_brings = _brought_before(pool, round_)
    number = pool.judged_draws(round_.number)
    barren = 0  # requests in a row that brought no accepted task
    refusals = _Refusals()
    limit, detail = None, ""
    running: dict[int, asyncio.Task[list[Candidate]]] = {}
    try:
        while progress.accepted < round_.wanted:
            ahead = _draws_needed(progress, number, a_draw_brings, endpoint.capacity) + len(draws.failures)
            while not draws.ended and len(running) < ahead and draws.hungry:
                # A draw that the budget cannot bring to its end would only be begun.
                if running and budget.requests_left < draws.to_ask + draws.requests:
                    break
                following = number + len(running)
                running[following] = draws.start(following)
                await asyncio.sleep(0)  # lets it ask, so that it is counted
            progress.capacity, progress.in_flight = endpoint.capacity, endpoint.in_flight
            observe(progress)
            if detail := draws.why_it_fails(stall):
                limit = FAILING
                # Others may be answered well. What pauses before another try is not asked for again.
                budget.stop(FAILING)
                endpoint.stop(FAILING)
                await _let_finish(running.values(), finish_seconds)
                break
            # A failure is recorded once the endpoint has answered something else: what it never answers because
            # it is down is asked for again when it is up.
            if not running[number].done() or (draws.unfinished and draws.doubtful(number)):
                await draws.changed()
                continue
            try:
                if draws.doubtful(number) and (reached := _budget_reached(running.values())):
                    raise reached
                ready = _ready(running, number, draws)
            except BudgetReached as reached:
                limit = reached.limit
                if endpoint.in_flight:
                    report(events.Ending(limit, endpoint.in_flight))
                # What is in flight is paid for: it ends by itself, since nothing more is granted.
                await _let_finish(running.values(), None)
                detail = budget.told(limit)  # only now, so that it counts what was in flight
                break
            except EndpointError:
                await _let_finish(running.values(), _GRACE_SECONDS)
                raise
            # In a thread: a large pool must not keep the answers waiting that come meanwhile.
            verdicts = await asyncio.to_thread(lambda batch: list(judge.draws(batch)), ready)
            judged: list[tuple[int, list[Verdict], Sequence[Failure]]] = []
            counted: list[events.Judged] = []
            for (number, candidates), found in zip(ready, verdicts, strict=False):
                del running[number]
                judged.append((number, found, draws.failures.pop(number, ())))
                counted.append(_judged(round_.number, number, found))
                _count(progress, counted[-1])
                asked = len({0}.union(*(candidate.calls for candidate in candidates)))
                barren = 0 if any(verdict.task for verdict in found) else barren + asked
                if said := refusals.persist(found):
                    limit, detail = REFUSED, said
                elif max_barren is not None and barren >= max_barren:
                    limit = BARREN
                if limit is not None:
                    break
            pool.add_draws(round_.number, judged)
            for event in counted:
                report(event)
            number += 1
            if limit is not None and progress.accepted < round_.wanted:
                break
        if progress.accepted >= round_.wanted:
            limit, detail = None, ""
            pool.complete_round(round_.number)
            round_ = replace(round_, complete=True)
    finally:
        for task in running.values():
            task.cancel()
        await asyncio.gather(*running.values(), return_exceptions=True)
        draws.store()
        progress.in_flight = endpoint.in_flight
        observe(progress)
    return RoundOutcome(round_, progress.accepted, limit, detail)


def _ready(
    running: Mapping[int, asyncio.Task[list[Candidate]]], number: int, draws: _Draws
) -> list[tuple[int, list[Candidate]]]:
    """The draws from `number` on that can be judged now, with their candidates: none where the first request was
    given up. Raises what ended the first of them."""
    found: list[tuple[int, list[Candidate]]] = []
    while len(found) < _MOST_JUDGED_AT_ONCE and (task := running.get(number)) and task.done():
        error = task.exception()
        if found and (draws.doubtful(number) or not isinstance(error, RequestFailedError | None)):
            break
        found.append((number, [] if isinstance(error, RequestFailedError) else task.result()))
        number += 1
    return found


def _budget_reached(draws: Iterable[asyncio.Task[list[Candidate]]]) -> BudgetReached | None:
    found = (task.exception() for task in draws if task.done())
    return next((error for error in found if isinstance(error, BudgetReached)), None)


async def _let_finish(draws: Iterable[asyncio.Task[list[Candidate]]], timeout: float | None) -> None:
    """Gives answers that are on their way the time to arrive and be stored."""
    if pending := [task for task in draws if not task.done()]:
        await asyncio.wait(pending, timeout=timeout)


class _Refusals:
    """Tells a refusal that belongs to a task from an endpoint that refuses a kind of request. Goes by judged
    draws, so that neither latency nor concurrency has a say in it."""

    def __init__(self) -> None:
        self._in_a_row: Counter[str] = Counter()  # by stage

    def persist(self, verdicts: Sequence[Verdict]) -> str:
        """What the endpoint says where it refuses a stage's requests again and again; empty otherwise."""
        for verdict in verdicts:
            candidate = verdict.candidate
            failure = candidate.failure
            if failure and failure.reason == REQUEST_FAILED:
                continue  # says nothing about what is refused
            if failure is None or failure.reason != REQUEST_REFUSED:
                # An answer in a stage: those before it must have answered too.
                self._in_a_row.pop(candidate.stage, None)
                if candidate.instances or candidate.lost:
                    self._in_a_row.clear()
                continue
            self._in_a_row[candidate.stage] += 1
            if self._in_a_row[candidate.stage] >= _MOST_REFUSED:
                return (
                    f"the endpoint has refused {_MOST_REFUSED} requests of the step `{candidate.stage}` in a row "
                    f"({failure.detail})"
                )
        return ""


class _Draws:
    """Turns a draw's number into candidates: a deck, the recipe, completions stored before they are read.
    Answers, failures and requests in flight are counted into `progress`."""

    def __init__(
        self,
        pool: Pool,
        round_: Round,
        endpoint: Endpoint,
        budget: Budget,
        progress: Progress,
        passes: recipes.Passes,
        report: events.Report,
        max_failed_share: float,
    ) -> None:
        self._pool = pool
        self._round = round_
        self._endpoint = endpoint
        self._budget = budget
        self._recipe = recipes.named(round_.settings["recipe"])
        self._plan = plan_of(round_.settings)
        self._human = demonstration_seeds(pool.seeds(), round_.settings)
        self._machine = machine_tasks(pool, round_) if self._plan.machines else []
        self._progress = progress
        self._passes = passes
        self._report = report
        self._max_failed_share = max_failed_share
        self._recent: deque[bool] = deque(maxlen=_RECENT_REQUESTS)  # whether a request failed for good
        self._something = False  # has ended since it was last waited for
        self._waiter: asyncio.Future[None] | None = None
        # What a draw is reckoned to ask for: one request for each stage and each task that it brings.
        stages = len(self._recipe.stages)
        self.requests = 1 + (stages - 1) * self._plan.tasks_per_request
        self._asked_now = 0  # requests that wait for a place or are in flight
        self.unfinished = 0
        self.ended = False  # whether the run comes to its end with one of the draws
        self._unstored: list[tuple[Request, Completion, asyncio.Future[None]]] = []
        self.failures: dict[int, list[Failure]] = {}  # by draw, of those that are not judged
        self._answers = 0
        self._answered_at = time.monotonic()
        self._still_to_ask: Counter[int] = Counter()  # requests, by draw
        self._answers_at_failure: dict[int, int] = {}  # by draw
        self._failing = ""  # why the run should stop

    def start(self, number: int) -> asyncio.Task[list[Candidate]]:
        """Begins draw `number`."""
        task = asyncio.create_task(self._candidates(number))
        self.unfinished += 1
        self._still_to_ask[number] = self.requests
        task.add_done_callback(partial(self._finished, number))
        return task

    @property
    def hungry(self) -> bool:
        """Whether more requests would be served at once; some may wait, so that a place that falls free is taken
        before the next draw is begun."""
        capacity = self._endpoint.capacity
        return self._asked_now < capacity + capacity // 8

    @property
    def to_ask(self) -> int:
        """Requests that the draws begun are reckoned to ask for still."""
        return self._still_to_ask.total()

    def _finished(self, number: int, draw: asyncio.Task[list[Candidate]]) -> None:
        self.unfinished -= 1
        del self._still_to_ask[number]
        # A request that was given up costs only what it was for.
        if draw.cancelled() or not isinstance(draw.exception(), RequestFailedError | None):
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
        """Whether nothing was answered since a request of draw `number` failed for good."""
        return self._answers_at_failure.get(number) == self._answers

    async def changed(self) -> None:
        """Until a draw or a request has ended, or for a second."""
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

    async def _candidates(self, number: int) -> list[Candidate]:
        seed = self._round.settings["seed"]

        async def complete(
            stage: str, prompt: str, decoding: Decoding, *, shown: Sequence[Task], item: int = 0
        ) -> Completion:
            call = self._recipe.call(stage, item)
            request = Request(
                round=self._round.number,
                number=number,
                call=call,
                stage=stage,
                prompt=prompt,
                decoding=replace(decoding, seed=sampling.request_seed(seed, self._round.number, number, call)),
                demonstrations=tuple(task.id for task in shown),
            )
            return await self._answer(request)

        rng = partial(sampling.rng_of, seed, self._round.number, number)
        deck = sampling.Deck(human=self._human, machine=self._machine, rng=rng)
        return await self._recipe.run(deck, complete, self._passes, self._plan)

    async def _answer(self, request: Request) -> Completion:
        """The stored answer to `request`, or the endpoint's, stored before it is returned."""
        if stored := self._pool.completion(request.round, request.number, request.call):
            return stored[1]
        self._asked_now += 1
        try:
            completion = await self._asked(request)
        except RequestFailedError as error:
            self._failed(request, error)
            raise
        finally:
            self._asked_now -= 1
            self._notify()
        return completion

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
        self._answers += 1
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
            self._pool.add_completions([(request, completion) for request, completion, _ in batch])
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
        """Notes that a request was given up. Its draw goes on without it, unless too many do."""
        failure = Failure(request.call, request.stage, error.reason, error.said, error.tries)
        self.failures.setdefault(request.number, []).append(failure)
        self._answers_at_failure[request.number] = self._answers
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


def machine_tasks(pool: Pool, round_: Round) -> list[Task]:
    """The tasks that rounds before `round_` have accepted: what it may show as machine-made, where it fits."""
    earlier = (task for number in range(1, round_.number) for task in pool.tasks(number))
    return [task for task in earlier if fits(task, round_.settings)]


def _brought_before(pool: Pool, round_: Round) -> float:
    """Accepted tasks that a draw is expected to bring: as in the last round of the same recipe, or half of
    what it asks for."""
    for earlier in reversed(pool.rounds()[: round_.number - 1]):
        asked = [earlier.settings.get(key) for key in ("recipe", "tasks_per_request")]
        if asked == [round_.settings["recipe"], round_.settings["tasks_per_request"]]:
            return pool.accepted_count(earlier.number) / max(1, pool.judged_draws(earlier.number))
    return float(round_.settings["tasks_per_request"]) / 2


def _draws_needed(progress: Progress, judged: int, a_draw_brings: float, capacity: int) -> int:
    """How many draws may be unjudged at a time: enough to keep the endpoint busy behind a slow answer, but
    near the end no more than the tasks still missing will take, so that few answers are paid for nothing."""
    expected = (progress.accepted + a_draw_brings) / (judged + 1)  # accepted tasks a draw
    needed = math.ceil(_SLACK * (progress.wanted - progress.accepted) / expected)
    return max(1, min(_MOST_AHEAD * capacity, needed))


def _progress_of(pool: Pool, round_: Round) -> Progress:
    counts = pool.counts(round_.number)
    requests, prompt_tokens, generated_tokens = pool.cost(round_.number)
    return Progress(
        round=round_.number,
        version=round_.version,
        wanted=round_.wanted,
        accepted=counts["tasks"],
        requests=requests,
        judged=pool.judged_draws(round_.number),
        candidates=counts["candidates"],
        prompt_tokens=prompt_tokens,
        generated_tokens=generated_tokens,
        drops=Counter(counts["drops"]),
        failed=Counter(counts["failed"]),
    )


def _count(progress: Progress, judged: events.Judged) -> None:
    progress.judged += 1
    progress.candidates += judged.candidates
    progress.accepted += judged.accepted
    progress.drops.update(judged.drops)


def _judged(round_number: int, number: int, verdicts: Sequence[Verdict]) -> events.Judged:
    return events.Judged(
        round=round_number,
        number=number,
        candidates=len(verdicts),
        accepted=sum(verdict.task is not None for verdict in verdicts),
        drops=Counter(verdict.drop.reason for verdict in verdicts if verdict.drop),
    )
