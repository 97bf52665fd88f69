"""Comparisons of a gate for instructions that were compared before (see `reuse`): of several that are compared one
after the other, where most of it is known, and where too little is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from selfinstruct_hub.novelty.encoding import Encoded
from selfinstruct_hub.novelty.gate import Comparison
from selfinstruct_hub.records import Neighbour, Similarity

if TYPE_CHECKING:
    from selfinstruct_hub.novelty.reuse import ReusingGate

# A draw of a round, and a candidate's position in it.
Spot = tuple[int, int]
# A text's place, and its F1.
Scored = tuple[int, float]
_NOTHING = Similarity((), None)


class LetIn(NamedTuple):
    """A task that was let in now, and its place in the whole."""

    key: str
    text: str
    encoded: Encoded | None
    place: int


class Recalled:
    """Several instructions of which most were compared before. As `Comparison`, above the threshold."""

    def __init__(
        self,
        gate: ReusingGate,
        spots: Sequence[Spot],
        instructions: Sequence[str],
        known: Sequence[Sequence[tuple[str, float]] | None],
        unknown: Sequence[int],
    ) -> None:
        self._gate = gate
        self._spots = spots
        self._instructions = instructions
        self._known = known
        self._encoded: list[Encoded | None] = [None] * len(instructions)
        # Compared at once, which is faster: with everything what is not known, the others with what has come.
        self._size = len(gate)
        self._whole: dict[int, list[Scored]] = {}
        if unknown:
            gate._settle()
            queries = [self._query(place) for place in unknown]
            self._whole = dict(zip(unknown, gate._of_all(queries, self._size), strict=True))
        self._won_size = len(gate._won)
        self._won: dict[int, list[Scored]] = {}
        if self._won_size:
            if gate.mode == "fast":
                gate._won_search.settle()
            others = [place for place, one in enumerate(known) if one is not None]
            queries = [self._query(place) for place in others]
            found = gate._won_search.known(queries, self._won_size) if others else []
            self._won = {place: some for place, some in zip(others, found, strict=True) if some}

    def __getitem__(self, place: int) -> Similarity:
        gate = self._gate
        gate._catch_up(self._spots[place])
        known = self._known[place]
        if known and any(key not in gate._there for key, _ in known):
            known = None
        if known is None:
            gate.compared += 1
            return self._compared(place)
        gate.reused += 1
        if len(gate._won) > self._won_size:
            self._look(place)
        came = self._won.get(place, ())
        if not known and not came:
            return _NOTHING
        places = gate._won_places
        found = [(-score, gate._there[key][1], gate._there[key][0]) for key, score in known]
        found += [(-score, places[at], gate._won.ids[at]) for at, score in came]
        found.sort()
        nearest = tuple([Neighbour(key, -score) for score, _, key in found[: gate.most_similar]])
        return Similarity(nearest, None)

    def accept(self, place: int, key: str) -> None:
        """Adds the instruction at `place`, which has had its turn, to the gate under the id `key`."""
        self._gate._accept(self._spots[place], key, self._instructions[place], self._encoded[place])

    def _look(self, place: int) -> None:
        """Compares what has come since with all that have their turn from `place` on, at once."""
        gate, first = self._gate, self._won_size
        self._won_size = len(gate._won)
        left = [at for at in range(place, len(self._known)) if self._known[at] is not None]
        queries = [self._query(at) for at in left]
        some, own = gate._won.between(first, self._won_size), gate._won.lengths(first, self._won_size)
        for which, at, score in gate._won_search.clear(queries, some, own):
            self._won.setdefault(left[which], []).append((at + first, score))

    def _compared(self, place: int) -> Similarity:
        gate = self._gate
        gate._settle()
        found = self._whole.get(place)
        if found is None:
            (found,) = gate._of_all([self._query(place)], len(gate))
        elif len(gate) > self._size:
            some, own = gate._texts.between(self._size, len(gate)), gate._texts.lengths(self._size, len(gate))
            since = gate._won_search.clear([self._query(place)], some, own)
            found = [*found, *((at + self._size, score) for _, at, score in since)]
        ids = gate._texts.ids
        above = sorted((-score, at) for at, score in found if score > gate.threshold)[: gate.most_similar]
        return Similarity(tuple([Neighbour(ids[at], -score) for score, at in above]), None)

    def _query(self, place: int) -> Encoded:
        query = self._encoded[place]
        if query is None:
            query = self._encoded[place] = self._gate._alphabet.encoded(self._instructions[place])
        return query


class Followed(Comparison):
    """Several instructions of which too few were compared before: all of them are compared with everything."""

    def __init__(self, gate: ReusingGate, spots: Sequence[Spot], instructions: Sequence[str]) -> None:
        gate._settle()
        super().__init__(gate, gate._alphabet.encoded_all(instructions))
        self._followed = gate
        self._spots = spots
        self._instructions = instructions

    def accept(self, place: int, key: str) -> None:
        let_in = LetIn(key, self._instructions[place], self._queries[place], len(self._followed))
        self._followed._note(self._spots[place], let_in)
        super().accept(place, key)
