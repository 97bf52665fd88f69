"""The main path: rounds of growth, each from demonstrations to a frozen release.

A round draws demonstrations, asks for completions, stores them, parses, judges, and ends at exactly the wanted
number of accepted tasks. Requests run concurrently; judging runs in request order, so the kept set depends
neither on latency nor on concurrency.

progress.py   how far it is, and how it ended
asking.py     answers stored before they are read, whatever they are for
order.py      the endpoint kept busy, verdicts in request order
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from selfinstruct_hub import events, recipes, sampling
from selfinstruct_hub.endpoint import Endpoint
from selfinstruct_hub.endpoint.budget import Budget
from selfinstruct_hub.grow.asking import Asking
from selfinstruct_hub.grow.order import GRACE_SECONDS, MOST_AHEAD, Refusals, in_order
from selfinstruct_hub.grow.progress import (
    BARREN,
    FAILING,
    INTERRUPT,
    REFUSED,
    SATURATION,
    Observe,
    Progress,
    RoundOutcome,
)
from selfinstruct_hub.judging import Gates, Judge
from selfinstruct_hub.plan import demonstration_seeds, fits, plan_of
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.records import (
    Candidate,
    Completion,
    Decoding,
    Failure,
    Request,
    Round,
    Task,
    Verdict,
)

__all__ = [
    "BARREN",
    "FAILING",
    "INTERRUPT",
    "REFUSED",
    "SATURATION",
    "Observe",
    "Progress",
    "RoundOutcome",
    "grow_round",
    "machine_tasks",
]

# Draws sent beyond the expected need: a few spare answers cost less than a round that waits for one more.
_SLACK = 1.25


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
    finish_seconds: float = GRACE_SECONDS,
    later: int = 0,
    retries: Counter[str] | None = None,
    beyond: bool = False,
) -> RoundOutcome:
    """Grows `round_` to its wanted number of accepted tasks, or until `budget` stops it, until the draws of
    `max_barren` requests in a row have brought no accepted task, or until more than `max_failed_share` of the
    recent requests have failed for good, or nothing at all was answered for `stall` seconds. What is in flight
    then is given `finish_seconds`. `gates` must be those that the round was begun with. `later` and `retries` are
    told to `observe`. `beyond` says that rounds after this one count as well when it is judged what is new.

    Raises EndpointError where the endpoint refuses to work at all. Whatever was answered until then is stored, and
    the next call goes on from it.
    """
    judge = Judge.resumed(pool, round_, gates, beyond=beyond)
    progress = _progress_of(pool, round_)
    progress.later, progress.budget = later, budget
    progress.retries = Counter() if retries is None else retries
    passing = asyncio.Lock()

    async def passes(candidates: Sequence[Candidate]) -> Sequence[bool]:
        # Beside the loop: with evaluation sets and a model for paraphrases it takes a while.
        async with passing:
            return await asyncio.to_thread(judge.passing, candidates)

    draws = _Draws(pool, round_, endpoint, budget, progress, passes, report, max_failed_share)
    growth = _Growth(pool, round_, judge, draws, progress, endpoint, report, max_barren)
    limit, detail = await in_order(
        draws,
        growth,
        pool.judged_draws(round_.number),
        endpoint=endpoint,
        budget=budget,
        progress=progress,
        observe=observe,
        report=report,
        stall=stall,
        finish_seconds=finish_seconds,
    )
    if progress.accepted >= round_.wanted:
        limit, detail = None, ""
        pool.complete_round(round_.number)
        round_ = replace(round_, complete=True)
    return RoundOutcome(round_, progress.accepted, limit, detail)


class _Growth:
    """What a round makes of its draws: verdicts, until it has the wanted number of tasks."""

    def __init__(
        self,
        pool: Pool,
        round_: Round,
        judge: Judge,
        draws: _Draws,
        progress: Progress,
        endpoint: Endpoint,
        report: events.Report,
        max_barren: int | None,
    ) -> None:
        self._pool = pool
        self._round = round_
        self._judge = judge
        self._draws = draws
        self._progress = progress
        self._endpoint = endpoint
        self._report = report
        self._max_barren = max_barren
        self._a_draw_brings = _brought_before(pool, round_)
        self._barren = 0  # requests in a row that brought no accepted task
        self._refusals = Refusals()

    def ahead(self, number: int) -> int:
        if self._progress.accepted >= self._round.wanted:
            return 0
        needed = _draws_needed(self._progress, number, self._a_draw_brings, self._endpoint.capacity)
        return needed + len(self._draws.failures)

    def hopeless(self, number: int) -> str:
        return ""  # more draws follow, until enough have failed

    async def judge(self, ready: Sequence[tuple[int, list[Candidate] | None]]) -> tuple[int, str | None, str]:
        batch = [(number, candidates or []) for number, candidates in ready]
        # In a thread: a large pool must not keep the answers waiting that come meanwhile.
        verdicts = await asyncio.to_thread(lambda: list(self._judge.draws(batch)))
        judged: list[tuple[int, list[Verdict], Sequence[Failure]]] = []
        counted: list[events.Judged] = []
        limit, detail = None, ""
        for (number, candidates), found in zip(batch, verdicts, strict=False):
            judged.append((number, found, self._draws.failures.pop(number, ())))
            counted.append(_judged(self._round.number, number, found))
            _count(self._progress, counted[-1])
            asked = len({0}.union(*(candidate.calls for candidate in candidates)))
            if number not in self._draws.asked:
                asked = 0  # of an earlier start, perhaps of another model: it costs nothing to look at
            self._draws.asked.discard(number)
            self._barren = 0 if any(verdict.task for verdict in found) else self._barren + asked
            if said := self._refusals.persist(verdict.candidate for verdict in found):
                limit, detail = REFUSED, said
            elif self._max_barren is not None and self._barren >= self._max_barren:
                limit = BARREN
            if limit is not None:
                break
        self._pool.add_draws(self._round.number, judged)
        for event in counted:
            self._report(event)
        return len(judged), limit, detail


class _Draws(Asking[list[Candidate]]):
    """Turns a draw's number into candidates: a deck, the recipe, completions stored before they are read."""

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
        self._recipe = recipes.named(round_.settings["recipe"])
        self._plan = plan_of(round_.settings)
        # What a draw is reckoned to ask for: one request for each stage and each task that it brings.
        stages = len(self._recipe.stages)
        super().__init__(
            endpoint,
            budget,
            progress,
            report,
            max_failed_share=max_failed_share,
            requests=1 + (stages - 1) * self._plan.tasks_per_request,
        )
        self._pool = pool
        self._round = round_
        self._human = demonstration_seeds(pool.seeds(), round_.settings)
        self._machine = machine_tasks(pool, round_) if self._plan.machines else []
        self._passes = passes

    async def _made(self, number: int) -> list[Candidate]:
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
            return (await self.answer(request))[1]

        rng = partial(sampling.rng_of, seed, self._round.number, number)
        deck = sampling.Deck(human=self._human, machine=self._machine, rng=rng)
        return await self._recipe.run(deck, complete, self._passes, self._plan)

    def _stored_answer(self, request: Request) -> tuple[Request, Completion] | None:
        return self._pool.completion(request.round, request.number, request.call)

    def _store(self, answered: Sequence[tuple[Request, Completion]]) -> None:
        self._pool.add_completions(answered)


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
    return max(1, min(MOST_AHEAD * capacity, needed))


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
