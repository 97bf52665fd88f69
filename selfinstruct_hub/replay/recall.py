"""What a round found when it was judged first, as a gate uses it again (see `novelty.reuse`). Reads only.

Of all that a pool holds this alone is what a comparison gave: later revisions leave a verdict as it was measured
though the tasks around it have changed, and a top-up was judged among other tasks than those of its round.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from selfinstruct_hub.judging.again import Ruling
from selfinstruct_hub.novelty.reuse import Draw, ReusingGate, Was
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.pool.again import StoredDraw
from selfinstruct_hub.pool.file import errors_named, made
from selfinstruct_hub.records import Candidate, Round

# Of a verdict's columns.
_POSITION, _CANDIDATE, _TASK, _NEAREST, _MEAN, _SCORE = 2, 3, 4, 7, 8, 10
Row = tuple[Any, ...]


class Limits(NamedTuple):
    """How many neighbours a gate reports, and above which score it drops."""

    most_similar: int
    threshold: float


def is_comparable(pool: Pool, round_number: int) -> bool:
    """Whether a round was compared by the words that texts have now: in pool format 1 a word was a run of ASCII
    letters and digits. Its rounds do not name their language, whoever finished them."""
    return any(one.number == round_number and "language_name" in one.settings for one in pool.rounds())


class Recall:
    """What the candidates of one round were compared with, and with what result."""

    def __init__(self, pool: Pool, round_: Round, gate: ReusingGate) -> None:
        """`round_` has the settings of now; `gate` knows what is there when it begins."""
        self._pool = pool
        self._number = round_.number
        self._gate = gate
        (then,) = [one.settings["novelty"] for one in pool.rounds() if one.number == round_.number]
        self._then = Limits(then["most_similar"], then["threshold"])
        self._now = Limits(gate.most_similar, gate.threshold)
        revised = pool.revised_since(round_.number)
        self._revision = revised.pop(round_.number, None)
        gate.start(self._earlier(revised) if revised else None)

    def _earlier(self, revised: dict[int, int]) -> list[tuple[str, str]]:
        """The seeds and the tasks of earlier rounds as they were when the round began, given the revisions before
        which they were so."""
        found = [(task.id, task.instruction) for task in self._pool.seeds()]
        for number in range(1, self._number):
            if (revision := revised.get(number)) is not None:
                found += self._pool.past_instructions(revision, number)
            else:
                found += [(key, text) for key, text, _ in self._pool.instructions(number)]
        return found

    def enter(
        self,
        draws: Sequence[tuple[StoredDraw, Sequence[Candidate]]],
        rulings: Sequence[Sequence[Ruling]],
        first: int | None = None,
    ) -> None:
        """Draws that are judged next, with their candidates and, where it is known, what the rules say of each; or
        a part of one draw, with the position `first` of its first candidate."""
        part = None if first is None else (first, first + len(draws[0][1]))
        first = first or 0
        rows = [draw.verdicts for draw, _ in draws]
        if self._revision is not None:
            rows = self._past([draw.number for draw, _ in draws], part)
        entered = []
        with errors_named(self._pool.path):
            for at, ((draw, found), some) in enumerate(zip(draws, rows, strict=True)):
                said: Sequence[Ruling | None] = rulings[at] if rulings else ()
                whole = len(some) == len(found) and all(
                    row[_POSITION] == place for place, row in enumerate(some, start=first)
                )
                if not whole or len(said) != len(found):
                    said = [None] * len(some)
                entered.append(Draw(draw.number, first, made(self._was, (some, said)), whole))
        self._gate.enter(entered)

    def leave(self) -> None:
        """What is judged from now on was not judged with the round."""
        self._gate.leave()

    def _past(self, numbers: Sequence[int], part: tuple[int, int] | None) -> list[list[Row]]:
        assert self._revision is not None
        found: dict[int, list[Row]] = {number: [] for number in numbers}
        for row in self._pool.past_rows(self._revision, self._number, numbers[0], numbers[-1], *(part or ())):
            found[row[1]].append(row)
        return list(found.values())

    def _was(self, stored: tuple[Any, ...]) -> list[Was]:
        """Of a draw's rows, and what the rules say of each."""
        return [self._of_row(row, said) for row, said in zip(*stored, strict=True)]

    def _of_row(self, row: Row, said: Ruling | None) -> Was:
        if said is not None and said.instruction is not None and said.text == row[_CANDIDATE]:
            instruction: str | None = said.instruction
        else:
            instruction = json.loads(row[_CANDIDATE])["instruction"]
        task = row[_TASK]
        if task is not None:
            task = said.task.id if said is not None and said.task and said.task_text == task else _id(task)
        return Was(instruction, task, still_known(row[_NEAREST], row[_MEAN], row[_SCORE], self._then, self._now))


def still_known(
    text: str, mean: float | None, score: float | None, then: Limits, now: Limits
) -> Sequence[tuple[str, float]] | None:
    """What a stored verdict says of the nearest (its columns nearest, mean and score): those above the threshold
    of now, or at least as many as are reported; None where nobody looked for that.

    Raises ValueError and TypeError for what no gate has found.
    """
    if mean is not None and score is None:
        return None  # dropped before anybody compared it
    if mean is None and now.threshold < then.threshold:
        return None  # it was looked for what is above the threshold of then, and no further
    if text == "[]":
        return ()
    nearest, last = json.loads(text), 1.0
    above = []
    for key, score in nearest:
        if type(key) is not str or type(score) not in (float, int) or not 0 <= score <= last:
            raise ValueError("no neighbours in order")
        last = score
        if score > now.threshold:
            above.append((key, score))
    # All are there where one is not above, or there was room for more.
    if len(above) < len(nearest) or len(nearest) < then.most_similar or len(above) >= now.most_similar:
        return above
    return None


def _id(text: str) -> str:
    key = json.loads(text)["id"]
    if not isinstance(key, str):
        raise TypeError("a task whose id is no text")
    return key
