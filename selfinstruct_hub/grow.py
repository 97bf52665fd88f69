"""The main path: rounds of growth, each from demonstrations to a frozen release.

A round draws demonstrations, asks for completions, stores them, parses, judges, and ends at exactly the wanted
number of accepted tasks. Requests run concurrently; judging runs in request order, so the kept set depends
neither on latency nor on concurrency.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial

from selfinstruct_hub import recipes, sampling
from selfinstruct_hub.endpoint import Endpoint
from selfinstruct_hub.endpoint.budget import Budget, BudgetReached
from selfinstruct_hub.errors import EndpointError
from selfinstruct_hub.judging import Judge
from selfinstruct_hub.plan import demonstration_seeds, fits, plan_of
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.records import (
    REQUEST_REFUSED,
    Candidate,
    Completion,
    Decoding,
    Request,
    Round,
    Task,
    Verdict,
    estimated_tokens,
)

# Draws sent beyond the expected need: a few spare answers cost less than a round that waits for one more.
_SLACK = 1.25
_GRACE_SECONDS = 5.0  # for answers in flight when the endpoint has failed for good
SATURATION = "saturation"
BARREN = "barren"
REFUSED = "refused"
# So many refused requests in a row, with no answer to a request of that kind between them, are no single task's
# fault.
_MOST_REFUSED = 20


@dataclass
class Progress:
    """How far a round is, for whoever shows it."""

    round: int
    version: str
    wanted: int
    accepted: int = 0
    requests: int = 0
    in_flight: int = 0
    candidates: int = 0
    generated_tokens: int = 0
    drops: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class RoundOutcome:
    """How a round ended: complete, or stopped early by `limit`: the option that set it, BARREN (nothing accepted
    for too long) or REFUSED (the endpoint refuses a kind of request; `detail` has its words). On a complete
    round, SATURATION says that no further round was begun, and `detail` why; without a limit, `detail` says that
    the next run would stop for that reason."""

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
    in_flight: int,
    budget: Budget,
    observe: Observe,
    max_barren: int | None = None,
) -> RoundOutcome:
    """Grows `round_` to its wanted number of accepted tasks, or until `budget` stops it, or until the
    draws of `max_barren` requests in a row have brought no accepted task.

    Raises EndpointError where the endpoint fails for good. Whatever was answered until then is stored, and the
    next call goes on from it.
    """
    judge = Judge.resumed(pool, round_)
    progress = _progress_of(pool, round_)
    draws = _Draws(pool, round_, endpoint, in_flight, budget, progress, judge.passes)
    a_draw_brings = _brought_before(pool, round_)
    number = pool.judged_draws(round_.number)
    barren = 0  # requests in a row that brought no accepted task
    refusals = _Refusals()
    limit, detail = None, ""
    running: dict[int, asyncio.Task[list[Candidate]]] = {}
    try:
        while progress.accepted < round_.wanted:
            failed = any(task.done() and task.exception() for task in running.values())
            ahead = min(
                _draws_needed(progress, number, a_draw_brings, in_flight),
                draws.most_at_once,
            )
            while not failed and len(running) < ahead and progress.in_flight < in_flight:
                # A draw that the budget cannot bring to its end would only be begun.
                if running and budget.requests_left < draws.requests * (len(running) + 1):
                    break
                following = number + len(running)
                running[following] = asyncio.create_task(draws.candidates(following))
                await asyncio.sleep(0)  # lets it reach the endpoint, so that progress.in_flight counts it
            observe(progress)
            if not running[number].done():
                pending = [task for task in running.values() if not task.done()]
                await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                continue
            try:
                candidates = running.pop(number).result()
            except BudgetReached as reached:
                limit = reached.limit
                # What is in flight is paid for: it ends by itself, since nothing more is granted.
                await _let_finish(running.values(), None)
                break
            except EndpointError:
                await _let_finish(running.values(), _GRACE_SECONDS)
                raise
            verdicts = judge.draw(number, candidates)
            pool.add_draw(round_.number, number, verdicts)
            number += 1
            _count(progress, verdicts)
            asked = len({0}.union(*(candidate.calls for candidate in candidates)))
            barren = 0 if any(verdict.task for verdict in verdicts) else barren + asked
            if said := refusals.persist(verdicts):
                limit, detail = REFUSED, said
            elif max_barren is not None and barren >= max_barren:
                limit = BARREN
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
        observe(progress)
    return RoundOutcome(round_, progress.accepted, limit, detail)


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


class _Places:
    """Places for requests in flight, given to the earliest draw that waits: so a draw is finished before later
    ones take what a budget still allows."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []

    @asynccontextmanager
    async def place(self, number: int, call: int) -> AsyncIterator[None]:
        if self._free:
            self._free -= 1
        else:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            heapq.heappush(self._waiting, (number, call, turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._give_back()
                raise
        try:
            yield
        finally:
            self._give_back()

    def _give_back(self) -> None:
        while self._waiting:
            *_, turn = heapq.heappop(self._waiting)
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1


class _Draws:
    """Turns a draw's number into candidates: a deck, the recipe, completions stored before they are read.
    Answers and requests in flight are counted into `progress`."""

    def __init__(
        self,
        pool: Pool,
        round_: Round,
        endpoint: Endpoint,
        in_flight: int,
        budget: Budget,
        progress: Progress,
        passes: recipes.Passes,
    ) -> None:
        self._pool = pool
        self._round = round_
        self._endpoint = endpoint
        self._budget = budget
        self._places = _Places(in_flight)
        self._recipe = recipes.named(round_.settings["recipe"])
        self._plan = plan_of(round_.settings)
        self._human = demonstration_seeds(pool.seeds(), round_.settings)
        self._machine = machine_tasks(pool, round_) if self._plan.machines else []
        self._progress = progress
        self._passes = passes
        # A draw of several stages asks for all its tasks at once in the later ones.
        width = self._plan.tasks_per_request if len(self._recipe.stages) > 1 else 1
        self.most_at_once = max(1, 4 * in_flight if width == 1 else -(-2 * in_flight // width))
        # What a draw is reckoned to ask for.
        self.requests = 1 + (len(self._recipe.stages) - 1) * width

    async def candidates(self, number: int) -> list[Candidate]:
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
            self._count(stored[1])
            return stored[1]
        prompt_tokens = estimated_tokens(request.prompt)
        self._progress.in_flight += 1
        try:
            place = self._places.place(request.number, request.call)
            async with place, self._budget.request(prompt_tokens + request.decoding.max_new_tokens):
                completion = await self._endpoint.complete(request.prompt, request.decoding)
                # Between the answer and its place on disk nothing is awaited: no cancellation can lose it.
                self._pool.add_completion(request, completion)
                self._budget.spend(
                    (completion.prompt_tokens or prompt_tokens) + (completion.generated_tokens or 0)
                )
        finally:
            self._progress.in_flight -= 1
        self._count(completion)
        return completion

    def _count(self, completion: Completion) -> None:
        self._progress.requests += 1
        self._progress.generated_tokens += completion.generated_tokens or 0


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


def _draws_needed(progress: Progress, judged: int, a_draw_brings: float, in_flight: int) -> int:
    """How many draws may be unjudged at a time: enough to keep the endpoint busy behind a slow answer, but
    near the end no more than the tasks still missing will take, so that few answers are paid for nothing."""
    expected = (progress.accepted + a_draw_brings) / (judged + 1)  # accepted tasks a draw
    needed = math.ceil(_SLACK * (progress.wanted - progress.accepted) / expected)
    return max(1, min(4 * in_flight, needed))


def _progress_of(pool: Pool, round_: Round) -> Progress:
    counts = pool.counts(round_.number)
    return Progress(
        round=round_.number,
        version=round_.version,
        wanted=round_.wanted,
        accepted=counts["tasks"],
        requests=counts["completions"],
        candidates=counts["candidates"],
        generated_tokens=counts["tokens"]["generated"],
        drops=Counter(counts["drops"]),
    )


def _count(progress: Progress, verdicts: Sequence[Verdict]) -> None:
    progress.candidates += len(verdicts)
    progress.accepted += sum(verdict.task is not None for verdict in verdicts)
    progress.drops.update(verdict.drop.reason for verdict in verdicts if verdict.drop)
