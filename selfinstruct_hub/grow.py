"""The main path: rounds of growth, each from demonstrations to a frozen release.

A round draws demonstrations, asks for completions, stores them, parses, judges, and ends at exactly the wanted
number of accepted tasks. Requests run concurrently; judging runs in request order, so the kept set depends
neither on latency nor on concurrency.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from selfinstruct_hub import recipes, sampling, versions
from selfinstruct_hub.config import Settings, flatten, publishable
from selfinstruct_hub.endpoint import Endpoint
from selfinstruct_hub.endpoint.budget import Budget, BudgetReached
from selfinstruct_hub.errors import UsageError
from selfinstruct_hub.judging import Judge
from selfinstruct_hub.plan import demonstration_seeds, plan_of, resolve
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.records import (
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
IMPORT = "import"  # stands for a recipe where a file brought the round's tasks


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
    """How a round ended: complete, or stopped early by `limit` (the option that set it, or SATURATION). A
    complete round can have a limit too: SATURATION then says that no further round was begun, and `detail` why."""

    round: Round
    accepted: int
    limit: str | None = None
    detail: str = ""


Observe = Callable[[Progress], None]
Notice = Callable[[str], None]


def next_round(pool: Pool, settings: Settings, endpoint: Endpoint, wanted: int, notice: Notice) -> Round:
    """The open round, or a new one. An open round goes on with the settings it was begun with.

    Raises UsageError where an open round has more accepted tasks than are `wanted` now.
    """
    done = pool.rounds()
    resolved = resolve(settings, endpoint)
    untouched = bool(done) and not done[-1].complete and pool.cost(done[-1].number)[0] == 0
    if untouched:
        done = done[:-1]  # nothing was answered yet, so the settings may still change
    if done and not done[-1].complete:
        open_round = done[-1]
        accepted = pool.accepted_count(open_round.number)
        if wanted < accepted:
            raise UsageError(
                f"round {open_round.number} has {accepted} accepted tasks already; ask for --tasks {accepted} "
                "or more"
            )
        was, now = dict(flatten(open_round.settings)), dict(flatten(resolved))
        if changed := sorted(key for key in was if was[key] != now.get(key)):
            notice(
                f"round {open_round.number} was begun with other settings and goes on with those "
                f"({', '.join(changed)}); the new ones hold from the next round"
            )
        if wanted != open_round.wanted:
            pool.set_wanted(open_round.number, wanted)
        return replace(open_round, wanted=wanted)
    new = Round(
        number=len(done) + 1,
        version=next_version(done, resolved),
        wanted=wanted,
        complete=False,
        settings=resolved,
        asked=publishable(settings).model_dump(),
    )
    demonstration_seeds(pool.seeds(), resolved)  # refuse before the round exists
    if untouched:
        pool.restart_round(new)
    else:
        pool.begin_round(new)
    return new


def next_version(done: Sequence[Round], settings: Mapping[str, Any]) -> str:
    """The version of the round with `settings` after those that are `done`. An import belongs to no recipe."""
    recipes_used = [r.settings["recipe"] for r in done if r.settings["recipe"] != IMPORT]
    other_recipe = settings["recipe"] != IMPORT and bool(recipes_used) and recipes_used[-1] != settings["recipe"]
    other_columns = bool(done) and done[-1].settings.get("columns", 1) != settings["columns"]
    return versions.next_round(done[-1].version if done else None, changed=other_recipe or other_columns)


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
    number = pool.judged_draws(round_.number)
    barren = 0  # requests in a row that brought no accepted task
    limit: str | None = None
    running: dict[int, asyncio.Task[list[Candidate]]] = {}
    try:
        while progress.accepted < round_.wanted:
            if failure := _failure(running.values()):
                await _let_finish(running.values())
                raise failure
            exhausted = any(task.done() and task.exception() for task in running.values())
            ahead = _draws_needed(progress, number, round_.settings["tasks_per_request"], in_flight)
            while not exhausted and len(running) < ahead and progress.in_flight < in_flight:
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
                break
            verdicts = judge.draw(number, candidates)
            pool.add_draw(round_.number, number, verdicts)
            number += 1
            _count(progress, verdicts)
            asked = len({0}.union(*(candidate.calls for candidate in candidates)))
            barren = 0 if any(verdict.task for verdict in verdicts) else barren + asked
            if max_barren is not None and barren >= max_barren:
                limit = SATURATION
                break
        if progress.accepted >= round_.wanted:
            pool.complete_round(round_.number)
            round_ = replace(round_, complete=True)
    finally:
        for task in running.values():
            task.cancel()
        await asyncio.gather(*running.values(), return_exceptions=True)
        observe(progress)
    return RoundOutcome(round_, progress.accepted, limit)


def _failure(draws: Iterable[asyncio.Task[list[Candidate]]]) -> BaseException | None:
    """What has gone wrong for good in one of the draws. A spent budget is none: earlier draws still count."""
    errors = (task.exception() for task in draws if task.done() and not task.cancelled())
    return next((error for error in errors if error and not isinstance(error, BudgetReached)), None)


async def _let_finish(draws: Iterable[asyncio.Task[list[Candidate]]]) -> None:
    """Gives answers that are nearly there a moment to arrive and be stored."""
    if pending := [task for task in draws if not task.done()]:
        await asyncio.wait(pending, timeout=_GRACE_SECONDS)


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
        self._places = asyncio.Semaphore(in_flight)
        self._recipe = recipes.named(round_.settings["recipe"])
        self._plan = plan_of(round_.settings)
        self._human = demonstration_seeds(pool.seeds(), round_.settings)
        self._machine = machine_tasks(pool, round_) if self._plan.machines else []
        self._progress = progress
        self._passes = passes

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
            async with self._places, self._budget.request(prompt_tokens + request.decoding.max_new_tokens):
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
    recipe = recipes.named(round_.settings["recipe"])
    shown = round_.settings["demonstrations"]
    longest, room = shown["max_characters"], shown.get("max_tokens")
    return [
        task
        for earlier in range(1, round_.number)
        for task in pool.tasks(earlier)
        if (longest is None or sampling.length(task) <= longest) and (room is None or recipe.cost(task) <= room)
    ]


def spent(pool: Pool, first_round: int) -> tuple[int, int]:
    """(requests, tokens) that the rounds from `first_round` on have cost, answers nobody needed included."""
    requests = tokens = 0
    for round_ in pool.rounds():
        if round_.number >= first_round:
            cost = pool.cost(round_.number)
            requests, tokens = requests + cost[0], tokens + cost[1]
    return requests, tokens


@dataclass(frozen=True)
class Run:
    """The rounds that one `grow` command set out to make. Kept in the pool until they are made, so that the
    same command started again goes on instead of adding as many again."""

    first: int
    last: int

    @classmethod
    def resumed(cls, pool: Pool, rounds: int) -> Run:
        """The unfinished run if it was for as many rounds, or a new one."""
        done = pool.rounds()
        finished = sum(round_.complete for round_ in done)
        stored = pool.meta("run")
        if stored:
            run = cls(**json.loads(stored))
            if run.last - run.first + 1 == rounds:
                return run
        run = cls(first=finished + 1, last=finished + rounds)
        pool.set_meta("run", json.dumps({"first": run.first, "last": run.last}))
        return run

    @staticmethod
    def shift(pool: Pool) -> None:
        """Makes room for a round that no run made: an imported one."""
        if stored := pool.meta("run"):
            run = json.loads(stored)
            pool.set_meta("run", json.dumps({name: number + 1 for name, number in run.items()}))

    def rounds_left(self, pool: Pool) -> int:
        """Rounds that are still to be completed."""
        return max(0, self.last - sum(round_.complete for round_ in pool.rounds()))

    def end(self, pool: Pool) -> None:
        """Forgets the run: every round of it is made and packaged."""
        pool.set_meta("run", None)


def _draws_needed(progress: Progress, judged: int, per_request: int, in_flight: int) -> int:
    """How many draws may be unjudged at a time: enough to keep the endpoint busy behind a slow answer, but
    near the end no more than the tasks still missing will take, so that few answers are paid for nothing."""
    expected = (progress.accepted + per_request / 2) / (judged + 1)  # accepted tasks a draw, half at first
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
