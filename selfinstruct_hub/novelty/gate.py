"""What a judge asks: how near an instruction is to everything that was let in before it.

Two modes with the same verdict. *Full* tells the nearest neighbours and the mean over the pool; *fast* tells only
what is above the threshold, and finds it in a pool of a million in well under a millisecond. The verdict equals
rouge-score's (`rougeL` F-measure, no stemmer) on every pair, given the tokens of `languages`; for plain ASCII
these are rouge-score's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Literal

from selfinstruct_hub.novelty.encoding import Alphabet, Encoded, Texts
from selfinstruct_hub.novelty.scan import FullScan
from selfinstruct_hub.novelty.search import FastSearch
from selfinstruct_hub.records import Neighbour, Similarity

Mode = Literal["full", "fast"]

# A pool up to this size is compared in full where nobody says otherwise: hundreds of candidates a second.
FULL_UP_TO = 50_000
# Below this the bounds of fast mode rule out too little to be worth their while.
_LEAST_THRESHOLD = 0.5
# Instructions of a pool that are encoded together.
_ENCODED = 4096


def mode_for(size: int, threshold: float) -> Mode:
    """How to compare with a pool of `size` instructions where nobody says."""
    return "full" if size <= FULL_UP_TO or threshold < _LEAST_THRESHOLD else "fast"


class NoveltyGate:
    """Instructions that a candidate is compared with. `most_similar` neighbours are reported at most, in fast mode
    only those above `threshold`."""

    def __init__(self, most_similar: int = 10, *, mode: Mode = "full", threshold: float = 0.7) -> None:
        self.mode = mode
        self.threshold = threshold
        self.most_similar = most_similar
        self._alphabet = Alphabet()
        self._texts = Texts()
        self._search: FullScan | FastSearch = (
            FullScan(self._texts, most_similar)
            if mode == "full"
            else FastSearch(self._texts, most_similar, threshold)
        )

    def __len__(self) -> int:
        return len(self._texts)

    def extend(self, instructions: Iterable[tuple[str, str]]) -> None:
        """Adds (id, instruction) pairs to what is compared with; many are indexed faster so than one by one."""
        left = iter(instructions)
        while some := list(islice(left, _ENCODED)):
            encoded = self._alphabet.encoded_all([text for _, text in some])
            for (key, _), text in zip(some, encoded, strict=True):
                self._texts.append(key, text)
        self._search.settle()

    def add(self, key: str, instruction: str) -> None:
        """Adds one instruction under the id `key`."""
        self.extend([(key, instruction)])

    def compare(self, instruction: str, *, among: int | None = None) -> Similarity:
        """The nearest instructions with their scores, ties in the order they were added, and the mean; all of
        them, or the first `among` that were added. In fast mode those above the threshold, and no mean."""
        query = self._alphabet.encoded(instruction)
        end = len(self) if among is None else among
        (known,) = self._search.known([query], end)
        return self._similarity(known, (), {}, end)

    def measured(self, asked: Sequence[tuple[str, int]]) -> list[Similarity]:
        """What full mode would tell, in either mode, of several (instruction, how many of the first are compared
        with): the nearest and the mean."""
        scan = FullScan(self._texts, self.most_similar)
        ends = [end for _, end in asked]
        found = scan.known_each(self._alphabet.encoded_all([text for text, _ in asked]), ends)
        told = []
        for known, end in zip(found, ends, strict=True):
            best, mean = scan.nearest(known, (), {}, end)  # type: ignore[arg-type]
            told.append(
                Similarity(tuple([Neighbour(self._texts.ids[place], score) for place, score in best]), mean)
            )
        return told

    def comparison(self, instructions: Sequence[str]) -> Comparison:
        """The same for several instructions, faster than one by one."""
        return Comparison(self, self._alphabet.encoded_all(instructions))

    def _similarity(self, known: Any, mutual: Any, added: Mapping[int, int], size: int) -> Similarity:
        best, mean = self._search.nearest(known, mutual, added, size)
        ids = self._texts.ids
        return Similarity(tuple([Neighbour(ids[place], score) for place, score in best]), mean)


class Comparison:
    """Several instructions that are compared one after the other, with all that is in the gate when each has its
    turn. What is there already is compared with many at once, and so are they with one another; the result is that
    of `NoveltyGate.compare` to the last bit."""

    def __init__(self, gate: NoveltyGate, queries: Sequence[Encoded]) -> None:
        self._gate = gate
        self._queries = queries
        self._first = self._size = 0
        self._known: Sequence[Any] = ()
        self._mutual: Any = ()
        self._added: dict[int, int] = {}

    def __getitem__(self, place: int) -> Similarity:
        row = place - self._first
        # Anew, too, where something was added to the gate that is not of these.
        if not 0 <= row < len(self._known) or len(self._gate) != self._size + len(self._added):
            self._begin(place)
            row = 0
        return self._gate._similarity(self._known[row], self._mutual[row], self._added, self._size)

    def accept(self, place: int, key: str) -> None:
        """Adds the instruction at `place`, which has had its turn, to the gate under the id `key`."""
        self._added[place - self._first] = len(self._gate)
        self._gate._texts.append(key, self._queries[place])

    def _begin(self, place: int) -> None:
        """Compares those from `place` on, as many as one does at once."""
        search = self._gate._search
        search.settle()
        self._first, self._size, self._added = place, len(self._gate), {}
        queries = self._queries[place : place + search.batch(self._size)]
        self._known, self._mutual = search.together(queries, self._size)
