"""The part of a regeneration that needs an endpoint: answers are stored before they are read.

Places are changed in their order, so that what comes of it depends neither on latency nor on concurrency, nor on
where it was stopped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from selfinstruct_hub import events
from selfinstruct_hub.endpoint.budget import Budget
from selfinstruct_hub.errors import EndpointRefusedError, RequestFailedError
from selfinstruct_hub.grow.asking import Asking
from selfinstruct_hub.grow.order import MOST_AHEAD, Refusals
from selfinstruct_hub.grow.progress import REFUSED, Progress
from selfinstruct_hub.judging import Gates
from selfinstruct_hub.plan import INSTANCE
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.records import (
    CONNECTION,
    REQUEST_FAILED,
    REQUEST_REFUSED,
    Candidate,
    Change,
    Completion,
    Drop,
    Place,
    Request,
    Revision,
    Task,
    Verdict,
)
from selfinstruct_hub.regenerate.asking import Prompts, parsed
from selfinstruct_hub.regenerate.judging import Answered, judged
from selfinstruct_hub.working import Desk


class Answers(Asking[Answered]):
    """Turns the number of a place into what was answered for it."""

    def __init__(
        self,
        pool: Pool,
        revision: Revision,
        places: Mapping[int, Place],
        prompts: Prompts,
        desk: Desk,
        progress: Progress,
        max_failed_share: float,
    ) -> None:
        super().__init__(
            desk.endpoint, desk.budget, progress, desk.report, max_failed_share=max_failed_share, requests=1
        )
        self._pool = pool
        self._revision = revision
        self._places = places
        self._prompts = prompts

    async def _made(self, number: int) -> Answered:
        place = self._places[number]
        # The instruction, and the input of an output, are the same whatever became of the task's other rows.
        task = standing(self._pool, place)
        request = self._prompts.request(place, task)
        try:
            request, completion = await self.answer(request)
        except (EndpointRefusedError, RequestFailedError) as error:
            reason = REQUEST_REFUSED if isinstance(error, EndpointRefusedError) else REQUEST_FAILED
            failure = Drop(reason, error.said[:200])
            return Answered(Candidate(task.instruction, stage=request.stage, failure=failure), request)
        return Answered(parsed(request, completion, self._revision.settings, task, place), request, completion)

    def _stored_answer(self, request: Request) -> tuple[Request, Completion] | None:
        return self._pool.revision_completion(self._revision.number, request.number, request.call)

    def _store(self, answered: Sequence[tuple[Request, Completion]]) -> None:
        self._pool.add_revision_completions(self._revision.number, answered)


class Changes:
    """Changes the places of a revision, one after the other."""

    def __init__(
        self,
        pool: Pool,
        revision: Revision,
        places: Mapping[int, Place],
        answers: Answers,
        gates: Gates,
        progress: Progress,
        desk: Desk,
    ) -> None:
        self._pool = pool
        self._revision = revision
        self._places = places
        self._total = progress.wanted
        self._answers = answers
        self._gates = gates
        self._progress = progress
        self._desk = desk
        self._refusals = Refusals()
        self._refused_from: int | None = None  # the first of those that were refused in a row
        self._stored_before = pool.revision_cost(revision.number)[0]

    def ahead(self, number: int) -> int:
        return min(self._total - number, MOST_AHEAD * max(1, self._desk.endpoint.capacity))

    def hopeless(self, number: int) -> str:
        """Nothing else is left to ask, which would tell an endpoint that is down from one that a single request is
        too much for. So a failure is only then taken for the request's own fault where it is the only one, and
        others were answered."""
        (*_, failure) = self._answers.failures[number]
        answered = self._stored_before or self._answers.answers
        if answered and len(self._answers.failures) == 1 and failure.reason != CONNECTION:
            return ""
        return f"nothing was answered since a request failed for good, with {failure.detail}"

    async def judge(self, ready: Sequence[tuple[int, Answered | None]]) -> tuple[int, str | None, str]:
        # In a thread, as evaluation sets and long outputs take a while; the pool is read in this one.
        places = [self._places[number] for number, _ in ready]
        standing_now = [(place, verdict_of(self._pool, place)) for place in places]
        answered = [one for _, one in ready]
        made, limit, detail = await asyncio.to_thread(self._judged, standing_now, answered)
        self._pool.revise(self._revision.number, made)
        for change in made:
            self._answers.failures.pop(change.item, None)
            self._answers.asked.discard(change.item)
            drops = {change.reason: 1} if change.reason else {}
            progress = self._progress
            progress.judged += 1
            progress.candidates += 1
            progress.accepted += 1
            progress.drops.update(drops)
            self._desk.report(events.Judged(0, change.item, 1, 1, drops))
        if limit is not None and self._refused_from is not None:
            # What was refused for everybody's fault is asked again.
            self._pool.ask_again(self._revision.number, self._refused_from)
        return len(made), limit, detail

    def _judged(
        self, standing_now: Sequence[tuple[Place, Verdict]], answered: Sequence[Answered | None]
    ) -> tuple[list[Change], str | None, str]:
        made: list[Change] = []
        # Several places of a task: each sees what became of those before it.
        changed: dict[tuple[int, int, int], Verdict] = {}
        for (place, stood), one in zip(standing_now, answered, strict=True):
            assert one is not None, "what was given up says so itself"
            at = (place.round, place.number, place.position)
            change = judged(self._revision, place, changed.get(at, stood), one, self._contaminated)
            if change.verdict is not None:
                changed[at] = change.verdict
            made.append(change)
            if change.reason == REQUEST_REFUSED:
                self._refused_from = place.item if self._refused_from is None else self._refused_from
            elif change.reason != REQUEST_FAILED:
                self._refused_from = None
            if said := self._refusals.persist([one.candidate]):
                return made, REFUSED, said
        return made, None, ""

    def _contaminated(self, candidate: Candidate) -> Drop | None:
        return next(iter(self._gates.contaminated([candidate])))


def verdict_of(pool: Pool, place: Place) -> Verdict:
    """The verdict that stands at a place of a revision, an accepted one."""
    verdict = pool.verdict_at(place.round, place.number, place.position)
    assert verdict is not None
    assert verdict.task is not None, "only accepted tasks have places"
    return verdict


def standing(pool: Pool, place: Place) -> Task:
    """The task that stands at a place."""
    task = verdict_of(pool, place).task
    assert task is not None
    return task


def progress_of(pool: Pool, revision: Revision, budget: Budget) -> Progress:
    """How far a revision is."""
    requests, prompt_tokens, generated_tokens = pool.revision_spent(revision.number)
    progress = Progress(
        round=revision.rounds[0] if revision.rounds else 0,
        version=revision.version,
        wanted=len(pool.places(revision.number)),
        requests=requests,
        prompt_tokens=prompt_tokens,
        generated_tokens=generated_tokens,
        budget=budget,
        name=revision.version,
        unit="task" if revision.settings["part"] == INSTANCE else "row",
    )
    done = pool.changed(revision.number)
    progress.accepted = progress.judged = progress.candidates = len(done)
    progress.drops.update(one["reason"] for one in done if one["reason"])
    return progress
