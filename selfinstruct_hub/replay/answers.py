"""Stored answers into candidates, through the recipe that asked for them. No calls, no verdicts, nothing written.

The recipe's own `run` is used, with a `complete` that gives the stored answer. What a parser must know of the
first prompt is how many demonstrations it showed, so as many empty ones are dealt; prompts are made and thrown
away.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

from selfinstruct_hub import recipes
from selfinstruct_hub.errors import EndpointRefusedError, RequestFailedError
from selfinstruct_hub.judging import Judge
from selfinstruct_hub.plan import plan_of
from selfinstruct_hub.pool.again import Answer, StoredDraw
from selfinstruct_hub.records import (
    NEVER_ASKED,
    REQUEST_REFUSED,
    Candidate,
    Completion,
    Decoding,
    Drop,
    Instance,
    Round,
    Task,
)
from selfinstruct_hub.sampling import Deck

# What a candidate's failure says until it is told apart from a refusal; no endpoint says this.
_ABSENT = "\0never asked"
_EMPTY = Task(id="", instruction="", instances=(Instance("", ""),), is_classification=True)


class Missing(Exception):
    """A draw that nobody has judged lacks an answer."""


class Reader:
    """Turns the stored draws of a round into candidates as its recipe's parsers find them today."""

    def __init__(self, round_: Round, judge: Judge | None) -> None:
        """`judge` says which instructions go on to a later stage; a recipe of one stage needs none."""
        self._recipe = recipes.named(round_.settings["recipe"])
        # A grammar binds the model, not the parser.
        self._plan = replace(plan_of(round_.settings), use_grammar=False)
        self._judge = judge
        self._loop: asyncio.AbstractEventLoop | None = None
        self._rng = random.Random(0)  # which of several empty tasks comes first is all the same
        self._dealt: dict[int, tuple[Deck, recipes.Plan]] = {}

    @property
    def prompts(self) -> bool:
        """Whether whole prompts are needed: where a draw asked for more than one answer, they say for what."""
        return len(self._recipe.stages) > 1

    def __enter__(self) -> Reader:
        if self.prompts:
            self._loop = asyncio.new_event_loop()
        return self

    def __exit__(self, *_: object) -> None:
        if self._loop is not None:
            self._loop.close()

    def candidates(self, draw: StoredDraw) -> list[Candidate]:
        """The candidates of a draw; none where its first request was given up.

        Raises Missing where nobody has judged the draw and an answer that it needs is not there.
        """
        if not draw.answers:
            return []
        shown = draw.answers[min(draw.answers)].shown
        if shown not in self._dealt:
            deck = Deck(human=[_EMPTY] * shown, machine=(), rng=lambda purpose: self._rng)
            self._dealt[shown] = deck, replace(self._plan, humans=shown, machines=0)
        try:
            return self._found(draw, *self._dealt[shown])
        except RequestFailedError:
            return []

    def _found(self, draw: StoredDraw, deck: Deck, plan: recipes.Plan) -> list[Candidate]:
        answers = _Answers(draw, self._recipe, self._judge)
        found = None
        if self._loop is None:
            # Of one stage: it waits for nothing, so that it ends where it begins, and a loop would only cost time.
            running = self._recipe.run(deck, answers.complete, answers.passes, plan)
            try:
                running.send(None)  # type: ignore[attr-defined]
            except StopIteration as stopped:
                found = stopped.value
            else:
                # Somebody's own recipe, which waits for something.
                running.close()  # type: ignore[attr-defined]
                self._loop = asyncio.new_event_loop()
                answers = _Answers(draw, self._recipe, self._judge)
        if self._loop is not None:
            running = self._recipe.run(deck, answers.complete, answers.passes, plan)
            found = self._loop.run_until_complete(running)
        return [answers.renumbered(item, candidate) for item, candidate in enumerate(found or ())]


