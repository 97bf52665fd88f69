"""A gate for instructions that were compared before: what was found then is used again where it is true still.

What was compared stays true as long as what it was compared with is the same. So the gate follows what was let in
then and what is let in now, step by step. A candidate that had none of the tasks among its nearest that are not
there now is compared with those alone that were not there then; every other one is compared with all of them. The
result is that of `NoveltyGate` above the threshold, to the last bit; it says no mean, and nothing of what is
below.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from selfinstruct_hub.novelty.encoding import Encoded, Texts
from selfinstruct_hub.novelty.gate import Comparison, Mode, NoveltyGate
from selfinstruct_hub.novelty.recalled import Followed, LetIn, Recalled, Scored, Spot
from selfinstruct_hub.novelty.search import FastSearch
from selfinstruct_hub.records import Similarity

# Behind every candidate of a draw.
_END = 1 << 62
# Instructions that are encoded together.
_ENCODED = 4096


class Was(NamedTuple):
    """A candidate as it was judged first: its instruction; the id of the task that it became; and the (id, F1) of
    those that were nearest, the best first: all that are above the threshold of now, or as many as are reported.
    None where that is not known."""

    instruction: str | None
    task: str | None
    nearest: Sequence[tuple[str, float]] | None


class Draw(NamedTuple):
    """The candidates of a draw as they were, from position `first` on; `whole` says that today's are as many, one
    by one in the same places."""

    number: int
    first: int
    was: Sequence[Was]
    whole: bool


class ReusingGate(NoveltyGate):
    """A gate that is filled with `extend`, `start`ed, and then asked with `comparison` for batches that were
    `enter`ed before, or for others. `reused` counts candidates that were not compared with everything, `compared`
    those that were."""

    def __init__(self, most_similar: int = 10, *, mode: Mode = "full", threshold: float = 0.7) -> None:
        super().__init__(most_similar, mode=mode, threshold=threshold)
        self.reused = self.compared = 0
        # Nothing is encoded or indexed before it is needed.
        self._waiting: list[tuple[str, str, Encoded | None]] = []
        # What was there then and is there now: by its id then, its id and place now. What was there twice, or is
        # not there now, is never among them.
        self._there: dict[str, tuple[str, int]] = {}
        self._doubtful: set[str] = set()
        # What is there now and was not then, and its places in the whole.
        self._won = Texts()
        self._won_places: list[int] = []
        self._won_search = FastSearch(self._won, most_similar, threshold)
        self._steps: Iterator[tuple[Spot, Was | Draw]] = iter(())
        self._step: tuple[Spot, Was | Draw] | None = None
        self._let_in: dict[int, dict[int, LetIn]] = {}  # by draw and position
        self._was: Mapping[Spot, Was] = {}
        self._reusing = False

    def __len__(self) -> int:
        return super().__len__() + len(self._waiting)

    def extend(self, instructions: Iterable[tuple[str, str]]) -> None:
        self._waiting += [(key, text, None) for key, text in instructions]

    def compare(self, instruction: str, *, among: int | None = None) -> Similarity:
        self._settle()
        self._search.settle()
        return super().compare(instruction, among=among)

    def measured(self, asked: Sequence[tuple[str, int]]) -> list[Similarity]:
        self._settle()
        return super().measured(asked)

    def start(self, then: Sequence[tuple[str, str]] | None) -> None:
        """Begins with what is there; `then` are the (id, instruction) of what was there then (None: the same)."""
        now = [(key, text) for key, text, _ in self._waiting]
        assert len(now) == len(self), "nothing is compared before"
        self._reusing = True
        if then is None:
            for place, (key, _) in enumerate(now):
                self._stays(key, key, place)
            return
        before, after = _once(text for _, text in then), _once(text for _, text in now)
        common = [(at, after[text]) for text, at in before.items() if text in after]
        # What stands in another order has other ties; nobody makes it so.
        self._reusing = all(one[1] < next_[1] for one, next_ in itertools.pairwise(common))
        both = dict(common)
        for at, (key, _) in enumerate(then):
            if at in both:
                self._stays(key, now[both[at]][0], both[at])
            else:
                self._goes(key)
        stay = set(both.values())
        come = [place for place in range(len(now)) if place not in stay]
        for place, encoded in zip(come, self._alphabet.encoded_all([now[p][1] for p in come]), strict=True):
            self._comes(now[place][0], encoded, place)

    def enter(self, draws: Sequence[Draw]) -> None:
        """The draws that are compared next, after those before: all their candidates in order."""
        self._catch_up(None)
        self._let_in.clear()
        steps: list[tuple[Spot, Was | Draw]] = []
        was: dict[Spot, Was] = {}
        for draw in draws:
            if draw.whole:
                some = [((draw.number, place), one) for place, one in enumerate(draw.was, start=draw.first)]
                was.update(some)
                steps += some
            else:
                steps.append(((draw.number, _END), draw))
        self._was = was
        self._steps = iter(steps)
        self._step = next(self._steps, None)

    def leave(self) -> None:
        """What is compared from now on was not compared before."""
        self.enter(())
        self._reusing = False

    def of(self, spots: Sequence[Spot], instructions: Sequence[str]) -> Comparison | Recalled:
        """The comparison of several instructions of what was entered, which are at `spots`."""
        if not self._reusing:
            self.compared += len(instructions)
            return self.comparison(instructions)
        self._catch_up(spots[0] if spots else None)
        known = [self._known(spot, text) for spot, text in zip(spots, instructions, strict=True)]
        unknown = [place for place, one in enumerate(known) if one is None]
        if 2 * len(unknown) > len(known):
            self.compared += len(instructions)
            return Followed(self, spots, instructions)
        return Recalled(self, spots, instructions, known, unknown)

    def comparison(self, instructions: Sequence[str]) -> Comparison:
        self._settle()
        return super().comparison(instructions)

    def _known(self, spot: Spot, text: str) -> Sequence[tuple[str, float]] | None:
        """What is known of a candidate, if what it was nearest to is all there."""
        was = self._was.get(spot)
        if was is None or was.nearest is None or was.instruction != text:
            return None
        # What is not there yet may be there when it has its turn.
        if any(key in self._doubtful for key, _ in was.nearest):
            return None
        return was.nearest

    def _settle(self) -> None:
        """Encodes what has waited."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        for first in range(0, len(waiting), _ENCODED):
            some = waiting[first : first + _ENCODED]
            made = iter(self._alphabet.encoded_all([text for _, text, encoded in some if encoded is None]))
            for key, _, encoded in some:
                self._texts.append(key, next(made) if encoded is None else encoded)

    def _accept(self, spot: Spot, key: str, text: str, encoded: Encoded | None) -> None:
        self._note(spot, LetIn(key, text, encoded, len(self)))
        self._waiting.append((key, text, encoded))

    def _note(self, spot: Spot, let_in: LetIn) -> None:
        number, position = spot
        self._let_in.setdefault(number, {})[position] = let_in

    def _catch_up(self, spot: Spot | None) -> None:
        """Follows what was let in then, and is now, to before a spot (None: to the end)."""
        step = self._step
        while step is not None and (spot is None or step[0] < spot):
            at, was = step
            if isinstance(was, Was):
                now = self._let_in[at[0]].get(at[1]) if at[0] in self._let_in else None
                if was.task is not None:
                    if now is not None and now.text == was.instruction:
                        self._stays(was.task, now.key, now.place)
                        now = None
                    else:
                        self._goes(was.task)
                if now is not None:
                    self._comes(now.key, now.encoded or self._alphabet.encoded(now.text), now.place)
            else:
                self._follow(was)
            step = next(self._steps, None)
        self._step = step

    def _follow(self, draw: Draw) -> None:
        """Follows a draw that has other candidates now."""
        then = [one for one in draw.was if one.task is not None]
        now = list(self._let_in.get(draw.number, {}).values())
        before, after = _once(one.instruction or "" for one in then), _once(one.text for one in now)
        both = {at: after[text] for text, at in before.items() if text in after}
        if sorted(both.values()) != list(both.values()):
            both = {}
        for at, one in enumerate(then):
            assert one.task is not None
            if at in both:
                self._stays(one.task, now[both[at]].key, now[both[at]].place)
            else:
                self._goes(one.task)
        stay = set(both.values())
        for place, let_in in enumerate(now):
            if place not in stay:
                self._comes(let_in.key, let_in.encoded or self._alphabet.encoded(let_in.text), let_in.place)

    def _stays(self, then: str, key: str, place: int) -> None:
        if then in self._there or then in self._doubtful:
            self._goes(then)
        else:
            self._there[then] = key, place

    def _goes(self, then: str) -> None:
        self._there.pop(then, None)
        self._doubtful.add(then)

    def _comes(self, key: str, encoded: Encoded, place: int) -> None:
        self._won.append(key, encoded)
        self._won_places.append(place)

    def _of_all(self, queries: Sequence[Encoded], end: int) -> list[list[Scored]]:
        """The (place, F1) above the threshold of each of `queries` among the first `end`: all, or the nearest as
        many as are reported."""
        self._search.settle()
        found = self._search.known(queries, end)
        return [one if isinstance(one, list) else one.nearest for one in found]


def _once(texts: Iterable[str]) -> dict[str, int]:
    """The places of the texts that are there once only, in order."""
    places: dict[str, Any] = {}
    for place, text in enumerate(texts):
        places[text] = None if text in places else place
    return {text: place for text, place in places.items() if place is not None}