class _Answers:
    """Stored answers to what a recipe asks for in one draw.

    A parser of today may find other items in the first answer than were found then. What was asked later belongs
    to an instruction, so it is looked up by that, not by the item's number.
    """

    def __init__(self, draw: StoredDraw, recipe: recipes.Recipe, judge: Judge | None) -> None:
        self._draw = draw
        self._recipe = recipe
        self._judge = judge
        self._waiting: list[Candidate] = []  # that pass and have asked for nothing yet
        self._items: dict[int, int | None] = {}  # today's item to the one it was then
        self._before: list[tuple[str | None, Drop | None, str]] | None = None

    async def passes(self, candidates: Sequence[Candidate]) -> Sequence[bool]:
        assert self._judge is not None, "a recipe of one stage asks for nothing more"
        passing = self._judge.passing(candidates)
        self._waiting = [one for one, passed in zip(candidates, passing, strict=True) if passed]
        return passing

    async def complete(
        self, stage: str, prompt: str, decoding: Decoding, *, shown: Sequence[Task], item: int = 0
    ) -> Completion:
        place = self._recipe.stages.index(stage)
        if place and item not in self._items:
            # They ask in the order in which they passed. A recipe that lets everything pass asks by number.
            asks = self._waiting.pop(0) if self._waiting else None
            self._items[item] = self._item_then(asks.instruction or "", item) if asks else item
        then = self._items[item] if place else item
        if then is not None:
            call = self._recipe.call(stage, then)
            answer = self._draw.answers.get(call)
            if answer is not None and (not place or _last_line(answer.prompt) == _last_line(prompt)):
                return _completion(answer)
            for failure in self._draw.failures:
                if failure.call == call:
                    said = {"reason": failure.reason, "said": failure.detail, "tries": failure.tries}
                    raise RequestFailedError(failure.detail, **said)  # type: ignore[arg-type]
            if (refused := self._refused(then, stage)) is not None:
                raise EndpointRefusedError(refused, said=refused)
        if not self._draw.judged:
            raise Missing
        raise EndpointRefusedError(_ABSENT, said=_ABSENT)

    def renumbered(self, item: int, candidate: Candidate) -> Candidate:
        """`candidate` with the calls that its answers have in the pool, and the reason where one is not there."""
        then = self._items.get(item)
        if then is not None and then != item:
            calls = [call if call == 0 else self._moved(call, then) for call in candidate.calls]
            candidate = replace(candidate, calls=tuple(calls))
        if candidate.failure == Drop(REQUEST_REFUSED, _ABSENT):
            said = f"the answer of the step `{candidate.stage}` was never asked for"
            candidate = replace(candidate, failure=Drop(NEVER_ASKED, said))
        return candidate

    def _moved(self, call: int, item: int) -> int:
        return self._recipe.call(self._recipe.stages[call % len(self._recipe.stages)], item)

    def _item_then(self, instruction: str, item: int) -> int | None:
        """The number that the item with this instruction had when it was asked about."""
        if self._draw.judged:
            then = [text for text, *_ in self._verdicts()]
            if item < len(then) and then[item] == instruction:
                return item
            return then.index(instruction) if instruction in then else None
        # Nobody has judged it, so only the requests themselves tell.
        stages = len(self._recipe.stages)
        for call, answer in sorted(self._draw.answers.items(), key=lambda one: one[0] // stages != item):
            if call and instruction in answer.prompt:
                return call // stages
        return None

    def _refused(self, item: int, stage: str) -> str | None:
        """What the endpoint said where it refused this request."""
        if not self._draw.judged:
            return None
        if item >= len(self._verdicts()):
            return None
        _, failure, reached = self._verdicts()[item]
        return failure.detail if failure and failure.reason == REQUEST_REFUSED and reached == stage else None

    def _verdicts(self) -> list[tuple[str | None, Drop | None, str]]:
        """(instruction, failure, last stage) of what was found then."""
        if self._before is None:
            self._before = [_of_verdict(json.loads(row[3]), row[9]) for row in self._draw.verdicts]
        return self._before


def _of_verdict(candidate: Mapping[str, object], stage: str) -> tuple[str | None, Drop | None, str]:
    failure = candidate.get("failure")
    return candidate["instruction"], Drop(*failure) if failure else None, stage  # type: ignore[return-value, misc]


def _completion(answer: Answer) -> Completion:
    return Completion(answer.text, answer.finish_reason)


def _last_line(prompt: str) -> str:
    """Where a prompt breaks off, which says what kind of answer it wants."""
    return prompt.rpartition("\n")[2]
